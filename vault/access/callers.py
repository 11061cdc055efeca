"""Who asks: credentials, their keys, delegations, and the tokens of a vendor's own identity provider."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from vault.catalog import CredentialRow, Transaction
from vault.delegation import Link, check_chain
from vault.encoding import timestamp
from vault.errors import IntegrityError, NotFound, Unauthenticated, VaultError
from vault.federation import Issuers, Provider, check_claims, signed_claims, token_claims
from vault.networks import within
from vault.proof import Proof, check_proof
from vault.trust import Credential, Label, Role, Signed
from vault.wire import Token
from vault.workings.names import own_holder_name
from vault.workings.parts import Parts, holder_sealer, trusted_now

__all__ = [
    "Arrival",
    "Caller",
    "Sent",
    "arrive",
    "authenticate",
    "authenticate_federated",
    "may_come_from",
    "providers",
    "vendor_ids",
]

_DENIED = "the credential is not valid"
_USED = "the proof was used before"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated vendor: its id, its credential, where it called from, and to whom its access was handed on.

    ``subject`` is whom the vendor's own identity provider speaks of, where one does. ``key`` is the thumbprint of the
    key that proves its requests; None where none does.
    """

    vendor: str
    credential: str
    address: str
    expires: datetime
    links: tuple[Link, ...] = ()
    subject: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A caller whose credential and proof hold, and whose proof is still to be used up: nothing is given out before.

    A proof counts once: it is written down, durably and for every broker of the vault, alone or together with the entry
    of what it was for.
    """

    caller: Caller
    proof: Proof | None = None

    def enter(self, parts: Parts) -> Caller:
        """Use the proof up; raises Unauthenticated where it was used before."""
        if self.proof is not None and not parts.catalog.submit(self.enter_in):
            raise self.turned_away(parts)
        return self.caller

    def enter_in(self, transaction: Transaction) -> bool:
        """Use the proof up as part of a change; False where it was used before, so that nothing else may come of it."""
        proof = self.proof
        return proof is None or transaction.use_proof(proof.digest, timestamp(proof.until), timestamp(proof.at))

    def turned_away(self, parts: Parts) -> Unauthenticated:
        """What is raised for a proof that was used before, once the attempt is logged."""
        who = self.caller
        parts.journal.refuse(who.vendor, who.credential, who.address, _USED)
        return Unauthenticated(_DENIED)


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


def authenticate(
    parts: Parts,
    token: Token,
    address: str,
    *,
    sent: Sent | None = None,
    vendors: frozenset[str] | None = None,
) -> Caller:
    """Check a credential against its signed record and the vendor's head, and that its key signed this very request.

    Raises as `arrive` does, also for a proof that was used before.
    """
    return arrive(parts, token, address, sent=sent, vendors=vendors).enter(parts)


def arrive(
    parts: Parts,
    token: Token,
    address: str,
    *,
    sent: Sent | None = None,
    vendors: frozenset[str] | None = None,
) -> Arrival:
    """Check all of a credential and a request but whether its proof was used before.

    ``sent`` is how the request came, which a credential that is bound to a key needs; ``vendors`` are the ids that this
    broker serves (None: all whose keys it holds). Raises Unauthenticated, with one sentence whatever the reason, and
    logs the attempt when it names a credential that exists; of many that are alike, how many.
    """
    opened = _credential(parts, token.credential)
    vendor, own = opened[1].vendor, opened[1].id
    try:
        _check_credential(parts, opened, token, address, vendors)
        links, holder, proof = _check_possession(parts, opened[1], token, sent)
    except Unauthenticated as error:
        parts.journal.refuse(vendor, own, address, str(error))
        raise Unauthenticated(_DENIED) from None
    ends = min([opened[1].expires, *(link.expires for link in links)])
    caller = Caller(vendor, own, address, ends, links, key=holder)
    return Arrival(caller, proof)


def authenticate_federated(
    parts: Parts, issuers: Issuers, token: str, address: str, *, vendors: frozenset[str] | None = None
) -> Caller:
    """Check a token of a vendor's own identity provider against what the authority signed about that provider.

    Raises Unauthenticated as `authenticate` does, logged where the issuer signed the token: one that it did not sign
    anybody can make, and fill the log with. The credential, and not the token, says for how long a read that has begun
    may go on.
    """
    try:
        claims = token_claims(token)
    except Unauthenticated:
        raise Unauthenticated(_DENIED) from None
    speaking = _opened(parts, _speaking_of(parts, claims))
    signed = [each for each in speaking if _is_signed(token, each, issuers)]
    if not signed:
        raise Unauthenticated(_DENIED)
    try:
        credential = _chosen(parts, speaking, signed, address, vendors)
        check_claims(claims, _provider(credential), trusted_now(parts))
    except Unauthenticated as error:
        about = signed[0][1]
        parts.journal.refuse(about.vendor, about.id, address, str(error))
        raise Unauthenticated(_DENIED) from None
    subject = str(claims.get("sub", ""))[:200]
    return Caller(credential.vendor, credential.id, address, credential.expires, (), subject)


def providers(parts: Parts, vendors: frozenset[str] | None) -> list[Provider]:
    """The identity providers of live credentials, of these vendors or all: whose keys a broker holds."""
    rows = [row for several in _federated(parts).values() for row, _ in several]
    found = []
    for opened in _opened(parts, [row for row in rows if vendors is None or row.vendor in vendors]):
        try:
            _check_live(parts, opened)
        except VaultError:
            continue
        found.append(_provider(opened[1]))
    return found


def _opened(parts: Parts, rows: list[CredentialRow]) -> list[tuple[Signed, Credential]]:
    """Credentials that the authority signed; a row that says anything else is none, and stands in nobody's way."""
    found = []
    for row in rows:
        try:
            found.append(_open_credential(parts, row))
        except IntegrityError:
            continue
    return found


def _provider(credential: Credential) -> Provider:
    return Provider(**(credential.provider or {}))


def _is_signed(token: str, opened: tuple[Signed, Credential], issuers: Issuers) -> bool:
    try:
        signed_claims(token, _provider(opened[1]), issuers)
    except Unauthenticated:
        return False
    return True


def _chosen(
    parts: Parts,
    speaking: list[tuple[Signed, Credential]],
    signed: list[tuple[Signed, Credential]],
    address: str,
    vendors: frozenset[str] | None,
) -> Credential:
    """The credential that a token counts as: of one vendor's, the one that expires last.

    Raises Unauthenticated where it could be two vendors', whichever of them is served here, from there, or has keys
    that can be had: who it is may not depend on that.
    """
    reason = "no credential fits the token"
    live: list[Credential] = []
    for opened in speaking:
        try:
            _check_live(parts, opened)
            live.append(opened[1])
        except Unauthenticated as error:
            reason = str(error)
    if len({each.vendor for each in live}) > 1:
        raise Unauthenticated("credentials of more than one vendor fit the token")
    standing: list[Credential] = []
    for opened in signed:
        try:
            _check_standing(parts, opened, address, vendors)
            standing.append(opened[1])
        except Unauthenticated as error:
            reason = str(error)
    if not standing:
        raise Unauthenticated(reason)
    return max(standing, key=lambda each: (each.expires, each.id))


def _speaking_of(parts: Parts, claims: Mapping[str, Any]) -> list[CredentialRow]:
    """The credentials whose provider a token claims to be of; nothing of it is believed yet."""
    issuer = claims.get("iss")
    known = _federated(parts).get(issuer, ()) if isinstance(issuer, str) else ()
    return [row for row, provider in known if provider.fits(claims)]


def _federated(parts: Parts) -> Mapping[str, list[tuple[CredentialRow, Provider]]]:
    """The credentials that name a provider, by its issuer, as the catalog had them a second ago at the most.

    Anybody may send what looks like a token, before anything of it is checked: it must not cost a look at them all.
    Whether one of them still counts is for its vendor's head to say, as ever.
    """

    def read() -> Mapping[str, list[tuple[CredentialRow, Provider]]]:
        with parts.catalog.read() as transaction:
            rows = transaction.credentials()
        found: dict[str, list[tuple[CredentialRow, Provider]]] = {}
        for row in rows:
            provider = _stated_provider(row.statement)
            if provider is not None:
                found.setdefault(provider.issuer, []).append((row, provider))
        return found

    return parts.lately.federated.get(parts.root.version, read)


@lru_cache(maxsize=8192)
def _stated_provider(statement: bytes) -> Provider | None:
    """The provider that a credential names, if it does; the signature is not checked here."""
    # What a statement says is the same for ever, and most say that there is none.
    try:
        stated = Credential.parse(Signed.decode(statement, Label.CREDENTIAL)).provider
        return Provider(**stated) if stated is not None else None
    except (IntegrityError, TypeError):
        return None


def _credential(parts: Parts, identity: str) -> tuple[Signed, Credential]:
    """A credential by its id, from the catalog or as it was verified lately; raises Unauthenticated for none.

    Whether it still counts is its vendor's head's word, and never this one's.
    """

    def read() -> tuple[Signed, Credential]:
        with parts.catalog.read() as transaction:
            row = transaction.credential(identity)
        if row is None:
            raise Unauthenticated(_DENIED)
        return _open_credential(parts, row)

    return parts.lately.credentials.get((identity, parts.root.version), read)


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
    credential = opened[1]
    if vendors is not None and credential.vendor not in vendors:
        raise Unauthenticated("vendor not served here")
    _check_live(parts, opened)
    if credential.networks and not within(address, credential.networks):
        raise Unauthenticated("address not allowed")


def _check_live(parts: Parts, opened: tuple[Signed, Credential]) -> None:
    """Raises Unauthenticated unless the vendor's head lists a credential, and it has not expired."""
    signed, credential = opened
    listed = parts.heads.vendor(credential.vendor).credentials.get(credential.id) == signed.digest
    if not listed:
        # It may be younger than the head that is held here.
        listed = parts.heads.vendor(credential.vendor, max_age=-1).credentials.get(credential.id) == signed.digest
    if not listed:
        raise Unauthenticated("credential ended")
    if trusted_now(parts) >= credential.expires:
        raise Unauthenticated("credential expired")


def _check_possession(
    parts: Parts, credential: Credential, token: Token, sent: Sent | None
) -> tuple[tuple[Link, ...], str | None, Proof | None]:
    """Raises Unauthenticated unless the request carries what the credential's kind asks for, no more and no less.

    Returns the delegations that lead from the credential's key to the one that proves the request, its thumbprint, and
    the proof.
    """
    if (credential.key is not None) != token.bound:
        raise Unauthenticated("presented as a credential of the other kind")
    if credential.key is None:
        if sent is not None and sent.delegations:
            raise Unauthenticated("a bearer credential cannot be delegated")
        return (), None, None
    if sent is None or sent.proof is None:
        raise Unauthenticated("no proof of possession")
    now = trusted_now(parts)
    holder, links = check_chain(sent.delegations, credential=credential.id, thumbprint=credential.key, now=now)
    if not parts.heads.vendor(credential.vendor).ended.isdisjoint(link.id for link in links):
        raise Unauthenticated("a delegation was ended")
    proof = check_proof(sent.proof, thumbprint=holder, token=token.text, method=sent.method, uris=sent.uris, now=now)
    return links, holder, proof


def may_come_from(parts: Parts, credential: str, address: str) -> bool:
    """Whether a credential, by its id, is one that may be used from an address; of none it may not."""
    try:
        networks = _credential(parts, credential)[1].networks
    except Unauthenticated:
        return False
    return not networks or within(address, networks)


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
