"""Dictionary columns as what they stand for."""

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["decoded"]


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column's values; pyarrow 26 has no cast out of a dictionary of views."""
    kind = column.type.value_type
    if pt.is_string_view(kind):
        kind = pa.large_string()
    if pt.is_binary_view(kind):
        kind = pa.large_binary()
    chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=kind)
