"""What entries of the log say of one vendor, gathered range by range.

A `Gathering` takes entries in their order, and takes over what another gathered of the entries behind its own: ranges
of a long log can be gathered apart. A read that begins in one range and ends in another is put together then. What an
entry says is not believed to be well formed: one that is not is counted as odd, and a read with such an entry as one
that has no end.

Nothing is kept for a row or a cell; for a delivery, ten numbers.
"""

from array import array
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vault.audit import DELIVERIES, Kind
from vault.encoding import from_base64
from vault.errors import IntegrityError
from vault.exposure.bags import Bag, read_items, read_shards

__all__ = [
    "BOUND",
    "EXACT",
    "FILE",
    "LEASE",
    "NO_END",
    "Act",
    "Gathering",
    "Keys",
    "Open",
    "Refusal",
    "Tally",
    "What",
    "Who",
    "micro",
    "told_of",
]

#: How a delivery counts: exactly what was served; what was sent and may not have arrived; anything up to what it may
#: have had; a lease, whose keys open it all; and a part of a shared file, which may hold any of its rows.
EXACT: Final = 0
BOUND: Final = 1
NO_END: Final = 2
LEASE: Final = 3
FILE: Final = 4

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_WRONG: Final = (AttributeError, IndexError, IntegrityError, KeyError, OverflowError, TypeError, ValueError)
_MOST: Final = 2**53
_CHUNK_BYTES: Final = 16
#: For how long a read of a shared file may be referred to, in microseconds, and how many come between two clearings.
_FILES_FOR: Final = 600_000_000
_MOST_FILES: Final = 1024
_ONLY_TEXT: Final = frozenset({str})
_Key = TypeVar("_Key")
_Beginning = tuple[int, int, int, list[Any], tuple[int, int] | None, int | None, bool]


def micro(time: str) -> int:
    """A time of the log as microseconds since 1970; ValueError for what is none."""
    return (datetime.fromisoformat(time) - _EPOCH) // _MICROSECOND


class What(NamedTuple):
    """What a delivery was of: columns of a version in one state.

    While it is gathered the state is how often the log had said how the version's rows lie; later it is a `World`'s.
    """

    dataset: str
    dataset_id: str
    version: int
    state: int
    columns: tuple[str, ...]
    column_ids: tuple[str, ...]
    masks: tuple[tuple[str, str], ...]


class Who(NamedTuple):
    """To whom, from where, and under what."""

    credential: str
    delegates: tuple[tuple[str, str], ...]
    subject: str | None
    address: str
    grant: str
    purpose: str | None
    where: str | None
    delivery: str


class Keys(NamedTuple):
    """The data keys that a delivery was under: a compartment, and the epoch of each column group."""

    compartment: str
    epochs: tuple[tuple[str, int], ...]


class Act(NamedTuple):
    """An entry that is not of a delivery; ``placed`` is the time of its place in the log, which never runs back."""

    number: int
    kind: str
    time: str
    fields: Mapping[str, Any]
    placed: str


class Refusal(NamedTuple):
    """Requests that were refused alike; ``address`` is None for those of a count that came from many."""

    reason: str
    credential: str
    delegates: tuple[tuple[str, str], ...]
    subject: str | None
    address: str | None
    dataset: str | None
    columns: tuple[str, ...]


class Tally:
    """How often something was, first and last, in microseconds."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.count, self.first, self.last = 0, 0, 0

    def add(self, first: int, last: int, count: int = 1) -> None:
        """Once more, or so many times."""
        self.first = min(self.first, first) if self.count else first
        self.last = max(self.last, last) if self.count else last
        self.count += count


class Numbered(Generic[_Key]):
    """Values by number, each once."""

    def __init__(self) -> None:
        self.values: list[_Key] = []
        self.numbers: dict[_Key, int] = {}

    def of(self, value: _Key) -> int:
        """The number of a value, a new one at first."""
        number = self.numbers.get(value)
        if number is None:
            number = self.numbers[value] = len(self.values)
            self.values.append(value)
        return number


class Open:
    """A read that has begun, and whose end was not seen yet."""

    __slots__ = (
        "begun", "counted", "filtered", "items", "keys", "limit", "nonce", "number", "readable", "resumed", "shards",
        "what", "who",
    )  # fmt: skip

    number: int
    nonce: str | None
    begun: int
    counted: bool
    what: int
    who: int
    keys: int
    shards: list[Any]
    resumed: tuple[int, int] | None
    limit: int | None
    filtered: bool
    items: list[Any]
    readable: bool


class Deliveries:
    """Numbers, a row for each delivery that counts."""

    NAMES: Final = ("number", "begun", "ended", "what", "who", "keys", "how", "outcome", "rows", "bytes")

    def __init__(self) -> None:
        self.numbers = array("q")  # row by row

    def add(self, *numbers: int) -> None:
        """One delivery."""
        self.numbers.extend(numbers)

    @property
    def columns(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The columns as they are now."""
        return tuple(np.array(self.numbers, dtype=np.int64).reshape(-1, len(self.NAMES)).T.copy())

    def take(self, other: "Deliveries", renumbered: Mapping[str, list[int]]) -> None:
        """The deliveries of another, with new numbers for what they refer to."""
        table = np.array(other.numbers, dtype=np.int64).reshape(-1, len(self.NAMES))
        if len(table):
            for name, numbers in renumbered.items():
                column = table[:, self.NAMES.index(name)]
                column[:] = np.array(numbers, dtype=np.int64)[column]
            self.numbers.frombytes(table.tobytes())


class Gathering:
    """What the entries of one range say of a vendor, by its id.

    What happened at ``since`` or later, and before ``until``, counts (texts of times, as the log has them); what came
    before is followed all the same.
    """

    def __init__(self, vendor: str, since: str | None = None, until: str | None = None) -> None:
        self.vendor = vendor
        self.since = since or ""
        self.until = until or "~"
        self.last_number = 0
        self.last_time = ""
        self.acts: list[Act] = []
        self.what: Numbered[What] = Numbered()
        self.who: Numbered[Who] = Numbered()
        self.keys: Numbered[Keys] = Numbered()
        self.outcomes: Numbered[str] = Numbered()
        self.deliveries = Deliveries()
        #: By what was delivered, and whether it is exact.
        self.bags: dict[tuple[int, bool], Bag] = {}
        self.open: dict[int, Open] = {}
        self.loose: dict[int, list[Act]] = {}
        self.refused: dict[Refusal, Tally] = {}
        #: By place (compartment or holder), group, epoch and process.
        self.unwrapped: dict[tuple[str, str, int, str], Tally] = {}
        #: By compartment, group and epoch: ids of chunks.
        self.leased: dict[tuple[str, str, int], list[bytes]] = {}
        #: Reads of shared files that others may refer to, by number: when they were, and what was not counted then.
        self.files: dict[int, tuple[int, list[Any] | None]] = {}
        #: Reads that refer to one of an earlier range: by number, which, and what they are of.
        self.again: dict[int, tuple[int, int]] = {}
        self.odd: list[int] = []
        #: How often the log has said by now how the rows of a version lie.
        self.states: dict[tuple[str, int], int] = {}
        self._begun: dict[int, _Beginning] = {}

    def __getstate__(self) -> dict[str, Any]:
        """It is taken over by another process, which adds nothing to it."""
        return {**self.__dict__, "_begun": {}}

    def add(
        self, number: int, kind: str, time: str, fields: Mapping[str, Any], placed: str = "", alike: int | None = None
    ) -> None:
        """Take the next entry; ``placed`` is the time of its place, by default the latest that was seen up to it.

        Reads that begin with the same number ``alike`` have the same fields but for their nonce.
        """
        placed = placed or max(self.last_time, time)
        self.last_number, self.last_time = number, placed
        try:
            self._add(number, kind, time, fields, placed, alike)
        except _WRONG:
            self.odd.append(number)

    def _add(
        self, number: int, kind: str, time: str, fields: Mapping[str, Any], placed: str, alike: int | None
    ) -> None:
        if kind in _OF_READS:
            if fields.get("vendor_id") != self.vendor:
                return
            if kind == Kind.READ_BEGUN:
                self._begin(number, time, fields, self._counts(time, placed), alike)
            elif kind in (Kind.READ_WENT_ON, Kind.READ_ENDED):
                self._go_on(Act(number, kind, time, fields, placed))
            elif self._counts(time, placed):
                self._at_once(number, kind, time, fields)
            elif kind == Kind.FILE_READ and "served" in fields:
                self._remember(number, micro(time), fields["served"])
        elif kind == Kind.KEYS_OPENED:
            if self._counts(time, placed):
                self._unwrap(time, fields)
        elif kind != Kind.OWNER_READ and (kind in _OF_ALL or fields.get("vendor_id") == self.vendor):
            self.acts.append(Act(number, kind, time, fields, placed))
            for place in told_of(kind, fields):
                self.states[place] = self.states.get(place, 0) + 1
                self._begun.clear()  # what begins from here on is of another state

    def _at_once(self, number: int, kind: str, time: str, fields: Mapping[str, Any]) -> None:
        """What one entry alone says; that files were listed hands nobody a row."""
        if kind == Kind.LEASED:
            self._lease(number, time, fields)
        elif kind == Kind.FILE_READ:
            self._file(number, time, fields)
        elif kind == Kind.REFUSED:
            self._refuse(time, fields)

    def _counts(self, time: str, placed: str) -> bool:
        """Whether an entry is of the period by its own time, by that of its place, or because it is between them."""
        if time == placed:
            return self.since <= time < self.until
        return self.since <= max(time, placed) and min(time, placed) < self.until

    def _what(self, fields: Mapping[str, Any], masks: Mapping[str, Any]) -> int:
        dataset, version = _text(fields["dataset_id"]), _number(fields["version"])
        return self.what.of(
            What(
                _text(fields["dataset"]),
                dataset,
                version,
                self.states.get((dataset, version), 0),
                _texts(fields["columns"]),
                _texts(fields["column_ids"]),
                tuple(sorted((_text(path), _text(mask)) for path, mask in masks.items())) if masks else (),
            )
        )

    def _who(self, fields: Mapping[str, Any]) -> int:
        return self.who.of(
            Who(
                _text(fields["credential"]),
                _delegates(fields),
                _text_or_none(fields.get("subject")),
                _text(fields["address"]),
                _text(fields["grant"]),
                _text_or_none(fields.get("purpose")),
                _text_or_none(fields.get("where")),
                _text(fields["delivery"]),
            )
        )

    def _keys(self, fields: Mapping[str, Any]) -> int:
        epochs = fields.get("epochs", {})
        pairs = tuple(sorted((_text(group), _number(epoch)) for group, epoch in epochs.items()))
        return self.keys.of(Keys(_text(fields.get("compartment", "")), pairs))

    def _begin(self, number: int, time: str, fields: Mapping[str, Any], counted: bool, alike: int | None) -> None:
        read = Open()
        read.number, read.begun, read.counted = number, micro(time), counted
        read.nonce = _text_or_none(fields.get("nonce"))
        begun = self._begun.get(alike) if alike is not None else None
        if begun is None:
            begun = self._beginning(fields)
            if alike is not None:
                self._begun[alike] = begun
        read.what, read.who, read.keys, read.shards, read.resumed, read.limit, read.filtered = begun
        read.items, read.readable = [], True
        self.open[number] = read

    def _beginning(self, fields: Mapping[str, Any]) -> _Beginning:
        """What a read that begins is of, and how much of that it may have."""
        what, who, keys = self._what(fields, fields.get("masks") or {}), self._who(fields), self._keys(fields)
        resumed, limit = fields.get("resumed"), fields.get("limit")
        return (
            what, who, keys, fields["shards"],
            (_number(resumed[0]), _number(resumed[1])) if resumed is not None else None,
            _number(limit) if limit is not None else None,
            fields.get("filtered") is not False or fields.get("where") is not None,
        )  # fmt: skip

    def _go_on(self, act: Act) -> None:
        number = _number(act.fields["read"])
        read = self.open.get(number)
        if read is None:
            # It began in an earlier range, if it ever did.
            self.loose.setdefault(number, []).append(act)
            return
        if read.nonce is not None and act.fields.get("nonce") != read.nonce:
            # Only the process that began it knows its nonce: whoever else writes of it takes nothing of it away.
            raise ValueError("it is of another process")
        served = act.fields.get("served")
        if isinstance(served, list):
            read.items += served
        else:
            # Without it, nobody can say what it was: it stays as if it had no end.
            read.readable = False
        if act.kind == Kind.READ_ENDED:
            self._end(read, act)

    def _end(self, read: Open, act: Act) -> None:
        """Count a read that has ended; one that cannot be understood is left as if it had no end."""
        fields = act.fields
        ended, rows, size = micro(act.time), _number(fields["rows"]), _number(fields["bytes"])
        outcome = _text(fields["outcome"])
        exact = outcome == "complete"
        items = read_items(read.items)
        if not read.readable:
            raise ValueError("a part of it cannot be read")
        del self.open[read.number]
        if not read.counted:
            return
        self.deliveries.add(
            read.number, read.begun, ended, read.what, read.who, read.keys, EXACT if exact else BOUND,
            self.outcomes.of(outcome), rows, size,
        )  # fmt: skip
        self._bag(read.what, exact).put(items)

    def _bag(self, what: int, exact: bool) -> Bag:
        place = what, exact
        bag = self.bags.get(place)
        if bag is None:
            bag = self.bags[place] = Bag()
        return bag

    def _lease(self, number: int, time: str, fields: Mapping[str, Any]) -> None:
        what, who, keys = self._what(fields, {}), self._who(fields), self._keys(fields)
        rows, size, shards = _number(fields["rows"]), _number(fields["bytes"]), read_shards(fields["shards"])
        of, epochs = self.keys.values[keys], fields.get("epochs", {})
        chunks = {group: from_base64(data, "chunk ids") for group, data in fields.get("chunks", {}).items()}
        if any(len(data) % _CHUNK_BYTES for data in chunks.values()):
            raise ValueError("not ids of chunks")
        places = {(of.compartment, _text(group), _number(epochs[group])): data for group, data in chunks.items()}
        at = micro(time)
        self.deliveries.add(number, at, at, what, who, keys, LEASE, self.outcomes.of("lease"), rows, size)
        self._bag(what, False).put(shards)
        for place, data in places.items():
            self.leased.setdefault(place, []).append(data)

    def _file(self, number: int, time: str, fields: Mapping[str, Any]) -> None:
        """A read of a shared file; one of many alike refers to the one that says which rows the file has."""
        what, who, keys = self._what(fields, fields.get("masks") or {}), self._who(fields), self._keys(fields)
        rows, size, at = _number(fields["rows"]), _number(fields["bytes"]), micro(time)
        if "served" in fields:
            items = read_items(fields["served"])
            self._remember(number, at, None)
            self._bag(what, False).put(items)
        else:
            self._refer(number, _number(fields["again"]), what)
        self.deliveries.add(number, at, at, what, who, keys, FILE, self.outcomes.of("shared file"), rows, size)

    def _remember(self, number: int, at: int, served: list[Any] | None) -> None:
        if len(self.files) % _MOST_FILES == 0:
            self.files = {each: held for each, held in self.files.items() if held[0] >= at - _FILES_FOR}
        self.files[number] = at, served

    def _refer(self, number: int, to: int, what: int) -> None:
        """Count what an earlier read was of, where that itself did not count: it is of before the period."""
        held = self.files.get(to)
        if held is None:
            self.again[number] = to, what
        elif held[1] is not None:
            self._bag(what, False).put(read_items(held[1]))

    def _refuse(self, time: str, fields: Mapping[str, Any]) -> None:
        refusal = Refusal(
            _text(fields["reason"]),
            _text(fields["credential"]),
            _delegates(fields),
            _text_or_none(fields.get("subject")),
            _text_or_none(fields["address"]),
            _text_or_none(fields.get("dataset")),
            _texts(fields.get("columns") or []),
        )
        at, times, since = micro(time), _number(fields.get("times", 1)), fields.get("since")
        if not times:
            raise ValueError("no request was refused")
        first = min(at, micro(_text(since))) if since is not None else at
        self.refused.setdefault(refusal, Tally()).add(first, at, times)

    def _unwrap(self, time: str, fields: Mapping[str, Any]) -> None:
        at, process = micro(time), _text(fields["process"])
        first = min(at, micro(fields["since"])) if fields.get("since") else at
        for place, group, epoch in fields["keys"]:
            key = _text(place), _text(group), _number(epoch), process
            self.unwrapped.setdefault(key, Tally()).add(first, at)

    @property
    def datasets(self) -> set[str]:
        """The ids of the datasets that the vendor was given something of, as far as texts."""
        given = (act.fields.get("dataset_id") for act in self.acts if act.fields.get("vendor_id") == self.vendor)
        return {what.dataset_id for what in self.what.values} | {each for each in given if isinstance(each, str)}

    def take(self, later: "Gathering") -> None:
        """Take over what was gathered of the entries behind these; it is not to be used any more."""
        if later.last_number:
            self.last_number, self.last_time = later.last_number, later.last_time
        numbers = {
            "what": [self.what.of(self._moved(what)) for what in later.what.values],
            "who": [self.who.of(who) for who in later.who.values],
            "keys": [self.keys.of(keys) for keys in later.keys.values],
            "outcome": [self.outcomes.of(outcome) for outcome in later.outcomes.values],
        }
        self.deliveries.take(later.deliveries, numbers)
        for (what, exact), bag in later.bags.items():
            place = numbers["what"][what], exact
            if place in self.bags:
                self.bags[place].take(bag)
            else:
                self.bags[place] = bag
        for version, count in later.states.items():
            self.states[version] = self.states.get(version, 0) + count
        self.acts += later.acts
        self.odd += later.odd
        for refusal, tally in later.refused.items():
            self.refused.setdefault(refusal, Tally()).add(tally.first, tally.last, tally.count)
        for key, tally in later.unwrapped.items():
            self.unwrapped.setdefault(key, Tally()).add(tally.first, tally.last, tally.count)
        for chunks, data in later.leased.items():
            self.leased.setdefault(chunks, []).extend(data)
        for acts in later.loose.values():
            for act in acts:
                try:
                    self._go_on(act)
                except _WRONG:
                    self.odd.append(act.number)
        self._take_files(later, numbers["what"])
        for number, read in later.open.items():
            read.what, read.who = numbers["what"][read.what], numbers["who"][read.who]
            read.keys = numbers["keys"][read.keys]
            self.open[number] = read

    def _take_files(self, later: "Gathering", whats: list[int]) -> None:
        for number, (to, what) in later.again.items():
            try:
                self._refer(number, to, whats[what])
            except _WRONG:
                self.odd.append(number)
        for number, (at, served) in later.files.items():
            self._remember(number, at, served)

    def _moved(self, what: What) -> What:
        """What was numbered by what a later range alone says."""
        return what._replace(state=what.state + self.states.get((what.dataset_id, what.version), 0))


_OF_READS: Final = frozenset(kind.value for kind in DELIVERIES)
#: What concerns a vendor whomever it is about: what there is to read, who else has it, and the keys of all.
_OF_ALL: Final = frozenset(
    {
        Kind.PUBLISHED.value,
        Kind.VENDOR_ADDED.value,
        Kind.FANNED_OUT.value,
        Kind.REKEYED.value,
        Kind.NARROWED.value,
        Kind.OFFBOARDED.value,
        Kind.ROOT_CHANGED.value,
        Kind.DATASET_DELETED.value,
        Kind.VERSIONS_EXPIRED.value,
        Kind.ROWS_ERASED.value,
    }
)


def told_of(kind: str, fields: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The versions, by dataset id and number, of which an entry says how their rows lie; raises what `Gathering` takes.

    Each time that one does, what is read from there on is numbered by it, whatever becomes of the entry.
    """
    if kind == Kind.PUBLISHED:
        return [(str(fields["dataset_id"]), int(fields["version"]))]
    if kind == Kind.ROWS_ERASED:
        return [(str(fields["dataset_id"]), int(version)) for version in fields["layouts"]]
    return []


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError("not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not _ONLY_TEXT.issuperset(map(type, values)):
        raise TypeError("not texts")
    return tuple(values)


def _delegates(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = fields.get("delegates")
    return tuple((_text(each["id"]), _text(each["to"])) for each in found) if found else ()
