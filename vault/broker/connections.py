"""The broker's side of each connection: what uvicorn's own protocol leaves open.

uvicorn has no time in which the head or the body of a request has to be there, closes no connection on which nothing
ever comes, answers malformed HTTP in plain text, and knows no bound on connections that spares those which are in use.
This is its protocol with these four. A request is *awaited* from the connection (or, on one that was used before, from
its first byte) until its last byte came; it has to come whole in so many seconds. Beyond so many connections
a new one takes the place of one that waits: of the address that has most of them waiting the oldest, so that whoever
fills the broker with connections that say nothing loses them first. Where none waits, the new one is refused.
"""

import asyncio
import logging
import sys
from typing import Any, Final, final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vault import wire
from vault.broker.logs import request_id
from vault.broker.metrics import Metrics
from vault.broker.problems import document
from vault.encoding import new_id

__all__ = ["Connections", "Protocol"]

_LOG = logging.getLogger("dsvault.requests")
_NOBODY: Final = "unknown"


@final
class Connections:
    """All connections of one process; those that wait for a request, by address, oldest first."""

    def __init__(self, most: int, seconds: float, metrics: Metrics) -> None:
        self.seconds = seconds
        self.metrics = metrics
        self._most = most
        self._all = 0
        self._waiting: dict[str, dict[Protocol, None]] = {}

    def enter(self, connection: "Protocol") -> bool:
        """Count a new connection, for which another one may have to go; False when there is no place for it."""
        self._all += 1
        if self._all > self._most:
            fullest = max(self._waiting.values(), key=len, default=None)
            if fullest is None:
                return False
            oldest = next(iter(fullest))
            self.work(oldest)
            oldest.drop()
        self.wait(connection)
        return True

    def leave(self, connection: "Protocol") -> None:
        """A connection has ended."""
        self._all -= 1
        self.work(connection)

    def wait(self, connection: "Protocol") -> None:
        """A connection waits for the rest of a request, or for the next one."""
        self._waiting.setdefault(connection.address, {})[connection] = None

    def work(self, connection: "Protocol") -> None:
        """A connection waits no more."""
        mates = self._waiting.get(connection.address, {})
        mates.pop(connection, None)
        if not mates:
            self._waiting.pop(connection.address, None)


class Protocol(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._house = connections
        self._deadline: asyncio.TimerHandle | None = None
        self.address = _NOBODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else _NOBODY
        self._await_request()
        if not self._house.enter(self):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended."""
        self._stop_waiting()
        self._house.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """An answer is out; the next request may be here already, whole or in part."""
        super().on_response_complete()
        self._look()

    def shutdown(self) -> None:
        """The server stops: a request that is not here yet is not waited for; others are answered first."""
        if self.transport.is_closing():
            return
        if self._deadline is not None:
            self._refuse(503)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is no HTTP; called where h11 has just said what is wrong."""
        error = sys.exception()
        self._refuse(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400)

    def drop(self) -> None:
        """Make room for another connection."""
        self._stop_waiting()
        self.transport.abort()

    def _look(self) -> None:
        """See to it that there is a deadline exactly while a request is awaited."""
        if self.transport.is_closing():
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
            self._await_request()
            self._house.wait(self)
        elif state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            # Nothing of a request is here: before the first one the deadline stands, later uvicorn's own for idleness.
            if self.cycle is not None:
                self._stop_waiting()
            self._house.wait(self)
        else:
            self._stop_waiting()
            self._house.work(self)

    def _await_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._house.seconds, self._late)

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
        if self.cycle is not None:
            # Whoever answers what came before has nobody to answer any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        status, body = document(status)
        if self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD":
            body = b""  # which an answer to HEAD never has
        request = new_id()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", wire.PROBLEM_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request.encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._house.metrics.answered("other", status, 0.0)
        named = request_id.set(request)
        _LOG.info("refused", extra={"route": "other", "status": status})
        request_id.reset(named)
