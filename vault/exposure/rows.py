"""Sets of rows of one version: whole shards as runs, and of other shards a bitmap each.

A set takes one bit for each row of the shards that are in it in part, and next to nothing for whole ones, however often
they were read. Nothing here makes an object for a row or a cell.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vault.exposure.intervals import NONE, Numbers, Runs, common, holds, joined, length, minus, of_pairs

__all__ = ["MOST_ROWS", "Bits", "Layout", "RowSet", "bits_of_runs", "either", "runs_of_bits"]

#: A bitmap of rows: the least significant bit of each byte first.
Bits = npt.NDArray[np.uint8]
#: No shard has as many rows: an entry that speaks of more was not written by dsvault.
MOST_ROWS: Final = 2**27
_LAST_SHARD: Final = 2**31 - 1
#: So few runs are set one by one.
_FEW: Final = 256


class Layout:
    """Where the rows of a version lie: runs of shards with the same number of rows each, and whom they are assigned to.

    ``runs`` are as in the log: first shard, last shard, rows of each, the holder's id or None. Raises ValueError for
    what is no layout.
    """

    def __init__(self, runs: Sequence[Sequence[Any]]) -> None:
        before = -1
        for first, last, each, holder in runs:
            numbers = (first, last, each)
            if any(type(number) is not int for number in numbers) or not before < first <= last <= _LAST_SHARD:
                raise ValueError("not a layout")
            if not 0 <= each <= MOST_ROWS or not (holder is None or isinstance(holder, str)):
                raise ValueError("not a layout")
            before = last
        table = np.array([run[:3] for run in runs], dtype=np.int64).reshape(-1, 3)
        self._first, self._stop, self._each = table[:, 0], table[:, 1] + 1, table[:, 2]
        sizes = (self._stop - self._first) * self._each
        self._start = np.cumsum(sizes) - sizes
        self._holders = [run[3] for run in runs]
        self.rows = int(sizes.sum())
        #: As in the log.
        self.runs: tuple[tuple[int, int, int, str | None], ...] = tuple(
            (first, last, each, holder) for first, last, each, holder in runs
        )
        #: All shards that there are.
        self.shards = of_pairs(np.stack([self._first, self._stop], axis=1))

    def widest(self, other: "Layout") -> "Layout":
        """As many rows of each shard as either layout has, assigned to somebody only where both say so."""
        edges = np.unique(np.concatenate([self.borders, other.borders])).tolist()
        runs = []
        for first, stop in pairwise(edges):
            there = [run for run in (self.run_of(first), other.run_of(first)) if run is not None]
            if there:
                holders = {run[3] for run in there}
                holder = holders.pop() if len(holders) == 1 else None
                runs.append((first, stop - 1, max(run[2] for run in there), holder))
        return Layout(runs)

    def run_of(self, shard: int) -> tuple[int, int, int, str | None] | None:
        """The run that a shard is in, if there is one."""
        at = int(np.searchsorted(self._first, shard, side="right")) - 1
        return self.runs[at] if at >= 0 and shard < self._stop[at] else None

    @property
    def borders(self) -> Numbers:
        """The shards where a run begins, or lies behind its end."""
        return np.concatenate([self._first, self._stop])

    def before(self, shards: npt.ArrayLike) -> Numbers:
        """For each shard how many rows lie before it."""
        wanted = np.asarray(shards, dtype=np.int64)
        if not len(self._first):
            return np.zeros_like(wanted)
        run = np.maximum(np.searchsorted(self._first, wanted, side="right") - 1, 0)
        inside = np.clip(wanted, self._first[run], self._stop[run]) - self._first[run]
        return np.asarray(self._start[run] + inside * self._each[run], dtype=np.int64)

    def rows_of(self, shard: int) -> int:
        """How many rows a shard has, 0 where there is none."""
        return self.rows_of_each([shard])[0]

    def rows_of_each(self, shards: Iterable[int]) -> list[int]:
        """The same for each of some shards."""
        numbers = np.fromiter(shards, dtype=np.int64)
        found: list[int] = (self.before(numbers + 1) - self.before(numbers)).tolist()
        return found

    def open_to(self, holder: str) -> Runs:
        """The shards that are assigned to a holder, or to nobody."""
        mine = [at for at, each in enumerate(self._holders) if each is None or each == holder]
        return of_pairs(np.stack([self._first[mine], self._stop[mine]], axis=1))

    def alike(self, other: "Layout", shards: Runs) -> Runs:
        """Of some shards those that have as many rows in the other layout."""
        both = common(common(shards, self.shards), other.shards)
        edges = np.unique(np.concatenate([both.ravel(), self.borders, other.borders]))
        if len(edges) < 2:
            return NONE
        starts = edges[:-1]
        mine = self.before(starts + 1) - self.before(starts)
        theirs = other.before(starts + 1) - other.before(starts)
        kept = holds(both, starts) & (mine == theirs)
        return of_pairs(np.stack([starts[kept], edges[1:][kept]], axis=1))


def _held(runs: Runs, shards: Iterable[int]) -> list[int]:
    """Of some shards those that are in runs of them."""
    numbers = np.fromiter(shards, dtype=np.int64)
    found: list[int] = numbers[holds(runs, numbers)].tolist()
    return found


def bits_of_runs(runs: Runs, rows: int) -> Bits:
    """Runs of rows of a shard as a bitmap of all its rows; what lies beyond them is left out."""
    inside = np.minimum(runs, rows)
    if len(inside) <= _FEW:
        bits = np.zeros((rows + 7) // 8, dtype=np.uint8)
        for first, stop in inside.tolist():
            _set(bits, first, stop)
        return bits
    # They are apart, so that each row is begun once at the most.
    edges = np.zeros(rows + 1, dtype=np.int8)
    edges[inside[:, 0]] = 1
    edges[inside[:, 1]] -= 1
    return np.packbits(np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_), bitorder="little")


def _set(bits: Bits, first: int, stop: int) -> None:
    """Set the bits of some rows that follow each other."""
    if first >= stop:
        return
    low, high = first // 8, (stop - 1) // 8
    head, tail = 0xFF << first % 8 & 0xFF, 0xFF >> 7 - (stop - 1) % 8
    if low == high:
        bits[low] |= head & tail
        return
    bits[low] |= head
    bits[low + 1 : high] = 0xFF
    bits[high] |= tail


def runs_of_bits(bits: Bits) -> Runs:
    """A bitmap as runs."""
    edges = np.diff(np.unpackbits(bits, bitorder="little").astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1).astype(np.int64)


def _fitted(bits: Bits, rows: int) -> Bits:
    """A bitmap cut, or filled up, to so many rows."""
    if len(bits) == (rows + 7) // 8 and (not rows % 8 or not int(bits[-1]) >> rows % 8):
        return bits
    fitted = np.zeros((rows + 7) // 8, dtype=np.uint8)
    fitted[: min(len(bits), len(fitted))] = bits[: len(fitted)]
    if rows % 8 and len(fitted):
        fitted[-1] &= (1 << rows % 8) - 1
    return fitted


@dataclass(frozen=True, slots=True, eq=False)
class RowSet:
    """Rows of one version in one state: ``whole`` shards, and for each in ``part`` a bitmap of all its rows."""

    layout: Layout
    whole: Runs
    part: Mapping[int, Bits]

    @classmethod
    def of(cls, layout: Layout, whole: Runs = NONE, part: Mapping[int, Bits] | None = None) -> "RowSet":
        """A set from whole shards and bitmaps, of what the layout has; a bitmap may say all of a shard, or nothing."""
        shards = common(whole, layout.shards)
        kept: dict[int, Bits] = {}
        full: list[int] = []
        if part:
            numbers = np.fromiter(part, dtype=np.int64, count=len(part))
            taken = set(numbers[holds(shards, numbers)].tolist())
            for (shard, bits), rows in zip(part.items(), layout.rows_of_each(part), strict=True):
                if shard in taken:
                    continue
                fitted = _fitted(bits, rows)
                count = int(np.bitwise_count(fitted).sum())
                if rows and count == rows:
                    full.append(shard)
                elif count:
                    kept[shard] = fitted
        if full:
            shards = joined(shards, of_pairs([(shard, shard + 1) for shard in full]))
        return cls(layout, shards, kept)

    @property
    def count(self) -> int:
        """How many rows there are."""
        edges = self.layout.before(self.whole.ravel()).reshape(-1, 2)
        return length(edges) + sum(int(np.bitwise_count(bits).sum()) for bits in self.part.values())

    @property
    def content(self) -> bytes:
        """Bytes that are equal for equal sets of one layout, and for no others."""
        digest = hashlib.sha256(self.whole.tobytes())
        for shard in sorted(self.part):
            digest.update(shard.to_bytes(8, "big") + self.part[shard].tobytes())
        return digest.digest()

    @property
    def shards(self) -> Runs:
        """The shards that have any row in the set."""
        return joined(self.whole, of_pairs([(shard, shard + 1) for shard in self.part]))

    def __bool__(self) -> bool:
        return bool(len(self.whole) or self.part) and self.count > 0

    def __or__(self, other: "RowSet") -> "RowSet":
        part = dict(self.part)
        for shard, bits in other.part.items():
            mine = part.get(shard)
            part[shard] = bits if mine is None else mine | bits
        return RowSet.of(self.layout, joined(self.whole, other.whole), part)

    def __sub__(self, other: "RowSet") -> "RowSet":
        cut = of_pairs([(shard, shard + 1) for shard in other.part])
        part = {shard: ~other.part[shard] for shard in _held(self.whole, other.part)}
        gone = set(_held(other.whole, self.part))
        for shard, bits in self.part.items():
            theirs = other.part.get(shard)
            if theirs is not None:
                part[shard] = bits & ~theirs
            elif shard not in gone:
                part[shard] = bits
        return RowSet.of(self.layout, minus(minus(self.whole, other.whole), cut), part)

    def within(self, shards: Runs) -> "RowSet":
        """The rows that lie in some shards."""
        part = {shard: self.part[shard] for shard in _held(shards, self.part)}
        return RowSet(self.layout, common(self.whole, shards), part)

    def moved(self, layout: Layout, shards: Runs) -> "RowSet":
        """The same rows in another version, or another state, that has these shards row for row."""
        found = self.within(shards)
        return RowSet.of(layout, found.whole, found.part)

    def ranges(self, most: int | None = None) -> Runs | None:
        """The rows as runs of numbers from the version's first row on; None where there are more than ``most``."""
        if most is not None and len(self.whole) > most:
            return None
        pieces = [self.layout.before(self.whole.ravel()).reshape(-1, 2)]
        total = len(self.whole)
        starts = self.layout.before(np.fromiter(self.part, dtype=np.int64)).tolist()
        for start, bits in zip(starts, self.part.values(), strict=True):
            runs = runs_of_bits(bits)
            total += len(runs)
            if most is not None and total > 2 * most:
                return None
            pieces.append(runs + start)
        found = of_pairs(np.concatenate(pieces))
        return None if most is not None and len(found) > most else found

    def first_ranges(self, most: int) -> list[tuple[int, int]]:
        """Some of the first of its `ranges`, first and last row of each: never more, and fewer where they touch."""
        few = RowSet(self.layout, self.whole[:most], {shard: self.part[shard] for shard in sorted(self.part)[:most]})
        found = few.ranges()
        assert found is not None
        return [(first, stop - 1) for first, stop in found[:most].tolist()]


def either(one: RowSet, other: RowSet) -> RowSet:
    """The rows of both; the very set where the other one has none, so that equal ones stay one."""
    if one is other or (not len(other.whole) and not other.part):
        return one
    return other if not len(one.whole) and not one.part else one | other
