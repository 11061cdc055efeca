"""Giving a table that came out of Parquet the very types that it went in with.

A chunk carries its Arrow schema inside the encrypted footer, which brings most types back as they were. The rest
(timestamp[s], date64, time32[s], dictionaries, views) are rebuilt here to the schema that the manifest keeps. Only
these conversions are made, and each keeps every value; a file with other columns or types is refused, never cast
to fit. Pure functions over Arrow values.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import IntegrityError

__all__ = ["convert", "restore"]

#: The last step of a type that Parquet gives back as another, and the types that it may come back as.
_COMES_BACK: Final[dict[pa.DataType, frozenset[pa.DataType]]] = {
    pa.date64(): frozenset({pa.date32()}),
    pa.time32("s"): frozenset({pa.time32("ms")}),
    pa.string_view(): frozenset({pa.string(), pa.large_string()}),
    pa.binary_view(): frozenset({pa.binary(), pa.large_binary()}),
    pa.large_string(): frozenset({pa.string(), pa.string_view()}),
    pa.large_binary(): frozenset({pa.binary(), pa.binary_view()}),
}
#: Kinds whose arrays are rebuilt around their children.
_FAMILIES: Final = (
    pt.is_struct,
    pt.is_map,
    pt.is_fixed_size_list,
    pt.is_list,
    pt.is_large_list,
    pt.is_list_view,
    pt.is_large_list_view,
)


class _TooManyValues(IntegrityError):
    """A run of rows has more distinct values than its dictionary's index type can number."""


def restore(table: pa.Table, schema: pa.Schema, formerly: Mapping[str, Collection[str]] | None = None) -> pa.Table:
    """The table with exactly ``schema``; raises IntegrityError when it has other columns or types.

    ``formerly`` says by column which names it may have instead.
    """
    earlier = formerly or {}
    if table.num_columns != len(schema) or any(
        found != name and found not in earlier.get(name, ())
        for found, name in zip(table.column_names, schema.names, strict=True)
    ):
        raise IntegrityError("a chunk does not hold the columns that its manifest says")
    try:
        columns = [convert(table.column(index), field.type) for index, field in enumerate(schema)]
        return pa.table(columns, schema=schema.with_metadata(None))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise _mismatch() from error


def _mismatch() -> IntegrityError:
    return IntegrityError("a chunk does not hold the types that its manifest says")


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in a type that differs only in what Parquet loses; raises IntegrityError or ArrowException."""
    if column.type == kind:
        return column
    return pa.chunked_array([piece for chunk in column.chunks for piece in _pieces(chunk, kind)], type=kind)


def _pieces(array: pa.Array, kind: pa.DataType) -> list[pa.Array]:
    """An array in as few runs as the index types of its dictionaries allow; most often one."""
    try:
        return [_array(array, kind)]
    except _TooManyValues:
        if len(array) < 2:
            raise
    half = len(array) // 2
    return _pieces(array.slice(0, half), kind) + _pieces(array.slice(half), kind)


def _array(array: pa.Array, kind: pa.DataType) -> Any:
    if array.type == kind:
        return array
    if isinstance(array, pa.ExtensionArray):
        named = getattr(kind, "extension_name", None)
        if named not in {None, array.type.extension_name}:
            raise _mismatch()
        return _array(array.storage, kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _array(array, kind.storage_type))
    if pt.is_dictionary(kind):
        return _dictionary(array, kind)
    if pt.is_dictionary(array.type):
        return _array(array.dictionary, kind).take(array.indices)
    if any(is_family(kind) for is_family in _FAMILIES):
        return _nested(array, kind)
    return _leaf(array, kind)


def _leaf(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pt.is_timestamp(kind) and kind.unit == "s":
        known = array.type == pa.timestamp("ms", kind.tz)
    else:
        known = array.type in _COMES_BACK.get(kind, ())
    if not known:
        raise _mismatch()
    return array.cast(kind)


def _dictionary(array: pa.Array, kind: pa.DataType) -> pa.Array:
    encoded = array if pt.is_dictionary(array.type) else array.dictionary_encode()
    index = kind.index_type
    if len(encoded.dictionary) > 2 ** (index.bit_width - pt.is_signed_integer(index)):
        raise _TooManyValues("a chunk has more distinct values than its manifest's dictionary type can number")
    values = _array(encoded.dictionary, kind.value_type)
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(index), values, ordered=kind.ordered)


def _nested(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if not any(is_family(kind) and is_family(array.type) for is_family in _FAMILIES):
        raise _mismatch()
    if pt.is_struct(kind):
        return _struct(array, kind)
    # A slice still refers to all of its parent's values; without an offset they are its own.
    array = pa.concat_arrays([array]) if array.offset else array
    if pt.is_map(kind):
        keys, items = _array(array.keys, kind.key_type), _array(array.items, kind.item_type)
        return pa.MapArray.from_arrays(array.offsets, keys, items, type=kind, mask=_mask(array))
    if pt.is_fixed_size_list(kind):
        if array.type.list_size != kind.list_size:
            raise _mismatch()
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_array(values, kind.value_type), type=kind, mask=_mask(array))
    values = _array(array.values, kind.value_type)
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        views = pa.ListViewArray if pt.is_list_view(kind) else pa.LargeListViewArray
        return views.from_arrays(array.offsets, array.sizes, values, type=kind, mask=_mask(array))
    lists = pa.ListArray if pt.is_list(kind) else pa.LargeListArray
    return lists.from_arrays(array.offsets, values, type=kind, mask=_mask(array))


def _struct(array: pa.Array, kind: pa.DataType) -> pa.Array:
    fields = [kind.field(index) for index in range(kind.num_fields)]
    if [array.type.field(index).name for index in range(array.type.num_fields)] != [field.name for field in fields]:
        raise IntegrityError("a struct in a chunk has other fields than its manifest says")
    children = [_array(array.field(index), field.type) for index, field in enumerate(fields)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=_mask(array))


def _mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None
