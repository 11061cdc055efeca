"""Delegated access: it only narrows, it ends with anything it came from, and nobody can make more of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.log import acts
from tests.support.tables import rows
from vault import access
from vault.client import connect, delegate, new_request
from vault.delegation import Link
from vault.delegation import delegate as sign
from vault.encoding import new_id, utcnow
from vault.errors import InvalidInput, NotGranted, Unauthenticated
from vault.policy import Request
from vault.proof import ProofKey
from vault.wire import Profile

pytestmark = pytest.mark.both_catalogs

_LIFE = timedelta(hours=1)


@dataclass
class Office:
    """A broker, acme's profile on disk, and a folder for those that it hands on."""

    lab: Lab
    folder: Path
    endpoint: str

    @property
    def acme(self) -> Path:
        """acme's own profile."""
        return self.folder / "acme.json"

    def hand_on(self, source: Path, to: str, **options: Any) -> Path:
        """A delegated profile."""
        target = self.folder / f"{to}-{new_id()[:6]}.json"
        delegate(source, to, target, **{"expires": _LIFE, **options})
        return target

    def read(self, profile: Path, **options: Any) -> pa.Table:
        """What that profile reads of evals."""
        return connect(profile).open("evals").to_arrow(**options)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """acme holds id, prompt and lang (masked: answer) of evals where id < 80, and id of other."""
    folder = tmp_path_factory.mktemp("delegation")
    opened = vault.init(folder / "lab")
    opened.add_vendor("acme")
    opened.publish("evals", rows(100))
    opened.publish("other", rows(10))
    opened.grant("acme", "evals", ["id", "prompt", "lang", "answer"], where="id < 80", masks={"answer": "null"})
    opened.grant("acme", "other", ["id"])
    with broker(folder / "lab") as endpoint:
        opened.issue_credential("acme", endpoint=endpoint).save(folder / "acme.json")
        yield Office(Lab(folder / "lab", opened), folder, endpoint)


def test_a_delegate_reads_what_was_handed_on_and_no_more(office: Office) -> None:
    """Columns, rows by a column that is not handed on, and one dataset; the listing says so too."""
    ann = office.hand_on(office.acme, "ann", columns=["id", "prompt"], where="lang = 'en'", dataset="evals")
    found = office.read(ann)
    assert found.column_names == ["id", "prompt"]
    expected = [row["id"] for row in rows(80).to_pylist() if row["lang"] == "en"]
    assert found["id"].to_pylist() == expected
    client = connect(ann)
    assert client.datasets() == ["evals"]
    assert client.dataset("evals").schema.names == ["id", "prompt"]
    for columns in (["lang"], ["id", "lang"], ["answer"], ["nowhere"]):
        with pytest.raises(NotGranted):
            office.read(ann, columns=columns)
    for where in ("lang = 'de'", "id < 5 OR lang = 'de'", "answer IS NULL"):
        with pytest.raises(NotGranted):
            office.read(ann, where=where)
    with pytest.raises(NotGranted):
        client.open("other").to_arrow()
    assert office.read(ann, where="id >= 70")["id"].to_pylist() == [each for each in expected if each >= 70]


def test_a_delegate_is_told_of_no_mask_on_what_it_was_not_handed(office: Office, granted: Lab) -> None:
    """Neither a column nor a field is named by its mask; the vendor is told of all, under the present names."""
    ann = office.hand_on(office.acme, "ann", columns=["id", "prompt"], dataset="evals")
    assert [grant.masks for grant in connect(ann).grants()] == [{}]
    assert {"answer": "null"} in [grant.masks for grant in connect(office.acme).grants()]
    opened = granted.vault
    opened.publish("nested", pa.table({"id": [1], "meta": [{"seen": "a", "planted": "b"}], "planted_too": ["c"]}))
    masks = {"meta.planted": "redact", "meta.seen": "hash", "planted_too": "null"}
    opened.grant("globex", "nested", ["id", "meta", "planted_too"], masks=masks)
    opened.rename_column("nested", "meta", "info")
    parts = granted.broker_parts()
    caller = granted.caller(parts, "globex")
    (whole,) = access.offerings(parts, caller)
    assert whole.masks == {"info.planted": "redact", "info.seen": "hash", "planted_too": "null"}
    link = Link(new_id(), "ann", caller.expires, "nested", ("id", "info.seen"), None, utcnow())
    (handed,) = access.offerings(parts, replace(caller, links=(link,)))
    assert handed.masks == {"info.seen": "hash"}


def test_a_delegate_is_shown_no_grant_that_it_cannot_read(office: Office) -> None:
    """A filter over a column that another grant has not makes that one unreadable, and it is not in the listing."""
    everywhere = office.hand_on(office.acme, "ann", where="lang = 'en'")
    client = connect(everywhere)
    assert client.datasets() == ["evals"]
    assert client.open("evals").to_arrow().num_rows > 0
    with pytest.raises(NotGranted):
        client.open("other").to_arrow()
    by_both = connect(office.hand_on(office.acme, "ann", where="id < 5"))
    assert by_both.datasets() == ["evals", "other"]
    assert by_both.open("other").to_arrow().num_rows == 5
    # Of a type that the comparison does not fit, and masked: as good as not there.
    assert connect(office.hand_on(office.acme, "ann", where="lang > 5")).datasets() == []
    assert connect(office.hand_on(office.acme, "ann", where="answer IS NULL")).datasets() == []


def test_a_name_hands_on_the_column_that_had_it_then(granted: Lab) -> None:
    """Once the lab has renamed columns, neither a name nor a filter of a delegation is about another one than before."""
    opened = granted.vault
    opened.publish("moved", pa.table({"id": [1, 2], "a": ["A", "A"], "b": ["B", "C"]}))
    opened.grant("globex", "moved", ["id", "a", "b"])
    parts = granted.broker_parts()
    caller = granted.caller(parts, "globex")

    def link(columns: tuple[str, ...] | None, where: str | None = None) -> Link:
        return Link(new_id(), "ann", caller.expires, "moved", columns, where, utcnow())

    def got(*links: Link) -> dict[str, Any]:
        found = access.open_delivery(parts, replace(caller, links=links), Request("moved"))
        return pa.Table.from_batches(found.batches, found.schema).to_pydict()

    named, filtered, everything = link(("id", "a")), link(("id",), "a = 'A'"), link(None)
    assert got(named) == {"id": [1, 2], "a": ["A", "A"]}
    assert got(filtered) == {"id": [1, 2]}
    opened.rename_column("moved", "a", "a2")
    opened.rename_column("moved", "b", "a")
    for _ in range(2):
        assert got(named) == got(everything, named) == got(named, everything) == {"id": [1, 2]}
        with pytest.raises(NotGranted):
            got(filtered)
        assert got(everything) == {"id": [1, 2], "a2": ["A", "A"], "a": ["B", "C"]}
        # Made since then, a delegation names what has the name now.
        assert got(link(("a",))) == {"a": ["B", "C"]}
        assert got(link(("id",), "a = 'B'")) == {"id": [1]}
        opened.rekey(vendor="globex")


def test_a_chain_only_narrows(office: Office) -> None:
    """Whatever a link names, it gives nothing that the one before did not have; three links are the most."""
    ann = office.hand_on(office.acme, "ann", columns=["id", "prompt"], where="id >= 10")
    ben = office.hand_on(ann, "ben", columns=["id", "lang", "answer"], where="id < 20")
    assert office.read(ben).to_pydict() == {"id": list(range(10, 20))}
    with pytest.raises(NotGranted):
        office.read(ben, columns=["prompt"])
    with pytest.raises(NotGranted):
        office.read(ben, columns=["lang"])
    cem = office.hand_on(ben, "cem")
    assert office.read(cem).to_pydict() == {"id": list(range(10, 20))}
    with pytest.raises(InvalidInput, match="at most 3 links"):
        office.hand_on(cem, "dee")
    # A filter over a column that its signer does not have would tell about it.
    spy = office.hand_on(ann, "spy", where="lang = 'en'")
    with pytest.raises(NotGranted):
        office.read(spy)
    masked = office.hand_on(office.acme, "masked", where="answer IS NOT NULL")
    with pytest.raises(NotGranted):
        office.read(masked)
    wrong = office.hand_on(office.acme, "wrong", where="id = 'text'")
    with pytest.raises(NotGranted):
        office.read(wrong)


def test_every_read_is_logged_with_whose_hands_it_went_through(office: Office) -> None:
    """Names and ids of the whole chain, in the entries of the read, its end, and a refusal."""
    ann = office.hand_on(office.acme, "ann the annotator")
    ben = office.hand_on(ann, "ben")
    office.read(ben, limit=1)
    with pytest.raises(NotGranted):
        office.read(ben, columns=["nowhere"])
    entries = acts(office.lab.vault)[-3:]
    assert [entry.kind.value for entry in entries] == ["read begun", "read ended", "request refused"]
    for entry in entries:
        assert [link["to"] for link in entry.fields["delegates"]] == ["ann the annotator", "ben"]


def test_ending_one_ends_what_came_from_it_and_nothing_else(office: Office) -> None:
    """The lab ends a delegation by its id: it and its children are refused, its siblings and the vendor are not."""
    opened = office.lab.vault
    ann, eve = office.hand_on(office.acme, "ann"), office.hand_on(office.acme, "eve")
    ben = office.hand_on(ann, "ben")
    identity = _links(ann)[0]["id"]
    parts = office.lab.broker_parts()
    opened.end_delegation("acme", identity)
    opened.end_delegation("acme", identity)
    assert any(entry.kind.value == "delegation ended" for _, entry in opened.audit_entries())
    _later()
    for ended in (ann, ben):
        with pytest.raises(Unauthenticated):
            office.read(ended)
    assert office.read(eve).num_rows == office.read(office.acme).num_rows == 80
    # What takes away again, or thaws, does not bring it back.
    opened.freeze("acme")
    opened.thaw("acme")
    opened.grant("acme", "other", ["prompt"])
    _later()
    with pytest.raises(Unauthenticated):
        office.read(ann)
    assert parts.heads.vendor(next(v.id for v in opened.vendors()).strip(), max_age=-1).ended == {identity}
    with pytest.raises(InvalidInput, match="32 hexadecimal digits"):
        opened.end_delegation("acme", "nonsense")


def test_a_running_stream_ends_with_its_delegation(granted: Lab) -> None:
    """Within a batch, as it does with the grant and the credential."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    link = Link(new_id(), "ann", caller.expires, None, None, None, utcnow())
    delivery = access.open_delivery(parts, replace(caller, links=(link,)), Request("evals"))
    assert next(delivery.batches).num_rows > 0
    granted.vault.end_delegation("acme", link.id)
    parts.heads.forget(caller.vendor)
    with pytest.raises(NotGranted, match="delegation was ended"):
        list(delivery.batches)


def _later() -> None:
    import time

    time.sleep(1.1)


def _links(profile: Path) -> list[dict[str, Any]]:
    """The claims of a profile's links."""
    import base64

    texts = json.loads(profile.read_text())["delegations"]
    return [json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "==")) for text in texts]


def _status(office: Office, profile: Profile, key: ProofKey, links: list[str], *, header: str | None = None) -> int:
    url = office.endpoint + "/v1/datasets"
    headers = {
        "Authorization": profile.token.header(),
        "DPoP": key.prove("GET", url, profile.token.text, utcnow()),
        "DSVault-Delegation": header if header is not None else ",".join(links),
    }
    return urllib3.request("GET", url, headers=headers, retries=False).status


def test_no_other_chain_is_taken(office: Office) -> None:
    """Links left out, put in another order, of another chain or credential, or signed by somebody else: refused."""
    ann = office.hand_on(office.acme, "ann", columns=["id"])
    ben = office.hand_on(ann, "ben", where="id < 5")
    other = office.hand_on(office.acme, "other")
    profiles = {path: Profile.parse(path.read_bytes(), "test") for path in (office.acme, ann, ben, other)}
    keys = {path: ProofKey.parse(profile.key, "test") for path, profile in profiles.items()}
    acme, (one, two), (third,) = profiles[office.acme], profiles[ben].delegations, profiles[other].delegations
    assert _status(office, acme, keys[ben], [one, two]) == 200
    for key, links in (
        (ben, []),
        (ben, [two]),
        (ben, [one]),
        (ben, [two, one]),
        (ben, [one, two, two]),
        (ben, [third, two]),
        (ben, [one, two, third, one]),
        (ann, [one, two]),
        (office.acme, [one]),
        (ann, []),
    ):
        assert _status(office, acme, keys[key], list(links)) == 401, (key.name, len(links))
    for header in ("", ",", "nonsense", one + ",", one[:-3] + "AAA", "x" * 20_000):
        assert _status(office, acme, keys[ann], [], header=header) in {400, 401, 431}
    # ben signs itself a wider first link, and one for another credential; a thief signs in acme's name.
    common = {"credential": acme.token.credential, "to": "x", "now": utcnow(), "expires": utcnow() + _LIFE}
    thief = ProofKey.create()
    wide, _ = sign(keys[ben], chain=(), thumbprint=keys[ben].thumbprint, **common)
    assert _status(office, acme, keys[ben], [wide]) == 401
    forged, _ = sign(thief, chain=(), thumbprint=thief.thumbprint, **common)
    assert _status(office, acme, thief, [forged]) == 401
    strange, _ = sign(keys[office.acme], chain=(), thumbprint=thief.thumbprint, **{**common, "credential": new_id()})
    assert _status(office, acme, thief, [strange]) == 401
    late, _ = sign(
        keys[office.acme],
        chain=(),
        thumbprint=thief.thumbprint,
        **{**common, "expires": utcnow() - timedelta(seconds=1)},
    )
    assert _status(office, acme, thief, [late]) == 401


def test_it_ends_with_its_time_and_with_the_credential(office: Office, tmp_path: Path) -> None:
    """An expired link is refused; so is every link of a credential that was revoked."""
    opened = office.lab.vault
    issued = opened.issue_credential("acme", endpoint=office.endpoint)
    issued.save(tmp_path / "own.json")
    target = tmp_path / "ann.json"
    delegate(tmp_path / "own.json", "ann", target, expires=_LIFE)
    assert json.loads(target.read_text())["expires"] < issued.profile.expires
    assert office.read(target).num_rows == 80
    opened.revoke_credential(issued.id)
    _later()
    with pytest.raises(Unauthenticated):
        office.read(target)


def test_the_other_side_may_make_its_own_key(office: Office, tmp_path: Path) -> None:
    """The annotator's key is never the vendor's to have; the vendor's is not in what it hands over."""
    new_request(tmp_path / "ann.request.json", tmp_path / "ann.key.json")
    target = tmp_path / "ann.json"
    delegate(office.acme, "ann", target, expires=_LIFE, request=tmp_path / "ann.request.json")
    text = target.read_text()
    for secret in (office.acme, tmp_path / "ann.key.json"):
        document = json.loads(secret.read_text())
        assert str(document.get("d") or document["key"]["d"]) not in text
    assert office.read(target, limit=3).num_rows == 3


def test_what_cannot_be_handed_on_is_told(office: Office, tmp_path: Path) -> None:
    """A bearer credential, an odd name, no columns, a filter that is too long: one sentence each, and no file."""
    bearer = office.lab.vault.issue_credential("acme", endpoint=office.endpoint, bearer=True)
    bearer.save(tmp_path / "bearer.json")
    out = tmp_path / "out.json"
    with pytest.raises(InvalidInput, match="bearer credential is bound to no key"):
        delegate(tmp_path / "bearer.json", "ann", out, expires=_LIFE)
    for options, said in (
        ({"to": ""}, "--to: "),
        ({"to": "a\nb"}, "--to: "),
        ({"to": "x" * 101}, "--to: "),
        ({"columns": []}, "--columns: "),
        ({"columns": ["id", "id"]}, "--columns: "),
        ({"columns": ["x" * 300] * 1 + [f"{n}" * 50 for n in range(100)]}, "name fewer columns"),
        ({"where": "id = " + "1" * 1100}, "--where: "),
        ({"expires": timedelta(0)}, "--expires: "),
        ({"expires": timedelta(days=40_000)}, "--expires: "),
    ):
        with pytest.raises(InvalidInput, match=said):
            delegate(office.acme, **{"to": "ann", "output": out, "expires": _LIFE, **options})
        assert not out.exists()
    headers = {"Authorization": bearer.profile.token.header(), "DSVault-Delegation": "x"}
    assert urllib3.request("GET", office.endpoint + "/v1/datasets", headers=headers, retries=False).status == 401
