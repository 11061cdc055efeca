"""What a vendor sends back stands in no reader's way: of types and values that one of them cannot read, none is accepted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.submitting import Desk, labels
from tests.support.tables import TYPES, rows
from vault import incoming, sinks
from vault.errors import InvalidInput

#: Days before 1970 of the first of January in the year 1, and after it of the last day of the year 9999.
FIRST, LAST = -719_162, 2_932_896
DAY = 86_400
SHAPE = {"ARROW:extension:name": "geoarrow.wkb", "ARROW:extension:metadata": "{}"}


def _cast(numbers: list[Any], through: pa.DataType, kind: pa.DataType) -> pa.Array:
    return pa.array(numbers, through).cast(kind)


def _days(*numbers: int) -> pa.Array:
    return _cast(list(numbers), pa.int32(), pa.date32())


def _times(unit: str, *numbers: int, zone: str | None = None) -> pa.Array:
    return _cast(list(numbers), pa.int64(), pa.timestamp(unit, zone))


def _spans(unit: str, *numbers: int) -> pa.Array:
    return _cast(list(numbers), pa.int64(), pa.duration(unit))


def _struct(*names: str) -> pa.Array:
    fields = [pa.field(name, pa.int64()) for name in names]
    return pa.StructArray.from_arrays([pa.array([1, 2])] * len(names), fields=fields)


def _deep(levels: int) -> pa.Array:
    kind = pa.int8()
    for _ in range(levels):
        kind = pa.list_(kind)
    return pa.array([None, None], kind)


_CALENDAR = "a day before the year 1 or after 9999"
_LONG = "a duration of more microseconds than 64 bits number"
_DAYS_12000 = pa.list_(pa.int32()), pa.list_(pa.date32())
#: A column of two rows, of which the second is at fault.
VALUES: dict[str, tuple[Callable[[], pa.Array], str]] = {
    "a day of the year 12000": (lambda: _days(0, 3_663_000), _CALENDAR),
    "a day of the year 0": (lambda: _days(0, FIRST - 1), _CALENDAR),
    "a day of the year 12000 in ms": (lambda: _cast([0, 3_663_000 * DAY * 1000], pa.int64(), pa.date64()), _CALENDAR),
    "a time of the year 300000": (lambda: _times("us", 0, 2**63 - 2), _CALENDAR),
    "a time of the year 10000": (lambda: _times("s", 0, (LAST + 1) * DAY), _CALENDAR),
    "a time of the year 0": (lambda: _times("ms", 0, FIRST * DAY * 1000 - 1), _CALENDAR),
    "a time of 10000 where it is": (lambda: _times("s", 0, (LAST + 1) * DAY - 1, zone="+02:00"), _CALENDAR),
    "a time of the year 0 where it is": (lambda: _times("s", 0, FIRST * DAY, zone="-05:00"), _CALENDAR),
    "a duration beyond Python": (lambda: _spans("s", 0, 2**62), _LONG),
    "a duration beyond DuckDB": (lambda: _spans("ms", 0, -(2**63) // 1000 - 1), _LONG),
    "nanoseconds of a day": (
        lambda: _cast([0, 86_399_999_999_999], pa.int64(), pa.time64("ns")),
        "a time of day that is no whole microsecond",
    ),
    "in a list": (lambda: _cast([[0], [1, 3_663_000]], *_DAYS_12000), _CALENDAR),
    "in a list of fixed size": (
        lambda: _cast([[0], [3_663_000]], pa.list_(pa.int32(), 1), pa.list_(pa.date32(), 1)),
        _CALENDAR,
    ),
    "in a struct in a list": (
        lambda: pa.array([[{"a": 0}], [None, {"a": 2**62}]], pa.list_(pa.struct([("a", pa.duration("s"))]))),
        _LONG,
    ),
    "in a map": (lambda: pa.array([[("a", 0)], [("b", 2**62)]], pa.map_(pa.string(), pa.duration("s"))), _LONG),
    "in the keys of a map": (
        lambda: _cast([[(0, 1)], [(3_663_000, 1)]], pa.map_(pa.int32(), pa.int8()), pa.map_(pa.date32(), pa.int8())),
        _CALENDAR,
    ),
    "in a dictionary": (lambda: _days(0, 3_663_000).dictionary_encode(), _CALENDAR),
    "in a dictionary in a list": (
        lambda: pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), _days(0, 3_663_000).dictionary_encode()),
        _CALENDAR,
    ),
    "a key of a map twice": (
        lambda: pa.array([[("a", 1), ("b", 1)], [("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int8())),
        "a map with one key twice",
    ),
    "a key twice in a list of maps": (
        lambda: pa.array([None, [[], [(1, 1), (1, 2)]]], pa.list_(pa.map_(pa.int8(), pa.int8()))),
        "a map with one key twice",
    ),
}  # fmt: skip

_UNKNOWN = "which some readers do not know"
#: A column that is refused by its type, whatever is in it.
KINDS: dict[str, tuple[Callable[[], pa.Array], str]] = {
    "no zone": (lambda: _times("s", 0, 0, zone="../../etc/passwd"), "has times in the zone '../../etc/passwd', which is none"),
    "no zone within": (
        lambda: pa.array([None, None], pa.list_(pa.struct([("at", pa.timestamp("s", "No/Zone"))]))),
        "has times in the zone 'No/Zone', which is none",
    ),
    "fields of one name": (lambda: _struct("a", "a"), "its fields: the column name 'a' stands twice"),
    "fields of one name but for case": (lambda: _struct("a", "A"), "differ only in case"),
    "a field without a name": (lambda: _struct(""), "its fields: column 1 has an empty name"),
    "a long name": (lambda: _struct("a" * 1001), "has a field with a name of more than 1,000 characters"),
    "fields of one name within": (
        lambda: pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), _struct("a", "a")),
        "its fields: the column name 'a' stands twice",
    ),
    "decimals of 256 bits": (lambda: pa.array([1, 2], pa.decimal256(70)), _UNKNOWN),
    "half floats": (lambda: pa.array([[1.0], None], pa.list_(pa.float16())), _UNKNOWN),
    "list views": (lambda: pa.array([[1], None], pa.list_view(pa.int8())), _UNKNOWN),
    "large list views": (lambda: pa.array([[1], None], pa.large_list_view(pa.int8())), _UNKNOWN),
    "a dictionary of numbers that are none": (
        lambda: pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array([1.0, float("nan")])),
        _UNKNOWN,
    ),
    "maps by floats": (lambda: pa.array([[(1.0, 1)], []], pa.map_(pa.float64(), pa.int8())), _UNKNOWN),
    "maps by lists": (lambda: pa.array([[([1], 1)], []], pa.map_(pa.list_(pa.int8()), pa.int8())), _UNKNOWN),
    "JSON that is none": (
        lambda: pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{", None])),
        "has the extension type arrow.json: send what it stands for as text, bytes or numbers",
    ),
    "an extension type within": (
        lambda: pa.array([[b"x" * 16], None], pa.list_(pa.binary(16))).cast(pa.list_(pa.uuid())),
        "has the extension type arrow.uuid",
    ),
    "too many levels": (lambda: _deep(20), "is nested more than 20 levels deep"),
}  # fmt: skip


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _table(column: pa.Array) -> pa.Table:
    return pa.table({"id": pa.array([0, 2], pa.int64()), "label": column})


@pytest.mark.parametrize("what", VALUES)
def test_values_that_a_reader_has_no_form_for_are_refused(what: str) -> None:
    """The sentence names the row and the column."""
    make, fault = VALUES[what]
    with pytest.raises(InvalidInput, match=f"^row 2: the column 'label' has {fault}$"):
        incoming.check_labels(_table(make()))
    incoming.check_labels(_table(make()).slice(0, 1))


@pytest.mark.parametrize("what", KINDS)
def test_types_that_a_reader_does_not_know_are_refused(what: str) -> None:
    """Whatever values are in the column; the sentence names it."""
    make, why = KINDS[what]
    with pytest.raises(InvalidInput, match=f"^the column 'label'.*{why}"):
        incoming.check_labels(_table(make()))


@pytest.mark.parametrize("what", ["a day of the year 12000", "in a struct in a list", "fields of one name", "no zone"])
def test_what_a_reader_cannot_read_is_refused_on_both_sides(desk: Desk, what: str) -> None:
    """By the vendor's client before it sends, and by the owner where a client did not; `show` says why."""
    make, why = {**VALUES, **KINDS}[what]
    with pytest.raises(InvalidInput, match=why):
        desk.submit(_table(make()))
    assert desk.bodies == []
    identity = desk.smuggle(_table(make()))
    assert why in str(desk.lab.vault.submission(identity).problem)
    with pytest.raises(InvalidInput, match=why):
        desk.lab.vault.accept_submission(identity)
    assert desk.lab.vault.show("evals").versions[-1].version == 1


def test_what_is_nested_too_deep_is_refused_on_both_sides(desk: Desk) -> None:
    """Before it is decoded, which no reader of Parquet may do of fifty levels."""
    for levels in (20, 60):
        with pytest.raises(InvalidInput, match="is nested more than 20 levels deep"):
            desk.submit(_table(_deep(levels)))
        with pytest.raises(InvalidInput, match="is nested more than 20 levels deep"):
            desk.lab.vault.accept_submission(desk.smuggle(_table(_deep(levels))))


NOT_TAKEN = {"half", "decimal256", "uuid", "json"}
#: What comes back as it is: the edges of what is let through, and every type of the tests' but those that are not.
TAKEN: dict[str, Callable[[], pa.Array]] = {
    "days": lambda: _days(FIRST, LAST),
    "seconds": lambda: _times("s", FIRST * DAY, (LAST + 1) * DAY - 1),
    "microseconds": lambda: _times("us", FIRST * DAY * 10**6, (LAST + 1) * DAY * 10**6 - 1),
    "UTC": lambda: _times("us", FIRST * DAY * 10**6, (LAST + 1) * DAY * 10**6 - 1, zone="UTC"),
    "nanoseconds": lambda: _times("ns", -(2**63) + 1, 2**63 - 1),
    "spans": lambda: _spans("s", (2**63 - 1) // 10**6, -(2**63 - 1) // 10**6 + 1),
    "spans in ns": lambda: _spans("ns", 2**63 - 1, -(2**63) + 1),
    "times of day": lambda: _cast([1000, 86_399_999_999_000], pa.int64(), pa.time64("ns")),
    "levels": lambda: _deep(19),
    "odd fields": lambda: _struct("a.b", "c\x1b[2J", "\u202e"),
    "nulls": lambda: pa.array([[None, None], []], pa.list_(pa.null())),
    "maps": lambda: pa.array([[("a", 1), ("b", 1)], [("a", 2)]], pa.map_(pa.string(), pa.int8())),
    "days by name": lambda: _days(0, LAST).dictionary_encode(),
    **{
        name: (lambda kind=kind, values=values: pa.array(values[:2], kind))
        for name, (kind, values) in TYPES.items()
        if name not in NOT_TAKEN
    },
}  # fmt: skip


def _read_by_all(lab: Lab, names: list[str], folder: Path) -> None:
    """Read some columns with everything that the lab reads with, and write them as a vendor's fetch does."""
    found = lab.vault.dataset("evals")
    table = found.to_arrow(columns=names)
    assert len(table.to_pylist()) == table.num_rows == 100
    assert len(found.to_pandas(columns=names).to_dict("records")) == 100
    assert len(found.to_polars(columns=names).rows()) == 100
    assert found.scan_polars().select(names).collect().height == 100
    assert len(duckdb.from_arrow(found.scan(columns=names)).fetchall()) == 100
    for ending in sinks.ENDINGS:
        assert sinks.write_table_as(found.scan(columns=names), folder / f"rows{ending}") == 100


def test_everything_that_is_accepted_is_read_by_all(desk: Desk, tmp_path: Path) -> None:
    """Of every type and at every edge: one column that somebody could not read would be one too many."""
    columns = {f"{name} label": make() for name, make in TAKEN.items()}
    table = pa.table({"id": pa.array([0, 2], pa.int64()), **columns})
    desk.lab.vault.accept_submission(desk.submit(table))
    _read_by_all(desk.lab, ["id", *columns], tmp_path)
    there = desk.lab.vault.scan("evals", columns=["id", *columns], where="id = 0 or id = 2").read_all()
    for name in columns:
        assert there.column(name).combine_chunks().equals(table.column(name).combine_chunks()), name


@pytest.mark.parametrize("nested", [False, True])
def test_notes_of_fields_do_not_come_back(desk: Desk, tmp_path: Path, nested: bool) -> None:
    """DuckDB takes a column for a shape by them, and fails over what is none; the values come without."""
    kind = pa.list_(pa.field("item", pa.binary(), metadata=SHAPE)) if nested else pa.binary()
    column = pa.array([[b"x"], [b"y"]] if nested else [b"x", b"y"], kind)
    field = pa.field("label", kind, metadata=None if nested else SHAPE)
    table = pa.table([pa.array([0, 2], pa.int64()), column], schema=pa.schema([pa.field("id", pa.int64()), field]))
    for number, send in enumerate((desk.submit, desk.smuggle)):
        desk.lab.vault.accept_submission(send(table), {"label": f"label {number}"})
        _read_by_all(desk.lab, ["id", f"label {number}"], tmp_path)
    taken = desk.lab.vault.scan("evals", where="id = 0").read_all()
    assert "geoarrow" not in repr(taken.schema.to_string(show_field_metadata=True))
    assert taken.column("label 1").to_pylist() == column.to_pylist()[:1]


def test_categories_of_polars_come_back(desk: Desk) -> None:
    """It has them as dictionaries of views, which others cannot read: they come as dictionaries of text."""
    frame = pl.DataFrame({"id": [0, 2], "label": pl.Series(["good", "bad"], dtype=pl.Categorical)})
    desk.lab.vault.accept_submission(desk.submit(frame))
    assert desk.lab.vault.dataset("evals").to_pandas(columns=["id", "label"])["label"].dropna().tolist() == [
        "good",
        "bad",
    ]
    assert desk.lab.vault.scan("evals").read_all().schema.field("label").type.value_type == pa.large_string()


def test_more_values_than_anybody_sends_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of nulls takes no space in Arrow, and all there is where somebody makes Python's of it."""
    column = pa.ListArray.from_arrays(pa.array([0, 1, 200_000], pa.int32()), pa.nulls(200_000))
    table = _table(column)
    identity = desk.smuggle(table)
    detail = desk.lab.vault.submission(identity)
    assert detail.problem is None
    assert sinks.representable(detail.table).column("label").type == pa.string()
    monkeypatch.setattr(incoming, "_MOST_VALUES", 199_999)
    why = "the column 'label' has more than 199,999 values in its lists"
    with pytest.raises(InvalidInput, match=why):
        desk.submit(table)
    for act in (desk.lab.vault.submission, desk.lab.vault.accept_submission):
        with pytest.raises(InvalidInput, match=why):
            act(identity)


def test_more_columns_than_anybody_sends_are_refused(desk: Desk) -> None:
    """Each would be a column group of the version's, with a key of its own."""
    table = labels(0, **{f"label {number}": ["x"] for number in range(1000)})
    with pytest.raises(InvalidInput, match="has 1,001 columns; the lab takes 1,000 at once"):
        desk.submit(table)
    with pytest.raises(InvalidInput, match="has 1,001 columns"):
        desk.lab.vault.accept_submission(desk.smuggle(table))


def test_row_keys_of_another_width_are_taken(lab: Lab) -> None:
    """Where they fit; a number is not the text that it is written as, nor text the number."""
    lab.vault.publish("evals", rows(10).append_column("name", pa.array([str(n) for n in range(10)])), key="name")
    lab.vault.grant("acme", "evals", ["name", "prompt"])
    desk = Desk(lab)
    for number, names in enumerate((pa.array(["1"], pa.large_string()), pa.array(["1"]).dictionary_encode())):
        done = lab.vault.accept_submission(desk.submit(pa.table({"name": names, f"label {number}": ["x"]})))
        assert done.rows == 1
    for wrong in (pa.array([1.0]), pa.array([1]), pa.array([b"1"]), pa.array([True])):
        with pytest.raises(InvalidInput, match=f"the column 'name' is {wrong.type}, and string in the dataset$"):
            desk.submit(pa.table({"name": wrong, "label": ["x"]}))


def test_narrower_row_keys_are_taken(desk: Desk) -> None:
    """Of 8 bits where the dataset has 64."""
    table = labels(0, 2).set_column(0, "id", pa.array([0, 2], pa.uint8()))
    assert desk.lab.vault.accept_submission(desk.submit(table)).rows == 2


@pytest.mark.parametrize("chunks", [[[1, 2, 3, 2]], [[1, 2], [3, 1, 2]], [[1], [], [1]]])
def test_the_row_that_comes_again_is_named(chunks: list[list[int]]) -> None:
    """The first one whose value stood before, across chunks."""
    values = [value for chunk in chunks for value in chunk]
    row = next(place for place, value in enumerate(values) if value in values[:place]) + 1
    for kind in (pa.int64(), pa.string(), pa.large_binary()):
        keys = pa.chunked_array([pa.array(map(str, chunk)).cast(kind) for chunk in chunks], kind)
        for each in (keys, keys.dictionary_encode()):
            with pytest.raises(
                InvalidInput, match=f"^row {row}: the column 'id' has a value that stands in an earlier"
            ):
                incoming.check_keys(each, "id")


def test_text_that_is_none_is_told_before_it_is_sent(desk: Desk) -> None:
    """The owner's process refuses such a table as a whole: here the row is named."""
    wrong = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers())
    with pytest.raises(InvalidInput, match="^row 2: the column 'label' has text that is not UTF-8$"):
        desk.submit(_table(wrong))
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        desk.lab.vault.accept_submission(desk.smuggle(_table(wrong)))
