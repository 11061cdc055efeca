"""Arrow values in buffers that hold nothing else.

To Arrow a slice, and often a selection, is a view: a dictionary keeps the values that no row has any more, a list view
or a view of text the whole of what it was cut from, and the bits of booleans and nulls come in bytes that neighbours
share. All of that is sent and written with the rows. Who may have some rows and not others must be given these. Pure
functions; they keep every value, null and type, and of a dictionary the order of its values.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

__all__ = ["chosen", "chosen_rows", "compact", "compact_batch", "is_plain", "selected"]


def is_plain(kind: pa.DataType) -> bool:
    """Whether a selection of such values leaves nothing of the others behind in its buffers."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_plain(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_string_view(kind) or pt.is_binary_view(kind):
        return False
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return False
    return all(is_plain(kind.field(index).type) for index in range(kind.num_fields))


def chosen(table: pa.Table, mask: Any) -> pa.Table:
    """The rows where a mask is true (not null), in order, whatever the types of the columns."""
    keep = pc.fill_null(mask, False)
    keep = keep.combine_chunks() if isinstance(keep, pa.ChunkedArray) else keep
    if all(is_plain(field.type) for field in table.schema):
        return table.filter(keep)
    columns = [column.filter(keep) if is_plain(column.type) else _filtered(column, keep) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _filtered(column: pa.ChunkedArray, keep: pa.BooleanArray) -> pa.ChunkedArray:
    chunks, first = [], 0
    for chunk in column.chunks:
        places = pc.indices_nonzero(keep.slice(first, len(chunk))).cast(pa.int64())
        chunks.append(selected(chunk, places))
        first += len(chunk)
    return pa.chunked_array(chunks, type=column.type)


def chosen_rows(batch: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """The rows of a batch where a mask without nulls is true."""
    places = pc.indices_nonzero(mask).cast(pa.int64())
    return pa.RecordBatch.from_arrays([selected(column, places) for column in batch.columns], schema=batch.schema)


def compact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of its own."""
    return pa.chunked_array([selected(chunk) for chunk in column.chunks], type=column.type)


def compact_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of its own, that no table is behind."""
    return pa.RecordBatch.from_arrays([selected(column) for column in batch.columns], schema=batch.schema)


def selected(array: pa.Array, places: pa.Int64Array | None = None) -> pa.Array:
    """The values at these places, by default all; places are not null."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, selected(array.storage, places))
    if is_plain(kind):
        # What has children is selected by Arrow's own kernels, which copy them; so does joining one array.
        return pa.concat_arrays([array]) if places is None else array.take(places)
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        plain = pa.large_string() if pt.is_string_view(kind) else pa.large_binary()
        return selected(array.cast(plain), places).cast(kind)
    if pt.is_dictionary(kind):
        return _dictionary(array, places)
    if pt.is_struct(kind):
        children = [selected(array.field(index), places) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_nulls(array, places))
    return _list_like(array, places)


def _dictionary(array: pa.DictionaryArray, places: pa.Int64Array | None) -> pa.DictionaryArray:
    """Only the values that some row has, in the order that they had: ordered categories stay so."""
    kind = array.type
    indices = selected(array.indices, places)
    used = pc.unique(indices.drop_null())
    used = used.take(pc.sort_indices(used)).cast(pa.int64())
    numbers = pc.index_in(indices.cast(pa.int64()), value_set=used).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(numbers, selected(array.dictionary, used), ordered=kind.ordered)


def _nulls(array: pa.Array, places: pa.Int64Array | None) -> pa.BooleanArray | None:
    if not array.null_count:
        return None
    nulls = array.is_null()
    return nulls if places is None else nulls.take(places)


def _list_like(array: Any, places: pa.Int64Array | None) -> pa.Array:
    """Lists, list views and maps, whose values are not plain: the values of the rows, one behind the other."""
    kind = array.type
    starts, lengths = _extents(array)
    if places is not None:
        rows = places.to_numpy()
        starts, lengths = starts[rows], lengths[rows]
    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], ends])
    inner = pa.array(np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]), pa.int64())
    mask = _nulls(array, places)
    if pt.is_map(kind):
        keys, items = (selected(child, inner) for child in (array.keys, array.items))
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=kind, mask=mask)
    values = selected(array.values, inner)
    if pt.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)
    large = pt.is_large_list(kind) or pt.is_large_list_view(kind)
    borders = pa.array(offsets, pa.int64() if large else pa.int32())
    if pt.is_list(kind) or pt.is_large_list(kind):
        made = pa.LargeListArray if large else pa.ListArray
        return made.from_arrays(borders, values, type=kind, mask=mask)
    made = pa.LargeListViewArray if large else pa.ListViewArray
    return made.from_arrays(borders[:-1], pa.array(lengths, borders.type), values, type=kind, mask=mask)


def _extents(array: Any) -> tuple[Any, Any]:
    """Where each row's values begin among the array's, and how many there are; none where the row is null."""
    kind = array.type
    if pt.is_fixed_size_list(kind):
        # Also of a row that is null: a list of fixed size has values there.
        starts = (np.arange(len(array)) + array.offset) * kind.list_size
        return starts, np.full(len(array), kind.list_size)
    offsets = array.offsets.to_numpy()
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        starts, lengths = offsets, array.sizes.to_numpy()
    else:
        starts, lengths = offsets[:-1], np.diff(offsets)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return np.where(valid, starts, 0).astype(np.int64), np.where(valid, lengths, 0).astype(np.int64)
