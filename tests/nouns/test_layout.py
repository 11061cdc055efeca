"""Layouts: how a version is cut into shards, in as few words as it takes."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.encoding import new_id
from vault.manifest import Listing, open_to, shards_of
from vault.manifest.layout import _layout
from vault.manifest.listing import _FIELDS

_SHARDS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, "acme", "globex"])), min_size=1, max_size=40
)


def _listing(shards: list[int], rows: list[int], assigned: list[str | None]) -> Listing:
    """A listing of which nothing else counts."""
    one = pa.array([b"0" * 16] * len(shards), pa.binary(16))
    columns: dict[str, Any] = {field.name: one for field in _FIELDS if field.type == pa.binary(16)}
    columns |= {"shard": shards, "rows": rows, "assigned": assigned}
    columns |= {"epoch": rows, "size": rows, "folder": ["f"] * len(shards)}
    return Listing(new_id(), pa.table({name: columns[name] for name in _FIELDS.names}, schema=_FIELDS))


@settings(deadline=None)
@given(_SHARDS, st.integers(1, 40))
def test_a_layout_says_of_each_shard_what_the_parts_do(shards: list[Any], cut: int) -> None:
    """Whatever its gaps, lengths and owners, and wherever parts begin; neighbours that are alike are one run."""
    numbers = (np.cumsum([step for step, _, _ in shards]) - 1).tolist()
    rows, assigned = [each[1] for each in shards], [each[2] for each in shards]
    listings = [
        _listing(numbers[at : at + cut], rows[at : at + cut], assigned[at : at + cut])
        for at in range(0, len(numbers), cut)
    ]
    layout = _layout(listings)
    told = [(shard, *run[2:]) for run in layout for shard in range(run[0], run[1] + 1)]
    assert told == list(zip(numbers, rows, assigned, strict=True))
    for one, other in pairwise(layout):
        assert one[1] + 1 != other[0] or one[2:] != other[2:]
    for holder in ("acme", "nobody"):
        opened = [shard for first, last in open_to(layout, holder) for shard in range(first, last + 1)]
        assert opened == [number for number, each in zip(numbers, assigned, strict=True) if each in {None, holder}]


def test_of_very_many_shards_that_are_alike_a_layout_is_a_line() -> None:
    """A million rows of a listing, in several parts, are one run and a rest."""
    part = 1 << 17
    listings = [_listing(list(range(at, at + part)), [100] * part, [None] * part) for at in range(0, 2 * part, part)]
    listings.append(_listing([2 * part], [7], [None]))
    assert _layout(listings) == [[0, 2 * part - 1, 100, None], [2 * part, 2 * part, 7, None]]


def test_a_version_without_rows_has_no_layout() -> None:
    """Neither without parts nor with empty ones."""
    assert _layout([]) == []
    assert _layout([_listing([], [], [])]) == []
    assert open_to([], "acme") == []


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6), max_size=4))
def test_the_shards_of_several_are_those_of_any(several: list[list[tuple[int, int]]]) -> None:
    """As runs that do not touch."""
    runs = [[[first, first + more, 5, None] for first, more in each] for each in several]
    found = shards_of(runs)
    expected = {shard for each in runs for first, last, *_ in each for shard in range(first, last + 1)}
    assert [shard for first, last in found for shard in range(first, last + 1)] == sorted(expected)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))
