"""What a lost catalog is regained from: the log's segments, and what is known to be newer than a backup.

Every checkpoint says how many entries the log had and which administrative change was the last: one that is in the
store or at a witness holds a restore to all of them. What is missing then was taken away, or the store was rolled back.
"""

import hmac
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from vault.audit import Checkpoint, Edge, Leaf, Pinned, Segment
from vault.errors import IntegrityError, NotFound
from vault.objects import ObjectStore
from vault.workings.chain import Backup
from vault.workings.checkpoints import Checkpoints, read_ever
from vault.workings.roots import Roots
from vault.workings.segments import FOLDER, first_of, read_segment

__all__ = ["Run", "log_runs", "marks", "refuse_older", "refuse_shorter"]

_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Run:
    """Entries of the log in order, the note that is over all up to the last, what that says, and the edge there."""

    leaves: tuple[Leaf, ...]
    note: bytes
    checkpoint: Checkpoint
    edge: Edge


def log_runs(roots: Roots, store: ObjectStore) -> Iterator[Run]:
    """The log out of a store's segments, oldest first, each verified by its note.

    What is no segment is passed over, and so is what has other entries than its note was signed for, since notes are
    there for anybody to copy, and what a replaced log key signed behind the first under a present one. Raises
    IntegrityError where entries are missing before some that are there, or at the end.
    """
    edge, wrong, missing, present = Edge(), "", 0, False
    for name, found in _segments(roots, store):
        if isinstance(found, str):
            continue
        segment, checkpoint = found
        counts = read_ever(roots, segment.note)[1]
        if segment.last <= edge.size or (present and not counts):
            continue
        if segment.first > edge.size + 1:
            raise IntegrityError(
                f"the store's log lacks the entries {edge.size + 1} to {segment.first - 1}, though it has {name}{wrong}"
            )
        try:
            edge, leaves = segment.behind(edge, checkpoint)
        except IntegrityError as error:
            wrong, missing = f"; {error}", max(missing, segment.last)
            continue
        present = present or counts
        yield Run(leaves, segment.note, checkpoint, edge)
    if missing > edge.size:
        raise IntegrityError(f"the store's log lacks the entries behind {edge.size}{wrong}")


def _segments(roots: Roots, store: ObjectStore) -> Iterator[tuple[str, tuple[Segment, Checkpoint] | str]]:
    """Segments by their first entries, the largest first of those that begin alike; or why something is none."""
    listed = sorted(store.list(FOLDER), key=lambda info: (_first(info.name), -info.size))
    names = [info.name for info in listed]

    def read(name: str) -> tuple[Segment, Checkpoint] | str:
        try:
            return read_segment(roots, name, store.get(name))
        except (IntegrityError, NotFound) as error:
            return str(error)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        # Some at a time: a log is longer than the memory.
        for at in range(0, len(names), _AT_ONCE):
            some = names[at : at + _AT_ONCE]
            yield from zip(some, threads.map(read, some), strict=True)


def _first(name: str) -> int:
    try:
        return first_of(name)
    except IntegrityError:
        return 0  # read first, and passed over


def marks(roots: Roots, store: ObjectStore, witness: ObjectStore | None, told: Callable[[str], object]) -> list[Pinned]:
    """The checkpoints of the store and of a witness that count; ``told`` hears of what there is that is none.

    Raises IntegrityError where a witness has none, and Unavailable.
    """
    found, junk = Checkpoints(roots, store, "checkpoints", "the store").sorted_out()
    if witness is not None:
        seen, more = Checkpoints(roots, witness, f"{roots.vault}/checkpoints", "the witness").sorted_out()
        if not seen:
            raise IntegrityError("the witness holds no checkpoint of this vault's log")
        found, junk = found + seen, junk + more
    for each in junk:
        told(each)
    return found


def refuse_older(backup: Backup, known: Sequence[Pinned]) -> None:
    """Raise IntegrityError where a checkpoint knows of a later change than the backup has, or of another one."""
    newest = max(known, key=lambda each: each.checkpoint.change, default=None)
    if newest is not None and newest.checkpoint.change > backup.number:
        said = f"; {backup.junk[0]}" if backup.junk else ""
        raise IntegrityError(
            f"{newest.where} knows of change {newest.checkpoint.change} of the catalog, and the newest backup in the "
            f"store is of change {backup.number}: what is newer was taken away, or the store was rolled back{said}"
        )
    for each in known:
        digest = backup.digests.get(each.checkpoint.change)
        if (
            digest is not None
            and each.checkpoint.change
            and not hmac.compare_digest(digest, each.checkpoint.change_digest)
        ):
            raise IntegrityError(
                f"change {each.checkpoint.change} of the backup is not the one that {each.where} knows: it was replaced"
            )


def refuse_shorter(size: int, known: Sequence[Pinned]) -> None:
    """Raise IntegrityError where a checkpoint knows of more entries than the store's log has."""
    newest = max(known, key=lambda each: each.checkpoint.size, default=None)
    if newest is not None and newest.checkpoint.size > size:
        raise IntegrityError(
            f"{newest.where} knows of {newest.checkpoint.size} entries of the log, and the store's log ends at entry "
            f"{size}: what is newer was taken away, or the store was rolled back"
        )
