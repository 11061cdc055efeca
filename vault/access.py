"""The access path: authenticate, decide, record, and only then open keys and chunks.

The order of the steps is the security property. A manifest and names are opened with the vendor's
manifest and metadata keys in order to decide; no column's key is unwrapped, and no chunk fetched, before the
entry that says so is durable. Before each shard leaves, the vendor's head is looked at again.
"""

import hashlib
import hmac
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa

from vault.audit import Kind
from vault.catalog import CompartmentRow, CredentialRow, FieldSealer
from vault.errors import (
    Conflict,
    IntegrityError,
    InvalidInput,
    NotFound,
    NotGranted,
    Refused,
    Unauthenticated,
    VaultError,
)
from vault.filters import BoundFilter, Filter, bind, parse
from vault.keyring import ScopedKeyring
from vault.model import MANIFEST_GROUP, Column, KeyScope
from vault.policy import Offer, Permit, Request, decide, refuse_frozen, still_allowed
from vault.trust import Credential, Grant, Label, Role, Signed
from vault.workings.names import own_holder_name
from vault.workings.parts import Parts, holder_sealer, metadata_key, trusted_now, wrapped_key
from vault.workings.permissions import live_for_vendor
from vault.workings.reading import ReadPlan, read_batches
from vault.workings.versions import OpenVersion, open_version
from vault.workings.watch import Watch

__all__ = [
    "Caller",
    "Delivery",
    "Offering",
    "authenticate",
    "healthy",
    "offerings",
    "open_delivery",
    "settle",
    "vendor_ids",
    "watch",
]

_LOG = logging.getLogger("dsvault.access")
_DENIED = "the credential is not valid"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated vendor: its id, its credential, and where it called from."""

    vendor: str
    credential: str
    address: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Offering:
    """What one grant offers a vendor: never its filter, never a column that is not granted."""

    grant: Grant
    version: int
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Delivery:
    """A read that was allowed and recorded: its schema, and its batches, read once."""

    permit: Permit
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def authenticate(
    parts: Parts,
    credential_id: str,
    secret: bytes,
    address: str,
    vendors: frozenset[str] | None = None,
) -> Caller:
    """Check a credential against its signed record and the vendor's head.

    ``vendors`` are the ids that this broker serves (None: all whose keys it holds). Raises Unauthenticated,
    with one sentence whatever the reason, and logs the attempt when it names a credential that exists.
    """
    with parts.catalog.read() as transaction:
        row = transaction.credential(credential_id)
    if row is None:
        raise Unauthenticated(_DENIED)
    credential = _open_credential(parts, row)
    reason = _credential_fault(parts, credential, secret, vendors)
    if reason is not None:
        parts.journal.record(Kind.REFUSED, vendor_id=row.vendor, credential=row.id, address=address, reason=reason)
        raise Unauthenticated(_DENIED)
    return Caller(row.vendor, row.id, address, credential[1].expires)


def _open_credential(parts: Parts, row: CredentialRow) -> tuple[Signed, Credential]:
    signed = Signed.decode(row.statement, Label.CREDENTIAL)
    parts.root.verify(signed, Role.AUTHORITY)
    credential = Credential.parse(signed)
    if (credential.vault, credential.id, credential.vendor) != (parts.vault, row.id, row.vendor):
        raise IntegrityError("a credential in the catalog is about something else than its place says")
    return signed, credential


def _credential_fault(
    parts: Parts, opened: tuple[Signed, Credential], secret: bytes, vendors: frozenset[str] | None
) -> str | None:
    """Why a credential does not do, for the log only; None where it does."""
    signed, credential = opened
    matches = hmac.compare_digest(hashlib.sha256(secret).hexdigest(), credential.secret_sha256)
    listed = parts.heads.vendor(credential.vendor).credentials.get(credential.id) == signed.digest
    if not matches:
        return "wrong secret"
    if vendors is not None and credential.vendor not in vendors:
        return "vendor not served here"
    if not listed:
        return "credential ended"
    if trusted_now(parts) >= credential.expires:
        return "credential expired"
    return None


def healthy(parts: Parts) -> None:
    """Raise Unavailable or IntegrityError unless the catalog can be read and is this vault's."""
    parts.catalog.check(parts.vault)


def vendor_ids(parts: Parts, names: frozenset[str]) -> frozenset[str]:
    """The ids of vendors by name, through the metadata keys that this process can open.

    Raises NotFound when a name is nobody's whose keys are held here.
    """
    with parts.catalog.read() as transaction:
        rows = transaction.holders()
    found = {}
    for row in rows:
        try:
            sealer = holder_sealer(parts, parts.keyring, row.id)
            found[own_holder_name(row, sealer)] = row.id
        except VaultError:
            continue  # a holder whose keys this process was not given
    for name in sorted(names - found.keys()):
        raise NotFound(f"--vendors: no vendor named '{name}' can be opened with the keys held here")
    return frozenset(found[name] for name in names)


def offerings(parts: Parts, caller: Caller) -> list[Offering]:
    """What the caller's live grants offer at present; raises Frozen."""
    refuse_frozen(parts.heads.vendor(caller.vendor))
    now = trusted_now(parts)
    found = []
    for offer, version in _offers(parts, caller):
        if offer.grant.live_at(now) and offer.whole and offer.columns:
            found.append(Offering(offer.grant, offer.version, _schema(version, offer.columns)))
    return found


def _schema(version: OpenVersion, columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([version.manifest.schema.field(column.name) for column in columns])


def _offers(parts: Parts, caller: Caller, dataset_name: str | None = None) -> Iterator[tuple[Offer, OpenVersion]]:
    """The vendor's live grants with the newest version of what they are about."""
    head = parts.heads.vendor(caller.vendor)
    sealer = _own_sealer(parts, caller.vendor)
    with parts.catalog.read() as transaction:
        grants = live_for_vendor(parts.root, transaction.grants(vendor=caller.vendor), head, sealer, own=True)
        rows = {row.dataset: row for row in transaction.compartments(holder=caller.vendor)}
    versions: dict[str, OpenVersion] = {}
    for grant in grants:
        if dataset_name is not None and grant.dataset_name != dataset_name:
            continue
        row = rows.get(grant.dataset)
        if row is None:
            raise IntegrityError("the catalog lacks the compartment of a live grant")
        if row.id not in versions:
            versions[row.id] = _newest(parts, row)
        version = versions[row.id]
        if version.manifest.dataset != grant.dataset:
            raise IntegrityError("a compartment holds another dataset than the catalog says")
        present = {column.id: column for column in version.manifest.columns}
        yield Offer(grant, row.id, version.manifest.version, present), version


def _own_sealer(parts: Parts, vendor: str) -> FieldSealer:
    """The sealer of the vendor's own catalog fields, under its metadata key and no other."""
    with parts.catalog.read() as transaction:
        scope = wrapped_key(parts.vault, metadata_key(transaction, vendor)).scope
    return holder_sealer(parts, ScopedKeyring(parts.keyring, (scope,)), vendor)


def _newest(parts: Parts, row: CompartmentRow) -> OpenVersion:
    """The newest version of a compartment, opened under the manifest key that its head names."""
    with parts.catalog.read() as transaction:
        head = parts.heads.compartment_in(transaction, row)
    if head is None or MANIFEST_GROUP not in head.live_groups:
        raise NotFound("there is no version")
    scope = KeyScope(parts.vault, row.id, MANIFEST_GROUP, head.epochs[MANIFEST_GROUP][0])
    return open_version(parts, ScopedKeyring(parts.keyring, (scope,)), row)


def open_delivery(parts: Parts, caller: Caller, request: Request, where: str | None = None) -> Delivery:
    """Decide on a read and, if it is allowed, begin it; ``where`` is the caller's own predicate as it was sent.

    Raises Frozen, Conflict, NotGranted or InvalidInput, each logged; AuditError when the log cannot be written:
    then nothing is served.
    """
    try:
        if where is not None:
            request = replace(request, where=parse(where, "where"))
        permit, version, filters = _permitted(parts, caller, request)
    except (Refused, Conflict, InvalidInput) as error:
        parts.journal.record(
            Kind.REFUSED,
            vendor_id=caller.vendor,
            credential=caller.credential,
            address=caller.address,
            dataset=request.dataset[:80],
            columns=[name[:80] for name in request.columns or ()][:100],
            reason=type(error).__name__,
        )
        raise
    plan = ReadPlan(version, permit.columns, filters, permit.limit)
    read = parts.journal.record(
        Kind.READ_BEGUN,
        **_who(caller, permit),
        columns=[column.name for column in permit.columns],
        column_ids=[column.id for column in permit.columns],
        groups=sorted(plan.groups),
        shards=plan.shards,
        where=permit.where.text() if permit.where else None,
        limit=permit.limit,
    )
    scopes = (version.keys[group].scope for group in plan.groups)
    # By this process's own clock: expiry is judged at every batch, and here it matters whether anybody ended it.
    keys = ScopedKeyring(
        parts.keyring, scopes, lambda: still_allowed(permit, parts.heads.vendor(caller.vendor), parts.clock())
    )
    return Delivery(permit, plan.schema, _deliver(parts, caller, permit, keys, plan, read))


def _mark(parts: Parts) -> None:
    """Leave a checkpoint in the store now and then; a store that cannot take one does not undo what was read."""
    try:
        parts.journal.checkpoint_if_due()
    except VaultError as error:
        _LOG.warning("no checkpoint of the log could be written: %s", type(error).__name__)


def watch(parts: Parts) -> Watch:
    """What drops a vendor's keys from this process within a second of a freeze, revocation, rekey or rewrap."""
    return Watch(parts)


def settle(parts: Parts) -> None:
    """Leave a last checkpoint before the broker stops."""
    parts.journal.checkpoint()


def _who(caller: Caller, permit: Permit) -> dict[str, object]:
    return {
        "vendor_id": caller.vendor,
        "vendor": permit.grant.vendor_name,
        "credential": caller.credential,
        "address": caller.address,
        "grant": permit.grant.id,
        "purpose": permit.grant.purpose,
        "dataset": permit.grant.dataset_name,
        "dataset_id": permit.grant.dataset,
        "version": permit.version,
    }


def _permitted(parts: Parts, caller: Caller, request: Request) -> tuple[Permit, OpenVersion, tuple[BoundFilter, ...]]:
    refuse_frozen(parts.heads.vendor(caller.vendor))
    found = list(_offers(parts, caller, request.dataset))
    head = parts.heads.vendor(caller.vendor)
    permit = decide(request, caller.credential, head, [offer for offer, _ in found], trusted_now(parts))
    permit = replace(permit, ends=min(permit.ends or caller.expires, caller.expires))
    version = next(version for offer, version in found if offer.grant.id == permit.grant.id)
    conditions = (_grants_filter(permit.grant, version), permit.where)
    filters = tuple(bind(each, version.manifest.schema, "where") for each in conditions if each is not None)
    return permit, version, filters


def _grants_filter(grant: Grant, version: OpenVersion) -> Filter | None:
    """The grant's own row filter in the version's names; its tree names columns by id."""
    if grant.where is None:
        return None
    names = {column.id: column.name for column in version.manifest.columns}
    condition = Filter.from_json(dict(grant.where))
    if not condition.columns() <= names.keys():
        raise NotGranted("a column that the grant's row filter reads is gone")
    return condition.rename(names)


def _deliver(
    parts: Parts, caller: Caller, permit: Permit, keys: ScopedKeyring, plan: ReadPlan, read: int
) -> Iterator[pa.RecordBatch]:
    rows, outcome = 0, "broken off"

    def check() -> None:
        still_allowed(permit, parts.heads.vendor(caller.vendor), trusted_now(parts))

    try:
        for batch in read_batches(parts, keys, plan):
            check()
            rows += batch.num_rows
            yield batch
        check()
        outcome = "complete"
    except VaultError as error:
        outcome = type(error).__name__
        raise
    finally:
        parts.journal.record(Kind.READ_ENDED, **_who(caller, permit), read=read, rows=rows, outcome=outcome)
        _mark(parts)
