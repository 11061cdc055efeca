"""What polars asks of a lazy frame is the same whatever of it was pushed down, for every type, null and NaN."""

import datetime as dt
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.conftest import Lab
from vault.errors import InvalidInput
from vault.filters import bind, parse
from vault.readers import Readers
from vault.readers.conditions import all_of
from vault.readers.polars import _tree
from vault.readers.predicates import pushed

_UTC = dt.UTC
_TIMES = [dt.datetime(2026, 1, 31, 12, 30, 15), dt.datetime(1969, 12, 31, 23, 59, 59), None, dt.datetime(1970, 1, 1)]
_FINE = [dt.datetime(2026, 1, 31, 12, 30, 15, 123456), dt.datetime(1969, 12, 31, 23, 59, 59, 999999), None, _TIMES[0]]
_DOUBLES = [0.1, math.nan, -0.0, 0.0, None, math.inf, -math.inf, 1e-7, 1e23, 2.0**53, -1.5, 5e-324]
_TEXTS = ["a", "b%", "it's", "", None, 'say "x"', "a_c", "zwölf", "back\\slash", "-- no", "(", "B"]


def _column(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    return pa.array([values[number % len(values)] for number in range(48)], kind)


def _zoned(values: Sequence[Any]) -> list[Any]:
    return [None if value is None else value.replace(tzinfo=_UTC) for value in values]


_NESTED = [
    {"n": 1, "t": "x", "in": {"f": 0.5}},
    None,
    {"n": None, "t": None, "in": None},
    {"n": 3, "t": "y", "in": {"f": math.nan}},
]
_TABLE = pa.table(
    {
        "row": pa.array(range(48)),
        "i8": _column(pa.int8(), [-128, 0, None, 127, 5]),
        "i64": _column(pa.int64(), [2**63 - 1, -(2**63), None, 0, 1, 2**53 + 1]),
        "u64": _column(pa.uint64(), [2**64 - 1, 0, None, 7]),
        "f": _column(pa.float64(), _DOUBLES),
        "f32": _column(pa.float32(), [0.1, math.nan, -0.0, None, 16777217.0, math.inf, 1.5]),
        "s": _column(pa.string(), _TEXTS),
        "view": _column(pa.string_view(), _TEXTS[::-1]),
        "b": _column(pa.bool_(), [True, False, None]),
        "d": _column(pa.date32(), [dt.date(2026, 1, 31), None, dt.date(1969, 12, 31), dt.date(1, 1, 1)]),
        "ts": _column(pa.timestamp("s"), _TIMES),
        "us": _column(pa.timestamp("us"), _FINE),
        "ns": _column(pa.timestamp("ns", "UTC"), _zoned(_FINE)),
        "tokyo": _column(pa.timestamp("ms", "Asia/Tokyo"), _zoned(_TIMES)),
        "dec": _column(pa.decimal128(10, 2), [Decimal("1.25"), Decimal("-99999999.99"), None, Decimal("0.00")]),
        "cat": _column(pa.string(), ["a", "b", None]).dictionary_encode(),
        "st": _column(
            pa.struct([("n", pa.int64()), ("t", pa.string()), ("in", pa.struct([("f", pa.float64())]))]), _NESTED
        ),
        'odd."name': _column(pa.int32(), [1, 2, None]),
    }
)


class _Filtering(Readers):
    """Rows in memory, filtered as a broker filters them; it keeps what it was asked for."""

    def __init__(self, table: pa.Table = _TABLE) -> None:
        self.table = table
        self.asked: list[dict[str, Any]] = []

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def scan(
        self, columns: Any = None, where: str | None = None, limit: int | None = None, **_: Any
    ) -> pa.RecordBatchReader:
        self.asked.append({"columns": columns, "where": where, "limit": limit})
        kept = self.table if where is None else bind(parse(where), self.table.schema).apply(self.table)
        return kept.slice(0, limit).select(columns or kept.column_names).to_reader(max_chunksize=7)


def _operands() -> st.SearchStrategy[tuple[pl.Expr, Any]]:
    """A column, or a field, and a value that may be beside it."""
    col = pl.col
    near = [1, 0, -1, 127, 128, 300, 2**53 + 1, 2**63 - 1, -(2**63), 0.5, 3]
    moments = [each for each in _FINE + _TIMES if each is not None]
    aware = [each.replace(tzinfo=_UTC) for each in moments]
    tokyo = [each.astimezone(dt.timezone(dt.timedelta(hours=9))) for each in aware]
    doubles = [each for each in _DOUBLES if each is not None] + [16777217.0, 3, 0.30000001192092896]
    numbers = [Decimal("1.25"), Decimal("1.251"), Decimal(0), Decimal("123456789.1"), 1, -5]
    texts = [each for each in _TEXTS if each is not None] + ["bb", "A"]
    pairs: list[tuple[pl.Expr, list[Any]]] = [
        (col("i8"), near), (col("i64"), near), (col("u64"), [*near[:7], 2**64 - 1]),
        (col("f"), doubles), (col("f32"), [*doubles, 0.1]),
        (col("s"), texts), (col("view"), texts), (col("b"), [True, False]),
        (col("d"), [dt.date(2026, 1, 31), dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
        (col("ts"), moments), (col("us"), moments), (col("ns"), aware), (col("tokyo"), tokyo),
        (col("dec"), numbers), (col("cat"), ["a", "b", "c"]), (col('odd."name'), near[:3]),
        (col("st").struct.field("n"), near), (col("st").struct.field("t"), ["x", "y", ""]),
        (col("st").struct.field("in").struct.field("f"), [0.5, math.nan, 1.0]),
    ]  # fmt: skip
    return st.sampled_from(pairs).flatmap(lambda pair: st.tuples(st.just(pair[0]), st.sampled_from(pair[1])))


def _single(operand: tuple[pl.Expr, Any], how: str, other: Any) -> pl.Expr:
    column, value = operand
    if value in {"a", "b", "c"} and str(column) == 'col("cat")' and how not in {"==", "!=", "eq_missing"}:
        how = "=="
    match how:
        case "<" | "<=" | ">" | ">=" | "==" | "!=":
            return {"<": column < value, "<=": column <= value, ">": column > value}.get(
                how, {">=": column >= value, "==": column == value, "!=": column != value}.get(how)
            )
        case "mirrored":
            return pl.lit(value) < column
        case "eq_missing":
            return column.eq_missing(value)
        case "ne_missing":
            return column.ne_missing(value)
        case "null":
            return column.is_null()
        case "notnull":
            return column.is_not_null()
        case "in":
            return column.is_in([value])
        case "between":
            return column.is_between(value, value, closed=other)
        case "starts" if isinstance(value, str):
            return column.str.starts_with(value)
        case "ends" if isinstance(value, str):
            return column.str.ends_with(value)
        case _:
            return pl.col("b")


_HOW = st.sampled_from(
    [
        *("<", "<=", ">", ">=", "==", "!=", "mirrored", "eq_missing", "ne_missing"),
        *("null", "notnull", "in", "between", "starts", "ends", "bare"),
    ]
)
_LEAF = st.builds(_single, _operands(), _HOW, st.sampled_from(["both", "left", "right", "none"]))
_PREDICATES = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.builds(lambda left, right: left & right, inner, inner),
        st.builds(lambda left, right: left | right, inner, inner),
        st.builds(lambda item: ~item, inner),
        st.builds(lambda left, right: left & (pl.col("row") % 3 == right % 3), inner, st.integers(0, 2)),
    ),
    max_leaves=6,
)
_EAGER = pl.DataFrame(_TABLE)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(_PREDICATES)
def test_a_query_is_the_same_whatever_is_pushed_down(predicate: pl.Expr) -> None:
    """Of generated predicates over every type, what comes is what polars itself keeps of all rows."""
    try:
        truth = _EAGER.filter(predicate)
    except pl.exceptions.PolarsError:
        return  # polars does not compare those two
    source = _Filtering()
    assert_frame_equal(source.scan_polars().filter(predicate).collect(), truth)
    narrow = source.scan_polars().filter(predicate).select("row", "s").collect()
    assert_frame_equal(narrow, truth.select("row", "s"))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(_PREDICATES)
def test_what_is_pushed_down_keeps_exactly_the_rows_that_polars_keeps(predicate: pl.Expr) -> None:
    """Where a predicate was translated as a whole, the rows that the condition leaves are those and no others."""
    try:
        _EAGER.filter(predicate)
    except pl.exceptions.PolarsError:
        return
    found: list[Any] = []

    def seen(_columns: Any, asked: pl.Expr | None, _rows: Any, _size: Any) -> Any:
        found.append(asked)
        yield _EAGER.clear()

    pl.io.plugins.register_io_source(seen, schema=_EAGER.schema).filter(predicate).collect()
    for asked in found:
        translated = pushed(_tree(asked), _TABLE.schema, 4000) if asked is not None else None
        if translated is not None and translated.whole and translated.conditions:
            where = all_of(translated.conditions)
            assert where is not None
            kept = bind(parse(where), _TABLE.schema).apply(_TABLE)
            # polars may keep a part of it to itself.
            assert kept["row"].to_pylist() == _EAGER.filter(asked)["row"].to_list()


def test_a_query_of_a_published_version_is_the_same(lab: Lab) -> None:
    """The same where shards are ruled out by their statistics and columns are read one by one."""
    lab.vault.publish("evals", _TABLE, key="row", shard_rows=16)
    dataset = lab.vault.dataset("evals")

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_PREDICATES)
    def check(predicate: pl.Expr) -> None:
        try:
            truth = _EAGER.filter(predicate)
        except pl.exceptions.PolarsError:
            return
        assert_frame_equal(dataset.scan_polars().filter(predicate).collect(), truth)

    check()


_c = pl.col
#: A predicate, and the condition that it is pushed down as; None for one that stays with polars.
_PUSHED: list[tuple[pl.Expr, str | None]] = [
    (_c("i64") == 3, '"i64" = 3'),
    (pl.lit(3) < _c("i64"), '"i64" > 3'),
    (_c("i8") > 300, None),
    (_c("i64") > 0.5, None),
    (_c("u64") != 2**64 - 1, '"u64" <> 18446744073709551615'),
    (_c("f") < 0.5, '"f" < 0.5'),
    (_c("f") >= 0.5, 'NOT ("f" < 0.5)'),
    (_c("f") > -0.0, 'NOT ("f" <= 0)'),
    (_c("f") == 1e23, '"f" = 99999999999999991611392'),
    (_c("f") == 1e-7, '"f" = 0.0000001'),
    (_c("f").eq(math.nan), None),
    (_c("f") < math.inf, None),
    (_c("f32") == 0.1, '"f32" = 0.10000000149011612'),
    (_c("s") == "it's", "\"s\" = 'it''s'"),
    (_c("s").str.starts_with("a_"), "\"s\" LIKE 'a\\_%'"),
    (_c("s").str.ends_with("%"), "\"s\" LIKE '%\\%'"),
    (_c("s").str.contains("a"), None),
    (_c("view").is_in(["a", "b"]), "\"view\" IN ('a', 'b')"),
    (_c("view").is_in(["a", None]), None),
    (_c("b"), '"b" = TRUE'),
    (~_c("b"), 'NOT ("b" = TRUE)'),
    (_c("d") >= dt.date(2026, 1, 31), "\"d\" >= '2026-01-31'"),
    (_c("ts") > dt.datetime(2026, 1, 31, 12), "\"ts\" > '2026-01-31 12:00:00'"),
    (_c("us") > _FINE[0], "\"us\" > '2026-01-31 12:30:15.123456'"),
    (_c("ns") >= _zoned(_FINE)[0], "\"ns\" >= '2026-01-31 12:30:15.123456000Z'"),
    (_c("dec") < Decimal("1.5"), '"dec" < 1.5'),
    (_c("dec") < Decimal("1.255"), None),
    (_c("cat") == "a", "\"cat\" = 'a'"),
    (_c("cat") < "b", None),
    (_c("st").struct.field("t") == "x", '"st"."t" = \'x\''),
    (_c("st").struct.field("in").struct.field("f") <= 0.5, '"st"."in"."f" <= 0.5'),
    (_c("i64").eq_missing(1), '("i64" IS NOT NULL) AND ("i64" = 1)'),
    (_c("i64").is_between(1, 5, closed="left"), '("i64" >= 1) AND ("i64" < 5)'),
    ((_c("i64") == 1) | _c("s").is_null(), '("i64" = 1) OR ("s" IS NULL)'),
    (_c('odd."name') == 1, '"odd.""name" = 1'),
    (_c("i64") == _c("row"), None),
]


@pytest.mark.parametrize(("predicate", "condition"), _PUSHED, ids=lambda value: str(value)[:40])
def test_what_is_pushed_down(predicate: pl.Expr, condition: str | None) -> None:
    """Comparisons with a value of the column's own type are; what would be read otherwise stays, and is right too."""
    source = _Filtering()
    got = source.scan_polars().filter(predicate).collect()
    assert_frame_equal(got, _EAGER.filter(predicate))
    assert [asked["where"] for asked in source.asked] == [f"({condition})" if condition is not None else None]


def test_only_the_columns_of_a_query_are_asked_for() -> None:
    """Those that are selected and those of the predicate, and what has no columns asks for one."""
    source = _Filtering()
    source.scan_polars().filter(pl.col("i64") == 1).select("s").collect()
    source.scan_polars().select(pl.len()).collect()
    assert sorted(source.asked[0]["columns"]) == ["i64", "s"]
    assert len(source.asked[1]["columns"]) == 1


def test_a_number_of_rows_goes_down_and_no_condition_goes_before_it() -> None:
    """Of the first ten rows those that are kept are not the first ten that are kept."""
    source = _Filtering()
    frame = source.scan_polars()
    for query in (
        lambda lazy: lazy.head(5).filter(pl.col("row") > 2),
        lambda lazy: lazy.filter(pl.col("row") > 2).head(5),
    ):
        assert_frame_equal(query(frame).collect(), query(_EAGER.lazy()).collect())
    assert (source.asked[0]["limit"], source.asked[0]["where"]) == (5, None)
    assert (source.asked[1]["limit"], source.asked[1]["where"]) == (None, '("row" > 2)')


def test_a_function_of_the_callers_own_stays_with_polars() -> None:
    """Nobody else can evaluate it; what stands beside it is pushed down where it can be told apart."""
    source = _Filtering()
    own = pl.col("row").map_batches(lambda values: values > 40, return_dtype=pl.Boolean)
    assert source.scan_polars().filter(own).collect().height == 7
    assert source.asked[-1]["where"] is None


def test_a_long_condition_is_pushed_down_in_part() -> None:
    """What a broker would not take for its length stays with polars."""
    source = _Filtering()
    many = [pl.col("s") != "x" * 300 + str(number) for number in range(30)]
    got = source.scan_polars().filter(*many).collect()
    assert_frame_equal(got, _EAGER.filter(*many))
    (asked,) = source.asked
    assert 2000 < len(asked["where"]) < 4096


def test_a_condition_of_columns_that_are_masked_stays_with_polars() -> None:
    """A broker refuses it, since it would tell what the mask hides."""

    class Masked(_Filtering):
        def unsearchable(self, **_: Any) -> frozenset[str]:
            return frozenset({"s"})

    source = Masked()
    source.scan_polars().filter((pl.col("s") == "a") & (pl.col("i64") == 0)).collect()
    assert source.asked[0]["where"] == '("i64" = 0)'


# Text conditions

_PIECES = [
    *("row", " ", "=", "1", "'", '"', "(", ")", " OR ", " AND ", " NOT ", "--", "/*", "*/", ";", "''", "\n", "s", "a"),
    *("\\", "row = 1", "s = 'a'", "b", ",", " IN ", "{{", "$$", "`", "IS NULL", "\0", "e'", "x'", "N'"),
]
_SOUP = st.lists(
    st.sampled_from(_PIECES),
    min_size=1,
    max_size=9,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(_SOUP, _SOUP)
def test_two_conditions_are_both_or_refused(left: str, right: str) -> None:
    """Whatever the texts hold, the two joined say just what each says by itself, or nothing at all."""
    try:
        joined = parse(all_of([left, right]) or "")
    except InvalidInput:
        return
    apart = [parse(f"({text})").text() for text in (left, right)]
    assert joined == parse(" AND ".join(f"({text})" for text in apart))


@pytest.mark.parametrize(
    "text",
    ["row = 1) OR (row = 2", "(row = 1", "s = 'a", 's = "a', "row = 1 -- ", "row = 1 /* ", "row = 1;", "", "  ", ")("],
)
def test_a_condition_that_is_left_open_is_refused(text: str) -> None:
    """It could end the parentheses that it is put in, and say something of the condition beside it."""
    lazy = _Filtering().lazy().where("row > 0")
    with pytest.raises(InvalidInput, match="^where: "):
        lazy.where(text)


def test_a_lazy_scan_is_put_together_step_by_step() -> None:
    """Each step is a new one; columns, conditions and limit go into one scan."""
    source = _Filtering()
    whole = source.lazy()
    chosen = whole.select("row", "s").where("row > 3").where("row < 30 OR s IS NULL").limit(9).limit(5)
    assert source.asked == []
    assert chosen.collect()["row"].to_pylist() == [4, 5, 6, 7, 8]
    assert source.asked == [{"columns": ["row", "s"], "where": "(row > 3) AND (row < 30 OR s IS NULL)", "limit": 5}]
    assert chosen.schema.names == ["row", "s"]
    assert whole.to_arrow().num_rows == 48
    assert pl.DataFrame(chosen).shape == (5, 2)
    assert chosen.to_pandas().shape == (5, 2)
    assert chosen.lazy() is chosen


def test_a_lazy_frame_of_a_lazy_scan_keeps_what_was_said() -> None:
    """A query's condition is added, and none is once there is a limit."""
    source = _Filtering()
    some = source.lazy().select("row", "i64").where("row > 3")
    assert some.scan_polars().filter(pl.col("i64") == 0).select("row").collect()["row"].to_list() == [
        9,
        15,
        21,
        27,
        33,
        39,
        45,
    ]
    assert source.asked[-1]["where"] == '(row > 3) AND (("i64" = 0))'
    few = some.limit(8)
    assert few.scan_polars().filter(pl.col("i64") == 0).select("row").collect()["row"].to_list() == [9]
    assert (source.asked[-1]["where"], source.asked[-1]["limit"]) == ("row > 3", 8)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (lambda lazy: lazy.select(), "columns: name at least one column, and none twice"),
        (lambda lazy: lazy.select("row", "row"), "columns: name at least one column, and none twice"),
        (lambda lazy: lazy.select("row").select("s"), "columns: what was selected before does not have all of them"),
        (lambda lazy: lazy.limit(-1), "limit: give a whole number of rows"),
        (lambda lazy: lazy.limit(True), "limit: give a whole number of rows"),
        (lambda lazy: lazy.limit(3).where("row = 1"), "where: a condition goes before the limit"),
        (lambda lazy: lazy.where("s = 'a' OR " * 400).where("row = 1"), "where: the conditions together are longer"),
        (lambda lazy: lazy.scan_polars(where="row = 1"), "where: say it in the query"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step: Any, sentence: str) -> None:
    """In one sentence that names it, when it is taken."""
    with pytest.raises(InvalidInput) as refused:
        step(_Filtering().lazy())
    assert str(refused.value).startswith(sentence)
