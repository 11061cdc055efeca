"""HTTP as bytes on a socket: what no client library would send."""

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """An answer as it came; status 0 where the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document; fails where the answer is none."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = json.loads(self.body)
        assert set(document) == {"type", "title", "detail"}
        assert document["type"].startswith("urn:dsvault:")
        return dict(document)


def connect(endpoint: str, timeout: float = 10) -> socket.socket:
    """A connection to a broker."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout)


def answer(connection: socket.socket) -> Answer:
    """The next answer on a connection, its body by its length or to the end; nothing behind it is taken."""
    head, body = b"", b""
    with suppress(ConnectionError):
        while not head.endswith(b"\r\n\r\n"):
            if not (piece := connection.recv(1)):
                break
            head += piece
    if not head.endswith(b"\r\n\r\n"):
        return Answer(0, {}, head)
    first, *lines = head.decode("latin1").strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", 1 << 40))
    with suppress(ConnectionError):
        while len(body) < length and (piece := connection.recv(min(65536, length - len(body)))):
            body += piece
    return Answer(int(first.split()[1]), headers, body)


def ask(endpoint: str, data: bytes) -> Answer:
    """Send these bytes and take what comes."""
    with connect(endpoint) as connection:
        with suppress(ConnectionError):  # it may have answered before all of it was sent
            connection.sendall(data)
        return answer(connection)


def ends_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side closes a connection in that time."""
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False
