"""Rows as entries name them, gathered before it is known where the shards lie.

A bag holds runs of whole shards, runs of rows of shards, and bitmaps. It merges what overlaps when it has grown, so it
takes as much memory as the rows are different and not as often as they were read.
"""

import zlib
from array import array
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from vault.encoding import from_base64
from vault.errors import IntegrityError
from vault.exposure.intervals import NONE, Runs, holds, joined, minus, of_pairs
from vault.exposure.rows import MOST_ROWS, Bits, Layout, RowSet, bits_of_runs

__all__ = ["Bag", "Items", "read_items", "read_shards"]

_LAST_SHARD: Final = 2**31 - 1
#: A row of a shard as one number; no run of rows reaches into the next shard.
_SHIFT: Final = 28
#: So many numbers are gathered before they are merged.
_LOOSE: Final = 1 << 18


def _malformed() -> IntegrityError:
    return IntegrityError("a log entry speaks of rows in a form that dsvault does not write")


def _is_run(first: object, last: object, most: int) -> bool:
    return type(first) is int and type(last) is int and 0 <= first <= last <= most


def _bits(of: Any, text: Any) -> Bits:
    """The bitmap in an item, checked as strictly as it is written."""
    if type(of) is not int or not 0 < of <= MOST_ROWS or not isinstance(text, str):
        raise _malformed()
    size = (of + 7) // 8
    inflating = zlib.decompressobj()
    try:
        # Never more than the rows need, whatever the stream would become.
        data = inflating.decompress(from_base64(text, "a bitmap of rows"), size + 1)
    except zlib.error as error:
        raise _malformed() from error
    if len(data) != size or not inflating.eof or inflating.unused_data or (of % 8 and data[-1] >> of % 8):
        raise _malformed()
    return np.frombuffer(data, dtype=np.uint8)


class Items(NamedTuple):
    """What a list of items says: pairs of shards, pairs of rows of shards, and bitmaps by shard."""

    shards: list[int]
    rows: list[int]
    bits: list[tuple[int, Bits]]


def read_items(items: Any) -> Items:
    """Read what an entry says was served; raises IntegrityError for anything that dsvault does not write."""
    if not isinstance(items, list):
        raise _malformed()
    found = Items([], [], [])
    for item in items:
        match item:
            case {"shards": [first, last]} if len(item) == 1 and _is_run(first, last, _LAST_SHARD):
                found.shards.extend((first, last + 1))
            case {"shard": shard, "rows": [*runs]} if len(item) == 2 and _is_run(shard, shard, _LAST_SHARD):
                found.rows.extend(_pairs(runs, MOST_ROWS - 1, shard << _SHIFT))
            case {"shard": shard, "of": of, "bits": bits} if len(item) == 3 and _is_run(shard, shard, _LAST_SHARD):
                found.bits.append((shard, _bits(of, bits)))
            case _:
                raise _malformed()
    return found


def read_shards(runs: Any) -> Items:
    """Read runs of whole shards; raises IntegrityError for anything else."""
    if not isinstance(runs, list):
        raise _malformed()
    return Items(_pairs(runs, _LAST_SHARD), [], [])


def _pairs(runs: Sequence[Any], most: int, base: int = 0) -> list[int]:
    """Runs as firsts and stops, each behind a number."""
    found: list[int] = []
    for run in runs:
        if not isinstance(run, list) or len(run) != 2:
            raise _malformed()
        first, last = run
        if type(first) is not int or type(last) is not int or not 0 <= first <= last <= most:
            raise _malformed()
        found += (base + first, base + last + 1)
    return found


class Bag:
    """Rows of one version, by shard."""

    __slots__ = ("bits", "loose_rows", "loose_shards", "rows", "whole")

    def __init__(self) -> None:
        # Loose firsts and stops.
        self.loose_shards = array("q")
        self.whole: Runs = NONE
        self.loose_rows = array("q")
        self.rows: Runs = NONE
        self.bits: dict[int, Bits] = {}

    def put(self, items: Items) -> None:
        """Take what items say."""
        self.loose_shards.fromlist(items.shards)
        self.loose_rows.fromlist(items.rows)
        for shard, bits in items.bits:
            self._or(shard, bits)
        self._merge_many()

    def put_rows(self, shard: int, first: int, stop: int) -> None:
        """Take the rows of a shard from one up to another."""
        self.loose_rows.extend(((shard << _SHIFT) + first, (shard << _SHIFT) + stop))

    def add_set(self, rows: RowSet) -> None:
        """Take a set of rows."""
        self.merge()
        self.whole = joined(self.whole, rows.whole)
        for shard, bits in rows.part.items():
            self._or(shard, bits)

    def _or(self, shard: int, bits: Bits) -> None:
        mine = self.bits.get(shard)
        if mine is None:
            self.bits[shard] = bits
        elif len(mine) >= len(bits):
            # What was taken from an entry may not be written to.
            together = mine.copy()
            together[: len(bits)] |= bits
            self.bits[shard] = together
        else:
            together = bits.copy()
            together[: len(mine)] |= mine
            self.bits[shard] = together

    def _merge_many(self) -> None:
        if len(self.loose_shards) > _LOOSE or len(self.loose_rows) > _LOOSE:
            self.merge()

    def merge(self) -> None:
        """Put together what overlaps."""
        if self.loose_shards:
            self.whole = _with(self.whole, self.loose_shards)
            self.loose_shards = array("q")
        if self.loose_rows:
            self.rows = _with(self.rows, self.loose_rows)
            self.loose_rows = array("q")
            if len(self.rows) > _LOOSE:
                self._pack()

    def _by_shard(self) -> dict[int, Runs]:
        """The runs of rows by their shard, each from the shard's first row on."""
        if not len(self.rows):
            return {}
        numbers = self.rows[:, 0] >> _SHIFT
        shards, starts = np.unique(numbers, return_index=True)
        inside = self.rows - (numbers << _SHIFT)[:, None]
        return dict(zip(shards.tolist(), np.split(inside, starts[1:]), strict=True))

    def _pack(self) -> None:
        """Make bitmaps of the shards where they are smaller than so many runs."""
        left = []
        for shard, runs in self._by_shard().items():
            rows = int(runs[-1, 1])
            if runs.nbytes > rows // 8:
                self._or(shard, bits_of_runs(runs, rows))
            else:
                left.append(runs + (shard << _SHIFT))
        self.rows = np.concatenate(left) if left else NONE

    def take(self, other: "Bag") -> None:
        """Take all that another bag holds."""
        for mine, loose, merged in (
            (self.loose_shards, other.loose_shards, other.whole),
            (self.loose_rows, other.loose_rows, other.rows),
        ):
            mine.extend(loose)
            mine.frombytes(merged.tobytes())
        for shard, bits in other.bits.items():
            self._or(shard, bits)
        self._merge_many()

    def fits(self, layout: Layout) -> bool:
        """Whether all of it is about rows that a version has."""
        self.merge()
        if len(minus(self.whole, layout.shards)):
            return False
        by_shard = self._by_shard()
        for rows, runs in zip(layout.rows_of_each(by_shard), by_shard.values(), strict=True):
            if int(runs[-1, 1]) > rows:
                return False
        sizes = layout.rows_of_each(self.bits)
        return all(_within(bits, rows) for rows, bits in zip(sizes, self.bits.values(), strict=True))

    def settled(self, layout: Layout) -> RowSet:
        """The rows as a set, of those that there are."""
        self.merge()
        part = dict(self.bits)
        by_shard = self._by_shard()
        whole = self.whole
        for rows, (shard, runs) in zip(layout.rows_of_each(by_shard), by_shard.items(), strict=True):
            if not rows or holds(whole, np.array([shard]))[0]:
                continue
            bits = bits_of_runs(runs, rows)
            mine = part.get(shard)
            if mine is not None:
                together = np.zeros(max(len(mine), len(bits)), dtype=np.uint8)
                together[: len(mine)] |= mine
                together[: len(bits)] |= bits
                bits = together
            part[shard] = bits
        return RowSet.of(layout, whole, part)


def _with(runs: Runs, loose: "array[int]") -> Runs:
    """Runs, and loose pairs with them."""
    return of_pairs(np.concatenate([runs.ravel(), np.frombuffer(loose, dtype=np.int64)]))


def _within(bits: Bits, rows: int) -> bool:
    tail = bits[rows // 8 :]
    if not len(tail):
        return True
    return not tail[1:].any() and not int(tail[0]) >> rows % 8
