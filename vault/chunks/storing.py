"""What is done to a table before it is written: types that Parquet cannot hold are refused, others are given a form
that comes back.

Whatever would be read back changed, or not at all, is refused here with InvalidInput: a chunk that was written opens.
`vault.chunks.restore` undoes the rest by the schema in the manifest. Pure functions over Arrow values; found by
trying every type in every place with pyarrow 26. Specified in ``docs/reference/format.md`` section 4.
"""

import pyarrow as pa
import pyarrow.types as pt

from vault.chunks.restore import convert
from vault.compact import compact
from vault.errors import InvalidInput

__all__ = ["storable", "unsupported"]


def unsupported(schema: pa.Schema) -> None:
    """Refuse types that Parquet cannot hold unchanged; raises InvalidInput naming the column and type."""
    for field in schema:
        _refuse(field, repr(field.name))


def _refuse(field: pa.Field, path: str) -> None:
    kind = field.type
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    reason = _reason(kind)
    if reason is None and pt.is_null(kind) and not field.nullable:
        reason = "null but is declared without nulls"
    if reason is not None:
        raise InvalidInput(f"the column {path} has the type {reason}, which Parquet cannot hold")
    for child in _children(kind):
        _refuse(child, f"{path}.{child.name!r}")


def _reason(kind: pa.DataType) -> str | None:
    if pt.is_union(kind):
        return "union"
    if pt.is_run_end_encoded(kind):
        return "run-end-encoded"
    if pt.is_interval(kind):
        return "interval"
    if pt.is_struct(kind) and kind.num_fields == 0:
        return "struct<> (no fields)"
    if pt.is_fixed_size_binary(kind) and kind.byte_width == 0:
        return "fixed_size_binary[0]"
    if pt.is_fixed_size_list(kind) and kind.list_size == 0:
        return "fixed_size_list[0]"
    if pt.is_decimal(kind) and not 0 <= kind.scale <= kind.precision:
        return "decimal with a scale below zero or above its precision"
    if pt.is_dictionary(kind) and _is_compound(kind.value_type):
        return "dictionary of nested, extension or null values"
    return None


def _is_compound(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) or pt.is_nested(kind) or pt.is_dictionary(kind) or pt.is_null(kind)


def _children(kind: pa.DataType) -> list[pa.Field]:
    if pt.is_map(kind):
        return [kind.key_field, kind.item_field]
    if pt.is_dictionary(kind):
        return [pa.field("value", kind.value_type)]
    if pt.is_nested(kind):
        return [kind.field(index) for index in range(kind.num_fields)]
    return []


def storable(table: pa.Table) -> pa.Table:
    """The table as it is written; raises InvalidInput for what would not come back as it is.

    Inside nested columns dictionaries give way to their values (pyarrow cannot read them back across row groups)
    and views to large text and binary (it cannot cut a struct of views into row groups). A top-level dictionary of
    text or binary values stays, with those of them that some row has, where they have one numbering that fits the index
    type.
    """
    unsupported(table.schema)
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        for chunk in column.chunks if _may_lose(field.type) else ():
            _check_exact(chunk, field.name)
        columns.append(_stored_column(column))
    fields = [field.with_type(column.type) for field, column in zip(table.schema, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def _stored_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pt.is_dictionary(column.type):
        return convert(column, _stored(column.type))
    # pyarrow writes a dictionary as it is: values that no row of this chunk has are of other shards, or were erased.
    column = compact(column)
    values = _unviewed(column.type.value_type)
    if not (pt.is_string(values) or pt.is_large_string(values) or pt.is_binary(values) or pt.is_large_binary(values)):
        return convert(column, values)  # pyarrow reads no other dictionary back as one
    kept = convert(column, pa.dictionary(column.type.index_type, values, column.type.ordered))
    if any(chunk.dictionary.null_count for chunk in kept.chunks):
        return convert(kept, values)  # Parquet's dictionary pages hold no nulls
    try:
        return kept.unify_dictionaries()
    except pa.ArrowException:  # together they are more than the index type can number: a reader would stop there
        return convert(kept, values)


def _stored(kind: pa.DataType, *, nested: bool = False) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        storage = _stored(kind.storage_type, nested=nested)
        return kind if storage == kind.storage_type else storage
    if pt.is_dictionary(kind):
        return _unviewed(kind.value_type)
    if pt.is_struct(kind):
        return pa.struct([_stored_field(field) for field in _children(kind)])
    if pt.is_map(kind):
        key, item = (_stored_field(field) for field in _children(kind))
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    if pt.is_nested(kind):
        return _list_like(kind, _stored_field(kind.value_field))
    return _unviewed(kind) if nested else kind


def _stored_field(field: pa.Field) -> pa.Field:
    return field.with_type(_stored(field.type, nested=True))


def _unviewed(kind: pa.DataType) -> pa.DataType:
    if pt.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pt.is_binary_view(kind) else kind


def _list_like(kind: pa.DataType, field: pa.Field) -> pa.DataType:
    if pt.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    if pt.is_large_list(kind):
        return pa.large_list(field)
    if pt.is_list_view(kind):
        return pa.list_view(field)
    return pa.large_list_view(field) if pt.is_large_list_view(kind) else pa.list_(field)


def _may_lose(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _may_lose(kind.storage_type)
    return kind in {pa.date64(), pa.time32("s")} or any(_may_lose(child.type) for child in _children(kind))


def _check_exact(array: pa.Array, column: str) -> None:
    """Parquet keeps date64 as days and time32[s] as milliseconds in 32 bits, and pyarrow rounds or wraps silently."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        _check_exact(array.storage, column)
    elif pt.is_dictionary(kind):
        _check_exact(array.dictionary, column)
    elif pt.is_struct(kind):
        for child in array.flatten():
            _check_exact(child, column)
    elif pt.is_map(kind):
        compact = pa.concat_arrays([array]) if array.offset else array
        _check_exact(compact.keys, column)
        _check_exact(compact.items, column)
    elif pt.is_nested(kind):
        _check_exact(array.flatten(), column)
    elif kind in {pa.date64(), pa.time32("s")} and not _survives(array):
        raise InvalidInput(f"the column {column!r} has a value of type {kind} that is not a whole day or a time of day")


def _survives(array: pa.Array) -> bool:
    between = pa.date32() if pt.is_date64(array.type) else pa.time32("ms")
    try:
        return bool(array.cast(between).cast(array.type).equals(array))
    except pa.ArrowException:
        return False
