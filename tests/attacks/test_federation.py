"""A vendor's own identity provider in the place of a credential: a small issuer of ours, and what others try with it."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import delta_sharing
import pytest
import urllib3
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from requests.exceptions import HTTPError

import vault
from tests.conftest import Lab
from tests.support.brokers import broker, counters
from tests.support.log import acts
from tests.support.tables import rows
from vault import access, federation
from vault.catalog import Transaction
from vault.client import connect_with_token
from vault.errors import InvalidInput, Unauthenticated
from vault.federation import Issuers, Provider, check_token


@dataclass
class Issuer:
    """An identity provider on loopback: what it publishes can be changed, and requests are counted."""

    keys: list[Any] = field(default_factory=list)
    configuration: dict[str, Any] | None = None
    status: int = 200
    delay: float = 0
    drip: float = 0
    fetches: int = 0
    url: str = ""

    def __enter__(self) -> "Issuer":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches += self.path == "/keys"
                document = (
                    {"keys": [key.as_dict(private=False) for key in outer.keys] + [{"kty": "odd"}, 7]}
                    if self.path == "/keys"
                    else outer.configuration or {"issuer": outer.url, "jwks_uri": outer.url + "/keys"}
                )
                data = json.dumps(document).encode()
                time.sleep(outer.delay)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    for at in range(len(data)) if outer.drip else ():
                        self.wfile.write(data[at : at + 1])
                        time.sleep(outer.drip)
                    self.wfile.write(data if not outer.drip else b"")
                except OSError:
                    self.close_connection = True

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(
        self, key: Any = None, algorithm: str = "RS256", header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token for acme's annotators, good for five minutes, or one that differs."""
        now = int(time.time())
        whole = {"iss": self.url, "aud": "dsvault", "sub": "ann", "hd": "acme.example", "iat": now, "exp": now + 300}
        kept = {name: value for name, value in (whole | claims).items() if value is not ...}
        signer = key or self.keys[0]
        heading = {"alg": algorithm, **({"kid": signer.kid} if signer.kid else {}), **(header or {})}
        return jwt.encode(heading, kept, signer, algorithms=[algorithm])


def _rsa(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """A running issuer with one RSA key."""
    with Issuer([_rsa("one")]) as running:
        yield running


@dataclass
class Place:
    """A vault whose vendor acme has its own issuer, and a broker."""

    lab: Lab
    endpoint: str
    credential: str

    def status(self, token: str, **headers: str) -> int:
        """The status of a listing with that token."""
        given = {"Authorization": f"Bearer {token}", **headers}
        return urllib3.request("GET", self.endpoint + "/v1/datasets", headers=given, retries=False).status


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Place]:
    """acme is whoever has the claim hd=acme.example there; globex whoever has hd=globex.example."""
    folder = tmp_path_factory.mktemp("federation") / "lab"
    opened = vault.init(folder)
    made = {}
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
        made[vendor] = opened.federate(
            vendor, issuer=issuer.url, audience="dsvault", claims={"hd": f"{vendor}.example"}
        )
    opened.publish("evals", rows(20))
    opened.grant("acme", "evals", ["id"])
    with broker(folder) as endpoint:
        yield Place(Lab(folder, opened), endpoint, made["acme"])


def test_a_token_of_the_issuer_is_a_credential(place: Place, issuer: Issuer, tmp_path: Path) -> None:
    """By the client and the command, with whom it speaks of in the log; the other vendor's tokens are the other's."""
    assert connect_with_token(place.endpoint, issuer.token).open("evals").to_arrow().num_rows == 20
    entry = [entry for _, entry in place.lab.vault.audit_entries() if entry.kind.value == "read begun"][-1]
    assert (entry.fields["subject"], entry.fields["credential"]) == ("ann", place.credential)
    assert connect_with_token(place.endpoint, lambda: issuer.token(hd="globex.example")).datasets() == []
    assert place.status(issuer.token(aud=["x", "dsvault"])) == 200
    assert place.status(issuer.token(hd=["x", "acme.example"])) == 200
    (tmp_path / "token").write_text(issuer.token() + "\n")
    from typer.testing import CliRunner

    from vault_cli.main import app

    options = ["fetch", "evals", "--endpoint", place.endpoint, "--token-file", str(tmp_path / "token"), "--json"]
    done = CliRunner().invoke(app, options)
    assert len(json.loads(done.stdout)["rows"]) == 20
    (state,) = [state for state in place.lab.vault.credentials() if state.credential.id == place.credential]
    assert state.credential.provider is not None


@pytest.mark.filterwarnings("ignore")
def test_a_token_reads_shared_files(place: Place, issuer: Issuer, tmp_path: Path) -> None:
    """Delta Sharing's client presents it like any bearer token; each read of a file says whom it spoke of."""
    profile = tmp_path / "token.share"
    told = {"shareCredentialsVersion": 1, "endpoint": f"{place.endpoint}/delta-sharing/"}
    profile.write_text(json.dumps({**told, "bearerToken": issuer.token()}))
    assert len(delta_sharing.load_as_pandas(f"{profile}#dsvault.default.evals")) == 20
    read = [entry for _, entry in place.lab.vault.audit_entries() if entry.kind.value == "shared file read"]
    assert {(entry.fields["subject"], entry.fields["credential"]) for entry in read} == {("ann", place.credential)}
    profile.write_text(json.dumps({**told, "bearerToken": issuer.token(aud="other")}))
    with pytest.raises(HTTPError, match="401"):
        delta_sharing.load_as_pandas(f"{profile}#dsvault.default.evals")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": ...},
        {"aud": "other"},
        {"aud": ...},
        {"aud": ["other"]},
        {"hd": "ACME.example"},
        {"hd": ...},
        {"hd": {"acme.example": 1}},
        {"exp": 1},
        {"exp": ...},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": int(time.time()) - 61},
        {"nbf": int(time.time()) + 600},
        {"iat": int(time.time()) + 600},
    ],
)
def test_a_token_that_says_something_else_is_refused(place: Place, issuer: Issuer, claims: dict[str, Any]) -> None:
    """Another issuer, audience, person or time."""
    assert place.status(issuer.token(**claims)) == 401


def test_clocks_may_differ_by_a_minute(place: Place, issuer: Issuer) -> None:
    """A token that has just expired, or will begin in a moment, is taken."""
    now = int(time.time())
    assert place.status(issuer.token(exp=now - 30)) == 200
    assert place.status(issuer.token(nbf=now + 30, iat=now + 30)) == 200


def test_only_the_issuers_published_keys_count(place: Place, issuer: Issuer) -> None:
    """A stranger's key, one in the token's own header, a shared secret, none at all, a changed token: refused."""
    good = issuer.token()
    stranger = _rsa("one")
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    public = json.dumps(issuer.keys[0].as_dict(private=False)).encode()
    for token in (
        issuer.token(stranger),
        issuer.token(stranger, header={"jwk": stranger.as_dict(private=False)}),
        issuer.token(stranger, header={"jku": "http://127.0.0.1:1/keys", "kid": "x"}),
        issuer.token(OctKey.import_key(public, {"kid": "one"}), "HS256"),
        issuer.token(header={"kid": "other"}),
        f"{none}.{body}.",
        f"{head}.{body}.{signature[:-6]}AAAAAA",
        f"{none}.{body}.{signature}",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.x",
        "x" * 20_000 + ".x.x",
    ):
        assert place.status(token) == 401
    assert place.status(good, DPoP="x") == 401
    assert place.status(good, **{"DSVault-Delegation": "x"}) == 401
    assert place.status(good) == 200


def test_the_lab_ends_it_like_any_credential(issuer: Issuer, tmp_path: Path) -> None:
    """Revoked, expired, frozen, from another network: refused; federated again, it is accepted again."""
    opened = vault.init(tmp_path / "lab")
    opened.add_vendor("acme")
    options: dict[str, Any] = {"issuer": issuer.url, "audience": "dsvault", "claims": {"hd": "acme.example"}}
    first = opened.federate("acme", **options)
    with broker(tmp_path / "lab") as endpoint:
        place = Place(Lab(tmp_path / "lab", opened), endpoint, first)
        assert place.status(issuer.token()) == 200
        opened.revoke_credential(first)
        time.sleep(1.1)
        assert place.status(issuer.token()) == 401
        opened.federate("acme", **options, networks=["192.0.2.0/24"])
        time.sleep(1.1)
        assert place.status(issuer.token()) == 401
        opened.federate("acme", **options, expires=timedelta(seconds=1))
        time.sleep(1.1)
        assert place.status(issuer.token()) == 401
        last = opened.federate("acme", **options)
        time.sleep(1.1)
        assert place.status(issuer.token()) == 200
        opened.revoke_credential(last)
        time.sleep(1.1)
        assert place.status(issuer.token()) == 401
        assert set(_reasons(opened)) == {"credential ended", "address not allowed", "credential expired"}


def _reasons(opened: Any) -> list[Any]:
    return [entry.fields["reason"] for entry in acts(opened) if entry.kind.value == "request refused"]


def _held(*providers: Provider) -> Issuers:
    """Issuers whose keys were fetched."""
    issuers = Issuers()
    issuers.refresh(providers)
    return issuers


def test_what_looks_like_a_token_costs_no_look_at_every_credential(
    lab: Lab, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends it, and of whatever issuer, the catalog is asked once a second; a new credential counts by then."""
    parts, now, asked = lab.broker_parts(), [0.0], []
    issuers = _held(Provider(issuer.url, "dsvault", {}))
    monkeypatch.setattr(parts.lately.federated, "_clock", lambda: now[0])
    listed = Transaction.credentials

    def counted(transaction: Transaction, *arguments: Any) -> Any:
        asked.append(now[0])
        return listed(transaction, *arguments)

    monkeypatch.setattr(Transaction, "credentials", counted)

    def refused(token: str) -> None:
        with pytest.raises(Unauthenticated):
            access.authenticate_federated(parts, issuers, token, "test")

    for number in range(20):
        refused(issuer.token(iss=f"https://{number}.example"))
        refused(issuer.token(iss=[number]))
    refused(issuer.token())
    assert asked == [0.0]
    made = lab.vault.federate("acme", issuer=issuer.url, audience="dsvault", claims={"hd": "acme.example"})
    asked.clear()
    now[0] = 1.01
    for _ in range(20):
        assert access.authenticate_federated(parts, issuers, issuer.token(), "test").credential == made
    assert asked == [1.01]
    lab.vault.revoke_credential(made)
    parts.heads.forget(next(each.id for each in lab.vault.vendors() if each.name == "acme"))
    asked.clear()
    refused(issuer.token())
    assert asked == [], "one that was ended is found, and does not count"


def _now() -> Any:
    from vault.encoding import utcnow

    return utcnow()


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ECKey.generate_key("P-256", {"kid": "k"}), "ES256"),
        (lambda: OKPKey.generate_key("Ed25519", {"kid": "k"}), "Ed25519"),
        (lambda: _rsa("k"), "PS256"),
    ],
)
def test_keys_roll_over(make: Callable[[], Any], algorithm: str) -> None:
    """A new key is found when a token names it, the old one is gone then, and nobody makes us ask all the time."""
    now = [0.0]
    with Issuer([_rsa("old")]) as issuer:
        issuers, provider = Issuers(lambda: now[0]), Provider(issuer.url, "dsvault", {"hd": "acme.example"})
        old = issuer.token()
        issuers.refresh([provider])
        check_token(old, provider, issuers, _now())
        issuers.refresh([provider])
        check_token(old, provider, issuers, _now())
        assert issuer.fetches == 1
        new = make()
        issuer.keys = [new]
        fresh = issuer.token(new, algorithm)
        for _ in range(5):
            with pytest.raises(Unauthenticated):
                check_token(fresh, provider, issuers, _now())
            issuers.refresh([provider])
        assert issuer.fetches == 1, "not so soon after the last time"
        now[0] += 11
        issuers.refresh([provider])
        assert check_token(fresh, provider, issuers, _now())["sub"] == "ann"
        assert issuer.fetches == 2
        with pytest.raises(Unauthenticated):
            check_token(old, provider, issuers, _now())
        # Two keys without names: which of them it was cannot be told, so neither is tried.
        issuer.keys = [ECKey.generate_key("P-256"), ECKey.generate_key("P-256")]
        now[0] += 400
        issuers.refresh([provider])
        with pytest.raises(Unauthenticated):
            check_token(issuer.token(issuer.keys[0], "ES256", header={}), provider, issuers, _now())


def test_the_keys_of_one_vendor_sign_for_no_other_of_the_same_issuer() -> None:
    """Two sets of keys under one issuer's name, whichever was fetched first."""
    mine, theirs = _rsa("mine"), _rsa("theirs")
    with Issuer([mine]) as first, Issuer([theirs]) as second:
        acme = Provider(first.url, "dsvault", {"hd": "acme.example"}, first.url + "/keys")
        globex = Provider(first.url, "dsvault", {"hd": "globex.example"}, second.url + "/keys")
        forged, good = (first.token(key, hd="globex.example") for key in (mine, theirs))
        issuers = _held(acme, globex)
        assert check_token(first.token(mine), acme, issuers, _now())
        with pytest.raises(Unauthenticated):
            check_token(forged, globex, issuers, _now())
        assert check_token(good, globex, issuers, _now())
        with pytest.raises(Unauthenticated):
            check_token(first.token(theirs), acme, issuers, _now())


def test_keys_grow_old(issuer: Issuer) -> None:
    """Fetched anew halfway; where that fails they count for five minutes after they were fetched, and no longer."""
    now = [0.0]
    with Issuer([_rsa("one")]) as failing:
        issuers, provider = Issuers(lambda: now[0]), Provider(failing.url, "dsvault", {"hd": "acme.example"})
        issuers.refresh([provider])
        now[0] = 151
        issuers.refresh([provider])
        assert failing.fetches == 2
        failing.status = 500
        now[0] = 450
        issuers.refresh([provider])
        assert check_token(failing.token(), provider, issuers, _now())
        now[0] = 452
        with pytest.raises(Unauthenticated):
            check_token(failing.token(), provider, issuers, _now())


def test_an_issuer_that_cannot_be_asked_signs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Down, another's configuration, keys at plain http elsewhere: its tokens are refused, and the broker's log says why."""
    with Issuer([_rsa("one")]) as issuer:
        provider, token = Provider(issuer.url, "dsvault", {"hd": "acme.example"}), issuer.token()
        for status, configuration in (
            (500, None),
            (200, {"issuer": "http://evil.example", "jwks_uri": issuer.url + "/keys"}),
            (200, {"issuer": issuer.url}),
            (200, {"issuer": issuer.url, "jwks_uri": "http://192.0.2.1/keys"}),
        ):
            issuer.status, issuer.configuration = status, configuration
            caplog.clear()
            with pytest.raises(Unauthenticated):
                check_token(token, provider, _held(provider), _now())
            assert "the keys of the issuer of tokens at '127.0.0.1' cannot be had (Unavailable)" in caplog.text
        direct = Provider(issuer.url, "dsvault", {"hd": "acme.example"}, issuer.url + "/keys")
        assert check_token(token, direct, _held(direct), _now())


def test_an_issuer_that_fails_is_not_asked_again_at_once() -> None:
    """However many forged tokens name its keys: once in ten seconds, as for a key that it does not publish."""
    now = [0.0]
    with Issuer([_rsa("one")]) as issuer:
        provider, token = Provider(issuer.url, "dsvault", {"hd": "acme.example"}, issuer.url + "/keys"), issuer.token()
        issuer.status = 500
        issuers = Issuers(lambda: now[0])
        for second, fetches in ((0, 1), (1, 1), (9, 1), (11, 2), (12, 2), (20, 2), (22, 3)):
            now[0] = second
            for _ in range(5):
                with pytest.raises(Unauthenticated):
                    check_token(token, provider, issuers, _now())
                issuers.refresh([])
            assert issuer.fetches == fetches


def test_nobody_waits_for_an_issuer() -> None:
    """While its keys are fetched slowly a token is judged at once, by the keys that are held or as one without any."""
    now = [0.0]
    with Issuer([_rsa("one")]) as issuer:
        provider = Provider(issuer.url, "dsvault", {"hd": "acme.example"}, issuer.url + "/keys")
        good, forged = issuer.token(), issuer.token(_rsa("other"))
        issuers = Issuers(lambda: now[0])
        with issuers.kept(lambda: [provider]):
            issuer.delay = 1.0
            now[0] = 20
            began = time.monotonic()
            for _ in range(20):
                with pytest.raises(Unauthenticated):
                    check_token(forged, provider, issuers, _now())
                assert check_token(good, provider, issuers, _now())
            assert time.monotonic() - began < 0.5
            _until(lambda: issuer.fetches == 2)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch has so long in all, however often something comes."""
    monkeypatch.setattr(federation, "_PATIENCE", 0.3)
    with Issuer([_rsa("one")]) as issuer:
        provider, token = Provider(issuer.url, "dsvault", {"hd": "acme.example"}, issuer.url + "/keys"), issuer.token()
        issuer.drip = 0.002
        issuers = Issuers()
        threads = issuers._begin([provider])
        (thread,) = threads
        thread.join(timeout=0.6)
        assert not thread.is_alive()
        with pytest.raises(Unauthenticated):
            check_token(token, provider, issuers, _now())


def _forged(issuer: str, **claims: Any) -> str:
    """A token that anybody can make, signed by nobody."""
    whole = {"iss": issuer, "aud": "dsvault", "hd": "acme.example", "exp": int(time.time()) + 300, **claims}
    parts = ({"alg": "ES256", "kid": "q"}, whole)
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + ".AAAA"
    )


def test_tokens_that_nobody_signed_leave_nothing_in_the_log(place: Place, issuer: Issuer) -> None:
    """They are counted; the refusal of one that the issuer signed is written down."""
    # A credential of its own: of refusals that are alike only the first is an entry at once.
    own = {"hd": "own.example"}
    place.lab.vault.federate("acme", issuer=issuer.url, audience="dsvault", claims=own)
    time.sleep(1.1)
    name = 'dsvault_refusals_total{kind="unauthenticated"}'
    refused = counters(place.endpoint).get(name, 0)
    entries = len(acts(place.lab.vault))
    for token in (_forged(issuer.url), issuer.token(_rsa("one")), issuer.token(_rsa("x")), _forged(issuer.url, exp=1)):
        assert place.status(token) == 401
    assert len(acts(place.lab.vault)) == entries
    assert counters(place.endpoint)[name] == refused + 4
    assert place.status(issuer.token(exp=1, **own)) == 401
    assert len(acts(place.lab.vault)) == entries + 1
    assert _reasons(place.lab.vault)[-1] == "the token has expired"


def test_an_issuer_is_not_told_from_a_stranger(lab: Lab) -> None:
    """Also while its keys cannot be had, or not soon: one answer, to the byte, and in no longer time."""
    with Issuer([_rsa("one")]) as issuer:
        lab.vault.federate("acme", issuer=issuer.url, audience="dsvault", claims={"hd": "acme.example"})
        issuer.status = 500
        with broker(lab.folder) as endpoint:
            issuer.delay = 1.0
            answers = []
            for token in (_forged("https://stranger.example"), _forged(issuer.url), issuer.token()):
                began = time.monotonic()
                answer = urllib3.request(
                    "GET", endpoint + "/v1/datasets", headers={"Authorization": f"Bearer {token}"}, retries=False
                )
                assert time.monotonic() - began < 0.5
                told = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date"}}
                answers.append((answer.status, answer.data, told))
            assert answers[0][0] == 401
            assert answers[1:] == answers[:1] * 2


def test_a_token_is_of_its_own_audience_only(lab: Lab) -> None:
    """Another vendor of the same issuer with another audience stands in nobody's way."""
    with Issuer([_rsa("one")]) as issuer:
        options: dict[str, Any] = {"issuer": issuer.url, "claims": {"hd": "acme.example"}}
        lab.vault.federate("acme", audience="dsvault", **options)
        lab.vault.federate("globex", audience="globex", **options)
        with broker(lab.folder) as endpoint:
            place = Place(lab, endpoint, "")
            assert place.status(issuer.token()) == 200
            assert place.status(issuer.token(aud=["dsvault", "globex"])) == 401, "it could be either's"
            assert _reasons(lab.vault) == ["credentials of more than one vendor fit the token"]


def test_a_federation_is_renewed_before_it_ends(lab: Lab) -> None:
    """Of several of one vendor that fit, the one that expires last counts, and the other when that is revoked."""
    with Issuer([_rsa("one")]) as issuer:
        options: dict[str, Any] = {"issuer": issuer.url, "audience": "dsvault", "claims": {"hd": "acme.example"}}
        lab.vault.publish("evals", rows(20))
        lab.vault.grant("acme", "evals", ["id"])
        soon, late, middle = (
            lab.vault.federate("acme", **options, expires=timedelta(days=days)) for days in (1, 90, 30)
        )
        with broker(lab.folder) as endpoint:
            reader = connect_with_token(endpoint, issuer.token)
            for ended, used in ((None, late), (late, middle), (middle, soon)):
                if ended is not None:
                    lab.vault.revoke_credential(ended)
                    time.sleep(1.1)
                reader.open("evals").to_arrow()
                entry = [entry for _, entry in lab.vault.audit_entries() if entry.kind.value == "read begun"][-1]
                assert entry.fields["credential"] == used


def test_a_token_that_two_vendors_could_have_is_neithers(lab: Lab) -> None:
    """Nobody is chosen, also where one of the two may not come from there and the other's keys are elsewhere."""
    with Issuer([_rsa("one")]) as issuer, Issuer([_rsa("two")]) as other:
        options: dict[str, Any] = {"issuer": issuer.url, "audience": "dsvault"}
        lab.vault.federate("acme", **options, claims={"groups": "a"})
        lab.vault.federate(
            "globex", **options, claims={"groups": "g"}, networks=["192.0.2.0/24"], jwks=other.url + "/keys"
        )
        with broker(lab.folder) as endpoint:
            place = Place(lab, endpoint, "")
            assert place.status(issuer.token(groups=["a", "x"])) == 200
            assert place.status(issuer.token(groups=["a", "g"])) == 401
            assert _reasons(lab.vault) == ["credentials of more than one vendor fit the token"]


@pytest.mark.parametrize(
    ("different", "apart"),
    [
        ({}, False),
        ({"jwks": "https://idp.example/other"}, False),
        ({"claims": {"hd": "acme.example", "groups": "g"}}, False),
        ({"claims": {"groups": "g"}}, False),
        ({"claims": {"hd": "globex.example"}}, True),
        ({"claims": {"hd": "globex.example", "groups": "g"}}, True),
        ({"audience": "globex"}, True),
        ({"issuer": "https://idp.globex.example"}, True),
    ],
)
def test_terms_that_another_vendors_tokens_may_fit_are_refused(
    lab: Lab, different: dict[str, Any], apart: bool
) -> None:
    """While that vendor's credential is live; the sentence names it."""
    options: dict[str, Any] = {"issuer": "https://idp.example", "audience": "dsvault", "claims": {"hd": "acme.example"}}
    first = lab.vault.federate("acme", **options)
    if not apart:
        with pytest.raises(InvalidInput, match=f"--claim: .* credential {first} of 'acme'"):
            lab.vault.federate("globex", **{**options, **different})
        lab.vault.revoke_credential(first)
    assert lab.vault.federate("globex", **{**options, **different})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"issuer": "http://idp.example"}, "--issuer: "),
        ({"issuer": "ftp://x"}, "--issuer: "),
        ({"issuer": "https://user@idp.example"}, "--issuer: "),
        ({"jwks": "http://idp.example/keys"}, "--jwks: "),
        ({"audience": ""}, "--audience: "),
        ({"claims": {}}, "--claim: "),
        ({"claims": {"hd": ""}}, "--claim: "),
        ({"networks": ["x"]}, "--network: "),
    ],
)
def test_a_provider_that_cannot_be_one_is_refused(lab: Lab, options: dict[str, Any], said: str) -> None:
    """With the option's name, before anything is signed."""
    good: dict[str, Any] = {"issuer": "https://idp.example", "audience": "dsvault", "claims": {"hd": "acme.example"}}
    with pytest.raises(InvalidInput, match=said):
        lab.vault.federate("acme", **{**good, **options})
    assert lab.vault.credentials() == []


def test_the_client_sends_a_refused_token_once_more(place: Place, issuer: Issuer) -> None:
    """A key that is new to the broker is there a moment later; what is refused again is refused."""
    given = iter([issuer.token(_rsa("new")), issuer.token(), issuer.token(exp=1), issuer.token(exp=1)])
    reader = connect_with_token(place.endpoint, lambda: next(given))
    assert reader.datasets() == ["evals"]
    with pytest.raises(Unauthenticated):
        reader.datasets()
    assert next(given, None) is None
