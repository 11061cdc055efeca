"""Arrow types that a Parquet round trip would change, and those that it cannot hold.

A chunk carries its Arrow schema inside the encrypted footer, which brings most types back as they were. The rest
(timestamp[s], date64, time32[s], the index types of dictionaries) are cast here to the schema that the
manifest keeps. Pure functions over Arrow values.
"""

from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import IntegrityError, InvalidInput

__all__ = ["restore", "storable", "unsupported"]


def unsupported(schema: pa.Schema) -> None:
    """Refuse types that Parquet cannot hold unchanged; raises InvalidInput naming the column and type."""
    for field in schema:
        _refuse(field.type, field.name)


def _refuse(kind: pa.DataType, path: str) -> None:
    if isinstance(kind, pa.BaseExtensionType):
        _refuse(kind.storage_type, path)
        return
    if pt.is_union(kind) or pt.is_run_end_encoded(kind) or pt.is_interval(kind):
        raise InvalidInput(f"the column {path!r} has the type {_family(kind)}, which Parquet cannot hold")
    if pt.is_struct(kind) and kind.num_fields == 0:
        raise InvalidInput(f"the column {path!r} has the type struct<> (no fields), which Parquet cannot hold")
    for name, child in _children(kind):
        _refuse(child, f"{path}.{name}")


def _family(kind: pa.DataType) -> str:
    if pt.is_union(kind):
        return "union"
    return "run-end-encoded" if pt.is_run_end_encoded(kind) else "interval"


def _children(kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if pt.is_map(kind):
        return [("key", kind.key_type), ("value", kind.item_type)]
    if pt.is_dictionary(kind):
        return [("value", kind.value_type)]
    if pt.is_nested(kind):
        return [(kind.field(index).name, kind.field(index).type) for index in range(kind.num_fields)]
    return []


def storable(table: pa.Table) -> pa.Table:
    """The table as it is written: dictionaries inside of nested columns give way to their values.

    pyarrow cannot read a nested dictionary back when a file has more than one row group or dictionary; `restore`
    makes them anew. Top-level dictionaries stay.
    """
    kinds = [
        field.type if pt.is_dictionary(field.type) else _without_dictionaries(field.type) for field in table.schema
    ]
    if kinds == table.schema.types:
        return table
    schema = pa.schema([field.with_type(kind) for field, kind in zip(table.schema, kinds, strict=True)])
    columns = [_column(column, kind) for column, kind in zip(table.columns, kinds, strict=True)]
    return pa.table(columns, schema=schema)


def _without_dictionaries(kind: pa.DataType) -> pa.DataType:
    if pt.is_dictionary(kind):
        return kind.value_type
    if pt.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([field.with_type(_without_dictionaries(field.type)) for field in fields])
    if pt.is_map(kind):
        return pa.map_(_without_dictionaries(kind.key_type), _without_dictionaries(kind.item_type))
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        field = kind.value_field.with_type(_without_dictionaries(kind.value_type))
        if pt.is_fixed_size_list(kind):
            return pa.list_(field, kind.list_size)
        return pa.list_(field) if pt.is_list(kind) else pa.large_list(field)
    return kind


def restore(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly ``schema``; raises IntegrityError when it has other columns or types."""
    if table.column_names != schema.names:
        raise IntegrityError("a chunk does not hold the columns that its manifest says")
    try:
        columns = [_column(table.column(index), field.type) for index, field in enumerate(schema)]
        return pa.table(columns, schema=schema.with_metadata(None))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise IntegrityError("a chunk does not hold the types that its manifest says") from error


def _column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return pa.chunked_array([_array(chunk, kind) for chunk in column.chunks], type=kind)


def _array(array: pa.Array, kind: pa.DataType) -> Any:
    """Rebuild an array in a type that differs only in what Parquet loses; values stay as they are."""
    if array.type == kind:
        return array
    if isinstance(kind, pa.BaseExtensionType):
        storage = array.storage if isinstance(array, pa.ExtensionArray) else array
        return pa.ExtensionArray.from_storage(kind, _array(storage, kind.storage_type))
    if pt.is_dictionary(kind):
        return _dictionary(array, kind)
    if pt.is_struct(kind):
        return _struct(array, kind)
    if pt.is_map(kind):
        return _map(array, kind)
    if pt.is_fixed_size_list(kind):
        values = _array(_fixed_values(array), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=_mask(array))
    if (pt.is_list(kind) and pt.is_list(array.type)) or (pt.is_large_list(kind) and pt.is_large_list(array.type)):
        family = pa.ListArray if pt.is_list(kind) else pa.LargeListArray
        compact = pa.concat_arrays([array]) if array.offset else array
        return family.from_arrays(
            compact.offsets, _array(compact.values, kind.value_type), type=kind, mask=_mask(compact)
        )
    return array.cast(kind)


def _mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _fixed_values(array: pa.Array) -> pa.Array:
    width = array.type.list_size
    return array.values.slice(array.offset * width, len(array) * width)


def _dictionary(array: pa.Array, kind: pa.DataType) -> pa.Array:
    encoded = array if pt.is_dictionary(array.type) else array.cast(kind.value_type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(
        encoded.indices.cast(kind.index_type), _array(encoded.dictionary, kind.value_type), ordered=kind.ordered
    )


def _struct(array: pa.Array, kind: pa.DataType) -> pa.Array:
    fields = [kind.field(index) for index in range(kind.num_fields)]
    if [array.type.field(index).name for index in range(array.type.num_fields)] != [field.name for field in fields]:
        raise IntegrityError("a struct in a chunk has other fields than its manifest says")
    children = [_array(array.field(index), field.type) for index, field in enumerate(fields)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=_mask(array))


def _map(array: pa.Array, kind: pa.DataType) -> pa.Array:
    compact = pa.concat_arrays([array]) if array.offset else array
    keys, items = _array(compact.keys, kind.key_type), _array(compact.items, kind.item_type)
    return pa.MapArray.from_arrays(compact.offsets, keys, items, type=kind, mask=_mask(compact))
