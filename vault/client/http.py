"""Requests to a broker under one credential, each with its proof, and what the answers stand for."""

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3

from vault._version import __version__
from vault.client.trust import Trust
from vault.encoding import utcnow
from vault.errors import InvalidInput, Unauthenticated, Unavailable
from vault.networks import check_endpoint, is_loopback, is_private
from vault.proof import LIFETIME, ProofKey
from vault.wire import DELEGATION_HEADER, Profile, error_from_problem

__all__ = ["FIRST_WAIT", "PATIENCE", "Connection", "Patience"]

_MAX_ANSWER = 64 << 20
_JSON: Final = "application/json"
#: For how long a read waits for the broker to come back.
PATIENCE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
#: When a refused token is sent once more.
_AGAIN_SECONDS: Final = 1.0
#: What OpenSSL says when the other end answers with something else than TLS.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_MOST_CAUSES: Final = 20


class Patience:
    """How long a read goes on asking while nothing comes: with longer and longer waits, for so many seconds in all."""

    def __init__(self, patience: timedelta) -> None:
        self._seconds = patience.total_seconds()
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._heard, self._wait = time.monotonic(), FIRST_WAIT

    def wait(self, failure: Unavailable) -> None:
        """Wait before asking again; raises ``failure`` where nothing would have come for too long."""
        if time.monotonic() - self._heard + self._wait > self._seconds:
            raise failure
        time.sleep(self._wait)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


class Connection:
    """Sends requests to one broker. Safe for use from several threads."""

    def __init__(
        self, profile: Profile, key: ProofKey | None, token: Callable[[], str] | None, trust: Trust | None = None
    ) -> None:
        self._token = token
        self._profile = profile
        self.key = key if key is not None else _own_key(profile)
        self.endpoint = check_endpoint(profile.endpoint, "the profile's endpoint" if token is None else "--endpoint")
        self._trust = trust or Trust()
        self._connect()

    def _connect(self) -> None:
        self._http = _pool(self._trust.broker_context())
        self._store: urllib3.PoolManager | None = None
        self._process = os.getpid()

    def _stores(self) -> urllib3.PoolManager:
        """Connections to the lab's store, which most slices need none of: the system's authorities take 25 ms to read.

        It is shown no certificate of this client's: it is not whom that is for.
        """
        if self._store is None:
            self._store = _pool(self._trust.store_context())
        return self._store

    def _look_whose(self) -> None:
        """A process that was forked has connections of its own: what comes on its parent's is not for it."""
        if self._process != os.getpid():
            self._connect()

    @property
    def near(self) -> bool:
        """Whether the broker is on this machine."""
        return is_loopback(urlsplit(self.endpoint).hostname)

    def send(self, method: str, path: str, body: bytes | None, content_type: str = _JSON) -> urllib3.BaseHTTPResponse:
        """Send a request and return the answer with its body unread; raises what a problem stands for.

        A token of an identity provider's that is refused is asked for and sent once more: the broker gets a key that is
        new to it beside the requests, of which none waits for that.
        """
        try:
            return self._sent(method, path, body, content_type)
        except Unauthenticated:
            if self._token is None:
                raise
        time.sleep(_AGAIN_SECONDS)
        return self._sent(method, path, body, content_type)

    def _sent(self, method: str, path: str, body: bytes | None, content_type: str) -> urllib3.BaseHTTPResponse:
        self._look_whose()
        headers = dict(self._http.headers) | ({"Content-Type": content_type} if body else {})
        now = utcnow()
        own = self._token
        headers["Authorization"] = f"Bearer {own()}" if own is not None else self._profile.token.header()
        if self.key is not None:
            if self._profile.delegations:
                headers[DELEGATION_HEADER] = ",".join(self._profile.delegations)
            headers["DPoP"] = self.key.prove(method, self.endpoint + path, self._profile.token.text, now)
        response = self._request(method, self.endpoint + path, body, headers)
        if response.status == 200:
            return response
        document = _json_of(_whole(response))
        response.release_conn()
        refusal = error_from_problem(document)
        if isinstance(refusal, Unauthenticated) and self.key is not None:
            _blame_the_clock(response.headers.get("date"), now)
        raise refusal

    def answer(self, method: str, path: str, body: bytes | None = None, content_type: str = _JSON) -> dict[str, Any]:
        """Send a request and return the JSON document of its answer."""
        response = self.send(method, path, body, content_type)
        try:
            return _json_of(_whole(response))
        finally:
            response.release_conn()

    def get(self, address: str, size: int, start: int | None = None) -> tuple[int, bytes]:
        """The status and the body of an address that needs no credential, a path at the broker or one of a store.

        With ``start`` only ``size`` bytes from there on are asked for, which is answered with 206. Of a body no more is
        read than one byte beyond ``size``. Raises Unavailable, also for an address that is neither
        https nor on this machine.
        """
        own = address.startswith("/")
        if not own and not is_private(address):
            raise Unavailable("the lab's store is neither https nor on this machine, so nothing is fetched from it")
        url, whose = (self.endpoint + address, "broker") if own else (address, "store")
        self._look_whose()
        pool = self._http if own else self._stores()
        headers = dict(pool.headers)
        if start is not None:
            headers["Range"] = f"bytes={start}-{start + size - 1}"
        response = self._request("GET", url, None, headers, whose, pool)
        try:
            data = response.read(size + 1)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise _unreachable("the other end", error) from error
        if len(data) > size:
            response.close()  # the rest of it is not read as another answer
        response.release_conn()
        return response.status, data

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        whose: str = "broker",
        pool: urllib3.PoolManager | None = None,
    ) -> urllib3.BaseHTTPResponse:
        try:
            return (pool or self._http).request(
                method, url, body=body, headers=headers, preload_content=False, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            parts = urlsplit(url)
            raise _unreachable(f"the {whose} at {parts.scheme}://{parts.netloc}", error) from error
        except ValueError:
            pass  # its words, and the traceback that they stand in, hold the header and so the token
        raise InvalidInput(
            "the token or the profile holds characters that no request can carry: a token is one line of printable "
            "ASCII; get it anew"
        )


def _pool(context: ssl.SSLContext) -> urllib3.PoolManager:
    return urllib3.PoolManager(
        headers={"User-Agent": f"dsvault/{__version__}"},
        timeout=urllib3.Timeout(connect=10, read=60),
        retries=False,
        maxsize=16,
        ssl_context=context,
    )


def _blame_the_clock(date: str | None, now: datetime) -> None:
    """A request that is dated wrongly is refused without a word: raises Unauthenticated with why where it shows."""
    try:
        ahead = now - parsedate_to_datetime(date or "")
    except ValueError:
        return
    if abs(ahead) >= LIFETIME - timedelta(seconds=5):
        seconds, way = abs(int(ahead.total_seconds())), "ahead of" if ahead > timedelta(0) else "behind"
        raise Unauthenticated(
            f"the broker refused the request; this machine's clock is {seconds} s {way} the broker's: set it right"
        )


def _unreachable(where: str, error: Exception) -> Unavailable:
    return Unavailable(f"{where} cannot be reached: {_meaning(error)}")


def _meaning(error: Exception) -> str:
    """What a failed connection says about the broker, the way there, or an option that may be missing."""
    cause = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if cause is not None:
        return _tls_meaning(cause)
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "its name is not known here"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "nothing answers there; is the broker running?"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "it did not answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError | OSError):
        return (
            "the connection was closed without a whole answer; does the broker want https, or a certificate of yours "
            "(--client-cert)?"
        )
    return f"the answer is not one ({type(error).__name__})"


def _tls_meaning(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); --ca names the authority that it is of"
    reason = error.reason or ""
    if reason in _NO_TLS:
        return "the endpoint speaks no TLS; is it http?"
    if "CERTIFICATE" in reason or reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
        return "it asks for a certificate of yours, or does not take this one (--client-cert, --client-key)"
    return f"TLS failed ({reason.lower().replace('_', ' ') or 'without a reason'})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it stands for: urllib3 keeps them among its arguments or as what it came from."""
    found: list[BaseException | None] = [error]
    for _ in range(_MOST_CAUSES):
        if not found:
            return
        each = found.pop(0)
        if each is not None:
            yield each
            found += [argument for argument in each.args if isinstance(argument, BaseException)]
            found += [each.__cause__, each.__context__]


def _whole(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        data = response.read(_MAX_ANSWER)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable("the other end", error) from error
    if len(data) >= _MAX_ANSWER:
        raise Unavailable("the broker's answer is too long")
    return data


def _json_of(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _own_key(profile: Profile) -> ProofKey | None:
    """The key that a profile holds itself, if its credential is bound to one."""
    if profile.thumbprint is None:
        return None
    if profile.key is None:
        raise InvalidInput("the profile's credential is bound to a key, which is not in the profile")
    return ProofKey.parse(profile.key, "the profile")
