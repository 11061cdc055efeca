"""Tokens of a vendor's own identity provider (OpenID Connect), in the place of a credential that the lab hands out.

What counts is in a credential that the authority signed: issuer, audience, and the claims that a token must have. The
issuer's keys are fetched from where it publishes them (OpenID Connect Discovery 1.0, RFC 7517), held for some minutes,
and fetched anew when a token names one that is not there. Only HTTPS is spoken, save on loopback; redirects are not
followed.
"""

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, final
from urllib.parse import urlsplit

import urllib3

from vault.errors import InvalidInput, Unauthenticated, Unavailable
from vault.proof import signature_registry

__all__ = ["Issuers", "Provider", "check_token", "check_url", "has_claim", "token_claims"]

_ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
#: How far the issuer's clock may be from ours, in seconds.
SKEW: Final = 60
_HELD: Final = 300.0
_AGAIN: Final = 10.0
_MOST: Final = 1 << 20
_LONGEST: Final = 16_384


@dataclass(frozen=True, slots=True)
class Provider:
    """Who may sign for a vendor: the issuer and audience of its tokens, claims that they must have, and the keys' URL.

    Without ``keys`` the issuer's own configuration says where they are. A claim that is a list must hold the value.
    """

    issuer: str
    audience: str
    claims: Mapping[str, str]
    keys: str | None = None


def check_url(url: str, option: str) -> str:
    """A URL that keys may be fetched from; raises InvalidInput naming the option."""
    try:
        pieces = urlsplit(url)
        plain = pieces.scheme == "http" and _is_loopback(pieces.hostname)
        good = bool(pieces.hostname) and (pieces.scheme == "https" or plain) and pieces.username is None
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(f"{option}: {url[:200]!r} is not an https URL")
    return url


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def token_claims(token: str) -> dict[str, Any]:
    """The claims of a token whose signature has not been checked: to find whose keys to check it by, for nothing else.

    Raises Unauthenticated where it is no token.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        if len(token) > _LONGEST:
            raise ValueError("too long")
        claims = json.loads(jws.extract_compact(token.encode()).payload)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated("the token is not one") from error
    if not isinstance(claims, dict):
        raise Unauthenticated("the token is not one")
    return claims


def check_token(token: str, provider: Provider, issuers: "Issuers", now: datetime) -> dict[str, Any]:
    """The claims of a token that its issuer signed for this audience and that is good now (RFC 7519, RFC 8725).

    Raises Unauthenticated with the reason, for the log, and Unavailable where the issuer's keys cannot be had.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    registry = signature_registry(_ALGORITHMS)
    try:
        header = jws.extract_compact(token.encode()).headers()
        if header.get("alg") not in _ALGORITHMS or "crit" in header:
            raise Unauthenticated("the token is signed in a way that is not taken")
        key = issuers.key(provider, header.get("kid"), str(header["alg"]))
        claims = json.loads(jws.deserialize_compact(token, key, registry=registry).payload)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated("the token is not signed by its issuer") from error
    audience = claims.get("aud")
    if claims.get("iss") != provider.issuer:
        raise Unauthenticated("the token is of another issuer")
    if provider.audience not in (audience if isinstance(audience, list) else [audience]):
        raise Unauthenticated("the token is for another audience")
    _check_times(claims, now.timestamp())
    for name, value in provider.claims.items():
        if not has_claim(claims, name, value):
            raise Unauthenticated("the token lacks a claim")
    return dict(claims)


def has_claim(claims: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a claim is this text, or a list that holds it."""
    found = claims.get(name)
    return value in found if isinstance(found, list) else found == value


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    def moment(name: str) -> float | None:
        found = claims.get(name)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise Unauthenticated("the token's times are not numbers")
        return found

    end, begin, issued = moment("exp"), moment("nbf"), moment("iat")
    if end is None or not now - SKEW < end:
        raise Unauthenticated("the token has expired")
    if any(each is not None and not each <= now + SKEW for each in (begin, issued)):
        raise Unauthenticated("the token is of the future")


@dataclass(slots=True)
class _Kept:
    keys: list[Any]
    since: float


@final
class Issuers:
    """The published keys of issuers, for one process. Safe for use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # One issuer may have several sets of keys, each for other tenants: a set counts for nothing else.
        self._kept: dict[tuple[str, str | None], _Kept] = {}
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str | None], threading.Lock] = {}
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=5), retries=False)

    def key(self, provider: Provider, name: Any, algorithm: str) -> Any:
        """The issuer's key of that name that fits the algorithm; raises Unauthenticated or Unavailable."""
        place = (provider.issuer, provider.keys)
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:  # one fetch for all who ask about one issuer at once; a slow one holds up nobody else's
            kept = self._kept.get(place)
            now = self._clock()
            if kept is None or now - kept.since > _HELD:
                kept = self._fetched(provider)
            found = _fitting(kept.keys, name, algorithm)
            if found is None and now - kept.since > _AGAIN:
                found = _fitting(self._fetched(provider).keys, name, algorithm)
        if found is None:
            raise Unauthenticated("the token is signed by a key that its issuer does not publish")
        return found

    def _fetched(self, provider: Provider) -> _Kept:
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        url = provider.keys
        if url is None:
            where = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
            configuration = self._get(where)
            if configuration.get("issuer") != provider.issuer:
                raise Unavailable("an identity provider says that it is another")
            try:
                url = check_url(str(configuration.get("jwks_uri")), "jwks_uri")
            except InvalidInput as error:
                raise Unavailable("an identity provider's keys cannot be had") from error
        keys = []
        listed = self._get(url).get("keys")
        for document in listed if isinstance(listed, list) else ():
            try:
                # Keys for other ends stand in the same place: those that signatures are not made with are passed over.
                if document.get("use", "sig") == "sig" and document.get("kty") in {"RSA", "EC", "OKP"}:
                    keys.append((document, import_key({n: v for n, v in document.items() if n not in {"d", "p", "q"}})))
            except (JoseError, ValueError, TypeError, AttributeError, KeyError):
                continue
        kept = self._kept[provider.issuer, provider.keys] = _Kept(keys, self._clock())
        return kept

    def _get(self, url: str) -> dict[str, Any]:
        try:
            response = self._http.request("GET", url, redirect=False, preload_content=False)
            data = response.read(_MOST + 1)
            response.release_conn()
            if response.status != 200 or len(data) > _MOST:
                raise ValueError("not an answer")
            document = json.loads(data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
            raise Unavailable("an identity provider's keys cannot be had") from error
        if not isinstance(document, dict):
            raise Unavailable("an identity provider's keys cannot be had")
        return document


_KINDS: Final = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}


def _fitting(keys: list[Any], name: Any, algorithm: str) -> Any:
    """The one key of that name and kind; of several without a name none is chosen."""
    kind, curve = _KINDS[algorithm]
    fitting = [
        key
        for document, key in keys
        if document.get("kty") == kind
        and (curve is None or document.get("crv") == curve)
        and document.get("alg", algorithm) in {algorithm, "EdDSA" if kind == "OKP" else algorithm}
        and (name is None or document.get("kid") == name)
    ]
    return fitting[0] if len(fitting) == 1 else None
