"""Proofs of possession: each request is signed by the key that its credential is bound to (DPoP, RFC 9449).

A stolen token is worth nothing without the key, and a proof that was seen once is worth nothing at all: it names the
request, the token and an id of its own. The key is made where it is used; what leaves there is a request for a
credential, signed by it. Whether an id was seen before is for the caller to look up: no catalog is known here.
"""

import base64
import functools
import hashlib
import hmac
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vault.encoding import new_id
from vault.errors import InvalidInput, Unauthenticated

if TYPE_CHECKING:
    from joserfc.jws import JWSRegistry

__all__ = [
    "KEY_KINDS",
    "LIFETIME",
    "Proof",
    "ProofKey",
    "check_proof",
    "normal_uri",
    "open_claims",
    "read_request",
    "requested_key",
    "signature_registry",
]

#: How far a proof's time may be from the broker's, in either direction (RFC 9449 section 11.1).
LIFETIME: Final = timedelta(seconds=50)
_MARGIN: Final = timedelta(seconds=30)
KEY_KINDS: Final = ("ed25519", "p256")
_ALGORITHMS: Final = {"OKP": "Ed25519", "EC": "ES256"}
_CURVES: Final = {"OKP": "Ed25519", "EC": "P-256"}
#: What keys of a kind may call their signatures; the first is RFC 8037's older name of the second.
_NAMES: Final = {"OKP": ("EdDSA", "Ed25519"), "EC": ("ES256",)}
_TAKEN: Final = ("EdDSA", "Ed25519", "ES256")
_PROOF_TYPE: Final = "dpop+jwt"
_REQUEST_TYPE: Final = "dsvault-request+jwt"
_MOST: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}


@functools.lru_cache(maxsize=16)
def signature_registry(names: tuple[str, ...]) -> "JWSRegistry":
    """The kinds of signature that are taken, and no other. joserfc is imported here, since that takes a while."""
    from joserfc.jws import JWSRegistry

    known = JWSRegistry.algorithms

    class Older(type(known["EdDSA"])):  # type: ignore[misc]
        """RFC 8037's name of Ed25519, which much software uses still; keys of another curve are refused elsewhere."""

        security_warning = None

    class Registry(JWSRegistry):
        algorithms = {name: Older() if name == "EdDSA" else known[name] for name in names}  # noqa: RUF012

    return Registry(algorithms=list(names))


class ProofKey:
    """A private Ed25519 or P-256 key that signs proofs; it is kept in a profile, or in a key file beside it."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.thumbprint: str = key.thumbprint()

    @classmethod
    def create(cls, kind: str = "ed25519") -> "ProofKey":
        """A fresh key; ``kind`` is ``ed25519`` or ``p256``. Raises InvalidInput for another."""
        from joserfc.jwk import ECKey, OKPKey

        if kind not in KEY_KINDS:
            raise InvalidInput(f"--key-type: use one of {', '.join(KEY_KINDS)}")
        return cls(OKPKey.generate_key("Ed25519") if kind == "ed25519" else ECKey.generate_key("P-256"))

    @classmethod
    def parse(cls, document: Any, where: str) -> "ProofKey":
        """Read a private JWK (RFC 7517); raises InvalidInput naming ``where``."""
        try:
            key = _import(document)
            if not key.is_private:
                raise ValueError("there is no private part")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{where}: this is not a private Ed25519 or P-256 key as JWK") from error
        return cls(key)

    def document(self) -> dict[str, Any]:
        """The private JWK: a secret."""
        return dict(self._key.as_dict(private=True))

    def public(self) -> dict[str, Any]:
        """The public JWK."""
        return dict(self._key.as_dict(private=False))

    def prove(self, method: str, uri: str, token: str, now: datetime) -> str:
        """The value of a request's ``DPoP`` header; good for one request."""
        claims = {
            "jti": new_id(),
            "htm": method,
            "htu": normal_uri(uri),
            "iat": int(now.timestamp()),
            "ath": _token_hash(token),
        }
        return self.sign(_PROOF_TYPE, claims)

    def request(self, name: str | None, now: datetime) -> dict[str, Any]:
        """A request for a credential that is bound to this key, as JSON: nothing in it is secret."""
        claims = {"iat": int(now.timestamp()), "name": name}
        return {"dsvault_request": "1.0", "thumbprint": self.thumbprint, "request": self.sign(_REQUEST_TYPE, claims)}

    def sign(self, kind: str, claims: dict[str, Any]) -> str:
        """A JWS of that type over these claims, with the public key in its header."""
        from joserfc import jws

        algorithm = _ALGORITHMS[self._key.key_type]
        header = {"typ": kind, "alg": algorithm, "jwk": self.public()}
        return jws.serialize_compact(
            header, json.dumps(claims).encode(), self._key, registry=signature_registry(_TAKEN)
        )

    def __repr__(self) -> str:
        return f"ProofKey({self.thumbprint})"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that held at a moment: what it is to be remembered by, and until when."""

    digest: bytes
    until: datetime
    at: datetime


def _import(document: Any) -> Any:
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey

    kind = document.get("kty") if isinstance(document, Mapping) else None
    if not isinstance(kind, str) or kind not in _CURVES or document.get("crv") != _CURVES[kind]:
        raise ValueError("not a key of a kind that is taken")
    try:
        return (OKPKey if kind == "OKP" else ECKey).import_key(dict(document))
    except (JoseError, LookupError, TypeError, ValueError) as error:
        raise ValueError("not a key") from error


@functools.lru_cache(maxsize=4096)
def _known(fields: tuple[tuple[str, str], ...]) -> Any:
    """The public key of a JWK that may have come before."""
    return _import(dict(fields))


def _opened(text: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """The key and claims of a JWS that is signed by the key in its own header; raises ValueError."""
    from joserfc import jws
    from joserfc.errors import JoseError

    if len(text) > _MOST or not text.isascii():
        raise ValueError("too long, or not text")
    try:
        held = jws.extract_compact(text.encode(), registry=signature_registry(_TAKEN))
        header = held.headers()
        jwk = header.get("jwk")
        if header.get("typ") != kind or not isinstance(jwk, dict) or jwk.keys() & {"d", "k", "p", "q"}:
            raise ValueError("its header is not one of a proof")
        key = (
            _known(tuple(sorted(jwk.items()))) if all(isinstance(each, str) for each in jwk.values()) else _import(jwk)
        )
        if header.get("alg") not in _NAMES[key.key_type]:
            raise ValueError("its algorithm is not its key's")
        if not jws.validate_compact(held, key, registry=signature_registry(_TAKEN)):
            raise ValueError("it does not verify")
        claims = json.loads(held.payload)
    except (JoseError, TypeError, RecursionError) as error:
        raise ValueError("it does not verify") from error
    if not isinstance(claims, dict):
        raise ValueError("it has no claims")  # noqa: TRY004 -- what comes from outside is a value
    return key, claims


def open_claims(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The signer's thumbprint and the claims of a JWS that `ProofKey.sign` made; raises ValueError for any other."""
    key, claims = _opened(text, kind)
    return str(key.thumbprint()), claims


def check_proof(proof: str, *, thumbprint: str, token: str, method: str, uris: Collection[str], now: datetime) -> Proof:
    """Check a proof for one request as RFC 9449 section 4.3 says; ``uris`` are the names that this place goes by.

    Raises Unauthenticated with the reason, which is for the log and not for the caller. Whether the proof was used
    before is not known here: the caller has to remember its digest until then.
    """
    try:
        key, claims = _opened(proof, _PROOF_TYPE)
    except ValueError as error:
        raise Unauthenticated("the proof is not one") from error
    if not hmac.compare_digest(key.thumbprint(), thumbprint):
        raise Unauthenticated("the proof is by another key")
    unique, issued = claims.get("jti"), claims.get("iat")
    if not isinstance(unique, str) or not 0 < len(unique) <= 256 or not unique.isascii():
        raise Unauthenticated("the proof has no id")
    if isinstance(issued, bool) or not isinstance(issued, int | float) or abs(issued) > 2**40:
        raise Unauthenticated("the proof has no time")
    # Not the other way about: a time that is no number compares as false.
    if not abs(issued - now.timestamp()) <= LIFETIME.total_seconds():
        raise Unauthenticated("the proof is of another time")
    if claims.get("htm") != method:
        raise Unauthenticated("the proof is for another method")
    if not _is_for(claims.get("htu"), uris):
        raise Unauthenticated("the proof is for another address")
    bound = claims.get("ath")
    if not isinstance(bound, str) or not bound.isascii() or not hmac.compare_digest(bound, _token_hash(token)):
        raise Unauthenticated("the proof is for another token")
    digest = hashlib.sha256(f"{thumbprint}.{unique}".encode()).digest()
    # One that is dated ahead is taken for twice the time; clocks of brokers may differ by some seconds.
    return Proof(digest, now + 2 * LIFETIME + _MARGIN, now)


def _is_for(uri: Any, uris: Collection[str]) -> bool:
    try:
        return isinstance(uri, str) and normal_uri(uri) in {normal_uri(each) for each in uris}
    except ValueError:
        return False


@functools.lru_cache(maxsize=1024)
def normal_uri(uri: str) -> str:
    """A URI without query and fragment, with its scheme and host in lower case and no default port (RFC 3986, 6.2).

    Raises ValueError where it is not an http or https URI.
    """
    pieces = urlsplit(uri)
    scheme, host = pieces.scheme.lower(), (pieces.hostname or "").lower()
    if scheme not in _PORTS or not host or pieces.username is not None:
        raise ValueError("not the address of a request")
    port = pieces.port
    shown = f"[{host}]" if ":" in host else host
    place = shown if port in {None, _PORTS[scheme]} else f"{shown}:{port}"
    return f"{scheme}://{place}{pieces.path or '/'}"


def _token_hash(token: str) -> str:
    """RFC 9449 section 4.2: base64url of the SHA-256 of the token's ASCII form."""
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def requested_key(path: "str | os.PathLike[str]") -> str:
    """`read_request` of a file; raises InvalidInput naming it."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"--request: {path}: the file cannot be read ({error.strerror})") from error
    return read_request(data, f"--request: {path}")


def read_request(data: bytes, where: str) -> str:
    """The thumbprint (RFC 7638) of the key that asks for a credential; raises InvalidInput naming ``where``.

    The request is signed by that key: whoever made it had it.
    """
    try:
        document = json.loads(data)
        if not str(document["dsvault_request"]).startswith("1."):
            raise InvalidInput(f"{where}: the request has a format that this release does not know")
        key, _ = _opened(str(document["request"]), _REQUEST_TYPE)
        thumbprint = str(key.thumbprint())
        if not hmac.compare_digest(thumbprint, str(document["thumbprint"])):
            raise ValueError("it is about another key")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{where}: this is not a request for a credential, or was changed") from error
    return thumbprint
