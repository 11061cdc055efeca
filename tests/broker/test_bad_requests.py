"""Requests that are wrong in themselves: one kind of answer for all, with nothing of the broker's in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.brokers import broker, running_broker
from tests.support.raw import Answer, answer, ask, connect

_READ = b"/v1/datasets/evals/read"


@dataclass(frozen=True)
class _Asked:
    """A broker, and the header of somebody whom it knows."""

    endpoint: str
    token: bytes

    def post(self, body: bytes, *lines: bytes, path: bytes = _READ, kind: bytes | None = b"application/json") -> Answer:
        """A read with this body."""
        head = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Authorization: " + self.token]
        head += [b"Content-Type: " + kind] if kind is not None else []
        head += [b"Content-Length: %d" % len(body), *lines]
        return ask(self.endpoint, b"\r\n".join(head) + b"\r\n\r\n" + body)

    def send(self, *lines: bytes, body: bytes = b"") -> Answer:
        """Any request."""
        return ask(self.endpoint, b"\r\n".join(lines) + b"\r\n\r\n" + body)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Asked]:
    """A broker with a dataset that one vendor may read."""
    import vault
    from tests.support.tables import rows

    folder = tmp_path_factory.mktemp("bad") / "lab"
    lab = Lab(folder, vault.init(folder))
    lab.vault.add_vendor("acme")
    lab.vault.publish("evals", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id", "prompt"])
    token = lab.vault.issue_credential("acme", bearer=True).profile.token.header().encode()
    with broker(folder) as endpoint:
        yield _Asked(endpoint, token)


def _check(found: Answer, status: int, kind: str) -> None:
    """A problem of that status and kind, with an id, that tells nothing of what runs here."""
    assert found.status == status, found
    assert found.problem["type"] == f"urn:dsvault:{kind}"
    assert re.fullmatch("[0-9a-f]{32}", found.headers["x-request-id"])
    assert found.headers["cache-control"] == "no-store"
    told = (found.body + json.dumps(found.headers).encode()).lower()
    for word in (
        b"traceback",
        b"uvicorn",
        b"h11",
        b"httptools",
        b"starlette",
        b"fastapi",
        b"pydantic",
        b"python",
        b"vault/",
        b".py",
    ):
        assert word not in told


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        (b"GET", b"/", 404, "not-found"),
        (b"GET", b"/nowhere", 404, "not-found"),
        (b"GET", b"/docs", 404, "not-found"),
        (b"GET", b"/%ff%fe/%00", 404, "not-found"),
        (b"GET", b"http://other.example/v1/datasets", 400, "invalid"),
        (b"OPTIONS", b"*", 400, "invalid"),
        (b"CONNECT", b"example.test:443", 400, "invalid"),
        (b"GET", b"/v1/objects/" + b"x" * 4096, 404, "not-granted"),
        (b"DELETE", b"/v1/datasets", 405, "invalid"),
        (b"PROPFIND", b"/v1/datasets", 405, "invalid"),
        (b"BREW", b"/v1/datasets", 400, "invalid"),
        (b"GET", _READ, 405, "invalid"),
        (b"GET", b"/v1/objects/" + b"x" * 4609, 414, "invalid"),
        (b"GET", b"/healthz?" + b"x" * 1025, 414, "invalid"),
    ],
)
def test_what_is_asked_of_no_page_is_a_problem(
    asked: _Asked, method: bytes, path: bytes, status: int, kind: str
) -> None:
    """Unknown addresses, methods that an address does not take, and addresses that are too long."""
    _check(asked.send(method + b" " + path + b" HTTP/1.1", b"Host: x", b"Authorization: " + asked.token), status, kind)


def test_what_an_address_takes_is_said(asked: _Asked) -> None:
    """All of its methods, over all routes of that address (RFC 9110 section 10.2.1)."""
    refused = asked.send(b"PUT /v1/objects/x HTTP/1.1", b"Host: x")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe{}",
        b'{"grant": "\xff"}',
        b'{"grant": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"columns": ["\\ud800"]}',
        b'{"where": "\\ud800 = 1"}',
        b"[" * 30_000,
        b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        b'{"limit": ' + b"9" * 10_000 + b"}",
        b'{"limit": 1e400}',
        b'{"limit": NaN}',
        b'{"limit": true}',
        b'{"limit": -1}',
        b"[]",
        b"null",
        b'"text"',
        b"",
        b'{"unheard of": 1}',
        b'{"columns": "id"}',
    ],
    ids=repr,
)
def test_a_body_that_is_not_one_is_refused(asked: _Asked, body: bytes) -> None:
    """Whatever is wrong with it: no JSON, no text, nested too deeply, of another shape."""
    _check(asked.post(body), 400, "invalid")


def test_a_body_has_to_be_json(asked: _Asked) -> None:
    """By its type too: a browser's form cannot ask for anything."""
    for kind in (
        None,
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"\xff",
    ):
        _check(asked.post(b"{}", kind=kind), 415, "invalid")
    _check(asked.post(b"{}", b"Content-Type: application/json"), 415, "invalid")
    assert asked.post(b"{}", kind=b"Application/JSON; charset=utf-8").status == 200


def test_a_body_is_bounded_by_what_it_says_and_by_what_it_is(asked: _Asked) -> None:
    """64 KiB fit; more is refused before it is read, and so is a body whose length is not said."""
    padded = b"{" + b" " * (64 * 1024 - 2) + b"}"
    assert asked.post(padded).status == 200
    _check(asked.post(padded + b" "), 413, "invalid")
    head = (b"POST " + _READ + b" HTTP/1.1", b"Host: x", b"Content-Type: application/json")
    _check(asked.send(*head, b"Content-Length: 99999999999999"), 413, "invalid")
    _check(asked.send(*head, b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 411, "invalid")
    for twice in ((b"Content-Length: 2", b"Content-Length: 3"), (b"Content-Length: 2, 3",), (b"Content-Length: -1",)):
        _check(asked.send(*head, *twice, body=b"{}"), 400, "invalid")
    both = (b"Content-Length: 2", b"Transfer-Encoding: chunked")
    _check(asked.send(*head, *both, body=b"2\r\n{}\r\n0\r\n\r\n"), 400, "invalid")


def test_a_body_longer_than_it_says_is_no_second_request(asked: _Asked) -> None:
    """What is behind the said length is a request of its own, and here none: the connection ends with it."""
    with connect(asked.endpoint) as connection:
        head = [b"POST " + _READ + b" HTTP/1.1", b"Host: x", b"Authorization: " + asked.token]
        head += [b"Content-Type: application/json", b"Content-Length: 2"]
        connection.sendall(b"\r\n".join(head) + b"\r\n\r\n{}{}{}{} junk\r\n\r\n")
        first = answer(connection)
        assert first.status == 200
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "columns",
    ['["id", "id"]', '["' + "x" * 1025 + '"]', json.dumps(["id"] * 10_001), "[[]]", '[""]'],
    ids=["twice", "a long name", "many", "nested", "no name"],
)
def test_columns_are_bounded(asked: _Asked, columns: str) -> None:
    """In their number and their length; what is not granted looks as what is not there."""
    found = asked.post(f'{{"columns": {columns}}}'.encode())
    _check(found, found.status, "not-granted" if found.status == 404 else "invalid")
    assert found.status in {400, 404}


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("id = 1", 200),
        ("id = 1" + " " * 4091, 400),
        ("(" * 41 + "id = 1" + ")" * 41, 400),
        ("NOT " * 1000 + "id = 1", 400),
        (" AND ".join(["id = 1"] * 300), 200),
        ("id IN (" + ", ".join(["1"] * 1001) + ")", 400),
        ("-" * 4000 + "1 = id", 400),
        ("CASE " * 800, 400),
        ("id = 1; select 1", 400),
        ("\x00", 400),
    ],
)
def test_a_predicate_is_bounded(asked: _Asked, where: str, status: int) -> None:
    """In its length, in how deeply it nests, in its parts and in its values."""
    found = asked.post(json.dumps({"where": where}).encode())
    assert found.status == status, found
    if status == 400:
        _check(found, 400, "invalid")


def test_headers_are_bounded(asked: _Asked) -> None:
    """In their number and in all that they hold, however they come: at once, or in pieces."""
    head = (b"GET /healthz HTTP/1.1", b"Host: x")
    assert asked.send(*head, *[b"X-%d: y" % number for number in range(60)]).status == 200
    _check(asked.send(*head, *[b"X-%d: y" % number for number in range(65)]), 431, "invalid")
    _check(asked.send(*head, b"X: " + b"y" * 33_000), 431, "invalid")
    _check(asked.send(*head, b"X: " + b"y" * 500_000), 431, "invalid")
    with connect(asked.endpoint) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        try:
            for _ in range(200):
                connection.sendall(b"y" * 1000)
        except ConnectionError:
            pass
        assert answer(connection).status in {431, 0}


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_http_is_a_problem_too(asked: _Asked, data: bytes) -> None:
    """Whatever answers it, the answer has the same shape."""
    with connect(asked.endpoint) as connection:
        connection.sendall(data)
        _check(answer(connection), 400, "invalid")


def test_nothing_is_upgraded(asked: _Asked) -> None:
    """A wish for another protocol is passed over; what comes behind it is taken for none, and the connection ends."""
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13")
    lines = (b"GET /healthz HTTP/1.1", b"Host: x", *upgrade)
    assert asked.send(*lines).status == 200
    with connect(asked.endpoint) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b"GET /healthz HTTP/1.1", b"Host: x", b"", b""]))
        assert answer(connection).status == 200
        assert connection.recv(1) == b""


def test_what_is_logged_of_bad_requests_has_an_id_and_nothing_of_theirs(granted: Lab, tmp_path: Path) -> None:
    """Each line is JSON and belongs to an answer; what was sent, in whatever place, is in none."""
    log, word = tmp_path / "log", b"planted-plaintext-value"
    with running_broker(granted.folder, "--log-level", "info", log=log) as (endpoint, _):
        requests = (
            b"GET /" + word + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            word + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + word + b"\r\n\r\n",
            b"GET /healthz?" + word + b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + word + b"\r\n\r\n",
            b"GET /v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + word + b"\r\n\r\n",
            b"POST "
            + _READ
            + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n"
            + b'"'
            + word
            + b'"',
        )
        ids = [ask(endpoint, data).headers["x-request-id"] for data in requests]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["request"] for line in lines] == ids
    assert word.decode() not in log.read_text()


def test_a_fault_in_the_midst_of_a_stream_is_told_by_its_kind(granted: Lab) -> None:
    """The connection ends, since the answer has begun; the log has the type of the error and the request's id."""
    import asyncio

    from vault.broker.logs import request_id
    from vault.broker.metrics import Metrics
    from vault.broker.observing import Observing

    async def faulty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("planted-plaintext-value")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> str | None:
        with pytest.raises(ValueError, match="planted"):
            await Observing(faulty, Metrics(lambda: None))({"type": "http", "method": "GET"}, None, send)  # type: ignore[arg-type]
        return request_id.get()

    # What the server logs about it afterwards still has the id.
    assert asyncio.run(run()) == dict(sent[0]["headers"])[b"x-request-id"].decode()


def test_what_nobody_foresaw_is_a_problem_without_its_text(granted: Lab) -> None:
    """A fault inside is told by its kind: neither answer nor log quotes it, and the answer has its id."""
    import asyncio
    import logging

    import httpx

    from vault.broker import create_app
    from vault.broker.logs import JsonFormatter

    parts = granted.broker_parts()
    app = create_app(parts)

    @app.get("/fault")
    def fault() -> None:
        raise ValueError("planted-plaintext-value")

    class Lines(logging.Handler):
        said: list[str] = []  # noqa: RUF012

        def emit(self, record: logging.LogRecord) -> None:
            self.said.append(JsonFormatter().format(record))

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/fault")

    logger = logging.getLogger("dsvault")
    handler = Lines()
    logger.addHandler(handler)
    try:
        found = asyncio.run(get())
    finally:
        logger.removeHandler(handler)
    _check(Answer(found.status_code, dict(found.headers), found.content), 500, "error")
    (line,) = [json.loads(line) for line in handler.said if "unexpected" in line]
    assert line["request"] == found.headers["x-request-id"]
    assert line["message"] == "unexpected ValueError"
    assert "planted" not in "".join(handler.said) + found.text
