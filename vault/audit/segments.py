"""Segments: runs of sealed entries as they are kept beside the catalog, each up to a signed checkpoint.

A segment is ``canonical("dsvault log segment", vault, first, last, note)`` and then, for each entry in order,
``canonical(time, sealed)``. Its note is a checkpoint over all entries up to its last one: whoever has the entries
before it can tell whether the segment is what was signed. The entries are sealed to the auditor already. Specified in
``docs/reference/format.md`` section 10.
"""

import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from vault.audit.checkpoint import Checkpoint
from vault.audit.leaves import Leaf, leaf_bytes
from vault.audit.merkle import Edge, leaf_hash
from vault.encoding import canonical, from_canonical
from vault.errors import IntegrityError

__all__ = ["BEGINNING", "Segment", "segment_begins"]

_KIND: Final = "dsvault log segment"
_NUMBER: Final = struct.Struct(">Q")
#: What a segment begins with is not longer, whatever its note is.
BEGINNING: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Segment:
    """The entries from one number to another, and the note that is over all up to the last."""

    first: int
    note: bytes
    leaves: tuple[Leaf, ...]

    @property
    def last(self) -> int:
        """The number of the last entry."""
        return self.first + len(self.leaves) - 1

    def encode(self, vault: str) -> bytes:
        """As it is kept."""
        begin = canonical(_KIND, vault, self.first, self.last, self.note)
        return begin + b"".join(canonical(leaf.time, leaf.sealed) for leaf in self.leaves)

    @classmethod
    def decode(cls, data: bytes, vault: str) -> "Segment":
        """Inverse of `encode`, with hashes made of what is there; raises IntegrityError."""
        parts = from_canonical(data)
        first, last, note = _beginning(parts, vault)
        rest = list(parts)
        if len(rest) != 2 * (last - first + 1):
            raise IntegrityError("a segment of the log does not hold as many entries as it says")
        leaves = []
        try:
            for sequence, (time, sealed) in enumerate(zip(rest[::2], rest[1::2], strict=True), first):
                text = time.decode("ascii")
                leaves.append(Leaf(sequence, text, sealed, leaf_hash(leaf_bytes(sequence, text, sealed))))
        except UnicodeDecodeError as error:
            raise IntegrityError("a segment of the log holds a time that is none") from error
        return cls(first, note, tuple(leaves))

    def behind(self, edge: Edge, checkpoint: Checkpoint) -> tuple[Edge, tuple[Leaf, ...]]:
        """The edge of the log with this segment, and its entries that ``edge`` does not have yet.

        ``checkpoint`` is what its note says. Raises IntegrityError where there is a gap before it, or it is not what
        was signed.
        """
        if not self.first <= edge.size + 1 <= self.last or checkpoint.size != self.last:
            raise IntegrityError("a segment of the log does not stand where it belongs")
        new = self.leaves[edge.size + 1 - self.first :]
        found = edge.extend(leaf.hash for leaf in new)
        if not hmac.compare_digest(found.root, checkpoint.root):
            raise IntegrityError(f"the entries {self.first} to {self.last} of the log are not those that were signed")
        return found, new


def segment_begins(data: bytes, vault: str) -> tuple[int, int, bytes]:
    """The numbers of a segment's first and last entry and its note, by its first `BEGINNING` bytes.

    Raises IntegrityError.
    """
    return _beginning(from_canonical(data), vault)


def _beginning(parts: Iterator[bytes], vault: str) -> tuple[int, int, bytes]:
    try:
        kind, of, first, last, note = islice(parts, 5)
        numbers = _NUMBER.unpack(first)[0], _NUMBER.unpack(last)[0]
    except (ValueError, struct.error) as error:
        raise IntegrityError("what was read is no segment of a log") from error
    if kind != _KIND.encode() or of != vault.encode() or not 1 <= numbers[0] <= numbers[1]:
        raise IntegrityError("what was read is no segment of this vault's log")
    return *numbers, note
