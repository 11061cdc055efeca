"""Exposures against the truth of generated histories: what is exact is right to the row, and nothing is outside."""

from functools import cache

import numpy as np
import pytest

from tests.exposure.history import COLUMNS, VENDORS, History, numbered
from vault.encoding import timestamp
from vault.exposure import Exposure, Gathering, RowSet, exposure, settle
from vault.incident.decoding import Decoder

SEEDS = range(3)


@cache
def history(seed: int) -> History:
    """A history of 10,000 events; every third is asked of a part of its time only."""
    if seed % 3 == 2:
        return History(seed, since=2500, until=7000).run(10_000)
    return History(seed).run(10_000)


@cache
def found(seed: int) -> Exposure:
    """The exposure of its vendor."""
    told = history(seed)
    return exposure(told.entries, VENDORS["acme"], *_bounds(told))


def _bounds(told: History) -> tuple[str | None, str | None]:
    return tuple(timestamp(at) if at is not None else None for at in (told.since, told.until))  # type: ignore[return-value]


def rows(of: RowSet) -> set[int]:
    """A set of rows one by one."""
    ranges = of.ranges()
    assert ranges is not None
    return {row for first, stop in ranges.tolist() for row in range(first, stop)}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_exact_is_exact(seed: int) -> None:
    """Precision and recall of every column of every version are 1: the rows of complete reads, and no other."""
    told, exposed = history(seed), found(seed)
    said = {(p.dataset, p.version, p.state, p.column, p.masks): rows(p.exact) for p in exposed.parts if p.exact}
    assert said == {key: served for key, served in told.exact.items() if served}
    assert sum(map(len, said.values())) > 1000
    # A cell is counted once, where the whole struct left as well as where one of its fields did beside it.
    cells = set()
    for (dataset, version, state, column, masks), served in said.items():
        struct = column.split(".")[0] if column != "meta.note" else column
        wider = [(dataset, version, state, *each) for each in ((column, ()), (struct, ()), (struct, masks))]
        within = set().union(*(said.get(each, set()) for each in wider if each[3:] != (column, masks)))
        cells |= {(dataset, version, state, column, masks, row) for row in served - within}
    assert exposed.cells == len(cells)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_cell_is_outside_of_the_bound(seed: int) -> None:
    """All that was really received is exact or within the bound, and the bound is what may have been sent, not more."""
    told, exposed = history(seed), found(seed)
    parts = {(p.dataset, p.version, p.state, p.column, p.masks): p for p in exposed.parts}
    for key, received in told.received.items():
        assert received <= rows(parts[key].exact) | rows(parts[key].bound)
    said = {key: rows(part.bound) for key, part in parts.items() if part.bound}
    assert said == {key: left for key, most in told.bound.items() if (left := most - told.exact.get(key, set()))}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_amounts_are_those_of_the_deliveries(seed: int) -> None:
    """Reads, rows and bytes are summed as often as they were served; of what has no end, the most."""
    told, total = history(seed), found(seed).total
    assert [total.reads, total.rows, total.bytes] == told.amounts["exact"]
    assert [total.bound_reads, total.bound_bytes] == [told.amounts["bound"][0], told.amounts["bound"][2]]
    assert total.unsized > 0
    assert sum(refused.count for refused in found(seed).refused) == told.refused
    assert {bytes(chunk) for chunks in found(seed).chunks for chunk in chunks.ids} == told.chunks


@pytest.mark.parametrize("seed", SEEDS)
def test_what_could_have_been_read_was_not(seed: int) -> None:
    """What is said to have been open and not read was open, and no such row was read under any version."""
    told, exposed = history(seed), found(seed)
    names = {dataset.name: dataset for dataset in told.datasets}
    claimed = 0
    for part in exposed.parts:
        could = rows(part.could)
        key = (part.dataset, part.version, part.state, part.column, part.masks)
        places = told.readable.get(key, {})
        assert could <= set(places), "only what was open"
        seen = told.seen.get((part.dataset, part.column, ()), set()) | told.seen.get(
            (part.dataset, part.column, part.masks), set()
        )
        wide = part.column.split(".")[0] if part.column != "meta.note" else None
        seen |= told.seen.get((part.dataset, wide, ()), set()) if wide else set()
        assert not {places[row] for row in could} & seen, "nothing that was seen"
        left = {row for row, identity in places.items() if identity not in seen}
        if not names[part.dataset].erased:
            assert could == left
        claimed += len(could)
    assert claimed


@pytest.mark.parametrize("seed", SEEDS[:1])
@pytest.mark.parametrize("size", [1, 7, 3333])
def test_ranges_gathered_apart_say_the_same(seed: int, size: int) -> None:
    """However a log is cut into ranges, what comes of it is the same."""
    told = history(seed)
    first: Gathering | None = None
    entries = told.entries if size > 100 else told.entries[:1500]
    for start in range(0, len(entries), size):
        each = Gathering(VENDORS["acme"], *_bounds(told))
        for number, entry in entries[start : start + size]:
            each.add(number, entry.kind, timestamp(entry.time), entry.fields)
        if first is None:
            first = each
        else:
            first.take(each)
    assert first is not None
    again = settle(first)
    whole = found(seed) if size > 100 else exposure(entries, VENDORS["acme"], *_bounds(told))
    assert _comparable(again) == _comparable(whole)


def _comparable(exposed: Exposure) -> list[object]:
    parts = [
        (p.dataset, p.version, p.state, p.column, p.masks, p.reads, p.bound_reads, p.first, p.last,
         rows(p.exact), rows(p.bound), rows(p.could))
        for p in exposed.parts
    ]  # fmt: skip
    flows = {(f.dataset, f.version, f.state, f.columns, f.masks, f.who): f.amounts for f in exposed.flows}
    chunks = [(c.compartment, c.epoch, np.sort(c.ids, axis=0).tolist()) for c in exposed.chunks]
    return [
        parts, flows, chunks, exposed.total, exposed.shared, exposed.windows, exposed.keys, exposed.events,
        exposed.picture, exposed.odd, exposed.doubts,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_that_begin_alike_say_the_same(seed: int) -> None:
    """Of entries that are decoded by what they have in common nothing is another."""
    told, decoder, numbers = history(seed), Decoder(), []
    gathered = Gathering(VENDORS["acme"], *_bounds(told))
    for number, entry in told.entries:
        kind, time, fields, alike = decoder.decode(entry.encode())
        gathered.add(number, kind, time, fields, alike=alike)
        if alike is not None:
            numbers.append(alike)
    assert _comparable(settle(gathered)) == _comparable(found(seed))
    assert len(set(numbers)) < len(numbers), "some are alike"


def test_nothing_of_a_sound_history_is_odd() -> None:
    """What dsvault writes fits: no entry is odd and nothing is in doubt."""
    for seed in SEEDS:
        assert (found(seed).odd, found(seed).doubts) == ((), ())


class _Lasting(History):
    """A history in which nothing is erased."""

    def erase(self, dataset: object) -> None:
        self.refuse("bolt")


@pytest.mark.parametrize("seed", [21, 22])
def test_who_else_holds_the_same_rows(seed: int) -> None:
    """By the rows' identities: every other vendor with any of them in the same column, in whatever version it has it."""
    told = _Lasting(seed).run(2500)
    exposed = exposure(told.entries, VENDORS["acme"])
    places = {(d.name, v.number): numbered(v) for d in told.datasets for v in d.versions}
    held: dict[tuple[str, str, str], set[int]] = {}
    for (vendor, dataset, version), (columns, shards) in told.held.items():
        if vendor != "acme":
            rows_of = {row for row, shard in places[dataset, version].values() if shard in shards}
            for column in columns:
                held.setdefault((vendor, dataset, column), set()).update(rows_of)
    expected: dict[tuple[str, str, int], tuple[set[str], set[int]]] = {}
    for (dataset, version, _, column, _), served in told.exact.items():
        for vendor in ("bolt", "cora"):
            name = column if column in COLUMNS else column.split(".")[0]
            theirs = held.get((vendor, dataset, name), set())
            if same := {row for row in served if places[dataset, version][row][0] in theirs}:
                columns, found_rows = expected.setdefault((vendor, dataset, version), (set(), set()))
                columns.add(column)
                found_rows |= same
    said = {(s.vendor, s.dataset, s.version): s for s in exposed.shared if s.rows}
    assert said.keys() == expected.keys()
    assert len(said) > 3
    for place, (columns, found_rows) in expected.items():
        assert said[place].rows == len(found_rows)
        assert columns <= set(said[place].columns)
