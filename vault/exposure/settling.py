"""From what was gathered to an exposure.

Only here is it known where the rows of each version lie, so only here do reads without an end become rows: all that
they may have had.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vault.audit import Entry
from vault.encoding import timestamp
from vault.errors import IntegrityError, NotFound
from vault.exposure.bags import Bag, read_items, read_shards
from vault.exposure.drawing import drawn
from vault.exposure.exposure import (
    Amounts,
    Chunks,
    Delivered,
    Event,
    Exposure,
    Flow,
    Held,
    Mask,
    Part,
    Refused,
    Shared,
    Span,
    Unwrapped,
    Window,
)
from vault.exposure.gathering import BOUND, EXACT, LEASE, NO_END, Act, Gathering, Open, What, micro
from vault.exposure.intervals import NONE, Runs, common, length, minus, of_pairs
from vault.exposure.lineage import Lineage
from vault.exposure.names import masks_on, paired
from vault.exposure.rows import Layout, RowSet
from vault.exposure.windows import opened, places, readable
from vault.exposure.world import EVER, Terms, Version, World

__all__ = ["exposure", "settle"]

#: So many deliveries are listed one by one, the newest; their rows and amounts count in any case.
_LISTED: Final = 10_000
_HOW: Final = {EXACT: "complete", BOUND: "broken off", NO_END: "no end", LEASE: "lease"}
_TOLD: Final = (
    "grant", "grants", "credential", "delegation", "dataset", "version", "versions", "columns", "where", "purpose",
    "starts", "expires", "masks", "limits", "delivery", "networks", "key", "keys", "kms_keys", "chunks", "bytes",
    "form", "since", "until",
)  # fmt: skip
_Column = npt.NDArray[np.int64]
#: A column of a version in a state: dataset id, version, state, shown name, column id, masks.
_Place = tuple[str, int, int, str, str, tuple[Mask, ...]]


def exposure(
    entries: Iterable[tuple[int, Entry]], vendor: str, since: str | None = None, until: str | None = None
) -> Exposure:
    """What entries of a log say of a vendor, by its id; all of them, in order from the first on.

    ``since`` and ``until`` are texts of times as the log has them; reads count by when they began. Raises NotFound for
    a vendor that the log does not know.
    """
    gathered = Gathering(vendor, since, until)
    for number, entry in entries:
        gathered.add(number, entry.kind, timestamp(entry.time), entry.fields)
    return settle(gathered)


def settle(gathered: Gathering) -> Exposure:
    """The exposure that was gathered, which is used up by it; NotFound for a vendor that the log does not know."""
    return _Settling(gathered).exposure()


@dataclass(slots=True, eq=False)
class _Rows:
    """What is known of one place while it is put together."""

    exact: RowSet
    bound: RowSet
    could: RowSet
    up_to: bool = True
    whats: list[int] | None = None


class _Settling:
    def __init__(self, gathered: Gathering) -> None:
        self._found = gathered
        self._world = World(gathered.vendor)
        for act in gathered.acts:
            self._world.follow(act)
        if self._world.name is None:
            raise NotFound("the log knows no vendor of that id")
        self._lineage = Lineage(self._world.versions)
        self._doubts: list[str] = []
        self._odd = [*gathered.odd, *self._world.odd]
        self._odd += [act.number for acts in gathered.loose.values() for act in acts]
        self._since = micro(gathered.since) if gathered.since else None
        self._until = micro(gathered.until) if gathered.until != "~" else None
        self._through = micro(gathered.last_time)
        last = self._through + 1 if self._until is None else min(self._until, self._through + 1)
        self._period = of_pairs([(self._since or 0, last)])
        self._places: dict[_Place, _Rows] = {}
        self._empty: dict[int, RowSet] = {}
        self._openings: dict[int, RowSet] = {}
        self._reachable: dict[tuple[Any, ...], RowSet] = {}
        self._added: dict[tuple[int, int], RowSet] = {}
        self._unions: dict[tuple[int, int], tuple[RowSet, RowSet, RowSet]] = {}

    def exposure(self) -> Exposure:
        found, world = self._found, self._world
        assert world.name is not None
        for read in sorted(found.open.values(), key=lambda read: read.begun):
            if read.counted:
                self._endless(read)
        numbers = {
            name: np.frombuffer(column, dtype=np.int64)
            for name, column in zip(found.deliveries.NAMES, found.deliveries.columns, strict=True)
        }
        self._served()
        windows = tuple(self._window(terms) for terms in world.grants.values())
        self._unseen()
        parts = tuple(sorted(self._parts(numbers), key=self._order))
        flows, of_delivery = self._flows(numbers)
        total, datasets = self._amounts(flows)
        deliveries = self._deliveries(numbers, of_delivery)
        frozen = tuple(_span(begun, ended) for begun, ended in world.freezes)
        return Exposure(
            vendor=world.name,
            vendor_id=found.vendor,
            since=self._since,
            until=self._until,
            entries=found.last_number,
            through=self._through,
            total=total,
            datasets=datasets,
            parts=parts,
            flows=flows,
            deliveries=deliveries,
            left_out=len(numbers["number"]) - len(deliveries),
            windows=windows,
            credentials=tuple(self._credentials()),
            frozen=frozen,
            keys=tuple(self._keys(numbers)),
            chunks=tuple(self._chunks()),
            shared=tuple(self._shared(parts)),
            refused=tuple(
                Refused(request, tally.count, tally.first, tally.last)
                for request, tally in sorted(found.refused.items(), key=lambda item: item[1].first)
            ),
            events=tuple(self._events()),
            picture=drawn(self._period, self._since, parts, windows, frozen, numbers, found.what.values),
            odd=tuple(sorted(set(self._odd))),
            doubts=tuple(dict.fromkeys(self._doubts)),
        )

    # Reads without an end

    def _endless(self, read: Open) -> None:
        """Count a read that has no end: all rows that it may have had."""
        what = self._found.what.values[read.what]
        layout = self._layout(what)
        rows = None
        if layout is not None:
            rows = self._had_at_most(read, layout)
            if (read.what, id(rows)) not in self._added:
                self._added[read.what, id(rows)] = rows  # held, so that no other one takes its place
                self._found.bags.setdefault((read.what, False), Bag()).add_set(rows)
        count = rows.count if rows is not None else 0
        self._found.deliveries.add(
            read.number, read.begun, -1, read.what, read.who, read.keys, NO_END, self._found.outcomes.of("no end"),
            count if read.limit is None else min(count, read.limit), -1,
        )  # fmt: skip

    def _had_at_most(self, read: Open, layout: Layout) -> RowSet:
        """The rows that a read may have had; the very same set for reads that began alike."""
        try:
            pairs = read_shards(read.shards).shards
        except IntegrityError:
            self._odd.append(read.number)
            return self._open_to_vendor(layout)
        key = id(layout), tuple(pairs), read.resumed, read.limit, read.filtered
        listed = self._listed(read, layout)
        if listed is not None:
            return _behind(read, of_pairs(pairs), listed)
        if key not in self._reachable:
            self._reachable[key] = _reachable(read, of_pairs(pairs), layout)
        return self._reachable[key]

    @staticmethod
    def _listed(read: Open, layout: Layout) -> RowSet | None:
        """The rows that a read without an end is known to have sent; None where it is of none, or cannot be read."""
        if not read.readable or not read.items:
            return None
        bag = Bag()
        try:
            bag.put(read_items(read.items))
        except IntegrityError:
            return None
        return (bag.settled(layout) or None) if bag.fits(layout) else None

    def _version(self, what: What) -> tuple[Version, Layout] | None:
        version = self._world.versions.get((what.dataset_id, what.version))
        if version is None or what.state >= len(version.states):
            self._doubts.append(
                f"The log says that version {what.version} of {what.dataset} was read, and not that it was published: "
                "where its rows lie is not known, and they are not counted."
            )
            return None
        return version, version.states[what.state].layout

    def _layout(self, what: What) -> Layout | None:
        found = self._version(what)
        return found[1] if found is not None else None

    # Rows

    def _served(self) -> None:
        """Bring what was served into the places of columns."""
        by_what: dict[int, dict[bool, RowSet]] = {}
        for (number, exact), bag in self._found.bags.items():
            what = self._found.what.values[number]
            layout = self._layout(what)
            if layout is None:
                continue
            if not bag.fits(layout):
                self._doubts.append(
                    f"The log says that rows were read which version {what.version} of {what.dataset} does not have; "
                    "they are not counted."
                )
            by_what.setdefault(number, {})[exact] = bag.settled(layout)
        for number, sets in by_what.items():
            what = self._found.what.values[number]
            layout = next(iter(sets.values())).layout
            none = self._nothing(layout)
            for place in self._columns(what):
                rows = self._at(place, layout)
                rows.exact = self._union(rows.exact, sets.get(True, none))
                rows.bound = self._union(rows.bound, sets.get(False, none))
                rows.whats = [*(rows.whats or []), number]
        # The same sets, served of many columns, are made smaller once.
        smaller: dict[tuple[int, int], RowSet] = {}
        for rows in self._places.values():
            pair = id(rows.bound), id(rows.exact)
            if pair not in smaller:
                smaller[pair] = rows.bound - rows.exact
        for rows in self._places.values():
            rows.bound = smaller[id(rows.bound), id(rows.exact)]

    def _at(self, place: _Place, layout: Layout) -> _Rows:
        rows = self._places.get(place)
        if rows is None:
            none = self._nothing(layout)
            rows = self._places[place] = _Rows(none, none, none)
        return rows

    def _nothing(self, layout: Layout) -> RowSet:
        """The one set without rows of a layout."""
        return self._empty.setdefault(id(layout), RowSet.of(layout))

    def _open_to_vendor(self, layout: Layout) -> RowSet:
        """All rows of a layout that the vendor may have."""
        return self._openings.setdefault(id(layout), RowSet.of(layout, layout.open_to(self._found.vendor)))

    def _union(self, one: RowSet, other: RowSet) -> RowSet:
        """The rows of both; the very same set for every column that has the same ones."""
        found = self._unions.get((id(one), id(other)))
        if found is None:
            # The sets are held too, so that none takes the place of another.
            found = self._unions[id(one), id(other)] = one, other, _or(one, other)
        return found[2]

    def _columns(self, what: What) -> Iterator[_Place]:
        version = self._world.versions[what.dataset_id, what.version]
        known = {name: identity for identity, name in version.names.items()}
        pairs = paired(what.columns, what.column_ids, version.names)
        if pairs is None:
            self._doubts.append(
                f"The log names columns of {what.dataset} of which it cannot be told what their ids are; they are "
                "listed by name."
            )
            pairs = tuple((name, "") for name in what.columns)
        for name, identity in pairs:
            masks = masks_on(name, what.masks, known)
            yield what.dataset_id, what.version, what.state, name, identity, masks

    def _window(self, terms: Terms) -> Window:
        """A grant's window; what it opened is noted as what could have been read."""
        times, numbers = opened(self._world, terms, self._period), set()
        for version, state, there in readable(self._world, terms, times):
            numbers.add(version.number)
            rows = self._open_to_vendor(there.layout)
            for name, identity, masks in places(terms, version):
                at = self._at((terms.dataset_id, version.number, state, name, identity, masks), there.layout)
                at.could = self._union(at.could, rows)
                at.up_to = at.up_to and terms.where is not None
        return Window(
            terms.grant, terms.dataset, terms.dataset_id, terms.columns, tuple(sorted(terms.masks.items())),
            terms.where, terms.purpose, terms.delivery, terms.pinned, terms.limits, terms.made, terms.starts,
            _end(terms.expires), _end(terms.ended), tuple(_span(first, last) for first, last in times.tolist()),
            tuple(sorted(numbers)),
        )  # fmt: skip

    def _unseen(self) -> None:
        """Take from what could have been read all that was, or may have been, wherever the same rows lie."""
        by_column: dict[tuple[str, str], list[tuple[_Place, _Rows]]] = {}
        for place, rows in self._places.items():
            if rows.whats is not None:
                by_column.setdefault((place[0], place[4]), []).append((place, rows))
        # What is the same for many columns is done once; the sets are held, so that none takes the place of another.
        done: dict[tuple[Any, ...], RowSet] = {}
        granted = [(place, rows, rows.could) for place, rows in self._places.items() if rows.could]
        for place, rows, could in granted:
            seen = [
                (other, theirs) for other, theirs in by_column.get((place[0], place[4]), ()) if _shows(other, place)
            ]
            key = (place[:3], id(could), *((other[:3], id(r.exact), id(r.bound)) for other, r in seen))
            if key not in done:
                done[key] = self._without(place, could, seen)
            rows.could = done[key]

    def _without(self, place: _Place, could: RowSet, seen: list[tuple[_Place, _Rows]]) -> RowSet:
        had = RowSet.of(could.layout)
        for other, rows in seen:
            for each in (rows.exact, rows.bound):
                if len(each.whole) or each.part:
                    had = _or(had, each if other[:3] == place[:3] else self._carried(place, could.layout, other, each))
        return could - had

    def _carried(self, place: _Place, layout: Layout, other: _Place, had: RowSet) -> RowSet:
        """Rows of another version or state as rows of this one.

        Of a shard that lost rows in between it cannot be told which of them are left: all of it counts as read.
        """
        shared = self._lineage.common(place[0], place[1], other[1])
        touched = common(had.shards, shared)
        if not len(touched):
            return RowSet.of(layout)
        same = layout.alike(had.layout, touched)
        return had.moved(layout, same) | RowSet.of(layout, minus(touched, same))

    def _parts(self, numbers: Mapping[str, _Column]) -> Iterator[Part]:
        whats = len(self._found.what.values)
        exact = numbers["how"] == EXACT
        counts = np.bincount(numbers["what"][exact], minlength=whats)
        bounds = np.bincount(numbers["what"][~exact], minlength=whats)
        first, last = np.full(whats, EVER), np.full(whats, -1)
        np.minimum.at(first, numbers["what"], numbers["begun"])
        np.maximum.at(last, numbers["what"], np.maximum(numbers["begun"], numbers["ended"]))
        for (dataset, version, state, name, identity, masks), rows in self._places.items():
            of = rows.whats or []
            yield Part(
                self._world.datasets[dataset], dataset, version, state, name, identity, masks, rows.exact.layout,
                rows.exact, rows.bound, rows.could, rows.up_to and bool(rows.could),
                sum(int(counts[what]) for what in of), sum(int(bounds[what]) for what in of),
                min((int(first[what]) for what in of), default=None),
                max((int(last[what]) for what in of), default=None),
            )  # fmt: skip

    def _order(self, part: Part) -> tuple[Any, ...]:
        ids = self._world.versions[part.dataset_id, part.version].column_ids
        place = ids.index(part.column_id) if part.column_id in ids else len(ids)
        return part.dataset, part.dataset_id, part.version, part.state, place, part.column, part.masks

    # Deliveries

    def _flows(self, numbers: Mapping[str, _Column]) -> tuple[tuple[Flow, ...], _Column]:
        """Deliveries of the same to the same, and for each delivery the place of its flow."""
        people = max(1, len(self._found.who.values))
        pairs, place = np.unique(numbers["what"] * people + numbers["who"], return_inverse=True)
        exact, unsized = numbers["how"] == EXACT, numbers["bytes"] < 0
        rows, sizes = numbers["rows"], np.maximum(numbers["bytes"], 0)
        ended = np.maximum(numbers["begun"], numbers["ended"])

        def sums(values: npt.NDArray[Any]) -> list[int]:
            found = np.zeros(len(pairs), dtype=np.int64)
            np.add.at(found, place, values)
            return [int(each) for each in found]

        first, last = np.full(len(pairs), EVER), np.full(len(pairs), -1)
        np.minimum.at(first, place, numbers["begun"])
        np.maximum.at(last, place, ended)
        amounts = map(
            Amounts,
            sums(exact), sums(rows * exact), sums(sizes * exact),
            sums(~exact), sums(rows * ~exact), sums(sizes * ~exact), sums(unsized),
        )  # fmt: skip
        flows = []
        for at, (pair, amount) in enumerate(zip(pairs.tolist(), amounts, strict=True)):
            what, who = self._found.what.values[pair // people], self._found.who.values[pair % people]
            flows.append(
                Flow(
                    what.dataset,
                    what.dataset_id,
                    what.version,
                    what.state,
                    what.columns,
                    what.masks,
                    who,
                    amount,
                    int(first[at]),
                    int(last[at]),
                )
            )
        return tuple(flows), place.astype(np.int64)

    def _amounts(self, flows: tuple[Flow, ...]) -> tuple[Amounts, dict[str, Amounts]]:
        total = Amounts()
        datasets: dict[str, Amounts] = {}
        for flow in flows:
            total = _sum(total, flow.amounts)
            datasets[flow.dataset_id] = _sum(datasets.get(flow.dataset_id, Amounts()), flow.amounts)
        return total, datasets

    def _deliveries(self, numbers: Mapping[str, _Column], flow: _Column) -> tuple[Delivered, ...]:
        newest = np.argsort(numbers["number"], kind="stable")[-_LISTED:]
        return tuple(
            Delivered(
                number,
                begun,
                ended if ended >= 0 else None,
                _HOW[how],
                self._found.outcomes.values[outcome],
                rows,
                size if size >= 0 else None,
                of,
            )
            for number, begun, ended, how, outcome, rows, size, of in zip(
                *(
                    numbers[name][newest].tolist()
                    for name in ("number", "begun", "ended", "how", "outcome", "rows", "bytes")
                ),
                flow[newest].tolist(),
                strict=True,
            )
        )

    # Beside the rows

    def _credentials(self) -> Iterator[Held]:
        for each in self._world.credentials.values():
            yield Held(
                each.credential, each.issued, _end(each.expires), _end(each.ended), each.key is not None,
                each.networks, each.issuer,
            )  # fmt: skip

    def _named(self, group: str) -> tuple[str, ...]:
        return tuple(sorted(self._world.groups.get(group, ())))

    def _keys(self, numbers: Mapping[str, _Column]) -> Iterator[Unwrapped]:
        """The data keys that were in use for the vendor."""
        found = self._found
        counts = np.bincount(numbers["keys"], minlength=len(found.keys.values)).tolist()
        used: dict[tuple[str, str, int], int] = {}
        for keys, count in zip(found.keys.values, counts, strict=True):
            for group, epoch in keys.epochs:
                place = keys.compartment, group, epoch
                used[place] = used.get(place, 0) + count
        own = {found.vendor} | {keys.compartment for keys in found.keys.values}
        own |= {place for place, (vendor, _) in self._world.compartments.items() if vendor == found.vendor}
        rest = dict(used)
        for (compartment, group, epoch, process), tally in sorted(found.unwrapped.items()):
            if compartment in own:
                place = compartment, group, epoch
                rest.pop(place, None)
                yield Unwrapped(
                    compartment, self._dataset_of(compartment), group, self._named(group), epoch, process,
                    tally.count, tally.first, tally.last, used.get(place, 0),
                )  # fmt: skip
        for (compartment, group, epoch), count in sorted(rest.items()):
            yield Unwrapped(
                compartment, self._dataset_of(compartment), group, self._named(group), epoch, None, 0, None, None, count
            )

    def _dataset_of(self, compartment: str) -> str | None:
        _, dataset = self._world.compartments.get(compartment, (None, None))
        return self._world.datasets.get(dataset) if dataset is not None else None

    def _chunks(self) -> Iterator[Chunks]:
        for (compartment, group, epoch), data in sorted(self._found.leased.items()):
            ids = np.frombuffer(b"".join(data), dtype=np.uint8).reshape(-1, 16)
            yield Chunks(
                compartment, self._dataset_of(compartment), group, self._named(group), epoch, np.unique(ids, axis=0)
            )

    def _shared(self, parts: tuple[Part, ...]) -> Iterator[Shared]:
        """Who else has the same rows of the same columns."""
        served = [part for part in parts if part.exact or part.bound]
        for other in sorted(self._world.others.values(), key=lambda other: (other.name, other.id)):
            for shared in self._shared_with(other.id, served):
                yield replace(shared, vendor=other.name)

    def _shared_with(self, other: str, served: list[Part]) -> Iterator[Shared]:
        groups: dict[tuple[Any, ...], list[Part]] = {}
        for part in served:
            groups.setdefault((part.dataset_id, part.version, part.state), []).append(part)
        for (dataset, version, state), members in groups.items():
            none = RowSet.of(members[0].layout)
            exact, bound, names, times = none, none, dict[str, None](), []
            for part in members:
                for since, until, shards in self._holdings(other, dataset, version, part):
                    mine, most = part.exact.within(shards), part.bound.within(shards)
                    if mine or most:
                        exact, bound = _or(exact, mine), _or(bound, most)
                        names[part.column] = None
                        times.append((since, until))
            if times:
                yield Shared(
                    "", other, members[0].dataset, version, state, tuple(names), exact.count, (bound - exact).count,
                    min(since for since, _ in times), _end(max(until for _, until in times)),
                )  # fmt: skip

    def _holdings(self, other: str, dataset: str, version: int, part: Part) -> Iterator[tuple[int, int, Runs]]:
        """From when until when another vendor has which shards of a part's rows."""
        for (identity, number), holdings in self._world.others[other].holdings.items():
            if identity == dataset:
                shards = self._lineage.common(dataset, version, number)
                for each in holdings:
                    if each.column_ids is None or part.column_id in each.column_ids:
                        yield each.since, each.until, common(shards, each.shards)

    def _events(self) -> Iterator[Event]:
        for act in self._found.acts:
            at = micro(act.time)
            mine = act.fields.get("vendor_id") == self._found.vendor
            left_out = act.fields.get("left_out")
            named = isinstance(left_out, list) and self._world.name in left_out
            if (mine or named) and length(common(self._period, of_pairs([(at, at + 1)]))):
                yield Event(act.number, at, act.kind, _told(act))


def _reachable(read: Open, shards: Runs, layout: Layout) -> RowSet:
    """All rows that a read of some shards may have had, from where it was resumed and up to its limit."""
    first = read.resumed[0] if read.resumed is not None else 0
    rows = RowSet.of(layout, common(shards, of_pairs([(first, 2**31)])))
    if read.filtered:
        return rows  # which of its rows pass, and how many of those had left, does not tell which they were
    skipped = 0
    if read.resumed is not None and read.resumed[1]:
        skipped = min(read.resumed[1], layout.rows_of(first))
    start = int(layout.before([first])[0]) + skipped
    return _cut(rows, start, layout.rows if read.limit is None else _reached(rows, start, read.limit))


def _behind(read: Open, shards: Runs, listed: RowSet) -> RowSet:
    """Rows that are known to have been sent, and all rows of some shards behind the last of them, up to the limit."""
    layout, ranges = listed.layout, listed.ranges()
    assert ranges is not None
    rows, start = RowSet.of(layout, shards), int(ranges[-1, 1])
    if read.limit is None or read.filtered:
        return listed | _cut(rows, start, layout.rows)
    return listed | _cut(rows, start, _reached(rows, start, max(0, read.limit - listed.count)))


def _reached(rows: RowSet, start: int, limit: int) -> int:
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


def _or(one: RowSet, other: RowSet) -> RowSet:
    """The rows of both; the very set where the other one has none, so that equal ones stay one."""
    if one is other or (not len(other.whole) and not other.part):
        return one
    return other if not len(one.whole) and not one.part else one | other


def _shows(seen: _Place, place: _Place) -> bool:
    """Whether who had the one place of a column has had what is in the other too."""
    wider = place[3] == seen[3] or place[3].startswith(f"{seen[3]}.")
    return wider and (not seen[5] or seen[5] == place[5])


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(getattr(one, name) + getattr(other, name) for name in Amounts.__slots__))


def _end(at: int) -> int | None:
    return at if at < EVER else None


def _span(first: int, last: int) -> Span:
    return Span(first, _end(last))


def _told(act: Act) -> str:
    """What an entry says, in the order of what matters."""
    return "; ".join(
        f"{name.replace('_', ' ')}: {_plain(act.fields[name])}"
        for name in _TOLD
        if act.fields.get(name) not in (None, [], {}, "")
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(each)}" for key, each in value.items())
    return str(value)
