"""The compiled filter against a plain evaluator, over random nested data with NULLs: never one row more."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.filters.evaluator import passes
from vault.filters import Filter, bind, collect_stats, parse, stats_from_json, stats_to_json
from vault.filters.tree import And, Compare, In, IsNull, Like, Literal, Node, Not, Or, Path

_TEXTS = ["", "a", "A", "ab", "b%", "a_c", "ä", "\n", "a\\", "zz"]
_ZONED = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

#: Column name -> type, values, and literals that its type holds.
_COLUMNS: dict[str, tuple[pa.DataType, list[Any], list[Literal]]] = {
    "i8": (pa.int8(), [-128, -1, 0, 1, 127], [Literal("number", text) for text in ("-128", "0", "1", "1e1", "127.0")]),
    "u64": (pa.uint64(), [0, 1, 2**63, 2**64 - 1], [Literal("number", text) for text in ("0", str(2**64 - 1))]),
    "f64": (
        pa.float64(),
        [0.0, -0.0, 0.1, 1.5, float("inf"), float("nan")],
        [Literal("number", text) for text in ("0", "-0.0", "0.1", "1.5")],
    ),
    "f32": (pa.float32(), [0.0, 0.5, 1.5], [Literal("number", text) for text in ("0.1", "0.5", "1.5")]),
    "dec": (pa.decimal128(6, 2), [Decimal("1.10"), Decimal("-2"), Decimal("0")], [Literal("number", "1.1"), Literal("number", "-2")]),
    "text": (pa.string(), _TEXTS, [Literal("text", text) for text in _TEXTS]),
    "view": (pa.string_view(), _TEXTS, [Literal("text", text) for text in _TEXTS]),
    "a.b": (pa.large_string(), _TEXTS, [Literal("text", text) for text in _TEXTS]),
    "flag": (pa.bool_(), [True, False], [Literal("truth", "TRUE"), Literal("truth", "FALSE")]),
    "day": (pa.date32(), [dt.date(2026, 1, 1), dt.date(1969, 12, 31)], [Literal("text", "2026-01-01"), Literal("text", "1970-01-01")]),
    "when": (
        pa.timestamp("us", "UTC"),
        [_ZONED, _ZONED + dt.timedelta(microseconds=1)],
        [Literal("text", "2026-01-01T00:00:00Z"), Literal("text", "2026-01-01 01:00:00.000001+01:00")],
    ),
}  # fmt: skip
_STRUCT = pa.struct([(name, kind) for name, (kind, _, _) in _COLUMNS.items()])
_SCHEMA = pa.schema(
    [(name, kind) for name, (kind, _, _) in _COLUMNS.items()]
    + [("dict", pa.dictionary(pa.int8(), pa.string())), ("meta", _STRUCT)]
)


def _nullable(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(values)


_FLAT = st.fixed_dictionaries({name: _nullable(values) for name, (_, values, _) in _COLUMNS.items()})
_ROWS = st.lists(
    st.builds(
        lambda flat, text, meta: {**flat, "dict": text, "meta": meta}, _FLAT, _nullable(_TEXTS), st.none() | _FLAT
    ),
    max_size=12,
)
_PATHS = [((name,), name) for name in _COLUMNS] + [(("meta", name), name) for name in _COLUMNS] + [(("dict",), "text")]


@st.composite
def _leaves(draw: st.DrawFn) -> Node:
    names, column = draw(st.sampled_from(_PATHS))
    path, (kind, _, literals) = Path(names), _COLUMNS[column]
    shape = draw(st.sampled_from(["compare", "mirrored", "in", "null", "like", "columns"]))
    operators = ["=", "<>"] if pa.types.is_boolean(kind) else ["=", "<>", "<", "<=", ">", ">="]
    if shape == "null":
        return IsNull(path)
    if shape == "in":
        values = tuple(draw(st.lists(st.sampled_from(literals), max_size=3)))
        return In(path, values, draw(st.booleans()) or not values)
    if shape == "like" and column in {"text", "view", "a.b"}:
        return Like(path, draw(st.sampled_from(["", "%", "_", "a%", "%b\\%", "a\\_c", "_%", "%\n%", "ä"])))
    if shape == "columns":
        return Compare(draw(st.sampled_from(operators)), path, Path(("meta", column)))
    return Compare(draw(st.sampled_from(operators)), path, draw(st.sampled_from(literals)))


_NODES = st.recursive(
    _leaves(),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Two chunks, the second sliced, so that offsets and differing dictionaries are met."""
    plain = pa.schema([field if field.name != "dict" else pa.field("dict", pa.string()) for field in _SCHEMA])

    def part(some: list[dict[str, Any]]) -> pa.Table:
        table = pa.Table.from_pylist(some, schema=plain)
        encoded = table.column("dict").combine_chunks().dictionary_encode().cast(_SCHEMA.field("dict").type)
        return table.set_column(table.schema.get_field_index("dict"), _SCHEMA.field("dict"), encoded)

    half = len(rows) // 2
    return pa.concat_tables([part(rows[:half]), part([*rows[:1], *rows[half:]]).slice(1 if rows else 0)])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=_ROWS, node=_NODES)
def test_the_compiled_filter_keeps_the_same_rows(rows: list[dict[str, Any]], node: Node) -> None:
    """Every row that the filter keeps is one that SQL keeps, and the other way about; pruning drops none."""
    condition = Filter(node)
    bound = bind(condition, _SCHEMA)
    numbered = _table(rows).append_column("#", pa.array(range(len(rows)), pa.int64()))
    kept = bound.apply(numbered).column("#").to_pylist()
    assert kept == [index for index, row in enumerate(rows) if passes(node, row, _SCHEMA) is True]
    statistics = {
        name: stats_from_json(stats_to_json(found))
        for name in _SCHEMA.names
        if (found := collect_stats(numbered.column(name))) is not None
    }
    assert bound.may_match(statistics) or not kept


@settings(max_examples=200, deadline=None)
@given(node=_NODES)
def test_text_and_json_give_the_filter_back(node: Node) -> None:
    """A filter's JSON is the filter again, and so is its text once it is in normal form."""
    condition = Filter(node)
    assert Filter.from_json(condition.to_json()) == condition
    normal = parse(condition.text()) if len(condition.text()) <= 4096 else condition
    if len(normal.text()) <= 4096:
        assert parse(normal.text()) == normal
    renamed = condition.rename({name: f"id-{name}" for name in _SCHEMA.names})
    assert renamed.rename({f"id-{name}": name for name in _SCHEMA.names}) == condition
