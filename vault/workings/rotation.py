"""A rekey that can be killed: what it has done so far, kept in the catalog sealed for the owner.

The keys of the next epoch are written down before anything is under them, and each batch of chunks once its objects are
in the store. Whoever takes the job up again copies what is not written down. Nothing of it counts before the commit.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, final

from vault.catalog import JobRow, SealedValue, Transaction
from vault.encoding import from_base64, from_json, to_base64
from vault.errors import IntegrityError, KmsError
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef
from vault.model import KeyScope
from vault.workings.jobs import ACTIVE, Job, begin_job, is_dead, take_job
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

    def __init__(self, parts: OwnerParts, job: Job, progress: _Progress, next_step: int) -> None:
        self.job = job
        self.keys = dict(progress.keys)
        self.copied = dict(progress.copied)
        self._parts = parts
        self._next = next_step
        self._pending: list[tuple[str, ChunkRef]] = []
        self._noted = parts.clock()

    def note_keys(self, keys: Iterable[WrappedKey]) -> None:
        """Write down keys before anything is under them."""
        fresh = [key for key in keys if self.keys.get(key.scope.group) != key]
        if fresh:
            self.write_down({"keys": [_key_document(key) for key in fresh]})
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
        value = SealedValue(self._parts.sealer(), _row(self.job.id, self._next), json.dumps(document).encode())
        with self._parts.catalog.write() as transaction:
            transaction.add_step(self.job.id, self._next, value)
        self._next += 1


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
            document = from_json(blob.open(sealer, _row(job.id, number)), "a step of a rekey")
            target = document.get("target", target)
            keys |= {key.scope.group: key for key in map(_read_key, document.get("keys", ()))}
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
            document = from_json(blob.open(parts.sealer(), _row(job.id, number)), "a step of a rekey")
            return str(document["target"]["compartment"])
    except IntegrityError:
        return None
    return None


def _row(job: str, number: int) -> str:
    return f"{job}/{number}"


def _key_document(key: WrappedKey) -> dict[str, Any]:
    return {
        "scope": asdict(key.scope),
        "key_id": key.key_id,
        "kms_key": key.kms_key,
        "wrapped": to_base64(key.wrapped),
    }


def _read_key(document: Mapping[str, Any]) -> WrappedKey:
    wrapped = from_base64(document["wrapped"], "a step of a rekey")
    return WrappedKey(KeyScope(**document["scope"]), document["key_id"], document["kms_key"], wrapped)
