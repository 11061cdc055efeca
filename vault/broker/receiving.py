"""The route that takes what vendors send back. Its body is read in pieces and never held; nothing in it can be read
here.

A body is ``u32be length | envelope | object``. Who asks is found out before the body is looked at, and the proof is
used up then: a long body takes longer to come than a proof is good for. One vendor has few of these at a time, in
threads apart from those that read: whoever sends slowly holds up nobody else's reads.
"""

import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, final

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from vault import access, wire
from vault.broker.describing import of_route
from vault.broker.shares import LONGEST_WAIT, Shares
from vault.errors import Abandoned, InvalidInput
from vault.submission import MOST_ENVELOPE, Quarantine
from vault.workings.parts import Parts

__all__ = ["add"]

_LENGTH: Final = struct.Struct(">I")
#: What is taken at once of all vendors, and of one.
_AT_ONCE: Final = 16
_OF_ONE: Final = 2


@final
class _Body:
    """The bytes of a request as they come, for a thread that may wait for them."""

    def __init__(self, request: Request) -> None:
        self._stream: AsyncIterator[bytes] = request.stream()
        self._held = b""
        self.size = int(request.headers.get("content-length", "0"))

    def _next(self) -> bytes:
        """Some more bytes; none at the end."""
        try:
            return from_thread.run(self._pull)
        except ClientDisconnect as error:
            raise Abandoned("the client went away") from error

    async def _pull(self) -> bytes:
        async for piece in self._stream:
            if piece:
                return piece
        return b""

    def exactly(self, count: int) -> bytes:
        """The next bytes; raises InvalidInput where there are fewer."""
        while len(self._held) < count:
            piece = self._next()
            if not piece:
                raise InvalidInput("the body of the submission is cut off")
            self._held += piece
        found, self._held = self._held[:count], self._held[count:]
        return found

    def rest(self) -> Iterator[bytes]:
        """All that follows."""
        piece, self._held = self._held or self._next(), b""
        while piece:
            yield piece
            piece = self._next()

    async def discard(self) -> None:
        """Take what is left, so that a client that is still sending reads the answer."""
        try:
            while await self._pull():
                pass
        except ClientDisconnect:
            return


def add(app: FastAPI, parts: Parts, arrival: Callable[[Request], access.Arrival], quarantine: Quarantine) -> None:
    """Add the route to an application; ``arrival`` says who asks."""
    uploads, threads = Shares(_OF_ONE), CapacityLimiter(_AT_ONCE)

    def enter(request: Request) -> access.Caller:
        found = request.state.caller = arrival(request).enter(parts)
        return found

    def receive(name: str, caller: access.Caller, body: _Body) -> access.Received:
        length = _LENGTH.unpack(body.exactly(_LENGTH.size))[0]
        if length > MOST_ENVELOPE:
            raise InvalidInput("the envelope of the submission is too long")
        envelope = body.exactly(length)
        size = body.size - _LENGTH.size - length
        if not envelope.isascii():
            raise InvalidInput("the envelope of the submission is not one")
        return access.receive(parts, caller, name, envelope.decode("ascii"), size, body.rest(), quarantine)

    async def taken(request: Request, name: str, body: _Body) -> access.Received:
        caller = await run_in_threadpool(enter, request)
        await uploads.take(caller.vendor, LONGEST_WAIT)
        try:
            return await to_thread.run_sync(receive, name, caller, body, limiter=threads)
        finally:
            uploads.give(caller.vendor)

    @app.post("/v1/datasets/{name}/submissions", **of_route("submit"))
    async def submit(request: Request, name: str) -> Response:
        """Put a submission into quarantine."""
        body = _Body(request)
        try:
            found = await taken(request, name, body)
        except Abandoned:
            raise
        except Exception:
            await body.discard()
            raise
        # Of one that was there already nothing was read.
        await body.discard()
        document: dict[str, Any] = {
            "format": list(wire.WIRE_VERSION),
            "submission": found.submission,
            "received": found.received,
        }
        return JSONResponse(document, headers={"Cache-Control": "no-store"})
