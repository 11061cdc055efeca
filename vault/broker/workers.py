"""Several broker processes on one listening socket, and the process that starts them and starts them anew.

Each worker is a fresh interpreter (no fork: locks, threads and connections to the catalog are not to be copied) that
inherits the socket. The parent serves nothing and opens nothing: it has no key and no catalog.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final, TypeAlias, final

from vault.broker.links import Link, receive, send
from vault.broker.metrics import Counts, added, lasting
from vault.errors import InvalidInput, Unavailable, VaultError

__all__ = ["Run", "serve_with_workers"]

_LOG = logging.getLogger("dsvault.workers")
_LOOK_SECONDS: Final = 0.2
_ROUND_SECONDS: Final = 1.0
#: A worker that ended before it was ready is not started anew at once.
_AGAIN_SECONDS: Final = 1.0
#: Beyond the grace of its streams a worker has this long to end.
_END_SECONDS: Final = 20.0

Settings = Any
_Line: TypeAlias = "Connection[Any, Any]"
#: What a worker does: serve these settings on this socket, with this line to its parent.
Run = Callable[[Settings, socket.socket, Link], None]


def serve_with_workers(
    run: Run, settings: Settings, count: int, listener: socket.socket, grace: timedelta, ready: Callable[[], None]
) -> None:
    """Serve with ``count`` workers until a signal comes; ``ready`` is called once all of them answer.

    ``run`` and ``settings`` are sent to fresh interpreters. Raises InvalidInput with what the first worker that could
    not start says.
    """
    workers = _Workers(run, settings, listener, grace)
    with _signals() as stopped:
        try:
            workers.start(count)
            workers.watch(stopped, ready)
        finally:
            listener.close()
            workers.stop()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM and SIGINT are remembered; yields whether one came."""
    came: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {each: signal.signal(each, remember) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _work(
    run: Run, settings: Settings, listener: socket.socket, line: "Connection[Any, Any]", grace: timedelta
) -> None:
    """What a worker's interpreter does."""
    link = Link(line, grace)
    try:
        run(settings, listener, link)
    except VaultError as error:
        link.failed(str(error))
        raise SystemExit(1) from None


@dataclass(eq=False, slots=True)
class _Worker:
    process: SpawnProcess
    line: "_Line"
    ready: bool = False
    counts: Counts = field(default_factory=list)


@dataclass(slots=True)
class _Round:
    """A worker asks for the sum, and the others are asked in turn."""

    asked_by: _Worker
    open: set[_Worker]
    ends: float


@final
class _Workers:
    """The parent's view of its workers; used from one thread."""

    def __init__(self, run: Run, settings: Settings, listener: socket.socket, grace: timedelta) -> None:
        self._work = (run, settings, listener)
        self._grace = grace
        self._workers: list[_Worker] = []
        self._again: list[float] = []
        self._ended: Counts = []
        self._rounds: dict[int, _Round] = {}
        self._next_round = 0
        self._told = False

    def start(self, count: int) -> None:
        """Start so many."""
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(*self._work, theirs, self._grace), name="dsvault-worker")
        process.start()
        # The only other end is the worker's, so that each end sees the other one go.
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def watch(self, stopped: Callable[[], bool], ready: Callable[[], None]) -> None:
        """Until it is to stop: pass counts on, and start anew what ended."""
        while not stopped():
            lines = {worker.line: worker for worker in self._workers}
            ends = {worker.process.sentinel: worker for worker in self._workers}
            for found in wait([*lines, *ends], timeout=_LOOK_SECONDS):
                if isinstance(found, Connection):
                    self._hear(lines[found])
            for worker in [each for each in self._workers if not each.process.is_alive()]:
                self._bury(worker)
            self._close_rounds()
            due = [when for when in self._again if when <= time.monotonic()]
            self._again = [when for when in self._again if when not in due]
            self.start(len(due))
            if not self._told and all(worker.ready for worker in self._workers):
                self._told = True
                ready()

    def _hear(self, worker: _Worker) -> None:
        """One message of a worker's."""
        try:
            message = receive(worker.line)
        except (EOFError, OSError):
            return  # its process is looked at next
        if message["kind"] == "ready":
            worker.ready = True
        elif message["kind"] == "failed":
            if not self._told:
                raise InvalidInput(message["text"])
            _LOG.error("a worker cannot start")
        elif message["kind"] == "counts":
            worker.counts = message["counts"]
            if (asked := self._rounds.get(message.get("round", -1))) is not None:
                asked.open.discard(worker)
        else:
            self._next_round += 1
            self._rounds[self._next_round] = _Round(worker, set(self._workers), time.monotonic() + _ROUND_SECONDS)
            for each in self._workers:
                with contextlib.suppress(OSError):
                    send(each.line, kind="count", round=self._next_round)

    def _close_rounds(self) -> None:
        """Answer who asked for the sum, as soon as all have counted, or have had the time to."""
        for number, asked in list(self._rounds.items()):
            if not asked.open or time.monotonic() >= asked.ends:
                del self._rounds[number]
                found = added([self._ended, *(worker.counts for worker in self._workers)])
                with contextlib.suppress(OSError):
                    send(asked.asked_by.line, kind="sum", counts=found)

    def _bury(self, worker: _Worker) -> None:
        """A worker ended by itself: what it counted stays, and another one takes its place."""
        while worker.line.poll():
            try:
                message = receive(worker.line)
            except (EOFError, OSError):
                break
            if message["kind"] == "failed" and not self._told:
                raise InvalidInput(message["text"])
            worker.counts = message.get("counts", worker.counts)
        if not self._told:
            raise Unavailable("a worker ended before it was ready")
        _LOG.warning("worker %d ended and is started anew", worker.process.pid)
        self._workers.remove(worker)
        self._ended = added([self._ended, lasting(worker.counts)])
        for asked in self._rounds.values():
            asked.open.discard(worker)
        worker.line.close()
        self._again.append(time.monotonic() + (0 if worker.ready else _AGAIN_SECONDS))

    def stop(self) -> None:
        """Tell all workers to end, wait for their streams, and end those that do not."""
        for worker in self._workers:
            _tell(worker.process, signal.SIGTERM)
        ends = time.monotonic() + self._grace.total_seconds() + _END_SECONDS
        for worker in self._workers:
            worker.process.join(max(0, ends - time.monotonic()))
            if worker.process.is_alive():
                _tell(worker.process, signal.SIGKILL)
                worker.process.join()
            worker.line.close()


def _tell(process: SpawnProcess, number: int) -> None:
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
