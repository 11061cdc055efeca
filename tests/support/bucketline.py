"""A line between dsvault and an S3 server: it counts requests, is slow, and misbehaves when it is told to."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_XML = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
#: What is answered without asking the server.
_REFUSALS = {
    "error": (500, "InternalError"),
    "throttle": (503, "SlowDown"),
    "too many": (429, "TooManyRequests"),
    "forbidden": (403, "AccessDenied"),
}
_HOPS = {"connection", "transfer-encoding", "content-length", "keep-alive", "expect"}


def kind_of(method: str, path: str) -> str:
    """What a request is, in S3's words."""
    asked = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "GET":
        return "ListObjects" if "list-type" in asked else "ListUploads" if "uploads" in asked else "GetObject"
    if method == "POST":
        return "DeleteObjects" if "delete" in asked else "CreateUpload" if "uploads" in asked else "CompleteUpload"
    if method == "PUT":
        return "UploadPart" if "partNumber" in asked else "PutObject"
    if method == "DELETE":
        return "AbortUpload" if "uploadId" in asked else "DeleteObject"
    return "HeadObject"


def folder_of(path: str) -> str:
    """The vault's own folder that a request is about, where it is about one: of ``/bucket/prefix/objects/x`` objects."""
    parts = urlsplit(path)
    names = parts.path.split("/")[2:] or [""]
    if prefix := parse_qs(parts.query).get("prefix"):
        names = prefix[0].split("/")
    return names[1] if len(names) > 1 else ""


class _Handler(BaseHTTPRequestHandler):
    """One connection from a client, with one of its own to the server."""

    protocol_version = "HTTP/1.1"
    line: "BucketLine"
    upstream: http.client.HTTPConnection | None = None

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = kind_of(self.command, self.path)
        fault = self.line.taken(kind, folder_of(self.path))
        with self.line.under_way():
            self._served(fault, body)

    def _served(self, fault: str, body: bytes) -> None:
        time.sleep(self.line.latency)
        if fault in _REFUSALS:
            status, code = _REFUSALS[fault]
            self._answer(status, [], _XML.format(code=code).encode())
            return
        if fault == "closed":
            self._close()
            return
        status, headers, data = self._asked(body)
        if fault == "lost":
            self._close()
            return
        self._answer(status, headers, data, cut=fault == "cut")

    def _asked(self, body: bytes) -> tuple[int, list[Any], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(*self.line.place, timeout=60)
        self.upstream.request(self.command, self.path, body, headers)
        answer = self.upstream.getresponse()
        found = [pair for pair in answer.getheaders() if pair[0].lower() not in _HOPS]
        if self.command == "HEAD" and (size := answer.getheader("content-length")) is not None:
            found.append(("Content-Length", size))
        return answer.status, found, answer.read()

    def _answer(self, status: int, headers: list[Any], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" or not headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        self.connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """A client that goes away, or was sent away, is no error."""
        with suppress(OSError, ValueError):
            super().handle()
        if self.upstream is not None:
            self.upstream.close()

    def finish(self) -> None:
        """The same when the connection ends."""
        with suppress(OSError, ValueError):
            super().finish()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class BucketLine:
    """Forwards to one server; each request is ``latency`` seconds late."""

    def __init__(self, upstream: str, latency: float = 0.0) -> None:
        parts = urlsplit(upstream)
        self.place = (parts.hostname or "", parts.port or 0)
        self.latency = latency
        self.counts: Counter[str] = Counter()
        self.of_folders: Counter[tuple[str, str]] = Counter()
        self.peak = 0
        self._present = 0
        self._lock = threading.Lock()
        self._plan: list[tuple[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"line": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self, kind: str, *faults: str) -> None:
        """What the next requests of a kind meet, one after the other; an empty word is nothing out of the way."""
        with self._lock:
            self._plan += [(kind, fault) for fault in faults]

    @property
    def unmet(self) -> list[tuple[str, str]]:
        """What no request has met so far."""
        with self._lock:
            return list(self._plan)

    def taken(self, kind: str, folder: str) -> str:
        """Count a request; what it meets."""
        with self._lock:
            self.counts[kind] += 1
            self.of_folders[kind, folder] += 1
            for number, (of, fault) in enumerate(self._plan):
                if of == kind:
                    del self._plan[number]
                    return fault
            return ""

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """One more request at the same time."""
        with self._lock:
            self._present += 1
            self.peak = max(self.peak, self._present)
        try:
            yield
        finally:
            with self._lock:
                self._present -= 1

    @contextmanager
    def counting(self, folder: str | None = None) -> Iterator[Counter[str]]:
        """What is asked meanwhile, of one folder or of all."""
        before, found = self.of_folders.copy(), Counter[str]()
        yield found
        with self._lock:
            for (kind, whose), count in (self.of_folders - before).items():
                if folder in {None, whose}:
                    found[kind] += count

    def __enter__(self) -> "BucketLine":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
