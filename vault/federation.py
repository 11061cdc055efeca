"""Tokens of a vendor's own identity provider (OpenID Connect), in the place of a credential that the lab hands out.

What counts is in a credential that the authority signed: issuer, audience, and the claims that a token must have. The
issuer's keys are fetched from where it publishes them (OpenID Connect Discovery 1.0, RFC 7517), held for some minutes,
and fetched anew when a token names one that is not there: beside the requests, of which none waits for a fetch or
causes more than one in ten seconds. Only HTTPS is spoken, save on loopback; redirects are not followed.
"""

import ipaddress
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, final
from urllib.parse import urlsplit

from vault.errors import InvalidInput, Unauthenticated, Unavailable
from vault.proof import signature_registry

__all__ = ["Issuers", "Provider", "check_claims", "check_token", "check_url", "signed_claims", "token_claims"]

_LOG = logging.getLogger("dsvault.issuers")
_ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
#: How far the issuer's clock may be from ours, in seconds.
SKEW: Final = 60
#: For how long keys count after they were fetched; they are fetched anew when half of it is over.
_HELD: Final = 300.0
#: How often at most one issuer is asked because tokens name keys that are not held, whether or not it answered.
_AGAIN: Final = 10.0
#: How long after it was asked an issuer is asked again that no token waits for.
_LATER: Final = 60.0
#: What a fetch may take in all.
_PATIENCE: Final = 3.0
#: How often it is looked for what is due, and for which issuers there are.
_LOOK_SECONDS: Final = 1.0
_LIST_SECONDS: Final = 10.0
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

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token's claims are those of this issuer, for this audience, with everything that is asked for."""
        named = all(_has_claim(claims, name, value) for name, value in self.claims.items())
        return claims.get("iss") == self.issuer and _has_claim(claims, "aud", self.audience) and named

    def may_be_mistaken_for(self, other: "Provider") -> bool:
        """Whether nothing that is asked for keeps a token of one from being one of the other.

        Two sets of keys are no difference: whose token it is has to be seen from what it says.
        """
        apart = any(other.claims.get(name, value) != value for name, value in self.claims.items())
        return (self.issuer, self.audience) == (other.issuer, other.audience) and not apart


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


def signed_claims(token: str, provider: Provider, issuers: "Issuers") -> dict[str, Any]:
    """The claims of a token that its issuer signed, whatever they say (RFC 7515, RFC 8725).

    Raises Unauthenticated with the reason, also where the issuer's keys cannot be had: anybody may have made the token.
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
    if not isinstance(claims, dict):
        raise Unauthenticated("the token is not one")
    return claims


def check_token(token: str, provider: Provider, issuers: "Issuers", now: datetime) -> dict[str, Any]:
    """The claims of a token that its issuer signed for this audience and that is good now (RFC 7519, RFC 8725).

    Raises Unauthenticated with the reason, for the log.
    """
    claims = signed_claims(token, provider, issuers)
    check_claims(claims, provider, now)
    return claims


def check_claims(claims: Mapping[str, Any], provider: Provider, now: datetime) -> None:
    """Raises Unauthenticated unless a token's claims are what is asked for, and good now."""
    if claims.get("iss") != provider.issuer:
        raise Unauthenticated("the token is of another issuer")
    if not _has_claim(claims, "aud", provider.audience):
        raise Unauthenticated("the token is for another audience")
    _check_times(claims, now.timestamp())
    if not provider.fits(claims):
        raise Unauthenticated("the token lacks a claim")


def _has_claim(claims: Mapping[str, Any], name: str, value: str) -> bool:
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
class _Place:
    """Where keys come from, the keys that were there at ``since``, and when they were asked for last."""

    provider: Provider
    keys: list[Any] = field(default_factory=list)
    since: float = -math.inf
    tried: float = -math.inf
    wanted: bool = False
    busy: bool = False


@final
class Issuers:
    """The published keys of issuers, for one process. Safe for use from several threads.

    Whoever asks for a key gets it from those that are held, or is refused at once: how long a fetch takes, and whether
    there is one, shows in no answer, and no request holds up another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # One issuer may have several sets of keys, each for other tenants: a set counts for nothing else.
        self._places: dict[tuple[str, str | None], _Place] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        import urllib3  # whoever only names a provider need not wait for it

        self._http = urllib3.PoolManager(retries=False)

    def key(self, provider: Provider, name: Any, algorithm: str) -> Any:
        """The issuer's key of that name that fits the algorithm; raises Unauthenticated where none is held.

        One that is not held will be fetched, but not so soon after the last time.
        """
        with self._lock:
            place = self._place(provider)
            held = place.keys if self._clock() - place.since <= _HELD else []
            found = _fitting(held, name, algorithm)
            place.wanted |= found is None
        if found is None:
            self._wake.set()
            raise Unauthenticated("the token is signed by a key that its issuer does not publish")
        return found

    def refresh(self, providers: Iterable[Provider]) -> None:
        """Fetch what is due of these issuers' keys, and of those that tokens asked for; waits three seconds at most."""
        end = time.monotonic() + _PATIENCE
        for thread in self._begin(providers):
            thread.join(max(0.0, end - time.monotonic()))

    @contextmanager
    def kept(self, listed: Callable[[], Iterable[Provider]]) -> Iterator[None]:
        """Hold the keys of the listed issuers, and of those that tokens name, for as long as the context lasts."""
        stop = threading.Event()

        def run() -> None:
            providers, asked = first, time.monotonic()
            while not stop.is_set():
                self._wake.wait(_LOOK_SECONDS)
                self._wake.clear()
                if time.monotonic() - asked > _LIST_SECONDS:
                    providers, asked = _listed(listed, providers), time.monotonic()
                self._begin(providers)
                # Tokens come as fast as anybody likes; what they ask for is looked at ten times a second.
                stop.wait(0.1)

        first = _listed(listed, [])
        self.refresh(first)
        thread = threading.Thread(target=run, name="dsvault-issuers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            self._wake.set()
            thread.join()

    def _place(self, provider: Provider) -> _Place:
        return self._places.setdefault((provider.issuer, provider.keys), _Place(provider))

    def _begin(self, providers: Iterable[Provider]) -> list[threading.Thread]:
        """Begin every fetch that is due, each in a thread of its own: a slow issuer holds up nobody else's."""
        threads = []
        with self._lock:
            listed = {id(self._place(each)) for each in providers}
            now = self._clock()
            for place in self._places.values():
                since = now - place.tried
                stale = id(place) in listed and now - place.since > _HELD / 2 and since > _LATER
                if not place.busy and (stale or (place.wanted and since > _AGAIN)):
                    place.busy, place.wanted, place.tried = True, False, now
                    threads.append(threading.Thread(target=self._fetch, args=(place, now), daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def _fetch(self, place: _Place, began: float) -> None:
        keys = None
        try:
            keys = self._fetched(place.provider, time.monotonic() + _PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever it is, there are no keys, and it may quote what was sent
            host = urlsplit(place.provider.issuer).hostname
            _LOG.warning("the keys of the issuer of tokens at %r cannot be had (%s)", host, type(error).__name__)
        finally:
            with self._lock:
                place.busy = False
                if keys is not None:
                    place.keys, place.since = keys, began

    def _fetched(self, provider: Provider, deadline: float) -> list[Any]:
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        url = provider.keys
        if url is None:
            where = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
            configuration = self._get(where, deadline)
            if configuration.get("issuer") != provider.issuer:
                raise Unavailable("an identity provider says that it is another")
            try:
                url = check_url(str(configuration.get("jwks_uri")), "jwks_uri")
            except InvalidInput as error:
                raise Unavailable("an identity provider's keys cannot be had") from error
        keys = []
        listed = self._get(url, deadline).get("keys")
        for document in listed if isinstance(listed, list) else ():
            try:
                # Keys for other ends stand in the same place: those that signatures are not made with are passed over.
                if document.get("use", "sig") == "sig" and document.get("kty") in {"RSA", "EC", "OKP"}:
                    keys.append((document, import_key({n: v for n, v in document.items() if n not in {"d", "p", "q"}})))
            except (JoseError, ValueError, TypeError, AttributeError, KeyError):
                continue
        return keys

    def _get(self, url: str, deadline: float) -> dict[str, Any]:
        """A JSON document; what came after the deadline, piece by piece, counts for nothing."""
        import urllib3

        try:
            timeout = urllib3.Timeout(total=max(0.001, deadline - time.monotonic()))
            response = self._http.request("GET", url, redirect=False, preload_content=False, timeout=timeout)
            try:
                data = b""
                while time.monotonic() < deadline and len(data) <= _MOST and (piece := response.read1(1 << 16)):
                    data += piece
            finally:
                response.close()
            if response.status != 200 or len(data) > _MOST or time.monotonic() >= deadline:
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


def _listed(listed: Callable[[], Iterable[Provider]], before: list[Provider]) -> list[Provider]:
    """The issuers that there are; those of before where that cannot be read."""
    try:
        return list(listed())
    except Exception as error:  # noqa: BLE001 - what a thread of its own cannot read is read again later
        _LOG.warning("the issuers of tokens cannot be listed (%s)", type(error).__name__)
        return before


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
