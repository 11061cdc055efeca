"""Credentials: what a vendor presents, signed by the authority and listed in the vendor's head."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from vault.audit import Entry, Kind
from vault.catalog import CredentialRow
from vault.encoding import LONGEST, is_id, new_id, timestamp
from vault.errors import IntegrityError, InvalidInput, KeyUnavailable, NotFound
from vault.federation import Provider, check_url
from vault.networks import check_networks
from vault.trust import Credential, Label, Role, Signed, VendorHead
from vault.workings.names import holders
from vault.workings.parts import OwnerParts
from vault.workings.permissions import next_vendor_head
from vault.workings.steps import announce, listing_vendor, present_vendor, removal, standing, vendor_named

__all__ = [
    "LOOKED_THROUGH",
    "CredentialState",
    "IssuedCredential",
    "credentials",
    "end_delegation",
    "federate",
    "issue_credential",
    "revoke_credential",
]

#: How many entries of the log are looked through for a delegation, the newest: some seconds' worth.
LOOKED_THROUGH: Final = 10_000


@dataclass(frozen=True, slots=True)
class CredentialState:
    """A credential and how it stands: ``live``, ``expired`` or ``revoked``."""

    credential: Credential
    vendor_name: str
    state: str


@dataclass(frozen=True, slots=True, repr=False)
class IssuedCredential:
    """A new credential with its secret, which is kept nowhere else."""

    credential: Credential
    vendor_name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"IssuedCredential({self.credential.id})"


def federate(
    parts: OwnerParts, vendor_name: str, expires: timedelta, provider: Provider, networks: Sequence[str] = ()
) -> Credential:
    """Accept the tokens of a vendor's own identity provider in the place of a credential; raises InvalidInput."""
    check_url(provider.issuer, "--issuer")
    if provider.keys is not None:
        check_url(provider.keys, "--jwks")
    if not provider.audience:
        raise InvalidInput("--audience: say for whom the provider's tokens are made out")
    if not provider.claims or not all(provider.claims.values()):
        raise InvalidInput("--claim: name a claim that only this vendor's tokens have, such as --claim hd=acme.example")
    _refuse_mistakable(parts, vendor_name, provider)
    return _issue(parts, vendor_name, expires, "", None, networks, asdict(provider))


def _refuse_mistakable(parts: OwnerParts, vendor_name: str, provider: Provider) -> None:
    """Raises InvalidInput for terms that a token of another vendor's live credential may well fit too.

    The vendor's own are left out: whichever of them a token counts as, it is the same vendor's, and one takes over from
    the other when it is renewed.
    """
    for state in credentials(parts):
        stated = state.credential.provider
        if state.state != "live" or state.vendor_name == vendor_name or stated is None:
            continue
        if provider.may_be_mistaken_for(Provider(**stated)):
            raise InvalidInput(
                f"--claim: a token may fit these terms and those of credential {state.credential.id} of"
                f" '{state.vendor_name}' as well: name a claim that both have, with another value"
            )


def issue_credential(
    parts: OwnerParts, vendor_name: str, expires: timedelta, key: str | None, networks: Sequence[str] = ()
) -> IssuedCredential:
    """Make a credential; its 256-bit secret is returned once and only its SHA-256 is kept.

    ``key`` is the thumbprint of the key that it is bound to; None makes a bearer credential. ``networks`` are CIDR
    ranges that it may be used from, none for anywhere.
    """
    secret = os.urandom(32)
    credential = _issue(parts, vendor_name, expires, hashlib.sha256(secret).hexdigest(), key, networks, None)
    return IssuedCredential(credential, vendor_name, secret)


def _issue(
    parts: OwnerParts,
    vendor_name: str,
    expires: timedelta,
    digest: str,
    key: str | None,
    networks: Sequence[str],
    provider: dict[str, Any] | None,
) -> Credential:
    allowed = check_networks(networks, "--network")
    if not timedelta(0) < expires <= LONGEST:
        raise InvalidInput("--expires: give a time in the future, and not a hundred years ahead")
    vendor = present_vendor(parts, vendor_name)
    now = parts.clock()
    credential = Credential(new_id(), parts.vault, vendor.id, digest, now, now + expires, key, allowed, provider)
    authority = parts.signers.authority()
    signed = authority.sign(Label.CREDENTIAL, credential.payload())
    with parts.catalog.write() as transaction:
        present = parts.heads.vendor_in(transaction, vendor.id)
        head = next_vendor_head(
            parts,
            authority,
            present,
            vendor.id,
            by_authority=True,
            credentials={**present.credentials, credential.id: signed.digest},
        )
        transaction.add_credential(CredentialRow(credential.id, vendor.id, signed.encode(), timestamp(now)))
        transaction.add_head(head)
        parts.journal.record_in(
            transaction,
            Kind.CREDENTIAL_ISSUED,
            vendor=vendor_name,
            vendor_id=vendor.id,
            credential=credential.id,
            expires=timestamp(credential.expires),
            key=key,
            networks=list(allowed),
            provider=provider,
            statement=signed.digest,
        )
    announce(parts, head)
    return credential


def credentials(parts: OwnerParts) -> list[CredentialState]:
    """Every credential, oldest first; raises IntegrityError naming one that is live and not what was signed."""
    sealer, now = parts.sealer(), parts.clock()
    with parts.catalog.read() as transaction:
        names = {holder.id: holder.name for holder in holders(transaction, sealer)}
        states = []
        for row in transaction.credentials():
            listed = parts.heads.vendor_in(transaction, row.vendor).credentials.get(row.id)
            try:
                signed, credential = _open_credential(parts, row)
            except IntegrityError as error:
                if listed is None:
                    continue  # it counts for nothing, whatever was done to it
                remedy = f"'dsvault credential revoke {row.id}' ends it"
                raise IntegrityError(f"credential {row.id}: {error}; {remedy}") from error
            state = standing(now < credential.expires, listed == signed.digest, settled=True)
            states.append(CredentialState(credential, names[row.vendor], state))
    return states


def _open_credential(parts: OwnerParts, row: CredentialRow) -> tuple[Signed, Credential]:
    signed = Signed.decode(row.statement, Label.CREDENTIAL)
    parts.root.verify(signed, Role.AUTHORITY)
    return signed, Credential.parse(signed)


def revoke_credential(parts: OwnerParts, credential_id: str) -> None:
    """End a credential; one that ended before stays as it is. Raises NotFound."""
    vendor = _whose(parts, credential_id)

    def change(head: VendorHead) -> dict[str, object] | None:
        if credential_id not in head.credentials:
            return None
        return {"credentials": {key: digest for key, digest in head.credentials.items() if key != credential_id}}

    removal(parts, vendor, Kind.CREDENTIAL_REVOKED, change, credential=credential_id)


def end_delegation(parts: OwnerParts, vendor_name: str, delegation: str) -> bool | None:
    """End a delegation of a vendor's, and every one that came from it; the responder's key signs it.

    The lab knows its id from the log, or from the vendor, who made it without asking. Returns whether the newest
    entries of the log have a request of this vendor's under it, None where the auditor's key is not here. Raises
    InvalidInput for what is no id, and NotFound for one that those have under another vendor alone: ended for this one
    it stops nobody.
    """
    if not is_id(delegation):
        raise InvalidInput(f"a delegation's id has 32 hexadecimal digits: {delegation[:80]!r} is none")

    def change(head: VendorHead) -> dict[str, object] | None:
        return {"ended": head.ended | {delegation}} if delegation not in head.ended else None

    # First of all it ends; and who waits for the answer has no minutes for a long log.
    removal(parts, vendor_name, Kind.DELEGATION_ENDED, change, delegation=delegation)
    try:
        secrets = parts.signers.keys.auditor_secrets()
    except KeyUnavailable:
        return None
    vendor, others = vendor_named(parts, vendor_name), set()
    for _, entry in parts.journal.entries(secrets, LOOKED_THROUGH):
        if delegation in _delegations(entry):
            of = entry.fields.get("vendor_id")
            if of == vendor.id:
                return True
            if isinstance(of, str):
                others.add(of)
    if others:
        with parts.catalog.read() as transaction:
            names = sorted(each.name for each in holders(transaction, parts.sealer()) if each.id in others)
        named = " or ".join(f"--delegated-by {name}" for name in names)
        raise NotFound(f"no read of {vendor_name}'s is in the log under the delegation {delegation}: it needs {named}")
    return False


def _delegations(entry: Entry) -> list[Any]:
    """The delegations that an entry names, whoever wrote it and whatever stands in their place."""
    found = entry.fields.get("delegates")
    return [each.get("id") for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _whose(parts: OwnerParts, credential_id: str) -> str:
    """The name of a credential's vendor; its head's word counts where the catalog's row is not what it was."""
    with parts.catalog.read() as transaction:
        row = transaction.credential(credential_id)
        names = {holder.id: holder.name for holder in holders(transaction, parts.sealer())}
    try:
        if row is not None:
            return names[_open_credential(parts, row)[1].vendor]
    except (IntegrityError, KeyError):
        pass
    vendor = listing_vendor(parts, lambda head: credential_id in head.credentials)
    if vendor is None:
        raise NotFound(f"there is no credential {credential_id[:80]}")
    return vendor.name
