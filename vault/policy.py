"""The access decision: a pure function from a request and what is signed to a permit or a refusal.

It never adds grants up: a request runs under the one that it names, or the only one that suffices, and two
that would each do are refused as ambiguous. Whatever is not there and whatever is not allowed raise the
same error. Nothing here does I/O.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vault.errors import Conflict, Frozen, InvalidInput, NotGranted
from vault.fields import Path, covers
from vault.filters import Filter
from vault.model import Column, picked
from vault.trust import Grant, VendorHead

__all__ = ["MOST_PARTS", "Basis", "Handed", "Offer", "Permit", "Request", "decide", "refuse_frozen", "still_allowed"]

#: Both may be read as a stream, which gives no more than a lease does.
_DELIVERIES = frozenset({"stream", "lease"})
#: Into how many parts a read can be cut.
MOST_PARTS: Final = 65_536
_REFUSAL = "no dataset or column of that name is granted to you"


@dataclass(frozen=True, slots=True)
class Request:
    """What a vendor asks for; ``columns`` None means all that the grant covers, a path one field of a column.

    ``lease`` asks for chunk keys: only a grant that says so, and of whole columns, suffices for that. ``part`` is a
    number and of how many: some of the shards. ``version`` is the only one that will do, where one is named.
    """

    dataset: str
    grant: str | None = None
    columns: tuple[str, ...] | None = None
    where: Filter | None = None
    limit: int | None = None
    lease: bool = False
    part: tuple[int, int] | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """The columns that a link of a delegation names, None for all, by the names that they had when it was made."""

    columns: tuple[str, ...] | None
    issued: datetime


@dataclass(frozen=True, slots=True)
class Offer:
    """A live grant and what of it its version has: the columns by id, present ones only.

    ``handed`` is what each link of a delegation hands on, from the credential's own key on; ``filtered`` says that one
    of them keeps rows back. ``exists`` says whether a column's type has a field at a path.
    """

    grant: Grant
    compartment: str
    version: int
    present: Mapping[str, Column]
    handed: tuple[Handed, ...] = ()
    filtered: bool = False
    exists: Callable[[Column, Path], bool] = lambda _column, path: not path

    @property
    def columns(self) -> tuple[Column, ...]:
        """The granted columns that the version has, in the grant's order, with the fields that are granted of them.

        Of delegated access those that are left; each link names what it hands on of what the one before it had.
        """
        columns = tuple(
            replace(present, fields=granted.fields)
            for granted in self.grant.columns
            if (present := self.present.get(granted.id)) is not None
        )
        for link in self.handed:
            if link.columns is not None:
                # A column that took a name later is not what the link named by it.
                known = (column for column in columns if column.was_named(link.issued))
                columns = picked(link.columns, known, self.exists, passing=True) or ()
        return columns

    def may_search(self, condition: Filter) -> bool:
        """Whether the vendor's own predicate reads nothing but what is granted and no mask covers.

        A search by a masked column would find out, bit by bit, what the mask hides.
        """
        columns = {column.name: column for column in self.columns}
        return all(path[0] in columns and self._is_open(columns[path[0]], path[1:]) for path in condition.paths())

    def _is_open(self, column: Column, path: Path) -> bool:
        if any(path[: len(masked)] == masked for masked in self.grant.masked(column.id)):
            return False
        # That a struct is null is seen by whoever sees a field of it.
        return covers(column.fields, path) or any(each[: len(path)] == path for each in column.fields or ())

    @property
    def whole(self) -> bool:
        """Whether every column that the row filter reads is there; without them nothing may leave."""
        return all(column.id in self.present for column in self.grant.filter_columns)

    @property
    def leasable(self) -> bool:
        """Whether chunk keys may be handed out: a key opens whole columns, so nothing of them may be held back.

        What the grant says of its delivery is not enough: a filter, a mask, or a column that shares its key with one
        that the caller may not read, each forbids it.
        """
        if self.grant.delivery != "lease" or self.grant.where is not None or self.grant.masks or self.filtered:
            return False
        columns = self.columns
        groups = {column.group for column in columns}
        if any(column.fields is not None for column in columns):
            return False
        return all(column in columns for column in self.present.values() if column.group in groups)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a permit stands on, and until when: all that has to hold on while what it allowed is delivered."""

    vendor: str
    credential: str
    grant: str
    grant_digest: str
    delegations: tuple[str, ...]
    ends: datetime | None


@dataclass(frozen=True, slots=True)
class Permit:
    """One request allowed: exactly one grant, made concrete for one version, with an end."""

    vendor: str
    credential: str
    grant: Grant
    grant_digest: str
    compartment: str
    version: int
    columns: tuple[Column, ...]
    where: Filter | None
    limit: int | None
    ends: datetime | None
    delegations: tuple[str, ...] = ()
    part: tuple[int, int] | None = None

    @property
    def basis(self) -> Basis:
        """What it stands on."""
        return Basis(self.vendor, self.credential, self.grant.id, self.grant_digest, self.delegations, self.ends)


def decide(
    request: Request,
    credential: str,
    head: VendorHead,
    offers: Sequence[Offer],
    now: datetime,
) -> Permit:
    """Allow or refuse. Raises Frozen, Conflict (ambiguous, or another version), InvalidInput or NotGranted.

    ``offers`` may hold anything; only grants that the head lists, that have not expired and that are about
    the dataset asked for count.
    """
    refuse_frozen(head)
    if request.columns is not None and len(set(request.columns)) != len(request.columns):
        raise InvalidInput("columns: a column is named twice")
    if request.part is not None and not 0 <= request.part[0] < request.part[1] <= MOST_PARTS:
        raise InvalidInput(f"part: parts are counted from 0, and there are {MOST_PARTS:,} at the most")
    fitting = [
        (offer, columns)
        for offer in offers
        if _about(request, head, offer, now) and (columns := _columns(request, offer)) is not None
    ]
    if not fitting:
        raise NotGranted(_REFUSAL)
    if len(fitting) > 1:
        names = ", ".join(sorted(offer.grant.id for offer, _ in fitting))
        raise Conflict(f"more than one grant allows this; name one of them: {names}")
    offer, columns = fitting[0]
    if request.version not in {None, offer.version}:
        raise Conflict(f"version: it is version {offer.version} that is read now, and not {request.version}")
    return Permit(
        vendor=head.vendor,
        credential=credential,
        grant=offer.grant,
        grant_digest=head.grants[offer.grant.id],
        compartment=offer.compartment,
        version=offer.version,
        columns=columns,
        where=request.where,
        limit=request.limit,
        ends=offer.grant.expires,
        part=request.part,
    )


def refuse_frozen(head: VendorHead) -> None:
    """Raise Frozen for a vendor that is."""
    if head.frozen:
        raise Frozen("access is suspended; ask the lab")


def _about(request: Request, head: VendorHead, offer: Offer, now: datetime) -> bool:
    grant = offer.grant
    return (
        grant.dataset_name == request.dataset
        and grant.vendor == head.vendor
        and grant.id in head.grants
        and request.grant in {None, grant.id}
        and (grant.delivery in _DELIVERIES if not request.lease else offer.leasable)
        and grant.live_at(now)
        and offer.whole
    )


def _columns(request: Request, offer: Offer) -> tuple[Column, ...] | None:
    """The columns to serve, or None where the grant does not suffice for all that is asked."""
    found = offer.columns if request.columns is None else picked(request.columns, offer.columns, offer.exists)
    if not found or (request.where is not None and not offer.may_search(request.where)):
        return None
    # A key opens a whole column: who asks for a field of one gets a stream.
    return None if request.lease and any(column.fields is not None for column in found) else found


def still_allowed(basis: Basis, head: VendorHead, now: datetime) -> None:
    """Check what a permit stands on against a newer head; raises Frozen or NotGranted."""
    if head.frozen:
        raise Frozen("access was suspended while the data was being read")
    if head.grants.get(basis.grant) != basis.grant_digest or basis.credential not in head.credentials:
        raise NotGranted("the grant or credential was ended while the data was being read")
    if not head.ended.isdisjoint(basis.delegations):
        raise NotGranted("the delegation was ended while the data was being read")
    if basis.ends is not None and now >= basis.ends:
        raise NotGranted("the grant or credential expired while the data was being read")
