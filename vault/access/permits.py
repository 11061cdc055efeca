"""What a caller may have: its offers, the permit of one request, and the plan that the permit leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import pyarrow as pa

from vault.access.callers import Caller
from vault.catalog import CompartmentRow, FieldSealer, Transaction
from vault.errors import IntegrityError, InvalidInput, NotFound, NotGranted
from vault.filters import BoundFilter, Filter, bind, parse
from vault.keyring import WrappedKey
from vault.masks import Mask
from vault.model import MANIFEST_GROUP, MASK_GROUP, Column
from vault.policy import Offer, Permit, Request, decide, refuse_frozen
from vault.trust import Grant
from vault.workings.parts import Parts, own_metadata_key, trusted_now, wrapped_key
from vault.workings.permissions import live_for_vendor
from vault.workings.reading import masked_schema
from vault.workings.versions import OpenVersion, open_version

__all__ = ["Offering", "Permitted", "mask_key", "masks_of", "offerings", "permitted"]


#: What a decision is made again for, by whether it took what was held: a new version may have other columns.
_LOOKED_UP_AGAIN = {False: (NotGranted,), True: (NotGranted, NotFound, InvalidInput)}


@dataclass(frozen=True, slots=True)
class Offering:
    """What one grant offers a vendor: never its filter, never a column that is not granted."""

    grant: Grant
    version: int
    schema: pa.Schema
    leasable: bool


@dataclass(frozen=True, slots=True)
class Permitted:
    """A permit, the version that it is for, and every filter that a row has to pass."""

    permit: Permit
    version: OpenVersion
    filters: tuple[BoundFilter, ...]

    def is_newest(self, parts: Parts, transaction: Transaction) -> bool:
        """Whether a transaction still sees the version as the compartment's newest."""
        return parts.heads.is_newest(transaction, self.version.head)


def offerings(parts: Parts, caller: Caller) -> list[Offering]:
    """What the caller's live grants offer at present; raises Frozen."""
    refuse_frozen(parts.heads.vendor(caller.vendor))
    now = trusted_now(parts)
    found = []
    for offer, version in _offers(parts, caller):
        if offer.grant.live_at(now) and offer.whole and offer.columns:
            schema = masked_schema(version.manifest.schema, offer.columns, masks_of(offer.grant, offer.columns))
            found.append(Offering(offer.grant, offer.version, schema, offer.leasable))
    return found


def masks_of(grant: Grant, columns: tuple[Column, ...]) -> dict[str, Mask]:
    """The masks of a grant by column name; raises IntegrityError for one that this release does not know."""
    try:
        return {
            column.name: Mask.parse(grant.masks[column.id], column.name)
            for column in columns
            if column.id in grant.masks
        }
    except InvalidInput as error:
        raise IntegrityError("a grant has a mask that this release does not know") from error


def mask_key(parts: Parts, vendor: str) -> WrappedKey:
    """The vendor's wrapped mask key; raises IntegrityError where the catalog lacks it."""
    with parts.catalog.read() as transaction:
        rows = [row for row in transaction.keys(vendor) if row.group == MASK_GROUP]
    if not rows:
        raise IntegrityError("the catalog lacks the mask key of a vendor whose grant needs it")
    return wrapped_key(parts.vault, rows[-1])


def _offers(
    parts: Parts, caller: Caller, dataset_name: str | None = None, *, held: bool = False
) -> Iterator[tuple[Offer, OpenVersion]]:
    """The vendor's live grants with the newest version of what they are about, or the one that is held for it."""
    grants, rows = _grants(parts, caller.vendor)
    versions: dict[str, OpenVersion] = {}
    for grant in grants:
        if dataset_name is not None and grant.dataset_name != dataset_name:
            continue
        if any(link.dataset not in {None, grant.dataset_name} for link in caller.links):
            continue
        row = rows.get(grant.dataset)
        if row is None:
            raise IntegrityError("the catalog lacks the compartment of a live grant")
        if row.id not in versions:
            versions[row.id] = _newest(parts, row, held=held)
        version = versions[row.id]
        if version.manifest.dataset != grant.dataset:
            raise IntegrityError("a compartment holds another dataset than the catalog says")
        present = {column.id: column for column in version.manifest.columns}
        filtered = any(link.where is not None for link in caller.links)
        yield Offer(grant, row.id, version.manifest.version, present, _left(caller), filtered), version


def _left(caller: Caller, links: int | None = None) -> frozenset[str] | None:
    """The columns that a chain of delegations, or its first links, leave; None for all."""
    named = [frozenset(link.columns) for link in caller.links[:links] if link.columns is not None]
    return reduce(frozenset.intersection, named) if named else None


def _delegated_filters(caller: Caller, offer: Offer, schema: pa.Schema) -> list[BoundFilter]:
    """The row filters of a chain, each over what its signer could read; raises NotGranted where one does not fit.

    A signer may filter by a column that it does not hand on, as the lab may, and by none that it does not have.
    """
    found = []
    for number, link in enumerate(caller.links):
        if link.where is None:
            continue
        try:
            condition = parse(link.where, "where")
            if not condition.columns() <= replace(offer, only=_left(caller, number)).readable:
                raise NotGranted("a delegation filters by a column that its signer does not have")
            found.append(bind(condition, schema, "where"))
        except InvalidInput as error:
            raise NotGranted("a delegation's row filter does not fit the dataset") from error
    return found


def _grants(parts: Parts, vendor: str) -> tuple[list[Grant], dict[str, CompartmentRow]]:
    """The grants that a vendor's head lists, opened with its metadata key, and its compartments by dataset."""
    head = parts.heads.vendor(vendor)

    def read() -> tuple[list[Grant], dict[str, CompartmentRow]]:
        sealer = FieldSealer(parts.vault, vendor, own_metadata_key(parts, vendor))
        with parts.catalog.read() as transaction:
            grants = live_for_vendor(parts.root, transaction.grants(vendor=vendor), head, sealer, own=True)
            return grants, {row.dataset: row for row in transaction.compartments(holder=vendor)}

    return parts.lately.grants.get((vendor, head.digest, parts.root.version), read)


def _newest(parts: Parts, row: CompartmentRow, *, held: bool) -> OpenVersion:
    """The newest version of a compartment, opened under the manifest key that its head names."""
    head = parts.heads.compartment_held(row) if held else None
    if head is None:
        with parts.catalog.read() as transaction:
            head = parts.heads.compartment_in(transaction, row)
    if head is None or MANIFEST_GROUP not in head.live_groups:
        raise NotFound("there is no version")
    found: OpenVersion = parts.lately.versions.get((row.id, head.digest), lambda: open_version(parts, None, row))
    return found


def permitted(parts: Parts, caller: Caller, request: Request, *, held: bool = False) -> Permitted:
    """Decide on a request; raises Frozen, Conflict, NotGranted or InvalidInput.

    ``held`` takes the version that is held for the newest one: whoever says so asks `Permitted.is_newest` in the change
    that acts upon the permit. A refusal is never by what is held.
    """
    try:
        return _decided(parts, caller, request, held=held)
    except _LOOKED_UP_AGAIN[held]:
        # The grant may be younger than the head that is held here; whatever is asked for, it is looked up again.
        parts.heads.vendor(caller.vendor, max_age=-1)
        return _decided(parts, caller, request)


def _decided(parts: Parts, caller: Caller, request: Request, *, held: bool = False) -> Permitted:
    refuse_frozen(parts.heads.vendor(caller.vendor))
    found = list(_offers(parts, caller, request.dataset, held=held))
    head = parts.heads.vendor(caller.vendor)
    permit = decide(request, caller.credential, head, [offer for offer, _ in found], trusted_now(parts))
    ends = min(permit.ends or caller.expires, caller.expires)
    permit = replace(permit, ends=ends, delegations=tuple(link.id for link in caller.links))
    offer, version = next(each for each in found if each[0].grant.id == permit.grant.id)
    conditions = (_grants_filter(permit.grant, version), permit.where)
    filters = tuple(bind(each, version.manifest.schema, "where") for each in conditions if each is not None)
    return Permitted(permit, version, (*filters, *_delegated_filters(caller, offer, version.manifest.schema)))


def _grants_filter(grant: Grant, version: OpenVersion) -> Filter | None:
    """The grant's own row filter in the version's names; its tree names columns by id."""
    if grant.where is None:
        return None
    names = {column.id: column.name for column in version.manifest.columns}
    condition = Filter.from_json(dict(grant.where))
    if not condition.columns() <= names.keys():
        raise NotGranted("a column that the grant's row filter reads is gone")
    return condition.rename(names)
