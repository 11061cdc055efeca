"""Parquet and Arrow IPC files, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from vault.errors import InvalidInput
from vault.sources.files import SourceFile

__all__ = ["columnar_schema", "read_columnar", "row_groups"]

_BATCH_ROWS: Final = 16_384


def _damaged(file: SourceFile, error: Exception) -> InvalidInput:
    kind = "Parquet" if file.format == "parquet" else "Arrow IPC"
    found = InvalidInput(f"{file.shown}: the {kind} file is cut off, damaged or encrypted")
    found.__cause__ = error
    return found


@contextmanager
def _opened(file: SourceFile) -> Iterator[Any]:
    # Not mapped: every page that was touched would count as this process's memory.
    if file.local:
        try:
            with pa.OSFile(file.path, "r") as handle:
                yield handle
        except FileNotFoundError as error:
            raise InvalidInput(f"{file.shown}: there is no such file") from error
    else:
        with file.filesystem.open(file.path, "rb") as raw:
            yield raw


def _ipc(file: Any) -> Any:
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def columnar_schema(file: SourceFile) -> pa.Schema:
    """The Arrow schema of a file; raises InvalidInput when it is damaged."""
    try:
        with _opened(file) as handle:
            if file.format == "parquet":
                return pq.ParquetFile(handle).schema_arrow
            return _ipc(handle).schema
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def row_groups(file: SourceFile) -> list[tuple[int, int]]:
    """Of each row group of a Parquet file the rows and about the bytes; raises InvalidInput when it is damaged."""
    try:
        with _opened(file) as handle:
            metadata = pq.ParquetFile(handle).metadata
            groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
            return [(group.num_rows, group.total_byte_size) for group in groups]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def read_columnar(
    file: SourceFile, on_bytes: Callable[[int], None], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, or of some row groups of a Parquet file."""
    rows, total = 0, None
    try:
        with _opened(file) as handle:
            if file.format == "parquet":
                source = pq.ParquetFile(handle, pre_buffer=False)
                total = source.metadata.num_rows
                batches: Any = source.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups)
            else:
                reader = _ipc(handle)
                batches = (
                    (reader.get_batch(index) for index in range(reader.num_record_batches))
                    if hasattr(reader, "num_record_batches")
                    else reader
                )
            for batch in batches:
                rows += batch.num_rows
                if total and file.size:
                    on_bytes(file.size * batch.num_rows // total)
                yield batch
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error
