"""Columns of view types, for which pyarrow 26 has no kernel that selects rows: cast around the selection.

Both casts keep every value. Extension types never hold views here.
"""

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["decoded", "select_rows"]


def select_rows(table: pa.Table, mask: object) -> pa.Table:
    """The rows where the mask is TRUE (not NULL), in order, whatever the types of the columns."""
    schema = table.schema
    kinds = [_without_views(field.type) for field in schema]
    if kinds == schema.types:
        return table.filter(mask, null_selection_behavior="drop")
    plain = pa.schema([field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)])
    return table.cast(plain).filter(mask, null_selection_behavior="drop").cast(schema)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column's values; pyarrow 26 has no cast out of a dictionary of views."""
    kind = _without_views(column.type.value_type)
    chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=kind)


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The same type with large strings for views at any depth."""
    if pt.is_string_view(kind):
        return pa.large_string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    if pt.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        kinds = [_without_views(field.type) for field in fields]
        if kinds == [field.type for field in fields]:
            return kind
        return pa.struct([field.with_type(found) for field, found in zip(fields, kinds, strict=True)])
    if pt.is_map(kind):
        key, item = _without_views(kind.key_type), _without_views(kind.item_type)
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item)
    return _list_without_views(kind)


def _list_without_views(kind: pa.DataType) -> pa.DataType:
    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return kind
    item = _without_views(kind.value_type)
    if item == kind.value_type:
        return kind
    field = kind.value_field.with_type(item)
    if pt.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.list_(field) if pt.is_list(kind) else pa.large_list(field)
