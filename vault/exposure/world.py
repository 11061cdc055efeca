"""What the log says there was: datasets and their versions, a vendor's permissions, and what other vendors hold.

It follows every entry that is not of a delivery, in order, from the first on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from vault.audit import Kind
from vault.errors import IntegrityError
from vault.exposure.bags import read_shards
from vault.exposure.gathering import Act, micro
from vault.exposure.intervals import Runs, of_pairs
from vault.exposure.rows import Layout
from vault.model import OWNER

__all__ = ["EVER", "Holding", "Other", "Permission", "State", "Terms", "Version", "World"]

#: Behind every time that is written.
EVER: Final = 2**62
_ALL_SHARDS: Final = of_pairs([(0, 2**31)])
_WRONG: Final = (AttributeError, IndexError, IntegrityError, KeyError, OverflowError, TypeError, ValueError)


@dataclass(slots=True)
class State:
    """A version's rows as they lie from a time on, until the next erasure."""

    since: int
    layout: Layout
    until: int = EVER


@dataclass(slots=True)
class Version:
    """A version of a dataset: its columns, its states, and of which version its first shards are."""

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

    @property
    def names(self) -> dict[str, str]:
        """The columns' names by id."""
        return dict(zip(self.column_ids, self.columns, strict=True))


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
    """Everything that acts have made up to now, for one vendor."""

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor
        self.name: str | None = None
        self.versions: dict[tuple[str, int], Version] = {}
        self.datasets: dict[str, str] = {}
        self.grants: dict[str, Terms] = {}
        self.credentials: dict[str, Permission] = {}
        self.freezes: list[list[int]] = []
        self.ended = EVER
        self.others: dict[str, Other] = {}
        #: By compartment whose it is, and of which dataset.
        self.compartments: dict[str, tuple[str, str]] = {}
        self.groups: dict[str, set[str]] = {}
        #: Numbers of entries that could not be followed.
        self.odd: list[int] = []
        self._ids: dict[str, str] = {}

    def follow(self, act: Act) -> None:
        """Take the next entry."""
        follow = self._FOLLOWING.get(act.kind)
        if follow is None:
            return
        try:
            follow(self, act.fields, micro(act.time))
        except _WRONG:
            self.odd.append(act.number)

    def _is_vendor(self, fields: Mapping[str, Any]) -> bool:
        return fields.get("vendor_id") == self.vendor

    def _added(self, fields: Mapping[str, Any], _at: int) -> None:
        if not self._is_vendor(fields):
            if self._is_others(fields):
                self._other(fields)
            return
        _refuse_again(self.name is not None)
        self.name = str(fields["vendor"])

    def _other(self, fields: Mapping[str, Any]) -> Other:
        identity = str(fields["vendor_id"])
        return self.others.setdefault(identity, Other(identity, str(fields["vendor"])))

    def _published(self, fields: Mapping[str, Any], at: int) -> None:
        identity, number, base = str(fields["dataset_id"]), int(fields["version"]), fields.get("base")
        version = Version(
            dataset=str(fields["dataset"]),
            dataset_id=identity,
            number=number,
            columns=tuple(map(str, fields["columns"])),
            column_ids=tuple(map(str, fields["column_ids"])),
            groups=tuple(map(str, fields["groups"])),
            published=at,
            states=[State(at, Layout(fields["layout"]))],
            base=(int(base["version"]), int(base["shards"])) if base is not None else None,
        )
        if len(version.columns) != len(version.column_ids):
            raise ValueError("columns without ids")
        _refuse_again((identity, number) in self.versions)
        self.versions[identity, number] = version
        self.datasets[identity] = version.dataset
        self._ids[version.dataset] = identity
        for name, group in zip(version.columns, version.groups, strict=False):
            self.groups.setdefault(group, set()).add(name)

    def _erased(self, fields: Mapping[str, Any], at: int) -> None:
        for number, runs in fields["layouts"].items():
            version = self.versions[str(fields["dataset_id"]), int(number)]
            version.states[-1].until = at
            version.states.append(State(at, Layout(runs)))
        for number, rows in fields["rows"].items():
            self.versions[str(fields["dataset_id"]), int(number)].erased += int(rows)

    def _expired(self, fields: Mapping[str, Any], at: int) -> None:
        identity = str(fields.get("dataset_id") or self._ids[str(fields["dataset"])])
        for number in fields["versions"]:
            self._end_version(self.versions[identity, int(number)], at)

    def _deleted(self, fields: Mapping[str, Any], at: int) -> None:
        for (identity, _), version in self.versions.items():
            if identity == fields["dataset_id"]:
                self._end_version(version, at)

    def _end_version(self, version: Version, at: int) -> None:
        version.ended = min(version.ended, at)
        version.states[-1].until = min(version.states[-1].until, at)

    def _filled(self, fields: Mapping[str, Any], at: int) -> None:
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
                at,
            ),
        )
        if fields.get("versions") is not None:
            self._end_holdings(other, identity, set(fields["versions"]), at)

    def _is_others(self, fields: Mapping[str, Any]) -> bool:
        """Whether an entry is about a vendor other than this one, and not about the lab itself."""
        return not self._is_vendor(fields) and fields["vendor"] != OWNER

    def _know(self, fields: Mapping[str, Any], _at: int = 0) -> None:
        """Remember whose a compartment is. A rekey gives it other keys, and nothing else to hold."""
        if fields.get("compartment"):
            self.compartments[str(fields["compartment"])] = str(fields["vendor_id"]), str(fields["dataset_id"])

    @staticmethod
    def _hold(other: Other, place: tuple[str, int], holding: Holding) -> None:
        before = other.holdings.setdefault(place, [])
        if before and before[-1].until == EVER:
            before[-1].until = holding.since
        before.append(holding)

    @staticmethod
    def _end_holdings(other: Other, dataset: str, left: set[Any], at: int) -> None:
        """Versions of a dataset that are not left any more."""
        for (identity, number), holdings in other.holdings.items():
            if identity == dataset and number not in left:
                holdings[-1].until = min(holdings[-1].until, at)

    def _narrowed(self, fields: Mapping[str, Any], at: int) -> None:
        self._know(fields)
        if not self._is_others(fields):
            return
        other, identity = self._other(fields), str(fields["dataset_id"])
        self._end_holdings(other, identity, set(fields["versions"]), at)
        columns = fields.get("column_ids")
        for (dataset, _), holdings in other.holdings.items():
            held = holdings[-1]
            if dataset == identity and held.until == EVER and columns is not None:
                # What is said is of all its versions together: none of them has more than it had.
                left = frozenset(map(str, columns))
                held.until = at
                holdings.append(Holding(left if held.column_ids is None else held.column_ids & left, held.shards, at))

    def _granted(self, fields: Mapping[str, Any], at: int) -> None:
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
            made=at,
            starts=max(at, micro(fields["starts"])) if fields.get("starts") else at,
            expires=micro(fields["expires"]) if fields.get("expires") else EVER,
        )
        _ = terms.pinned
        _refuse_again(terms.grant in self.grants)
        self.grants[terms.grant] = terms

    def _revoked(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields):
            for grant in [*([fields["grant"]] if fields.get("grant") else []), *(fields.get("grants") or [])]:
                if grant in self.grants:
                    self.grants[grant].ended = min(self.grants[grant].ended, at)

    def _issued(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields):
            provider = fields.get("provider") or {}
            _refuse_again(fields["credential"] in self.credentials)
            self.credentials[str(fields["credential"])] = Permission(
                credential=str(fields["credential"]),
                issued=at,
                expires=micro(fields["expires"]) if fields.get("expires") else EVER,
                key=str(fields["key"]) if fields.get("key") else None,
                networks=tuple(map(str, fields.get("networks") or [])),
                issuer=str(provider["issuer"]) if "issuer" in provider else None,
            )

    def _ended_credential(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields) and fields.get("credential") in self.credentials:
            found = self.credentials[fields["credential"]]
            found.ended = min(found.ended, at)

    def _frozen(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields) and not (self.freezes and self.freezes[-1][1] == EVER):
            self.freezes.append([at, EVER])

    def _thawed(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields) and self.freezes and self.freezes[-1][1] == EVER:
            self.freezes[-1][1] = at

    def _offboarding(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields):
            self._end_all(at)

    def _end_all(self, at: int) -> None:
        self.ended = min(self.ended, at)
        self._frozen({"vendor_id": self.vendor}, at)
        self._end_permissions(at)

    def _end_permissions(self, at: int) -> None:
        for terms in self.grants.values():
            terms.ended = min(terms.ended, at)
        for credential in self.credentials.values():
            credential.ended = min(credential.ended, at)

    def _offboarded(self, fields: Mapping[str, Any], at: int) -> None:
        if self._is_vendor(fields):
            self._end_all(at)
            return
        other = self._other(fields)
        other.ended = at
        for holdings in other.holdings.values():
            holdings[-1].until = min(holdings[-1].until, at)

    def _root_changed(self, fields: Mapping[str, Any], at: int) -> None:
        if self.name is not None and self.name in (fields.get("left_out") or []):
            self._frozen({"vendor_id": self.vendor}, at)
            self._end_permissions(at)
        for grant in fields.get("ended_grants") or []:
            if isinstance(grant, str) and grant in self.grants:
                self.grants[grant].ended = min(self.grants[grant].ended, at)

    _FOLLOWING: ClassVar[Mapping[str, Callable[[Any, Mapping[str, Any], int], None]]] = {
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


def _refuse_again(there: bool) -> None:
    """Raise ValueError for what is made once, and was: a second entry of it is false, and changes nothing of it."""
    if there:
        raise ValueError("it was made before")
