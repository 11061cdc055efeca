"""Requests of two vendors over one connection, as a proxy before the broker would send them."""

import json
import re

from tests.attacks.hostile.place import PLANTED, Hostile, statuses

_LAST = "Connection: close"


def _grants(received: bytes) -> list[set[str]]:
    """The datasets that each listing in what a connection gave offers."""
    return [
        {grant["dataset"] for grant in json.loads(body)["grants"]}
        for body in re.findall(rb'\{"format".*?\]\}(?=HTTP|$)', received)
    ]


def test_each_request_is_answered_for_its_own_sender(hostile: Hostile) -> None:
    """In turns on one connection: nobody gets what the one before may have."""
    listed = "/v1/datasets"
    received = hostile.raw(
        hostile.head("GET", listed),
        hostile.head("GET", listed, by=hostile.globex),
        hostile.head("GET", listed),
        hostile.head("GET", listed, _LAST, by=hostile.globex),
    )
    assert statuses(received) == [200] * 4
    mine, theirs = {"evals", "shared", "leased"}, {"secret", "shared", "leased"}
    assert _grants(received) == [mine, theirs, mine, theirs]


def _read(hostile: Hostile, dataset: str, *lines: str, **who: object) -> bytes:
    return (
        hostile.head(
            "POST", f"/v1/datasets/{dataset}/read", "Content-Type: application/json", "Content-Length: 2", *lines, **who
        )
        + b"{}"
    )  # type: ignore[arg-type]


def test_a_reads_leave_stays_with_its_request(hostile: Hostile) -> None:
    """After globex read its dataset, acme on the same connection may still not; nor may a request with no credential."""
    allowed = _read(hostile, "secret", by=hostile.globex)
    assert b"planted answer 3" in hostile.raw(_read(hostile, "secret", _LAST, by=hostile.globex))
    received = hostile.raw(allowed, _read(hostile, "secret", _LAST))
    assert statuses(received) == [200, 404]
    assert PLANTED not in received[received.rindex(b"HTTP/1.1 404") :]
    bare = b"POST /v1/datasets/secret/read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    received = hostile.raw(allowed, bare)
    assert statuses(received) == [200, 401]
    assert PLANTED not in received[received.rindex(b"HTTP/1.1 401") :]


def test_a_refusal_does_not_rub_off(hostile: Hostile) -> None:
    """After an attack was refused, the next request on the connection is judged by itself."""
    received = hostile.raw(
        _read(hostile, "secret"), _read(hostile, "shared", by=hostile.globex), _read(hostile, "secret", _LAST)
    )
    assert statuses(received) == [404, 200, 404]
    assert PLANTED not in received


def test_a_bound_credentials_proof_is_not_the_next_ones(hostile: Hostile) -> None:
    """A proof that was sent with one request serves no other on its connection."""
    client = hostile.bound()
    from vault.encoding import utcnow
    from vault.proof import ProofKey

    profile = client.profile
    key = ProofKey.parse(profile.key, "test")
    proof = key.prove("GET", f"{hostile.endpoint}/v1/datasets", profile.token.text, utcnow())
    received = hostile.raw(
        hostile.head("GET", "/v1/datasets", f"DPoP: {proof}", by=profile.token),
        hostile.head("GET", "/v1/datasets", by=profile.token),
        hostile.head("GET", "/v1/datasets", f"DPoP: {proof}", _LAST, by=profile.token),
    )
    assert statuses(received) == [200, 401, 401]
