"""Counting what is refused alike, so that whoever knows a credential's id and no secret cannot fill the log.

The first request of a vendor, credential, address and reason is to be told at once. Those that follow within some
seconds are counted, and are to be told together when the time is over. Nothing here writes: whoever asks does.

Memory is bounded. A credential that is refused from many addresses is counted on without them, and what cannot be
counted at all is to be told at once.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, final

__all__ = ["WINDOW_SECONDS", "Alike", "Repeated", "Repeats"]

#: For how long what is alike is counted, and so the most of the log that a killed process takes with it.
WINDOW_SECONDS: Final = 10.0
#: How many windows there are at the most, of all and of one credential; beyond the latter its address is left out.
_MOST: Final = 4096
_MOST_OF_ONE: Final = 64


@dataclass(frozen=True, slots=True)
class Alike:
    """What refusals have in common; ``address`` is None for those of a credential that came from many."""

    vendor: str
    credential: str
    address: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """How often something was refused beyond what was told at once, and when that began."""

    alike: Alike
    times: int
    since: datetime


@dataclass(slots=True)
class _Window:
    """``told`` says that its first one was told at once, or is being told."""

    ends: float
    told: bool = True
    times: int = 0
    since: datetime | None = None


@final
class Repeats:
    """The refusals that one process counts. Safe for use from several threads; ``now`` is a clock that is never set."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        #: All last equally long, so that they end in the order in which they began.
        self._windows: OrderedDict[Alike, _Window] = OrderedDict()
        self._of_one: Counter[tuple[str, str]] = Counter()

    def note(self, alike: Alike, at: datetime) -> bool:
        """Count a refusal; True where it is to be told at once instead.

        Take what is `due` before: a window that has ended is none for another one.
        """
        with self._lock:
            place = self._place(alike)
            if place is None:
                return True
            window = self._windows.get(place)
            if window is None:
                self._open(place, _Window(self._now() + WINDOW_SECONDS))
                return True
            if not window.told:
                window.told = True
                return True
            window.times += 1
            window.since = window.since or at
            return False

    def untold(self, alike: Alike) -> None:
        """What was to be told at once could not be: the next one is."""
        with self._lock:
            for place in (alike, replace(alike, address=None)):
                if place in self._windows:
                    self._windows[place].told = False
                    return

    def due(self, *, all_: bool = False) -> list[Repeated]:
        """Take what was counted in windows that have ended, or in all of them."""
        found = []
        with self._lock:
            now = self._now()
            while self._windows:
                place, window = next(iter(self._windows.items()))
                if not all_ and window.ends > now:
                    break
                self._close(place)
                if window.since is not None:
                    found.append(Repeated(place, window.times, window.since))
        return found

    def put_back(self, counted: Iterable[Repeated]) -> None:
        """Count what could not be written on in windows of their own, whose first one is to be told at once."""
        with self._lock:
            for each in counted:
                place = self._place(each.alike) or replace(each.alike, address=None)
                window = self._windows.get(place)
                if window is None:
                    window = _Window(self._now() + WINDOW_SECONDS, told=False)
                    self._open(place, window)
                window.times += each.times
                window.since = min(each.since, window.since or each.since)

    def _place(self, alike: Alike) -> Alike | None:
        """Where a refusal is counted; None where there is no room."""
        if alike in self._windows:
            return alike
        if self._of_one[alike.vendor, alike.credential] < _MOST_OF_ONE and len(self._windows) < _MOST:
            return alike
        folded = replace(alike, address=None)
        # There are as many of these as credentials of the vault's own and reasons: an address makes no more of them.
        return folded if folded in self._windows or len(self._windows) < 2 * _MOST else None

    def _open(self, place: Alike, window: _Window) -> None:
        self._windows[place] = window
        if place.address is not None:
            self._of_one[place.vendor, place.credential] += 1

    def _close(self, place: Alike) -> None:
        del self._windows[place]
        if place.address is not None:
            self._of_one[place.vendor, place.credential] -= 1
            if not self._of_one[place.vendor, place.credential]:
                del self._of_one[place.vendor, place.credential]
