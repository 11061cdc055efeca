"""The Merkle tree of RFC 6962 section 2.1: hashes, the right edge that appending needs, and proofs.

Leaves are numbered from 0. What a proof shows, it shows to whoever has a root hash that it trusts; nothing here
signs or reads anything. Verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final, final

from vault.errors import IntegrityError

__all__ = [
    "EMPTY",
    "HASH_BYTES",
    "Edge",
    "Tree",
    "leaf_hash",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES: Final = 32
#: The root hash of a tree without leaves.
EMPTY: Final = hashlib.sha256().digest()
#: How many leaves a hash that a `Tree` keeps stands for; a power of two.
_BLOCK: Final = 1024


def leaf_hash(*data: bytes) -> bytes:
    """SHA-256 of 0x00 and a leaf's bytes, whole or in pieces: no node's hash is ever one of a leaf."""
    return hashlib.sha256(b"".join((b"\x00", *data))).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of 0x01 and the hashes of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Edge:
    """A tree as whoever appends needs it: the hashes of its perfect subtrees, the largest first.

    There is one for each bit of ``size`` that is set, at most 64 hashes of 32 bytes.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size.bit_count() != len(self.hashes) or any(len(each) != HASH_BYTES for each in self.hashes):
            raise IntegrityError("the edge of the log does not have a hash for each of its subtrees")

    def append(self, leaf: bytes) -> "Edge":
        """The edge of the tree with one leaf more, by that leaf's hash."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> "Edge":
        """The edge with several leaves more."""
        larger, level = list(self.hashes), list(leaves)
        size, left, found = self.size + len(level), self.size, list[bytes]()
        # Level by level: the subtree of this size that was there stands before the new ones, which pair up.
        while level:
            if left & 1:
                level.insert(0, larger.pop())
            if len(level) & 1:
                found.append(level.pop())
            level = [node_hash(one, other) for one, other in zip(level[::2], level[1::2], strict=True)]
            left >>= 1
        return Edge(size, (*larger, *reversed(found)))

    @property
    def root(self) -> bytes:
        """The tree's root hash."""
        if not self.hashes:
            return EMPTY
        *larger, last = self.hashes
        return reduce(lambda right, left: node_hash(left, right), reversed(larger), last)


def _hash_of(leaves: Iterable[bytes]) -> bytes:
    """The root hash over leaf hashes."""
    return Edge().extend(leaves).root


def _split(size: int) -> int:
    """The largest power of two below a size of 2 and more."""
    return 1 << ((size - 1).bit_length() - 1)


@final
class Tree:
    """The whole tree over leaf hashes that somebody else keeps, for making proofs.

    ``read`` gives the leaf hashes from one number up to another. It is asked for all of them once, in blocks, and then
    for the block of each leaf that a proof is about: what is held are the hashes of blocks, a 1024th of the leaves.
    """

    def __init__(self, size: int, read: Callable[[int, int], Sequence[bytes]]) -> None:
        self.size = size
        self._read = read
        self._blocks = [_hash_of(self._leaves(at, at + _BLOCK)) for at in range(0, size - size % _BLOCK, _BLOCK)]
        self._last: tuple[int, Sequence[bytes]] = (-1, ())

    def _leaves(self, start: int, stop: int) -> Sequence[bytes]:
        found = self._read(start, stop)
        if len(found) != stop - start:
            raise IntegrityError(f"the log lacks an entry between {start + 1} and {stop}")
        return found

    @property
    def root(self) -> bytes:
        """The root hash over all leaves."""
        return self._range(0, self.size)

    def _range(self, start: int, stop: int) -> bytes:
        """The root hash over the leaves of a range that a split of the tree has made."""
        size = stop - start
        if size == 0:
            return EMPTY
        if size == _BLOCK:
            return self._blocks[start // _BLOCK]
        if size > _BLOCK:
            middle = start + _split(size)
            return node_hash(self._range(start, middle), self._range(middle, stop))
        first = start - start % _BLOCK
        if self._last[0] != first:
            self._last = (first, self._leaves(first, min(first + _BLOCK, self.size)))
        return _hash_of(self._last[1][start - first : stop - first])

    def inclusion(self, number: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf in the tree of the first ``size`` leaves (RFC 6962 section 2.1.1)."""
        start, stop, path = 0, self.size if size is None else size, []
        if not 0 <= number < stop <= self.size:
            raise ValueError("there is no such leaf")
        while stop - start > 1:
            middle = start + _split(stop - start)
            if number < middle:
                path.append(self._range(middle, stop))
                stop = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that the first ``old`` leaves are those of that earlier tree (RFC 6962 section 2.1.2)."""
        start, stop, path, whole = 0, self.size if size is None else size, [], True
        if not 0 <= old <= stop <= self.size:
            raise ValueError("there is no such earlier tree")
        if old in {0, stop}:
            return []
        while old != stop:
            middle = start + _split(stop - start)
            if old <= middle:
                path.append(self._range(middle, stop))
                stop = middle
            else:
                path.append(self._range(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._range(start, stop))
        return path[::-1]


def verify_inclusion(leaf: bytes, number: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash has that number in the tree of that size and root; raises IntegrityError."""
    refusal = IntegrityError(f"entry {number + 1} is not in the log of {size} entries that the checkpoint is about")
    if not 0 <= number < size or any(len(each) != HASH_BYTES for each in path):
        raise refusal
    at, last, found = number, size - 1, leaf
    for each in path:
        if last == 0:
            raise refusal
        if at & 1 or at == last:
            found = node_hash(each, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, each)
        at, last = at >> 1, last >> 1
    if last or not hmac.compare_digest(found, root):
        raise refusal


def verify_consistency(old: int, size: int, old_root: bytes, root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree of ``old`` leaves is the beginning of that of ``size`` leaves; raises IntegrityError."""
    refusal = IntegrityError(f"the log of {size} entries does not begin with the one of {old} entries: it was forked")
    if not 0 <= old <= size or any(len(each) != HASH_BYTES for each in path):
        raise refusal
    if old in {0, size}:
        expected = EMPTY if old == 0 else root
        if path or not hmac.compare_digest(old_root, expected):
            raise refusal
        return
    nodes = [old_root, *path] if old.bit_count() == 1 else list(path)
    if not nodes:
        raise refusal
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = nodes[0]
    for each in nodes[1:]:
        if last == 0:
            raise refusal
        if at & 1 or at == last:
            before, after = node_hash(each, before), node_hash(each, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, each)
        at, last = at >> 1, last >> 1
    if last or not (hmac.compare_digest(before, old_root) and hmac.compare_digest(after, root)):
        raise refusal
