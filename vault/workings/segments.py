"""The log on its way into the store: what no checkpoint may be ahead of.

Before a checkpoint leaves the catalog, the entries that it is about are in the store, as segments whose names are the
numbers of their first entries. Whoever leaves a checkpoint writes what is not there yet, put-if-absent: of two brokers
the second finds the first one's segment, and goes on behind it. Only adding is needed for that. `merge` makes few large
segments of many small ones.

What somebody planted under a name is no segment, since its note is not signed, or for other entries; the entries then
get another name.
"""

import hmac
import threading
from collections.abc import Callable, Iterator
from typing import Final, final

from vault.audit import BEGINNING, Checkpoint, Edge, Leaf, Segment, segment_begins, sign_checkpoint
from vault.catalog import Catalog
from vault.encoding import new_id
from vault.errors import Conflict, IntegrityError, NotFound
from vault.objects import ObjectInfo, ObjectStore
from vault.trust import Root, Signer
from vault.workings.checkpoints import read_ever
from vault.workings.roots import Roots

__all__ = ["FOLDER", "Segments", "first_of", "read_segment"]

FOLDER: Final = "log"
#: A segment ends with the entry that takes it past so many bytes, and one of half as many is left as it is by `merge`.
_BYTES: Final = 8 << 20
_PAGE: Final = 1000


def first_of(name: str) -> int:
    """The number of the first entry of the segment of a name; raises IntegrityError."""
    number = name.removeprefix(f"{FOLDER}/").partition("x")[0]
    if len(number) != 20 or not number.isdecimal():
        raise IntegrityError(f"{name} in the store: this is not the name of a segment of the log")
    return int(number)


def read_segment(roots: Roots, name: str, data: bytes) -> tuple[Segment, Checkpoint]:
    """The segment that lies under a name, and what its note says; raises IntegrityError where no log key signed it."""
    segment = Segment.decode(data, roots.vault)
    checkpoint, _ = read_ever(roots, segment.note)
    if segment.first != first_of(name) or checkpoint.size != segment.last:
        raise IntegrityError(f"{name} in the store: a segment of the log does not carry the number that it lies under")
    return segment, checkpoint


@final
class Segments:
    """The segments of one vault's log. Safe for use from several threads."""

    def __init__(
        self, roots: Roots, catalog: Catalog, store: ObjectStore, signer: Callable[[Root], Signer], most: int = _BYTES
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._store = store
        self._signer = signer
        self._most = most
        self._lock = threading.Lock()
        self._saved: int | None = None
        self._reached = Edge()

    def put(self, note: bytes, checkpoint: Checkpoint) -> None:
        """Put the entries up to a checkpoint that the store does not have; raises Unavailable and IntegrityError."""
        with self._lock:
            if self._saved is None:
                self._saved = self._end_in_store()
            while self._saved < checkpoint.size:
                leaves = self._leaves(self._saved, checkpoint.size)
                self._saved = self._put(self._ended(leaves, note, checkpoint))

    def _end_in_store(self) -> int:
        """The number of the last entry that the store has."""
        for info in sorted(self._store.list(FOLDER), key=lambda info: info.name, reverse=True):
            place = self._place_of(info)
            if place is not None:
                return place[1]
        return 0

    def _place_of(self, info: ObjectInfo) -> tuple[int, int] | None:
        """The numbers of a segment's first and last entry, by its beginning; None for what is none."""
        try:
            begins = self._store.get_range(info.name, 0, min(BEGINNING, info.size))
            first, last, note = segment_begins(begins, self._roots.vault)
            checkpoint, _ = read_ever(self._roots, note)
            return (first, last) if (first_of(info.name), checkpoint.size) == (first, last) else None
        except (IntegrityError, NotFound):
            return None

    def _leaves(self, after: int, last: int) -> list[Leaf]:
        """Entries behind a number: up to another, or until they are large enough for a segment."""
        found: list[Leaf] = []
        size = 0
        with self._catalog.read() as transaction:
            while size < self._most and after < last:
                page = [Leaf(*row) for row in transaction.log_range(after, min(after + _PAGE, last))]
                if len(page) != min(after + _PAGE, last) - after:
                    raise IntegrityError("the catalog's log lacks entries that its signed end is about")
                found, after = found + page, page[-1].sequence
                size += sum(len(leaf.sealed) for leaf in page)
        return found

    def _ended(self, leaves: list[Leaf], note: bytes, checkpoint: Checkpoint) -> Segment:
        """A segment of entries, with a note that ends with them."""
        last = leaves[-1]
        if last.sequence != checkpoint.size:
            root = self._edge(last.sequence).root
            note = sign_checkpoint(
                self._roots.vault, Checkpoint(last.sequence, root, last.time), self._signer(self._roots.current)
            )
        return Segment(leaves[0].sequence, note, tuple(leaves))

    def _edge(self, size: int) -> Edge:
        edge = self._reached if self._reached.size <= size else Edge()
        with self._catalog.read() as transaction:
            while edge.size < size:
                edge = edge.extend(transaction.log_hashes(edge.size, min(edge.size + _PAGE, size)))
        self._reached = edge
        return edge

    def _put(self, segment: Segment) -> int:
        """Put a segment; returns the number of the last entry that the store has then."""
        name = f"{FOLDER}/{segment.first:020d}"
        data = segment.encode(self._roots.vault)
        try:
            self._store.put(name, data)
        except Conflict:
            there = self._there(name)
            if there is not None:
                return there
            self._store.put(f"{name}x{new_id()}", data)
        return segment.last

    def _there(self, name: str) -> int | None:
        """The last entry of the segment that another process put; None where it is none.

        Raises IntegrityError where a log key signed other entries than the catalog has.
        """
        try:
            segment, checkpoint = read_segment(self._roots, name, self._store.get(name))
        except IntegrityError:
            return None
        other = self._other_than_here(segment)
        if other is None:
            return segment.last
        try:
            segment.behind(self._edge(segment.first - 1), checkpoint)
        except IntegrityError:
            return None  # under a note that was signed for other entries, and that anybody can copy
        raise IntegrityError(f"the store holds another log than this one from entry {other} on")

    def _other_than_here(self, segment: Segment) -> int | None:
        """The first entry of a segment that is not the catalog's."""
        with self._catalog.read() as transaction:
            known = transaction.log_hashes(segment.first - 1, segment.last)
        for leaf, expected in zip(segment.leaves, known, strict=False):
            if not hmac.compare_digest(leaf.hash, expected):
                return leaf.sequence
        return None if len(known) == len(segment.leaves) else segment.first + len(known)

    def merge(self, end: Callable[[], tuple[bytes, Checkpoint] | None]) -> None:
        """Make large segments of small ones, out of the catalog. Only after the log was verified.

        ``end`` is where the log ends, asked for after the store was listed: what is listed then ends before it, and is
        not needed any more where the segments that are kept or made have all.
        """
        listed = list(self._store.list(FOLDER))
        found = end()
        if found is None:
            return
        self.put(*found)
        kept = self._large(listed)
        large = [info for _, info in kept.values()]
        small = [info for info in listed if info not in large]
        if len(small) < 2:
            return
        after = 0
        while after < found[1].size:
            if after + 1 in kept:
                after = kept[after + 1][0]
            else:
                stop = min((first - 1 for first in kept if first > after), default=found[1].size)
                after = self._make(after, stop, *found)
        self._store.delete_all([info.name for info in small])

    def _large(self, listed: list[ObjectInfo]) -> dict[int, tuple[int, ObjectInfo]]:
        """What is large already and stays, by the first entry, with the last; none of them overlaps another."""
        kept: dict[int, tuple[int, ObjectInfo]] = {}
        behind = 0
        for info in sorted(listed, key=lambda info: info.name):
            place = self._place_of(info) if info.size >= self._most // 2 else None
            if place is not None and place[0] > behind and self._is_whole(info):
                kept[place[0]], behind = (place[1], info), place[1]
        return kept

    def _is_whole(self, info: ObjectInfo) -> bool:
        """Whether a segment has the catalog's entries: a note says nothing of what somebody put behind it."""
        try:
            segment, _ = read_segment(self._roots, info.name, self._store.get(info.name))
        except (IntegrityError, NotFound):
            return False
        return self._other_than_here(segment) is None

    def _make(self, after: int, stop: int, note: bytes, checkpoint: Checkpoint) -> int:
        segment = self._ended(self._leaves(after, stop), note, checkpoint)
        self._store.put(f"{FOLDER}/{segment.first:020d}x{new_id()}", segment.encode(self._roots.vault))
        return segment.last

    def every(self) -> Iterator[ObjectInfo]:
        """What lies in the store where segments do."""
        return self._store.list(FOLDER)
