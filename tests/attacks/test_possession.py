"""Credentials that are bound to a key: what a thief of the profile's token, of a request, or of a proof can do with it.

Each case is one that RFC 9449 names. The broker is a process of its own; requests are made here by hand.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.log import acts
from tests.support.tables import rows
from vault.client import new_request
from vault.encoding import utcnow
from vault.errors import InvalidInput, Unauthenticated
from vault.proof import ProofKey, normal_uri
from vault.wire import Profile, Token

_PATH = "/v1/datasets"


@dataclass
class Place:
    """A vault with a broker in front of it, and acme's profile there."""

    lab: Lab
    endpoint: str
    profile: Profile

    @property
    def key(self) -> ProofKey:
        """acme's private key."""
        return ProofKey.parse(self.profile.key, "test")

    def proof(self, **changes: Any) -> str:
        """A proof for a listing of the datasets, or one that differs."""
        token = changes.pop("token", self.profile.token.text)
        now = utcnow() + changes.pop("late", timedelta(0))
        uri = changes.pop("uri", self.endpoint + _PATH)
        return changes.pop("key", self.key).prove(changes.pop("method", "GET"), uri, token, now)

    def get(self, proof: str | None, token: Token | None = None, path: str = _PATH, endpoint: str | None = None) -> int:
        """The status of a listing with this proof."""
        headers = {"Authorization": (token or self.profile.token).header()} | ({"DPoP": proof} if proof else {})
        return urllib3.request("GET", (endpoint or self.endpoint) + path, headers=headers, retries=False).status


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """acme with a grant and a key-bound credential, at a running broker."""
    folder = tmp_path_factory.mktemp("possession") / "lab"
    opened = vault.init(folder)
    opened.add_vendor("acme")
    opened.add_vendor("globex")
    opened.publish("evals", rows(20))
    opened.grant("acme", "evals", ["id", "prompt"])
    profile = opened.issue_credential("acme").profile
    with broker(folder) as endpoint:
        yield Place(Lab(folder, opened), endpoint, replace(profile, endpoint=endpoint))


def test_a_request_with_its_proof_is_answered(place: Place) -> None:
    """The client proves every request; by hand it is the same."""
    assert vault.Client(place.profile).dataset("evals").to_arrow().num_rows == 20
    assert place.get(place.proof()) == 200


def test_a_token_without_its_key_is_worth_nothing(place: Place) -> None:
    """No proof, a proof by another key, and the token presented as a bearer's: each is refused."""
    assert place.get(None) == 401
    assert place.get(place.proof(key=ProofKey.create())) == 401
    assert place.get(place.proof(key=ProofKey.create("p256"))) == 401
    assert place.get(None, replace(place.profile.token, bound=False)) == 401
    assert place.get(place.proof(), replace(place.profile.token, bound=False)) == 401


@pytest.mark.parametrize("jwk", [{}, {"kty": "OKP"}, {"kty": []}, None, "x"])
def test_a_proof_under_no_key_tells_nothing_of_the_token(place: Place, jwk: object) -> None:
    """It is refused as any other, and alike for a token that is live and for one that never was."""
    header, claims, signature = place.proof().split(".")
    document = {**json.loads(base64.urlsafe_b64decode(header + "==")), "jwk": jwk}
    odd = base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")
    proof = f"{odd}.{claims}.{signature}"
    never = replace(place.profile.token, secret=os.urandom(32))
    assert place.get(proof) == 401
    assert place.get(proof, never) == 401


def test_a_bearer_credential_is_not_taken_as_a_bound_one(place: Place) -> None:
    """A credential is presented in the way that it was made for."""
    token = place.lab.vault.issue_credential("acme", bearer=True).profile.token
    assert place.get(None, token) == 200
    bound = replace(token, bound=True)
    assert place.get(place.proof(token=token.text), bound) == 401


def test_a_replayed_proof_is_refused_at_once_and_after_a_restart_and_elsewhere(place: Place) -> None:
    """A proof counts once, for every broker of the vault together, whatever became of the one that saw it."""
    seen = place.proof()
    assert place.get(seen) == 200
    assert place.get(seen) == 401
    with broker(place.lab.folder, "--endpoint", place.endpoint) as other:
        assert place.get(seen, endpoint=other) == 401
        fresh = place.proof()
        assert place.get(fresh, endpoint=other) == 200
    assert place.get(fresh) == 401
    with broker(place.lab.folder, "--endpoint", place.endpoint) as restarted:
        assert place.get(fresh, endpoint=restarted) == 401


@pytest.mark.parametrize("delivery", ["read", "lease"])
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"grant": 7}', b'{"cursor": "***"}', b'{"cursor": "AAAA"}'])
def test_a_delivery_that_is_asked_for_wrongly_uses_its_proof_up(place: Place, delivery: str, body: bytes) -> None:
    """Whoever says nothing of who asks is told so and nothing else; a proof is no good a second time."""
    path = f"/v1/datasets/evals/{delivery}"

    def post(data: bytes, **proved: str) -> int:
        headers = {"Content-Type": "application/json", **proved}
        return urllib3.request("POST", place.endpoint + path, body=data, headers=headers, retries=False).status

    proof = place.proof(method="POST", uri=place.endpoint + path)
    proved = {"Authorization": place.profile.token.header(), "DPoP": proof}
    assert post(body) == 401
    assert post(body, **proved) in {400, 404}
    assert post(b"{}", **proved) == 401


def test_many_at_once_with_one_proof_are_one(place: Place) -> None:
    """Of twenty requests that race with the same proof one is answered."""
    from concurrent.futures import ThreadPoolExecutor

    proof = place.proof()
    with ThreadPoolExecutor(20) as pool:
        found = sorted(pool.map(lambda _: place.get(proof), range(20)))
    assert found == [200] + [401] * 19


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"uri": "{endpoint}/v1/dataset"},
        {"uri": "{endpoint}/v1/datasets/"},
        {"uri": "{endpoint}/V1/datasets"},
        {"uri": "{endpoint}/v1/datasets/evals/read"},
        {"uri": "http://evil.example/v1/datasets"},
        {"uri": "http://127.0.0.1:1/v1/datasets"},
        {"uri": "https://127.0.0.1/v1/datasets"},
        {"late": timedelta(seconds=60)},
        {"late": timedelta(seconds=-60)},
        {"late": timedelta(days=-400)},
        {"token": "dsv1.0.0"},
    ],
)
def test_a_proof_for_another_request_is_refused(place: Place, changes: dict[str, Any]) -> None:
    """Another method, path or host, another time, another token."""
    if "uri" in changes:
        changes = {"uri": changes["uri"].replace("{endpoint}", place.endpoint)}
    assert place.get(place.proof(**changes)) == 401


def test_the_host_header_does_not_say_whom_a_proof_is_for(place: Place) -> None:
    """A proof made for another server, sent here under that server's name, is refused."""
    headers = {
        "Authorization": place.profile.token.header(),
        "DPoP": place.proof(uri="http://evil.example/v1/datasets"),
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
    }
    assert urllib3.request("GET", place.endpoint + _PATH, headers=headers, retries=False).status == 401


def test_the_address_may_be_written_in_any_equal_way(place: Place) -> None:
    """A query, a fragment, capitals in scheme and host do not matter (RFC 9449 section 4.3)."""
    upper = place.endpoint.replace("http", "HTTP")
    for uri in (
        upper + _PATH,
        place.endpoint + _PATH + "?a=b#c",
        place.endpoint.replace("127.0.0.1", "localhost") + _PATH,
    ):
        assert place.get(place.proof(uri=uri)) == 200
    assert normal_uri("https://A.example:443") == "https://a.example/"
    assert normal_uri("http://[::1]:80/x") == "http://[::1]/x"


def _forged(place: Place, header: dict[str, Any], claims: dict[str, Any], key: Any = None) -> str:
    """A proof with this header and these claims over those of a good one."""
    good = place.proof().split(".")
    whole_header, whole_claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in good[:2])
    whole_header |= header
    whole_claims |= claims
    signer = key or OKPKey.import_key(place.profile.key)
    kept = {name: value for name, value in whole_header.items() if value is not ...}
    body = json.dumps({name: value for name, value in whole_claims.items() if value is not ...}).encode()
    return jws.serialize_compact(
        kept, body, signer, registry=_Anything(algorithms=[kept["alg"]], strict_check_header=False)
    )


class _Anything(jws.JWSRegistry):
    """Signs whatever it is told to."""

    max_header_length = 100_000

    def check_header(self, header: Any, check_more: bool = False) -> None:
        """Anything is a header."""


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"typ": "JWT"}, {}),
        ({"typ": ...}, {}),
        ({"jwk": ...}, {}),
        ({"jwk": "text"}, {}),
        ({}, {"jti": ...}),
        ({}, {"jti": ""}),
        ({}, {"jti": 7}),
        ({}, {"jti": "x" * 300}),
        ({}, {"jti": "\ud800"}),
        ({}, {"iat": ...}),
        ({}, {"iat": "now"}),
        ({}, {"iat": True}),
        ({}, {"iat": 10**30}),
        ({}, {"iat": float("nan")}),
        ({}, {"iat": float("inf")}),
        ({}, {"htm": "get"}),
        ({}, {"htm": ["GET"]}),
        ({}, {"htu": ...}),
        ({}, {"htu": ["http://127.0.0.1"]}),
        ({}, {"htu": "http://127.0.0.1:99999999/v1/datasets"}),
        ({}, {"ath": ...}),
        ({}, {"ath": "\u00e9"}),
        ({}, {"ath": ""}),
    ],
)
def test_a_malformed_proof_is_refused(place: Place, header: dict[str, Any], claims: dict[str, Any]) -> None:
    """What is signed by the right key and says too little, or nonsense, is refused like everything else."""
    assert place.get(_forged(place, {"alg": "Ed25519", **header}, claims)) == 401


def test_no_other_kind_of_signature_is_taken(place: Place) -> None:
    """None at all, a shared secret, RSA, another curve, and a private key in the header are refused."""
    good = place.proof().split(".")
    unsigned = base64.urlsafe_b64encode(json.dumps({"typ": "dpop+jwt", "alg": "none"}).encode()).rstrip(b"=").decode()
    assert place.get(f"{unsigned}.{good[1]}.") == 401
    public = json.dumps(place.key.public()).encode()
    assert place.get(_forged(place, {"alg": "HS256"}, {}, OctKey.import_key(public))) == 401
    rsa, curve = RSAKey.generate_key(2048), ECKey.generate_key("P-384")
    assert place.get(_forged(place, {"alg": "RS256", "jwk": rsa.as_dict(private=False)}, {}, rsa)) == 401
    assert place.get(_forged(place, {"alg": "ES384", "jwk": curve.as_dict(private=False)}, {}, curve)) == 401
    assert place.get(_forged(place, {"alg": "Ed25519", "jwk": place.profile.key}, {})) == 401
    with pytest.warns(match="EdDSA"):
        older = _forged(place, {"alg": "EdDSA"}, {})
    assert place.get(older) == 200, "RFC 8037's name of the same signature"


def test_a_changed_or_doubled_proof_is_refused(place: Place) -> None:
    """No part of it may differ, there may not be two of them, and it is not to be endless."""
    proof = place.proof()
    for at in (5, proof.index(".") + 5, len(proof) - 20):
        changed = proof[:at] + ("A" if proof[at] != "A" else "B") + proof[at + 1 :]
        assert place.get(changed) == 401
    assert place.get("x" * 5000) == 401
    assert place.get(proof + "." + proof) == 401
    http, headers = urllib3.PoolManager(), urllib3.HTTPHeaderDict({"Authorization": place.profile.token.header()})
    headers.add("DPoP", place.proof())
    headers.add("DPoP", place.proof())
    assert http.request("GET", place.endpoint + _PATH, headers=headers, retries=False).status == 401
    assert place.get(proof) == 200


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_vendor_makes_its_own_key(place: Place, tmp_path: Path, kind: str) -> None:
    """The request goes to the lab and the key stays; the profile that comes back is worth nothing without it."""
    thumbprint = new_request(tmp_path / "acme.json", tmp_path / "own.key.json", kind, "acme's engineer")
    assert (tmp_path / "own.key.json").stat().st_mode & 0o777 == 0o600
    secret = json.loads((tmp_path / "own.key.json").read_text())["d"]
    assert secret not in (tmp_path / "acme.json").read_text()
    issued = place.lab.vault.issue_credential("acme", endpoint=place.endpoint, request=tmp_path / "acme.json")
    assert issued.profile.thumbprint == thumbprint
    issued.save(tmp_path / "profile.json")
    assert secret not in (tmp_path / "profile.json").read_text()
    assert vault.connect(tmp_path / "profile.json").dataset("evals").to_arrow().num_rows == 20
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.key.json").rename(tmp_path / "elsewhere" / "own.json")
    with pytest.raises(InvalidInput, match="is not beside the profile; name its file with --key"):
        vault.connect(tmp_path / "profile.json")
    assert vault.connect(tmp_path / "profile.json", key=tmp_path / "elsewhere" / "own.json").datasets() == ["evals"]
    new_request(tmp_path / "other.json", tmp_path / "other.key.json")
    with pytest.raises(InvalidInput, match="not the key that the profile's credential is bound to"):
        vault.connect(tmp_path / "profile.json", key=tmp_path / "other.key.json")


def _spoiled(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = ProofKey.create().request(None, utcnow())
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        _spoiled(lambda d: d.update(thumbprint="x")),
        _spoiled(lambda d: d.update(request=d["request"][:-4] + "AAAA")),
        _spoiled(lambda d: d.update(request=7)),
        _spoiled(lambda d: d.update(dsvault_request="2.0")),
        _spoiled(lambda d: d.update(request=ProofKey.create().prove("GET", "http://a/", "t", utcnow()))),
    ],
)
def test_a_request_that_is_none_is_refused_with_its_file(place: Place, tmp_path: Path, data: bytes) -> None:
    """Whatever was changed in it; no credential is made."""
    before = len(place.lab.vault.credentials())
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(InvalidInput, match=r"--request: .*r\.json"):
        place.lab.vault.issue_credential("acme", request=tmp_path / "r.json")
    assert len(place.lab.vault.credentials()) == before


def test_a_credential_may_be_held_to_networks(place: Place) -> None:
    """From another address it is refused, whatever a header says of where the request came from."""
    here = place.lab.vault.issue_credential(
        "acme", bearer=True, networks=["127.0.0.0/8", "2001:db8::/32"]
    ).profile.token
    there = place.lab.vault.issue_credential("acme", bearer=True, networks=["192.0.2.0/24"]).profile.token
    assert place.get(None, here) == 200
    assert place.get(None, there) == 401
    headers = {"Authorization": there.header(), "X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
    assert urllib3.request("GET", place.endpoint + _PATH, headers=headers, retries=False).status == 401
    with pytest.raises(InvalidInput, match="--network: '10.0.0.1/8' is no network"):
        place.lab.vault.issue_credential("acme", networks=["10.0.0.1/8"])


def test_refusals_are_logged_with_their_reason_and_told_with_none(place: Place) -> None:
    """The caller reads one sentence; the lab reads why, and never the proof or the token."""
    place = replace(place, profile=place.lab.vault.issue_credential("acme").profile)
    before = len(acts(place.lab.vault))
    assert place.get(place.proof(method="PUT")) == 401
    assert place.get(None) == 401
    entries = acts(place.lab.vault)[before:]
    assert [entry.fields["reason"] for entry in entries] == [
        "the proof is for another method",
        "no proof of possession",
    ]
    token = place.profile.token.text
    assert all(
        token not in json.dumps(entry.fields) and token[-20:] not in json.dumps(entry.fields) for entry in entries
    )


def test_a_wrong_clock_is_told_as_such(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose clock is off learns that it is, and by how much."""
    from vault.client import http

    assert vault.Client(place.profile).datasets() == ["evals"]
    monkeypatch.setattr(http, "utcnow", lambda: utcnow() + timedelta(seconds=300))
    with pytest.raises(Unauthenticated, match=r"clock is (299|300|301) s ahead of the broker's"):
        vault.Client(place.profile).datasets()


def test_used_proofs_are_forgotten_when_they_are_too_old_to_count(place: Place) -> None:
    """The table of used proofs does not grow for ever."""
    assert place.get(place.proof()) == 200
    with sql(place.lab) as connection:
        connection.execute("update proofs set until = '2020-01-01T00:00:00.000000Z'")
    # About one in 32 clears the old ones away; that none of a thousand does is as good as impossible.
    for _ in range(1000):
        assert place.get(place.proof()) == 200
        with sql(place.lab) as connection:
            ((old,),) = connection.execute("select count(*) from proofs where until < '2021'")
        if not old:
            return
    pytest.fail("proofs that are too old to count are still there")


def test_nothing_of_the_key_shows(place: Place) -> None:
    """No repr of what holds the key or a proof says anything of it."""
    secret = str(place.profile.key["d"]) if place.profile.key else ""
    shown = repr(place.key) + repr(place.profile) + repr(vault.Client(place.profile)) + repr(place.profile.token)
    assert secret
    assert secret not in shown
    assert place.profile.token.text not in shown
