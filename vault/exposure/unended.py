"""Reads without an end: the rows that each may have had, once it is known where they lie."""

from typing import Any

import numpy as np

from vault.errors import IntegrityError
from vault.exposure.bags import Bag, read_items, read_shards
from vault.exposure.gathering import Open
from vault.exposure.intervals import NONE, Runs, common, of_pairs
from vault.exposure.rows import Layout, RowSet

__all__ = ["Unended"]


class Unended:
    """The rows of one exposure's reads without an end; the very same set for reads that began alike."""

    def __init__(self) -> None:
        self._reachable: dict[tuple[Any, ...], RowSet] = {}

    def rows(self, read: Open, layout: Layout) -> RowSet:
        """All that a read may have had; raises IntegrityError where it cannot be read which shards it was of."""
        pairs = read_shards(read.shards).shards
        listed = _listed(read, layout)
        if listed is not None:
            return _behind(read, of_pairs(pairs), listed)
        key = id(layout), tuple(pairs), read.resumed, read.limit, read.filtered
        if key not in self._reachable:
            self._reachable[key] = _reached(read, of_pairs(pairs), layout)
        return self._reachable[key]


def _listed(read: Open, layout: Layout) -> RowSet | None:
    """The rows that a read is known to have sent; None where it is of none, or cannot be read."""
    if not read.readable or not read.items:
        return None
    bag = Bag()
    try:
        bag.put(read_items(read.items))
    except IntegrityError:
        return None
    return (bag.settled(layout) or None) if bag.fits(layout) else None


def _reached(read: Open, shards: Runs, layout: Layout) -> RowSet:
    """All rows that a read of some shards may have had, from where it was resumed and up to its limit."""
    first = read.resumed[0] if read.resumed is not None else 0
    rows = RowSet.of(layout, common(shards, of_pairs([(first, 2**31)])))
    if read.filtered:
        return rows  # which of its rows pass, and how many of those had left, does not tell which they were
    skipped = 0
    if read.resumed is not None and read.resumed[1]:
        skipped = min(read.resumed[1], layout.rows_of(first))
    start = int(layout.before([first])[0]) + skipped
    return _cut(rows, start, layout.rows if read.limit is None else _stop_of(rows, start, read.limit))


def _behind(read: Open, shards: Runs, listed: RowSet) -> RowSet:
    """Rows that are known to have been sent, and all rows of some shards behind the last of them, up to the limit."""
    layout, ranges = listed.layout, listed.ranges()
    assert ranges is not None
    rows, start = RowSet.of(layout, shards), int(ranges[-1, 1])
    if read.limit is None or read.filtered:
        return listed | _cut(rows, start, layout.rows)
    return listed | _cut(rows, start, _stop_of(rows, start, max(0, read.limit - listed.count)))


def _stop_of(rows: RowSet, start: int, limit: int) -> int:
    """Behind which row of the version so many rows of a set, from a row on, are."""
    ranges = rows.ranges()
    assert ranges is not None
    ranges = common(ranges, of_pairs([(start, rows.layout.rows)]))
    if not len(ranges) or not limit:
        return start
    before = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
    at = min(int(np.searchsorted(before, limit, side="left")), len(ranges)) - 1
    return min(int(ranges[at, 0]) + limit - int(before[at]), int(ranges[at, 1]))


def _cut(rows: RowSet, start: int, stop: int) -> RowSet:
    """The rows of a set of whole shards that lie between two rows of the version."""
    layout, items = rows.layout, Bag()
    shards = [NONE]
    for first, last in rows.whole.tolist():
        edges = layout.before(np.arange(first, last + 1))
        inside = (edges[:-1] >= start) & (edges[1:] <= stop)
        whole = np.flatnonzero(inside) + first
        shards.append(np.stack([whole, whole + 1], axis=1))
        for at in np.flatnonzero(~inside & (edges[1:] > start) & (edges[:-1] < stop)).tolist():
            low, high = max(start, int(edges[at])) - int(edges[at]), min(stop, int(edges[at + 1])) - int(edges[at])
            items.put_rows(first + at, low, high)
    return RowSet.of(layout, of_pairs(np.concatenate(shards))) | items.settled(layout)
