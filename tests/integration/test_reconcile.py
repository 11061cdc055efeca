"""Comparing a KMS's own log with the vault's: an unwrap behind the broker's back is named, and nothing else is."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.program import dsvault
from tests.support.servers import OpenBao
from tests.support.tables import rows
from vault.audit import Entry, Kind, Sealer
from vault.encoding import timestamp
from vault.errors import IntegrityError, InvalidInput
from vault.kms.transit import TransitKms, associated_data
from vault.model import KeyScope
from vault.trust import Role
from vault.workings.parts import wrapped_key


@pytest.fixture
def mount(bao: OpenBao) -> str:
    """A mount of the test's own."""
    return bao.mount()


@pytest.fixture
def kept(bao: OpenBao, mount: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with its KMS keys in OpenBao, the vendors acme and globex, and acme's grant on a dataset."""
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    opened = vault.init(tmp_path / "lab", kms=bao.uri(mount))
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    opened.publish("evals", rows(100), key="id", shard_rows=30)
    opened.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    return Lab(tmp_path / "lab", opened)


@pytest.fixture
def trail(bao: OpenBao, mount: str, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """What the audit device has about the mount, as a function."""

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in bao.audit.read_text().splitlines()]
        return [line for line in found if line["request"]["path"].startswith(f"{mount}/")]

    return lines


def _file(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _behind(lab: Lab, bao: OpenBao, mount: str, group: str | None = None, vendor: str = "acme") -> KeyScope:
    """Unwrap a column's key of a vendor's with another token than dsvault's, past dsvault."""
    parts = lab.vault.parts
    holder = {state.name: state.id for state in lab.vault.vendors()}[vendor]
    with parts.catalog.read() as transaction:
        keys = [wrapped_key(parts.vault, row) for row in transaction.keys_of_holder(holder)]
    (key, *_) = [key for key in keys if key.scope.group == group or (group is None and len(key.scope.group) == 32)]
    token = bao.token_for(f'path "{mount}/decrypt/*" {{ capabilities = ["update"] }}')
    stolen = TransitKms(bao.address, mount, token)
    assert len(stolen.unwrap(key.kms_key, key.wrapped, key.scope.context())) == 32
    stolen.close()
    return key.scope


def test_ordinary_work_is_explained_and_one_unwrap_behind_the_brokers_back_is_named(
    kept: Lab, bao: OpenBao, mount: str, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Publish, grant, fetch, rekey, rewrap, check and audit show, in processes of their own, leave nothing over."""
    lab = str(kept.folder)
    for arguments in (
        ("publish", str(_jsonl(tmp_path)), "--dataset", "evals", "--key", "id"),
        ("rotate", "rekey", "--vendor", "acme"),
        ("rotate", "rewrap", "--vendor", "acme"),
        ("grant", "globex", "evals", "--columns", "id"),
        ("check",),
        ("audit", "show", "--last", "3"),
        ("grant", "acme", "evals", "--columns", "nothing-of-that-name"),
    ):
        done = dsvault(*arguments, "--vault", lab)
        assert done.returncode == (1 if "nothing-of-that-name" in arguments else 0), done.stderr
    with broker(kept.folder, "--key-age", "0s") as endpoint:
        profile = kept.profile("acme", endpoint)
        client = vault.connect(profile)
        for _ in range(3):
            assert client.dataset("evals").to_arrow().num_rows == 50
    file = _file(tmp_path / "audit.log", trail())
    done = dsvault("audit", "reconcile", "--kms-log", str(file), "--vault", lab, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), json.dumps(document, indent=1)
    assert document["ok"] is True
    assert document["unexplained"] == document["missing"] == []
    assert document["explained"] > 30

    scope = _behind(kept, bao, mount)
    file = _file(tmp_path / "audit.log", trail())
    done = dsvault("audit", "reconcile", "--kms-log", str(file), "--vault", lab, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    (named,) = document["unexplained"]
    assert document["missing"] == []
    assert (named["compartment"], named["group"], named["epoch"]) == (scope.compartment, scope.group, scope.epoch)
    assert (named["holder"], named["dataset"]) == ("acme", "evals")
    assert len(named["columns"]) == 1
    (call,) = [line for line in trail() if line["request"]["id"] == named["request"] and line["type"] == "response"]
    assert named["who"]["token"] == call["auth"]["accessor"]
    assert named["who"]["address"] == "127.0.0.1"
    told = dsvault("audit", "reconcile", "--kms-log", str(file), "--vault", lab)
    assert told.returncode == 1
    assert "acme: evals: " in told.stdout
    assert named["request"] in told.stdout
    assert "1 unwrap that no entry explains" in told.stderr


def _jsonl(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(100).to_pylist()))
    return path


def test_an_unwrap_in_the_shadow_of_an_honest_read_is_one_too_many(
    kept: Lab, bao: OpenBao, mount: str, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Where a broker has just opened the very same key, the count gives the other one away."""
    parts = kept.broker_parts(key_age=0)
    caller = kept.caller(parts, "acme")
    from tests.support.reading import read

    read(parts, caller)
    _behind(kept, bao, mount)
    parts.journal.settle()
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    (named,) = found.unexplained
    assert named.near >= 2
    assert not found.missing


def test_lines_cut_out_of_the_kms_log_show_as_entries_without_an_unwrap(
    kept: Lab, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The entry's number and the key are named; a log that ends too early says what it does not reach."""
    again = vault.open(kept.folder)
    again.check()
    again.parts.journal.settle()
    kept.vault.parts.journal.settle()
    lines = trail()
    asked = [line["request"]["id"] for line in lines if "/decrypt/" in line["request"]["path"]]
    cut = asked[len(asked) // 2]
    (gone,) = [
        line["request"]["data"]["associated_data"]
        for line in lines
        if line["request"]["id"] == cut and line["type"] == "request"
    ]
    found = kept.vault.reconcile(_file(tmp_path / "cut.log", [x for x in lines if x["request"]["id"] != cut]))
    (missing,) = found.missing
    assert base64.b64encode(associated_data(missing.scope.context())).decode() == gone
    assert missing.sequence in {sequence for sequence, _ in kept.vault.audit_entries()}
    assert not found.unexplained
    assert not found.ok

    early = lines[: next(i for i, line in enumerate(lines) if line["request"]["id"] == asked[-3])]
    found = kept.vault.reconcile(_file(tmp_path / "early.log", early))
    assert found.ok
    assert found.beyond
    assert not found.missing
    last = found.told.last
    assert last is not None
    assert all(item.time > last for item in found.beyond)
    asked_for = kept.vault.reconcile(tmp_path / "early.log", until=last + timedelta(days=1))
    assert not asked_for.ok
    assert asked_for.short == asked_for.beyond


def test_what_the_kms_refused_is_no_unwrap_and_explains_its_entry(
    kept: Lab, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A key that is disabled opens nothing, and what was asked of it is neither unexplained nor missing."""
    from tests.support.reading import read

    parts = kept.broker_parts(key_age=0)
    caller = kept.caller(parts, "acme")
    kept.vault.disable_kms_key("acme")
    with pytest.raises(vault.errors.VaultError):
        read(parts, caller)
    parts.journal.settle()
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    assert found.ok
    assert found.refused


def test_an_announced_call_that_was_refused_explains_nobody_elses_unwrap(
    kept: Lab,
    bao: OpenBao,
    mount: str,
    trail: Callable[[], list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The item of a broker that the KMS refuses is used up by its own call, and the thief's is one too many."""
    from tests.support.reading import read

    with monkeypatch.context() as patch:
        patch.setenv("BAO_TOKEN", bao.token_for(f'path "{mount}/keys/*" {{ capabilities = ["read"] }}'))
        parts = kept.broker_parts(key_age=0)
    caller = kept.caller(kept.broker_parts(key_age=0), "acme")
    with pytest.raises(vault.errors.VaultError):
        read(parts, caller)
    parts.journal.settle()
    asked = {
        tuple(key)
        for _, entry in kept.vault.audit_entries()
        for key in entry.fields.get("keys", ())
        if entry.kind is Kind.KEYS_OPENED
    }
    assert any(group == "metadata" for _, group, _ in asked)
    assert kept.vault.reconcile(_file(tmp_path / "audit.log", trail())).ok
    scope = _behind(kept, bao, mount, "metadata")
    (named,) = kept.vault.reconcile(_file(tmp_path / "audit.log", trail())).unexplained
    assert named.call.scope == scope


def test_a_request_that_failed_and_was_made_again_is_one(
    kept: Lab, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A KMS that fails for a moment is asked again by the client itself, which announced it once."""
    opened = vault.open(kept.folder)
    opened.vendors()
    opened.parts.journal.settle()
    kept.vault.parts.journal.settle()
    lines = trail()
    last = next(line for line in reversed(lines) if "/decrypt/" in line["request"]["path"])
    failed = {**last, "request": {**last["request"], "id": "failed"}, "error": "internal error", "response": {}}
    for line in lines[-2:]:
        assert line["request"]["id"] == last["request"]["id"]
        line["time"] = (datetime.fromisoformat(line["time"]) + timedelta(milliseconds=10)).isoformat()
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", [*lines[:-2], failed, *lines[-2:]]))
    assert found.ok
    assert found.refused == 1


def test_unwraps_of_another_vault_are_left_out_and_counted(
    kept: Lab, bao: OpenBao, mount: str, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Two vaults may share a server, and even a mount: each is answerable for its own keys."""
    other = vault.init(tmp_path / "other", kms=bao.uri(mount))
    other.publish("evals", rows(10))
    other = vault.open(tmp_path / "other")
    other.check()
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    assert found.ok
    assert found.foreign > 0


def test_each_key_of_a_batch_counts(
    kept: Lab, bao: OpenBao, mount: str, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """One request that opens three keys is three unwraps, also where a fourth of it fails."""
    parts = kept.vault.parts
    with parts.catalog.read() as transaction:
        keys = [wrapped_key(parts.vault, row) for row in transaction.keys_of_holder(parts.owner)][:3]
    name, version = keys[0].kms_key.split(":")[1:]
    batch = [
        {
            "ciphertext": f"vault:v{version}:{base64.b64encode(key.wrapped[1:]).decode()}",
            "associated_data": base64.b64encode(associated_data(key.scope.context())).decode(),
        }
        for key in keys
    ]
    assert bao.call("POST", f"{mount}/decrypt/{name}", {"batch_input": batch})[0] == 200
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    assert {each.call.scope for each in found.unexplained} == {key.scope for key in keys}

    spoiled = [*batch, {**batch[0], "associated_data": batch[1]["associated_data"]}]
    assert bao.call("POST", f"{mount}/decrypt/{name}", {"batch_input": spoiled})[0] == 400
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    assert len(found.unexplained) == 3 + 4  # which of them failed, the file does not say


def test_a_kms_key_that_was_taken_out_is_named(
    kept: Lab, bao: OpenBao, mount: str, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Whoever exports a KMS key needs no unwrap any more: that is unexplained whatever the entries say."""
    with kept.vault.parts.catalog.read() as transaction:
        name = transaction.holders()[1].kms_key.split(":")[1]
    assert bao.call("POST", f"{mount}/keys/{name}/config", {"exportable": True})[0] == 200
    assert bao.call("GET", f"{mount}/export/encryption-key/{name}/1")[0] == 200
    assert bao.call("GET", f"{mount}/backup/{name}")[0] >= 400  # which is refused, and gave nothing away
    found = kept.vault.reconcile(_file(tmp_path / "audit.log", trail()))
    (named,) = found.unexplained
    assert (named.call.operation, named.call.key, named.call.takes_key) == ("export", name, True)


def test_a_hidden_context_is_told_by_the_devices_own_hash(
    bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the mount hides contexts, the audit device hashes the vault's own for comparison, or it is said what to set."""
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    mount = f"hidden-{tmp_path.name}"
    assert bao.call("POST", f"sys/mounts/{mount}", {"type": "transit"})[0] in {200, 204}
    opened = vault.init(tmp_path / "lab", kms=bao.uri(mount))
    opened.add_vendor("acme")
    opened.publish("evals", rows(10))
    opened.grant("acme", "evals", ["id"])
    opened = vault.open(tmp_path / "lab")
    opened.check()
    opened.parts.journal.settle()

    def file() -> Path:
        found = [json.loads(line) for line in bao.audit.read_text().splitlines()]
        return _file(tmp_path / "a.log", [line for line in found if line["request"]["path"].startswith(f"{mount}/")])

    with pytest.raises(InvalidInput, match="audit-non-hmac-request-keys=associated_data"):
        opened.reconcile(file())
    found = opened.reconcile(file(), audit_device="to-file")
    assert found.ok
    assert found.matched > 3
    scope = _behind(Lab(tmp_path / "lab", opened), bao, mount)
    (named,) = opened.reconcile(file(), audit_device="to-file").unexplained
    assert named.call.scope == scope
    with pytest.raises(InvalidInput, match="--audit-device"):
        opened.reconcile(file(), audit_device="../mounts")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is no line of an OpenBao audit device"),
        ("not json\n", "neither a JSON document nor lines"),
        ('{"type": "request"}\n', "no line of an OpenBao audit device"),
        ('{"eventSource": "kms.amazonaws.com"}\n', "no record of CloudTrail"),
        ('{"Records": 3}\n', "no file of CloudTrail"),
        ('{"type": "request", "time": "now", "request": {"id": "1", "path": "sys/x"}}\n', "cannot be read"),
        ('{"type": "request", "time": "2026-01-01T00:00:00", "request": {"path": "sys/x"}}\n', "no offset"),
    ],
)
def test_a_file_that_is_no_kms_log_is_one_sentence(granted: Lab, tmp_path: Path, text: str, sentence: str) -> None:
    """Nothing passes for a log without unwraps: the option and the line are named, without a traceback."""
    path = tmp_path / "kms.log"
    path.write_text(text)
    done = dsvault("audit", "reconcile", "--kms-log", str(path), "--vault", str(granted.folder))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.startswith("dsvault: --kms-log: ")
    assert done.stderr.count("\n") == 1


def test_a_line_that_is_spoiled_stops_the_comparison_and_a_cut_last_one_does_not(
    kept: Lab, trail: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Nobody hides a call behind a line that is no JSON; the last line may be one that the KMS is still writing."""
    kept.vault.parts.journal.settle()
    lines = [json.dumps(line) for line in trail()]
    path = tmp_path / "audit.log"
    path.write_text("\n".join([*lines, lines[0][:50]]))
    assert kept.vault.reconcile(path).ok
    path.write_text("\n".join([*lines[:3], lines[3][:50], *lines[4:]]))
    with pytest.raises(InvalidInput, match="line 4"):
        kept.vault.reconcile(path)


def test_an_announcement_that_was_slipped_into_the_log_explains_nothing(granted: Lab, tmp_path: Path) -> None:
    """Anybody can seal an entry to the auditor, and whoever writes the catalog can put it there: the log must verify."""
    parts = granted.vault.parts
    record = {"eventSource": "kms.amazonaws.com", "eventName": "ListKeys", "eventTime": "2026-12-01T00:00:00Z"}
    path = _file(tmp_path / "trail.jsonl", [record])
    assert granted.vault.reconcile(path).ok
    parts.journal.settle()
    size = granted.vault.audit_verify()
    now = datetime.now(UTC)
    fields = {"keys": [["1" * 32, "2" * 32, 1]], "since": timestamp(now), "process": "3" * 32}
    sealed = Sealer(parts.vault, parts.root.current.public_key(Role.AUDITOR)).seal(Entry(Kind.KEYS_OPENED, now, fields))
    with sql(granted) as connection:
        slipped_in = (size + 1, timestamp(now), sealed, bytes(32))
        connection.execute("insert into log (sequence, time, sealed, hash) values (?, ?, ?, ?)", slipped_in)
    assert granted.vault.audit_entries()[-1][1].fields == fields
    with pytest.raises(IntegrityError):
        granted.vault.reconcile(path)
