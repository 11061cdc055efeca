"""Whether a submission is what a vendor may have sent: by signatures, the owner's private key, and what the grant
showed.

The catalog's row and the store's object are only where the bytes are kept. Whatever is wrong with them is an
IntegrityError: somebody else than the vendor changed it, or the vendor signed what it may not.
"""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from vault.access.permits import delegated_filters, fields_of, grants_filter, names_rows
from vault.catalog import SubmissionRow, Transaction
from vault.delegation import Link, check_chain
from vault.encoding import from_timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound, NotGranted, Unauthenticated
from vault.filters import BoundFilter
from vault.incoming import check_amount, check_depth, plain
from vault.model import Column
from vault.policy import Handed, Offer
from vault.submission import Envelope, Particulars, Secret, open_envelope, unpack
from vault.trust import Credential, Grant, Label, Role, Signed
from vault.workings.apart import MOST_BYTES, decoded_apart
from vault.workings.filling import owners_version
from vault.workings.names import Dataset
from vault.workings.parts import OwnerParts
from vault.workings.permissions import open_grant
from vault.workings.quarantine import received_at
from vault.workings.reading import ReadPlan, read_batches, read_column
from vault.workings.submissionkeys import private_key
from vault.workings.versions import OpenVersion

__all__ = ["Shown", "Vouched", "shown", "vouched"]

#: By how much a broker's clock and the owner's may differ, and a broker's head be old.
_TOLERANCE: Final = timedelta(seconds=6)


@dataclass(frozen=True, slots=True)
class Vouched:
    """A submission whose signatures hold, opened: the first column of ``table`` is the one that names rows."""

    envelope: Envelope
    grant: Grant
    links: tuple[Link, ...]
    particulars: Particulars
    table: pa.Table = field(repr=False)


def vouched(parts: OwnerParts, row: SubmissionRow) -> Vouched:
    """Check who signed a submission, that it could, and that it is whole, and open it.

    Raises IntegrityError, KeyUnavailable where the key that it is sealed to is not here, and InvalidInput for rows that
    cannot be decoded within bounds.
    """
    received = received_at(row)
    try:
        signer, envelope = open_envelope(row.envelope.decode("ascii", "replace"))
    except InvalidInput as error:
        raise IntegrityError(str(error)) from error
    place = (envelope.submission, envelope.vault, envelope.grant, envelope.size)
    if place != (row.id, parts.vault, row.grant, row.size):
        raise IntegrityError("the envelope of the submission is of another place than the catalog's")
    with parts.catalog.read() as transaction:
        credential, digest = _credential(parts, transaction, envelope, row)
        grant, granted = _grant(parts, transaction, row)
        steps = list(_steps_at(parts, transaction, row.vendor, received))
    listed = [
        step
        for step in steps
        if step["credentials"].get(credential.id) == digest and step["grants"].get(grant.id) == granted
    ]
    if not listed or not _lasts(credential, grant, received):
        raise IntegrityError("the grant or the credential of the submission did not count when it was received")
    bound = envelope.bound(grant.vendor_name)
    secret = Secret.opened(envelope.wrapped, private_key(parts.signers.keys, envelope.sealed_to), bound)
    sealed, rows = unpack(_object(parts, row, envelope))
    particulars = secret.open(sealed)
    links = _links(credential, signer, particulars, received)
    if not any(set(step.get("ended", ())).isdisjoint(link.id for link in links) for step in listed):
        raise IntegrityError("the delegation of the submission had ended when it was received")
    if any(link.dataset not in {None, grant.dataset_name} for link in links):
        raise IntegrityError("the delegation of the submission is of another dataset")
    table = _table(particulars, decoded_apart(rows, secret.rows_key, bound, _schema(particulars), MOST_BYTES))
    if table.num_rows != envelope.rows:
        raise IntegrityError("the submission has another number of rows than its envelope says")
    return Vouched(envelope, grant, links, particulars, table)


def _credential(
    parts: OwnerParts, transaction: Transaction, envelope: Envelope, row: SubmissionRow
) -> tuple[Credential, str]:
    """The credential that an envelope names, and the digest that heads list it under."""
    found = transaction.credential(envelope.credential)
    if found is None:
        raise IntegrityError("the catalog lacks the credential of the submission")
    signed = Signed.decode(found.statement, Label.CREDENTIAL)
    parts.root.verify(signed, Role.AUTHORITY)
    credential = Credential.parse(signed)
    if (credential.vault, credential.id, credential.vendor) != (parts.vault, envelope.credential, row.vendor):
        raise IntegrityError("the credential of the submission is another vendor's")
    if credential.key is None:
        raise IntegrityError("the credential of the submission is bound to no key that could sign it")
    return credential, signed.digest


def _grant(parts: OwnerParts, transaction: Transaction, row: SubmissionRow) -> tuple[Grant, str]:
    """The grant of a submission, and the digest that heads list it under."""
    rows = transaction.grants(grant=row.grant)
    if not rows:
        raise IntegrityError("the catalog lacks the grant of the submission")
    grant, signed = open_grant(parts.root, rows[0], parts.sealer(), own=False)
    if (grant.vendor, grant.dataset) != (row.vendor, row.dataset):
        raise IntegrityError("the grant of the submission is another vendor's, or of another dataset")
    if parts.root.missing(signed, grant.dataset):
        raise IntegrityError("the grant of the submission lacks signatures")
    return grant, signed.digest


def _steps_at(parts: OwnerParts, transaction: Transaction, vendor: str, moment: datetime) -> Iterator[dict[str, Any]]:
    """What a vendor's heads listed about a moment, give or take what clocks may differ; not where it was frozen."""
    steps = [
        (from_timestamp(str(document["signed_at"])), document, listing)
        for document, listing in parts.heads.signed_steps(transaction, "vendor", vendor)
    ]
    for number, (since, document, listing) in enumerate(steps):
        until = steps[number + 1][0] if number + 1 < len(steps) else None
        over = until is not None and until < moment - _TOLERANCE
        if since <= moment + _TOLERANCE and not over and not document["frozen"]:
            yield listing


def _lasts(credential: Credential, grant: Grant, received: datetime) -> bool:
    """Whether both were in their time when a submission came; a broker judges by the latest of several clocks."""
    begun = credential.issued - _TOLERANCE <= received < credential.expires
    return begun and (grant.live_at(received) or grant.live_at(received + _TOLERANCE))


def _object(parts: OwnerParts, row: SubmissionRow, envelope: Envelope) -> bytes | bytearray:
    if row.size > MOST_BYTES:
        raise InvalidInput(f"the submission is larger than {MOST_BYTES >> 20} MiB")
    try:
        # What nobody put there is not made room for.
        if parts.store.size(row.object) != row.size:
            raise IntegrityError("the object of the submission is missing from the store, or not as long as it was")
        data = parts.store.get_large(row.object, row.size)
    except NotFound as error:
        raise IntegrityError("the object of the submission is missing from the store") from error
    if len(data) != envelope.size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), envelope.sha256):
        raise IntegrityError("the object of the submission is not the one that its envelope was signed for")
    return data


def _links(credential: Credential, signer: str, particulars: Particulars, received: datetime) -> tuple[Link, ...]:
    """The delegations from the credential's key to the one that signed, checked as a broker checks them."""
    assert credential.key is not None
    try:
        holder, links = check_chain(
            particulars.links, credential=credential.id, thumbprint=credential.key, now=received - _TOLERANCE
        )
    except Unauthenticated as error:
        raise IntegrityError(f"the submission came by a delegation that does not hold: {error}") from error
    if not hmac.compare_digest(holder, signer):
        raise IntegrityError("the envelope of the submission is not signed by the credential's key")
    return links


def _schema(particulars: Particulars) -> pa.Schema:
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(particulars.schema)).remove_metadata()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("the submission does not say of which columns it is") from error
    check_depth(schema)
    return schema


def _table(particulars: Particulars, table: pa.Table) -> pa.Table:
    """The table, in the form that the client gives it; raises InvalidInput for another."""
    if table.num_columns < 2 or table.column_names[0] != particulars.key:
        raise InvalidInput("the submission has no column that names rows, or none beside it")
    check_amount(table)
    return plain(table)


@dataclass(frozen=True, slots=True)
class Shown:
    """The row keys that whoever sent a submission was shown, and ``there``, those of every row of the version.

    ``complete`` says that no row was taken out of the version since, and none could be: what is not there never was.
    """

    keys: pa.ChunkedArray = field(repr=False)
    there: pa.ChunkedArray = field(repr=False)
    complete: bool


def shown(parts: OwnerParts, found: Vouched, dataset: Dataset) -> Shown:
    """What a submission's sender was shown of its version, or of the newest where that has expired.

    Rows that a row filter hides, of the grant or of a delegation, and shards of others are not among it. Raises
    Conflict where the grant does not fit the dataset any more, and InvalidInput where the key column is not granted.
    """
    if found.grant.pinned not in {None, found.envelope.version}:
        raise InvalidInput("the submission is of another version than its grant")
    newest = owners_version(parts, dataset)
    version = newest
    with suppress(NotFound):
        version = owners_version(parts, dataset, found.envelope.version)
    key = _key_column(newest, version, dataset, found)
    filters = _filters(found, version, key)
    kind, listing = version.manifest.schema.field(key.name).type, version.listing(key.group)
    if listing is None:
        return Shown(pa.chunked_array([], kind), pa.chunked_array([], kind), complete=False)
    among = listing.open_to(found.grant.vendor).shards.combine_chunks()
    plan = ReadPlan(version, (key,), filters, None, among=among)
    keys = pa.chunked_array([each.batch.column(0) for each in read_batches(parts, parts.keyring, plan)], kind)
    there = pa.chunked_array([each for column in read_column(parts, version, key.name) for each in column.chunks], kind)
    return Shown(keys, there, version.manifest.version == found.envelope.version and not version.manifest.erased)


def _filters(found: Vouched, version: OpenVersion, key: Column) -> tuple[BoundFilter, ...]:
    """What every row that was shown has passed: the grant's row filter, and those of delegations."""
    present = {column.id: column for column in version.manifest.columns}
    handed = tuple(Handed(link.columns, link.issued) for link in found.links)
    filtered = any(link.where is not None for link in found.links)
    number, compartment = version.manifest.version, version.head.compartment
    offer = Offer(found.grant, compartment, number, present, handed, filtered, fields_of(version))
    granted = next((column for column in offer.columns if column.id == key.id), None)
    if granted is None or not names_rows(found.grant, granted):
        raise InvalidInput(f"the column {key.name!r}, which names rows, is not granted as it is")
    try:
        return (
            *grants_filter(found.grant, version),
            *delegated_filters(found.links, offer, version.manifest.schema),
        )
    except NotGranted as error:
        raise Conflict(f"the row filter of the grant cannot be run any more: {error}") from error


def _key_column(newest: OpenVersion, version: OpenVersion, dataset: Dataset, found: Vouched) -> Column:
    """The column of a version that identifies rows to this day, by the name that the submission has it under."""
    now = newest.manifest.column(dataset.key) if dataset.key is not None else None
    then = {column.id: column for column in version.manifest.columns}
    if now is None or now.id not in then or version.manifest.key not in {None, now.id}:
        raise Conflict(f"the dataset '{dataset.name}' has another row key by now")
    if found.particulars.key not in {then[now.id].name, now.name}:
        raise InvalidInput(f"the submission names rows by a column that is not the row key, {then[now.id].name!r}")
    return then[now.id]
