"""Sets of rows and of numbers against Python's own sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exposure.test_ground_truth import rows
from vault.exposure import intervals
from vault.exposure.bags import Bag, read_items
from vault.exposure.names import masks_on, paired
from vault.exposure.rows import Layout, RowSet, bits_of_runs, runs_of_bits
from vault.rowsets import item_of

SIZES = (3, 8, 0, 17, 8, 8)
LAYOUT = Layout([[0, 0, 3, None], [1, 1, 8, "x"], [2, 2, 0, None], [3, 3, 17, None], [5, 6, 8, "y"]])
STARTS = {0: 0, 1: 3, 3: 11, 5: 28, 6: 36}
ROWS = {0: 3, 1: 8, 3: 17, 5: 8, 6: 8}
_sets = st.sets(st.integers(0, 43))
_numbers = st.sets(st.integers(0, 30))


def made(wanted: set[int]) -> RowSet:
    """A set by way of items, as entries have them."""
    bag = Bag()
    for shard, start in STARTS.items():
        mask = np.array([start + row in wanted for row in range(ROWS[shard])])
        if mask.any():
            bag.put(read_items([item_of(shard, mask)]))
    assert bag.fits(LAYOUT)
    return bag.settled(LAYOUT)


def runs(numbers: set[int]) -> intervals.Runs:
    return intervals.of_pairs([(number, number + 1) for number in numbers])


def listed(found: intervals.Runs) -> set[int]:
    return {number for first, stop in found.tolist() for number in range(first, stop)}


@given(_sets, _sets)
def test_sets_of_rows_are_sets(one: set[int], other: set[int]) -> None:
    """Union, difference, count, truth, content and ranges."""
    mine, theirs = made(one), made(other)
    assert rows(mine) == one
    assert rows(mine | theirs) == one | other
    assert rows(mine - theirs) == one - other
    assert (mine.count, bool(mine)) == (len(one), bool(one))
    assert (mine.content == theirs.content) == (one == other)
    first = mine.first_ranges(3)
    assert {row for low, high in first for row in range(low, high + 1)} <= one
    assert mine.ranges(0) is None or not one


@given(_sets, st.sets(st.integers(0, 7)))
def test_rows_within_shards(one: set[int], shards: set[int]) -> None:
    """What lies in some shards."""
    expected = {row for row in one for s, start in STARTS.items() if s in shards and start <= row < start + ROWS[s]}
    assert rows(made(one).within(runs(shards))) == expected


@given(_numbers, _numbers)
def test_runs_are_sets(one: set[int], other: set[int]) -> None:
    """Runs of numbers joined, in common and without each other."""
    mine, theirs = runs(one), runs(other)
    assert listed(intervals.joined(mine, theirs)) == one | other
    assert listed(intervals.common(mine, theirs)) == one & other
    assert listed(intervals.minus(mine, theirs)) == one - other
    assert intervals.length(mine) == len(one)
    for found in (intervals.joined(mine, theirs), intervals.common(mine, theirs), intervals.minus(mine, theirs)):
        assert (found[1:, 0] > found[:-1, 1]).all()


@given(st.lists(st.booleans(), min_size=1, max_size=2000))
def test_bitmaps_and_runs(flags: list[bool]) -> None:
    """A bitmap's runs, few or many, give the bitmap."""
    bits = np.packbits(np.array(flags), bitorder="little")
    assert (bits_of_runs(runs_of_bits(bits), len(flags)) == bits).all()


def test_many_runs_make_the_same_bitmap() -> None:
    """Beyond some hundred runs another way is taken."""
    flags = np.arange(5000) % 3 == 0
    bits = np.packbits(flags, bitorder="little")
    assert (bits_of_runs(runs_of_bits(bits), 5000) == bits).all()


def test_a_bag_holds_no_more_than_there_is() -> None:
    """However often the same rows are put in, what is held does not grow."""
    bag = Bag()
    items = read_items([{"shard": s, "rows": [[row, row] for row in range(0, 4000, 2)]} for s in range(20)])
    for _ in range(200):
        bag.put(items)
    bag.merge()
    assert len(bag.rows) + sum(map(len, bag.bits.values())) <= 20 * 2000


@pytest.mark.parametrize(
    "layout",
    [[[0, 0, -1, None]], [[1, 0, 5, None]], [[0, 1, 5, None], [1, 2, 5, None]], [[0, 0, 5, 7]], [[0, 2**40, 1, None]],
     [[0, 0, True, None]], [[0, 0]]],
)  # fmt: skip
def test_what_is_no_layout_is_refused(layout: list[list[object]]) -> None:
    """Runs that overlap, are out of order, or hold what is no number."""
    with pytest.raises(ValueError):  # noqa: PT011
        Layout(layout)


@pytest.mark.parametrize(
    ("shown", "ids", "expected"),
    [
        (["id", "meta"], ["i", "m"], ["i", "m"]),
        (["meta.a", "meta.b", "id"], ["m", "i"], ["m", "m", "i"]),
        (["a.b", "a.b"], ["a", "ab"], ["a", "ab"]),
        (["a.b", "a.c"], ["a", "ac"], ["a", "ac"]),
        (["a.b", "a.c", "a.c"], ["a", "ac"], ["a", "a", "ac"]),
        (['"x.y".z'], ["xy"], ["xy"]),
        (["unknown", "id"], ["?", "i"], ["?", "i"]),
        (["id"], ["i", "m"], None),
        (["id", "other"], ["i"], None),
        (["other"], ["i"], None),
    ],
)
def test_names_find_their_columns(shown: list[str], ids: list[str], expected: list[str] | None) -> None:
    """A field's name is told from that of a column with a dot in its name."""
    names = {"i": "id", "m": "meta", "a": "a", "ab": "a.b", "ac": "a.c", "xy": "x.y"}
    found = paired(shown, ids, names)
    assert (None if found is None else [identity for _, identity in found]) == expected


def test_masks_are_on_what_they_cover() -> None:
    """A mask on a field is on its column in part; one on a column called ``a.b`` is not on ``a``."""
    names = {"meta": "m", "a": "a", "a.b": "ab"}
    masks = (("meta.author", "hash"), ("a.b", "null"))
    assert masks_on("meta", masks, names) == (("meta.author", "hash"),)
    assert masks_on("meta.author", masks, names) == (("meta.author", "hash"),)
    assert masks_on("meta.source", masks, names) == ()
    assert masks_on("a", masks, names) == ()
    assert masks_on("a.b", masks, names) == (("a.b", "null"),)
