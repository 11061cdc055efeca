"""From what was gathered to an exposure.

Only here is it known where the rows of each version lie, so only here do reads without an end become rows: all that
they may have had.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from vault.audit import Entry
from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError, NotFound
from vault.exposure.amounts import Column, delivered, flows, totals
from vault.exposure.bags import Bag
from vault.exposure.cells import counted, shows
from vault.exposure.contradicted import contradicted
from vault.exposure.drawing import drawn
from vault.exposure.events import events
from vault.exposure.evidence import Evidence
from vault.exposure.exposure import Exposure, Held, Mask, Part, Refused, Span, Window
from vault.exposure.gathering import EXACT, NO_END, Gathering, Open, What, micro
from vault.exposure.holders import shared
from vault.exposure.intervals import Runs, common, minus, of_pairs
from vault.exposure.keys import chunk_keys, data_keys
from vault.exposure.lineage import Lineage
from vault.exposure.names import masks_on, paired
from vault.exposure.returned import returned
from vault.exposure.rows import Layout, RowSet, either
from vault.exposure.unended import Unended
from vault.exposure.windows import opened, places, readable
from vault.exposure.world import EVER, State, Terms, World

__all__ = ["exposure", "settle"]

#: A column of a version in a state: dataset id, version, state, shown name, column id, masks.
_Place = tuple[str, int, int, str, str, tuple[Mask, ...]]

#: No clock is wrong by so much.
_FAR_AHEAD: Final = timedelta(days=3653)
#: What is drawn ends before the last year that there is.
_LATEST: Final = "9000-01-01T00:00:00.000000Z"


def exposure(
    entries: Iterable[tuple[int, Entry]],
    vendor: str,
    since: str | None = None,
    until: str | None = None,
    placed: Mapping[int, str] | None = None,
) -> Exposure:
    """What entries of a log say of a vendor, by its id; all of them, in order from the first on.

    ``since`` and ``until`` are texts of times as the log has them; reads count by when they began. ``placed`` are the
    times of the entries' places, by default the latest of those of the entries up to each. Raises NotFound for a vendor
    that the log does not know.
    """
    gathered, last = Gathering(vendor, since, until), ""
    for number, entry in entries:
        gathered.add(number, entry.kind, timestamp(entry.time), entry.fields, (placed or {}).get(number, ""))
        last = _through(entry.time, gathered.last_time)
    gathered.last_time = last
    return settle(gathered)


def _through(own: datetime, placed: str) -> str:
    """The time of a last entry's place, or its own where somebody wrote what is no time there, or one far ahead.

    It follows from the entry alone: whoever works the report out again comes to the same.
    """
    try:
        there = from_timestamp(placed)
    except IntegrityError:
        there = own
    return min(timestamp(there if there - own < _FAR_AHEAD else own), _LATEST)


def settle(gathered: Gathering, evidence: Evidence | None = None) -> Exposure:
    """The exposure that was gathered, which is used up by it; NotFound for a vendor that the log does not know.

    With ``evidence`` an end counts only where the lab signed it.
    """
    return _Settling(gathered, evidence).exposure()


@dataclass(slots=True, eq=False)
class _Rows:
    """What is known of one place while it is put together."""

    exact: RowSet
    bound: RowSet
    could: RowSet
    up_to: bool = True
    whats: list[int] | None = None


class _Settling:
    def __init__(self, gathered: Gathering, evidence: Evidence | None) -> None:
        self._found = gathered
        self._compared = evidence is not None
        self._world = World(gathered.vendor, evidence)
        for act in gathered.acts:
            self._world.follow(act)
        if self._world.name is None:
            raise NotFound("the log knows no vendor of that id")
        self._whats = [
            what._replace(state=self._world.state((what.dataset_id, what.version), what.state))
            for what in gathered.what.values
        ]
        gathered.what.values = self._whats
        self._lineage = Lineage(self._world.versions)
        self._doubts: list[str] = []
        self._odd = [*gathered.odd, *self._world.odd]
        self._odd += [act.number for acts in gathered.loose.values() for act in acts]
        self._odd += gathered.again
        self._since = micro(gathered.since) if gathered.since else None
        self._until = micro(gathered.until) if gathered.until != "~" else None
        self._through = micro(gathered.last_time)
        last = self._through + 1 if self._until is None else min(self._until, self._through + 1)
        self._period = of_pairs([(self._since or 0, last)])
        self._places: dict[_Place, _Rows] = {}
        self._empty: dict[int, RowSet] = {}
        self._openings: dict[int, RowSet] = {}
        self._unended = Unended()
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
        self._doubts += self._world.doubts()
        self._doubts += contradicted(world, found.who.values, numbers, signed=self._compared)
        windows = tuple(self._window(terms) for terms in world.terms)
        self._unseen()
        parts = tuple(sorted(self._parts(numbers), key=self._order))
        of_all, of_delivery = flows(found, numbers)
        total, datasets = totals(of_all)
        listed = delivered(found, numbers, of_delivery)
        sent, odd = returned(found.acts, world, self._period)
        self._odd += odd
        frozen = tuple(_span(begun, ended) for begun, ended in world.freezes if begun <= self._through)
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
            counted=counted(parts),
            flows=of_all,
            deliveries=listed,
            left_out=len(numbers["number"]) - len(listed),
            windows=windows,
            credentials=tuple(self._credentials()),
            frozen=frozen,
            keys=tuple(data_keys(found, world, numbers)),
            chunks=tuple(chunk_keys(found, world)),
            shared=tuple(shared(world, parts)),
            refused=tuple(
                Refused(request, tally.count, tally.first, tally.last)
                for request, tally in sorted(found.refused.items(), key=lambda item: item[1].first)
            ),
            returned=tuple(sent),
            events=tuple(events(found.acts, world, self._period)),
            picture=drawn(self._period, self._since, parts, windows, frozen, numbers, found.what.values),
            odd=tuple(sorted(set(self._odd))),
            doubts=tuple(dict.fromkeys(self._doubts)),
            compared=self._compared,
        )

    # Reads without an end

    def _endless(self, read: Open) -> None:
        """Count a read that has no end: all rows that it may have had."""
        what = self._whats[read.what]
        state = self._state(what)
        rows = None
        if state is not None:
            rows = self._had_at_most(read, state.layout)
            if (read.what, id(rows)) not in self._added:
                self._added[read.what, id(rows)] = rows  # held, so that no other one takes its place
                self._found.bags.setdefault((read.what, False), Bag()).add_set(rows)
        count = rows.count if rows is not None else 0
        self._found.deliveries.add(
            read.number, read.begun, -1, read.what, read.who, read.keys, NO_END, self._found.outcomes.of("no end"),
            count if read.limit is None else min(count, read.limit), -1,
        )  # fmt: skip

    def _had_at_most(self, read: Open, layout: Layout) -> RowSet:
        try:
            return self._unended.rows(read, layout)
        except IntegrityError:
            self._odd.append(read.number)
            return self._open_to_vendor(layout)

    def _state(self, what: What) -> State | None:
        version = self._world.versions.get((what.dataset_id, what.version))
        if version is None:
            self._doubts.append(
                f"The log says that version {what.version} of {what.dataset} was read, and not that it was published: "
                "where its rows lie is not known, and they are not counted."
            )
            return None
        return version.states[what.state]

    # Rows

    def _served(self) -> None:
        """Bring what was served into the places of columns."""
        by_what: dict[int, dict[bool, RowSet]] = {}
        for (number, exact), bag in self._found.bags.items():
            what = self._whats[number]
            state = self._state(what)
            if state is None:
                continue
            if not bag.fits(state.layout):
                self._doubts.append(
                    f"The log says that rows were read which version {what.version} of {what.dataset} does not have; "
                    "they are not counted."
                )
            by_what.setdefault(number, {})[exact] = bag.settled(state.layout)
        for number, sets in by_what.items():
            what = self._whats[number]
            layout = next(iter(sets.values())).layout
            none = self._nothing(layout)
            exact_rows, bound_rows = sets.get(True, none), sets.get(False, none)
            if rivals := self._rivals(what):
                # Which rows a shard has is exact only where all say the same of it.
                sure = exact_rows.within(_agreed(rivals))
                exact_rows, bound_rows = sure, either(bound_rows, exact_rows - sure)
            for place in self._columns(what):
                rows = self._at(place, layout)
                rows.exact = self._union(rows.exact, exact_rows)
                rows.bound = self._union(rows.bound, bound_rows)
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
            found = self._unions[id(one), id(other)] = one, other, either(one, other)
        return found[2]

    def _rivals(self, what: What | _Place) -> tuple[Layout, ...]:
        """What the log says of how the rows of a version in a state lie, where that is more than one thing."""
        dataset, number, state = (
            (what.dataset_id, what.version, what.state) if isinstance(what, What) else (what[0], what[1], what[2])
        )
        return self._world.versions[dataset, number].states[state].rivals

    def _columns(self, what: What) -> Iterator[_Place]:
        namings = self._world.versions[what.dataset_id, what.version].namings
        found = ((paired(what.columns, what.column_ids, names), names) for names in namings)
        pairs, names = next(((pairs, names) for pairs, names in found if pairs is not None), (None, namings[0]))
        if pairs is None:
            self._doubts.append(
                f"The log names columns of {what.dataset} of which it cannot be told what their ids are; they are "
                "listed by name."
            )
            pairs = tuple((name, "") for name in what.columns)
        known = {name: identity for identity, name in names.items()}
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
            of_column = by_column.get((place[0], place[4]), ())
            seen = [(other, theirs) for other, theirs in of_column if shows(_shown(other), _shown(place))]
            key = (place[:3], id(could), *((other[:3], id(r.exact), id(r.bound)) for other, r in seen))
            if key not in done:
                done[key] = self._without(place, could, seen)
            rows.could = done[key]

    def _without(self, place: _Place, could: RowSet, seen: list[tuple[_Place, _Rows]]) -> RowSet:
        had = RowSet.of(could.layout)
        for other, rows in seen:
            for each in (rows.exact, rows.bound):
                if len(each.whole) or each.part:
                    had = either(
                        had, each if other[:3] == place[:3] else self._carried(place, could.layout, other, each)
                    )
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
        if self._rivals(place) or self._rivals(other):
            # Where it is not sure how the rows lie, only what is alike is taken for the same.
            return had.moved(layout, same)
        return had.moved(layout, same) | RowSet.of(layout, minus(touched, same))

    def _parts(self, numbers: Mapping[str, Column]) -> Iterator[Part]:
        whats = len(self._whats)
        exact = numbers["how"] == EXACT
        counts = np.bincount(numbers["what"][exact], minlength=whats)
        bounds = np.bincount(numbers["what"][~exact], minlength=whats)
        first, last = np.full(whats, EVER), np.full(whats, -1)
        np.minimum.at(first, numbers["what"], numbers["begun"])
        np.maximum.at(last, numbers["what"], np.maximum(numbers["begun"], numbers["ended"]))
        for (dataset, version, state, name, identity, masks), rows in self._places.items():
            of = rows.whats or []
            yield Part(
                self._world.datasets[dataset], dataset, version, state,
                bool(self._world.versions[dataset, version].again), name, identity, masks, rows.exact.layout,
                rows.exact, rows.bound, rows.could, rows.up_to and bool(rows.could),
                sum(int(counts[what]) for what in of), sum(int(bounds[what]) for what in of),
                min((int(first[what]) for what in of), default=None),
                max((int(last[what]) for what in of), default=None),
            )  # fmt: skip

    def _order(self, part: Part) -> tuple[Any, ...]:
        ids = self._world.versions[part.dataset_id, part.version].column_ids
        place = ids.index(part.column_id) if part.column_id in ids else len(ids)
        return part.dataset, part.dataset_id, part.version, part.state, place, part.column, part.masks

    def _credentials(self) -> Iterator[Held]:
        for each in self._world.permissions:
            yield Held(
                each.credential, each.issued, _end(each.expires), _end(each.ended), each.key is not None,
                each.networks, each.issuer,
            )  # fmt: skip


def _shown(place: _Place) -> tuple[str, tuple[Mask, ...]]:
    return place[3], place[5]


def _agreed(rivals: Sequence[Layout]) -> Runs:
    """The shards that all layouts have with as many rows."""
    found = rivals[0].shards
    for each in rivals[1:]:
        found = rivals[0].alike(each, found)
    return found


def _end(at: int) -> int | None:
    return at if at < EVER else None


def _span(first: int, last: int) -> Span:
    return Span(first, _end(last))
