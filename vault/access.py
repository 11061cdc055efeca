"""The access path: authenticate, decide, record, and only then open keys and chunks.

The order of the steps is the security property. A manifest and names are opened with the vendor's
manifest and metadata keys in order to decide; no column's key is unwrapped, and no chunk fetched, before the
entry that says so is durable. Before each shard leaves, the vendor's head is looked at again.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa

from vault.audit import Kind
from vault.catalog import CompartmentRow, CredentialRow, FieldSealer
from vault.cursors import SALT_BYTES, Cursor, open_cursor, salt_of, seal_cursor
from vault.delegation import Link, check_chain
from vault.derivation import cursor_key
from vault.encoding import canonical, timestamp
from vault.errors import (
    AuditError,
    Conflict,
    IntegrityError,
    InvalidInput,
    LimitReached,
    NotFound,
    NotGranted,
    Refused,
    Unauthenticated,
    VaultError,
)
from vault.federation import Issuers, Provider, check_token, has_claim, token_claims
from vault.filters import BoundFilter, Filter, bind, parse
from vault.keyring import KeyCounts, ScopedKeyring, WrappedKey
from vault.limits import Usage, left, refuse_used_up
from vault.masks import Mask
from vault.model import FORMAT, MANIFEST_GROUP, MASK_GROUP, Column, KeyScope
from vault.networks import within
from vault.policy import Offer, Permit, Request, decide, refuse_frozen, still_allowed
from vault.proof import check_proof
from vault.trust import Credential, Grant, Label, Role, Signed
from vault.wire import Token
from vault.workings.names import own_holder_name
from vault.workings.parts import Parts, holder_sealer, metadata_key, trusted_now, wrapped_key
from vault.workings.permissions import live_for_vendor
from vault.workings.reading import Placed, Position, ReadPlan, masked_schema, read_batches
from vault.workings.versions import OpenVersion, open_version
from vault.workings.watch import Watch

__all__ = [
    "Caller",
    "Delivery",
    "KeyCounts",
    "Offering",
    "Sent",
    "authenticate",
    "authenticate_federated",
    "healthy",
    "key_counts",
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
    """An authenticated vendor: its id, its credential, where it called from, and to whom its access was handed on.

    ``subject`` is whom the vendor's own identity provider speaks of, where one does.
    """

    vendor: str
    credential: str
    address: str
    expires: datetime
    links: tuple[Link, ...] = ()
    subject: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """How a request came: its method, the addresses of the resource that it may have been sent to, and its proof.

    ``delegations`` are the links from the credential's key to the one that proves the request.
    """

    method: str
    uris: tuple[str, ...]
    proof: str | None
    delegations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Sent({self.method})"


@dataclass(frozen=True, slots=True)
class Offering:
    """What one grant offers a vendor: never its filter, never a column that is not granted."""

    grant: Grant
    version: int
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Delivery:
    """A read that was allowed and recorded: its schema, and its batches, read once.

    ``cursor`` gives the sealed place behind the batch that was taken last: whoever has the read may go on from there.
    """

    permit: Permit
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    cursor: Callable[[], bytes]


def authenticate(
    parts: Parts,
    token: Token,
    address: str,
    *,
    sent: Sent | None = None,
    vendors: frozenset[str] | None = None,
) -> Caller:
    """Check a credential against its signed record and the vendor's head, and that its key signed this very request.

    ``sent`` is how the request came, which a credential that is bound to a key needs; ``vendors`` are the ids that this
    broker serves (None: all whose keys it holds). Raises Unauthenticated, with one sentence whatever the reason, and
    logs the attempt when it names a credential that exists.
    """
    with parts.catalog.read() as transaction:
        row = transaction.credential(token.credential)
    if row is None:
        raise Unauthenticated(_DENIED)
    opened = _open_credential(parts, row)
    try:
        _check_credential(parts, opened, token, address, vendors)
        links = _check_possession(parts, opened[1], token, sent)
    except Unauthenticated as error:
        parts.journal.record(Kind.REFUSED, vendor_id=row.vendor, credential=row.id, address=address, reason=str(error))
        raise Unauthenticated(_DENIED) from None
    return Caller(row.vendor, row.id, address, min([opened[1].expires, *(link.expires for link in links)]), links)


def authenticate_federated(
    parts: Parts, issuers: Issuers, token: str, address: str, *, vendors: frozenset[str] | None = None
) -> Caller:
    """Check a token of a vendor's own identity provider against what the authority signed about that provider.

    Raises Unauthenticated as `authenticate` does, logged where the token speaks of a provider that is known, and
    Unavailable where the provider's keys cannot be had. The credential, and not the token, says for how long a read
    that has begun may go on.
    """
    rows = _speaking_of(parts, token_claims(token))
    standing: list[tuple[CredentialRow, Credential]] = []
    reason = "no credential fits the token"
    for row in rows:
        opened = _open_credential(parts, row)
        try:
            _check_standing(parts, opened, address, vendors)
            standing.append((row, opened[1]))
        except Unauthenticated as error:
            reason = str(error)
    try:
        if len(standing) != 1:
            raise Unauthenticated(reason if not standing else "more than one credential fits the token")
        ((row, credential),) = standing
        checked = check_token(token, Provider(**(credential.provider or {})), issuers, trusted_now(parts))
    except Unauthenticated as error:
        for row in rows[:1]:
            parts.journal.record(
                Kind.REFUSED, vendor_id=row.vendor, credential=row.id, address=address, reason=str(error)
            )
        raise Unauthenticated(_DENIED) from None
    return Caller(row.vendor, row.id, address, credential.expires, (), str(checked.get("sub", ""))[:200])


def _speaking_of(parts: Parts, claims: Mapping[str, Any]) -> list[CredentialRow]:
    """The credentials whose provider a token claims to be of; nothing of it is believed yet."""
    with parts.catalog.read() as transaction:
        rows = transaction.credentials()
    found = []
    for row in rows:
        try:
            stated = Credential.parse(Signed.decode(row.statement, Label.CREDENTIAL)).provider
            provider = Provider(**stated) if stated is not None else None
        except (IntegrityError, TypeError):
            continue
        if provider is None or claims.get("iss") != provider.issuer:
            continue
        if all(has_claim(claims, name, value) for name, value in provider.claims.items()):
            found.append(row)
    return found


def _open_credential(parts: Parts, row: CredentialRow) -> tuple[Signed, Credential]:
    signed = Signed.decode(row.statement, Label.CREDENTIAL)
    parts.root.verify(signed, Role.AUTHORITY)
    credential = Credential.parse(signed)
    if (credential.vault, credential.id, credential.vendor) != (parts.vault, row.id, row.vendor):
        raise IntegrityError("a credential in the catalog is about something else than its place says")
    return signed, credential


def _check_credential(
    parts: Parts, opened: tuple[Signed, Credential], token: Token, address: str, vendors: frozenset[str] | None
) -> None:
    """Raises Unauthenticated with why a credential does not do, for the log only."""
    _, credential = opened
    matches = hmac.compare_digest(hashlib.sha256(token.secret).hexdigest(), credential.secret_sha256)
    if not matches:
        raise Unauthenticated("wrong secret")
    _check_standing(parts, opened, address, vendors)


def _check_standing(
    parts: Parts, opened: tuple[Signed, Credential], address: str, vendors: frozenset[str] | None
) -> None:
    """Raises Unauthenticated unless a credential is live, and may be used here and from there."""
    signed, credential = opened
    listed = parts.heads.vendor(credential.vendor).credentials.get(credential.id) == signed.digest
    if not listed:
        # It may be younger than the head that is held here.
        listed = parts.heads.vendor(credential.vendor, max_age=-1).credentials.get(credential.id) == signed.digest
    if vendors is not None and credential.vendor not in vendors:
        raise Unauthenticated("vendor not served here")
    if not listed:
        raise Unauthenticated("credential ended")
    if trusted_now(parts) >= credential.expires:
        raise Unauthenticated("credential expired")
    if credential.networks and not within(address, credential.networks):
        raise Unauthenticated("address not allowed")


def _check_possession(parts: Parts, credential: Credential, token: Token, sent: Sent | None) -> tuple[Link, ...]:
    """Raises Unauthenticated unless the request carries what the credential's kind asks for, no more and no less.

    Returns the delegations that lead from the credential's key to the one that proves the request. A proof counts once:
    it is written down, durably and for every broker of the vault, before the request goes on.
    """
    if (credential.key is not None) != token.bound:
        raise Unauthenticated("presented as a credential of the other kind")
    if credential.key is None:
        if sent is not None and sent.delegations:
            raise Unauthenticated("a bearer credential cannot be delegated")
        return ()
    if sent is None or sent.proof is None:
        raise Unauthenticated("no proof of possession")
    now = trusted_now(parts)
    holder, links = check_chain(sent.delegations, credential=credential.id, thumbprint=credential.key, now=now)
    if not parts.heads.vendor(credential.vendor).ended.isdisjoint(link.id for link in links):
        raise Unauthenticated("a delegation was ended")
    proof = check_proof(sent.proof, thumbprint=holder, token=token.text, method=sent.method, uris=sent.uris, now=now)
    try:
        with parts.catalog.write() as transaction:
            fresh = transaction.use_proof(proof.digest, timestamp(proof.until), timestamp(now))
    except Conflict:
        fresh = False  # another broker has just taken it
    if not fresh:
        raise Unauthenticated("the proof was used before")
    return links


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
            schema = masked_schema(version.manifest.schema, offer.columns, _masks(offer.grant, offer.columns))
            found.append(Offering(offer.grant, offer.version, schema))
    return found


def _masks(grant: Grant, columns: tuple[Column, ...]) -> dict[str, Mask]:
    """The masks of a grant by column name; raises IntegrityError for one that this release does not know."""
    try:
        return {
            column.name: Mask.parse(grant.masks[column.id], column.name)
            for column in columns
            if column.id in grant.masks
        }
    except InvalidInput as error:
        raise IntegrityError("a grant has a mask that this release does not know") from error


def _mask_key(parts: Parts, vendor: str) -> WrappedKey:
    """The vendor's wrapped mask key; raises IntegrityError where the catalog lacks it."""
    with parts.catalog.read() as transaction:
        rows = [row for row in transaction.keys(vendor) if row.group == MASK_GROUP]
    if not rows:
        raise IntegrityError("the catalog lacks the mask key of a vendor whose grant needs it")
    return wrapped_key(parts.vault, rows[-1])


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
        if any(link.dataset not in {None, grant.dataset_name} for link in caller.links):
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
        yield Offer(grant, row.id, version.manifest.version, present, _left(caller)), version


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


def open_delivery(
    parts: Parts, caller: Caller, request: Request, where: str | None = None, cursor: bytes | None = None
) -> Delivery:
    """Decide on a read and, if it is allowed, begin it; ``where`` is the caller's own predicate as it was sent.

    ``cursor`` is from an earlier delivery of the very same: it goes on behind the batch that the cursor came with.
    Raises Frozen, Conflict, NotGranted or InvalidInput, each logged; AuditError when the log cannot be written: then
    nothing is served.
    """
    try:
        if where is not None:
            request = replace(request, where=parse(where, "where"))
        try:
            permit, version, filters = _permitted(parts, caller, request)
        except NotGranted:
            # The grant may be younger than the head that is held here; whatever is asked for, it is looked up again.
            parts.heads.vendor(caller.vendor, max_age=-1)
            permit, version, filters = _permitted(parts, caller, request)
        keys, plan = _planned(parts, caller, permit, version, filters)
        sealer = _Cursors(parts, permit, plan, cursor)
        plan = sealer.plan
        read = _begin(parts, caller, permit, plan)
    except (Refused, Conflict, InvalidInput) as error:
        parts.journal.record(
            Kind.REFUSED,
            vendor_id=caller.vendor,
            credential=caller.credential,
            delegates=_delegates(caller),
            subject=caller.subject,
            address=caller.address,
            dataset=request.dataset[:80],
            columns=[name[:80] for name in request.columns or ()][:100],
            reason=type(error).__name__,
        )
        raise
    return Delivery(permit, plan.schema, _deliver(parts, caller, permit, keys, sealer, read), sealer.seal)


class _Cursors:
    """The cursors of one delivery, and the plan that goes on from the one it was asked with."""

    def __init__(self, parts: Parts, permit: Permit, plan: ReadPlan, given: bytes | None) -> None:
        self._bound = canonical(
            "dsvault cursor",
            FORMAT[0],
            parts.vault,
            permit.vendor,
            permit.grant_digest,
            permit.version,
            plan.content,
            canonical(*(column.id for column in permit.columns)),
            permit.where.text() if permit.where is not None else b"\x00",
            str(permit.limit),
            canonical(*permit.delegations),
        )
        self.plan = plan
        self._salt = os.urandom(SALT_BYTES)
        self._key = _cursor_key(parts, permit.vendor, self._salt)
        self._sent, self._position = 0, Position(0, 0)
        if given is not None:
            before = open_cursor(_cursor_key(parts, permit.vendor, salt_of(given)), self._bound, given)
            self._sent, self._position = before.sent, Position(before.shard, before.row)
            left_over = permit.limit - before.sent if permit.limit is not None else None
            self.plan = replace(plan, start=self._position, limit=left_over)

    def advance(self, placed: Placed, rows: int) -> None:
        """A batch leaves, or the first rows of it."""
        self._position = Position(placed.position.shard, placed.position.row - placed.batch.num_rows + rows)
        self._sent += rows

    def seal(self) -> bytes:
        """The place behind what has left."""
        place = Cursor(self._position.shard, self._position.row, self._sent)
        return seal_cursor(self._key, self._salt, self._bound, place)


def _cursor_key(parts: Parts, vendor: str, salt: bytes) -> bytes:
    """The key of a stream's cursors, which every broker has that may read the vendor's names."""
    with parts.catalog.read() as transaction:
        key = wrapped_key(parts.vault, metadata_key(transaction, vendor))
    return cursor_key(ScopedKeyring(parts.keyring, (key.scope,)).open(key), salt)


def _planned(
    parts: Parts, caller: Caller, permit: Permit, version: OpenVersion, filters: tuple[BoundFilter, ...]
) -> tuple[ScopedKeyring, ReadPlan]:
    """What a permit reads, and the keyring that opens just that."""
    masks = _masks(permit.grant, permit.columns)
    mask_key = _mask_key(parts, caller.vendor) if any(mask.keyed for mask in masks.values()) else None
    # Keys are opened when the plan is run, which is after the entry is written: here only names are bound.
    keys: ScopedKeyring

    def open_mask_key() -> bytes:
        assert mask_key is not None
        return keys.open(mask_key)

    plan = ReadPlan(version, permit.columns, filters, permit.limit, masks, open_mask_key)
    scopes = {version.keys[group].scope for group in plan.groups} | (
        {mask_key.scope} if mask_key is not None else set()
    )
    # By this process's own clock: expiry is judged at every batch, and here it matters whether anybody ended it.
    keys = ScopedKeyring(
        parts.keyring, scopes, lambda: still_allowed(permit, parts.heads.vendor(caller.vendor), parts.clock())
    )
    return keys, plan


def _begin(parts: Parts, caller: Caller, permit: Permit, plan: ReadPlan) -> int:
    """Charge the request and write the entry that says so, both or neither; returns the entry's number.

    Raises LimitReached where the grant is used up, and AuditError.
    """
    fields = {
        **_who(caller, permit),
        "columns": [column.name for column in permit.columns],
        "column_ids": [column.id for column in permit.columns],
        "groups": sorted(plan.groups),
        "shards": plan.shards,
        "where": permit.where.text() if permit.where else None,
        "limit": permit.limit,
        "masks": {name: mask.text for name, mask in plan.masks.items()},
        "resumed": [plan.start.shard, plan.start.row] if plan.start is not None else None,
    }
    if not permit.grant.limits:
        return parts.journal.record(Kind.READ_BEGUN, **fields)
    day = _day(parts)
    try:
        with parts.catalog.write() as transaction:
            refuse_used_up(permit.grant.limits, Usage(*transaction.usage(permit.grant.id, day)))
            transaction.add_usage(permit.grant.id, day, {"requests": 1})
            return parts.journal.record_in(transaction, Kind.READ_BEGUN, **fields)
    except (LimitReached, AuditError):
        raise
    except VaultError as error:
        raise AuditError(f"the audit log could not be written ({error}), so nothing was done") from error


def _day(parts: Parts) -> str:
    """The day that limits are counted by, in UTC."""
    return trusted_now(parts).astimezone(UTC).date().isoformat()


def _charged(parts: Parts, permit: Permit, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The part of a batch that the grant's limits have room for, charged before it leaves."""
    limits, day = permit.grant.limits, _day(parts)
    with parts.catalog.write() as transaction:
        usage = Usage(*transaction.usage(permit.grant.id, day))
        rows, size = left(limits, usage, "rows"), left(limits, usage, "bytes")
        piece = batch if rows is None or rows >= batch.num_rows else batch.slice(0, rows)
        while size is not None and piece.num_rows and piece.nbytes > size:
            # Rows differ in size: what fits is found by shares of it, and one row is the least step.
            piece = piece.slice(0, min(piece.num_rows - 1, piece.num_rows * size // piece.nbytes))
        transaction.add_usage(permit.grant.id, day, {"rows": piece.num_rows, "bytes": piece.nbytes})
    return piece


def _mark(parts: Parts) -> None:
    """Leave a checkpoint in the store now and then; a store that cannot take one does not undo what was read."""
    try:
        parts.journal.checkpoint_if_due()
    except VaultError as error:
        _LOG.warning("no checkpoint of the log could be written: %s", type(error).__name__)


def watch(parts: Parts) -> Watch:
    """What drops a vendor's keys from this process within a second of a freeze, revocation, rekey or rewrap."""
    return Watch(parts)


def key_counts(parts: Parts) -> KeyCounts:
    """How often this process asked the KMS for data keys, and how often it did not have to."""
    return parts.keyring.counts


def settle(parts: Parts) -> None:
    """Leave a last checkpoint before the broker stops."""
    parts.journal.checkpoint()


def _delegates(caller: Caller) -> list[dict[str, str]]:
    """Through whose hands the access went, the one who asks last."""
    return [{"id": link.id, "to": link.to} for link in caller.links]


def _who(caller: Caller, permit: Permit) -> dict[str, object]:
    return {
        "vendor_id": caller.vendor,
        "vendor": permit.grant.vendor_name,
        "credential": caller.credential,
        "delegates": _delegates(caller),
        "subject": caller.subject,
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
    ends = min(permit.ends or caller.expires, caller.expires)
    permit = replace(permit, ends=ends, delegations=tuple(link.id for link in caller.links))
    offer, version = next(each for each in found if each[0].grant.id == permit.grant.id)
    conditions = (_grants_filter(permit.grant, version), permit.where)
    filters = tuple(bind(each, version.manifest.schema, "where") for each in conditions if each is not None)
    return permit, version, (*filters, *_delegated_filters(caller, offer, version.manifest.schema))


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
    parts: Parts, caller: Caller, permit: Permit, keys: ScopedKeyring, cursors: _Cursors, read: int
) -> Iterator[pa.RecordBatch]:
    rows, outcome = 0, "broken off"

    def check() -> None:
        still_allowed(permit, parts.heads.vendor(caller.vendor), trusted_now(parts))

    try:
        for placed in read_batches(parts, keys, cursors.plan):
            check()
            batch = placed.batch
            piece = _charged(parts, permit, batch) if permit.grant.limits else batch
            rows += piece.num_rows
            cursors.advance(placed, piece.num_rows)
            if piece.num_rows:
                yield piece
            if piece.num_rows < batch.num_rows:
                raise LimitReached(
                    f"the grant's limit is used up after {rows} rows of this read; the rest was not sent"
                )
        check()
        outcome = "complete"
    except VaultError as error:
        outcome = type(error).__name__
        raise
    finally:
        parts.journal.record(Kind.READ_ENDED, **_who(caller, permit), read=read, rows=rows, outcome=outcome)
        _mark(parts)
