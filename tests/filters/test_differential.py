"""The compiled filter against a plain evaluator, over random nested data with NULLs: never one row more."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.filters.evaluator import passes
from vault.filters import Filter, ShardStatistics, bind, collect_stats, parse
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
@given(shards=st.lists(_ROWS, min_size=1, max_size=3), node=_NODES)
def test_the_compiled_filter_keeps_the_same_rows(shards: list[list[dict[str, Any]]], node: Node) -> None:
    """Every row that the filter keeps is one that SQL keeps, and the other way about; pruning drops none."""
    condition = Filter(node)
    bound = bind(condition, _SCHEMA)
    kept, tables = [], [_table(rows) for rows in shards]
    for rows, table in zip(shards, tables, strict=True):
        numbered = table.append_column("#", pa.array(range(len(rows)), pa.int64()))
        kept.append(bound.apply(numbered).column("#").to_pylist())
        assert kept[-1] == [index for index, row in enumerate(rows) if passes(node, row, _SCHEMA) is True]
    collected = {name: [collect_stats(table.column(name)) for table in tables] for name in _SCHEMA.names}
    statistics = ShardStatistics(
        pa.array([len(rows) for rows in shards], pa.int64()),
        {name: pa.concat_arrays(found) for name, found in collected.items() if None not in found},
    )
    may = bound.may_match(statistics).to_pylist()
    assert len(may) == len(shards)
    assert all(may or not rows for may, rows in zip(may, kept, strict=True))


@settings(max_examples=200, deadline=None)
@given(row=_FLAT, node=_leaves())
def test_pruning_is_exact_for_a_shard_of_one_row(row: dict[str, Any], node: Node) -> None:
    """Bounds that meet tell all that there is to know, for the filter and for its negation."""
    assume(isinstance(node, Compare | In | IsNull) and _simple(node))
    table = _table([{**row, "dict": None, "meta": None}])
    statistics = ShardStatistics(
        pa.array([1], pa.int64()),
        {name: found for name in _SCHEMA.names if (found := collect_stats(table.column(name))) is not None},
    )
    for tree in (node, Not(node)):
        bound = bind(Filter(tree), _SCHEMA)
        assert bound.may_match(statistics).to_pylist() == [passes(tree, row, _SCHEMA) is True]


def _simple(node: Compare | In | IsNull) -> bool:
    """Of one top-level column whose bounds are known, with a literal; a list with NULL in it may be unknown."""
    paths = [node.left, node.right] if isinstance(node, Compare) else [node.path]
    columns = [path for path in paths if isinstance(path, Path)]
    listed_null = isinstance(node, In) and node.with_null
    return (
        len(columns) == 1
        and len(columns[0].names) == 1
        and columns[0].names[0] not in {"f64", "dict"}
        and not listed_null
    )


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
