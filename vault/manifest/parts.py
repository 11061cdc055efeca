"""Parts of a manifest, and where the borders between them are.

New chunks gather in the manifest itself. When they have become many there they move into parts of their own, each of
which is written once: an append rewrites the manifest, which is small, and at times the last part of a column group.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from vault.encoding import new_id
from vault.manifest.listing import Entry, Listing

__all__ = ["INLINE_MOST", "PART_MOST", "Gathering", "Part", "Place", "arrange"]

#: The most chunks that stand in a manifest itself; some 130 bytes each.
INLINE_MOST: Final = 8_192
#: The most chunks in a part of its own.
PART_MOST: Final = 4_096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part is kept: its object in the store, its chunk id and the manifest key's epoch, its size and digest."""

    object: str
    chunk: str
    epoch: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """The chunks of one column group in a run of shards, of which ``first`` and ``last`` are the outermost.

    ``content`` stays with what is listed through every rekey and fan-out, as a chunk's does with its rows: a vendor's
    part of the same content lists what the owner's does, save what is assigned to others. ``size`` is in bytes of
    chunks. One that is ``apart`` has an object of its own, at ``place`` once it is written; any other stands in the
    manifest. Whichever has no place has its listing.
    """

    group: str
    content: str
    first: int
    last: int
    chunks: int
    rows: int
    size: int
    apart: bool
    place: Place | None
    listing: Listing | None

    def holding(self, listing: Listing, content: str | None = None) -> "Part":
        """This run of shards with another listing, that is not written yet; with other rows it has another content."""
        return replace(
            self,
            group=listing.group,
            content=content or self.content,
            chunks=len(listing),
            rows=listing.rows,
            size=listing.size,
            place=None,
            listing=listing,
        )


@final
class Gathering:
    """Chunks as they are written, by group; most are kept as columns at any time."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}
        self._listings: dict[str, list[Listing]] = {}
        self._waiting = 0

    def add(self, entry: Entry) -> None:
        """The next chunk of its group, of a later shard than those before."""
        self._entries.setdefault(entry.ref.group, []).append(entry)
        self._waiting += 1
        if self._waiting >= INLINE_MOST:
            self._condense()

    def _condense(self) -> None:
        for group, entries in self._entries.items():
            self._listings.setdefault(group, []).append(Listing.of(group, entries))
        self._entries, self._waiting = {}, 0

    def listings(self) -> dict[str, Listing]:
        """What was gathered, by group."""
        self._condense()
        return {group: Listing.joined(found) for group, found in self._listings.items()}


def arrange(kept: Iterable[Part], fresh: Mapping[str, Listing], load: Callable[[Part], Listing]) -> tuple[Part, ...]:
    """The parts of a version that keeps some of an earlier one's and adds chunks of later shards.

    ``load`` opens a part that is to be joined with what is new. The borders in one group do not depend on the others'
    unless the manifest would grow too large.
    """
    groups: dict[str, list[Part]] = {}
    for part in kept:
        groups.setdefault(part.group, []).append(part)
    for group, listing in fresh.items():
        if len(listing):
            parts = groups.setdefault(group, [])
            if parts and not parts[-1].apart:
                listing = Listing.joined([load(parts.pop()), listing])
            parts += _cut(listing)
    if sum(part.chunks for parts in groups.values() for part in parts if not part.apart) > INLINE_MOST:
        groups = {group: _settled(parts, load) for group, parts in groups.items()}
    return tuple(part for parts in groups.values() for part in parts)


def _cut(listing: Listing) -> list[Part]:
    """Whole parts of their own, and what is left in the manifest."""
    starts = range(0, len(listing), PART_MOST)
    return [_part(piece, apart=len(piece) == PART_MOST) for piece in (listing.slice(at, PART_MOST) for at in starts)]


def _settled(parts: Sequence[Part], load: Callable[[Part], Listing]) -> list[Part]:
    """With nothing in the manifest: the last part moves out, into the one before it if that has room."""
    if not parts or parts[-1].apart:
        return list(parts)
    *before, last = parts
    if before and before[-1].chunks + last.chunks <= PART_MOST:
        return [*before[:-1], _part(Listing.joined([load(before[-1]), load(last)]), apart=True)]
    return [*before, _part(load(last), apart=True)]


def _part(listing: Listing, *, apart: bool) -> Part:
    shards = listing.shards
    first, last = shards[0].as_py(), shards[-1].as_py()
    return Part(listing.group, new_id(), first, last, len(listing), listing.rows, listing.size, apart, None, listing)
