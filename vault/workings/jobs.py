"""Jobs: whoever writes objects says so first, so that gc never takes what is about to be used.

Objects of a job lie below ``objects/<job id>/``. A job says in which process it runs and beats while it works. On
its own machine it is dead when that process is; elsewhere, when it has not beaten for long. The commit of a job that
gc has ended fails instead of publishing what gc took.
"""

import json
import os
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vault.catalog import Catalog, FieldSealer, JobRow, SealedBlob, SealedValue, Transaction
from vault.encoding import from_json, from_timestamp, new_id, timestamp
from vault.errors import Conflict

__all__ = ["ACTIVE", "DONE", "Job", "begin_job", "folder_of", "is_dead", "open_step", "read_step", "take_job"]

ACTIVE, DONE = "active", "done"
_BEAT = timedelta(seconds=20)
#: In the place of a process: a job that waits to be taken up.
_NOBODY: Final = "nobody"
#: How long a job of another machine may be silent; one shard takes far less than this between two beats.
_SILENCE: Final = timedelta(minutes=15)


class Job:
    """A registered act that writes objects below its own folder."""

    def __init__(self, identifier: str, catalog: Catalog, clock: Callable[[], datetime], began: str) -> None:
        self.id = identifier
        #: When its work began, maybe in another process.
        self.began = began
        #: How many steps it has written down.
        self.steps = 0
        self._catalog = catalog
        self._clock = clock
        self._beaten = clock()

    @property
    def folder(self) -> str:
        """Where this job's objects lie."""
        return folder_of(self.id)

    def beat(self) -> None:
        """Say that the job lives, at most every 20 seconds; raises Conflict once it was declared dead."""
        now = self._clock()
        if now - self._beaten < _BEAT:
            return
        self._beaten = now
        with self._catalog.write() as transaction:
            if not transaction.set_job(self.id, before=ACTIVE, state=ACTIVE, beat=timestamp(now)):
                raise _declared_dead()

    def write_down(self, sealer: FieldSealer, document: dict[str, Any]) -> int:
        """Add a step to what the catalog knows of the job, sealed to its number, which is returned."""
        number = self.steps
        value = SealedValue(sealer, _step(self.id, number), json.dumps(document).encode())
        with self._catalog.write() as transaction:
            transaction.add_step(self.id, number, value)
        self.steps += 1
        return number

    def finish(self, transaction: Transaction) -> None:
        """End the job inside the transaction that makes its objects live; raises Conflict."""
        now = timestamp(self._clock())
        if not transaction.set_job(self.id, before=ACTIVE, state=DONE, beat=now):
            raise _declared_dead()

    def abandon(self) -> None:
        """End the job without a commit: what it wrote is garbage."""
        with self._catalog.write() as transaction:
            transaction.set_job(self.id, before=ACTIVE, state=DONE, beat=timestamp(self._clock()))
            transaction.delete_steps(self.id)

    def pause(self) -> None:
        """Leave the job for a later run, which may be of any process, to take up."""
        with self._catalog.write() as transaction:
            for row in transaction.jobs():
                if row.id == self.id and row.state == ACTIVE:
                    transaction.take_job(row, _NOBODY, timestamp(self._clock()))


def folder_of(job: str) -> str:
    """Where the objects of a job lie."""
    return f"objects/{job}"


def _declared_dead() -> Conflict:
    return Conflict("this job was silent for so long that gc ended it; run the command again")


def begin_job(
    catalog: Catalog,
    kind: str,
    clock: Callable[[], datetime],
    then: Callable[[Transaction, Job], object] = lambda _transaction, _job: None,
) -> Job:
    """Register a job before its first object is written; ``then`` runs in the same transaction."""
    now = timestamp(clock())
    job = Job(new_id(), catalog, clock, now)
    with catalog.write() as transaction:
        transaction.add_job(JobRow(job.id, kind, ACTIVE, _this_process(), now, now))
        then(transaction, job)
    return job


def take_job(catalog: Catalog, row: JobRow, clock: Callable[[], datetime]) -> Job | None:
    """Take up a job that is dead; None when somebody else did, or gc ended it."""
    with catalog.write() as transaction:
        taken = transaction.take_job(row, _this_process(), timestamp(clock()))
    return Job(row.id, catalog, clock, row.started) if taken else None


def read_step(transaction: Transaction, sealer: FieldSealer, job: str, number: int) -> Any:
    """One step of a job; raises Conflict where it is gone, as the job then is, and IntegrityError."""
    for _, blob in transaction.steps(job, number):
        return open_step(sealer, job, number, blob)
    raise Conflict("the job has ended in the meantime")


def open_step(sealer: FieldSealer, job: str, number: int, blob: SealedBlob) -> Any:
    """What a step says; raises IntegrityError where it is not the job's step of that number."""
    return from_json(blob.open(sealer, _step(job, number)), "a step of a job")


def _step(job: str, number: int) -> str:
    return f"{job}/{number}"


def _this_process() -> str:
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_dead(job: JobRow, now: datetime) -> bool:
    """Whether nobody works on a job: its process on this machine is gone, it was left, or silent for 15 minutes."""
    if job.process == _NOBODY:
        return True
    machine, _, rest = job.process.partition(" ")
    pid, _, started = rest.partition(" ")
    if machine == _machine() and pid.isdigit():
        return str(_started(int(pid)) or "gone") != started
    return now - from_timestamp(job.beat) > _SILENCE


def _machine() -> str:
    """This machine and boot: process ids mean nothing beyond."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname().replace(' ', '-')[:100]}/{boot}"


def _started(pid: int) -> str | None:
    """When a process began, in the system's ticks, or None where there is none; tells reused ids apart."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _alive(pid)
    except OSError:
        return None
    # The third field of the line is the state: a killed process that nobody has waited for is no more.
    return None if fields[0] in {"Z", "X"} else fields[19]


def _alive(pid: int) -> str | None:
    """Where there is no /proc: "0" for a process that can be signalled."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "0"
    return "0"
