"""What a vendor's own key has signed, and is neither a proof nor a delegation: an Unauthenticated each, and no error."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from vault.delegation import check_chain
from vault.encoding import new_id
from vault.errors import Unauthenticated
from vault.proof import ProofKey, check_proof

_NOW = datetime(2026, 11, 1, tzinfo=UTC)
_SECONDS = int(_NOW.timestamp())
_ODD: list[Any] = [[], "", {}, None, True, -1, 2**80, [[]], "é", [None], 0.5, "a\u0000b"]
_LINK: dict[str, Any] = {
    "id": new_id(),
    "to": "annotators",
    "jkt": "x" * 43,
    "credential": "c",
    "previous": None,
    "columns": ["id"],
    "where": None,
    "dataset": "evals",
    "exp": _SECONDS + 60,
    "iat": _SECONDS,
}
_CLAIMS: dict[str, Any] = {"jti": "1", "iat": _SECONDS, "htm": "POST", "htu": "http://127.0.0.1/x", "ath": "t"}


def _link(key: ProofKey, claims: dict[str, Any]) -> None:
    check_chain([key.sign("dsvault-delegation+jwt", claims)], credential="c", thumbprint=key.thumbprint, now=_NOW)


def _proof(text: str, thumbprint: str = "x" * 43) -> None:
    check_proof(text, thumbprint=thumbprint, token="t", method="POST", uris={"http://127.0.0.1/x"}, now=_NOW)


def test_the_link_that_others_are_changed_from_is_one() -> None:
    """Else what is refused below would be refused for another reason."""
    _link(ProofKey.create(), _LINK)


@pytest.mark.parametrize("name", sorted(_LINK))
def test_a_link_lacks_no_claim(name: str) -> None:
    """Whichever is left out."""
    with pytest.raises(Unauthenticated):
        _link(ProofKey.create(), {key: value for key, value in _LINK.items() if key != name})


@pytest.mark.parametrize("name", ["id", "jkt", "credential", "exp", "iat"])
@pytest.mark.parametrize("value", _ODD)
def test_a_link_of_nonsense_is_none(name: str, value: Any) -> None:
    """Of claims that have one form. A second link is held against the first one's thumbprint."""
    key = ProofKey.create()
    first = key.sign("dsvault-delegation+jwt", {**_LINK, name: value})
    second = key.sign("dsvault-delegation+jwt", _LINK)
    with pytest.raises(Unauthenticated):
        check_chain([first, second], credential="c", thumbprint=key.thumbprint, now=_NOW)


@pytest.mark.parametrize("name", sorted(_CLAIMS))
@pytest.mark.parametrize("value", _ODD)
def test_a_proof_of_nonsense_is_none(name: str, value: Any) -> None:
    """Whatever it says instead of a claim."""
    key = ProofKey.create()
    with pytest.raises(Unauthenticated):
        _proof(key.sign("dpop+jwt", {**_CLAIMS, name: value}), key.thumbprint)


@pytest.mark.parametrize(
    "jwk",
    [
        *_ODD,
        {"kty": []},
        {"kty": "OKP"},
        {"kty": "OKP", "crv": "Ed25519"},
        {"kty": "OKP", "crv": "Ed25519", "x": ""},
        {"kty": "OKP", "crv": "Ed25519", "x": "é"},
        {"kty": "OKP", "crv": "Ed25519", "x": 7},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": None, "y": []},
        {"kty": "oct", "k": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "d": "A" * 43},
    ],
)
def test_a_proof_under_what_is_no_key_is_none(jwk: Any) -> None:
    """It is looked at before anybody has shown who he is."""
    good = ProofKey.create().sign("dpop+jwt", _CLAIMS)
    header = json.loads(base64.urlsafe_b64decode(good.split(".")[0] + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**header, "jwk": jwk}).encode()).decode().rstrip("=")
    with pytest.raises(Unauthenticated):
        _proof(".".join([changed, *good.split(".")[1:]]))
