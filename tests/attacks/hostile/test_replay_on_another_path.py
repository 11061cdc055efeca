"""A request that was good for one thing, sent for another."""

import pytest
import urllib3

from tests.attacks.hostile.place import Hostile, problem
from vault.encoding import utcnow
from vault.proof import ProofKey
from vault.wire import Profile


@pytest.fixture
def profile(hostile: Hostile) -> Profile:
    """A credential of acme's that is bound to a key, for one test."""
    return hostile.bound().profile


def _prove(hostile: Hostile, profile: Profile, method: str, path: str) -> str:
    uri = hostile.endpoint + path
    return ProofKey.parse(profile.key, "test").prove(method, uri, profile.token.text, utcnow())


def _send(hostile: Hostile, profile: Profile, method: str, path: str, proof: str) -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": profile.token.header(), "DPoP": proof, "Content-Type": "application/json"}
    body = b"{}" if method == "POST" else None
    return urllib3.request(method, hostile.endpoint + path, body=body, headers=headers, retries=False)


def test_a_proof_serves_its_own_path(hostile: Hostile, profile: Profile) -> None:
    """The attacks below are refused for what they are."""
    path = "/v1/datasets/evals/read"
    assert _send(hostile, profile, "POST", path, _prove(hostile, profile, "POST", path)).status == 200


@pytest.mark.parametrize(
    ("proven", "sent"),
    [
        ("/v1/datasets/evals/read", "/v1/datasets/shared/read"),
        ("/v1/datasets/leased/read", "/v1/datasets/leased/lease"),
        ("/v1/datasets/leased/lease", "/v1/datasets/leased/read"),
        ("/v1/datasets/evals/read", "/v1/datasets/evals/%72ead"),
        ("/v1/datasets/evals/read", "/v1/datasets/e%76als/read"),
        ("/v1/datasets/e%76als/read", "/v1/datasets/evals/read"),
        ("/v1/datasets/evals/read/", "/v1/datasets/evals/read"),
        ("/v1/datasets/evals/../evals/read", "/v1/datasets/evals/read"),
        ("//v1/datasets/evals/read", "/v1/datasets/evals/read"),
    ],
)
def test_a_proof_for_one_path_is_none_for_another(hostile: Hostile, profile: Profile, proven: str, sent: str) -> None:
    """Be it to the broker the same place or not: a proof is for the address as it is written."""
    with hostile.recorded("the proof is for another address"):
        problem(_send(hostile, profile, "POST", sent, _prove(hostile, profile, "POST", proven)), 401)


def test_a_proof_for_one_method_is_none_for_another(hostile: Hostile, profile: Profile) -> None:
    """A listing's proof does not read, on whatever path."""
    path = "/v1/datasets/evals/read"
    with hostile.recorded("the proof is for another method"):
        problem(_send(hostile, profile, "POST", path, _prove(hostile, profile, "GET", path)), 401)


def test_a_proof_counts_once(hostile: Hostile, profile: Profile) -> None:
    """The same request once more, and the same proof with another body."""
    path = "/v1/datasets/evals/read"
    proof = _prove(hostile, profile, "POST", path)
    assert _send(hostile, profile, "POST", path, proof).status == 200
    with hostile.recorded("the proof was used before"):
        problem(_send(hostile, profile, "POST", path, proof), 401)


def test_a_query_is_no_part_of_a_proof(hostile: Hostile, profile: Profile) -> None:
    """RFC 9449 section 4.2 leaves it out; nothing that is read depends on it."""
    path = "/v1/datasets"
    proof = _prove(hostile, profile, "GET", path)
    assert _send(hostile, profile, "GET", f"{path}?vendor=globex", proof).status == 200
