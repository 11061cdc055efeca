"""Whether a broker could serve a read at this moment, for balancers that ask often.

However many ask, there is one look at a time, and what it found is the answer for a while. A look that does not come
back makes the broker not ready and holds one thread. Who asks is told yes or no; what is missing is for the log.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, final

from anyio import CapacityLimiter, to_thread

__all__ = ["Readiness"]

_LOG = logging.getLogger("dsvault.broker")
#: For how many seconds a look counts, and how long an answer waits for one.
_FRESH_SECONDS: Final = 2.0
_WAIT_SECONDS: Final = 2.0


@final
class Readiness:
    """``look`` names what is missing, in a thread; used from one event loop."""

    def __init__(self, look: Callable[[], Sequence[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._limiter = CapacityLimiter(1)
        self._looking: asyncio.Task[None] | None = None
        self._missing: Sequence[str] = ()
        self._looked_at: float | None = None

    async def is_ready(self) -> bool:
        """Whether nothing is missing, as far as that could be found out in time."""
        if self._looked_at is not None and self._clock() - self._looked_at <= _FRESH_SECONDS:
            return not self._missing
        if self._looking is None:
            self._looking = asyncio.create_task(self._find_out())
        # Who goes away meanwhile, or waits no longer, does not end the look of the others.
        done, _ = await asyncio.wait({self._looking}, timeout=_WAIT_SECONDS)
        if not done:
            self._note(("an answer in time",))
        return bool(done) and not self._missing

    async def _find_out(self) -> None:
        try:
            missing = await to_thread.run_sync(self._look, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows that a read would be served
            missing = (type(error).__name__,)
        self._note(missing)
        self._looked_at = self._clock()
        self._looking = None

    def _note(self, missing: Sequence[str]) -> None:
        if missing and not self._missing:
            _LOG.warning("not ready: %s is missing", ", ".join(missing))
        elif self._missing and not missing:
            _LOG.warning("ready again")
        self._missing = missing
