"""What one process knows of the spool: who builds which file just now, and how much room there is.

A file is built by one alone; whoever asks for it meanwhile waits, for as long as it is there to have it. Room is what
lies in the store, counted at most every ten seconds, and what was put, or is being put, by this process since. So
requests of one process never fill the spool beyond its caps, however many there are, and several processes do by what
the others put between two counts. What nobody has an address of any more is removed at a count.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, final

from vault.errors import LimitReached, Unavailable, VaultError
from vault.objects import ObjectStore
from vault.spool import FOLDER, SpoolLimits, ends, vendor_of

__all__ = ["SpoolCounts", "Spools"]

_LOG = logging.getLogger("dsvault.spool")
#: For how many seconds a count is good, and one that leaves no room.
_AGE: Final = 10.0
_SHORT_AGE: Final = 1.0
#: How often who waits looks whether it still has to.
_LOOK_SECONDS: Final = 0.2
#: For how many seconds reads of a file refer to an earlier one for its rows, and of how many files that is known.
_READ_SECONDS: Final = 60.0
_MOST_READ: Final = 4096
#: Removed at one count: what one request takes, where the store is asked by requests.
_REMOVED: Final = 1000
_YOURS: Final = "the files that are spooled for you are as many as may be; fetch some less, or later"
_ALL: Final = "the vault's spool of shared files is full; ask the lab"


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """How many files this process built, found damaged, and did not build since there was no room."""

    built: int
    damaged: int
    full: int


@dataclass(slots=True)
class _Own:
    """A file of this process's that no count has seen: since when it is put, None while it is not."""

    vendor: str
    size: int
    put: float | None = None


@dataclass(frozen=True, slots=True)
class _Count:
    """What lay in the store when it was listed."""

    at: float
    total: int
    vendors: Counter[str]


@final
class Spools:
    """Turns and room of one process. Safe for use from several threads."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._changed = threading.Condition()
        self._building: set[str] = set()
        self._turns: Counter[str] = Counter()
        # Who counts keeps the others waiting: they go by its count.
        self._room = threading.Lock()
        self._count: _Count | None = None
        self._own: dict[str, _Own] = {}
        self._warned: float | None = None
        self._happened: Counter[str] = Counter()
        self._read: dict[str, tuple[float, int]] = {}

    @property
    def counts(self) -> SpoolCounts:
        """What happened so far."""
        with self._changed:
            return SpoolCounts(*(self._happened[name] for name in ("built", "damaged", "full")))

    def happened(self, what: str) -> None:
        """Count something."""
        with self._changed:
            self._happened[what] += 1

    def read_before(self, name: str) -> int | None:
        """The number of an entry of the last minute that says which rows an object's file has."""
        with self._changed:
            at, number = self._read.get(name, (0.0, None))
            return number if number is not None and self._clock() - at < _READ_SECONDS else None

    def was_read(self, name: str, number: int) -> None:
        """Note that an entry says so; it is durable by now."""
        with self._changed:
            if len(self._read) >= _MOST_READ:
                self._read.clear()
            self._read[name] = self._clock(), number

    @contextmanager
    def turn(self, name: str, go_on: Callable[[], None], most: int | None = None) -> Iterator[None]:
        """Be the only one who builds an object of that name, once whoever does is done.

        ``go_on`` is asked while that takes; what it raises ends the waiting. With ``most``, Unavailable where so many
        have or await a turn for the same vendor: for those who wait in threads that are everybody's.
        """
        vendor = vendor_of(name)
        with self._changed:
            if most is not None and self._turns[vendor] >= most:
                raise Unavailable("files of the vendor are being built already; ask again later")
            self._turns[vendor] += 1
        try:
            while not self._taken(name):
                go_on()
            try:
                yield
            finally:
                with self._changed:
                    self._building.discard(name)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._turns[vendor] -= 1
                if not self._turns[vendor]:
                    del self._turns[vendor]

    def _taken(self, name: str) -> bool:
        """Take the turn, after a moment if it is another's; False where it still is."""
        with self._changed:
            if name in self._building:
                self._changed.wait(_LOOK_SECONDS)
            if name in self._building:
                return False
            self._building.add(name)
            return True

    @contextmanager
    def room(self, limits: SpoolLimits, name: str, size: int, now: datetime) -> Iterator[None]:
        """Have room for an object while it is put, and from then on unless that fails; raises LimitReached."""
        vendor = vendor_of(name)
        with self._room:
            self._reserve(limits, vendor, size, now)
            self._own[name] = own = _Own(vendor, size)
        try:
            yield
        except BaseException:
            with self._room:
                self._own.pop(name, None)
            raise
        own.put = self._clock()
        self.happened("built")

    def _reserve(self, limits: SpoolLimits, vendor: str, size: int, now: datetime) -> None:
        refused = None
        # What was removed meanwhile is room, and is not waited for.
        for age in (_AGE, _SHORT_AGE):
            count = self._counted(age, now)
            own = Counter({vendor: 0})
            for each in self._own.values():
                own[each.vendor] += each.size
            refused = None
            if count.vendors[vendor] + own[vendor] + size > limits.vendor_bytes:
                refused = _YOURS
            elif count.total + own.total() + size > limits.total_bytes:
                refused = _ALL
            if refused is None:
                return
        self.happened("full")
        if self._warned != count.at:
            self._warned = count.at
            whose = f"of the vendor {vendor}" if refused == _YOURS else "of all vendors"
            _LOG.warning("there is no room for another shared file: the spooled ones %s are at their cap", whose)
        raise LimitReached(refused)

    def _counted(self, age: float, now: datetime) -> _Count:
        """A count that is no older than that; raises Unavailable."""
        at = self._clock()
        if self._count is not None and at - self._count.at < age:
            return self._count
        total, vendors, over = 0, Counter[str](), []
        for info in self._store.list(FOLDER):
            if (own := self._own.get(info.name)) is not None and own.put is not None:
                del self._own[info.name]
            if own is not None and own.put is None:
                continue  # it is put just now, and counted as that
            if ends(info.name) <= now:
                over.append(info)
            else:
                vendors[vendor_of(info.name)] += info.size
            total += info.size
        # What was put before the listing began, and is not in it, was removed since.
        for name in [name for name, own in self._own.items() if own.put is not None and own.put < at]:
            del self._own[name]
        # The oldest first: a listing is by name, which begins with the end.
        if self._removed([info.name for info in over[:_REMOVED]]):
            total -= sum(info.size for info in over[:_REMOVED])
        self._count = _Count(at, total, vendors)
        return self._count

    def _removed(self, names: list[str]) -> bool:
        """Remove what is over; where that is not possible it is left to gc, and counts."""
        if not names:
            return False
        try:
            self._store.delete_all(names)
        except VaultError as error:
            _LOG.warning("%d shared files whose time is over could not be removed: %s", len(names), error)
            return False
        _LOG.info("%d shared files whose time was over were removed", len(names))
        return True
