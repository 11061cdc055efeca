"""What a broker can unwrap is a fact of the KMS: shown on OpenBao, with a broker that was taken over."""

import base64
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.program import dsvault
from tests.support.reading import read
from tests.support.servers import OpenBao
from tests.support.tables import rows
from vault import client, deployment
from vault.catalog import KeyRow
from vault.errors import KeyUnavailable, KmsError, Unauthenticated, VaultError
from vault.keyring import CacheLimits
from vault.kms.transit import TransitKms, associated_data
from vault.workings.parts import Parts, wrapped_key


class BaoLab(Lab):
    """A lab whose KMS keys are in OpenBao."""

    bao: OpenBao
    mount: str

    def policy(self, vendors: str = "acme") -> str:
        """What ``dsvault kms policy`` prints."""
        done = dsvault("kms", "policy", "--vendor", vendors, "--vault", self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self) -> list[tuple[str, KeyRow]]:
        """Every wrapped data key in the catalog, with the name of its holder."""
        found = []
        for each in self.vault.kms_keys():
            with self.vault.parts.catalog.read() as transaction:
                found += [(each.holder, row) for row in transaction.keys_of_holder(each.id)]
        return found

    def unwrapped(self, name: str) -> set[str]:
        """The associated data of every unwrap that the server's audit file lists for a transit key."""
        entries = (json.loads(line) for line in self.bao.audit.read_text().splitlines())
        return {
            entry["request"]["data"]["associated_data"]
            for entry in entries
            if entry["type"] == "response"
            and entry["request"]["path"] == f"{self.mount}/decrypt/{name}"
            and not entry.get("error")
        }


@pytest.fixture
def baolab(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaoLab:
    """acme may read id and prompt where lang is 'en'; globex may read the answer."""
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    mount = bao.mount()
    opened = vault.init(tmp_path / "lab", kms=bao.uri(mount))
    lab = BaoLab(tmp_path / "lab", opened)
    lab.bao, lab.mount = bao, mount
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    opened.publish("evals", rows(40), key="id", shard_rows=15)
    opened.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    opened.grant("globex", "evals", ["answer"])
    return lab


def _as_broker(lab: BaoLab, token: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Parts:
    with monkeypatch.context() as patch:
        patch.setenv("BAO_TOKEN", token)
        return deployment.open_broker(lab.folder, **options)[0]


def _groups(lab: BaoLab) -> dict[str, str]:
    from tests.attacks.test_swaps import _version

    return {column.name: column.group for column in _version(lab, "owner").manifest.columns}


def _contexts(lab: BaoLab, vendor: str, *names: str) -> set[tuple[str, str]]:
    """The (compartment, group) pairs of a vendor's columns, its manifest and its metadata key."""
    columns = _groups(lab)
    holder = next(each.id for each in lab.vault.kms_keys() if each.holder == vendor)
    with lab.vault.parts.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=holder)
    return {(holder, "metadata"), (place.id, "manifest"), *((place.id, columns[name]) for name in names)}


def test_a_broker_under_the_policy_serves_what_is_granted(baolab: BaoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token under the printed policy the granted columns are served, before and after a rekey and a rewrap."""
    token = baolab.bao.token_for(baolab.policy())
    for act in (
        lambda: None,
        lambda: baolab.vault.rekey("acme"),
        lambda: baolab.vault.rewrap("acme", disable_old=True),
    ):
        act()
        parts = _as_broker(baolab, token, monkeypatch)
        table = read(parts, baolab.caller(parts, "acme"))
        assert table.column_names == ["id", "prompt"]
        assert table.num_rows == 20


def test_a_broker_that_was_taken_over_unwraps_nothing_else(baolab: BaoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the broker's token opens exactly the data keys of the grant: OpenBao refuses every other."""
    baolab.vault.grant("acme", "evals", ["score"])
    revoked = baolab.vault.grants("acme")[1].grant
    baolab.vault.revoke(revoked.id)
    token = baolab.bao.token_for(baolab.policy())
    thief = TransitKms(baolab.bao.address, baolab.mount, token)
    opened, refused = set(), set()
    for holder, row in baolab.rows():
        key = wrapped_key(baolab.vault.parts.vault, row)
        try:
            thief.unwrap(row.kms_key, row.wrapped, key.scope.context())
            opened.add((holder, row.compartment, row.group))
        except KeyUnavailable as error:
            assert "permission denied" in str(error)
            refused.add((holder, row.compartment, row.group))
    assert opened == {("acme", *pair) for pair in _contexts(baolab, "acme", "id", "prompt", "lang")}
    assert {holder for holder, _, _ in refused} == {"owner", "acme", "globex"}
    thief.close()


def test_what_is_not_allowed_is_refused_by_the_server(baolab: BaoLab) -> None:
    """Neither a batch, nor another parameter, nor any other path of the engine gets past the policy."""
    token = baolab.bao.token_for(baolab.policy())
    key = next(each.key for each in baolab.vault.kms_keys() if each.holder == "acme")
    name = key.split(":")[1]
    rows_of = {(holder, row.group): row for holder, row in baolab.rows()}
    manifest, lang = rows_of["acme", "manifest"], _groups(baolab)["lang"]

    def body(row: KeyRow) -> dict[str, str]:
        scope = wrapped_key(baolab.vault.parts.vault, row).scope
        return {
            "ciphertext": f"vault:v1:{base64.b64encode(row.wrapped[1:]).decode()}",
            "associated_data": base64.b64encode(associated_data(scope.context())).decode(),
        }

    path = f"{baolab.mount}/decrypt/{name}"
    assert baolab.bao.call("POST", path, body(manifest), token)[0] == 200
    assert baolab.bao.call("POST", path, body(rows_of["acme", lang]), token)[0] == 200
    tries: list[tuple[str, str, Any]] = [
        ("POST", path, {"batch_input": [body(manifest)]}),
        ("POST", path, {**body(manifest), "batch_input": [body(manifest)]}),
        ("POST", path, {**body(manifest), "context": "AAAA"}),
        ("POST", path, {"ciphertext": body(manifest)["ciphertext"]}),
        ("POST", f"{baolab.mount}/encrypt/{name}", {"plaintext": "AAAA"}),
        ("POST", f"{baolab.mount}/rewrap/{name}", {"ciphertext": body(manifest)["ciphertext"]}),
        ("POST", f"{baolab.mount}/datakey/plaintext/{name}", {}),
        ("GET", f"{baolab.mount}/keys/{name}", None),
        ("GET", f"{baolab.mount}/export/encryption-key/{name}", None),
        ("GET", f"{baolab.mount}/backup/{name}", None),
        ("POST", f"{baolab.mount}/keys/{name}/rotate", {}),
    ]
    for method, where, what in tries:
        assert baolab.bao.call(method, where, what, token)[0] == 403, (method, where, what)


def test_the_old_policy_does_not_open_a_new_grant(baolab: BaoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is granted later is refused by OpenBao until the policy names it; what was granted is served on."""
    token = baolab.bao.token_for(baolab.policy())
    first = baolab.vault.grants("acme")[0].grant.id
    second = baolab.vault.grant("acme", "evals", ["answer"])
    parts = _as_broker(baolab, token, monkeypatch)
    caller = baolab.caller(parts, "acme")
    with pytest.raises(KmsError):
        read(parts, caller, grant=second.id)
    assert read(parts, caller, grant=first).num_rows == 20
    wider = _as_broker(baolab, baolab.bao.token_for(baolab.policy()), monkeypatch)
    assert read(wider, caller, grant=second.id).num_rows == 40


def test_a_process_for_one_vendor_serves_that_vendor_only(baolab: BaoLab, tmp_path: Path) -> None:
    """``serve --vendors acme`` with acme's token and without the owner's folder: acme reads, globex is a stranger."""
    token = baolab.bao.token_for(baolab.policy())
    alone = tmp_path / "alone"
    shutil.copytree(baolab.folder, alone, ignore=shutil.ignore_patterns("owner"))
    # The copy has a broker's part only; the catalog and the store are the lab's.
    text = (alone / "broker" / "config.toml").read_text()
    text = text.replace('"store"', f'"{baolab.folder / "store"}"')
    text = text.replace("sqlite:///catalog.db", f"sqlite:///{baolab.folder / 'catalog.db'}")
    (alone / "broker" / "config.toml").write_text(text)
    with broker(alone, "--vendors", "acme", environment={"BAO_TOKEN": token}) as endpoint:
        acme = client.connect(baolab.profile("acme", endpoint))
        assert acme.dataset("evals").to_arrow().num_rows == 20
        with pytest.raises(Unauthenticated):
            client.connect(baolab.profile("globex", endpoint)).datasets()


def test_the_servers_audit_file_lists_exactly_the_granted_columns(
    baolab: BaoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenBao's own record of a cold fetch: the granted columns and the filter's, the manifest and the names."""
    key = next(each.key for each in baolab.vault.kms_keys() if each.holder == "acme")
    name = key.split(":")[1]
    token = baolab.bao.token_for(baolab.policy())
    caller = baolab.caller(baolab.broker_parts(), "acme")
    before = baolab.bao.audit.stat().st_size
    parts = _as_broker(baolab, token, monkeypatch)
    assert read(parts, caller).num_rows == 20
    entries = [json.loads(line) for line in baolab.bao.audit.read_bytes()[before:].decode().splitlines()]
    found = [
        entry["request"]["data"]["associated_data"]
        for entry in entries
        if entry["type"] == "request" and entry["request"]["path"] == f"{baolab.mount}/decrypt/{name}"
    ]
    wanted = {
        base64.b64encode(associated_data(wrapped_key(baolab.vault.parts.vault, row).scope.context())).decode()
        for holder, row in baolab.rows()
        if holder == "acme" and (row.compartment, row.group) in _contexts(baolab, "acme", "id", "prompt", "lang")
    }
    assert set(found) == wanted
    assert len(found) == len(wanted) == 5


def test_a_deaf_broker_stops_when_its_keys_are_too_old(baolab: BaoLab, tmp_path: Path) -> None:
    """A warm broker that never hears of the freeze stops serving within the age of its cache once the key is disabled."""
    _deaf(baolab, tmp_path, age=3)


@pytest.mark.soak
def test_a_deaf_broker_stops_within_a_minute(baolab: BaoLab, tmp_path: Path) -> None:
    """The same with the age that is configured by default: 60 seconds."""
    _deaf(baolab, tmp_path, age=60)


def _deaf(lab: BaoLab, tmp_path: Path, age: int) -> None:
    # Its catalog and store are copies, so that no head, no log entry and no row ever reaches it again.
    caller = lab.caller(lab.broker_parts(), "acme")
    deaf = tmp_path / "deaf"
    shutil.copytree(lab.folder, deaf)
    parts, _ = deployment.open_broker(deaf, limits=CacheLimits(age=age))
    assert read(parts, caller).num_rows == 20
    lab.vault.freeze("acme")
    lab.vault.disable_kms_key("acme")
    stopped = time.monotonic()
    served_for = 0.0
    while True:
        try:
            read(parts, caller)
            served_for = time.monotonic() - stopped
        except VaultError as error:
            assert isinstance(error, KmsError)
            break
        assert time.monotonic() - stopped < age + 5
        time.sleep(0.1)
    assert 0 < served_for <= age
    # And for good: a broker that starts now opens nothing either.
    cold, _ = deployment.open_broker(deaf)
    with pytest.raises(KmsError):
        read(cold, caller)


def test_the_labs_policy_in_the_how_to_is_enough(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token under the policy that the how-to shows the lab does everything that it does with its KMS keys."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "kms.md").read_text()
    _, _, policy = text.partition("# dsvault-lab.hcl\n")
    policy, _, _ = policy.partition("\n\n")
    assert policy.count("path ") == 4
    mount = bao.mount()
    monkeypatch.setenv("BAO_TOKEN", bao.token_for(policy.replace('"transit/', f'"{mount}/')))
    opened = vault.init(tmp_path / "lab", kms=bao.uri(mount))
    opened.add_vendor("acme")
    opened.publish("evals", rows(10), key="id")
    opened.grant("acme", "evals", ["id"])
    opened.rekey("acme")
    opened.rewrap("acme", disable_old=True)
    opened.disable_kms_key("acme")
    opened.enable_kms_key("acme")
    assert opened.check().ok
    opened.offboard("acme")
    assert opened.check().ok
