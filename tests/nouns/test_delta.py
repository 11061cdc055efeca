"""Arrow types as Delta Sharing has them: what is widened, with equal values, and what is refused."""

import io
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vault.delta import shape_of
from vault.errors import InvalidInput

_DAY = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("kind", "values", "named", "left"),
    [
        (pa.bool_(), [True, None], "boolean", pa.bool_()),
        (pa.uint8(), [255, None], "short", pa.int16()),
        (pa.uint16(), [65535], "integer", pa.int32()),
        (pa.uint32(), [2**32 - 1], "long", pa.int64()),
        (pa.float16(), [0.5, None], "float", pa.float32()),
        (pa.large_string(), ["x", None], "string", pa.string()),
        (pa.string_view(), ["x" * 40, None], "string", pa.string()),
        (pa.large_binary(), [b"x"], "binary", pa.binary()),
        (pa.binary_view(), [b"x"], "binary", pa.binary()),
        (pa.binary(4), [b"abcd", None], "binary", pa.binary()),
        (pa.uuid(), [b"0" * 16, None], "binary", pa.binary()),
        (pa.date64(), [_DAY, None], "date", pa.date32()),
        (pa.null(), [None], "string", pa.string()),
        (pa.decimal32(5, 2), [Decimal("1.50")], "decimal(5,2)", pa.decimal128(5, 2)),
        (pa.decimal256(38, 0), [Decimal(7), None], "decimal(38,0)", pa.decimal128(38, 0)),
        (pa.timestamp("s"), [datetime(2026, 1, 1)], "timestamp", pa.timestamp("s")),
        (pa.timestamp("us", "UTC"), [None], "timestamp", pa.timestamp("us", "UTC")),
        (pa.dictionary(pa.int8(), pa.large_string()), ["x", "y", None, "x"], "string", pa.string()),
    ],
)
def test_a_type_is_widened_without_loss(kind: pa.DataType, values: list[Any], named: str, left: pa.DataType) -> None:
    """By its name, and with equal values, also through a slice."""
    array = pa.array(values, kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind)
    if isinstance(kind, pa.BaseExtensionType):
        array = pa.ExtensionArray.from_storage(kind, array)
    table = pa.table({"x": pa.chunked_array([array, array[1:]])})
    shape = shape_of(table.schema)
    assert json.loads(shape.text)["fields"] == [{"name": "x", "type": named, "nullable": True, "metadata": {}}]
    assert shape.schema.field("x").type == left
    assert shape.table(table)["x"].to_pylist() == values + values[1:]


def test_the_largest_numbers_without_a_sign_are_decimals() -> None:
    """No integer type holds them."""
    shape = shape_of(pa.schema([("x", pa.uint64())]))
    assert "decimal(20,0)" in shape.text
    assert shape.table(pa.table({"x": pa.array([2**64 - 1], pa.uint64())}))["x"].to_pylist() == [2**64 - 1]


_INNER = pa.struct([("n", pa.uint16()), ("t", pa.dictionary(pa.int32(), pa.string()))])
_VALUES = [[{"n": 1, "t": "a"}, None], None, [], [{"n": None, "t": None}, {"n": 5, "t": "a"}]]


@pytest.mark.parametrize("kind", [pa.list_(_INNER), pa.large_list(_INNER)])
def test_lists_of_structs_are_widened_inside(kind: pa.DataType) -> None:
    """Nulls at every depth, and slices, stay what they are."""
    inner = pa.list_(pa.struct([("n", pa.uint16()), ("t", pa.string())]))
    lists = pa.array(_VALUES, inner)
    codes = pa.StructArray.from_arrays(
        [lists.values.field(0), lists.values.field(1).dictionary_encode()],
        fields=list(_INNER),
        mask=lists.values.is_null(),
    )
    made = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    array = made.from_arrays(
        pa.array(lists.offsets.to_pylist(), pa.int64() if made is pa.LargeListArray else pa.int32()),
        codes,
        mask=lists.is_null(),
    )
    table = pa.table({"x": pa.chunked_array([array, array[1:], array[2:4]])})
    shape = shape_of(table.schema)
    found = shape.table(table)
    assert found["x"].to_pylist() == _VALUES + _VALUES[1:] + _VALUES[2:4]
    sink = io.BytesIO()
    pq.write_table(found, sink)
    assert pq.read_table(io.BytesIO(sink.getvalue()))["x"].to_pylist() == found["x"].to_pylist()
    (field,) = json.loads(shape.text)["fields"]
    assert field["type"]["type"] == "array"
    assert field["type"]["elementType"]["fields"][0]["type"] == "integer"


def test_lists_of_one_length_and_maps_are_widened_inside() -> None:
    """Their lengths vary in Delta, and their nulls are theirs."""
    fixed = pa.array([[1, 2], None, [3, None]], pa.list_(pa.uint8(), 2))
    pairs = pa.array([[("a", 1)], None, [("b", None), ("c", 3)]], pa.map_(pa.string_view(), pa.uint32()))
    table = pa.table({"fixed": pa.chunked_array([fixed, fixed[1:]]), "pairs": pa.chunked_array([pairs, pairs[1:]])})
    shape = shape_of(table.schema)
    found = shape.table(table)
    assert found["fixed"].to_pylist() == table["fixed"].to_pylist()
    assert found["pairs"].to_pylist() == table["pairs"].to_pylist()
    _, pairs_field = json.loads(shape.text)["fields"]
    assert pairs_field["type"] == {"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True}


@pytest.mark.parametrize(
    "kind",
    [
        pa.time32("s"),
        pa.time64("ns"),
        pa.duration("s"),
        pa.month_day_nano_interval(),
        pa.decimal256(39, 0),
        pa.decimal128(5, -2),
        pa.struct([]),
        pa.list_(pa.time32("s")),
        pa.struct([("x", pa.struct([("y", pa.duration("s"))]))]),
        pa.map_(pa.string(), pa.time64("us")),
        pa.dense_union([pa.field("x", pa.int32())]),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_column(kind: pa.DataType) -> None:
    """At any depth, and the sentence names the column."""
    with pytest.raises(InvalidInput, match="column 'odd one' is"):
        shape_of(pa.schema([("fine", pa.int64()), ("odd one", kind)]))


def test_no_metadata_leaves() -> None:
    """What a schema or a field has beside its type may speak of columns that are not granted."""
    field = pa.field("x", pa.struct([pa.field("y", pa.int32(), metadata={"k": "secret"})]), metadata={"k": "secret"})
    shape = shape_of(pa.schema([field], metadata={"all": "secret"}))
    assert "secret" not in shape.text
    assert shape.schema.metadata is None
    assert shape.schema.field("x").metadata is None
    assert shape.schema.field("x").type.field(0).metadata is None


def test_what_may_not_be_null_may_not_be_there_either() -> None:
    """Nullability is the column's, at every depth."""
    inner = pa.list_(pa.field("item", pa.uint8(), nullable=False))
    (field,) = json.loads(shape_of(pa.schema([pa.field("x", inner, nullable=False)])).text)["fields"]
    assert (field["nullable"], field["type"]["containsNull"]) == (False, False)
