"""What a thief of the store, of a broker or of an old key does to the backup: none of it brings anything back."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import vault
from tests.support.restoring import PASSPHRASE, backed_up, newest, without
from vault.audit import Checkpoint, Edge, Kind, Leaf, Segment, leaf_bytes, leaf_hash, sign_checkpoint
from vault.catalog import Change, change_digest, schema
from vault.encoding import canonical, from_canonical, json_bytes, new_id
from vault.errors import IntegrityError, KeyUnavailable
from vault.owner import Vault
from vault.snapshots import open_piece, seal_piece
from vault.trust import BackupStatement, Label, Role, Signed, Signer
from vault.workings.chain import read_signed
from vault.workings.keyfolder import open_signer
from vault.workings.segments import Segments, read_segment


@pytest.fixture
def lab(tmp_path: Path) -> Vault:
    """A vault with two vendors whose keys were exported, with a witness beside it."""
    made = vault.init(tmp_path / "lab", witness=str(tmp_path / "witness"))
    made.add_vendor("acme")
    made.add_vendor("globex")
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, tmp_path / "lab")
    return made


def _restore(lab: Vault, store: Path, *, witness: Path | None = None) -> Vault:
    """Restore from a store, and from what a witness says: by default that of the vault as it is."""
    folder = store.parent / f"restored-{new_id()[:8]}"
    keys = lab.folder.parent / "keys.json"
    place = str(witness or lab.folder.parent / "witness")
    vault.restore(folder, store=str(store), kms="local:", keys=keys, passphrase=PASSPHRASE, witness=place)
    return vault.open(folder)


def _copy(lab: Vault, aside: str, gone: Callable[[str], bool] = lambda _name: False) -> Path:
    return without(lab.folder / "store", lab.folder.parent / aside, gone)


def _witness(lab: Vault, aside: str) -> Path:
    return without(lab.folder.parent / "witness", lab.folder.parent / aside)


def _present(store: Path, before: Path) -> Callable[[str], bool]:
    """Whether a name was not there before."""
    return lambda name: not (before / name).exists()


def test_the_newest_changes_that_were_taken_away_are_missed(lab: Vault) -> None:
    """A checkpoint knows which change was the last: a store without it is refused, and the sentence says so."""
    lab.freeze("acme")
    last = newest(lab.folder / "store", "backup/changes")
    heads = f"heads/{lab.vendors()[0].id}"
    store = _copy(lab, "cut", lambda name: name.endswith(last.name) or name.startswith(heads))
    with pytest.raises(IntegrityError, match=f"knows of change {int(last.name)} of the catalog"):
        _restore(lab, store)
    assert _restore(lab, _copy(lab, "whole")).vendors()[0].frozen


def test_a_change_in_the_middle_that_was_taken_away_is_missed(lab: Vault) -> None:
    """Nothing is read past a gap."""
    lab.freeze("acme")
    lab.freeze("globex")
    names = sorted(path.name for path in (lab.folder / "store" / "backup" / "changes").iterdir())
    store = _copy(lab, "cut", lambda name: name == f"backup/changes/{names[-2]}")
    with pytest.raises(IntegrityError, match=f"lacks change {int(names[-2])}"):
        _restore(lab, store)


def test_a_revocation_is_not_undone_by_an_old_backup(lab: Vault, tmp_path: Path) -> None:
    """Backup, log and checkpoints are those of before the freeze: the head in the store is newer, and alone suffices."""
    before, seen = _copy(lab, "before"), _witness(lab, "seen")
    lab.freeze("acme")
    now = _copy(lab, "now", lambda name: not name.startswith("heads/") and not (before / name).exists())
    with pytest.raises(IntegrityError, match="which is newer than number"):
        _restore(lab, now, witness=seen)
    for subject in (now / "heads").iterdir():
        for path in subject.iterdir():
            if not (before / path.relative_to(now)).exists():
                path.unlink()
    assert not _restore(lab, now, witness=seen).vendors()[0].frozen, "nothing that is left knows better"


def test_the_witness_knows_better_than_a_store_that_was_rolled_back(lab: Vault) -> None:
    """All of the store is as it was before the freeze, its heads and checkpoints too."""
    before = _copy(lab, "before")
    lab.freeze("acme")
    with pytest.raises(IntegrityError, match="the witness knows of change"):
        _restore(lab, before)


def test_the_witness_knows_of_a_log_that_was_cut(lab: Vault) -> None:
    """No administrative act is missing, and entries of the log are."""
    before = _copy(lab, "before")
    lab.parts.journal.record(Kind.OWNER_READ, dataset="evals")
    lab.parts.journal.checkpoint()
    with pytest.raises(IntegrityError, match=r"the witness knows of \d+ entries of the log"):
        _restore(lab, before)


def test_a_checkpoint_in_the_store_knows_of_a_log_that_was_cut(lab: Vault) -> None:
    """The newest segment is gone; without a witness the store's own checkpoint tells."""
    last = newest(lab.folder / "store", "log")
    seen = _witness(lab, "seen")
    lab.parts.journal.record(Kind.OWNER_READ, dataset="evals")
    lab.parts.journal.checkpoint()
    store = _copy(lab, "cut", lambda name: name.startswith("log/") and name > f"log/{last.name}")
    with pytest.raises(IntegrityError, match=r"the store knows of \d+ entries of the log"):
        _restore(lab, store, witness=seen)


def test_a_segment_in_the_middle_that_was_taken_away_is_missed(lab: Vault) -> None:
    """The log is not read past a gap."""
    lab.freeze("acme")
    names = sorted(path.name for path in (lab.folder / "store" / "log").iterdir())
    with pytest.raises(IntegrityError, match="lacks the entries"):
        _restore(lab, _copy(lab, "cut", lambda name: name == f"log/{names[-2]}"))


def test_a_changed_entry_in_a_segment_is_found(lab: Vault) -> None:
    """Its note is signed over every entry before it."""
    store = _copy(lab, "changed")
    path = newest(store, "log")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="are not those that were signed"):
        _restore(lab, store)


def _signer(lab: Vault, role: Role) -> Signer:
    return open_signer(lab.folder / "owner" / "keys" / f"{role.value}.json", role, None)


def _forged(lab: Vault, path: Path, signer: Signer, change: Callable[[Change], Change]) -> bytes:
    """A change like that in a file, altered and signed by somebody: sealing needs a public key only."""
    root = lab.parts.root.current
    kept = read_signed(lab.parts.root, path.read_bytes())
    number = kept.statement.number
    document = open_piece(root.vault, lab.parts.signers.keys.auditor_secrets(), f"change {number}", kept.sealed)
    altered = change(Change.decode(document))
    written = json_bytes(
        {
            "number": altered.number,
            "previous": altered.previous.hex(),
            "salt": "00",
            "snapshot": list(altered.snapshot) if altered.snapshot else None,
            "rows": [],
        }
    )
    sealed = seal_piece(root.vault, root.public_key(Role.AUDITOR), f"change {number}", written)
    piece = replace(kept.statement.pieces[0], sha256=hashlib.sha256(sealed).hexdigest(), size=len(sealed))
    said = replace(kept.statement, digest=change_digest(written).hex(), pieces=(piece,))
    return canonical(signer.sign(Label.BACKUP, said.payload()).encode(), sealed)


def test_a_change_that_somebody_else_signed_is_none(lab: Vault) -> None:
    """Whoever holds the store can seal whatever he likes, and sign it with no key that counts."""
    lab.freeze("acme")
    store = _copy(lab, "forged")
    path = newest(store, "backup/changes")
    path.write_bytes(_forged(lab, path, Signer(bytes(range(32))), lambda change: change))
    with pytest.raises(IntegrityError, match="is not signed by the"):
        _restore(lab, store)


def test_a_thief_of_the_responders_key_replaces_no_change(lab: Vault) -> None:
    """His change goes on from the one before it and is signed; the checkpoints know another one of its number."""
    lab.freeze("acme")
    heads = f"heads/{lab.vendors()[0].id}"
    store = _copy(lab, "forged", lambda name: name.startswith(heads))
    path = newest(store, "backup/changes")
    path.write_bytes(_forged(lab, path, _signer(lab, Role.RESPONDER), lambda change: change))
    with pytest.raises(IntegrityError, match="it was replaced"):
        _restore(lab, store)


def test_changes_cannot_be_spliced(lab: Vault) -> None:
    """A signed change that does not go on from the one before it is refused, whoever signed it."""
    lab.freeze("acme")
    store = _copy(lab, "spliced", lambda name: name.startswith("checkpoints/"))
    path = newest(store, "backup/changes")
    signer = _signer(lab, Role.RESPONDER)
    path.write_bytes(_forged(lab, path, signer, lambda change: replace(change, previous=bytes(32))))
    with pytest.raises(IntegrityError, match="does not go on from the one before it"):
        _restore(lab, store)


def test_a_change_does_not_move_to_another_number(lab: Vault) -> None:
    """An older change under the newest one's name is no change of that number."""
    lab.freeze("acme")
    lab.thaw("acme")
    store = _copy(lab, "moved")
    first, last = sorted((store / "backup" / "changes").iterdir())[-2:]
    shutil.copyfile(first, last)
    with pytest.raises(IntegrityError, match="does not lie where it was put"):
        _restore(lab, store)


def test_a_change_of_another_vault_is_none(lab: Vault, tmp_path: Path) -> None:
    """Even where both vaults have the same keys: a statement names its vault."""
    other = vault.init(tmp_path / "other")
    for name in ("acme", "globex"):
        other.add_vendor(name)
    lab.freeze("acme")
    store = _copy(lab, "mixed")
    path = newest(store, "backup/changes")
    kept = read_signed(lab.parts.root, path.read_bytes())
    foreign = replace(kept.statement, vault=other.parts.vault)
    signed = _signer(lab, Role.AUTHORITY).sign(Label.BACKUP, foreign.payload())
    path.write_bytes(canonical(signed.encode(), kept.sealed))
    with pytest.raises(IntegrityError, match="one of another vault"):
        _restore(lab, store)
    theirs = without(tmp_path / "other" / "store", tmp_path / "theirs")
    with pytest.raises(IntegrityError, match="the store of another vault"):
        _restore(lab, theirs)


def test_an_older_snapshot_is_not_the_newest(lab: Vault) -> None:
    """A snapshot of before, with the changes behind it taken away, is refused; under a later number it is none."""
    lab.backup()
    old = newest(lab.folder / "store", "backup/snapshots")
    lab.freeze("acme")
    lab.backup()
    last = newest(lab.folder / "store", "backup/snapshots")
    number = f"{int(old.name.partition('x')[0]):020d}"
    heads = f"heads/{lab.vendors()[0].id}"

    def gone(name: str) -> bool:
        folder, _, rest = name.rpartition("/")
        return name.startswith(heads) or (folder in {"backup/changes", "backup/snapshots"} and rest[:20] > number)

    store = _copy(lab, "old", gone)
    with pytest.raises(IntegrityError, match="knows of change"):
        _restore(lab, store)
    shutil.copyfile(store / "backup" / "snapshots" / old.name, store / "backup" / "snapshots" / last.name)
    with pytest.raises(IntegrityError, match="knows of change"):
        _restore(lab, store)


def test_a_changed_piece_of_a_snapshot_is_found(lab: Vault) -> None:
    """Its digest is in the signed statement."""
    lab.backup()
    store = _copy(lab, "changed")
    for path in (store / "backup" / "pieces").iterdir():
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="it was changed"):
        _restore(lab, store)


def test_a_snapshot_under_a_replaced_key_is_none(lab: Vault) -> None:
    """A thief of a responder's key that was replaced signs an empty snapshot with the digest that everybody can see."""
    thief = _signer(lab, Role.RESPONDER)
    lab.rotate_key(Role.RESPONDER)
    vault.backup_keys(lab.folder.parent / "later.json", PASSPHRASE, lab.folder)
    shutil.move(lab.folder.parent / "later.json", lab.folder.parent / "keys.json")
    lab.freeze("acme")  # the newest object is under a present key, and names the true snapshot
    store = _copy(lab, "forged")
    path = newest(store, "backup/snapshots")
    said = read_signed(lab.parts.root, path.read_bytes()).statement
    shutil.rmtree(store / "backup" / "snapshots")
    path.parent.mkdir()
    path.write_bytes(canonical(thief.sign(Label.BACKUP, replace(said, pieces=()).payload()).encode()))
    with pytest.raises(IntegrityError, match="the snapshot of the backup is signed with a key that was replaced"):
        _restore(lab, store)
    assert backed_up(_restore(lab, _copy(lab, "whole")).parts.catalog) == backed_up(lab.parts.catalog)


def test_what_a_broker_plants_holds_up_neither_backup_nor_restore(lab: Vault) -> None:
    """It can add to the store: names that will be needed are taken, and the vault goes on and is restored all the same."""
    store = lab.folder / "store"
    last = int(newest(store, "backup/changes").name)
    with lab.parts.catalog.read() as transaction:
        tail = transaction.log_rows()[-1].sequence
    for name in (f"backup/changes/{last + 1:020d}", f"backup/snapshots/{last + 1:020d}", f"log/{tail + 1:020d}"):
        (store / name).write_bytes(b"planted")
    (store / "log" / f"{10**19:020d}").write_bytes(b"planted")
    lab.freeze("acme")
    lab.backup()
    with lab.parts.catalog.read() as transaction:
        assert transaction.changes() == []
    made = _restore(lab, _copy(lab, "planted"))
    assert backed_up(made.parts.catalog) == backed_up(lab.parts.catalog)
    assert made.vendors()[0].frozen


def _planted(lab: Vault, first: int, size: int = 0) -> bytes:
    """A segment up to the log's end with entries that nobody wrote, under the note that lies in the store."""
    path = newest(lab.folder / "store", "checkpoints")
    note, last = path.read_bytes(), int(path.name)
    entry = canonical("2026-12-01T00:00:00.000000Z", bytes(max(100, size // (last - first + 1))))
    return canonical("dsvault log segment", lab.parts.vault, first, last, note) + entry * (last - first + 1)


def test_false_entries_under_a_copied_note_hold_up_no_restore(lab: Vault) -> None:
    """Notes lie in the store for whoever adds to it: a segment counts for the entries that its note was signed for."""
    store = lab.folder / "store"
    for first in (1, 2, int(newest(store, "log").name)):
        (store / "log" / f"{first:020d}x{new_id()}").write_bytes(_planted(lab, first, 1 << 20))
    lab.freeze("acme")
    size = lab.audit_verify()
    made = _restore(lab, _copy(lab, "planted"))
    assert made.vendors()[0].frozen
    assert made.audit_verify() > size


def test_a_replaced_log_key_adds_nothing_to_a_restored_log(lab: Vault) -> None:
    """Who stole it and adds to the store has no entry restored behind those that a present key signed."""
    old = open_signer(lab.folder / "broker" / "log.json", Role.LOG, None)
    lab.rotate_key(Role.LOG)
    (lab.folder.parent / "keys.json").unlink()
    vault.backup_keys(lab.folder.parent / "keys.json", PASSPHRASE, lab.folder)
    lab.parts.journal.settle()
    size = lab.audit_verify()
    with lab.parts.catalog.read() as transaction:
        tail = transaction.log_tail()
    assert tail is not None
    edge = Edge(size, tuple(tail.edge[at : at + 32] for at in range(0, len(tail.edge), 32)))
    time, sealed = "2099-12-01T00:00:00.000000Z", bytes(300)
    leaf = Leaf(size + 1, time, sealed, leaf_hash(leaf_bytes(size + 1, time, sealed)))
    note = sign_checkpoint(lab.parts.vault, Checkpoint(size + 1, edge.append(leaf.hash).root, time), old)
    planted = lab.folder / "store" / "log" / f"{size + 1:020d}"
    planted.write_bytes(Segment(size + 1, note, (leaf,)).encode(lab.parts.vault))
    kinds = [entry.kind for _, entry in _restore(lab, _copy(lab, "added")).audit_entries()]
    assert Kind.RESTORED in kinds
    assert Kind.UNREADABLE not in kinds


def test_false_entries_under_a_copied_note_are_no_large_segment(lab: Vault) -> None:
    """What is as large as a segment that stays does not take the place of those that are merged: it goes."""
    lab.parts.journal.settle()
    planted = lab.folder / "store" / "log" / f"{1:020d}x{new_id()}"
    planted.write_bytes(_planted(lab, 1, 6 << 20))
    lab.gc()
    assert not planted.exists()
    assert _restore(lab, _copy(lab, "merged")).audit_verify() > 0


def test_a_copied_note_stops_no_checkpoint(lab: Vault) -> None:
    """Where false entries lie under the name that a segment wants, and under its note, it gets another name."""
    lab.parts.journal.settle()
    path = newest(lab.folder / "store", "log")
    fresh = Segments(lab.parts.root, lab.parts.catalog, lab.parts.store, lambda _root: _signer(lab, Role.AUTHORITY))
    path.write_bytes(_planted(lab, int(path.name)))
    assert fresh._there(f"log/{path.name}") is None


def test_whoever_holds_the_store_reads_nothing_of_it(lab: Vault) -> None:
    """No row shows in any object of the backup, and no key but the auditor's opens one."""
    lab.backup()
    with lab.parts.catalog.read() as transaction:
        secret = [row.wrapped for holder in transaction.holders() for row in transaction.keys(holder.id)]
    objects = [path.read_bytes() for path in (lab.folder / "store" / "backup").rglob("*") if path.is_file()]
    assert objects
    assert secret
    assert not any(each in data for each in secret for data in objects)
    kept = read_signed(lab.parts.root, newest(lab.folder / "store", "backup/changes").read_bytes())
    with pytest.raises(KeyUnavailable):
        open_piece(lab.parts.vault, [bytes(range(32))], f"change {kept.statement.number}", kept.sealed)


def test_a_broker_cannot_sign_a_backup(lab: Vault) -> None:
    """The log key is no key of the backup's: what it signs there is none."""
    path = newest(lab.folder / "store", "backup/changes")
    statement, sealed = from_canonical(path.read_bytes())
    said = BackupStatement.parse(Signed.decode(statement, Label.BACKUP))
    log_key = open_signer(lab.folder / "broker" / "log.json", Role.LOG, None)
    forged = canonical(log_key.sign(Label.BACKUP, said.payload()).encode(), sealed)
    with pytest.raises(IntegrityError, match="is not signed by the authority or publisher or responder key"):
        read_signed(lab.parts.root, forged)


def test_a_rolled_back_catalog_that_goes_on_is_found_out(lab: Vault) -> None:
    """Its next change wants a number that the store has already, of another change."""
    database = lab.folder / "catalog.db"
    copy = lab.folder.parent / "catalog.copy"
    shutil.copyfile(database, copy)
    lab.issue_credential("acme", bearer=True)
    lab.parts.journal.settle()
    shutil.copyfile(copy, database)
    store = lab.folder / "store"
    for folder in ("heads", "checkpoints", "log"):
        for path in (store / folder).rglob("*"):
            if path.is_file():
                path.unlink()
    shutil.rmtree(lab.folder.parent / "witness")
    with pytest.raises(IntegrityError, match="the store has another change"):
        vault.open(lab.folder).freeze("globex")


def test_a_second_log_under_one_number_is_found_out(lab: Vault) -> None:
    """A segment that the log key signed and that has other entries than the catalog is told, and not passed over."""
    path = newest(lab.folder / "store", "log")
    segment, _ = read_segment(lab.parts.root, f"log/{path.name}", path.read_bytes())
    leaf = segment.leaves[-1]
    with lab.parts.catalog.write() as transaction:
        transaction.connection.execute(
            schema.log.update().where(schema.log.c.sequence == leaf.sequence).values(hash=bytes(32))
        )
    fresh = Segments(lab.parts.root, lab.parts.catalog, lab.parts.store, lambda _root: _signer(lab, Role.AUTHORITY))
    with pytest.raises(IntegrityError, match="another log than this one"):
        fresh._there(f"log/{path.name}")
