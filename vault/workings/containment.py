"""What a containment has to remember of its vendor so that it can be killed, and taken up without doing a thing twice.

How the vendor stood when it began, and each step that is done, are kept in the catalog sealed for the owner, as the
steps of a job. They count for one incident only: while the vendor's signed head says that it has been frozen ever
since. What somebody puts back from an earlier incident is passed over, and the keys are moved once more.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from vault.audit import Kind
from vault.catalog import JobRow, SealedValue, Transaction
from vault.encoding import from_json, json_bytes, timestamp
from vault.errors import Conflict, IntegrityError, Unavailable
from vault.workings.jobs import ACTIVE, DONE, Job, begin_job, is_dead, take_job
from vault.workings.names import Holder
from vault.workings.parts import OwnerParts

__all__ = ["KIND", "Before", "Case", "known_case", "open_case"]

#: The kind of job; gc leaves it alone, since it has no objects.
KIND: Final = "contain"


@dataclass(frozen=True, slots=True)
class Before:
    """How a vendor stood when its containment began, behind the freeze.

    ``head`` is its head's number, ``epochs`` the live ones by compartment and column group, ``kms_key`` what its data
    keys were under, and ``checkpoint`` the note of the newest checkpoint from before it was frozen, if one is kept.
    """

    vendor: str
    head: int
    kms_key: str
    epochs: Mapping[str, Mapping[str, int]]
    frozen_at: str
    began: str
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    """A job's steps: how it began, the datasets that it is about (None: all), and what is done."""

    job: JobRow
    before: Before
    datasets: frozenset[str] | None
    done: Mapping[str, Mapping[str, Any]]
    steps: int

    def covers(self, datasets: frozenset[str] | None) -> bool:
        return self.datasets is None or (datasets is not None and datasets <= self.datasets)


@final
class Case:
    """One vendor's containment: how the vendor stood before, what is done, and how to write more of it down."""

    def __init__(self, parts: OwnerParts, vendor: Holder, found: _Found, job: Job | None) -> None:
        self.before = found.before
        self.done = dict(found.done)
        self._parts = parts
        self._vendor = vendor
        self._job = job
        self._next = found.steps

    @property
    def is_over(self) -> bool:
        """Whether everything was done before."""
        return self._job is None

    def beat(self) -> None:
        """Say that somebody is at work on it."""
        if self._job is not None:
            self._job.beat()

    def note(self, step: str, figures: Mapping[str, Any]) -> None:
        """Write down that a step is done, and log it in the same transaction; once for each step."""
        if step not in self.done:
            with self._parts.catalog.write() as transaction:
                self.note_in(transaction, step, figures)
            self.beat()

    def note_in(self, transaction: Transaction, step: str, figures: Mapping[str, Any]) -> None:
        """The same inside the transaction that takes the step."""
        if step not in self.done:
            self._add(transaction, {"step": step, "figures": figures})
            self._log(transaction, Kind.CONTAINING, {"step": step, **figures})
            self.done[step] = figures

    def end(self, figures: Mapping[str, Any]) -> None:
        """The last word; what was written down stays for whoever runs the same again."""
        if self._job is None:
            return
        with self._parts.catalog.write() as transaction:
            self._add(transaction, {"step": "contained", "figures": figures})
            self._job.finish(transaction)
            self._log(transaction, Kind.CONTAINED, figures)
        self.done["contained"] = figures
        self._job = None

    def pause(self) -> None:
        """Leave it for a later run to take up."""
        if self._job is not None:
            self._job.pause()

    def _add(self, transaction: Transaction, document: Mapping[str, Any]) -> None:
        assert self._job is not None
        _write_down(self._parts, transaction, self._job, self._next, document)
        self._next += 1

    def _log(self, transaction: Transaction, kind: Kind, fields: Mapping[str, Any]) -> None:
        _say(self._parts, transaction, self._vendor, kind, fields)


def known_case(parts: OwnerParts, vendor: Holder) -> Before | None:
    """How a vendor stood when the containment that is going on, or was the last one, began; changes nothing."""
    with parts.catalog.read() as transaction:
        found = _of_this_incident(parts, transaction, vendor)
    return found[0].before if found else None


def open_case(parts: OwnerParts, vendor: Holder, datasets: frozenset[str] | None) -> Case:
    """Take up a frozen vendor's containment, or begin one; ``datasets`` are ids, None for all.

    Raises Conflict while another process is at it.
    """
    with parts.catalog.read() as transaction:
        found = _of_this_incident(parts, transaction, vendor)
    for each in found:
        if each.covers(datasets) and each.job.state == DONE:
            return Case(parts, vendor, each, None)
        if each.covers(datasets) and is_dead(each.job, parts.clock()):
            job = take_job(parts.catalog, each.job, parts.clock)
            if job is not None:
                return Case(parts, vendor, each, job)
    before = found[0].before if found else _before(parts, vendor)
    target = None if datasets is None else sorted(datasets)

    def begin(transaction: Transaction, job: Job) -> None:
        for each in _of_this_incident(parts, transaction, vendor):
            if each.job.state == ACTIVE and not is_dead(each.job, parts.clock()):
                raise Conflict(f"another process is containing '{vendor.name}' at this moment; wait for it, or end it")
        _write_down(parts, transaction, job, 0, {"before": asdict(before), "datasets": target})
        said = {"step": "begun", "head": before.head, "datasets": target, "epochs": before.epochs}
        _say(parts, transaction, vendor, Kind.CONTAINING, said)

    job = begin_job(parts.catalog, KIND, parts.clock, begin)
    with parts.catalog.read() as transaction:
        (row,) = (row for row in transaction.jobs() if row.id == job.id)
    return Case(parts, vendor, _Found(row, before, datasets, {}, 1), job)


def _write_down(
    parts: OwnerParts, transaction: Transaction, job: Job, number: int, document: Mapping[str, Any]
) -> None:
    transaction.add_step(job.id, number, SealedValue(parts.sealer(), _row(job.id, number), json_bytes(document)))


def _say(parts: OwnerParts, transaction: Transaction, vendor: Holder, kind: Kind, fields: Mapping[str, Any]) -> None:
    parts.journal.record_in(transaction, kind, vendor=vendor.name, vendor_id=vendor.id, **fields)


def _before(parts: OwnerParts, vendor: Holder) -> Before:
    with parts.catalog.read() as transaction:
        number = parts.heads.vendor_in(transaction, vendor.id).sequence
        epochs = {}
        for row in transaction.compartments(holder=vendor.id):
            head = parts.heads.compartment_in(transaction, row)
            live = head.live_groups if head is not None else ()
            epochs[row.id] = {group: head.epochs[group][0] for group in live} if head is not None else {}
        frozen_at = parts.heads.frozen_at(transaction, vendor.id)
    if frozen_at is None:
        raise Conflict(f"the vendor '{vendor.name}' was thawed in the meantime")
    note = None
    with suppress(Unavailable):  # it is for the evidence alone, and holds nothing up
        note = parts.journal.checkpoint_before(frozen_at)
    began = timestamp(parts.clock())
    return Before(
        vendor.id, number, vendor.kms_key, epochs, frozen_at, began, note.decode() if note is not None else None
    )


def _of_this_incident(parts: OwnerParts, transaction: Transaction, vendor: Holder) -> list[_Found]:
    """What is written down of a vendor since it was frozen, the newest first."""
    jobs = [job for job in transaction.jobs() if job.kind == KIND]
    found = [each for job in jobs if (each := _read(parts, transaction, job)) is not None]
    return [
        each
        for each in reversed(found)
        if each.before.vendor == vendor.id and parts.heads.frozen_since(transaction, vendor.id, each.before.head)
    ]


def _read(parts: OwnerParts, transaction: Transaction, job: JobRow) -> _Found | None:
    """A job's steps; None where they are not what was written, or it was killed before the first."""
    sealer = parts.sealer()
    documents = []
    try:
        for number, (_, blob) in enumerate(transaction.steps(job.id)):
            # Each is sealed to its number: with one missing, or in another's place, none behind it opens.
            documents.append(from_json(blob.open(sealer, _row(job.id, number)), "a step of a containment"))
        return _found(job, documents)
    except (IntegrityError, KeyError, TypeError, ValueError):
        return None


def _found(job: JobRow, documents: list[Mapping[str, Any]]) -> _Found:
    first, *others = documents
    datasets: Iterable[str] | None = first["datasets"]
    return _Found(
        job,
        Before(**first["before"]),
        None if datasets is None else frozenset(datasets),
        {each["step"]: each["figures"] for each in others},
        len(documents),
    )


def _row(job: str, number: int) -> str:
    return f"{job}/{number}"
