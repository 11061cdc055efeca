"""Targets and hosts that mean one thing to a proxy and another to the broker."""

import json
from urllib.parse import urlsplit

import pytest

from tests.attacks.hostile.place import PLANTED, Hostile, problem, statuses

_LAST = "Connection: close"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/redoc",
        "/v1",
        "/v1/",
        "/v1/datasets/evals",
        "/admin",
        "/v1/datasets/evals/read",
        "/%2e%2e/x",
        "/v1/datasets/evals/lease",
        "/v1/vendors",
        "/.env",
        "/dsvault.toml",
    ],
)
def test_other_paths_tell_nothing(hostile: Hostile, path: str) -> None:
    """Paths that are none answer a problem without detail."""
    problem(hostile.get(path), 404, 405)


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "evals%00",
        "evals%2F..%2Fsecret",
        "..%2Fsecret",
        "evals%20",
        "%FF",
        "evals%3F",
        "evals%23",
        "evals;x=y",
        "%65vals%2e",
        "secret%2f",
        "%73ecret",
    ],
)
def test_another_datasets_name_gives_nothing(hostile: Hostile, name: str) -> None:
    """Another vendor's dataset, and twisted names, are not found."""
    problem(hostile.read({}, name=name), 404, 405)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/datasets/evals/../secret/read",
        "/v1/datasets/evals/read/../../secret/read",
        "//v1/datasets/secret/read",
        "/v1//datasets/secret/read",
        "/./v1/datasets/secret/read",
        "/v1/datasets/secret/read/",
        "/V1/DATASETS/secret/READ",
        "/v1/datasets/secret/read%20",
        "/v1/datasets/secret%2fread",
        "/v1\\datasets\\secret\\read",
        "/v1/datasets/secret/read;x",
        "/v1/datasets/secret/read?grant=x#y",
        "http://127.0.0.1/v1/datasets/secret/read",
        "http://globex.example/v1/datasets/secret/read",
        "HTTP://x@globex.example:80/v1/datasets/secret/read",
        "globex.example:443",
        "*",
        "",
        "v1/datasets/secret/read",
    ],
)
def test_no_way_of_writing_a_target_changes_the_decision(hostile: Hostile, target: str) -> None:
    """Dots, slashes, cases, absolute and odd forms: whatever it is taken for, acme reads nothing of globex's."""
    for method in ("POST", "GET", "CONNECT", "OPTIONS"):
        head = hostile.head(method, target, "Content-Type: application/json", "Content-Length: 2", _LAST)
        received = hostile.raw(head + b"{}", silence=3)
        assert set(statuses(received)) <= {400, 404, 405}, (method, received[:200])
        assert PLANTED not in received


@pytest.mark.parametrize(
    "lines", [[], ["Host: globex.example"], ["Host: "], ["Host: 127.0.0.1:1"], ["Host: x/y@z"], ["Host: \x80"]]
)
def test_a_host_header_does_not_say_what_is_served(hostile: Hostile, lines: list[str]) -> None:
    """Any name, or none, gives the same listing or a refusal, and never shows up in an answer."""
    received = hostile.raw(hostile.head("GET", "/v1/datasets", *lines, _LAST, host=False))
    (status,) = statuses(received)
    assert status in {200, 400}
    assert b"globex" not in received
    if status == 200:
        offered = json.loads(received.partition(b"\r\n\r\n")[2])["grants"]
        assert {grant["dataset"] for grant in offered} == {"evals", "shared", "leased"}


def test_two_hosts_are_refused(hostile: Hostile) -> None:
    """RFC 9112 section 3.2."""
    assert statuses(hostile.raw(hostile.head("GET", "/v1/datasets", "Host: globex.example", _LAST), silence=3)) == [400]


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/datasets HTTP/1.1 x",
        "GET\t/v1/datasets\tHTTP/1.1",
        "get /v1/datasets HTTP/1.1",
        "PRI * HTTP/2.0",
        "\x16\x03\x01",
        "GET /v1/datasets\r\nHTTP/1.1",
    ],
)
def test_odd_request_lines_are_refused(hostile: Hostile, line: str) -> None:
    """What is no HTTP/1.1 request line gets no listing."""
    begin = f"{line}\r\nHost: x\r\nConnection: close\r\nAuthorization: {hostile.acme.header()}\r\n\r\n"
    received = hostile.raw(begin.encode("latin-1"), silence=3)
    assert set(statuses(received)) <= {400, 404, 405, 505}
    assert b"grants" not in received


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "HEAD", "OPTIONS", "PROPFIND", "X" * 50])
def test_no_other_method_reads(hostile: Hostile, method: str) -> None:
    """Reads and leases are asked for by POST, listings by GET; a TRACE does not echo the credential."""
    for target in ("/v1/datasets/evals/read", "/v1/datasets/evals/lease"):
        head = hostile.head(method, target, "Content-Type: application/json", "Content-Length: 2", _LAST)
        received = hostile.raw(head + b"{}")
        assert statuses(received) == [405 if len(method) < 50 else 400]
        assert hostile.acme.text.encode() not in received


def test_the_address_of_the_socket_is_what_a_proof_is_for(hostile: Hostile) -> None:
    """A proof that names the host of the Host header, or of an absolute target, is for another place."""
    from vault.encoding import utcnow
    from vault.proof import ProofKey

    profile = hostile.bound().profile
    key, place = ProofKey.parse(profile.key, "test"), urlsplit(hostile.endpoint).netloc
    for target, host in (
        ("/v1/datasets", "evil.example"),
        ("http://evil.example/v1/datasets", place),
        ("http://evil.example/v1/datasets", "evil.example"),
    ):
        proof = key.prove("GET", "http://evil.example/v1/datasets", profile.token.text, utcnow())
        head = hostile.head("GET", target, f"Host: {host}", f"DPoP: {proof}", _LAST, by=profile.token, host=False)
        received = hostile.raw(head, silence=3)
        assert statuses(received)[0] in {400, 401, 404}
        assert b"grants" not in received
