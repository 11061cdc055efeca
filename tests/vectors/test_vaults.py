"""Vaults that older releases made, kept as archives: each is upgraded, and answers what it did, and goes on.

``tests/vectors/vaults/make.py`` made them; a vault of every schema that ever was stays here.
"""

import json
import tarfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.support.brokers import broker
from tests.vectors.vaults.make import APPROVER, table
from vault import deployment
from vault.catalog import schema
from vault.errors import NotFound, OtherSchema, Refused, VaultError
from vault.owner import Vault
from vault.trust import Signer
from vault.trust.approvals import add_approval

_ARCHIVES = sorted((Path(__file__).parent / "vaults").glob("schema-*.tar.xz"), key=lambda path: path.name)


@dataclass(frozen=True)
class Kept:
    """An archive that was unpacked: the vault as it was, and what it answered."""

    folder: Path
    schema: int
    answers: dict[str, Any]

    def upgraded(self) -> Vault:
        """The vault, opened by this release."""
        done = vault.upgrade(self.folder / "vault")
        assert (done.before, done.after) == (self.schema, int(schema.SCHEMA_VERSION))
        return vault.open(self.folder / "vault")

    def profile(self, name: str, endpoint: str) -> Path:
        """A vendor's profile of then, for a broker of now."""
        path = self.folder / "profiles" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"endpoint": endpoint}))
        return path


@pytest.fixture(params=_ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """One of the archives."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    answers = json.loads((tmp_path / "answers.json").read_text())
    return Kept(tmp_path, int(request.param.name.partition(".")[0].removeprefix("schema-")), answers)


def test_there_is_a_vault_of_every_older_schema() -> None:
    """Whoever raises the schema's number has kept a vault of the one before."""
    found = {int(path.name.partition(".")[0].removeprefix("schema-")) for path in _ARCHIVES}
    assert found >= set(range(int(schema.BASELINE), int(schema.SCHEMA_VERSION))) | {int(schema.BASELINE)}


def test_an_older_vault_is_refused_until_it_is_upgraded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of a later schema, which every release is to some vault, opens it only once it is upgraded."""
    monkeypatch.setattr(schema, "SCHEMA_VERSION", str(int(schema.SCHEMA_VERSION) + 1))
    for act in (vault.open, deployment.open_broker):
        with pytest.raises(OtherSchema, match=rf"has schema {kept.schema}, .*: run 'dsvault upgrade'$"):
            act(kept.folder / "vault")


def test_the_owner_reads_what_was_read_then(kept: Kept) -> None:
    """Every dataset and version has its rows, and every object is whole."""
    opened = kept.upgraded()
    assert opened.scan("evals").read_all().to_pylist() == kept.answers["owner"]["evals"]
    assert opened.scan("tasks").read_all().to_pylist() == kept.answers["owner"]["tasks"]
    assert opened.scan("evals", version=1).read_all().to_pylist() == kept.answers["owner"]["evals of version 1"]
    assert opened.check().faults == []
    assert opened.parts.root.fingerprint == kept.answers["root"]


def test_the_log_is_whole_and_begins_as_it_was(kept: Kept) -> None:
    """The log verifies against its checkpoints, every entry opens, and what follows is the upgrade's."""
    opened = kept.upgraded()
    assert opened.audit_verify() >= len(kept.answers["entries"])
    entries = [[number, entry.kind.value] for number, entry in opened.audit_entries()]
    then = len(kept.answers["entries"])
    assert entries[:then] == kept.answers["entries"]
    assert {kind for _, kind in entries[then:]} <= {"catalog upgraded", "data keys opened"}
    assert opened.incident_report("acme").exposure.windows


def test_vendors_are_served_what_they_were_served_then(kept: Kept) -> None:
    """Credentials and grants of then hold at a broker of now: filters, masks, fields, a pinned version, a lease."""
    kept.upgraded().parts.catalog.close()
    with broker(kept.folder / "vault") as url:
        for name in ("acme", "acme-bearer"):
            client = vault.connect(kept.profile(name, url))
            for grant in kept.answers["grants"]:
                if grant["vendor"] == "acme":
                    reader = client.dataset(grant["dataset"]).scan(grant=grant["id"], delivery=grant["delivery"])
                    assert reader.read_all().to_pylist() == grant["rows"]
        with pytest.raises((Refused, NotFound)):
            vault.connect(kept.profile("globex", url)).dataset("evals").to_arrow()


def test_it_goes_on(kept: Kept) -> None:
    """It is published to, granted, approved, thawed, rekeyed and collected, and vendors read what came of it."""
    opened = kept.upgraded()
    assert opened.thaw("globex")
    opened.publish("evals", table(5, start=60), append=True)
    asked = opened.grant("globex", "tasks", ["id"], expires=timedelta(days=1))
    opened.approve(add_approval(opened.approval(asked.id).signed, Signer(APPROVER)))
    opened.rekey()
    opened.rewrap("acme")
    opened.gc(timedelta(0))
    assert opened.check().faults == []
    opened.audit_verify()
    (labels,) = (grant for grant in kept.answers["grants"] if grant["vendor"] == "globex")
    with broker(kept.folder / "vault") as url:
        client = vault.connect(kept.profile("globex", url))
        assert client.dataset("tasks").to_arrow().num_rows == 12
        found = client.dataset("evals").scan(grant=labels["id"]).read_all().to_pylist()
        assert found[: len(labels["rows"])] == labels["rows"]
        assert len(found) == 65
    assert [state.name for state in opened.vendors() if state.frozen] == []
    with pytest.raises(VaultError):
        opened.publish("evals", table(1), append=True)


def test_its_private_keys_say_that_they_are_test_keys(kept: Kept) -> None:
    """Whoever finds the archive is told first that nothing in it is a secret."""
    with tarfile.open(next(path for path in _ARCHIVES if f"-{kept.schema}." in path.name)) as archive:
        assert archive.getnames()[0] == "README"
    assert "EVERY PRIVATE KEY IN HERE IS A TEST KEY" in (kept.folder / "README").read_text()
