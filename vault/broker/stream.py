"""Record batches as the bytes of an Arrow IPC stream, one piece for each batch."""

import base64
from collections.abc import Callable, Iterator

import pyarrow as pa

from vault.errors import VaultError
from vault.wire import CURSOR_KEY, End, kind_of, problem

__all__ = ["ipc_stream"]


class _Pieces:
    """A sink that hands over what was written since the last time."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def ipc_stream(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    cursor: Callable[[], bytes] | None = None,
    compression: str = "none",
    on_problem: Callable[[str], None] = lambda _kind: None,
) -> Iterator[bytes]:
    """Encode batches, each with the cursor behind it, and after them how the stream ended.

    An error after the first byte cannot change the status any more: it becomes the problem in the last
    batch's metadata, which a client must look for.
    """
    sink = _Pieces()
    rows = 0
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema, options=options) as writer:
        end = None
        try:
            for batch in batches:
                place = {CURSOR_KEY: base64.b64encode(cursor())} if cursor is not None else None
                writer.write_batch(batch, custom_metadata=place)
                rows += batch.num_rows
                yield sink.take()
        except VaultError as error:
            _, document = problem(error)
            on_problem(kind_of(document))
            end = End(rows, document)
        last = pa.RecordBatch.from_arrays([column.chunk(0) for column in schema.empty_table().columns], schema=schema)
        writer.write_batch(last, custom_metadata=(end or End(rows)).metadata())
    yield sink.take()
