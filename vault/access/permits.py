"""What a caller may have: its offers, the permit of one request, and the plan that the permit leaves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from vault.access.callers import Caller
from vault.catalog import CompartmentRow, FieldSealer, Transaction
from vault.delegation import Link
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound, NotGranted
from vault.fields import Path, below, shown
from vault.filters import BoundFilter, Filter, bind, parse
from vault.keyring import WrappedKey
from vault.masks import Mask
from vault.model import MANIFEST_GROUP, MASK_GROUP, Column
from vault.policy import Handed, Offer, Permit, Request, decide, refuse_frozen
from vault.projection import has_field
from vault.trust import Grant
from vault.workings.parts import Parts, own_metadata_key, trusted_now, wrapped_key
from vault.workings.permissions import live_for_vendor
from vault.workings.reading import leaving_schema
from vault.workings.versions import OpenVersion, open_version

__all__ = [
    "Offering",
    "Permitted",
    "delegated_filters",
    "fields_of",
    "grants_filter",
    "live_grant",
    "live_version",
    "mask_key",
    "masks_of",
    "names_rows",
    "offerings",
    "permitted",
]


#: What a decision is made again for, by whether it took what was held: a new version may have other columns.
_LOOKED_UP_AGAIN = {False: (NotGranted,), True: (NotGranted, NotFound, InvalidInput, Conflict)}


@dataclass(frozen=True, slots=True)
class Offering:
    """What one grant offers a caller: never its filter, never a column that is not granted or was not handed on.

    ``masks`` are those on what leaves, by the names and paths that it leaves under. ``shards`` is how many there are,
    None where that is not to be told; ``key`` is the column that identifies rows, where it leaves as it is.
    """

    grant: Grant
    version: int
    schema: pa.Schema
    masks: Mapping[str, str]
    leasable: bool
    shards: int | None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Permitted:
    """A permit, the version that it is for, and every filter that a row has to pass."""

    permit: Permit
    version: OpenVersion
    filters: tuple[BoundFilter, ...]

    @property
    def narrowed(self) -> bool:
        """Whether a row filter that is not the caller's own, of the grant or of a delegation, keeps rows back."""
        return len(self.filters) > (self.permit.where is not None)

    @property
    def closed(self) -> bool:
        """Whether nothing may tell how much there is: rows are kept back, or a limit may be reached before the last."""
        return self.narrowed or has_row_limit(self.permit.grant)

    def is_newest(self, parts: Parts, transaction: Transaction) -> bool:
        """Whether a transaction still sees the compartment as it was when this was decided."""
        return parts.heads.is_newest(transaction, self.version.head)


def offerings(parts: Parts, caller: Caller) -> list[Offering]:
    """What the caller's live grants offer at present, and could be read; raises Frozen."""
    refuse_frozen(parts.heads.vendor(caller.vendor))
    now = trusted_now(parts)
    found = []
    for offer, version in _offers(parts, caller):
        if offer.grant.live_at(now) and offer.whole and offer.columns and _fits(caller, offer, version):
            masks = masks_of(offer.grant, offer.columns)
            schema = leaving_schema(version.manifest.schema, offer.columns, masks)
            told = {shown(path): mask.text for path, mask in masks.items()}
            hides = offer.grant.where is not None or offer.filtered or has_row_limit(offer.grant)
            shards = None if hides else version.manifest.shards
            key = _key_among(offer, version)
            found.append(Offering(offer.grant, offer.version, schema, told, offer.leasable, shards, key))
    return found


def _key_among(offer: Offer, version: OpenVersion) -> str | None:
    """The name of the column that identifies rows, if it is among what is offered, whole and without a mask."""
    key = next((column for column in offer.columns if column.id == version.manifest.key), None)
    return key.name if key is not None and names_rows(offer.grant, key) else None


def names_rows(grant: Grant, column: Column) -> bool:
    """Whether whoever is granted a column as it is there has the values that identify rows."""
    return column.fields is None and not grant.masked(column.id)


def _fits(caller: Caller, offer: Offer, version: OpenVersion) -> bool:
    """Whether the row filters of a chain can be run: of a grant that they do not fit every read is refused."""
    try:
        delegated_filters(caller.links, offer, version.manifest.schema)
    except NotGranted:
        return False
    return True


def masks_of(grant: Grant, columns: tuple[Column, ...]) -> dict[Path, Mask]:
    """The masks of a grant on what leaves of these columns, by path from the column's name on.

    Raises IntegrityError for one that this release does not know.
    """
    try:
        return {
            (column.name, *path): Mask.parse(text, column.name)
            for column in columns
            for path, text in grant.masked(column.id).items()
            if below(column.fields, path) != ()
        }
    except InvalidInput as error:
        raise IntegrityError("a grant has a mask that this release does not know") from error


def has_row_limit(grant: Grant) -> bool:
    """Whether a grant ends after so many rows or bytes, in all or on a day."""
    return any(name.startswith(("rows", "bytes")) for name in grant.limits)


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
    """The vendor's live grants with the version that each is about, and of it what was cut for that grant.

    ``held`` goes by the compartment's head that is held here, if there is one.
    """
    grants, rows = _grants(parts, caller.vendor)
    versions: dict[tuple[str, int | None], OpenVersion] = {}
    for grant in grants:
        if dataset_name is not None and grant.dataset_name != dataset_name:
            continue
        if any(link.dataset not in {None, grant.dataset_name} for link in caller.links):
            continue
        row = rows.get(grant.dataset)
        if row is None:
            raise IntegrityError("the catalog lacks the compartment of a live grant")
        place = (row.id, grant.pinned)
        if place not in versions:
            try:
                versions[place] = _version(parts, row, grant.pinned, held=held)
            except NotFound:
                if grant.pinned is None:
                    raise
                continue  # the lab has taken the version away since
        version = _cut_for(grant, versions[place])
        if version.manifest.dataset != grant.dataset:
            raise IntegrityError("a compartment holds another dataset than the catalog says")
        present = {column.id: column for column in version.manifest.columns}
        handed = tuple(Handed(link.columns, link.issued) for link in caller.links)
        filtered = any(link.where is not None for link in caller.links)
        number, exists = version.manifest.version, fields_of(version)
        yield Offer(grant, row.id, number, present, handed, filtered, exists), version


def fields_of(version: OpenVersion) -> Callable[[Column, Path], bool]:
    """Whether a column has a field at a path."""
    schema = version.manifest.schema
    return lambda column, path: not path or has_field(schema.field(column.name), path)


def _cut_for(grant: Grant, version: OpenVersion) -> OpenVersion:
    """A version with the columns that a grant is about alone, where some are there in part: then a column may be there
    more than once, for each grant with the fields that it names.
    """
    if all(column.fields is None for column in version.manifest.columns):
        return version
    return replace(version, manifest=version.manifest.narrowed({cut.group for cut in grant.cuts}))


def delegated_filters(links: Sequence[Link], offer: Offer, schema: pa.Schema) -> list[BoundFilter]:
    """The row filters of a chain, each over what its signer could read; raises NotGranted where one does not fit.

    A signer may filter by a column that it does not hand on, as the lab may, and by none that it does not have.
    """
    found = []
    for number, link in enumerate(links):
        if link.where is None:
            continue
        try:
            condition, signers = parse(link.where, "where"), replace(offer, handed=offer.handed[:number])
            if not signers.may_search(condition):
                raise NotGranted("a delegation filters by a column that its signer does not have")
            read = {path[0] for path in condition.paths()}
            if not all(column.was_named(link.issued) for column in signers.columns if column.name in read):
                raise NotGranted("a delegation filters by a name that another column has taken since")
            found.append(bind(condition, leaving_schema(schema, signers.columns, {}), "where"))
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


def _version(parts: Parts, row: CompartmentRow, number: int | None, *, held: bool) -> OpenVersion:
    """A version of a compartment, by default the newest, opened under the manifest key that its head names."""
    head = parts.heads.compartment_held(row) if held else None
    if head is None:
        head = parts.heads.compartment(row)
    if head is None or MANIFEST_GROUP not in head.live_groups:
        raise NotFound("there is no version")

    def read() -> OpenVersion:
        return open_version(parts, None, row, number)

    found: OpenVersion = parts.lately.versions.get((row.id, head.digest, number), read)
    return found


def live_grant(parts: Parts, vendor: str, grant: str) -> Grant | None:
    """A grant that the vendor's head lists, by its id."""
    return next((each for each in _grants(parts, vendor)[0] if each.id == grant), None)


def live_version(parts: Parts, vendor: str, dataset: str, number: int) -> OpenVersion:
    """A version of a vendor's compartment by its number, as it is now; raises NotFound where there is none any more."""
    row = _grants(parts, vendor)[1].get(dataset)
    if row is None:
        raise NotFound("there is no compartment")
    return _version(parts, row, number, held=False)


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
    schema = version.manifest.schema
    filters = [*grants_filter(permit.grant, version), *delegated_filters(caller.links, offer, schema)]
    if permit.where is not None:
        # Over what the caller may see: no sentence says that there is a field which only the grant's filter reads.
        filters.append(bind(permit.where, leaving_schema(schema, offer.columns, {}), "where"))
    return Permitted(permit, version, tuple(filters))


def grants_filter(grant: Grant, version: OpenVersion) -> list[BoundFilter]:
    """The grant's own row filter in the version's names, if it has one; its tree names columns by id."""
    if grant.where is None:
        return []
    names = {column.id: column.name for column in version.manifest.columns}
    condition = Filter.from_json(dict(grant.where))
    if not condition.columns() <= names.keys():
        raise NotGranted("a column that the grant's row filter reads is gone")
    return [bind(condition.rename(names), version.manifest.schema, "where")]
