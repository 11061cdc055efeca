"""Each vendor's share of the threads that read, so that no vendor's reads keep another's from beginning.

A process reads in a few dozen threads. A read that scans much takes one for as long as it scans, and whoever may ask
may ask for many. So one vendor has no more than some of them at a time, and what it asks for beyond that waits in a
line of its own. What the broker itself has to look at meanwhile (its health, whether a stream may go on) has threads
apart.
"""

import asyncio
import threading
from collections import Counter, deque
from typing import Final, final

from vault.errors import Unavailable

__all__ = ["LONGEST_WAIT", "Shares"]

#: The most threads of one vendor, of the 40 that there are.
_MOST: Final = 8
#: How many seconds a request waits for one: it may not be so long that its proof has grown old meanwhile.
LONGEST_WAIT: Final = 20.0


@final
class Shares:
    """How many threads each vendor has, and who waits for one. `take` belongs to the event loop's thread."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def take_now(self, vendor: str) -> bool:
        """Take a thread for a vendor, from any thread, if that needs no waiting."""
        with self._lock:
            if vendor in self._waiting or self._taken[vendor] >= self._most:
                return False
            self._taken[vendor] += 1
            return True

    async def take(self, vendor: str, seconds: float | None = None) -> None:
        """Wait for one, behind whoever waits already; raises Unavailable where none is given in time."""
        if self.take_now(vendor):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if vendor not in self._waiting and self._taken[vendor] < self._most:
                self._taken[vendor] += 1
                return
            self._waiting.setdefault(vendor, deque()).append(turn)
        try:
            await asyncio.wait_for(turn, seconds)
        except BaseException as error:
            if not self._left_the_line(vendor, turn):
                self.give(vendor)  # it was given in the very moment in which the waiting ended
            if isinstance(error, TimeoutError):
                raise Unavailable("the vendor reads as much at once as one vendor may") from None
            raise

    def _left_the_line(self, vendor: str, turn: "asyncio.Future[None]") -> bool:
        """Take a waiting one out; False where it was its turn already."""
        with self._lock:
            line = self._waiting.get(vendor)
            if line is None or turn not in line:
                return False
            line.remove(turn)
            if not line:
                del self._waiting[vendor]
            return True

    def give(self, vendor: str) -> None:
        """Give a thread back, which goes to whoever waits the longest; from any thread."""
        with self._lock:
            line = self._waiting.get(vendor)
            if line is None:
                self._taken[vendor] -= 1
                if not self._taken[vendor]:
                    del self._taken[vendor]
                return
            turn = line.popleft()
            if not line:
                del self._waiting[vendor]
        turn.get_loop().call_soon_threadsafe(_call, turn)


def _call(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
