"""Whether what was written on a connection is being taken.

A client that reads nothing lets the kernel's buffers fill, and then the transport's; whoever answers it waits then, and
nothing else would end that. What counts as taken is what the client's kernel has acknowledged: the transport's buffer
stands still for a long time where the kernel's own is large, and says nothing where TLS lies between.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, final

__all__ = ["Sending"]

#: How often it is looked at.
_LOOK_SECONDS: Final = 1.0
#: What has to be taken in between: a byte now and then is no progress.
_STEP: Final = 1024
#: Where ``tcpi_bytes_acked`` is in Linux's ``struct tcp_info``: behind 8 bytes and 24 words, and two rates of 8 bytes.
_ACKED: Final = struct.Struct("=120xQ")


def _taken(transport: asyncio.Transport) -> int:
    """A count that grows as a client takes what was written, while nothing more is."""
    line = transport.get_extra_info("socket")
    if line is not None and line.family in {socket.AF_INET, socket.AF_INET6} and hasattr(socket, "TCP_INFO"):
        told = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        if len(told) == _ACKED.size:
            (acknowledged,) = _ACKED.unpack(told)
            return int(acknowledged)
    return -transport.get_write_buffer_size()


@final
class Sending:
    """A watch over one connection, which runs while more is written than the transport is to hold.

    ``stuck`` is told at each look whether nothing went on since the last one. After ``seconds`` of that the connection
    is aborted.
    """

    def __init__(self, transport: asyncio.Transport, seconds: float, stuck: Callable[[bool], None]) -> None:
        self._transport = transport
        self._seconds = seconds
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._mark = 0
        self._since = 0.0

    def begin(self) -> None:
        """Watch from here on; nothing more where it is watched already."""
        if self._timer is None:
            self._mark, self._since = _taken(self._transport), self._loop.time()
            self._again()

    def end(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stuck(False)

    def _again(self) -> None:
        self._timer = self._loop.call_later(min(_LOOK_SECONDS, self._seconds), self._look)

    def _look(self) -> None:
        taken, now = _taken(self._transport), self._loop.time()
        goes_on = taken - self._mark >= _STEP
        if goes_on:
            self._mark, self._since = taken, now
        elif now - self._since >= self._seconds:
            self._timer = None
            self._transport.abort()
            return
        self._stuck(not goes_on)
        self._again()
