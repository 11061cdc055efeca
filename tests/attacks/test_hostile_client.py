"""A hostile vendor over HTTP: nothing beyond its grant, no 5xx, and one answer for unknown and forbidden."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.tables import rows
from vault.wire import Token


class Hostile:
    """Raw requests with acme's good credential, unless another header is given."""

    def __init__(self, endpoint: str, token: Token, other: Token) -> None:
        self.endpoint = endpoint
        self.token = token
        self.other = other
        self._http = urllib3.PoolManager(retries=False)

    def get(self, path: str, headers: Any = None) -> urllib3.BaseHTTPResponse:
        chosen = headers if headers is not None else {"Authorization": self.token.header()}
        return self._http.request("GET", self.endpoint + path, headers=chosen)

    def read(self, body: Any, name: str = "evals", **headers: str) -> urllib3.BaseHTTPResponse:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._http.request(
            "POST",
            f"{self.endpoint}/v1/datasets/{name}/read",
            body=sent,
            headers={"Authorization": self.token.header(), "Content-Type": "application/json", **headers},
        )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """acme holds id, prompt and meta of ``evals`` where lang is 'en'; globex holds ``secret``."""
    import vault

    folder = tmp_path_factory.mktemp("hostile") / "lab"
    opened = vault.init(folder)
    lab = Lab(folder, opened)
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    opened.publish("evals", rows(50), shard_rows=20)
    opened.publish("secret", rows(50))
    opened.grant("acme", "evals", ["id", "prompt", "meta"], where="lang = 'en'")
    opened.grant("globex", "secret", ["answer"])
    tokens = [opened.issue_credential(vendor, bearer=True).profile.token for vendor in ("acme", "globex")]
    with broker(folder) as endpoint:
        yield Hostile(endpoint, tokens[0], tokens[1])
    assert lab.vault.audit_verify() > 0


def _refused(response: urllib3.BaseHTTPResponse, *statuses: int) -> dict[str, Any]:
    assert response.status in statuses, (response.status, response.data[:200])
    assert response.headers["content-type"] == "application/problem+json"
    for hidden in (b"the answer to", b"prompt number", b"Traceback", b"globex", b"sqlite"):
        assert hidden not in response.data
    document: dict[str, Any] = json.loads(response.data)
    return document


def test_the_good_request_works(hostile: Hostile) -> None:
    """The attacks below are refused for what they are: the plain request is served."""
    assert hostile.read({}).status == 200
    assert b"prompt number 0" in hostile.read({}).data
    assert b"prompt number 1" not in hostile.read({"columns": ["prompt"], "limit": 1}).data


@pytest.mark.parametrize(
    "body",
    [
        {"columns": ["answer"]},
        {"columns": ["id", "answer"]},
        {"columns": ["lang"]},
        {"columns": ["ANSWER"]},
        {"columns": ["Prompt"]},
        {"columns": ["аnswer"]},
        {"columns": ["answer "]},
        {"columns": ["*"]},
        {"columns": ["2"]},
        {"columns": ["id AS answer"]},
        {"columns": ["__index_level_0__"]},
        {"columns": ["nothing-of-that-name"]},
        {"columns": []},
        {"where": "answer = 'the answer to 2'"},
        {"where": "answer LIKE '%'"},
        {"where": "lang = 'de'"},
        {"where": "lang = 'en' OR id > 0"},
        {"where": "score IS NULL"},
        {"where": "id = score"},
        {"where": "nothing = 1"},
        {"grant": "f" * 32},
        {"grant": ""},
    ],
)
def test_what_is_not_granted_looks_like_nothing(hostile: Hostile, body: dict[str, Any]) -> None:
    """Forbidden and unknown columns, predicates and grants get one answer, whatever way they are asked for."""
    unknown = hostile.read({}, name="no-such-dataset")
    refused = hostile.read(body)
    assert _refused(refused, 404) == _refused(unknown, 404)
    assert refused.data == unknown.data
    assert refused.headers.keys() == unknown.headers.keys()
    # The time and the broker's own random id of each request differ, and tell nothing.
    said = {name for name in refused.headers if name.lower() not in {"date", "x-request-id"}}
    assert {name: refused.headers[name] for name in said} == {name: unknown.headers[name] for name in said}


@pytest.mark.parametrize("name", ["secret", "Evals", "evals%00", "evals%2F..%2Fsecret", "..%2Fsecret", "evals ", "%FF"])
def test_another_datasets_name_gives_nothing(hostile: Hostile, name: str) -> None:
    """Another vendor's dataset, and twisted names, are not found."""
    _refused(hostile.read({}, name=name), 404, 405)


@pytest.mark.parametrize(
    "body",
    [
        {"where": "1=1"},
        {"where": "id = 1; drop table grants"},
        {"where": "id = 'x'"},
        {"where": "id in (select id from secret)"},
        {"where": "(" * 4000},
        {"where": "x" * 5000},
        {"limit": -1},
        {"limit": "1"},
        {"limit": 1.5},
        {"limit": 2**70},
        {"columns": "id"},
        {"columns": [1]},
        {"columns": [None]},
        {"columns": ["x" * 2000]},
        {"columns": ["\ud800"]},
        {"grant": 1},
        {"vendor": "globex"},
        {"columns": {"id": 1}},
        [],
        "x",
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"columns": ' + b"[" * 30_000,
    ],
)
def test_malformed_requests_are_400(hostile: Hostile, body: Any) -> None:
    """Whatever is not a request is refused with a problem document and never with a 5xx."""
    _refused(hostile.read(body), 400)


def test_too_long_and_chunked_bodies_are_refused(hostile: Hostile) -> None:
    """A body beyond 64 KiB, or of a length that is not said, is not read."""
    _refused(hostile.read(b'{"where": "' + b"x" * 70_000 + b'"}'), 400)
    response = urllib3.PoolManager(retries=False).request(
        "POST",
        f"{hostile.endpoint}/v1/datasets/evals/read",
        body=iter([b"{", b"}"]),
        headers={"Authorization": hostile.token.header(), "Content-Type": "application/json"},
        chunked=True,
    )
    _refused(response, 400)


def test_only_one_good_credential_counts(hostile: Hostile) -> None:
    """No, wrong, foreign, doubled and twisted credentials get one answer."""
    good, other = hostile.token.header(), hostile.other.header()
    mixed = Token(hostile.token.credential, hostile.other.secret).header()
    bad = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer x"},
        {"Authorization": good[:-4] + "AAA="},
        {"Authorization": mixed},
        {"Authorization": good.replace("Bearer", "Basic")},
        {"Authorization": good + " " + other},
        {"Authorization": good + "," + other},
        {"Authorization": Token("0" * 32, hostile.token.secret).header()},
        {"X-Forwarded-User": "acme", "X-Vendor": "acme"},
        urllib3.HTTPHeaderDict([("Authorization", good), ("Authorization", other)]),
    ]
    answers = {hostile.get("/v1/datasets", headers).data for headers in bad}
    assert {hostile.get("/v1/datasets", headers).status for headers in bad} == {401}
    assert len(answers) == 1
    assert hostile.get("/v1/datasets").status == 200


def test_headers_do_not_change_who_asks(hostile: Hostile) -> None:
    """Proxies' headers and a second vendor on one connection change nothing about whose grants count."""
    smuggled = hostile.read({}, **{"X-Original-URL": "/v1/datasets/secret/read", "X-HTTP-Method-Override": "GET"})
    assert smuggled.status == 200
    assert b"the answer to" not in smuggled.data
    pool = urllib3.HTTPConnectionPool(*hostile.endpoint.removeprefix("http://").split(":"), maxsize=1, block=True)
    for token, expected in ((hostile.token, "evals"), (hostile.other, "secret"), (hostile.token, "evals")):
        listed = json.loads(pool.request("GET", "/v1/datasets", headers={"Authorization": token.header()}).data)
        assert {grant["dataset"] for grant in listed["grants"]} == {expected}
        assert "where" not in json.dumps(listed)
        assert "lang" not in json.dumps(listed)


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/v1", "/v1/datasets/evals", "/admin", "/v1/datasets/evals/read", "/%2e%2e/x"]
)
def test_other_paths_tell_nothing(hostile: Hostile, path: str) -> None:
    """Paths that are none answer a problem without detail."""
    _refused(hostile.get(path), 404, 405)


def test_a_vendors_predicate_learns_nothing_about_hidden_rows(hostile: Hostile) -> None:
    """A binary search by id over rows that the filter hides ends nowhere: they are not there."""
    found = [hostile.read({"where": f"id = {number}", "columns": ["id"]}).data for number in (1, 3, 999)]
    assert len(set(found)) == 1


def test_nothing_secret_is_in_a_profile_but_the_secret(tmp_path: Path) -> None:
    """The token's header form is the only place where the secret is shown."""
    token = Token("a" * 32, b"\x01" * 32)
    assert "AQEB" not in repr(token)
    assert "AQEB" in token.header()
