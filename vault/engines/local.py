"""Threads of this process. pyarrow, zstd and AES-GCM release the GIL, so threads use every core."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TypeVar

__all__ = ["LocalEngine"]

#: Threads of a shared engine: most of them wait for the store.
_SHARED = 16
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class LocalEngine:
    """Maps a function over tasks on ``workers`` threads (by default one for each core), or on more ``threads`` where
    tasks wait rather than work.

    Where it is ``shared``, threads are kept and all maps together use them: for a process that makes many small maps,
    none of them within another one's tasks.
    """

    def __init__(self, workers: int | None = None, *, shared: bool = False, threads: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.threads = max(threads or 0, self.workers)
        self._pool = ThreadPoolExecutor(max(_SHARED, self.threads), "dsvault") if shared else None

    def map(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task], *, ahead: int | None = None
    ) -> Iterator[_Result]:
        """Results in the order of the tasks; at most ``ahead`` tasks (by default twice the threads) run or
        wait unread, so that memory stays bounded. The first error ends the map and cancels what waits.
        """
        limit = ahead if ahead is not None else 2 * self.threads
        waiting: deque[Future[_Result]] = deque()
        with nullcontext(self._pool) if self._pool else ThreadPoolExecutor(self.threads, "dsvault") as pool:
            try:
                for task in tasks:
                    waiting.append(pool.submit(function, task))
                    if len(waiting) >= limit:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
                # Nothing goes on behind the back of who has closed the map.
                wait(waiting)
