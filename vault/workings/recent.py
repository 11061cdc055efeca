"""What was verified lately and is asked for again at once: bounded in number and in age."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, final

__all__ = ["Recent"]

_Value = TypeVar("_Value")


@final
class Recent(Generic[_Value]):
    """Values by what they follow from, none older than ``seconds``; 0 holds none. Safe for several threads.

    ``most`` bounds what they weigh together, by default their number; what is heavier than a sixteenth of that alone is
    not held.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        weigh: Callable[[_Value], int] = lambda _value: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, _Value, int]] = OrderedDict()
        self._cleared = 0

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value of a key, made where it is not held; what is made while all is cleared is not held."""
        now = self._clock()
        with self._lock:
            kept, cleared = self._kept.get(key), self._cleared
        if kept is not None and now - kept[0] <= self._seconds:
            return kept[1]
        value = make()
        weight = self._weigh(value)
        if self._seconds and 16 * weight <= self._most:
            with self._lock:
                if cleared == self._cleared:
                    self._drop(key)
                    self._kept[key] = (now, value, weight)
                    self._weight += weight
                    while self._weight > self._most:
                        self._drop(next(iter(self._kept)))
        return value

    def _drop(self, key: Hashable) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._weight -= kept[2]

    def sweep(self) -> None:
        """Let go of what is too old."""
        limit = self._clock() - self._seconds
        with self._lock:
            for key in [key for key, kept in self._kept.items() if kept[0] <= limit]:
                self._drop(key)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()
            self._weight = 0
            self._cleared += 1
