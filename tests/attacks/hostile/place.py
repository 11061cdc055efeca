"""Where the attacks happen: a vault behind a real broker, and a vendor that sends whatever it likes."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import urllib3

from tests.conftest import Lab
from tests.support.log import counted
from vault.audit import Entry, Kind, Opener
from vault.client import Client
from vault.wire import CURSOR_KEY, End, Token

#: In every value that the hostile vendor may not see, and in no other.
PLANTED = b"planted"
_CHANGING = {"date", "x-request-id"}


def evals(count: int) -> pa.Table:
    """Rows of which a grant shows some columns, and the half that is in English."""
    numbers = range(count)
    shown = [number % 2 == 0 for number in numbers]
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": [f"prompt {number}" if open_ else f"planted row {number}" for number, open_ in enumerate(shown)],
            "meta": [{"source": f"s{number}", "notes": f"planted note {number}"} for number in numbers],
            "author": [f"planted author {number}" for number in numbers],
            "answer": [f"planted answer {number}" for number in numbers],
            "lang": ["planted-en" if open_ else "planted-de" for open_ in shown],
            "score": [number / 7 for number in numbers],
            "private": [{"notes": f"planted note {number}"} for number in numbers],
        }
    )


@dataclass(frozen=True)
class Said:
    """An answer without what changes from one to the next: its date, and the broker's own random id of the request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def said(response: urllib3.BaseHTTPResponse) -> Said:
    """What an answer says."""
    headers = sorted((name.lower(), value) for name, value in response.headers.items())
    return Said(response.status, tuple(each for each in headers if each[0] not in _CHANGING), response.data)


@dataclass
class Hostile:
    """Raw requests with acme's good bearer credential, unless another is given.

    acme may read id, prompt, meta.source and, redacted, author of ``evals`` where the language is English; ``shared``, as
    globex may; and lease ``leased``, as globex may. globex alone may read, and lease, ``secret``.
    """

    lab: Lab
    endpoint: str
    acme: Token
    globex: Token
    _http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))
    _nothing: Said | None = None
    _read_up_to: int | None = None

    def __post_init__(self) -> None:
        self._nothing = said(self.read({}, name="no-such-dataset"))

    def get(self, path: str, headers: Any = None) -> urllib3.BaseHTTPResponse:
        """Ask for a path."""
        chosen = headers if headers is not None else {"Authorization": self.acme.header()}
        return self._http.request("GET", self.endpoint + path, headers=chosen)

    def post(self, path: str, body: Any, by: Token | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a document, or any bytes, to a path."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = {"Authorization": (by or self.acme).header(), "Content-Type": "application/json"}
        return self._http.request("POST", self.endpoint + path, body=sent, headers=own | headers)

    def read(self, body: Any, name: str = "evals", by: Token | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """Ask for a read."""
        return self.post(f"/v1/datasets/{name}/read", body, by, **headers)

    def lease(self, body: Any, name: str = "leased", by: Token | None = None) -> urllib3.BaseHTTPResponse:
        """Ask for a page of a lease."""
        return self.post(f"/v1/datasets/{name}/lease", body, by)

    def cursor(self, name: str = "shared", by: Token | None = None, **body: Any) -> str:
        """The first cursor of a read that is allowed."""
        answer = self.read(body, name, by)
        assert answer.status == 200, answer.data
        _, metadata = pa.ipc.open_stream(answer.data).read_next_batch_with_custom_metadata()
        return str(metadata[CURSOR_KEY].decode())

    def raw(self, *pieces: bytes, silence: float = 20) -> bytes:
        """Everything that comes back for these bytes until the broker closes the connection, or is silent for a while."""
        place, received = urlsplit(self.endpoint), b""
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=silence) as connection:
            connection.sendall(b"".join(pieces))
            with suppress(TimeoutError, ConnectionResetError):
                while more := connection.recv(65_536):
                    received += more
        return received

    def head(self, method: str, target: str, *lines: str, by: Token | None = None, host: bool = True) -> bytes:
        """A request's head with a good credential and these lines beside."""
        first = [f"{method} {target} HTTP/1.1", *([f"Host: {urlsplit(self.endpoint).netloc}"] if host else [])]
        own = [f"Authorization: {(by or self.acme).header()}"]
        return "\r\n".join([*first, *own, *lines, "", ""]).encode("latin-1")

    def looks_like_nothing(self, response: urllib3.BaseHTTPResponse) -> None:
        """Forbidden or unknown: the answer is the one for a dataset that nobody ever heard of, and holds 0 bytes."""
        problem(response, 404)
        assert said(response) == self._nothing

    @contextmanager
    def recorded(self, *reasons: str, vendor: str = "acme") -> Iterator[list[dict[str, Any]]]:
        """Check that what happens within leaves these refusals in the log, and hand out their fields.

        What is refused before it is known who asks is to be tried with a credential of one's own: only the first of
        those that are alike is an entry at once.
        """
        entries: list[dict[str, Any]] = []
        self._news()
        yield entries
        ids = {found.name: found.id for found in self.lab.vault.vendors()}
        entries += [
            dict(entry.fields)
            for entry in self._news(opened=True)
            if entry.kind is Kind.REFUSED and entry.fields.get("vendor_id") == ids[vendor] and not counted(entry)
        ]
        found = [entry["reason"] for entry in entries]
        assert found == list(reasons), found

    def _news(self, opened: bool = False) -> list[Entry]:
        """What came into the log since the last time, where it is to be opened: to open all of it takes long."""
        parts, found = self.lab.vault.parts, []
        opener = Opener(parts.vault, parts.signers.keys.auditor_secrets())
        with parts.catalog.read() as transaction:
            while rows := transaction.log_rows(self._read_up_to, 1000):
                self._read_up_to = rows[-1].sequence
                found += [opener.open(row.sealed) for row in rows] if opened else []
        return found

    def newcomer(self, name: str) -> Token:
        """A vendor for one test, which may freeze it or end its grants, and its bearer credential."""
        self.lab.vault.add_vendor(name)
        return self.lab.vault.issue_credential(name, bearer=True).profile.token

    def bearer(self) -> Token:
        """A credential of acme's for one test."""
        return self.lab.vault.issue_credential("acme", bearer=True).profile.token

    def bound(self, vendor: str = "acme") -> Client:
        """The vendor's own client, with a credential that is bound to a key."""
        from dataclasses import replace

        profile = self.lab.vault.issue_credential(vendor).profile
        return Client(replace(profile, endpoint=self.endpoint))


def problem(response: urllib3.BaseHTTPResponse, *statuses: int) -> dict[str, Any]:
    """The problem document of a refusal with one of these statuses, which holds nothing hidden and no inner name."""
    assert response.status in statuses, (response.status, response.data[:200])
    assert response.headers["content-type"] == "application/problem+json"
    shown = response.data + repr(dict(response.headers)).encode()
    for hidden in (PLANTED, b"Traceback", b"globex", b"sqlite", b"prompt "):
        assert hidden not in shown
    document: dict[str, Any] = json.loads(response.data)
    return document


def statuses(received: bytes) -> list[int]:
    """The statuses of all answers in what a connection gave."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", received)]


def ids(response: urllib3.BaseHTTPResponse) -> list[int]:
    """The ids that a read gave, which has to be complete."""
    assert response.status == 200, response.data
    assert PLANTED not in response.data
    found: list[int] = []
    with pa.ipc.open_stream(response.data) as reader:
        end = None
        while end is None:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            end = End.from_metadata(metadata)
            found += batch.column("id").to_pylist()
    assert end.problem is None
    return found
