"""A plain Parquet file, made in memory of the rows that leave: what a vendor that was shared a shard gets of it."""

from typing import Final, final

import pyarrow as pa
import pyarrow.parquet as pq

from vault.delta import Shape

__all__ = ["ENCODER", "GROUP_BYTES", "PlainFile"]

#: What writes a file: the number is raised with whatever is changed here. Another one may write other bytes for the
#: same rows, and ranges of the two may not be mixed up.
ENCODER: Final = f"1 pyarrow {pa.__version__}"
_COMPRESSION: Final = "snappy"
#: What a row group has of Arrow memory, by what so many of the file's first rows have.
GROUP_BYTES: Final = 32 << 20
_SAMPLE_ROWS: Final = 1024


@final
class PlainFile:
    """A file of rows as they come: its statistics and dictionaries are of these alone.

    Where its row groups and pages end follows from the rows that are in it: not from the batches that they come in,
    which end where rows of the shard were left out too, and would tell how many. ``charged`` is what the rows come to
    as a stream.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape, self._sink = shape, pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, shape.schema, compression=_COMPRESSION)
        self._waiting: list[pa.RecordBatch] = []
        self._ready = self.rows = self.charged = 0
        self._group_rows: int | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take some more rows."""
        if not batch.num_rows:
            return
        self.rows, self.charged = self.rows + batch.num_rows, self.charged + batch.nbytes
        self._waiting.append(batch)
        self._ready += batch.num_rows
        if self._group_rows is None:
            if self._ready < _SAMPLE_ROWS:
                return
            sample = pa.Table.from_batches(self._waiting).slice(0, _SAMPLE_ROWS)
            self._group_rows = max(_SAMPLE_ROWS, GROUP_BYTES * _SAMPLE_ROWS // max(1, sample.nbytes))
        while self._ready >= self._group_rows:
            self._group(self._group_rows)

    def _group(self, rows: int) -> None:
        waiting = pa.Table.from_batches(self._waiting)
        self._writer.write_table(self._shape.table(waiting.slice(0, rows).combine_chunks()), row_group_size=rows)
        self._waiting, self._ready = waiting.slice(rows).to_batches(), self._ready - rows

    def end(self) -> memoryview:
        """The file; nothing where there was no row."""
        if self._ready:
            self._group(self._ready)
        self._writer.close()
        return memoryview(self._sink.getvalue()).cast("B") if self.rows else memoryview(b"")
