"""Types that Parquet or pyarrow would lose: refused before anything is written, or given back as they were."""

import datetime as dt
import os

import polars as pl
import pyarrow as pa
import pytest

from tests.chunks.test_chunks import identity
from tests.conftest import Lab
from tests.support.tables import same
from vault.chunks import EncodeOptions, decode, encode, rekey
from vault.errors import IntegrityError, InvalidInput


def _round_trip(table: pa.Table) -> None:
    key, place = os.urandom(32), identity()
    for options in (EncodeOptions(), EncodeOptions(row_group_rows=2, use_dictionary=False)):
        assert same(decode(encode(table, key, place, options), key, place, table.schema), table)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8(), 0),
        pa.binary(0),
        pa.dictionary(pa.int8(), pa.list_(pa.int8())),
        pa.dictionary(pa.int8(), pa.null()),
        pa.decimal128(5, -2),
        pa.struct([("deep", pa.list_(pa.int8(), 0))]),
    ],
)
def test_what_would_not_be_readable_is_refused(lab: Lab, kind: pa.DataType) -> None:
    """A publish of a type that could be written and not read back is refused, naming the column."""
    with pytest.raises(InvalidInput, match="'column'"):
        lab.vault.publish("odd", pa.table({"column": pa.nulls(3, kind)}))
    assert lab.vault.datasets() == []


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1], pa.int64()).view(pa.date64()),
        pa.array([3_000_000], pa.int32()).view(pa.time32("s")),
        pa.array([[1]], pa.list_(pa.int64())).cast(pa.list_(pa.int64())),
    ],
)
def test_values_that_would_change_are_refused(array: pa.Array) -> None:
    """A date64 that is no whole day and a time32 that is no time of day are refused, not rounded."""
    if pa.types.is_list(array.type):
        array = pa.ListArray.from_arrays([0, 1], pa.array([1], pa.int64()).view(pa.date64()))
    with pytest.raises(InvalidInput, match="'c'"):
        encode(pa.table({"c": array}), os.urandom(32), identity())


def test_dictionaries_come_back_however_many_values_there_are() -> None:
    """More distinct values than an index type numbers, in several chunks, come back in that type."""
    kind = pa.dictionary(pa.int8(), pa.string())
    chunks = [
        pa.array([f"{start + number}" for number in range(100)]).dictionary_encode().cast(kind) for start in (0, 100)
    ]
    _round_trip(pa.table({"d": pa.chunked_array(chunks)}))
    with_null = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["a", None]))
    _round_trip(pa.table({"d": with_null}))


def test_nested_views_and_list_views_come_back() -> None:
    """Views inside of structs and lists, and list views of seconds, are the same after a round trip."""
    _round_trip(
        pa.table(
            {
                "s": pa.array([{"x": ["a", None]}, None, {"x": None}], pa.struct([("x", pa.list_(pa.string_view()))])),
                "l": pa.array([[dt.datetime(2026, 1, 1)], None, []], pa.list_view(pa.timestamp("s"))),
            }
        )
    )


def test_a_polars_frame_with_categories_and_nesting_is_published(lab: Lab) -> None:
    """Categoricals, enums and nested text of polars are published and read back by value."""
    frame = pl.DataFrame(
        {
            "c": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "e": pl.Series(["x", None, "y"], dtype=pl.Enum(["x", "y"])),
            "n": [{"t": ["p", None]}, {"t": []}, {"t": None}],
        }
    )
    lab.vault.publish("frame", frame)
    assert lab.vault.scan("frame").read_all().to_pylist() == frame.to_dicts()
    assert lab.vault.scan("frame", where="c = 'b' and e is null").read_all().num_rows == 1


def test_a_short_new_key_is_refused() -> None:
    """A rekey to a key that is not 256 bits long is refused."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": [1]}), key, place)
    with pytest.raises(IntegrityError):
        rekey(data, key, place, os.urandom(16), identity())


def test_values_are_never_cast_to_fit() -> None:
    """A chunk of integers is not read as text, whatever a manifest says."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": [1]}), key, place)
    for kind in (pa.string(), pa.int32(), pa.float64(), pa.timestamp("s")):
        with pytest.raises(IntegrityError):
            decode(data, key, place, pa.schema([("n", kind)]))
