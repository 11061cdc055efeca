"""Entries in their places: the leaves of the log's tree, and checking them all.

The log is append-only where its leaves, in order, make the tree that a signed checkpoint is about. Changing, removing,
inserting or reordering an entry makes another tree, and cutting the end off makes one that a later checkpoint is not
about. Verifying needs the root document only, and not the auditor's key.
"""

import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final

from vault.audit.checkpoint import Checkpoint
from vault.audit.merkle import Edge, leaf_hash
from vault.encoding import canonical, timestamp
from vault.errors import IntegrityError

__all__ = ["Leaf", "Pinned", "Tail", "append", "check_leaves", "leaf_bytes", "verify_hashes", "verify_log"]

_PREFIX: Final = canonical("dsvault log leaf") + struct.pack(">I", 8)
_LENGTH: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">QI")
_PAGE: Final = 1000


def leaf_bytes(sequence: int, time: str, sealed: bytes) -> bytes:
    """What a leaf's hash is over: ``canonical("dsvault log leaf", sequence, time, sealed)``."""
    return b"".join(_pieces(sequence, time, sealed))


def _pieces(sequence: int, time: str, sealed: bytes) -> tuple[bytes, ...]:
    when = time.encode()
    return _PREFIX, _NUMBER.pack(sequence, len(when)), when, _LENGTH.pack(len(sealed)), sealed


@dataclass(frozen=True, slots=True)
class Leaf:
    """A sealed entry in its place: number from 1, time, hash as a leaf."""

    sequence: int
    time: str
    sealed: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the log ends: the checkpoint, and what appending to it needs."""

    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    edge: Edge = field(default_factory=Edge)

    def __post_init__(self) -> None:
        same = self.checkpoint.size == self.edge.size
        if not same or not hmac.compare_digest(self.checkpoint.root, self.edge.root):
            raise IntegrityError("the edge of the log is not that of the tree which its signed end is about")


def append(
    tail: Tail, entries: Iterable[tuple[datetime, bytes]], changed: tuple[int, bytes] | None = None
) -> tuple[list[Leaf], Tail]:
    """The leaves of some sealed entries behind a tail, and the tail behind them.

    An entry's time is never before the one that it follows, so that time in the log does not run back. ``changed`` is
    the number and digest of the administrative change that they come with; without it the last one stays.
    """
    edge, time, leaves = tail.edge, tail.checkpoint.time, []
    for moment, sealed in entries:
        time = max(timestamp(moment), time)
        sequence = edge.size + 1
        found = leaf_hash(leaf_bytes(sequence, time, sealed))
        edge = edge.append(found)
        leaves.append(Leaf(sequence, time, sealed, found))
    change, digest = changed or (tail.checkpoint.change, tail.checkpoint.change_digest)
    return leaves, Tail(Checkpoint(edge.size, edge.root, time, change, digest), edge)


@dataclass(frozen=True, slots=True)
class Pinned:
    """A checkpoint that the log has to agree with, and where it was found, in words."""

    checkpoint: Checkpoint
    where: str


def verify_log(leaves: Iterable[Leaf], tail: Tail, pinned: Iterable[Pinned]) -> int:
    """Check every entry's place and hash, where the log ends, and that every checkpoint is about its beginning.

    Returns the number of entries; raises IntegrityError naming the first entry, or the checkpoint, that is wrong.
    """
    return verify_hashes(_checked_pages(leaves), tail, pinned)


def verify_hashes(pages: Iterable[Sequence[bytes]], tail: Tail, pinned: Iterable[Pinned]) -> int:
    """The same for the hashes of leaves that were checked, in order, some at a time."""
    waiting = sorted(pinned, key=lambda each: each.checkpoint.size, reverse=True)
    edge = Edge()
    _agree(waiting, edge, last=False)
    for page in pages:
        begun, at = edge.size, 0
        while waiting and (stop := waiting[-1].checkpoint.size - begun) <= len(page):
            edge, at = edge.extend(page[at:stop]), stop
            _agree(waiting, edge, last=False)
        edge = edge.extend(page[at:])
    if (tail.checkpoint.size, tail.checkpoint.root) != (edge.size, edge.root):
        raise IntegrityError(f"the log ends at entry {edge.size}, which is not where its signed end says")
    _agree(waiting, edge, last=True)
    return edge.size


def _checked_pages(leaves: Iterable[Leaf]) -> Iterator[list[bytes]]:
    rows = ((leaf.sequence, leaf.time, leaf.sealed, leaf.hash) for leaf in leaves)
    number, before = 0, ""
    while page := list(islice(rows, _PAGE)):
        yield check_leaves(page, number, before)
        number, before = number + len(page), page[-1][1]


def check_leaves(rows: Sequence[tuple[int, str, bytes, bytes]], after: int, before: str) -> list[bytes]:
    """The hashes of the entries behind one: sequence, time, sealed entry, and the hash that is beside it.

    Raises IntegrityError naming the first that has not the number that is expected or the hash beside it, or that is
    from before the one that it follows.
    """
    hashes = []
    for expected, (sequence, time, sealed, beside) in enumerate(rows, after + 1):
        if sequence != expected:
            raise IntegrityError(f"log entry {expected} is missing or out of order")
        try:
            found = leaf_hash(*_pieces(sequence, time, sealed))
        except (AttributeError, TypeError, UnicodeEncodeError) as error:
            # SQLite keeps in a column what somebody writes there, of whatever type.
            raise IntegrityError(f"log entry {expected} was changed") from error
        if found != beside:  # neither of them is a secret
            raise IntegrityError(f"log entry {expected} was changed")
        if time < before:
            raise IntegrityError(f"log entry {expected} is from before the one that it follows")
        before = time
        hashes.append(found)
    return hashes


def _agree(waiting: list[Pinned], edge: Edge, *, last: bool) -> None:
    """Hold the checkpoints of this size against the log up to here; of the last entry, those of larger sizes too."""
    while waiting and (waiting[-1].checkpoint.size == edge.size or last):
        mark = waiting.pop()
        if mark.checkpoint.size > edge.size:
            raise IntegrityError(
                f"the log ends at entry {edge.size}, before entry {mark.checkpoint.size} of {mark.where}: "
                "its end was cut off, or the catalog was rolled back"
            )
        if not hmac.compare_digest(mark.checkpoint.root, edge.root):
            raise IntegrityError(
                f"the log up to entry {edge.size} is another than that of {mark.where}: it was changed, or forked"
            )
