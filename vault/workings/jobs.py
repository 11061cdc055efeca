"""Jobs: whoever writes objects says so first, so that gc never takes what is about to be used.

Objects of a job lie below ``objects/<job id>/``. A job beats while it works; one that has not beaten for the
grace time may be declared dead by gc, and then its commit fails instead of publishing what gc took.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from vault.catalog import Catalog, JobRow, Transaction
from vault.encoding import new_id, timestamp
from vault.errors import Conflict

__all__ = ["ACTIVE", "DONE", "Job", "begin_job"]

ACTIVE, DONE = "active", "done"
_BEAT = timedelta(seconds=20)


class Job:
    """A registered act that writes objects below its own folder."""

    def __init__(self, identifier: str, catalog: Catalog, clock: Callable[[], datetime]) -> None:
        self.id = identifier
        self._catalog = catalog
        self._clock = clock
        self._beaten = clock()

    @property
    def folder(self) -> str:
        """Where this job's objects lie."""
        return f"objects/{self.id}"

    def beat(self) -> None:
        """Say that the job lives, at most every 20 seconds; raises Conflict once it was declared dead."""
        now = self._clock()
        if now - self._beaten < _BEAT:
            return
        self._beaten = now
        with self._catalog.write() as transaction:
            if not transaction.set_job(self.id, before=ACTIVE, state=ACTIVE, beat=timestamp(now)):
                raise _declared_dead()

    def finish(self, transaction: Transaction) -> None:
        """End the job inside the transaction that makes its objects live; raises Conflict."""
        now = timestamp(self._clock())
        if not transaction.set_job(self.id, before=ACTIVE, state=DONE, beat=now):
            raise _declared_dead()

    def abandon(self) -> None:
        """End the job without a commit: what it wrote is garbage."""
        with self._catalog.write() as transaction:
            transaction.set_job(self.id, before=ACTIVE, state=DONE, beat=timestamp(self._clock()))


def _declared_dead() -> Conflict:
    return Conflict("this job was silent for so long that gc ended it; run the command again")


def begin_job(catalog: Catalog, kind: str, clock: Callable[[], datetime]) -> Job:
    """Register a job before its first object is written."""
    identifier, now = new_id(), timestamp(clock())
    with catalog.write() as transaction:
        transaction.add_job(JobRow(identifier, kind, ACTIVE, now, now))
    return Job(identifier, catalog, clock)
