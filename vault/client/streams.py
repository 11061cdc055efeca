"""Reading a stream, over as many connections as it takes."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa
import urllib3

from vault.client.http import Patience
from vault.client.pieces import Piece, Reading
from vault.errors import Restarting, Unavailable
from vault.wire import ARROW_TYPE, CURSOR_KEY, ROWS_HEADER, End, error_from_problem

__all__ = ["CutOff", "Stream"]


class _Body:
    """A response's body as a file that Arrow reads from."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return self._response.read(size if size >= 0 else None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
        self._response.close()


class CutOff(Unavailable):
    """A stream that did not come to the end that the broker speaks of."""

    def __init__(self) -> None:
        super().__init__("the stream was cut off before its end")


class Stream:
    """One read over as many connections as it takes; ``cursor`` is the place that the first one goes on from."""

    def __init__(
        self, send: Callable[[str | None], urllib3.BaseHTTPResponse], patience: timedelta, cursor: str | None = None
    ) -> None:
        self._send = send
        self._patience = Patience(patience)
        self._cursor = cursor
        self._came = False

    def reading(self) -> Reading:
        """The first connection's schema, and the batches of all."""
        response = self._send(self._cursor)
        stream = self._opened(response)
        return Reading(stream.schema, _total(response), self._pieces(stream))

    @staticmethod
    def _opened(response: urllib3.BaseHTTPResponse) -> Any:
        if response.headers.get("content-type") != ARROW_TYPE:
            raise Unavailable("the broker's answer is not a stream of Arrow rows")
        try:
            return pa.ipc.open_stream(pa.PythonFile(_Body(response), mode="r"))
        except (pa.ArrowException, OSError, urllib3.exceptions.HTTPError) as error:
            raise CutOff from error

    def _pieces(self, stream: Any) -> Iterator[Piece]:
        schema, whole = stream.schema, False
        while not whole:
            try:
                yield from self._part(stream)
                whole = True
            except (CutOff, Restarting) as error:
                stream = self._again(schema, error)

    def _part(self, stream: Any) -> Iterator[Piece]:
        """The pieces of one connection; raises what the broker ended it with."""
        rows = 0
        while True:
            try:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
                end = End.from_metadata(metadata)
            except (StopIteration, pa.ArrowException, OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                raise CutOff from error
            if end is None:
                rows += batch.num_rows
                self._came = True
                # The place behind this batch: it is remembered as the batch is handed over, and not before.
                place = metadata.get(CURSOR_KEY) if metadata is not None else None
                self._cursor = place.decode("ascii", "replace") if place is not None else None
                yield Piece(batch, self._cursor)
                # What the reader did with the batch meanwhile is no silence of the broker's.
                self._patience.renew()
                continue
            if end.problem is not None:
                raise error_from_problem(end.problem)
            if end.rows != rows:
                raise CutOff
            stream.close()
            return

    def _again(self, schema: pa.Schema, error: Unavailable) -> Any:
        """A new connection that goes on behind the last batch; raises ``error`` when none can be had in time."""
        if self._came and self._cursor is None:
            raise error
        while True:
            self._patience.wait(error)
            try:
                stream = self._opened(self._send(self._cursor))
            except Unavailable:
                continue
            if not stream.schema.equals(schema):
                raise error
            return stream


def _total(response: urllib3.BaseHTTPResponse) -> int | None:
    """How many rows the whole read has, by a header that is there where it tells nothing that is to be hidden."""
    text = response.headers.get(ROWS_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
