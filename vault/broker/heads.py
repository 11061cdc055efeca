"""HTTP with heads that are bounded: nobody makes the broker hold more of a request than it may have to read."""

import json
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vault.errors import InvalidInput
from vault.wire import PROBLEM_TYPE, problem

__all__ = ["HEAD_BYTES", "BoundedHeads"]

#: A token, a proof and the links of a delegation take a few KiB.
HEAD_BYTES: Final = 32 * 1024


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol over httptools, which by itself would gather a head of any length.

    A head that is too long is answered with 400, and its connection closed, as one that is no HTTP.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._begun = True
        self._size = 0

    def data_received(self, data: bytes) -> None:
        """Some bytes; of a head that is not whole with them no more than the bound are waited for."""
        if self._begun:
            self._size += len(data)
        super().data_received(data)
        if self._begun and self._size > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """What cannot be read is answered as a problem document too, and its connection closed."""
        _, document = problem(InvalidInput("the request's head is too long, or it is no HTTP"))
        body = json.dumps(document).encode()
        head = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """The parser's: a request begins."""
        super().on_message_begin()
        self._begun, self._head = True, 0

    def on_url(self, url: bytes) -> None:
        """The parser's: the target, or a piece of it."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's: a header that is whole."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The parser's: the head is whole."""
        self._begun, self._size = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser's: the request is whole, and the next byte is of another."""
        super().on_message_complete()
        self._begun, self._size = True, 0

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            # The parser turns this into an error of its own.
            raise ValueError("the head is too long")
