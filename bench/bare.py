"""What a broker's streams are measured against: a bare uvicorn app that streams a plain Parquet file, with no checks.

``python bench/bare.py FILE`` prints its address once it listens; ``/?columns=a,b`` answers with an Arrow IPC stream.
"""

import socket
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_BATCH_ROWS = 65_536


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


def _stream(path: str, columns: list[str]) -> Iterator[bytes]:
    sink = _Pieces()
    with pq.ParquetFile(path, pre_buffer=True) as file:
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                writer.write_batch(batch.select(columns).cast(schema))
                yield sink.take()
    yield sink.take()


def _app(path: str) -> Starlette:
    async def read(request: Request) -> Response:
        return StreamingResponse(_stream(path, request.query_params["columns"].split(",")))

    return Starlette(routes=[Route("/", read)])


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"serving on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(_app(sys.argv[1]), log_level="warning", access_log=False)).run(sockets=[listener])
