"""What the log says there was: datasets and their versions, a vendor's permissions, and what other vendors hold.

It follows every entry that is not of a delivery, in order, from the first on. Any of them may be false: whoever has the
log key can append what he likes, under any time of its own. So what takes something away counts from the later of an
entry's own time and that of its place in the log, and what gives something from the earlier one; and where the log says
two things of what can be one only, both are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

from vault.audit import Kind
from vault.errors import IntegrityError
from vault.exposure.bags import read_shards
from vault.exposure.evidence import APART, Evidence, revoked
from vault.exposure.gathering import Act, micro, told_of
from vault.exposure.intervals import Runs, of_pairs
from vault.exposure.rows import Layout
from vault.model import OWNER

__all__ = ["EVER", "Holding", "Other", "Permission", "State", "Terms", "Version", "When", "World"]

#: Behind every time that is written.
EVER: Final = 2**62
_ALL_SHARDS: Final = of_pairs([(0, 2**31)])
_WRONG: Final = (AttributeError, IndexError, IntegrityError, KeyError, OverflowError, TypeError, ValueError)


class When(NamedTuple):
    """The earlier and the later of an entry's own time and that of its place, which may be no time: then `EVER`."""

    early: int
    late: int

    @classmethod
    def of(cls, act: Act) -> "When":
        """Raises ValueError where the entry's own time is none."""
        own = micro(act.time)
        try:
            placed = micro(act.placed)
        except (ValueError, OverflowError, TypeError):
            placed = EVER
        return cls(min(own, placed), max(own, placed))


@dataclass(slots=True)
class State:
    """A version's rows as they lie from a time on, until the next erasure.

    Where the log says two things of how they lie, ``layout`` has all rows of either, and ``rivals`` are both.
    """

    since: int
    layout: Layout
    until: int = EVER
    rivals: tuple[Layout, ...] = ()


@dataclass(slots=True)
class Version:
    """A version of a dataset: its columns, its states, and of which version its first shards are.

    ``signed`` is what the lab's heads say of it; ``again`` are publications of the same version that say other things.
    """

    dataset: str
    dataset_id: str
    number: int
    columns: tuple[str, ...]
    column_ids: tuple[str, ...]
    groups: tuple[str, ...]
    published: int
    states: list[State]
    base: tuple[int, int] | None
    erased: int = 0
    ended: int = EVER
    signed: bool | None = None
    again: list["Version"] = field(default_factory=list)

    @property
    def names(self) -> dict[str, str]:
        """The columns' names by id, as the first publication has them."""
        return dict(zip(self.column_ids, self.columns, strict=True))

    @property
    def namings(self) -> list[dict[str, str]]:
        """The columns' names by id, as each publication has them."""
        return [self.names, *(each.names for each in self.again)]

    @property
    def bases(self) -> set[tuple[int, int] | None]:
        """Of which version its first shards are, as each publication says."""
        return {self.base, *(each.base for each in self.again)}

    def says_the_same(self, other: "Version") -> bool:
        """Whether two publications, each by itself, say the same."""
        mine, theirs = (
            (each.dataset, each.columns, each.column_ids, each.base, each.states[0].layout.runs)
            for each in (self, other)
        )
        return mine == theirs


@dataclass(slots=True)
class Terms:
    """A grant, and from when until when it counted, as far as it says itself."""

    grant: str
    dataset: str
    dataset_id: str
    columns: tuple[str, ...]
    column_ids: tuple[str, ...]
    fields: Mapping[str, tuple[tuple[str, ...], ...] | None]
    masks: Mapping[str, str]
    where: str | None
    purpose: str | None
    delivery: str
    versions: str
    limits: Mapping[str, int]
    made: int
    starts: int
    expires: int
    ended: int = EVER

    @property
    def pinned(self) -> int | None:
        """The one version that it is about."""
        return None if self.versions == "latest" else int(self.versions)


@dataclass(slots=True)
class Permission:
    """A credential's life."""

    credential: str
    issued: int
    expires: int
    key: str | None
    networks: tuple[str, ...]
    issuer: str | None
    ended: int = EVER


@dataclass(slots=True)
class Holding:
    """What another vendor's compartment holds of a version: columns by id (None: it is not known which) and shards."""

    column_ids: frozenset[str] | None
    shards: Runs
    since: int
    until: int = EVER


@dataclass(slots=True)
class Other:
    """Another vendor."""

    id: str
    name: str
    holdings: dict[tuple[str, int], list[Holding]] = field(default_factory=dict)
    ended: int = EVER


class World:
    """Everything that acts have made up to now, for one vendor.

    ``evidence`` is what the lab has signed about the same, where it is at hand: what takes something away and is not in
    it does not count.
    """

    def __init__(self, vendor: str, evidence: Evidence | None = None) -> None:
        self.vendor = vendor
        self.name: str | None = None
        self.versions: dict[tuple[str, int], Version] = {}
        self.datasets: dict[str, str] = {}
        #: By their ids, mostly one of each.
        self.grants: dict[str, list[Terms]] = {}
        self.credentials: dict[str, list[Permission]] = {}
        self.freezes: list[list[int]] = []
        self.ended = EVER
        self.others: dict[str, Other] = {}
        #: By compartment whose it is, and of which dataset.
        self.compartments: dict[str, tuple[str, str]] = {}
        self.groups: dict[str, set[str]] = {}
        #: Numbers of entries that could not be followed.
        self.odd: list[int] = []
        #: Numbers of entries whose own time is not that of their place, and that take something away.
        self.misdated: list[int] = []
        #: Numbers of entries that take something away, and of which nothing that is signed knows.
        self.unsigned: list[int] = []
        #: Sentences about what the log says two things of.
        self.contradictions: list[str] = []
        self._evidence = evidence
        self._ids: dict[str, str] = {}
        #: By version its state behind each entry that said how its rows lie.
        self._told: dict[tuple[str, int], list[int]] = {}

    def follow(self, act: Act) -> None:
        """Take the next entry."""
        follow = self._FOLLOWING.get(act.kind)
        if follow is None:
            return
        told = []
        try:
            told = told_of(act.kind, act.fields)
            when = When.of(act)
            signed: bool | None = None
            judged: When | None = when
            if act.kind in _TAKING and (act.kind in _FOR_ALL or self._is_vendor(act.fields)):
                signed = self._evidence.of(act) if self._evidence is not None else None
                judged = self._judged(act, when, signed)
            if act.kind == Kind.PUBLISHED:
                # What is new is there in any case; what was the newest before it goes on beside a false one.
                self._published(act.fields, When(when.early, judged.late if judged is not None else EVER), signed)
            elif judged is not None:
                follow(self, act.fields, judged)
        except _WRONG:
            self.odd.append(act.number)
        for place in told:
            version = self.versions.get(place)
            self._told.setdefault(place, []).append(len(version.states) - 1 if version is not None else 0)

    def state(self, place: tuple[str, int], told: int) -> int:
        """The state of a version, by dataset id and number, when the log had said so often how its rows lie."""
        states = self._told.get(place, [])
        return states[min(told, len(states)) - 1] if told and states else 0

    def doubts(self) -> list[str]:
        """What of it does not fit, in sentences."""
        found = [*self.contradictions]
        if any(other.name == self.name for other in self.others.values()):
            found.append(
                f"The log names {self.name} as another vendor, too: this is of the one whose id is {self.vendor}."
            )
        if self.unsigned:
            found.append(
                f"Nothing that the lab signed bears out what {_entries(self.unsigned)} of the log would take away: it "
                "is told as if it had gone on."
            )
        if self.misdated:
            found.append(
                f"The own time of {_entries(self.misdated)} of the log is far from that of its place: what it takes "
                "away counts from the later one."
            )
        return found

    def _judged(self, act: Act, when: When, signed: bool | None) -> When | None:
        """When what takes something away counts from; None where it does not."""
        if signed is False:
            self.unsigned.append(act.number)
            return None
        if signed:
            # The lab's own word for the time: that of the place may have been run ahead by somebody.
            own = micro(act.time)
            return When(own, own)
        if when.late - when.early > APART:
            self.misdated.append(act.number)
        return when

    def _is_vendor(self, fields: Mapping[str, Any]) -> bool:
        return fields.get("vendor_id") == self.vendor

    def _added(self, fields: Mapping[str, Any], _at: When) -> None:
        if not self._is_vendor(fields):
            if self._is_others(fields):
                self._other(fields)
            return
        _refuse_again(self.name is not None)
        self.name = str(fields["vendor"])

    def _other(self, fields: Mapping[str, Any]) -> Other:
        identity = str(fields["vendor_id"])
        return self.others.setdefault(identity, Other(identity, str(fields["vendor"])))

    def _published(self, fields: Mapping[str, Any], at: When, signed: bool | None = None) -> None:
        identity, number, base = str(fields["dataset_id"]), int(fields["version"]), fields.get("base")
        version = Version(
            dataset=str(fields["dataset"]),
            dataset_id=identity,
            number=number,
            columns=tuple(map(str, fields["columns"])),
            column_ids=tuple(map(str, fields["column_ids"])),
            groups=tuple(map(str, fields["groups"])),
            published=at.late,
            states=[State(at.early, Layout(fields["layout"]))],
            base=(int(base["version"]), int(base["shards"])) if base is not None else None,
            signed=signed,
        )
        if len(version.columns) != len(version.column_ids):
            raise ValueError("columns without ids")
        there = self.versions.get((identity, number))
        if there is not None:
            self._published_again(there, version)
        self.versions[identity, number] = version
        self.datasets.setdefault(identity, version.dataset)
        self._ids[version.dataset] = identity
        for name, group in zip(version.columns, version.groups, strict=False):
            self.groups.setdefault(group, set()).add(name)

    def _published_again(self, there: Version, again: Version) -> None:
        """Keep what a second publication of a version says beside the first, since either may be the false one.

        What was read before it can only be of the first one, and what is read from here on of either. Raises ValueError
        in any case: one of them is odd.
        """
        # That the lab signed one of them and not the other is known where its heads are at hand.
        known_false = there.signed is True and again.signed is False
        if not known_false and not any(each.says_the_same(again) for each in (there, *there.again)):
            there.again.append(again)
            last, first = there.states[-1], again.states[0]
            rivals = (*(last.rivals or (last.layout,)), first.layout)
            # The state of before may be there still, or this one never have been: both are open.
            there.states.append(State(first.since, last.layout.widest(first.layout), rivals=rivals))
            self.contradictions.append(
                f"The log says two things of version {there.number} of {there.dataset}: what was read of it since the "
                "second one is counted by both, and exactly only where they agree."
            )
        raise ValueError("it was published")

    def _erased(self, fields: Mapping[str, Any], at: When) -> None:
        for number, runs in fields["layouts"].items():
            version = self.versions[str(fields["dataset_id"]), int(number)]
            layout = Layout(runs)
            version.states[-1].until = at.late
            version.states.append(State(at.early, layout))
        for number, rows in fields["rows"].items():
            self.versions[str(fields["dataset_id"]), int(number)].erased += int(rows)

    def _expired(self, fields: Mapping[str, Any], at: When) -> None:
        identity = str(fields.get("dataset_id") or self._ids[str(fields["dataset"])])
        for number in fields["versions"]:
            self._end_version(self.versions[identity, int(number)], at.late)

    def _deleted(self, fields: Mapping[str, Any], at: When) -> None:
        for (identity, _), version in self.versions.items():
            if identity == fields["dataset_id"]:
                self._end_version(version, at.late)

    def _end_version(self, version: Version, at: int) -> None:
        version.ended = min(version.ended, at)
        version.states[-1].until = min(version.states[-1].until, at)

    def _filled(self, fields: Mapping[str, Any], at: When) -> None:
        self._know(fields)
        if not self._is_others(fields):
            return
        other, identity, number = self._other(fields), str(fields["dataset_id"]), int(fields["version"])
        columns, shards = fields.get("column_ids"), fields.get("shards")
        self._hold(
            other,
            (identity, number),
            Holding(
                frozenset(map(str, columns)) if columns is not None else None,
                of_pairs(read_shards(shards).shards) if shards is not None else _ALL_SHARDS,
                at.early,
            ),
            at.late,
        )
        if fields.get("versions") is not None:
            self._end_holdings(other, identity, set(fields["versions"]), at.late)

    def _is_others(self, fields: Mapping[str, Any]) -> bool:
        """Whether an entry is about a vendor other than this one, and not about the lab itself."""
        return not self._is_vendor(fields) and fields["vendor"] != OWNER

    def _know(self, fields: Mapping[str, Any], _at: When | None = None) -> None:
        """Remember whose a compartment is. A rekey gives it other keys, and nothing else to hold."""
        if fields.get("compartment"):
            self.compartments[str(fields["compartment"])] = str(fields["vendor_id"]), str(fields["dataset_id"])

    @staticmethod
    def _hold(other: Other, place: tuple[str, int], holding: Holding, ends: int) -> None:
        before = other.holdings.setdefault(place, [])
        if before and before[-1].until == EVER:
            before[-1].until = ends
        before.append(holding)

    @staticmethod
    def _end_holdings(other: Other, dataset: str, left: set[Any], at: int) -> None:
        """Versions of a dataset that are not left any more."""
        for (identity, number), holdings in other.holdings.items():
            if identity == dataset and number not in left:
                holdings[-1].until = min(holdings[-1].until, at)

    def _narrowed(self, fields: Mapping[str, Any], at: When) -> None:
        self._know(fields)
        if not self._is_others(fields):
            return
        other, identity = self._other(fields), str(fields["dataset_id"])
        self._end_holdings(other, identity, set(fields["versions"]), at.late)
        columns = fields.get("column_ids")
        for (dataset, _), holdings in other.holdings.items():
            held = holdings[-1]
            if dataset == identity and held.until == EVER and columns is not None:
                # What is said is of all its versions together: none of them has more than it had.
                left = frozenset(map(str, columns))
                held.until = at.late
                kept = left if held.column_ids is None else held.column_ids & left
                holdings.append(Holding(kept, held.shards, at.early))

    def _granted(self, fields: Mapping[str, Any], at: When) -> None:
        if not self._is_vendor(fields):
            return
        cuts = fields.get("cuts") or {}
        terms = Terms(
            grant=str(fields["grant"]),
            dataset=str(fields["dataset"]),
            dataset_id=str(fields["dataset_id"]),
            columns=tuple(map(str, fields["columns"])),
            column_ids=tuple(map(str, fields["column_ids"])),
            fields={
                str(column): tuple(tuple(map(str, path)) for path in paths) if paths is not None else None
                for column, paths in cuts.items()
            },
            masks={str(path): str(mask) for path, mask in (fields.get("masks") or {}).items()},
            where=fields.get("where"),
            purpose=fields.get("purpose"),
            delivery=str(fields.get("delivery") or "stream"),
            versions=str(fields.get("versions") or "latest"),
            limits={str(name): int(most) for name, most in (fields.get("limits") or {}).items()},
            made=at.early,
            starts=max(at.early, micro(fields["starts"])) if fields.get("starts") else at.early,
            expires=micro(fields["expires"]) if fields.get("expires") else EVER,
        )
        _ = terms.pinned
        self._one_more(self.grants.setdefault(terms.grant, []), terms, "grant", terms.grant)

    def _one_more(self, there: list[Any], made: Any, what: str, identity: str) -> None:
        """Keep what is made once; a second one is odd, and counts beside the first, since either may be false."""
        there.append(made)
        if len(there) > 1:
            self.contradictions.append(
                f"The log says more than once that {what} {identity} was made: each counts as far as it goes."
            )
            raise ValueError("it was made")

    def _revoked(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields):
            for grant in revoked(fields):
                self._end_grant(grant, at.late)

    def _end_grant(self, grant: str, at: int) -> None:
        for terms in self.grants.get(grant, ()):
            terms.ended = min(terms.ended, at)

    def _issued(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields):
            provider = fields.get("provider") or {}
            permission = Permission(
                credential=str(fields["credential"]),
                issued=at.early,
                expires=micro(fields["expires"]) if fields.get("expires") else EVER,
                key=str(fields["key"]) if fields.get("key") else None,
                networks=tuple(map(str, fields.get("networks") or [])),
                issuer=str(provider["issuer"]) if "issuer" in provider else None,
            )
            identity = permission.credential
            self._one_more(self.credentials.setdefault(identity, []), permission, "credential", identity)

    def _ended_credential(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields):
            for found in self.credentials.get(fields.get("credential", ""), ()):
                found.ended = min(found.ended, at.late)

    def _frozen(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields) and not (self.freezes and self.freezes[-1][1] == EVER):
            self.freezes.append([at.late, EVER])

    def _thawed(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields) and self.freezes and self.freezes[-1][1] == EVER:
            self.freezes[-1][1] = at.early

    def _offboarding(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields):
            self._end_all(at)

    def _end_all(self, at: When) -> None:
        self.ended = min(self.ended, at.late)
        self._frozen({"vendor_id": self.vendor}, at)
        self._end_permissions(at.late)

    def _end_permissions(self, at: int) -> None:
        for terms in self.terms:
            terms.ended = min(terms.ended, at)
        for permission in self.permissions:
            permission.ended = min(permission.ended, at)

    @property
    def terms(self) -> list[Terms]:
        """Every grant."""
        return [each for found in self.grants.values() for each in found]

    @property
    def permissions(self) -> list[Permission]:
        """Every credential."""
        return [each for found in self.credentials.values() for each in found]

    def dataset_of(self, compartment: str) -> str | None:
        """The name of the dataset that a compartment is of, if it is known."""
        _, dataset = self.compartments.get(compartment, (None, None))
        return self.datasets.get(dataset) if dataset is not None else None

    def _offboarded(self, fields: Mapping[str, Any], at: When) -> None:
        if self._is_vendor(fields):
            self._end_all(at)
            return
        other = self._other(fields)
        other.ended = at.late
        for holdings in other.holdings.values():
            holdings[-1].until = min(holdings[-1].until, at.late)

    def _root_changed(self, fields: Mapping[str, Any], at: When) -> None:
        if self.name is not None and self.name in (fields.get("left_out") or []):
            self._frozen({"vendor_id": self.vendor}, at)
            self._end_permissions(at.late)
        for grant in fields.get("ended_grants") or []:
            if isinstance(grant, str):
                self._end_grant(grant, at.late)

    _FOLLOWING: ClassVar[Mapping[str, Callable[[Any, Mapping[str, Any], When], None]]] = {
        Kind.VENDOR_ADDED.value: _added,
        Kind.PUBLISHED.value: _published,
        Kind.ROWS_ERASED.value: _erased,
        Kind.VERSIONS_EXPIRED.value: _expired,
        Kind.DATASET_DELETED.value: _deleted,
        Kind.FANNED_OUT.value: _filled,
        Kind.REKEYED.value: _know,
        Kind.NARROWED.value: _narrowed,
        Kind.GRANTED.value: _granted,
        Kind.REVOKED.value: _revoked,
        Kind.CREDENTIAL_ISSUED.value: _issued,
        Kind.CREDENTIAL_REVOKED.value: _ended_credential,
        Kind.FROZEN.value: _frozen,
        Kind.THAWED.value: _thawed,
        Kind.OFFBOARDING.value: _offboarding,
        Kind.OFFBOARDED.value: _offboarded,
        Kind.ROOT_CHANGED.value: _root_changed,
    }


def _entries(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"entry {shown}" if len(numbers) == 1 else f"entries {shown}"


#: What takes it away from any vendor that had it, whichever one the entry says that it is of.
_FOR_ALL: Final = frozenset(
    {
        Kind.PUBLISHED.value,
        Kind.ROWS_ERASED.value,
        Kind.VERSIONS_EXPIRED.value,
        Kind.DATASET_DELETED.value,
        Kind.ROOT_CHANGED.value,
    }
)
#: What takes something away from what this vendor had or could read; a new version does so from the one before it.
_TAKING: Final = _FOR_ALL | {
    Kind.REVOKED.value,
    Kind.CREDENTIAL_REVOKED.value,
    Kind.FROZEN.value,
    Kind.OFFBOARDING.value,
    Kind.OFFBOARDED.value,
}


def _refuse_again(there: bool) -> None:
    """Raise ValueError for what is made once, and was: a second entry of it is false, and changes nothing of it."""
    if there:
        raise ValueError("it was made before")
