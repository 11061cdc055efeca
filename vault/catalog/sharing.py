"""Writes of several threads in one transaction: a commit costs a flush of the disk, and one flush serves them all.

Who comes while a commit is under way waits for the next one, which takes everybody who waits. Each is told only after
the commit that holds its change. A change that nobody waits for goes with the next commit, or has one of its own when
none comes within some milliseconds.
"""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, final

from vault.catalog.transaction import Transaction
from vault.errors import Conflict, Unavailable

__all__ = ["Crossed", "SharedWrites", "Uncertain"]

_Result = TypeVar("_Result")
#: How often a change is tried that gave way to another.
_TRIES = 5
#: How many changes one transaction takes.
_MOST = 64
#: For how long a change that nobody waits for may wait, and for how many of them at the most.
_SOON_SECONDS = 0.05
_MOST_SOON = 256


class Crossed(Conflict):
    """Of two changes that waited for each other the database ended this one; it may be made again as it is."""


class Uncertain(Unavailable):
    """The database was lost at the very commit: nobody knows what became of the change, so it is not made again."""


class _Writing(Protocol):
    def __call__(self) -> Any:
        """A context manager over one write transaction."""
        ...


class _Change(Generic[_Result]):
    """A change that waits: its outcome, and whether its thread is to commit for all."""

    def __init__(
        self, action: Callable[[Transaction], _Result], failed: Callable[[BaseException], None] | None = None
    ) -> None:
        self.action = action
        self.turn = threading.Event()
        self.done = False
        self.result: _Result | None = None
        self.error: BaseException | None = None
        self._failed = failed

    def finish(self, result: "_Result | None", error: BaseException | None = None) -> None:
        self.result, self.error, self.done = result, error, True
        if error is not None and self._failed is not None:
            self._failed(error)
        self.turn.set()


def _nothing(_transaction: Transaction) -> None:
    """A change that only waits for a commit."""


@final
class SharedWrites:
    """Changes to a catalog, committed together where they come together."""

    def __init__(self, write: _Writing) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._leader: int | None = None
        self._waiting: list[_Change[Any]] = []
        self._led = False
        #: What nobody waits for, and the thread that commits it where nobody else does.
        self._soon: list[_Change[Any]] = []
        self._timer: threading.Thread | None = None
        _EVERY.add(self)

    def run(self, action: Callable[[Transaction], _Result]) -> _Result:
        """Run a change in a write transaction and return what it returned, once that is durable.

        ``action`` touches nothing but the transaction: where another change of the same transaction fails, it is run
        once more in one of its own. Raises what the action or the commit raises, and Unavailable within another change:
        it would wait for itself.
        """
        self._refuse_within()
        change = _Change(action)
        self._wait(change)
        if change.error is not None:
            raise change.error
        return change.result  # type: ignore[return-value]

    def run_soon(self, action: Callable[[Transaction], object], failed: Callable[[BaseException], None]) -> None:
        """Run a change as `run` does, and do not wait for it; ``failed`` is told of what `run` would raise.

        Where too many wait already, the caller waits for a commit after all.
        """
        self._refuse_within()
        if self._add_soon(_Change(action, failed)) >= _MOST_SOON:
            self.settle()

    def run_aside(self, action: Callable[[Transaction], object], failed: Callable[[BaseException], None]) -> None:
        """Run a change as `run_soon` does, and never wait: it may be asked for within another change or transaction.

        Whoever asks keeps their number small: nothing bounds it here.
        """
        self._add_soon(_Change(action, failed))

    def _add_soon(self, change: _Change[Any]) -> int:
        """How many wait with it."""
        with self._lock:
            self._soon.append(change)
            if self._timer is None:
                self._timer = threading.Thread(target=self._later, name="dsvault-soon", daemon=True)
                self._timer.start()
            return len(self._soon)

    def settle(self) -> None:
        """Commit what nobody waits for, behind every commit that is under way."""
        self._refuse_within()
        self._wait(_Change(_nothing))
        while self._soon:
            self._wait(_Change(_nothing))

    def _later(self) -> None:
        """Once the time is over, commit what no other commit has taken with it."""
        time.sleep(_SOON_SECONDS)
        with self._lock:
            self._timer = None
        while self._soon:
            self._wait(_Change(_nothing))

    def _refuse_within(self) -> None:
        if self._leader == threading.get_ident():
            raise Unavailable("a change to the catalog was begun within another")

    def _wait(self, change: "_Change[Any]") -> None:
        """Until a change is done, leading where nobody does."""
        with self._lock:
            self._waiting.append(change)
            leads = not self._led
            self._led = True
        if not leads:
            change.turn.wait()
        if not change.done:
            self._lead()

    def _lead(self) -> None:
        """Commit what waits, this thread's change among it, and let another thread lead for who came meanwhile."""
        self._leader = threading.get_ident()
        with self._lock:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            # In the order in which they came: what waits for nobody has mostly come before.
            batch, self._soon = [*self._soon[:_MOST], *batch], self._soon[_MOST:]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                self._leader = None
                self._led = bool(self._waiting)
                next_leader = self._waiting[0] if self._waiting else None
            if next_leader is not None:
                next_leader.turn.set()

    def _commit(self, batch: "list[_Change[Any]]") -> None:
        if len(batch) == 1:
            self._alone(batch[0])
            return
        try:
            with self._write() as transaction:
                results = [change.action(transaction) for change in batch]
        except Uncertain as error:
            for change in batch:
                change.finish(None, error)
            return
        except Exception:  # noqa: BLE001 - whose fault it was shows when each is alone
            for change in batch:
                self._alone(change)
            return
        except BaseException as error:
            for change in batch:
                change.finish(None, error)
            raise
        for change, result in zip(batch, results, strict=True):
            change.finish(result)

    def _alone(self, change: "_Change[Any]") -> None:
        for left in reversed(range(_TRIES)):
            try:
                with self._write() as transaction:
                    result = change.action(transaction)
            except Crossed as error:
                if left:
                    continue
                change.finish(None, error)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
                change.finish(None, error)
            else:
                change.finish(result)
            return

    def end(self) -> None:
        """Write what this process still has to, as it ends, and wait for the commit that another thread is at."""
        with self._lock:
            idle = not self._soon and not self._led
        if not idle:
            self.settle()

    def forget(self) -> None:
        """In a process that was forked: what waited is the parent's, and so are the threads that would write it."""
        self._lock = threading.Lock()
        self._leader, self._led, self._timer = None, False, None
        self._waiting, self._soon = [], []


#: All that there are. Who has something to write is held by the thread that would write it.
_EVERY: "weakref.WeakSet[SharedWrites]" = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for writes in list(_EVERY):
        writes.end()


def _after_fork() -> None:
    for writes in list(_EVERY):
        writes.forget()


os.register_at_fork(after_in_child=_after_fork)
