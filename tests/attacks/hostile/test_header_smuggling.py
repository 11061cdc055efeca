"""Headers that would say who asks, for what, or from where."""

import json

import pytest
import urllib3

from tests.attacks.hostile.place import PLANTED, Hostile, ids, problem, statuses
from vault.wire import Token

_LAST = "Connection: close"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Original-URL": "/v1/datasets/secret/read", "X-Rewrite-URL": "/v1/datasets/secret/read"},
        {"X-HTTP-Method-Override": "GET", "X-HTTP-Method": "DELETE", "X-Method-Override": "GET"},
        {"X-Forwarded-User": "globex", "X-Remote-User": "globex", "X-Vendor": "globex", "Remote-User": "globex"},
        {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1;host=globex", "X-Real-IP": "127.0.0.1"},
        {
            "X-Forwarded-Host": "globex.example",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Prefix": "/v1/datasets/secret",
        },
        {"Proxy-Authorization": "GLOBEX", "X-Authorization": "GLOBEX", "Cookie": "authorization=GLOBEX"},
        {"Range": "bytes=0-", "If-None-Match": "*", "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"Accept-Encoding": "gzip, br", "Accept": "application/json", "Content-Language": "x"},
        {"Upgrade": "websocket", "Sec-WebSocket-Key": "eA==", "Sec-WebSocket-Version": "13"},
        {"Transfer_Encoding": "chunked", "Content_Length": "0", "Authorization_": "GLOBEX"},
    ],
)
def test_no_header_beside_the_credential_changes_a_read(hostile: Hostile, headers: dict[str, str]) -> None:
    """The same rows of the same dataset for the same vendor, whatever a proxy might be told."""
    sent = {name: value.replace("GLOBEX", hostile.globex.header()) for name, value in headers.items()}
    answer = hostile.read({"columns": ["id"]}, **sent)
    assert ids(answer) == list(range(0, 50, 2))
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({}, "secret", **sent))


def test_no_body_is_taken_with_a_wish_for_another_protocol(hostile: Hostile) -> None:
    """It might be another protocol's first words: the request is refused, and nothing behind it is read."""
    upgrade = {"Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__", "Connection": "Upgrade, HTTP2-Settings"}
    answer = hostile.read({"columns": ["id"]}, **upgrade)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"


def test_another_vendors_credential_in_another_header_is_none(hostile: Hostile) -> None:
    """Only Authorization is looked at."""
    theirs = hostile.globex.header()
    for name in ("Proxy-Authorization", "X-Authorization", "Authorization2", "X-Forwarded-Authorization", "Cookie"):
        problem(hostile.get("/v1/datasets", {name: theirs}), 401)


def test_only_one_good_credential_counts(hostile: Hostile) -> None:
    """No, wrong, foreign, doubled and twisted credentials get one answer."""
    good, other = hostile.acme.header(), hostile.globex.header()
    bad = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer x"},
        {"Authorization": good[:-4] + "AAA="},
        {"Authorization": Token(hostile.acme.credential, hostile.globex.secret).header()},
        {"Authorization": good.replace("Bearer", "Basic")},
        {"Authorization": good.replace("Bearer", "DPoP")},
        {"Authorization": good + " " + other},
        {"Authorization": good + "," + other},
        {"Authorization": good + ";"},
        {"Authorization": good.replace("Bearer ", "Bearer")},
        {"Authorization": good.upper()},
        {"Authorization": Token("0" * 32, hostile.acme.secret).header()},
        {"X-Forwarded-User": "acme", "X-Vendor": "acme"},
        urllib3.HTTPHeaderDict([("Authorization", good), ("Authorization", other)]),
        urllib3.HTTPHeaderDict([("Authorization", other), ("Authorization", good)]),
        urllib3.HTTPHeaderDict([("Authorization", good), ("Authorization", good)]),
    ]
    answers = [hostile.get("/v1/datasets", headers) for headers in bad]
    for answer in answers:
        problem(answer, 401)
    assert len({answer.data for answer in answers}) == 1
    assert hostile.get("/v1/datasets").status == 200


def test_refused_credentials_that_exist_are_in_the_log(hostile: Hostile) -> None:
    """With why; the caller reads one sentence for every reason."""
    own = hostile.bearer()
    mixed = Token(own.credential, hostile.globex.secret)
    with hostile.recorded("wrong secret", "presented as a credential of the other kind"):
        problem(hostile.get("/v1/datasets", {"Authorization": mixed.header()}), 401)
        bound = Token(own.credential, own.secret, bound=True)
        problem(hostile.get("/v1/datasets", {"Authorization": bound.header()}), 401)


@pytest.mark.parametrize("order", [0, 1])
def test_a_second_credential_by_raw_bytes(hostile: Hostile, order: int) -> None:
    """Two Authorization headers, however they are spelled or folded, are no credential."""
    mine, theirs = hostile.acme.header().encode(), hostile.globex.header().encode()
    first, second = (mine, theirs)[order], (theirs, mine)[order]
    begin = b"GET /v1/datasets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + first
    for more in (
        b"\r\nauthorization: " + second,
        b"\r\nAUTHORIZATION:" + second,
        b"\r\n " + second,  # folded (RFC 9112 section 5.2)
        b"\r\n\t," + second,
        b",\r\nX: y\r\nAuthorization: " + second,
        b"\nAuthorization: " + second,  # a bare line feed
        b"\rAuthorization: " + second,  # a bare carriage return
        b"\x00" + second,
        b"\x0b" + second,
        b"\r\nAuthorization : " + second,
        b"\r\nAuthorization\x00: " + second,
        b"\r\n: " + second + b"\r\nAuthorization: " + second,
    ):
        received = hostile.raw(begin + more + b"\r\n\r\n")
        assert len(statuses(received)) == 1, more
        assert statuses(received)[0] in {400, 401}, more
        assert b"secret" not in received
        assert PLANTED not in received


def test_a_folded_credential_is_the_same_credential_or_none(hostile: Hostile) -> None:
    """A fold within the one header does not make two of it, nor another vendor's."""
    scheme, text = hostile.acme.header().split(" ")
    received = hostile.raw(
        f"GET /v1/datasets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {scheme}\r\n {text}\r\n\r\n".encode()
    )
    (status,) = statuses(received)
    assert status in {200, 400, 401}
    if status == 200:
        offered = json.loads(received.partition(b"\r\n\r\n")[2])["grants"]
        assert {grant["dataset"] for grant in offered} == {"evals", "shared", "leased"}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["DPoP", "Dsvault-Delegation"])
def test_proofs_and_delegations_come_once(hostile: Hostile, name: str, count: int) -> None:
    """More than one of them is refused before any is looked at."""
    head = hostile.head("GET", "/v1/datasets", *[f"{name}: x"] * count, _LAST)
    assert statuses(hostile.raw(head)) == [401]


def test_a_bearer_credential_takes_no_delegation(hostile: Hostile) -> None:
    """A chain beside a credential that cannot have one is refused and not passed over."""
    with hostile.recorded("a bearer credential cannot be delegated"):
        answer = hostile.get("/v1/datasets", {"Authorization": hostile.bearer().header(), "Dsvault-Delegation": "x,y"})
        problem(answer, 401)


def test_nothing_secret_is_in_a_profile_but_the_secret() -> None:
    """The token's header form is the only place where the secret is shown."""
    token = Token("a" * 32, b"\x01" * 32)
    assert "AQEB" not in repr(token)
    assert "AQEB" in token.header()
