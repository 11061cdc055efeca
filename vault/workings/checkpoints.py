"""Where checkpoints of the log are kept: in the store, and at a witness.

A witness is a place that a broker can only add to, kept by somebody else or locked against deleting: it holds the log
to what it was. Names say how many entries a checkpoint is about, so there is one for each size, written once; another
one that wants the name tells of a fork.
"""

import hmac
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

from vault.audit import Checkpoint, Pinned, read_checkpoint_of_any
from vault.errors import Conflict, IntegrityError
from vault.objects import ObjectStore
from vault.workings.roots import Roots

__all__ = ["Checkpoints", "Kept", "pinned_by", "read_ever"]

_LOG = logging.getLogger("dsvault.log")
_KEPT: Final = 50
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that was verified, its note, and whether a present log key signed it."""

    name: str
    note: bytes
    checkpoint: Checkpoint
    counts: bool


def read_ever(roots: Roots, note: bytes) -> tuple[Checkpoint, bool]:
    """What a note says, and whether a present log key signed it; raises IntegrityError if none ever did."""
    checkpoint, place = read_checkpoint_of_any([roots.current, *roots.earlier], note)
    return checkpoint, place == 0


@final
class Checkpoints:
    """The checkpoints in one place; ``where`` is the place in words."""

    def __init__(self, roots: Roots, store: ObjectStore, folder: str, where: str) -> None:
        self._roots = roots
        self._store = store
        self._folder = folder
        self.where = where

    def _name(self, size: int) -> str:
        return f"{self._folder}/{size:020d}"

    def put(self, note: bytes, checkpoint: Checkpoint) -> None:
        """Keep a note; raises IntegrityError where another log of that size is kept already, and Unavailable."""
        name = self._name(checkpoint.size)
        try:
            self._store.put(name, note)
        except Conflict:
            self._refuse_fork(name, checkpoint)

    def _refuse_fork(self, name: str, checkpoint: Checkpoint) -> None:
        """Raise IntegrityError where a present log key signed another log of that size.

        What is no checkpoint, or is one of a key that was replaced, somebody else put there: it is for `sorted_out` to
        tell, and holds up no act that has been done.
        """
        try:
            there = self._read(name)
        except IntegrityError as error:
            _LOG.warning("%s holds what is no checkpoint in the place of one: %s", self.where, error)
            return
        if there.counts and not hmac.compare_digest(there.checkpoint.root, checkpoint.root):
            raise IntegrityError(
                f"{self.where} holds another log of {checkpoint.size} entries than this one: it was forked"
            )

    def _read(self, name: str) -> Kept:
        note = self._store.get(name)
        try:
            checkpoint, counts = read_ever(self._roots, note)
        except IntegrityError as error:
            raise IntegrityError(f"{name} in {self.where}: {error}") from error
        if name != self._name(checkpoint.size):
            raise IntegrityError(f"{name} in {self.where}: a checkpoint does not carry the number that it lies under")
        return Kept(name, note, checkpoint, counts)

    def _names(self) -> list[str]:
        return sorted(info.name for info in self._store.list(self._folder))

    def sorted_out(self) -> tuple[list[Pinned], list[str]]:
        """Every checkpoint that counts, and what is to be said of each thing there that is none.

        Those under a log key that was replaced count only while there is none under a present one.
        """
        found, junk = self._every()
        return self._counting(found), junk

    def _every(self) -> tuple[list[Kept], list[str]]:
        found, junk = [], []
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for each in threads.map(self._read_or_say, self._names()):
                if isinstance(each, Kept):
                    found.append(each)
                else:
                    junk.append(each)
        return found, junk

    def _read_or_say(self, name: str) -> Kept | str:
        try:
            return self._read(name)
        except IntegrityError as error:
            return str(error)

    def _counting(self, found: list[Kept]) -> list[Pinned]:
        counting = [each for each in found if each.counts] or found
        return [Pinned(each.checkpoint, f"a checkpoint in {self.where}") for each in counting]

    def newest(self) -> Checkpoint | None:
        """The newest that counts.

        A broker's identity may add to the place. What it leaves there that is no checkpoint is told, and holds up
        nobody: a vendor is frozen all the same. `sorted_out` names it to who verifies the log.
        """
        replaced = None
        for name in reversed(self._names()):
            found = self._read_or_say(name)
            if not isinstance(found, Kept):
                _LOG.warning("%s; remove it there", found)
            elif found.counts:
                return found.checkpoint
            else:
                replaced = replaced or found.checkpoint
        return replaced

    def before(self, time: str) -> Kept | None:
        """The newest whose last entry is from before a time, by any log key there was; what is none is passed over."""
        for name in reversed(self._names()):
            with suppress(IntegrityError):
                found = self._read(name)
                if found.checkpoint.time < time:
                    return found
        return None

    def prune(self) -> None:
        """Keep the newest: each is over all that came before it. Only after the log was verified."""
        self.drop_replaced()
        # What is no checkpoint is not counted among them, or it would take their places.
        self._drop([each.name for each in self._every()[0]][:-_KEPT])

    def drop_replaced(self) -> None:
        """Remove checkpoints under log keys that were replaced, once there is one under a present key."""
        found, _ = self._every()
        if any(each.counts for each in found):
            self._drop(each.name for each in found if not each.counts)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._store.delete(name)


def pinned_by(roots: Roots, notes: Sequence[tuple[str, bytes]]) -> list[Pinned]:
    """Checkpoints that somebody kept, with where each is from in words; raises IntegrityError."""
    return [Pinned(read_ever(roots, note)[0], where) for where, note in notes]
