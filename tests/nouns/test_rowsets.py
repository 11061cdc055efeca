"""What the log says of the rows that left: the shortest form, read back as it was, and nothing else taken for one."""

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.encoding import json_bytes
from vault.errors import IntegrityError
from vault.rowsets import Gathered, item_of, items_of_shards, read_item, read_items, runs_of

_MASKS = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=300),
    # Long runs, of which there are few.
    st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), min_size=1, max_size=6).map(
        lambda runs: [value for value, length in runs for _ in range(length)]
    ),
    # As good as random, where a bitmap is shorter.
    st.builds(
        lambda seed, rows: (np.random.default_rng(seed).random(rows) < 0.5).tolist(),
        st.integers(0, 2**32),
        st.integers(1, 4000),
    ),
).filter(any)


def _bits(mask: list[bool]) -> dict[str, Any]:
    data = np.packbits(np.array(mask), bitorder="little").tobytes()
    return {"shard": 7, "of": len(mask), "bits": base64.b64encode(zlib.compress(data, 3)).decode()}


def _runs(mask: list[bool]) -> dict[str, Any]:
    found: list[list[int]] = []
    for row, value in enumerate(mask):
        if value and row and mask[row - 1]:
            found[-1][1] = row
        elif value:
            found.append([row, row])
    return {"shard": 7, "rows": found}


@settings(deadline=None)
@given(_MASKS)
def test_what_is_written_is_read_back(mask: list[bool]) -> None:
    """Through JSON, for any rows of a shard."""
    rows = read_item(json.loads(json_bytes(item_of(7, mask))))
    assert (rows.first, rows.last) == (7, 7)
    assert rows.mask(len(mask)).tolist() == mask
    assert rows.count(len(mask)) == sum(mask)


@settings(deadline=None)
@given(_MASKS)
def test_the_forms_agree_and_the_shortest_is_written(mask: list[bool]) -> None:
    """Runs and a bitmap of the same rows read alike, as does the form for all rows of a shard."""
    forms = [_runs(mask), _bits(mask), *([items_of_shards(7, 7)] if all(mask) else [])]
    for form in forms:
        assert read_item(form).mask(len(mask)).tolist() == mask
        assert read_item(form).count(len(mask)) == sum(mask)
    assert len(json_bytes(item_of(7, mask))) == min(len(json_bytes(form)) for form in forms)


@settings(deadline=None)
@given(_MASKS)
def test_runs_are_those_of_a_plain_loop(mask: list[bool]) -> None:
    """First and last of each, also at the ends."""
    assert runs_of(mask).tolist() == _runs(mask)["rows"]


def test_a_mask_without_a_row_is_no_item() -> None:
    """There is no form for nothing."""
    with pytest.raises(ValueError, match="one row"):
        item_of(0, [False, False])
    assert runs_of([]).tolist() == []


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        "shards",
        {},
        {"shards": [0, 1], "shard": 0},
        {"shards": [0, 1], "more": 0},
        {"shards": [0]},
        {"shards": [0, 1, 2]},
        {"shards": [2, 1]},
        {"shards": [-1, 1]},
        {"shards": [-2, -1]},
        {"shards": [0, 2**31]},
        {"shards": [False, True]},
        {"shards": [0, 1.0]},
        {"shards": ["0", "1"]},
        {"shards": "01"},
        {"shard": 0},
        {"shard": 0, "rows": []},
        {"shard": 0, "rows": [[]]},
        {"shard": 0, "rows": [[0]]},
        {"shard": 0, "rows": [0, 1]},
        {"shard": 0, "rows": [[1, 0]]},
        {"shard": 0, "rows": [[-1, 0]]},
        {"shard": 0, "rows": [[-3, -3]]},
        {"shard": 0, "rows": [[0, 2**63]]},
        {"shard": 0, "rows": [[0, 1], [1, 2]]},
        {"shard": 0, "rows": [[0, 1], [2, 3]]},
        {"shard": 0, "rows": [[4, 5], [0, 1]]},
        {"shard": 0, "rows": [[0, 1.5]]},
        {"shard": 0, "rows": [[True, 1]]},
        {"shard": 0, "rows": "[[0, 1]]"},
        {"shard": -1, "rows": [[0, 1]]},
        {"shard": True, "rows": [[0, 1]]},
        {"shard": 2**31, "rows": [[0, 1]]},
        {"shard": 0, "rows": [[0, 1]], "of": 2},
        {"shard": 0, "of": 8, "bits": 1},
        {"shard": 0, "of": 8, "bits": "x"},
        {"shard": 0, "of": 8, "bits": ""},
        {"shard": 0, "of": 8, "bits": base64.b64encode(b"plain").decode()},
        {"shard": 0, "of": 8, "bits": base64.b64encode(zlib.compress(b"\0")).decode()},
        {"shard": 0, "of": 8, "bits": base64.b64encode(zlib.compress(b"\1\1")).decode()},
        {"shard": 0, "of": 9, "bits": base64.b64encode(zlib.compress(b"\1")).decode()},
        {"shard": 0, "of": 7, "bits": base64.b64encode(zlib.compress(b"\x81")).decode()},
        {"shard": 0, "of": 8, "bits": base64.b64encode(zlib.compress(b"\1")[:-1]).decode()},
        {"shard": 0, "of": 8, "bits": base64.b64encode(zlib.compress(b"\1") + b"x").decode()},
        {"shard": 0, "of": 0, "bits": base64.b64encode(zlib.compress(b"")).decode()},
        {"shard": 0, "of": True, "bits": base64.b64encode(zlib.compress(b"\1")).decode()},
        {"shard": 0, "of": 8.0, "bits": base64.b64encode(zlib.compress(b"\1")).decode()},
        {"shard": -1, "of": 8, "bits": base64.b64encode(zlib.compress(b"\1")).decode()},
        {"shard": 0, "of": 8, "bits": base64.b64encode(zlib.compress(b"\1")).decode(), "rows": [[0, 0]]},
    ],
)
def test_anything_else_is_refused(item: object) -> None:
    """Of a form, a type, an order or a length that is never written."""
    with pytest.raises(IntegrityError):
        read_item(item)
    with pytest.raises(IntegrityError):
        read_items([items_of_shards(0, 0), item])


@pytest.mark.parametrize("items", [None, {}, "[]", 5])
def test_what_is_no_list_is_refused(items: object) -> None:
    """Items come as a list."""
    with pytest.raises(IntegrityError):
        read_items(items)


@pytest.mark.parametrize("of", [8, 2**24, 2**24 + 1, 2**62])
def test_a_bitmap_is_not_inflated_beyond_the_shard(of: int) -> None:
    """A small item that becomes a gigabyte is refused before it is made, however many rows it claims to be of."""
    import tracemalloc

    bomb = zlib.compressobj()
    data = b"".join(bomb.compress(b"\xff" * (1 << 20)) for _ in range(64)) + bomb.flush()
    item = {"shard": 0, "of": of, "bits": base64.b64encode(data).decode()}
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            read_item(item)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def test_a_shard_of_very_many_rows_is_written_by_runs() -> None:
    """A reader refuses larger bitmaps, so none is written."""
    rows = 2**24 + 8
    mask = np.zeros(rows, dtype=np.bool_)
    mask[::8192] = True
    mask[-1] = True
    item = item_of(3, mask)
    assert item.keys() == {"shard", "rows"}
    assert read_item(item).count(rows) == mask.sum()


def test_rows_that_a_shard_does_not_have_are_refused() -> None:
    """Whoever knows how many rows a shard has finds an entry out that speaks of others."""
    rows = read_item({"shard": 0, "rows": [[0, 3], [9, 9]]})
    assert rows.mask(10).tolist() == [True] * 4 + [False] * 5 + [True]
    for ask in (rows.mask, rows.count):
        with pytest.raises(IntegrityError):
            ask(9)


_SHARDS = st.lists(
    st.tuples(
        st.integers(1, 3),  # how far behind the shard before
        st.one_of(st.integers(1, 40).map(lambda rows: [True] * rows), st.lists(st.booleans(), min_size=1, max_size=40)),
        st.booleans(),  # whether a filter says so
        st.floats(0, 1),  # from where on it leaves
        st.floats(0, 1),  # up to where
        st.integers(1, 50),  # in batches of how many rows
    ),
    max_size=12,
)


@settings(deadline=None)
@given(_SHARDS, st.integers(1, 9))
def test_rows_gathered_batch_by_batch_are_those_that_left(shards: list[Any], taken_every: int) -> None:
    """With filters and without, begun and ended within a shard, taken at any time: all that left, and nothing else."""
    gathered, expected, items = Gathered(), set(), []
    shard, batches = -1, 0
    for step, mask, filtered, low, high, size in shards:
        shard += step
        mask = mask if filtered else [True] * len(mask)
        places = [row for row, value in enumerate(mask) if value]
        start, stop = sorted(round(each * len(places)) for each in (low, high))
        for first in range(start, stop, size):
            last = min(stop, first + size)
            gathered.add(shard, first, last, len(mask), mask if filtered else None)
            expected |= {(shard, places[row]) for row in range(first, last)}
            batches += 1
            if not batches % taken_every:
                items += gathered.take()
    items += gathered.take()
    assert gathered.take() == []
    lengths = dict(zip(np.cumsum([each[0] for each in shards]) - 1, (len(each[1]) for each in shards), strict=True))
    found = []
    for rows in read_items(json.loads(json.dumps(items))):
        for each in range(rows.first, rows.last + 1):
            found += [(each, row) for row in np.flatnonzero(rows.mask(lengths[each])).tolist()]
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found))


def test_shards_that_leave_whole_are_one_item() -> None:
    """However many there are, and in however many batches each."""
    gathered = Gathered()
    for shard in range(10_000):
        for first in range(0, 100, 50):
            gathered.add(shard, first, first + 50, 100)
    assert (gathered.count, gathered.size) == (0, 0)
    assert gathered.take() == [{"shards": [0, 9_999]}]


def test_a_filter_that_keeps_every_row_is_as_none() -> None:
    """All rows of a shard are all rows of a shard."""
    gathered = Gathered()
    for shard, keep in enumerate((None, [True] * 5, None, [True, False, True, True, True])):
        gathered.add(shard, 0, sum(keep) if keep else 5, 5, keep)
    assert gathered.take() == [{"shards": [0, 2]}, {"shard": 3, "rows": [[0, 0], [2, 4]]}]


def test_what_is_gathered_tells_how_long_it_is() -> None:
    """The size is about that of its JSON, and not less, but for the last shard; whatever the form of the items."""
    masks = [
        [row < 1 for row in range(2000)],
        [row % 3 > 0 for row in range(2000)],
        [row % 500 < 9 for row in range(2000)],
    ]
    gathered = Gathered()
    for shard in range(0, 200, 2):
        mask = masks[shard // 2 % 3]
        gathered.add(shard, 0, sum(mask), len(mask), mask)
    size, count = gathered.size, gathered.count
    assert count == 99
    length = len(json_bytes(gathered.take()[:99]))
    assert length <= size <= 1.5 * length
    assert (gathered.size, gathered.count) == (0, 0)
