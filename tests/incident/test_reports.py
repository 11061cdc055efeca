"""Reports over a real vault: what its log says is what the vendors got, and nothing is reported that does not verify."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.exposure.test_ground_truth import rows as numbers
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.postgres import postgres
from tests.support.tables import rows
from vault.audit import Kind
from vault.errors import AuditError, IntegrityError, InvalidInput, NotFound, Unavailable
from vault.incident import reading
from vault.incident.ranges import Asked
from vault.owner import Vault


def served(made: Any, what: str = "exact") -> dict[tuple[str, int, str], set[int]]:
    """The rows by dataset, version and column."""
    found: dict[tuple[str, int, str], set[int]] = {}
    for part in made.exposure.parts:
        if some := numbers(getattr(part, what)):
            found.setdefault((part.dataset, part.version, part.column), set()).update(some)
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vault, dict[str, Any]]:
    """A vault after a life of reads over HTTP, and what its vendors got of it."""
    folder = tmp_path_factory.mktemp("story")
    lab = vault.init(folder / "lab")
    for name in ("acme", "globex"):
        lab.add_vendor(name)
    lab.publish("evals", rows(100), key="id", shard_rows=30)
    lab.publish("notes", rows(90), shard_rows=30)
    got: dict[str, Any] = {}
    grant = lab.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'", purpose="review")
    lease = lab.grant("acme", "notes", ["id", "prompt"], delivery="lease")
    lab.grant("globex", "evals", ["id", "prompt"])
    with broker(folder / "lab") as endpoint:
        for name in ("acme", "globex"):
            lab.issue_credential(name, endpoint=endpoint).save(folder / f"{name}.json")
        client = vault.connect(folder / "acme.json")
        got["first"] = set(client.dataset("evals").to_arrow(columns=["id", "prompt"]).column("id").to_pylist())
        got["few"] = client.dataset("evals").to_arrow(columns=["id", "lang"], limit=5).column("id").to_pylist()
        vault.connect(folder / "globex.json").dataset("evals").to_arrow()
        got["leased"] = set(client.dataset("notes").to_arrow(grant=lease.id).column("id").to_pylist())
        lab.publish("evals", rows(40, start=100), append=True)
        got["second"] = client.dataset("evals").to_arrow(columns=["prompt"]).num_rows
        with pytest.raises(vault.errors.VaultError):
            client.dataset("evals").to_arrow(columns=["answer"])
        lab.freeze("acme")
    got |= {"grant": grant.id, "lease": lease.id}
    return lab, got


def test_it_says_what_was_fetched(story: tuple[Vault, dict[str, Any]]) -> None:
    """Complete streams are exact to the row, leases a bound, and what a limit kept back is neither."""
    lab, got = story
    made = lab.incident_report("acme")
    exact, bound = served(made), served(made, "bound")
    assert exact["evals", 1, "prompt"] == got["first"]
    assert exact["evals", 1, "id"] == got["first"]
    assert exact["evals", 1, "lang"] == set(got["few"])
    assert len(exact["evals", 2, "prompt"]) == got["second"]
    assert bound == {("notes", 1, "id"): got["leased"], ("notes", 1, "prompt"): got["leased"]}
    assert (made.exposure.odd, made.exposure.doubts) == ((), ())
    assert made.exposure.total.rows == len(got["first"]) + len(got["few"]) + got["second"]


def test_it_names_hands_holders_keys_and_ends(story: tuple[Vault, dict[str, Any]]) -> None:
    """The credential, address and grant of each delivery; who else has the rows; data and chunk keys; the freeze."""
    lab, got = story
    found = lab.incident_report("acme").exposure
    assert {flow.who.grant for flow in found.flows} == {got["grant"], got["lease"]}
    assert {flow.who.address for flow in found.flows} == {"127.0.0.1"}
    assert {(each.vendor, each.dataset, each.version) for each in found.shared} == {
        ("globex", "evals", 1), ("globex", "evals", 2),
    }  # fmt: skip
    first = next(each for each in found.shared if each.version == 1)
    assert (first.columns, first.rows, first.until) == (("id", "prompt"), len(got["first"]), None)
    assert sum(key.deliveries for key in found.keys) >= 4
    assert sum(len(chunks.ids) for chunks in found.chunks) == 2 * 3
    assert found.frozen[-1].last is None
    assert any(refused.request.dataset == "evals" for refused in found.refused)


def test_another_vendor_has_its_own(story: tuple[Vault, dict[str, Any]]) -> None:
    """A report is about one vendor: nothing of another's reads is in it but that it holds the same rows."""
    lab, _ = story
    made = lab.incident_report("globex")
    assert set(served(made)) == {("evals", 1, "id"), ("evals", 1, "prompt")}
    assert {each.vendor for each in made.exposure.shared} == {"acme"}


def test_a_period_bounds_what_is_reported(story: tuple[Vault, dict[str, Any]]) -> None:
    """Before the first delivery there is nothing, and after it all."""
    lab, _ = story
    begun = min(flow.first for flow in lab.incident_report("acme").exposure.flows)
    at = vault.incident.wording.exactly(begun)
    assert at is not None
    assert not served(lab.incident_report("acme", until=at))
    assert served(lab.incident_report("acme", since=at)) == served(lab.incident_report("acme"))


def test_a_report_is_in_the_log(story: tuple[Vault, dict[str, Any]]) -> None:
    """That a report was made, of whom and of when, is recorded."""
    lab, _ = story
    lab.incident_report("acme", since="1d")
    _, entry = lab.audit_entries()[-1]
    assert (entry.kind, entry.fields["vendor"], entry.fields["until"]) == (Kind.REPORTED, "acme", None)
    assert entry.fields["since"] is not None


def test_it_is_the_same_from_several_processes(story: tuple[Vault, dict[str, Any]]) -> None:
    """Ranges that other processes read come to the same exposure."""
    lab, _ = story
    parts = lab.parts
    asked = Asked(parts.vault, tuple(parts.signers.keys.auditor_secrets()), name="acme")
    tail, pinned = parts.journal.claimed()
    alone = reading.gather(parts.catalog, tail, pinned, asked, processes=1)
    several = reading.gather(parts.catalog, tail, pinned, asked, processes=2, size=7)
    texts = [vault.incident.Report(vault.exposure.settle(each)).json() for each in (alone, several)]
    assert texts[0] == texts[1]


def test_keys_are_seen_by_nobody(story: tuple[Vault, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither arguments nor environment of the other processes hold a key; nor does a repr."""
    lab, _ = story
    parts, seen = lab.parts, []
    real = subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        seen.append(repr(command) + repr(options.get("env")))
        return real(command, **options)

    monkeypatch.setattr(reading.subprocess, "Popen", watched)
    secrets = tuple(parts.signers.keys.auditor_secrets())
    asked = Asked(parts.vault, secrets, name="acme")
    reading.gather(parts.catalog, *parts.journal.claimed(), asked, processes=2)
    assert len(seen) == 2
    for secret in secrets:
        for text in (*seen, repr(asked)):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
    # Nor the address of the catalog, which may hold a password.
    assert not [text for text in seen if parts.catalog.url in text]


def test_a_process_that_ends_is_a_sentence(
    story: tuple[Vault, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading process that is killed fails the report, and leaves none behind."""
    lab, _ = story
    parts, begun = lab.parts, []
    real = subprocess.Popen

    def killed(command: list[str], **options: Any) -> Any:
        process = real(command, **options)
        begun.append(process)
        process.kill()
        process.wait()
        return process

    monkeypatch.setattr(reading.subprocess, "Popen", killed)
    asked = Asked(parts.vault, tuple(parts.signers.keys.auditor_secrets()), name="acme")
    with pytest.raises(Unavailable, match="ended early"):
        reading.gather(parts.catalog, *parts.journal.claimed(), asked, processes=2)
    assert all(process.poll() is not None for process in begun)


def test_an_offboarded_vendor_is_reported(granted: Lab) -> None:
    """Offboarding destroys no evidence: neither keys nor the vendor's row in the catalog are needed."""
    lab = granted.vault
    lab.offboard("acme")
    with sql(granted) as catalog:
        catalog.execute("DELETE FROM grants")
    found = lab.incident_report("acme").exposure
    assert [window.ended is not None for window in found.windows] == [True]
    assert found.frozen[-1].last is None
    assert not served(lab.incident_report("acme"))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE log SET sealed = (SELECT sealed FROM log WHERE sequence = 2) WHERE sequence = 4",
        "UPDATE log SET hash = x'0000000000000000000000000000000000000000000000000000000000000000' WHERE sequence = 4",
        "DELETE FROM log WHERE sequence = 4",
        "DELETE FROM log WHERE sequence = (SELECT max(sequence) FROM log)",
        "UPDATE log SET time = '2001-01-01T00:00:00.000000Z' WHERE sequence = 4",
    ],
)
def test_a_log_that_does_not_verify_is_not_reported(published: Lab, attack: str, processes: int) -> None:
    """Of a log that was changed there is one sentence, and no report."""
    lab = published.vault
    with sql(published) as catalog:
        catalog.execute(attack)
    parts = lab.parts
    asked = Asked(parts.vault, tuple(parts.signers.keys.auditor_secrets()), name="acme")
    with pytest.raises(IntegrityError):
        reading.gather(parts.catalog, *parts.journal.claimed(), asked, processes=processes, size=3)


def test_a_log_that_was_cut_with_its_signed_end_is_not_reported(published: Lab) -> None:
    """An older signed end beside an older log is held against the checkpoints in the store."""
    lab = published.vault
    before = lab.parts.journal.claimed()[0]
    with sql(published) as catalog:
        note, edge = catalog.execute("SELECT note, edge FROM log_tail").fetchone()
    lab.freeze("acme")
    lab.audit_checkpoint()
    with sql(published) as catalog:
        catalog.execute("UPDATE log_tail SET note = ?, edge = ?", (note, edge))
        catalog.execute("DELETE FROM log WHERE sequence > ?", (before.checkpoint.size,))
    with pytest.raises(IntegrityError, match="cut off"):
        lab.incident_report("acme")


def test_a_report_that_cannot_be_recorded_is_not_shown(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the log leaves a trace in it, or reads nothing."""
    lab = granted.vault

    def refuse(*_: object, **__: object) -> int:
        raise AuditError("the audit log could not be written, so nothing was done")

    monkeypatch.setattr(lab.parts.journal, "record", refuse)
    with pytest.raises(AuditError):
        lab.incident_report("acme")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"since": "yesterday"}, "--since"),
        ({"until": "31.1.2026"}, "--until"),
        ({"since": "2999-01-01"}, "--since"),
        ({"since": "1h", "until": "2h"}, "--until"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "--since"),
    ],
)
def test_times_that_make_no_sense_are_named(lab: Lab, options: dict[str, Any], named: str) -> None:
    """Each mistake is one sentence that names the option."""
    with pytest.raises(InvalidInput, match=named):
        lab.vault.incident_report("acme", **options)


def test_an_unknown_vendor_is_a_sentence(lab: Lab) -> None:
    """A vendor that the log does not know."""
    with pytest.raises(NotFound, match="'nobody'"):
        lab.vault.incident_report("nobody")


def test_the_command_writes_each_form(granted: Lab, tmp_path: Path) -> None:
    """-o writes the form of the ending for its owner only, in the place of an older one; --json prints the document."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vault_cli.main", "incident", "report", *map(str, words), "--vault", granted.folder],
            capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ),
        )  # fmt: skip

    out = tmp_path / "report.html"
    out.write_text("older")
    out.chmod(0o644)
    done = run("acme", "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert out.stat().st_mode & 0o777 == 0o600
    assert "acme was served nothing" in done.stdout
    document = json.loads(run("acme", "--since", "2h", "--json").stdout)
    assert (document["type"], document["format"], document["vendor"]) == ("incident report", [1, 1], "acme")
    for words, sentence in (
        (("nobody",), "no vendor named 'nobody'"),
        (("acme", "-o", tmp_path / "x.pdf"), "-o"),
        (("acme", "-o", tmp_path / "no" / "x.md"), "-o"),
        (("acme", "--since", "soon"), "--since"),
    ):
        failed = run(*words)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert sentence in failed.stderr
        assert "Traceback" not in failed.stderr


def test_durations_and_moments(lab: Lab) -> None:
    """A duration is counted from now; a time without a zone is UTC."""
    made = lab.vault.incident_report("acme", since=timedelta(days=3), until="2999-01-01T00:00")
    assert made.exposure.since is not None
    assert made.document()["until"] == "2999-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_log_in_postgresql_is_read_as_well(tmp_path: Path, processes: int) -> None:
    """Of every catalog, by this process alone or by several."""
    lab = vault.init(tmp_path / "lab", catalog=postgres().database())
    lab.add_vendor("acme")
    lab.publish("evals", rows(20), key="id")
    lab.grant("acme", "evals", ["id"])
    lab.issue_credential("acme")
    parts = lab.parts
    asked = Asked(parts.vault, tuple(parts.signers.keys.auditor_secrets()), name="acme")
    try:
        found = reading.gather(parts.catalog, *parts.journal.claimed(), asked, processes=processes, size=2)
    finally:
        parts.catalog.close()
    made = vault.incident.Report(vault.exposure.settle(found))
    assert served(made, "could") == {("evals", 1, "id"): set(range(20))}
