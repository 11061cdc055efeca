"""A rekey that can be killed: what it has done so far, kept in the catalog sealed for the owner.

The keys of the next epoch are written down before anything is under them, and each batch of chunks once its objects are
in the store. Whoever takes the job up again copies what is not written down. Nothing of it counts before the commit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, final

from vault.catalog import JobRow, Transaction
from vault.errors import IntegrityError, KmsError
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef
from vault.workings.documents import key_document, read_key
from vault.workings.jobs import ACTIVE, Job, begin_job, is_dead, open_step, take_job
from vault.workings.parts import OwnerParts

__all__ = ["KIND", "Rotation", "begin_rotation", "compartment_of"]

#: The kind of job that can be taken up again.
KIND = "rekey"
#: How often a run writes down what it has done.
_EVERY = timedelta(seconds=1)
_MOST = 256


@dataclass(frozen=True, slots=True)
class _Progress:
    """What the steps of a job say: its target, its keys by group, and new chunks by the id of the old one."""

    target: Mapping[str, Any]
    keys: Mapping[str, WrappedKey] = field(default_factory=dict)
    copied: Mapping[str, ChunkRef] = field(default_factory=dict)


@final
class Rotation:
    """One compartment's rekey: its job, the keys and chunks that it has, and how to write more of them down.

    ``keys`` and ``copied`` are what an earlier run left, empty for a new one.
    """

    def __init__(self, parts: OwnerParts, job: Job, progress: _Progress, steps: int) -> None:
        self.job = job
        job.steps = steps
        self.keys = dict(progress.keys)
        self.copied = dict(progress.copied)
        self._parts = parts
        self._pending: list[tuple[str, ChunkRef]] = []
        self._noted = parts.clock()

    def note_keys(self, keys: Iterable[WrappedKey]) -> None:
        """Write down keys before anything is under them."""
        fresh = [key for key in keys if self.keys.get(key.scope.group) != key]
        if fresh:
            self.write_down({"keys": [key_document(key) for key in fresh]})
            self.keys |= {key.scope.group: key for key in fresh}

    def note(self, old: str, new: ChunkRef) -> None:
        """Remember a chunk whose object is in the store; it is written down with others, soon."""
        self.copied[old] = new
        self._pending.append((old, new))
        if len(self._pending) >= _MOST or self._parts.clock() - self._noted >= _EVERY:
            self.flush()
        self.job.beat()

    def flush(self) -> None:
        """Write down what was remembered."""
        if self._pending:
            # Their names must last as long as the word that they are there.
            self._parts.store.settle(self.job.folder)
            self.write_down({"copied": [[old, asdict(new)] for old, new in self._pending]})
            self._pending = []
        self._noted = self._parts.clock()

    def write_down(self, document: dict[str, Any]) -> None:
        """Add a step to what the catalog knows of the job."""
        self.job.write_down(self._parts.sealer(), document)


def begin_rotation(parts: OwnerParts, compartment: str, groups: frozenset[str] | None) -> Rotation:
    """Take up a dead job with this very target, or begin one; ``groups`` is None for every column group."""
    target = {"compartment": compartment, "groups": None if groups is None else sorted(groups)}
    with parts.catalog.read() as transaction:
        waiting = [job for job in transaction.jobs() if job.kind == KIND and job.state == ACTIVE]
    for row in waiting:
        if is_dead(row, parts.clock()) and (found := _read(parts, row)) is not None and found[0].target == target:
            job = take_job(parts.catalog, row, parts.clock)
            if job is not None:
                return Rotation(parts, job, *found)
    rotation = Rotation(parts, begin_job(parts.catalog, KIND, parts.clock), _Progress(target), 0)
    rotation.write_down({"target": target})
    return rotation


def _read(parts: OwnerParts, job: JobRow) -> tuple[_Progress, int] | None:
    """A job's steps and the number of the next one; None where they cannot be used any more."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        steps = transaction.steps(job.id)
    target: dict[str, Any] | None = None
    keys: dict[str, WrappedKey] = {}
    copied: dict[str, ChunkRef] = {}
    try:
        for number, (_, blob) in enumerate(steps):
            # Each is sealed to its number: with one missing, or in another's place, none behind it opens.
            document = open_step(sealer, job.id, number, blob)
            target = document.get("target", target)
            keys |= {key.scope.group: key for key in map(read_key, document.get("keys", ()))}
            copied |= {old: ChunkRef(**new) for old, new in document.get("copied", ())}
        for key in keys.values():
            parts.keyring.open(key)
    except (IntegrityError, KmsError):
        return None  # its KMS key is gone, or its steps are not what was written: begun anew nothing is lost
    return None if target is None else (_Progress(target, keys, copied), len(steps))


def compartment_of(parts: OwnerParts, transaction: Transaction, job: JobRow) -> str | None:
    """Whose chunks a rekey that has not ended copies; None where its steps do not say."""
    try:
        for number, blob in transaction.steps(job.id)[:1]:
            document = open_step(parts.sealer(), job.id, number, blob)
            return str(document["target"]["compartment"])
    except IntegrityError:
        return None
    return None
