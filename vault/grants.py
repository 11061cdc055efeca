"""Making grants: signed permission, pending until the vendor's compartment holds what it names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from vault.audit import Kind
from vault.catalog import HeadRow, SealedValue, Transaction
from vault.encoding import LONGEST, new_id, timestamp
from vault.errors import Conflict, Frozen, IntegrityError, InvalidInput, NotFound, Refused
from vault.fields import Path, below, covers, path_text, union
from vault.filters import Filter, bind, parse
from vault.limits import check_limits
from vault.masks import Mask, is_keyed
from vault.model import MASK_GROUP, Column, KeyScope, picked, placed
from vault.projection import has_field
from vault.trust import Grant, GrantedColumn, Label, Role, Root, Signed
from vault.workings.filling import fill_compartment, owners_version
from vault.workings.names import Dataset, Holder, dataset_named, holder_named
from vault.workings.parts import OwnerParts, holder_sealer, key_row
from vault.workings.permissions import next_vendor_head, open_grant
from vault.workings.reading import masked_field
from vault.workings.steps import present_vendor, refuse_gone
from vault.workings.versions import OpenVersion

__all__ = ["Terms", "grant", "resume_grant"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a grant says beside columns and rows.

    ``starts`` is when it begins, at once if None; ``expires`` how long it lasts from then. ``masks`` are by column
    name, in the forms of `vault.masks`; ``limits`` by the names of `vault.limits`. ``delivery`` is ``stream`` or
    ``lease``, which lets the vendor's client have chunk keys and decrypt by itself. ``version`` is the one version that
    the grant is about, None the newest at any time.
    """

    expires: timedelta | None = None
    starts: datetime | None = None
    purpose: str | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    delivery: str = "stream"
    version: int | None = None


def grant(
    parts: OwnerParts,
    vendor_name: str,
    dataset_name: str,
    columns: Sequence[str],
    *,
    where: str | None = None,
    terms: Terms = Terms(),
) -> Grant:
    """Grant a vendor columns (and the rows that ``where`` keeps) of a dataset's newest and later versions, or of one.

    A column is a name or, of a nested one, a path to a field such as ``meta.source``; a column of that very name comes
    first. The grant is pending while the vendor's compartment is filled, and live once the vendor's head lists it. On a
    protected dataset it stays pending until it is approved (`vault.approvals`).
    Raises InvalidInput, NotFound, Frozen, Conflict and what reading and writing raise.
    """
    vendor = present_vendor(parts, vendor_name)
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        dataset = dataset_named(transaction, sealer, dataset_name)
        if parts.heads.vendor_in(transaction, vendor.id).frozen:
            raise Frozen(f"the vendor '{vendor_name}' is frozen; thaw it before granting anything")
    version = owners_version(parts, dataset, terms.version)
    statement = _statement(parts, vendor, dataset, version, columns, where, terms)
    if is_keyed(statement.masks):
        _ensure_mask_key(parts, vendor)
    signed = parts.signers.authority().sign(Label.GRANT, statement.payload())
    own = holder_sealer(parts, parts.keyring, vendor.id)
    encoded = signed.encode()
    with parts.catalog.write() as transaction:
        parts.root.refuse_outdated(transaction, signed, Role.AUTHORITY)
        transaction.add_grant(
            statement.id,
            vendor.id,
            dataset.id,
            SealedValue(sealer, statement.id, encoded),
            SealedValue(own, statement.id, encoded),
            timestamp(statement.issued),
        )
        if missing := parts.root.seen_by(transaction).missing(signed, dataset.id):
            # Without the digest: a grant that is live is known to the log by the entry that made it so alone.
            parts.journal.record_in(transaction, Kind.GRANT_WAITS, **_told(statement), missing=missing)
    if not parts.root.missing(signed, dataset.id):
        _settle(parts, vendor, dataset, statement, signed)
    return statement


def resume_grant(parts: OwnerParts, grant_id: str) -> Grant:
    """Finish a grant that was left pending; a live one is returned as it is.

    Raises NotFound, Conflict, Frozen, and Refused while it lacks signatures.
    """
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        rows = transaction.grants(grant=grant_id)
        if not rows:
            raise NotFound(f"there is no grant {grant_id[:80]}")
        statement, signed = open_grant(parts.root, rows[0], sealer, own=False)
        head = parts.heads.vendor_in(transaction, statement.vendor)
        if grant_id in head.grants:
            return statement
        if rows[0].settled is not None:
            raise Conflict("the grant was revoked; make a new one")
        vendor = holder_named(transaction, sealer, statement.vendor_name)
        refuse_gone(vendor)
        dataset = dataset_named(transaction, sealer, statement.dataset_name)
    if head.frozen:
        raise Frozen(f"the vendor '{vendor.name}' is frozen; thaw it before granting anything")
    _refuse_waiting(parts.root.refresh(), statement, signed)
    _settle(parts, vendor, dataset, statement, signed)
    return statement


def _statement(
    parts: OwnerParts,
    vendor: Holder,
    dataset: Dataset,
    version: OpenVersion,
    columns: Sequence[str],
    where: str | None,
    terms: Terms,
) -> Grant:
    granted = _granted_columns(version, columns)
    condition = parse(where) if where is not None else None
    in_part = any(column.fields is not None for column in granted)
    _check_delivery(terms, in_part=in_part, filtered=condition is not None)
    filter_columns: tuple[GrantedColumn, ...] = ()
    if condition is not None:
        bind(condition, version.manifest.schema)
        named = [column for column in version.manifest.columns if column.name in condition.columns()]
        filter_columns = tuple(_filter_column(version, column, condition, granted) for column in named)
        condition_by_id = condition.rename({column.name: column.id for column in named})
    now = parts.clock()
    starts, ends = _validity(now, terms)
    return Grant(
        id=new_id(),
        vault=parts.vault,
        vendor=vendor.id,
        vendor_name=vendor.name,
        dataset=dataset.id,
        dataset_name=dataset.name,
        columns=granted,
        where=condition_by_id.to_json() if condition is not None else None,
        where_text=condition.text() if condition is not None else None,
        filter_columns=filter_columns,
        versions="latest" if terms.version is None else str(terms.version),
        delivery=terms.delivery,
        purpose=terms.purpose,
        issued=now,
        expires=ends,
        starts=starts,
        masks=_masks(version, granted, terms.masks),
        limits=check_limits(terms.limits),
    )


def _check_delivery(terms: Terms, *, in_part: bool, filtered: bool) -> None:
    """A key opens whole columns of whole shards: nothing of them can be held back from who has it."""
    if terms.delivery not in {"stream", "lease"}:
        raise InvalidInput("--delivery: use stream or lease")
    if terms.delivery == "lease" and in_part:
        raise InvalidInput("--delivery lease: a column is granted in part; deliver it as a stream")
    if terms.delivery == "lease" and (filtered or terms.masks):
        raise InvalidInput("--delivery lease: a row filter or a mask holds something back; deliver it as a stream")


def _validity(now: datetime, terms: Terms) -> tuple[datetime | None, datetime | None]:
    """From when and until when a grant counts; its life begins with it."""
    if terms.expires is not None and not timedelta(0) < terms.expires <= LONGEST:
        raise InvalidInput("--expires: give a time in the future, and not a hundred years ahead")
    if terms.starts is not None and not now < terms.starts <= now + LONGEST:
        raise InvalidInput("--from: give a time in the future, and not a hundred years ahead")
    begin = terms.starts or now
    return terms.starts, begin + terms.expires if terms.expires is not None else None


def _masks(version: OpenVersion, granted: tuple[GrantedColumn, ...], masks: Mapping[str, str]) -> dict[str, str]:
    """The written forms of the masks by their place; raises InvalidInput where one does not fit what it is on."""
    fields = {column.name: column.fields for column in granted}
    known = {column.name: column for column in version.manifest.columns if column.name in fields}
    found: dict[Path, str] = {}
    for name, text in masks.items():
        place = f"--mask {name}"
        column, path = placed(name, known)
        if column is None or not covers(fields[column.name], path) or not _has(version, column, path):
            raise InvalidInput(f"{place}: it is not among those that are granted")
        mask, whole = Mask.parse(text, place), (column.id, *path)
        if any(whole[: len(other)] == other or other[: len(whole)] == whole for other in found):
            raise InvalidInput(f"{place}: there is a mask on it, or on a part of it, already")
        masked_field(version.manifest.schema.field(column.name), (column.name, *path), mask, place)
        found[whole] = mask.text
    return {".".join((path[0], *([path_text(path[1:])] if path[1:] else ()))): text for path, text in found.items()}


def _has(version: OpenVersion, column: Column, path: Path) -> bool:
    return has_field(version.manifest.schema.field(column.name), path)


def _ensure_mask_key(parts: OwnerParts, vendor: Holder) -> None:
    """Make the vendor's mask key, where this is its first grant that hashes: all its grants hash alike."""
    with parts.catalog.read() as transaction:
        if any(row.group == MASK_GROUP for row in transaction.keys(vendor.id)):
            return
    wrapped, _ = parts.keyring.create(KeyScope(parts.vault, vendor.id, MASK_GROUP, 1), vendor.kms_key)
    with parts.catalog.write() as transaction:
        if not any(row.group == MASK_GROUP for row in transaction.keys(vendor.id)):
            transaction.add_keys([key_row(wrapped, timestamp(parts.clock()))])


def _granted(column: Column) -> GrantedColumn:
    return GrantedColumn(column.id, column.name, column.group, column.fields)


def _granted_columns(version: OpenVersion, names: Sequence[str]) -> tuple[GrantedColumn, ...]:
    if not names:
        raise InvalidInput("--columns: name at least one column")
    columns, exists = version.manifest.columns, partial(_has, version)
    known = {column.name: column for column in columns}
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidInput(f"--columns: {name!r} stands twice")
        column, path = placed(name, known)
        if column is None:
            raise InvalidInput(f"--columns: the dataset has no column {name!r}")
        if not exists(column, path):
            raise InvalidInput(f"--columns: the column {column.name!r} has no field {path_text(path)!r}")
    found = tuple(_granted(column) for column in picked(names, columns, exists) or ())
    held = {granted.id for granted in found}
    for granted in found:
        for column in columns:
            if column.group == granted.group and column.id not in held:
                raise InvalidInput(
                    f"--columns: {granted.name!r} shares its key with {column.name!r}; a grant names whole "
                    "column groups"
                )
    return found


def _filter_column(
    version: OpenVersion, column: Column, condition: Filter, granted: tuple[GrantedColumn, ...]
) -> GrantedColumn:
    """A column that a filter reads, in part where it reads only fields of it and the column has its key for itself."""
    paths = {path[1:] for path in condition.paths() if path[0] == column.name}
    own = {each.id: each.fields for each in granted}
    fields = own.get(column.id)
    if fields is not None:
        # Whether a struct is null is seen in any field of it, at any depth: those that are granted do.
        paths = {each for path in paths for each in below(fields, path) or (path,)}
    alone = sum(each.group == column.group for each in version.manifest.columns) == 1
    in_part = () not in paths and (alone or column.id in own)
    return _granted(replace(column, fields=union(paths) if in_part else None))


def _told(statement: Grant) -> dict[str, object]:
    """What the log says of a grant."""
    return {
        "vendor": statement.vendor_name,
        "vendor_id": statement.vendor,
        "grant": statement.id,
        "dataset": statement.dataset_name,
        "dataset_id": statement.dataset,
        "columns": statement.column_names,
        "column_ids": [column.id for column in statement.columns],
        "cuts": {column.id: column.fields for column in statement.columns},
        "filter_column_ids": [column.id for column in statement.filter_columns],
        "where": statement.where_text,
        "purpose": statement.purpose,
        "expires": timestamp(statement.expires) if statement.expires else None,
        "starts": timestamp(statement.starts) if statement.starts else None,
        "masks": statement.shown_masks,
        "versions": statement.versions,
        "pinned": statement.pinned,
        "limits": dict(statement.limits),
        "delivery": statement.delivery,
    }


def _refuse_waiting(root: Root, statement: Grant, signed: Signed) -> None:
    if missing := root.missing(signed, statement.dataset):
        raise Refused(f"the grant {statement.id} waits for {missing} more signature{'s' if missing > 1 else ''}")


def _settle(parts: OwnerParts, vendor: Holder, dataset: Dataset, statement: Grant, signed: Signed) -> None:
    sealer = parts.sealer()

    def take_effect(transaction: Transaction) -> HeadRow:
        root = parts.root.seen_by(transaction)
        # What is stored at this moment is what brokers will judge; the dataset may have been protected meanwhile.
        rows = transaction.grants(grant=statement.id)
        stored = [open_grant(root, row, sealer, own=False)[1] for row in rows]
        if [each.digest for each in stored] != [signed.digest]:
            raise IntegrityError("the catalog lost or changed the grant while it was made")
        if rows[0].settled is not None:
            raise Refused(f"the grant {statement.id} was revoked in the meantime")
        _refuse_waiting(root, statement, stored[0])
        present = parts.heads.vendor_in(transaction, vendor.id)
        if present.frozen:
            raise Frozen(f"the vendor '{vendor.name}' was frozen in the meantime")
        transaction.settle_grant(statement.id, timestamp(parts.clock()))
        head = next_vendor_head(
            parts,
            parts.signers.authority(),
            present,
            vendor.id,
            by_authority=True,
            grants={**present.grants, statement.id: signed.digest},
        )
        transaction.add_head(head)
        parts.journal.record_in(
            transaction,
            Kind.GRANTED,
            **_told(statement),
            statement=signed.digest,
            signers=sorted(root.signers(stored[0], Role.AUTHORITY) | root.signers(stored[0], Role.APPROVER)),
        )
        return head

    fill_compartment(parts, vendor, dataset, statement, take_effect)
    parts.heads.forget(vendor.id)
    parts.journal.checkpoint()
