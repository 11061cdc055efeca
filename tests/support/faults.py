"""A proxy before an HTTP server that misbehaves when it is told to."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: What is answered without asking the server: trouble, or what something else that stands in its place says. AWS's own way of throttling is a 400 that says so.
_REFUSALS = {
    "error": (503, b'{"errors": ["trouble"]}'),
    "throttle": (429, b'{"errors": ["trouble"]}'),
    "aws-throttle": (400, b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'),
    "portal": (200, b"<html>log in to the network</html>"),
    "redirect": (307, b""),
    "nothing": (204, b""),
    "list": (200, b"[]"),
    "list-refused": (400, b"[]"),
    "text": (200, b'{"data": "x"}'),
    "null": (200, b'{"data": {"plaintext": null, "ciphertext": null, "latest_version": null}}'),
}
_DROPPED = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class _Handler(BaseHTTPRequestHandler):
    """One connection from a client."""

    protocol_version = "HTTP/1.1"
    proxy: "Proxy"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.proxy.take()
        if fault == "slow":
            time.sleep(1)
        if fault in _REFUSALS:
            status, answer = _REFUSALS[fault]
            self._answer(status, [], answer)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _DROPPED}
        status, found, data = self.proxy.forward(self.command, self.path, headers, body)
        if fault == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self._answer(status, found, data)

    def _answer(self, status: int, headers: list[Any], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """A client that goes away, or was sent away, is no error."""
        with suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        """The same when the connection ends."""
        with suppress(OSError, ValueError):
            super().finish()


class Proxy:
    """Forwards to one server; `next` says what the requests that come now meet."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._place = (parts.hostname or "", parts.port or 0)
        self._lock = threading.Lock()
        self._plan: list[str] = []
        self.met: list[str] = []
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """The proxy's own URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self, *faults: str) -> None:
        """``slow`` (1 s late), ``lost`` (done, but the answer never comes), or one of the answers above."""
        with self._lock:
            self._plan = list(faults)
            self.met = []

    def take(self) -> str:
        """What the request that has just come meets."""
        with self._lock:
            self.requests += 1
            fault = self._plan.pop(0) if self._plan else ""
            if fault:
                self.met.append(fault)
            return fault

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[Any], bytes]:
        """Ask the server."""
        connection = http.client.HTTPConnection(*self._place, timeout=30)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"proxy": self})

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A running proxy."""
    made = Proxy(upstream)
    made.start()
    try:
        yield made
    finally:
        made.stop()
