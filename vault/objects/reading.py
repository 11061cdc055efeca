"""Reading an object in pieces: few requests, some of them ahead of who reads."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, Protocol, final

__all__ = ["RANGE", "Ranges", "StoredObject", "whole"]

#: The end of an object that is read at once when a part of it is asked for; most footers lie within.
_TAIL: Final = 16 << 10
#: An object up to this size comes with one request, and a larger one in ranges of it, in bytes.
RANGE: Final = 8 << 20
#: Ranges that are fetched ahead of the one that is read.
_AHEAD: Final = 2


class Ranges(Protocol):
    """Where objects are read by ranges."""

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Exactly these bytes."""
        ...


def whole(store: Ranges, threads: Executor, name: str, size: int) -> bytearray:
    """All of a large object, its ranges fetched in parallel; raises what `ObjectStore.get_range` does."""
    found = bytearray(size)

    def fetch(start: int) -> None:
        stop = min(start + RANGE, size)
        found[start:stop] = store.get_range(name, start, stop)

    for _ in threads.map(fetch, range(0, size, RANGE)):
        pass
    return found


@final
class StoredObject:
    """An object of a known size by ranges (a `vault.chunks.Readable`), for one thread.

    With ``threads`` it is fetched by requests: a small one whole at the first piece, ranges of a large one ahead of
    whoever goes through it from front to back. With ``ends`` a footer takes its ends alone.
    """

    #: Few requests, and little memory.
    step = RANGE

    def __init__(
        self, store: Ranges, name: str, size: int, threads: Callable[[], Executor] | None = None, *, ends: bool = False
    ) -> None:
        self._store = store
        self._name = name
        self._threads = threads
        self._tail: memoryview | None = None
        self._fetched: dict[int, Future[bytes]] = {}
        self._ends = ends
        self.size = size

    def read(self, start: int, stop: int) -> memoryview:
        """Exactly these bytes."""
        if self._threads is not None and self.size <= RANGE and not self._ends:
            if self._tail is None:
                self._tail = memoryview(self._store.get_range(self._name, 0, self.size))
            return self._tail[start:stop]
        # A chunk's frame and footer are several small reads at its end: one request serves them.
        last = self.size - min(self.size, _TAIL)
        if last <= start and stop - start < _TAIL:
            if self._tail is None:
                self._tail = memoryview(self._store.get_range(self._name, last, self.size))
            return self._tail[start - last : stop - last]
        if self._threads is None or self._ends:
            return memoryview(self._store.get_range(self._name, start, stop))
        return self._in_ranges(start, stop)

    def _in_ranges(self, start: int, stop: int) -> memoryview:
        first, last = start // RANGE, (stop - 1) // RANGE
        for number in [number for number in self._fetched if number < first]:
            del self._fetched[number]
        for number in range(first, min(last + _AHEAD, (self.size - 1) // RANGE) + 1):
            if number not in self._fetched:
                self._fetched[number] = self._fetch(number)
        pieces = []
        for number in range(first, last + 1):
            whole = memoryview(self._fetched[number].result())
            pieces.append(whole[max(0, start - number * RANGE) : stop - number * RANGE])
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _fetch(self, number: int) -> "Future[bytes]":
        assert self._threads is not None
        stop = min((number + 1) * RANGE, self.size)
        return self._threads().submit(self._store.get_range, self._name, number * RANGE, stop)

    def __repr__(self) -> str:
        return f"StoredObject({self._name})"
