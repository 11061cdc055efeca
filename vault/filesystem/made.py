"""Files that were made in memory, kept for the short time in which a tool opens one several times."""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from vault.encoding import utcnow

__all__ = ["Handle", "Kept", "Made"]

_MARGIN: Final = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Made:
    """A file's bytes, when it was made, and until when it may be opened anew (by the monotonic clock)."""

    data: pa.Buffer
    made: datetime
    until: float


class _Turn:
    """Who is making a file, and how many wait for it."""

    __slots__ = ("lock", "takers")

    def __init__(self) -> None:
        self.lock, self.takers = threading.Lock(), 0


class Kept:
    """Files by what they are of. Safe for use from several threads; each is made once however many ask for it.

    A file is given out for ``seconds`` from its making on, however often it is opened: what the lab erases is read no
    longer. Then it is let go, without anybody asking. Of all that are kept the oldest go first beyond ``most`` bytes;
    the newest stays, so that who asks for a size can open what is of that size.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self._files: dict[Any, Made] = {}
        self._turns: dict[Any, _Turn] = {}

    def get(self, key: Any, make: Callable[[], pa.Buffer]) -> Made:
        """The file of a key, made where there is none; raises what ``make`` does."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.takers += 1
        try:
            with turn.lock:
                found = self.found(key)
                if found is None:
                    found = self._keep(key, make())
                return found
        finally:
            with self._lock:
                turn.takers -= 1
                if not turn.takers:
                    del self._turns[key]

    def found(self, key: Any) -> Made | None:
        """The file of a key where there is one."""
        with self._lock:
            self._let_go()
            return self._files.get(key)

    def _keep(self, key: Any, data: pa.Buffer) -> Made:
        made = Made(data, utcnow(), time.monotonic() + self._seconds)
        with self._lock:
            self._files[key] = made
            self._let_go()
        timer = threading.Timer(self._seconds + _MARGIN, self._later)
        timer.daemon = True
        timer.start()
        return made

    def _later(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        """Under the lock: what is too old, and what is too much."""
        now = time.monotonic()
        for key in [key for key, made in self._files.items() if made.until <= now]:
            del self._files[key]
        while len(self._files) > 1 and sum(made.data.size for made in self._files.values()) > self._most:
            del self._files[next(iter(self._files))]


class Handle(io.RawIOBase):
    """A made file that is open for reading; it has the bytes itself, whatever becomes of the kept ones."""

    def __init__(self, path: str, data: pa.Buffer) -> None:
        super().__init__()
        self.path = self.name = path
        self.mode = "rb"
        self.size = data.size
        self._data = memoryview(data).cast("B")
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file's."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("a file has no place before its beginning")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or all that are left."""
        return bytes(self.read_buffer(size))

    def readall(self) -> bytes:
        """All that are left."""
        return self.read()

    def readinto(self, target: Any) -> int:
        """As many bytes as there is room for."""
        room = memoryview(target).cast("B")
        piece = self.read_buffer(len(room))
        room[: len(piece)] = piece
        return len(piece)

    def read_buffer(self, size: int | None = -1) -> memoryview:
        """The same as `read` without a copy; pyarrow asks for it."""
        if self.closed:
            raise ValueError("the file is closed")
        end = self.size if size is None or size < 0 else min(self.size, self._at + size)
        piece = self._data[self._at : end]
        self._at += len(piece)
        return piece
