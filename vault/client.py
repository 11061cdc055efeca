"""The vendor's side: open a granted slice with nothing but a profile file.

Needs no vault, no KMS and no catalog. A read that does not end as the broker said it would end raises; it
never yields a shorter table. Plain HTTP is used on loopback only.
"""

import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pyarrow as pa
import urllib3

from vault._version import __version__
from vault.delegation import delegate as _delegate
from vault.encoding import LONGEST, timestamp, utcnow
from vault.errors import Conflict, InvalidInput, NotGranted, Unauthenticated, Unavailable
from vault.proof import LIFETIME, ProofKey, requested_key
from vault.wire import (
    ARROW_TYPE,
    COMPRESSIONS,
    CURSOR_KEY,
    DELEGATION_HEADER,
    End,
    OfferedGrant,
    Profile,
    Token,
    error_from_problem,
)

__all__ = ["Client", "Dataset", "connect", "connect_with_token", "delegate", "new_request"]

_MAX_ANSWER = 64 << 20
#: For how long a read waits for the broker to come back.
PATIENCE: Final = timedelta(seconds=60)
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0


def connect(
    profile: "str | os.PathLike[str]",
    key: "str | os.PathLike[str] | None" = None,
    *,
    compression: str | None = None,
    patience: timedelta = PATIENCE,
) -> "Client":
    """Open a profile file; raises InvalidInput when it cannot be read or used. Nothing is sent yet.

    ``key`` is the file of the private key that the credential is bound to, where the profile does not hold it; by
    default it is looked for among the files beside the profile whose names end in ``.key.json``. ``compression`` of
    what is sent is ``none``, ``lz4`` or ``zstd``, by default ``none`` on loopback and ``zstd`` elsewhere. A read whose
    connection breaks goes on where it was, without a row lost or doubled, for as long as something comes within
    ``patience``.
    """
    path = Path(profile)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: the profile cannot be read ({error.strerror})") from error
    parsed = Profile.parse(data, str(path))
    own = _key_of(parsed, path, Path(key) if key is not None else None)
    return Client(parsed, own, compression=compression, patience=patience)


def connect_with_token(
    endpoint: str,
    token: Callable[[], str],
    *,
    compression: str | None = None,
    patience: timedelta = PATIENCE,
) -> "Client":
    """A client that presents the tokens of your own identity provider, where the lab accepts those.

    ``token`` is asked for one before each request, so that it may be renewed. Raises InvalidInput for an endpoint that
    is not https.
    """
    profile = Profile(endpoint, "", "", Token("", b""), "", "")
    return Client(profile, compression=compression, patience=patience, token=token)


def _key_of(profile: Profile, path: Path, given: Path | None) -> ProofKey | None:
    """The private key of a credential that is bound to one; raises InvalidInput where it is not to be found."""
    if profile.thumbprint is None:
        return None
    if given is None and profile.key is not None:
        key = ProofKey.parse(profile.key, str(path))
        if key.thumbprint != profile.thumbprint:
            raise InvalidInput(f"{path}: the key in the profile is not the one that its credential is bound to")
        return key
    for candidate in [given] if given is not None else sorted(path.parent.glob("*.key.json")):
        found = _read_key(candidate)
        if found.thumbprint == profile.thumbprint:
            return found
        if given is not None:
            raise InvalidInput(f"{given}: this is not the key that the profile's credential is bound to")
    raise InvalidInput(
        f"{path}: the private key that asked for this credential is not beside the profile; name its file with --key"
    )


def _own_key(profile: Profile) -> ProofKey | None:
    """The key that a profile holds itself, if its credential is bound to one."""
    if profile.thumbprint is None:
        return None
    if profile.key is None:
        raise InvalidInput("the profile's credential is bound to a key, which is not in the profile")
    return ProofKey.parse(profile.key, "the profile")


def _read_key(path: Path) -> ProofKey:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: the key cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: this is not a private Ed25519 or P-256 key as JWK") from error
    return ProofKey.parse(document, str(path))


def delegate(
    profile: "str | os.PathLike[str]",
    to: str,
    output: "str | os.PathLike[str]",
    *,
    expires: timedelta,
    dataset: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    request: "str | os.PathLike[str] | None" = None,
    key: "str | os.PathLike[str] | None" = None,
) -> str:
    """Hand a part of a profile's access on, without asking anybody: writes a profile for ``to``, returns its id.

    It is good for these columns, and the rows that ``where`` keeps (over all columns that the profile may read), until
    it or anything that it comes from ends. ``request`` is the file of a key that the other side made; else one is made
    for it. Raises InvalidInput.
    """
    own = connect(profile, key)
    parsed, signer = own.profile, own.key
    if signer is None:
        raise InvalidInput(f"{profile}: a bearer credential is bound to no key, so it cannot be delegated")
    now = utcnow()
    if not timedelta(0) < expires <= LONGEST:
        raise InvalidInput("--expires: give a time in the future, and not a hundred years ahead")
    made = ProofKey.create() if request is None else None
    thumbprint = made.thumbprint if made is not None else requested_key(str(request))
    link, identity = _delegate(
        signer,
        credential=parsed.token.credential,
        chain=parsed.delegations,
        to=to,
        thumbprint=thumbprint,
        now=now,
        expires=now + expires,
        dataset=dataset,
        columns=columns,
        where=where,
    )
    narrowed = replace(
        parsed,
        thumbprint=thumbprint,
        key=made.document() if made is not None else None,
        expires=min(parsed.expires, timestamp(now + expires)),
        delegations=(*parsed.delegations, link),
    )
    _write_new(Path(output), narrowed.document())
    return identity


def new_request(
    request: "str | os.PathLike[str]", key: "str | os.PathLike[str]", kind: str = "ed25519", name: str | None = None
) -> str:
    """Make a private key and a request for a credential that is bound to it, in two files; returns its thumbprint.

    Raises InvalidInput where a file exists or cannot be written; then neither is left.
    """
    made = ProofKey.create(kind)
    _write_new(Path(key), made.document())
    try:
        _write_new(Path(request), made.request(name, utcnow()))
    except InvalidInput:
        Path(key).unlink()
        raise
    return made.thumbprint


def _write_new(path: Path, document: dict[str, Any]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InvalidInput(f"{path}: the file exists already and is not overwritten") from error
    except OSError as error:
        raise InvalidInput(f"{path}: the file cannot be written ({error.strerror})") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=2) + "\n")


class Client:
    """A connection to a broker under one credential. Safe for use from several threads."""

    def __init__(
        self,
        profile: Profile,
        key: ProofKey | None = None,
        *,
        compression: str | None = None,
        patience: timedelta = PATIENCE,
        token: Callable[[], str] | None = None,
    ) -> None:
        self._token = token
        if compression is not None and compression not in COMPRESSIONS:
            raise InvalidInput(f"compression: use one of {', '.join(COMPRESSIONS)}")
        self.profile = profile
        self._patience = patience
        self.key = key if key is not None else _own_key(profile)
        self._endpoint = _checked_endpoint(profile.endpoint)
        near = _is_loopback(urlsplit(self._endpoint).hostname)
        self._compression = compression or ("none" if near else "zstd")
        self._http = urllib3.PoolManager(
            headers={"User-Agent": f"dsvault/{__version__}"},
            timeout=urllib3.Timeout(connect=10, read=60),
            retries=False,
        )

    def datasets(self) -> list[str]:
        """The names of the datasets that are granted, sorted."""
        return sorted({grant.dataset for grant in self.grants()})

    def grants(self) -> list[OfferedGrant]:
        """Every live grant with what it offers."""
        with self._call("GET", "/v1/datasets", None) as response:
            document = _json(_whole(response))
        entries = document.get("grants")
        if not isinstance(entries, list):
            raise Unavailable("the broker's answer is not one that this client understands")
        return [OfferedGrant.parse(entry) for entry in entries]

    def dataset(self, name: str) -> "Dataset":
        """A granted dataset; raises NotGranted when nothing of that name is granted."""
        dataset = Dataset(self, name)
        if not dataset.grants:
            raise NotGranted("no dataset or column of that name is granted to you")
        return dataset

    def open(self, name: str) -> "Dataset":
        """A dataset by name without asking the broker yet; a read of one that is not granted is refused."""
        return Dataset(self, name)

    def read(self, name: str, body: dict[str, Any]) -> pa.RecordBatchReader:
        """Begin a read; raises what the broker refuses it with."""
        path = f"/v1/datasets/{quote(name, safe='')}/read"
        asked = {**body, "compression": self._compression}

        def send(cursor: str | None) -> urllib3.BaseHTTPResponse:
            more = {"cursor": cursor} if cursor is not None else {}
            return self._send("POST", path, json.dumps(asked | more).encode())

        return _Read(send, self._patience).reader()

    @contextmanager
    def _call(self, method: str, path: str, body: bytes | None) -> Iterator[urllib3.BaseHTTPResponse]:
        response = self._send(method, path, body)
        try:
            yield response
        finally:
            response.release_conn()

    def _send(self, method: str, path: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        """Send a request and return the answer with its body unread; raises what a problem stands for."""
        headers = dict(self._http.headers) | ({"Content-Type": "application/json"} if body else {})
        now = utcnow()
        own = self._token
        headers["Authorization"] = f"Bearer {own()}" if own is not None else self.profile.token.header()
        if self.key is not None:
            if self.profile.delegations:
                headers[DELEGATION_HEADER] = ",".join(self.profile.delegations)
            headers["DPoP"] = self.key.prove(method, self._endpoint + path, self.profile.token.text, now)
        try:
            response = self._http.request(
                method, self._endpoint + path, body=body, headers=headers, preload_content=False, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(self._endpoint, error) from error
        if response.status == 200:
            return response
        document = _json(_whole(response))
        response.release_conn()
        refusal = error_from_problem(document)
        if isinstance(refusal, Unauthenticated) and self.key is not None:
            _blame_the_clock(response.headers.get("date"), now)
        raise refusal

    def __repr__(self) -> str:
        return f"Client({self.profile.vendor} at {self._endpoint})"


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
    return Unavailable(f"the broker at {where} cannot be reached ({type(error).__name__})")


def _whole(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        data = response.read(_MAX_ANSWER)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable("the other end", error) from error
    if len(data) >= _MAX_ANSWER:
        raise Unavailable("the broker's answer is too long")
    return data


def _json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _checked_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme == "https" and parts.hostname:
        return endpoint.rstrip("/")
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return endpoint.rstrip("/")
    raise InvalidInput("the profile's endpoint must be https, or http on this machine's loopback")


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class _Body:
    """A response's body as a file that Arrow reads from."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return self._response.read(size if size >= 0 else None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
        self._response.close()


class _CutOff(Unavailable):
    """A stream that did not come to the end that the broker speaks of."""

    def __init__(self) -> None:
        super().__init__("the stream was cut off before its end; nothing of it can be relied on")


class _Read:
    """One read over as many connections as it takes."""

    def __init__(self, send: Callable[[str | None], urllib3.BaseHTTPResponse], patience: timedelta) -> None:
        self._send = send
        self._patience = patience
        self._cursor: str | None = None
        self._came = False
        self._wait = _FIRST_WAIT
        self._heard = time.monotonic()

    def reader(self) -> pa.RecordBatchReader:
        """The first connection's schema, and the batches of all."""
        stream = self._opened(self._send(None))
        return pa.RecordBatchReader.from_batches(stream.schema, self._batches(stream))

    @staticmethod
    def _opened(response: urllib3.BaseHTTPResponse) -> Any:
        if response.headers.get("content-type") != ARROW_TYPE:
            raise Unavailable("the broker's answer is not a stream of Arrow rows")
        try:
            return pa.ipc.open_stream(pa.PythonFile(_Body(response), mode="r"))
        except (pa.ArrowException, OSError, urllib3.exceptions.HTTPError) as error:
            raise _CutOff from error

    def _batches(self, stream: Any) -> Iterator[pa.RecordBatch]:
        schema, whole = stream.schema, False
        while not whole:
            try:
                yield from self._part(stream)
                whole = True
            except _CutOff as error:
                stream = self._again(schema, error)

    def _part(self, stream: Any) -> Iterator[pa.RecordBatch]:
        """The batches of one connection; raises what the broker ended it with."""
        rows = 0
        while True:
            try:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
                end = End.from_metadata(metadata)
            except (StopIteration, pa.ArrowException, OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                raise _CutOff from error
            if end is None:
                rows += batch.num_rows
                self._came = True
                # The place behind this batch: it is remembered as the batch is handed over, and not before.
                place = metadata.get(CURSOR_KEY) if metadata is not None else None
                self._cursor = place.decode("ascii", "replace") if place is not None else None
                yield batch
                # What the reader did with the batch meanwhile is no silence of the broker's.
                self._heard, self._wait = time.monotonic(), _FIRST_WAIT
                continue
            if end.problem is not None:
                raise error_from_problem(end.problem)
            if end.rows != rows:
                raise _CutOff
            stream.close()
            return

    def _again(self, schema: pa.Schema, error: Unavailable) -> Any:
        """A new connection that goes on behind the last batch; raises ``error`` when none can be had in time."""
        if self._came and self._cursor is None:
            raise error
        while time.monotonic() - self._heard + self._wait <= self._patience.total_seconds():
            time.sleep(self._wait)
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            try:
                stream = self._opened(self._send(self._cursor))
            except Unavailable:
                continue
            if not stream.schema.equals(schema):
                break
            return stream
        raise error


@dataclass(frozen=True)
class Dataset:
    """A granted dataset. Works wherever Arrow's C stream interface does (`__arrow_c_stream__`)."""

    client: Client
    name: str

    @cached_property
    def grants(self) -> list[OfferedGrant]:
        """The grants on this dataset."""
        return [grant for grant in self.client.grants() if grant.dataset == self.name]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of what is granted; raises Conflict when several grants offer different ones."""
        schemas = [grant.schema for grant in self.grants]
        if any(not schema.equals(schemas[0]) for schema in schemas):
            names = ", ".join(grant.grant for grant in self.grants)
            raise Conflict(f"several grants offer different columns; see .grants and name one of: {names}")
        return schemas[0]

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        grant: str | None = None,
    ) -> pa.RecordBatchReader:
        """Read a slice: ``columns`` in that order, the rows that ``where`` keeps, at most ``limit``.

        Raises NotGranted, Frozen, Conflict, InvalidInput or Unavailable; while reading also Unavailable for a
        stream that was cut off.
        """
        body: dict[str, Any] = {"columns": list(columns) if columns is not None else None}
        body |= {"where": where, "limit": limit, "grant": grant}
        return self.client.read(self.name, {key: value for key, value in body.items() if value is not None})

    def to_arrow(self, **options: Any) -> pa.Table:
        """The slice as a table; takes the options of `scan`."""
        return self.scan(**options).read_all()

    def to_pandas(self, **options: Any) -> Any:
        """The slice as a pandas DataFrame; takes the options of `scan`. Needs pandas."""
        return self.to_arrow(**options).to_pandas()

    def to_polars(self, **options: Any) -> Any:
        """The slice as a polars DataFrame; takes the options of `scan`. Needs polars."""
        import polars as pl  # an optional extra

        return pl.DataFrame(self.to_arrow(**options))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The whole granted slice through Arrow's C stream interface."""
        return self.scan().__arrow_c_stream__(requested_schema)
