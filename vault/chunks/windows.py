"""Reading a chunk in pieces and writing one in pieces, so that a rekey's memory does not grow with the chunk.

A `Readable` is an object's bytes by range: all of them in memory, or in a store that reads ranges. A `Window` goes
through one part of it from front to back. A `Sink` gives room to write into and passes on what is full.
"""

from collections.abc import Callable
from typing import Final, Protocol, final

__all__ = ["InMemory", "Readable", "Sink", "Window", "readable"]

#: How many bytes are held of a chunk that is read or written in pieces; one page may be larger.
PIECE: Final = 8 << 20


class Readable(Protocol):
    """An object's bytes. ``step`` is how many are best read at once, in bytes."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    @property
    def step(self) -> int:
        """Bytes to read at once."""
        ...

    def read(self, start: int, stop: int) -> memoryview:
        """Exactly the bytes from ``start`` up to ``stop``; raises NotFound, Unavailable or IntegrityError."""
        ...


@final
class InMemory:
    """Bytes that are in memory already; reading copies none."""

    def __init__(self, data: object) -> None:
        self._view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self.size = len(self._view)
        self.step = self.size

    def read(self, start: int, stop: int) -> memoryview:
        """A slice."""
        return self._view[start:stop]


def readable(data: object) -> Readable:
    """A `Readable` of one, or of any buffer of bytes."""
    return data if hasattr(data, "read") and hasattr(data, "step") else InMemory(data)  # type: ignore[return-value]


@final
class Window:
    """Goes through a part of an object from front to back, holding one piece at a time."""

    def __init__(self, source: Readable, start: int, stop: int) -> None:
        self._source = source
        self._next = self._first = start
        self._stop = stop
        self._held = memoryview(b"")

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return self._stop - self._next

    def peek(self, count: int) -> memoryview:
        """The next bytes, which are not taken; there must be as many left."""
        offset = self._next - self._first
        if offset + count > len(self._held):
            ends = min(self._stop, self._next + max(count, self._source.step))
            self._held, self._first = self._source.read(self._next, ends), self._next
            offset = 0
        return self._held[offset : offset + count]

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        found = self.peek(count)
        self._next += count
        return found


@final
class Sink:
    """Room to write into, in order; what is full goes to ``write``."""

    def __init__(self, write: Callable[[memoryview], object], total: int) -> None:
        self._write = write
        self._buffer = memoryview(bytearray(min(PIECE, total)))
        self._used = 0

    def room(self, count: int) -> memoryview:
        """Where the next ``count`` bytes go; they must be filled before anything else is asked for."""
        if self._used + count > len(self._buffer):
            self.flush()
        if count > len(self._buffer):
            self._buffer = memoryview(bytearray(count))
        self._used += count
        return self._buffer[self._used - count : self._used]

    def flush(self) -> None:
        """Pass on what was written."""
        if self._used:
            self._write(self._buffer[: self._used])
            self._used = 0
