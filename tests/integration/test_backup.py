"""The backup in the store: it has every administrative change, is bounded in size, and holds nobody up."""

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vault
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.restoring import PASSPHRASE, backed_up, newest, without
from tests.support.tables import rows
from vault import deployment
from vault.audit import Checkpoint, Kind
from vault.catalog import BACKED_UP, Catalog, open_catalog
from vault.errors import InvalidInput, Unavailable
from vault.objects import ObjectStore
from vault.owner import Vault
from vault.safekeeping import read_keys
from vault.workings import backups
from vault.workings.chain import read_backup
from vault.workings.segments import Segments

_ROOT = Path(__file__).parents[2]


def _in_store(lab: Vault, tmp_path: Path) -> dict[str, list[object]]:
    """The rows that the store's backup comes to."""
    found = read_backup(lab.parts.root, lab.parts.store, lab.parts.signers.keys.auditor_secrets())
    aside = open_catalog(f"sqlite:///{tmp_path}/aside.db")
    aside.create(lab.parts.vault, lambda transaction: [transaction.put_back(each) for each in found.rows()])
    try:
        return backed_up(aside)
    finally:
        aside.close()
        (tmp_path / "aside.db").unlink()


def _waiting(catalog: Catalog) -> int:
    with catalog.read() as transaction:
        return len(transaction.changes())


@pytest.mark.both_catalogs
def test_the_store_has_every_administrative_change(lab: Lab, tmp_path: Path) -> None:
    """After each act of every kind, what is in the store comes to the very rows of the catalog."""
    opened = lab.vault
    acts = (
        lambda: opened.publish("evals", rows(20), key="id"),
        lambda: opened.grant("acme", "evals", ["id"]),
        lambda: opened.issue_credential("acme", bearer=True),
        lambda: opened.revoke(opened.grant("acme", "evals", ["id", "prompt"]).id),
        lambda: opened.rekey(vendor="acme"),
        lambda: opened.rewrap("acme"),
        lambda: opened.publish("evals", rows(5, 20), key="id", append=True),
        lambda: opened.erase("evals", keys=[3]),
        lambda: opened.expire("evals", 1),
        lambda: opened.freeze("acme"),
        lambda: opened.thaw("acme"),
        lambda: opened.rotate_key(deployment.Role.AUTHORITY),
        lambda: opened.offboard("globex"),
        opened.gc,
        lambda: opened.delete("evals"),
    )
    for act in acts:
        act()
        assert _waiting(opened.parts.catalog) == 0
        assert _in_store(opened, tmp_path) == backed_up(opened.parts.catalog)


def test_every_administrative_table_is_backed_up() -> None:
    """A new table is either backed up, or one of those of which it is said why not."""
    from vault.catalog import schema

    passing = {"usage", "proofs", "jobs", "steps", "log", "log_tail"}
    its_own = {"about", "changes", "backup"}
    assert set(schema.metadata.tables) == set(BACKED_UP) | passing | its_own


def test_reads_put_nothing_but_the_log_into_the_store(granted: Lab) -> None:
    """A vendor's request is no administrative act."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    before = newest(granted.folder / "store", "backup/changes").name
    read(parts, caller)
    parts.journal.settle()
    assert newest(granted.folder / "store", "backup/changes").name == before


def test_a_checkpoint_is_never_ahead_of_the_entries_in_the_store(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where segments cannot be put, no checkpoint leaves the catalog, and a witness hears nothing."""
    granted.vault.parts.journal.settle()
    before = newest(granted.folder / "store", "checkpoints").name

    def refuse(_self: Segments, _note: bytes, _checkpoint: Checkpoint) -> None:
        raise Unavailable("the store is down")

    with monkeypatch.context() as patched:
        patched.setattr(Segments, "put", refuse)
        parts = granted.broker_parts()
        granted.vault.parts.journal.record(Kind.OWNER_READ, dataset="evals")
        with pytest.raises(Unavailable):
            parts.journal.checkpoint()
    assert newest(granted.folder / "store", "checkpoints").name == before
    parts.journal.checkpoint()
    assert newest(granted.folder / "store", "checkpoints").name > before


def _spans(segments: Segments) -> list[tuple[int, int]]:
    """The numbers of the first and last entry of each segment in the store, in order."""
    found = [segments._place_of(info) for info in segments.every()]
    return sorted(place for place in found if place is not None)


def test_two_brokers_write_the_log_together(granted: Lab) -> None:
    """The second finds the first one's segment and goes on behind it: no entry is in the store twice, and none lacks."""
    one, two = granted.broker_parts(), granted.broker_parts()
    for turn in range(6):
        one.journal.record(Kind.OWNER_READ, dataset=str(turn))
        (one, two)[turn % 2].journal.checkpoint()
        (two, one)[turn % 2].journal.checkpoint()
    end = one.journal.end()
    assert end is not None
    segments = Segments(one.root, one.catalog, one.store, lambda _root: pytest.fail("nothing is signed"))
    spans = _spans(segments)
    assert [first for first, _ in spans] == [1, *(last + 1 for _, last in spans[:-1])]
    assert spans[-1][1] == end[1].size


def test_gc_merges_segments_and_a_broker_that_is_behind_loses_nothing(granted: Lab, tmp_path: Path) -> None:
    """Many small segments become one; what a broker with an older idea of the store adds then overlaps, and is right."""
    behind = granted.broker_parts()
    behind.journal.checkpoint()
    for _ in range(5):
        granted.vault.parts.journal.record(Kind.OWNER_READ, dataset="evals")
        granted.vault.parts.journal.checkpoint()
    granted.vault.gc()
    assert len(list((granted.folder / "store" / "log").iterdir())) <= 2
    behind.journal.record(Kind.OWNER_READ, dataset="evals")
    behind.journal.checkpoint()
    behind.journal.record(Kind.OWNER_READ, dataset="evals")
    behind.journal.checkpoint()
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, granted.folder)
    made = vault.restore(
        tmp_path / "new",
        store=str(without(granted.folder / "store", tmp_path / "store")),
        kms="local:",
        keys=tmp_path / "keys.json",
        passphrase=PASSPHRASE,
    )
    end = behind.journal.end()
    assert end is not None
    assert made.entries == end[1].size
    granted.vault.gc()
    assert vault.open(granted.folder).audit_verify() >= made.entries


def test_large_segments_are_cut_and_signed_for_themselves(granted: Lab, tmp_path: Path) -> None:
    """A log that is longer than a segment is put as several, each with a note of its own, and merging leaves large ones."""
    parts = granted.broker_parts()
    for _ in range(40):
        parts.journal.record_soon(Kind.OWNER_READ, dataset="evals")
    parts.catalog.settle()
    for path in (granted.folder / "store" / "log").iterdir():
        path.unlink()
    end = parts.journal.end()
    assert end is not None
    keys = granted.vault.parts.signers.keys
    segments = Segments(
        parts.root, parts.catalog, parts.store, lambda root: keys.signer(deployment.Role.LOG, root), most=1
    )
    segments.put(*end)
    spans = _spans(segments)
    assert spans[-1][1] == end[1].size
    segments.merge(parts.journal.end)
    assert _spans(segments) == spans


def test_the_backup_is_bounded_in_size(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots take the place of changes, gc removes what they do not need, and the rest stays a few times one of them."""
    monkeypatch.setattr(backups, "_LEAST_BYTES", 4096)
    store, sizes = lab.folder / "store" / "backup", []
    for turn in range(40):
        (lab.vault.freeze if turn % 2 == 0 else lab.vault.thaw)("acme")
        if turn % 10 == 9:
            lab.vault.gc()
            sizes.append(sum(path.stat().st_size for path in store.rglob("*") if path.is_file()))
    snapshots = len(list((store / "snapshots").iterdir()))
    assert snapshots == 2
    with lab.vault.parts.catalog.read() as transaction:
        state = transaction.backup()
    assert state.snapshot is not None
    assert state.snapshot > 20
    assert max(sizes) < 8 * max(state.snapshot_bytes, 4096)
    named = {path.name for path in (store / "pieces").iterdir()}
    assert len(named) == 2


def _broken(*_arguments: object, **_options: object) -> None:
    raise Unavailable("an object could not be written in the store (Connection refused)")


def test_a_store_that_is_down_does_not_fail_a_freeze(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The vendor is frozen, a sentence says that the store is behind, and the next command makes up for it."""
    with monkeypatch.context() as patched:
        for name in ("put", "put_pieces", "get", "list", "size"):
            patched.setattr(ObjectStore, name, _broken)
        with caplog.at_level(logging.WARNING):
            urgent = vault.owner.open(lab.folder, urgent=True)
            assert urgent.freeze("acme")
        assert urgent.freeze("acme") is False
    assert "the backup in the store is behind" in caplog.text
    assert "the store does not know of it yet" in caplog.text
    assert _waiting(lab.vault.parts.catalog) == 1
    again = vault.open(lab.folder)
    assert again.vendors()[0].frozen
    assert _waiting(again.parts.catalog) == 0


def test_a_store_that_hangs_holds_up_a_freeze_for_seconds_only(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put behind the commit is not waited for beyond a time."""
    monkeypatch.setattr(backups, "PROMPT_SECONDS", 0.2)
    monkeypatch.setattr("vault.workings.steps.PROMPT_SECONDS", 0.2)
    lab.vault.vendors()
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "put", lambda *_arguments: time.sleep(5))
        began = time.monotonic()
        assert lab.vault.freeze("acme")
        assert time.monotonic() - began < 4
    assert lab.vault.vendors()[0].frozen
    time.sleep(5.5)  # what still hangs must not meet the next test


def test_another_command_is_done_too_and_says_that_the_backup_is_behind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The act is committed; the change stays beside it until somebody comes to whom the store answers."""

    def refuse(self: ObjectStore, name: str, data: bytes) -> None:
        if name.startswith("backup/"):
            _broken()
        self.put_pieces(name, lambda write: write(memoryview(data)))

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(ObjectStore, "put", refuse)
        lab.vault.add_vendor("initech")
        lab.vault.freeze("initech")
    assert "the backup in the store is behind" in caplog.text
    assert _waiting(lab.vault.parts.catalog) == 2
    lab.vault.freeze("acme")
    assert _waiting(lab.vault.parts.catalog) == 0


def test_processes_do_not_put_each_others_changes_all_the_time(lab: Lab) -> None:
    """A change that another process is about to put is left to it; one that still waits at the next look is not."""
    other = vault.open(lab.folder)
    other.parts.catalog.after_change = lambda _number: None
    other.add_vendor("initech")
    assert _waiting(other.parts.catalog) == 1
    lab.vault.freeze("acme")
    assert _waiting(other.parts.catalog) == 1
    lab.vault.thaw("acme")
    assert _waiting(other.parts.catalog) == 0


_KILLED = """
import os, signal, sys
import vault
from vault.objects import ObjectStore
from vault.workings import backups

where, name = sys.argv[1], sys.argv[3]
backups._LEAST_BYTES = 0
put, delete_all = ObjectStore.put, ObjectStore.delete_all

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def putting(self, path, data):
    if path.startswith(where):
        if name == "before":
            die()
        put(self, path, data)
        if name == "behind":
            die()
    else:
        put(self, path, data)

def deleting(self, names):
    if name == "deleting" and any(each.startswith(where) for each in names):
        # In the middle: a half of them are gone.
        delete_all(self, names[: (len(names) + 1) // 2])
        die()
    delete_all(self, names)

lab = vault.open(sys.argv[2])
ObjectStore.put, ObjectStore.delete_all = putting, deleting
if name == "linking":
    link = os.link
    os.link = lambda source, target: die() if where in target else link(source, target)
lab.freeze("acme")
for _ in range(4):
    lab.thaw("acme")
    lab.freeze("acme")
lab.backup()
lab.gc()
"""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("backup/changes", "before"),
        ("backup/changes", "linking"),
        ("backup/changes", "behind"),
        ("backup/pieces", "behind"),
        ("backup/snapshots", "before"),
        ("backup/snapshots", "behind"),
        ("backup/snapshots", "deleting"),
        ("backup/changes", "deleting"),
        ("log/", "behind"),
        ("log/", "deleting"),
    ],
)
def test_whoever_comes_next_makes_up_for_a_killed_process(lab: Lab, tmp_path: Path, where: str, name: str) -> None:
    """Killed between the commit and the store, within a put, or among snapshots and gc: the next opening has it all."""
    for _ in range(2):
        lab.vault.backup()
        lab.vault.freeze("globex")
        lab.vault.thaw("globex")
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, lab.folder)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, where, str(lab.folder), name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = vault.open(lab.folder)
    assert _waiting(again.parts.catalog) == 0
    assert _in_store(again, tmp_path) == backed_up(again.parts.catalog)
    made = vault.restore(
        tmp_path / "new",
        store=str(without(lab.folder / "store", tmp_path / "store")),
        kms="local:",
        keys=tmp_path / "keys.json",
        passphrase=PASSPHRASE,
    )
    assert made.vendors == 2
    assert backed_up(vault.open(tmp_path / "new").parts.catalog) == backed_up(again.parts.catalog)


# The exported keys


def test_exported_keys_are_sealed_whole_and_never_overwritten(lab: Lab, tmp_path: Path) -> None:
    """One file of mode 0600 that holds every key file of the vault, and nothing of them shows in it."""
    target = tmp_path / "keys.json"
    exported = vault.backup_keys(target, PASSPHRASE, lab.folder)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "lab"], "nothing is left beside it"
    files = [*(lab.folder / "owner").rglob("*.json"), *(lab.folder / "broker").rglob("*.json")]
    keys = [path for path in files if path.name not in {"exported.json", "root.json"}]
    assert exported.keys == len(keys)
    text = target.read_text()
    for path in keys:
        assert json.loads(path.read_text())["material"] not in text
    held = read_keys(target, PASSPHRASE)
    assert {json.loads(content)["id"] for name, content in held.files.items() if name.endswith(".json")} == {
        json.loads(path.read_text())["id"] for path in keys
    }
    with pytest.raises(InvalidInput, match="never overwritten"):
        vault.backup_keys(target, PASSPHRASE, lab.folder)
    assert target.read_text() == text
    with pytest.raises(InvalidInput, match="passphrase"):
        vault.backup_keys(tmp_path / "other.json", "", lab.folder)


def test_exported_keys_need_neither_catalog_nor_store(lab: Lab, tmp_path: Path) -> None:
    """Where only the catalog is lost, the keys can still be exported for a restore."""
    (lab.folder / "catalog.db").unlink()
    assert vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, lab.folder).keys > 6


def test_a_changed_file_of_exported_keys_does_not_open(lab: Lab, tmp_path: Path) -> None:
    """Whatever is changed in it, also what is not secret."""
    target = tmp_path / "keys.json"
    vault.backup_keys(target, PASSPHRASE, lab.folder)
    document = json.loads(target.read_text())
    for name, value in (("id", "0" * 32), ("state", "disabled"), ("material", document["material"][:-8] + "AAAAAAA=")):
        target.write_text(json.dumps({**document, name: value}))
        with pytest.raises(InvalidInput):
            read_keys(target, PASSPHRASE)


def test_backup_says_which_keys_no_export_has(lab: Lab, tmp_path: Path) -> None:
    """A vendor that came later has a KMS key that the exported file lacks."""
    assert lab.vault.backup().unexported is None
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, lab.folder)
    assert lab.vault.backup().unexported == ()
    lab.vault.add_vendor("initech")
    (missing,) = lab.vault.backup().unexported or ()
    assert missing.startswith("keystore/broker/")


# The commands


@pytest.fixture
def command() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs ``dsvault`` as a process of its own, with the passphrase of exported keys in its environment."""

    def run(*arguments: str, passphrase: str | None = PASSPHRASE) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT / "cli"), str(_ROOT)])}
        environment.pop("DSVAULT_BACKUP_PASSPHRASE", None)
        if passphrase is not None:
            environment["DSVAULT_BACKUP_PASSPHRASE"] = passphrase
        return subprocess.run(
            [sys.executable, "-m", "vault_cli.main", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


def test_the_commands_back_up_and_restore(
    lab: Lab, command: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """From a vault to its directory's loss and back, by the commands alone."""
    run = command
    folder, keys = str(lab.folder), str(tmp_path / "keys.json")
    exported = run("backup", "--keys", keys, "--vault", folder)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert "under the passphrase" in exported.stdout
    told = json.loads(run("backup", "--vault", folder, "--json").stdout)
    assert (told["change"], told["unexported"]) == (told["snapshot"], [])
    assert "up to change" in run("backup", "--vault", folder).stdout
    refused = run("backup", "--keys", keys, "--vault", folder)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "--keys" in refused.stderr
    unasked = run("backup", "--keys", keys + "2", "--vault", folder, passphrase=None)
    assert (unasked.returncode, unasked.stderr.count("\n")) == (1, 1)
    assert "DSVAULT_BACKUP_PASSPHRASE" in unasked.stderr
    store = str(without(lab.folder / "store", tmp_path / "store"))
    new = str(tmp_path / "new")
    options = ("--store", store, "--kms", "local:", "--keys", keys)
    wrong = run("restore", new, *options, passphrase="wrong")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert "passphrase is wrong" in wrong.stderr
    assert "it can be restored" in run("restore", new, *options, "--dry-run").stdout
    done = run("restore", new, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["vendors"] == 2
    assert "there is a vault here already" in run("restore", new, *options).stderr
    assert run("check", "--vault", new).returncode == 0
