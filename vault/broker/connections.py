"""The broker's side of each connection: what uvicorn's own protocol over httptools leaves open.

uvicorn has no time in which the head or the body of a request has to be there, no bound on the length of a head, closes
no connection on which nothing ever comes or from which nothing is ever taken, answers malformed HTTP in plain text, and
knows no bound on connections that spares those which are in use. This is its protocol with these six. A request is
*awaited* from the connection (or, on one that was used before, from its first byte) until its last byte came; it has to
come whole in so many seconds, and a long body in as many more as it takes at 256 KiB a second. Beyond so many
connections a new one takes the place of one that waits: of the address that has most of them waiting the oldest, so
that whoever fills the broker with connections that say nothing loses them first. Where none waits, one goes whose
client does not take its answer, chosen likewise. Where there is none of these either, the new one is refused: what is
being taken is not broken off for it.
"""

import asyncio
import functools
import logging
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vault import wire
from vault.broker.bounds import HEAD_BYTES
from vault.broker.logs import request_id
from vault.broker.metrics import Metrics
from vault.broker.problems import document
from vault.broker.sending import Sending
from vault.encoding import new_id

__all__ = ["Connections", "Protocol"]

_LOG = logging.getLogger("dsvault.requests")
_NOBODY: Final = "unknown"
#: What a transport may hold under TLS before whoever writes has to wait, as without.
_HIGH_BYTES: Final = 64 << 10
#: Bytes a second of a long body, such as a submission has, and how many bytes it is waited for at that pace.
_LEAST_PACE: Final = 256 << 10
_MOST_AWAITED: Final = 1 << 30


class _Queues:
    """Some of the connections, by address, oldest first."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[Protocol, None]] = {}

    def put(self, connection: "Protocol") -> None:
        """Add one; one that is here already keeps its place."""
        self._queues.setdefault(connection.address, {})[connection] = None

    def remove(self, connection: "Protocol") -> None:
        """Take one away, if it is here."""
        mates = self._queues.get(connection.address, {})
        mates.pop(connection, None)
        if not mates:
            self._queues.pop(connection.address, None)

    def first(self) -> "Protocol | None":
        """Of the address that has most of them the oldest."""
        fullest = max(self._queues.values(), key=len, default=None)
        return next(iter(fullest)) if fullest is not None else None


@final
class Connections:
    """All connections of one process; those that wait for a request, and those whose answers are not taken.

    A request has ``seconds`` to come, and what is written has ``send_seconds`` from the last of it that was taken.
    """

    def __init__(self, most: int, seconds: float, send_seconds: float, metrics: Metrics) -> None:
        self.seconds = seconds
        self.send_seconds = send_seconds
        self.metrics = metrics
        self._most = most
        self._all = 0
        self._waiting = _Queues()
        self._stuck = _Queues()

    def enter(self, connection: "Protocol") -> bool:
        """Count a new connection, for which another one may have to go; False when there is no place for it."""
        self._all += 1
        if self._all > self._most:
            dropped = self._waiting.first() or self._stuck.first()
            if dropped is None:
                return False
            self._forget(dropped)
            dropped.drop()
        self.wait(connection)
        return True

    def leave(self, connection: "Protocol") -> None:
        """A connection has ended."""
        self._all -= 1
        self._forget(connection)

    def wait(self, connection: "Protocol") -> None:
        """A connection waits for the rest of a request, or for the next one."""
        self._waiting.put(connection)

    def work(self, connection: "Protocol") -> None:
        """A connection waits no more."""
        self._waiting.remove(connection)

    def stuck(self, connection: "Protocol", stuck: bool) -> None:
        """Whether nothing of what was written on a connection is being taken."""
        if stuck:
            self._stuck.put(connection)
        else:
            self._stuck.remove(connection)

    def _forget(self, connection: "Protocol") -> None:
        self._waiting.remove(connection)
        self._stuck.remove(connection)


class _Part(Enum):
    """What part of a request the next byte is of."""

    NONE = 0
    HEAD = 1
    BODY = 2


class _Refused(Exception):
    """Raised in the parser's callbacks, which the parser turns into an error of its own."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._house = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._part = _Part.NONE
        # Of the head that is coming: the bytes that came with it, and those that were understood.
        self._came = self._head = 0
        self._status = 400
        self._active: Any = None
        self._lost = False
        self._sending: Sending
        self.address = _NOBODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins."""
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is not None:
            # It would take eight times as much before it said so.
            transport.set_write_buffer_limits(high=_HIGH_BYTES)
        self.address = self.client[0] if self.client else _NOBODY
        self._sending = Sending(transport, self._house.send_seconds, functools.partial(self._house.stuck, self))
        self._await_request()
        if not self._house.enter(self):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended."""
        self._lost = True
        self._stop_waiting()
        self._sending.end()
        self._house.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More is written than the client has taken and the transport is to hold."""
        super().pause_writing()
        self._sending.begin()
        self._look()

    def resume_writing(self) -> None:
        """Most of it was taken."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._sending.end()
        self._look()

    def timeout_keep_alive_handler(self) -> None:
        """No other request came."""
        super().timeout_keep_alive_handler()
        self._see_off()

    def data_received(self, data: bytes) -> None:
        """Some bytes came; of a head that is not whole with them no more than the bound are waited for."""
        if self.transport.is_closing():
            return
        if self._part is not _Part.BODY:
            self._came += len(data)
        super().data_received(data)
        if self._part is _Part.HEAD and self._came > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431)
        self._look()

    def on_message_begin(self) -> None:
        """The parser's: a request begins."""
        super().on_message_begin()
        self._part, self._head = _Part.HEAD, 0
        # For an answer that may not be sent any more, and would not end by itself.
        self.scope["state"]["drop"] = self.drop
        # For work that is of no use once nobody is there to have it; asked from other threads.
        self.scope["state"]["gone"] = self.is_gone

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
        if not self.url.startswith(b"/"):
            # Of another server's, or of none: nothing that is asked for here (RFC 9112 section 3.2).
            raise _Refused
        upgrade = self.parser.should_upgrade()
        if upgrade and any(name == b"content-length" for name, _ in self.headers):
            # The parser has what comes behind such a head for another protocol's, and would give no body.
            raise _Refused
        self._part, self._came = _Part.BODY, 0
        self._await_body()
        super().on_headers_complete()
        if upgrade:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The parser's: the request is whole, and the next byte is of another."""
        self._part, self._came = _Part.NONE, 0
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            self._status = 431
            raise _Refused

    def on_response_complete(self) -> None:
        """An answer is out; the next request may be here already, whole or in part."""
        super().on_response_complete()
        self._look()
        self._see_off()

    def shutdown(self) -> None:
        """The server stops: a request that is not here yet is not waited for; others are answered first."""
        if self.transport.is_closing():
            return
        if self._deadline is not None:
            self._refuse(503)
        else:
            super().shutdown()
            self._see_off()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is no HTTP, and what came whole before it first."""
        if self._working:
            self.pipeline.clear()
            self.flow.pause_reading()
            self._active.keep_alive = False
        else:
            self._refuse(self._status)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def drop(self) -> None:
        """End the connection at once, whatever was written on it: for another one, or since nobody may have that."""
        self._stop_waiting()
        self.transport.abort()

    def is_gone(self) -> bool:
        """Whether the connection has ended, so that nothing can be answered on it any more."""
        return self._lost

    @property
    def _working(self) -> bool:
        """Whether a request that is whole is being answered."""
        active = self._active
        return active is not None and not active.response_complete and not active.more_body

    def _look(self) -> None:
        """See to it that there is a deadline exactly while a request is awaited."""
        if self.transport.is_closing():
            return
        if self._working:
            self._stop_waiting()
            self._house.work(self)
            return
        if self._part is not _Part.NONE:
            self._await_request()
        elif self._active is not None:
            # Nothing of a request is here: before the first one the deadline stands, later uvicorn's own for idleness.
            self._stop_waiting()
        if self.flow.write_paused:
            # The last of an answer that was made is still on its way.
            self._house.work(self)
        else:
            self._house.wait(self)

    def _see_off(self) -> None:
        """Where it is being closed, do not wait for ever until the last of it is taken."""
        if self.transport.is_closing():
            self._sending.begin()

    def _await_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._house.seconds, self._late)

    def _await_body(self) -> None:
        """Give a long body the time that it takes at the least pace, in the place of what is left."""
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        seconds = min(int(length), _MOST_AWAITED) / _LEAST_PACE if length.isdigit() and len(length) <= 18 else 0
        if seconds >= 1 and self._deadline is not None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(self._house.seconds + seconds, self._late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        """End the connection, with a problem where no other answer has begun."""
        self._stop_waiting()
        cycle = self._active
        awaited = cycle is not None and not cycle.response_complete
        # Nothing is put in the place of an answer that is being made, or behind the one of a request that goes on.
        answered = self._working or (cycle is not None and not awaited and self._part is _Part.BODY)
        self.pipeline.clear()
        if awaited:
            answered = answered or cycle.response_started
            # Whoever answers what came before has nobody to answer any more.
            cycle.disconnected = True
            cycle.message_event.set()
        if answered:
            self.transport.abort()
            return
        status, body = document(status)
        request = new_id()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", wire.PROBLEM_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request.encode()),
            (b"connection", b"close"),
        ]
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        lines += [name + b": " + value for name, value in headers]
        # An answer to HEAD never has a body.
        bare = awaited and cycle.scope["method"] == "HEAD"
        self.transport.write(b"\r\n".join([*lines, b"", b"" if bare else body]))
        self.transport.close()
        self._see_off()
        self._house.metrics.answered("other", status, 0.0)
        named = request_id.set(request)
        _LOG.info("refused", extra={"route": "other", "status": status})
        request_id.reset(named)
