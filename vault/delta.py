"""Tables as Delta Sharing knows them: an Arrow schema as a Delta schema, and columns in types that it has.

Pure functions over Arrow. What Delta has no type for is widened where that loses nothing: unsigned and half-precision
numbers, dictionaries, large, view and fixed-size types. Time stamps keep their unit, so that a client of Python's gets
equal values. What cannot be held (times of day, durations, intervals, unions, decimals of more than 38 digits) is
refused by the name of its column: a table that silently lacks a column would be another table. The schema's form is
that of the protocol's "Schema Object".
"""

import json
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vault.errors import InvalidInput

__all__ = ["Shape", "shape_of"]

_MOST_DIGITS: Final = 38
#: The names of plain types, as they leave.
_PLAIN: Final = {
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.date32(): "date",
}
#: Into what another type goes without loss.
_WIDER: Final = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as it is shared: the Arrow schema of its files, and the same as Delta writes it."""

    schema: pa.Schema

    @property
    def text(self) -> str:
        """The ``schemaString``."""
        return json.dumps({"type": "struct", "fields": [_field(each) for each in self.schema]})

    def table(self, columns: pa.Table) -> pa.Table:
        """Columns in the types of the files, without anything that their dictionaries hold beside them."""
        return pa.Table.from_arrays(
            [
                column if column.type == field.type else _cast(column, field.type)
                for column, field in zip(columns.columns, self.schema, strict=True)
            ],
            schema=self.schema,
        )


def shape_of(schema: pa.Schema) -> Shape:
    """How a table of this schema is shared; raises InvalidInput, naming the column, where it cannot be."""
    fields = []
    for field in schema:
        wide = _wide(field.type)
        if wide is None:
            raise InvalidInput(f"column {field.name!r} is {field.type}, which a shared table cannot hold")
        # Without metadata: it may speak of what the caller does not get.
        fields.append(pa.field(field.name, wide, field.nullable))
    return Shape(pa.schema(fields))


def _wide(kind: pa.DataType) -> pa.DataType | None:
    """The type that values of another one leave in, or None for what has none."""
    kind = _WIDER.get(kind, kind)
    if kind in _PLAIN or pt.is_timestamp(kind):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return _wide(kind.storage_type)
    if pt.is_dictionary(kind):
        return _wide(kind.value_type)
    if pt.is_fixed_size_binary(kind):
        return pa.binary()
    if pt.is_decimal(kind):
        held = 0 <= kind.scale <= kind.precision <= _MOST_DIGITS
        return pa.decimal128(kind.precision, kind.scale) if held else None
    return _wide_nested(kind)


def _wide_nested(kind: pa.DataType) -> pa.DataType | None:
    if pt.is_map(kind):
        key, item = _wide(kind.key_type), _wide_field(kind.item_field)
        return pa.map_(pa.field(kind.key_field.name, key, nullable=False), item) if key and item else None
    if pt.is_struct(kind):
        fields = [_wide_field(each) for each in kind]
        return pa.struct(fields) if fields and all(fields) else None
    if hasattr(kind, "value_field"):
        item = _wide_field(kind.value_field)
        return pa.list_(item) if item else None
    return None


def _wide_field(field: pa.Field) -> pa.Field | None:
    wide = _wide(field.type)
    return None if wide is None else pa.field(field.name, wide, field.nullable)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([_array(chunk, kind) for chunk in column.chunks], type=kind)


def _array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array in a wider type; nested ones by their parts, since Arrow has no cast for each of those."""
    if array.type == kind:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        return _array(array.storage, kind)
    if pt.is_dictionary(array.type):
        return _array(array.dictionary_decode(), kind)
    mask = array.is_null() if array.null_count else None
    if pt.is_struct(kind):
        # `field` gives a child from the struct's own offset on, and without its nulls.
        children = [_array(array.field(index), each.type) for index, each in enumerate(kind)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if pt.is_map(kind):
        offsets = pa.array(array.offsets.to_numpy(), pa.int32())
        keys, items = _array(array.keys, kind.key_type), _array(array.items, kind.item_type)
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=mask)
    if pt.is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        # Flattened, it has the values of the lists that are not null, one behind the other.
        offsets = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
        return pa.ListArray.from_arrays(offsets, _array(array.flatten(), kind.value_type), type=kind, mask=mask)
    return array.cast(kind)


def _field(field: pa.Field) -> dict[str, Any]:
    return {"name": field.name, "type": _type(field.type), "nullable": field.nullable, "metadata": {}}


def _type(kind: pa.DataType) -> Any:
    if pt.is_timestamp(kind):
        # With and without a zone: clients of Python's know no other name.
        return "timestamp"
    if pt.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pt.is_struct(kind):
        return {"type": "struct", "fields": [_field(each) for each in kind]}
    if pt.is_map(kind):
        return {
            "type": "map",
            "keyType": _type(kind.key_type),
            "valueType": _type(kind.item_type),
            "valueContainsNull": kind.item_field.nullable,
        }
    if pt.is_list(kind):
        return {
            "type": "array",
            "elementType": _type(kind.value_type),
            "containsNull": kind.value_field.nullable,
        }
    return _PLAIN[kind]
