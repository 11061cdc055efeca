"""Approving grants on protected datasets: a file that goes to the approvers, and what comes back.

Such a grant is pending, and gives nothing, until the statement that the authority signed carries the signatures of
enough approvers too. What an approver is shown is read from the signed bytes alone. What comes back is no more than
signatures: what the grant says is what is stored here. Storing them and settling the grant are two steps; a run that
is killed between them leaves a grant that `approve` or `vault.grants.resume_grant` ends.
"""

import hmac
from dataclasses import dataclass
from pathlib import Path

from vault.audit import Kind
from vault.catalog import SealedValue
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vault.filters import Filter
from vault.grants import resume_grant
from vault.trust import Grant, Label, Role, Root, Signed
from vault.trust.approvals import add_approval, joined, read_request
from vault.workings.files import put_file
from vault.workings.filling import owners_version
from vault.workings.keyfolder import open_signer
from vault.workings.names import datasets, holders
from vault.workings.parts import OwnerParts, holder_sealer
from vault.workings.permissions import open_grant

__all__ = ["Approval", "approve", "check_names", "read", "request", "sign"]


@dataclass(frozen=True, slots=True)
class Approval:
    """A grant's statement with the signatures that it has: whose of them hold, and how many it lacks."""

    grant: Grant
    signed: Signed
    signers: tuple[str, ...]
    missing: int

    @classmethod
    def under(cls, root: Root, grant: Grant, signed: Signed) -> "Approval":
        """As a root document judges it."""
        return cls(grant, signed, signers_of(root, signed), root.missing(signed, grant.dataset))


def signers_of(root: Root, signed: Signed) -> tuple[str, ...]:
    """The ids of the authority's and approvers' keys whose signatures hold."""
    return tuple(sorted(root.signers(signed, Role.AUTHORITY) | root.signers(signed, Role.APPROVER)))


# Files: these need no vault


def read(path: Path) -> tuple[Signed, Grant]:
    """A grant from the file that is to be approved, and what it says; raises InvalidInput.

    It is refused where anything that it says could be shown as something else than what a broker makes of it.
    """
    try:
        signed = Signed.decode(path.read_bytes(), Label.GRANT)
        grant = read_request(signed)
        _check_shown(grant)
    except OSError as error:
        raise InvalidInput(f"{path}: the grant cannot be read ({error.strerror})") from error
    except IntegrityError as error:
        raise InvalidInput(f"{path}: this is not a grant that 'dsvault approval request' writes") from error
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    return signed, grant


def _check_shown(grant: Grant) -> None:
    """What stands for people must be what is enforced: the filter's text is its tree's, and a name is one column's."""
    columns = {(column.name, column.id) for column in (*grant.columns, *grant.filter_columns)}
    if len({name for name, _ in columns}) != len(columns):
        raise InvalidInput("the grant has two columns of one name")
    text = None
    if grant.where is not None:
        names = {column.id: column.name for column in grant.filter_columns}
        try:
            text = Filter.from_json(dict(grant.where)).rename(names).text()
        except (IntegrityError, InvalidInput, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInput("the grant has a row filter that this release does not know") from error
    if text != grant.where_text:
        raise InvalidInput("the row filter that the grant shows is not the one that it has")


def sign(path: Path, key: Path, passphrase: str | None) -> tuple[Signed, Grant, str]:
    """Add the signature of an approver's key file to a grant's file; returns it, what it says, and the key's id."""
    signed, grant = read(path)
    signer = open_signer(key, Role.APPROVER, passphrase)
    approved = add_approval(signed, signer)
    put_file(path, approved.encode() + b"\n")
    return approved, grant, signer.key_id


# The vault


def request(parts: OwnerParts, grant_id: str) -> Approval:
    """A grant as approvers are to sign it, with the signatures that it has; raises NotFound and IntegrityError."""
    with parts.catalog.read() as transaction:
        rows = transaction.grants(grant=grant_id)
        if not rows:
            raise NotFound(f"there is no grant {grant_id[:80]}")
        root = parts.root.seen_by(transaction)
        return Approval.under(root, *open_grant(root, rows[0], parts.sealer(), own=False))


def check_names(parts: OwnerParts, grant: Grant) -> None:
    """Raise InvalidInput unless the names in a grant are those that the vault has for the ids beside them."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        vendors = {holder.id: holder.name for holder in holders(transaction, sealer)}
        known = {dataset.id: dataset for dataset in datasets(transaction, sealer)}
    dataset = known.get(grant.dataset)
    if grant.vault != parts.vault or vendors.get(grant.vendor) != grant.vendor_name or dataset is None:
        raise InvalidInput("the grant names a vault, vendor or dataset that is another here")
    manifest = owners_version(parts, dataset, grant.pinned).manifest
    columns = {(column.id, column.name, column.group) for column in manifest.columns}
    named = {(column.id, column.name, column.group) for column in (*grant.columns, *grant.filter_columns)}
    if dataset.name != grant.dataset_name or not named <= columns:
        raise InvalidInput("the grant names a dataset or column that is another here")


def approve(parts: OwnerParts, offered: Signed) -> Approval:
    """Take over the approvals in a grant's file, and settle the grant where none is missing any more.

    May be killed and run again, and files of several approvers may come one by one. Raises InvalidInput for a file that
    is not the stored grant or has no approval that counts, NotFound, Conflict, Frozen, and what filling the vendor's
    compartment does.
    """
    claimed = read_request(offered)
    vendor = _vendor_of(parts, claimed)
    sealer, own = parts.sealer(), holder_sealer(parts, parts.keyring, vendor)
    with parts.catalog.write() as transaction:
        root = parts.root.seen_by(transaction)
        (row,) = transaction.grants(grant=claimed.id)
        grant, stored = open_grant(root, row, sealer, own=False)
        if not hmac.compare_digest(stored.digest, offered.digest):
            raise InvalidInput("the file is not the grant that is stored here; 'dsvault approval request' writes that")
        listed = grant.id in parts.heads.vendor_in(transaction, grant.vendor).grants
        if row.settled is not None and not listed:
            raise Conflict("the grant was revoked; make a new one")
        fresh = joined(root, stored, offered)
        new = set(signers_of(root, fresh)) - set(signers_of(root, stored))
        found = Approval.under(root, grant, fresh)
        if not new and found.missing:
            raise InvalidInput("the file has no signature of an approver that the root document names and that is new")
        # Both copies are written even if only one lacks them: the broker goes by the vendor's.
        encoded = fresh.encode()
        transaction.set_grant_statements(
            row.id, SealedValue(sealer, row.id, encoded), SealedValue(own, row.id, encoded)
        )
        if new:
            parts.journal.record_in(
                transaction,
                Kind.APPROVED,
                vendor=grant.vendor_name,
                vendor_id=grant.vendor,
                grant=grant.id,
                dataset=grant.dataset_name,
                dataset_id=grant.dataset,
                approvers=sorted(new),
                missing=found.missing,
            )
    if found.missing or listed:
        parts.journal.checkpoint()
    else:
        resume_grant(parts, grant.id)
    return found


def _vendor_of(parts: OwnerParts, grant: Grant) -> str:
    with parts.catalog.read() as transaction:
        rows = transaction.grants(grant=grant.id)
    if not rows or grant.vault != parts.vault:
        raise NotFound(f"there is no grant {grant.id} in this vault")
    return rows[0].vendor
