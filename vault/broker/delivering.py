"""Sending what is made piece by piece: as a stream that is watched, whole or in one range (RFC 9110 section 14.2)."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vault.broker import problems
from vault.broker.shares import Shares
from vault.errors import VaultError

__all__ = ["NOT_KEPT", "Reading", "Sized", "Streaming", "behind", "ranged"]

_LOG = logging.getLogger("dsvault.broker")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
NOT_KEPT: Final = {"Cache-Control": "no-store"}
_Piece = TypeVar("_Piece")
#: How often it is looked at whether a stream may go on, and how long it has then to end by itself.
_LOOK_SECONDS, _END_SECONDS = 1.0, 2.0
#: The threads for what the broker itself looks at, however many others read.
_ASIDE = CapacityLimiter(8)


class Sized(Protocol):
    """Something of a known size that can be read in part, for as long as its vendor may have it."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def vendor(self) -> str:
        """Whose it is."""
        ...

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``."""
        ...

    def check(self) -> None:
        """Raise what ends it."""
        ...


def ranged(
    found: Sized,
    asked: str,
    shares: Shares,
    *,
    head: bool,
    count: Callable[[Iterable[bytes]], Iterator[bytes]],
    path: str = "",
) -> Response:
    """One range, or the whole: a Range header of a HEAD, or that is not one range of bytes, is passed over (RFC 9110
    section 14.2)."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **NOT_KEPT}
    start, stop, status = 0, found.size, 200
    match = _RANGE.fullmatch(asked) if not head else None
    if match is not None and _is_range(match[1], match[2]):
        first, last = match[1], match[2]
        start = int(first) if first else max(0, found.size - int(last))
        stop = min(found.size, int(last) + 1) if first and last else found.size
        if start >= stop:
            return problems.refusal(416, {"Content-Range": f"bytes */{found.size}"}, path)
        headers["Content-Range"], status = f"bytes {start}-{stop - 1}/{found.size}", 206
    headers["Content-Length"] = str(stop - start)
    if head:
        return Response(status_code=status, headers=headers)
    # As with a read: what is not there any more is refused with a status.
    pieces = found.pieces(start, stop)
    reading = Reading(count(behind(next(pieces, None), pieces)), found.check, shares, found.vendor)
    return Streaming(reading, status, headers)


def _is_range(first: str, last: str) -> bool:
    """RFC 9110 section 14.1.1: neither nothing, nor one that ends before it begins."""
    return bool(first or last) and not (first and last and int(last) < int(first))


def behind(first: _Piece | None, others: Iterator[_Piece]) -> Iterator[_Piece]:
    """A batch or piece that was taken already, and what comes behind it; closing this ends the read."""
    try:
        if first is not None:
            yield first
        yield from others
    finally:
        others.close()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Reading:
    """The pieces of a stream, whether it may go on, and of whose share of the threads they are made."""

    pieces: Iterator[bytes]
    check: Callable[[], None]
    shares: Shares
    vendor: str

    async def taken(self) -> AsyncIterator[bytes]:
        """The pieces, each made in a thread that is had for as long as that takes."""
        while True:
            await self.shares.take(self.vendor)
            try:
                piece = await run_in_threadpool(next, self.pieces, None)
            finally:
                self.shares.give(self.vendor)
            if piece is None:
                return
            yield piece

    async def close(self) -> None:
        """End the read."""
        await to_thread.run_sync(self.pieces.close, limiter=_ASIDE)  # type: ignore[attr-defined]

    async def has_ended(self) -> bool:
        """Whether it may not go on."""
        return await to_thread.run_sync(self._ended, limiter=_ASIDE)

    def _ended(self) -> bool:
        try:
            self.check()
        except Exception:  # noqa: BLE001
            # Whatever keeps it from being found out: what is not known to be allowed is not.
            return True
        return False


class Streaming(StreamingResponse):
    """A stream that is closed as soon as nobody takes it any more, or may have it any more.

    Left to the garbage collector, it would be ended at some time, in the midst of whatever a thread does then. A stream
    looks itself whether it may go on, before each piece; one that is not read comes to none, and is watched from beside
    it.
    """

    def __init__(self, reading: Reading, *args: Any, **options: Any) -> None:
        super().__init__(reading.taken(), *args, **options)
        self._reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        watching = asyncio.create_task(self._watch(scope.get("state", {})))
        try:
            await super().__call__(scope, receive, send)
        except VaultError as error:
            # The answer has begun: all that can be said is that it ends here, and is not whole.
            _LOG.warning("an answer was broken off: %s", type(error).__name__)
            scope["state"]["drop"]()
            await asyncio.sleep(0)
        finally:
            watching.cancel()
            with CancelScope(shield=True):
                await self._reading.close()

    async def _watch(self, state: MutableMapping[str, Any]) -> None:
        """Drop the connection when it may not go on, and does not end."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if await self._reading.has_ended():
                await asyncio.sleep(_END_SECONDS)
                if await self._reading.has_ended():
                    state["drop"]()
                    return
