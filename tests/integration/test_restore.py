"""A vault that is restored from its store, its KMS and the exported keys: everything reads as it did before."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.support.forked import outcome
from tests.support.killing import restore
from tests.support.postgres import postgres
from tests.support.reading import read
from tests.support.restoring import PASSPHRASE, Origin, backed_up, make_origin, newest, restored, said, without
from tests.support.tables import rows
from vault import access, deployment
from vault.audit import Kind
from vault.errors import Frozen, InvalidInput, KeyUnavailable, KmsError, NotFound, Unauthenticated, VaultError
from vault.kms import KeyState
from vault.owner import Vault
from vault.safekeeping import read_keys
from vault.trust import Role


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """The vault that is lost. Nobody changes it: each test has a copy of its store."""
    return make_origin(tmp_path_factory.mktemp("origin"))


def _same(origin: Origin, lab: Vault, made: Any) -> None:
    """Hold a restored vault against what the one that was lost could say."""
    assert backed_up(lab.parts.catalog) == origin.rows
    assert said(lab, origin.until) == origin.report
    assert (made.entries, made.vendors, made.datasets) == (origin.entries, 4, 2)
    for version, table in origin.tables.items():
        assert lab.scan("evals", version=version).read_all().equals(table)
    parts = deployment.open_broker(lab.folder)[0]
    assert read(parts, access.authenticate(parts, origin.token, "test")).equals(origin.read)
    with pytest.raises((Frozen, Unauthenticated)):
        read(parts, access.authenticate(parts, origin.frozen, "test"))
    assert lab.audit_verify(checkpoints=[("a checkpoint that was kept", origin.checkpoint)]) > origin.entries
    assert lab.unrecorded() == []
    report = lab.check()
    assert (report.faults, report.garbage) == ([], [])


@pytest.mark.both_catalogs
def test_everything_reads_equal(origin: Origin, tmp_path: Path, catalog_url: str | None) -> None:
    """Every row, version, grant, credential and log entry is as it was; what was frozen, revoked or ended stays so."""
    store = without(origin.store, tmp_path / "store")
    catalog = catalog_url and postgres().make(catalog_url)
    lab, made = restored(origin, store, tmp_path / "lab", catalog=catalog)
    _same(origin, lab, made)
    states = {state.name: state for state in lab.vendors()}
    assert (states["initech"].frozen, states["hooli"].ended) == (True, True)
    assert [state.state for state in lab.grants("globex")].count("revoked") == 1
    entry = next(entry for _, entry in lab.audit_entries() if entry.kind is Kind.RESTORED)
    assert (entry.fields["change"], entry.fields["entries"]) == (made.change, made.entries)
    assert [name for name in ("dsvault.toml", ".restoring") if (lab.folder / name).exists()] == ["dsvault.toml"]


def test_work_goes_on_after_a_restore(origin: Origin, tmp_path: Path) -> None:
    """Publishing, rekeying, thawing and gc go on where the lost vault ended, and can be restored once more."""
    store = without(origin.store, tmp_path / "store")
    lab, _ = restored(origin, store, tmp_path / "lab")
    lab.publish("evals", rows(3, 60), key="id", append=True)
    lab.rekey()
    lab.thaw("initech")
    lab.gc()
    again, made = restored(origin, store, tmp_path / "again")
    assert backed_up(again.parts.catalog) == backed_up(lab.parts.catalog)
    assert made.entries > origin.entries
    assert again.scan("evals").read_all().num_rows == 63
    assert again.check().faults == []


def test_what_was_used_of_limits_is_counted_anew(origin: Origin, tmp_path: Path) -> None:
    """A vendor does not get the rows of its limit a second time."""
    lab, _ = restored(origin, without(origin.store, tmp_path / "store"), tmp_path / "lab")
    (state,) = [state for state in lab.grants("globex") if state.state == "live"]
    assert origin.used["rows"] == 60
    assert dict(state.used.total) == dict(origin.used)


def test_an_ended_vendors_key_is_destroyed_again(origin: Origin, tmp_path: Path) -> None:
    """The keys were exported before hooli was offboarded; its KMS key does not come back with them."""
    files = json.loads(json.dumps(_exported(origin)))
    lab, _ = restored(origin, without(origin.store, tmp_path / "store"), tmp_path / "lab")
    held = {path.stem for path in (lab.folder / "broker" / "kms").glob("*.json")}
    assert {Path(name).stem for name in files if name.startswith("keystore/broker")} == held
    states = [lab.parts.kms.state(f"local:{key}") for key in held]
    assert states.count(KeyState.DESTROYED) == 1


def _exported(origin: Origin) -> list[str]:
    from vault.safekeeping import read_keys

    return list(read_keys(origin.keys, PASSPHRASE).files)


def test_a_dry_run_writes_nothing(origin: Origin, tmp_path: Path) -> None:
    """It says what a restore would find, and neither the store nor the directory is touched."""
    store = without(origin.store, tmp_path / "store")
    before = sorted(path for path in store.rglob("*"))
    made = vault.restore(
        tmp_path / "lab", store=str(store), kms="local:", keys=origin.keys, passphrase=PASSPHRASE, dry_run=True
    )
    assert (made.entries, made.vendors) == (origin.entries, 4)
    assert sorted(path for path in store.rglob("*")) == before
    assert not (tmp_path / "lab").exists()


def test_keys_that_are_in_the_directory_already_do(origin: Origin, tmp_path: Path) -> None:
    """Without an export, the key files and the root document's fingerprint are enough."""
    store, folder = without(origin.store, tmp_path / "store"), tmp_path / "lab"
    for name in ("owner/keys", "owner/kms", "broker/kms"):
        without(origin.folder / name, folder / name)
    (folder / "broker" / "log.json").write_bytes((origin.folder / "broker" / "log.json").read_bytes())
    (folder / "broker" / "log.json").chmod(0o600)
    with pytest.raises(InvalidInput, match="--root-fingerprint"):
        vault.restore(folder, store=str(store), kms="local:")
    fingerprint = deployment.Configuration.read(origin.folder / "owner" / "config.toml").root_fingerprint
    vault.restore(folder, store=str(store), kms="local:", root_fingerprint=fingerprint)
    lab = vault.open(folder)
    assert lab.scan("evals").read_all().equals(origin.tables[2])


def test_what_is_in_use_is_refused(origin: Origin, tmp_path: Path) -> None:
    """A directory with a vault, a catalog with tables, a wrong passphrase and another fingerprint, each in a sentence."""
    store = without(origin.store, tmp_path / "store")
    vault.init(tmp_path / "other")
    options = {"store": str(store), "kms": "local:", "keys": origin.keys, "passphrase": PASSPHRASE}
    with pytest.raises(InvalidInput, match="there is a vault here already"):
        vault.restore(tmp_path / "other", **options)
    with pytest.raises(InvalidInput, match="there are tables in it already"):
        vault.restore(tmp_path / "a", catalog=f"sqlite:///{tmp_path}/other/catalog.db", **options)
    with pytest.raises(InvalidInput, match="passphrase is wrong"):
        vault.restore(tmp_path / "b", **{**options, "passphrase": "guess"})
    with pytest.raises(InvalidInput, match="--root-fingerprint"):
        vault.restore(tmp_path / "c", root_fingerprint="0" * 64, **options)
    with pytest.raises(NotFound, match="no vault's store"):
        vault.restore(tmp_path / "d", **{**options, "store": str(tmp_path / "nothing")})
    assert not (tmp_path / "d" / "dsvault.toml").exists()


def test_a_kms_that_does_not_open_can_be_put_right(origin: Origin, tmp_path: Path) -> None:
    """Where the owner's KMS key is missing the restore says so, leaves no vault, and the same call ends it later."""
    store, elsewhere = without(origin.store, tmp_path / "store"), tmp_path / "keystore"
    from vault import safekeeping

    keys = safekeeping.read_keys(origin.keys, PASSPHRASE)
    names = [name for name in keys.files if name.startswith("keystore/owner")]
    (elsewhere / "owner").mkdir(parents=True)
    # A file of that name is there, and another key is in it: what is there stays.
    impostor = vault.init(tmp_path / "impostor")
    (other,) = (impostor.folder / "owner" / "kms").glob("*.json")
    target = elsewhere / "owner" / Path(names[0]).name
    document = json.loads(other.read_text())
    target.write_text(json.dumps({**document, "id": target.stem}))
    target.chmod(0o600)
    options = {"store": str(store), "kms": f"local://{elsewhere}", "keys": origin.keys, "passphrase": PASSPHRASE}
    with pytest.raises(KmsError):
        vault.restore(tmp_path / "lab", **options)
    assert not (tmp_path / "lab" / "dsvault.toml").exists()
    target.unlink()
    vault.restore(tmp_path / "lab", **options)
    assert vault.open(tmp_path / "lab").scan("evals").read_all().equals(origin.tables[2])


def _restore_killed(step: int, origin: Origin, store: Path, folder: Path) -> int | None:
    """How many steps were left, or None where the process was killed."""
    code, left = outcome(restore, step, folder, str(store), origin.keys)
    assert code == (-signal.SIGKILL if left is None else 0)
    return left


def test_a_killed_restore_is_ended_by_the_next(origin: Origin, tmp_path: Path) -> None:
    """Killed at steps of every kind, one after the other in one directory, it comes to the same vault in the end."""
    left = _restore_killed(10**6, origin, without(origin.store, tmp_path / "whole"), tmp_path / "counted")
    assert left is not None
    steps = 10**6 - left
    store, folder = without(origin.store, tmp_path / "store"), tmp_path / "lab"
    kills = 0
    for step in range(2, steps, max(1, steps // 12)):
        # What an earlier run did is not done again, so that in the end there are fewer steps than this.
        if _restore_killed(step, origin, store, folder) is not None:
            break
        kills += 1
        try:
            opened = vault.open(folder)
        except VaultError:
            continue
        assert opened.scan("evals").read_all().equals(origin.tables[2]), "what opens is whole"
    else:
        _restore_killed(10**6, origin, store, folder)
    assert kills > 5
    lab = vault.open(folder)
    assert backed_up(lab.parts.catalog) == origin.rows
    assert [entry.kind for _, entry in lab.audit_entries()].count(Kind.RESTORED) == 1
    assert lab.audit_verify(checkpoints=[("a checkpoint that was kept", origin.checkpoint)]) > origin.entries
    assert lab.check().faults == []


def test_the_witness_is_asked_and_goes_on(tmp_path: Path) -> None:
    """A vault with a witness is restored with it, and tells it of what comes then."""
    lab = vault.init(tmp_path / "lab", witness=str(tmp_path / "witness"), witness_required=True)
    lab.add_vendor("acme")
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, tmp_path / "lab")
    vault.restore(
        tmp_path / "new",
        store=str(without(tmp_path / "lab" / "store", tmp_path / "store")),
        kms="local:",
        keys=tmp_path / "keys.json",
        passphrase=PASSPHRASE,
    )
    folder = tmp_path / "witness" / lab.parts.vault / "checkpoints"
    told = max(int(path.name) for path in folder.iterdir())
    again = vault.open(tmp_path / "new")
    again.add_vendor("globex")
    assert max(int(path.name) for path in folder.iterdir()) > told
    assert again.audit_verify() >= told


def test_the_newest_snapshot_that_is_damaged_is_passed_over(origin: Origin, tmp_path: Path) -> None:
    """The one before it and the changes since come to the same."""
    lab, _ = restored(origin, without(origin.store, tmp_path / "first"), tmp_path / "lab")
    lab.add_vendor("umbrella")
    lab.backup()
    lab.gc()
    store = tmp_path / "first"
    snapshot = newest(store, "backup/snapshots")
    snapshot.chmod(0o600)
    snapshot.write_bytes(snapshot.read_bytes()[:-9])
    again, made = restored(origin, store, tmp_path / "again")
    assert backed_up(again.parts.catalog) == backed_up(lab.parts.catalog)
    assert any("is no backup of this vault" in sentence for sentence in made.told)


def test_a_restore_into_postgresql_needs_an_empty_database(origin: Origin, tmp_path: Path) -> None:
    """Tables of another vault in the database are refused before anything is written to it."""
    url = postgres().database()
    vault.init(tmp_path / "other", catalog=url)
    with pytest.raises(InvalidInput, match="tables in it already"):
        restored(origin, without(origin.store, tmp_path / "store"), tmp_path / "lab", catalog=url)


def test_after_rotations_a_newer_export_is_needed(tmp_path: Path) -> None:
    """The backup is sealed to the newest auditor and the log signed with the newest key: older exports say what lacks."""
    lab = vault.init(tmp_path / "lab")
    lab.add_vendor("acme")
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    vault.backup_keys(old, PASSPHRASE, lab.folder)
    lab.rotate_key(Role.AUDITOR)
    options: dict[str, Any] = {"kms": "local:", "passphrase": PASSPHRASE}
    with pytest.raises(KeyUnavailable, match="sealed to an auditor's key that is not here"):
        vault.restore(tmp_path / "a", store=str(without(lab.folder / "store", tmp_path / "b")), keys=old, **options)
    for role in (Role.LOG, Role.AUTHORITY, Role.RESPONDER, Role.PUBLISHER):
        lab.rotate_key(role)
    store = without(lab.folder / "store", tmp_path / "store")
    with pytest.raises(KeyUnavailable, match="from before the key was replaced"):
        vault.restore(tmp_path / "c", store=str(store), keys=old, **options)
    vault.backup_keys(new, PASSPHRASE, lab.folder)
    vault.restore(tmp_path / "d", store=str(without(lab.folder / "store", tmp_path / "e")), keys=new, **options)
    again = vault.open(tmp_path / "d")
    assert backed_up(again.parts.catalog) == backed_up(lab.parts.catalog)
    assert [entry.kind for _, entry in again.audit_entries()].count(Kind.ROOT_CHANGED) == 5
    assert again.freeze("acme")
    assert again.thaw("acme")


def test_a_log_that_ends_under_a_replaced_key_is_signed_anew(tmp_path: Path) -> None:
    """Lost in the moment after a rotation of the log key: its entry is not in the store yet, and its change is."""
    lab = vault.init(tmp_path / "lab")
    lab.add_vendor("acme")
    lab.parts.journal.settle()
    lab.parts.journal.checkpoint()
    end = lab.parts.journal.end()
    assert end is not None
    lab.rotate_key(Role.LOG)
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, lab.folder)

    def later(name: str) -> bool:
        folder, _, number = name.rpartition("/")
        return folder in {"log", "checkpoints"} and int(number[:20]) > end[1].size

    made = vault.restore(
        tmp_path / "new",
        store=str(without(lab.folder / "store", tmp_path / "store", later)),
        kms="local:",
        keys=tmp_path / "keys.json",
        passphrase=PASSPHRASE,
    )
    again = vault.open(tmp_path / "new")
    assert made.entries == end[1].size
    assert backed_up(again.parts.catalog) == backed_up(lab.parts.catalog)
    assert again.audit_verify() > made.entries


def test_a_file_with_keys_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The option and the file are named, and not some key."""
    with pytest.raises(InvalidInput, match=r"^--keys: .*nowhere\.json: there is no such file$"):
        read_keys(tmp_path / "nowhere.json", PASSPHRASE)
