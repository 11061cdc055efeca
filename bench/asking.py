"""Requests over raw sockets: one loop asks on all connections, and looks at the answers after the clock stopped.

Any HTTP client in Python would take more of the two cores than the broker. Every request is made before the clock
starts, with a proof of its own.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from vault.encoding import utcnow
from vault.proof import ProofKey
from vault.wire import DELEGATION_HEADER, Profile

__all__ = ["Answer", "Asker", "Line", "Requests", "ask"]

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What came of one request: when it was sent, seconds to the first byte and to the last, and all that came."""

    sent: float
    first: float
    last: float
    data: bytes

    @property
    def status(self) -> int:
        """The HTTP status; 0 where the connection broke."""
        return int(self.data[9:12]) if self.data[:5] == b"HTTP/" else 0

    @property
    def body(self) -> bytes:
        """What follows the head."""
        return self.data.partition(b"\r\n\r\n")[2]


class Requests:
    """Makes the bytes of requests of one credential at one broker."""

    def __init__(self, profile: Profile, url: str) -> None:
        self._url = url
        self._profile = profile
        self._key = ProofKey.parse(profile.key, "the profile") if profile.key is not None else None
        self._common = f"Host: {urlsplit(url).netloc}\r\nAuthorization: {profile.token.header()}\r\n"
        if profile.delegations:
            self._common += f"{DELEGATION_HEADER}: {','.join(profile.delegations)}\r\n"

    def make(self, path: str, body: dict[str, object]) -> bytes:
        """One POST, good for one use."""
        content = json.dumps(body).encode()
        proof = ""
        if self._key is not None:
            proof = f"DPoP: {self._key.prove('POST', self._url + path, self._profile.token.text, utcnow())}\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\n{self._common}{proof}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class Line:
    """One connection, and what is asked on it, one thing after the other."""

    def __init__(self, url: str, requests: Iterable[bytes]) -> None:
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.answers: list[Answer] = []
        self._waiting = iter(requests)
        self._data = b""
        self._whole: int | None = None
        self._sent = self._first = 0.0

    def begin(self, request: bytes | None = None) -> None:
        """Send the next request, or this one; raises RuntimeError where there is none left."""
        request = request or next(self._waiting, None)
        if request is None:
            raise RuntimeError("there were not enough requests")
        self._data, self._whole, self._first = b"", None, 0.0
        self._sent = time.perf_counter()
        self.socket.sendall(request)

    def take(self) -> bool:
        """Take what has come; whether the answer is whole with it."""
        more = self.socket.recv(262_144)
        now = time.perf_counter()
        self._first = self._first or now
        self._data += more
        if more and not self._is_whole():
            return False
        self.answers.append(Answer(self._sent, self._first - self._sent, now - self._sent, self._data))
        return True

    def _is_whole(self) -> bool:
        if self._whole is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return False
            length = _LENGTH.search(self._data, 0, end + 2)
            self._whole = end + 4 + int(length[1]) if length else -1
        return len(self._data) >= self._whole if self._whole >= 0 else self._data.endswith(b"\r\n0\r\n\r\n")


def ask(lines: Sequence[Line], seconds: float) -> float:
    """Ask on all lines for that long, and wait for the last answers; returns how long it took.

    Raises RuntimeError where the requests did not last.
    """
    began = time.perf_counter()
    ends, open_lines = began + seconds, len(lines)
    with selectors.EpollSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
            line.begin()
        while open_lines:
            for key, _ in selector.select():
                line = key.data
                if not line.take():
                    continue
                if time.perf_counter() < ends and line.answers[-1].status:
                    line.begin()
                else:
                    selector.unregister(line.socket)
                    line.socket.close()
                    open_lines -= 1
    return time.perf_counter() - began


class Asker:
    """One who asks now and then, and waits for each answer; every request is made as it is sent."""

    def __init__(self, profile: Profile, url: str) -> None:
        self._requests = Requests(profile, url)
        self._url = url
        self._line: Line | None = None

    def ask(self, path: str, body: dict[str, object]) -> Answer:
        """One request."""
        return self.send(self._requests.make(path, body))

    def send(self, request: bytes) -> Answer:
        """A request that is made already."""
        line = self._line or Line(self._url, ())
        line.socket.setblocking(True)
        self._line = line
        line.begin(request)
        while not line.take():
            pass
        answer = line.answers.pop()
        if not answer.status:
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.socket.close()
            self._line = None
