"""The audit log: what is in it, and that changing it is found."""

from collections.abc import Callable
from pathlib import Path

import pytest

import vault
from tests.conftest import Lab
from tests.support.catalog import sql
from tests.support.reading import read
from vault.audit import Checkpoint, Opener, Tail, append, sign_checkpoint
from vault.encoding import from_timestamp, json_bytes
from vault.errors import AuditError, IntegrityError, InvalidInput, NotGranted
from vault.trust import Role
from vault.workings.proofs import check_proof

pytestmark = pytest.mark.both_catalogs


def _sql(lab: Lab, *statements: str) -> None:
    with sql(lab) as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_act_is_an_entry(granted: Lab) -> None:
    """Acts, reads and refusals are entries that say who, what and how much."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    read(parts, caller)
    with pytest.raises(NotGranted):
        read(parts, caller, columns=("answer",))
    granted.vault.freeze("acme")
    granted.vault.thaw("acme")
    granted.vault.rekey(vendor="acme")
    granted.vault.revoke_credential(caller.credential)
    granted.vault.revoke(granted.vault.grants()[0].grant.id)
    granted.vault.gc()
    for each in (parts, granted.vault.parts):
        each.journal.settle()
    entries = [entry for _, entry in granted.vault.audit_entries()]
    kinds = {entry.kind.value for entry in entries}
    assert kinds >= {
        "init", "vendor added", "version published", "compartment filled", "grant made", "credential issued",
        "read begun", "read ended", "request refused", "vendor frozen", "vendor thawed", "compartment rekeyed",
        "credential revoked", "grant revoked", "garbage collected",
    }  # fmt: skip
    ended = next(entry for entry in entries if entry.kind.value == "read ended")
    assert (ended.fields["rows"], ended.fields["outcome"], ended.fields["vendor"]) == (50, "complete", "acme")
    begun = next(entry for entry in entries if entry.kind.value == "read begun")
    assert begun.fields["columns"] == ["id", "prompt", "lang"]
    assert granted.vault.audit_verify() == len(entries)


def test_the_newest_entries_are_had_without_the_others(granted: Lab) -> None:
    """As many as are asked for, oldest first, or all where there are fewer."""
    parts = granted.vault.parts
    secrets = parts.signers.keys.auditor_secrets()
    every = list(parts.journal.entries(secrets))
    assert list(parts.journal.entries(secrets, 3)) == every[-3:]
    assert list(parts.journal.entries(secrets, len(every))) == list(parts.journal.entries(secrets, 10**6)) == every


@pytest.mark.parametrize(
    "statement",
    [
        "update log set sealed = zeroblob(200) where sequence = 4",
        "update log set sealed = (select sealed from log where sequence = 3) where sequence = 4",
        "update log set time = '2020-01-01T00:00:00.000000Z' where sequence = 4",
        "update log set hash = zeroblob(32) where sequence = 4",
        "delete from log where sequence = 4",
        "delete from log where sequence = 1",
        "delete from log where sequence = (select max(sequence) from log)",
        "delete from log",
        "insert into log select sequence + 1, time, sealed, hash from log order by sequence desc limit 1",
        "insert into log select 0, time, sealed, hash from log where sequence = 1",
        "update log_tail set note = zeroblob(100)",
        "update log_tail set edge = zeroblob(length(edge))",
        "update log_tail set edge = substr(edge, 33)",
        "delete from log_tail",
    ],
)
def test_a_changed_log_is_found(granted: Lab, statement: str) -> None:
    """A changed, removed or inserted entry, and a changed end, are found."""
    granted.vault.audit_verify()
    _sql(granted, statement)
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def test_reordered_entries_are_found(granted: Lab) -> None:
    """Two entries that changed places are found."""
    _sql(
        granted,
        "update log set sequence = -3 where sequence = 3",
        "update log set sequence = 3 where sequence = 4",
        "update log set sequence = 4 where sequence = -3",
    )
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def _written_anew(
    lab: Lab, note: Callable[[Checkpoint], bytes] | None = None, without: int = 4, instead: bool = False
) -> None:
    """Drop an entry, or put the first in its place, and compute all hashes anew, with or without a signed end."""
    with sql(lab) as connection:
        kept = connection.execute("select time, sealed from log order by sequence").fetchall()
        entries = [(from_timestamp(time), sealed) for time, sealed in kept]
        entries[without - 1 : without] = [(entries[without - 1][0], entries[0][1])] if instead else []
        connection.execute("delete from log")
        tail = Tail()
        for entry in entries:
            (leaf,), tail = append(tail, [entry])
            row = (leaf.sequence, leaf.time, leaf.sealed, leaf.hash)
            connection.execute("insert into log values (?, ?, ?, ?)", row)
        connection.execute("update log_tail set edge = ?", (b"".join(tail.edge.hashes),))
        if note is not None:
            connection.execute("update log_tail set note = ?", (note(tail.checkpoint),))


def test_a_tree_made_anew_is_found(granted: Lab) -> None:
    """Dropping an entry and computing the whole tree again does not pass: the end is signed."""
    _written_anew(granted)
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def _as_the_broker(lab: Lab) -> Callable[[Checkpoint], bytes]:
    """What somebody can sign who has taken over a broker, log key and all."""
    parts = lab.vault.parts
    return lambda end: sign_checkpoint(parts.vault, end, parts.signers.keys.signer(Role.LOG, parts.root.current))


def test_a_log_that_a_broker_wrote_anew_and_signed_contradicts_the_store(granted: Lab) -> None:
    """Who has the log key can sign another log, and still not one that the checkpoints are about."""
    _written_anew(granted, _as_the_broker(granted))
    with pytest.raises(IntegrityError, match="changed, or forked|cut off"):
        granted.vault.audit_verify()
    with pytest.raises(IntegrityError):
        vault.open(granted.folder)


def test_another_log_of_the_same_size_is_not_opened(granted: Lab) -> None:
    """A log with as many entries, one of them another, that was signed all the same, is refused when a vault is opened."""
    end = granted.vault.parts.journal.end()
    assert end is not None
    with sql(granted) as connection:
        note = _as_the_broker(granted)(Checkpoint(end[1].size, bytes(32), end[1].time))
        connection.execute("update log_tail set note = ?", (note,))
    with pytest.raises(IntegrityError):
        vault.open(granted.folder)
    _written_anew(granted, _as_the_broker(granted), without=4, instead=True)
    with pytest.raises(IntegrityError, match="not the one that a checkpoint was signed over"):
        vault.open(granted.folder)


def _cut_back(lab: Lab) -> Callable[[], None]:
    """Remember where the log ends, and give what cuts it back to there."""
    with sql(lab) as connection:
        end = connection.execute("select note, edge from log_tail").fetchone()
        (count,) = connection.execute("select max(sequence) from log").fetchone()

    def cut() -> None:
        with sql(lab) as connection:
            connection.execute("delete from log where sequence > ?", (count,))
            connection.execute("update log_tail set note = ?, edge = ?", end)

    return cut


def test_a_log_cut_back_to_an_earlier_signed_end_is_found(granted: Lab) -> None:
    """Rolling entries and the signed end back together contradicts the checkpoint in the store."""
    cut = _cut_back(granted)
    granted.vault.freeze("acme")
    cut()
    with pytest.raises(IntegrityError, match="before entry .* of a checkpoint in the store"):
        granted.vault.audit_verify()


def test_a_log_that_was_rolled_back_under_a_running_process_is_not_written_to(granted: Lab) -> None:
    """A broker that saw the log reach further appends nothing to one that ends before, and serves nothing."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    cut = _cut_back(granted)
    read(parts, caller)
    parts.journal.settle()
    cut()
    with pytest.raises(AuditError, match="rolled back"):
        read(parts, caller)


def test_the_log_of_two_forks_is_found_whichever_is_read(granted: Lab, tmp_path: Path) -> None:
    """Of two logs that both bear signed ends, each contradicts the checkpoint that a reader of the other kept."""
    granted.vault.freeze("acme")
    kept = granted.vault.audit_checkpoint()
    for each in list(granted.vault.parts.store.list("checkpoints")):
        granted.vault.parts.store.delete(each.name)
    _written_anew(granted, _as_the_broker(granted))
    other = vault.open(granted.folder)
    other.thaw("acme")
    assert other.audit_verify() > 0  # nothing that this reader has says otherwise
    with pytest.raises(IntegrityError, match="forked"):
        other.audit_verify(checkpoints=[("the auditor's own checkpoint", kept)])
    with pytest.raises(IntegrityError, match="forked"):
        other.audit_growth(kept)


def test_the_log_only_grew_since_a_checkpoint_that_somebody_kept(granted: Lab) -> None:
    """A checkpoint is agreed with later, and the proof of it is checked with nothing but the fingerprint."""
    kept = granted.vault.audit_checkpoint()
    granted.vault.freeze("acme")
    granted.vault.rotate_key(Role.LOG)
    assert granted.vault.audit_verify(checkpoints=[("a checkpoint", kept)]) > 0
    proof = granted.vault.audit_growth(kept)
    shown = check_proof(proof.encode(), granted.vault.parts.root.fingerprint)
    assert (shown.vault, shown.size) == (granted.vault.parts.vault, granted.vault.audit_verify())
    assert shown.old is not None
    assert shown.old < shown.size


def test_an_entry_is_proved_to_be_in_the_log(granted: Lab) -> None:
    """The proof of each entry is checked with nothing but the fingerprint; another fingerprint or entry is refused."""
    count, fingerprint = granted.vault.audit_verify(), granted.vault.parts.root.fingerprint
    for sequence in range(1, count + 1):
        proof = granted.vault.audit_proof(sequence)
        assert check_proof(proof.encode(), fingerprint).sequence == sequence
    with pytest.raises(IntegrityError):
        check_proof(proof.encode(), "0" * 64)
    other = granted.vault.audit_proof(1).document["entry"]
    for entry in (other, proof.document["entry"] | {"time": other["time"]}, proof.document["entry"] | {"sequence": 1}):
        with pytest.raises(IntegrityError):
            check_proof(json_bytes(proof.document | {"entry": entry}), fingerprint)
    with pytest.raises(InvalidInput, match="no entry"):
        granted.vault.audit_proof(count + 1)


@pytest.mark.parametrize("sequence", [-1, 0, 2**64, 10**400, "3", None, []])
def test_a_proof_of_an_entry_that_no_log_has_is_refused(granted: Lab, sequence: object) -> None:
    """Whatever stands for the entry's number gets one sentence."""
    document = granted.vault.audit_proof(1).document
    entry = document["entry"] | {"sequence": sequence}
    with pytest.raises(IntegrityError):
        check_proof(json_bytes(document | {"entry": entry}), granted.vault.parts.root.fingerprint)


@pytest.mark.parametrize("spoiled", [b"", b"{}", b"[]", b'{"format": [1, 0], "type": "inclusion", "root": 3}'])
def test_what_is_no_proof_is_refused(spoiled: bytes) -> None:
    """A file that is no proof gets one sentence."""
    with pytest.raises(IntegrityError):
        check_proof(spoiled, "0" * 64)


def test_a_broker_cannot_read_what_it_wrote(granted: Lab) -> None:
    """Entries are sealed to the auditor: no other key of the vault opens them."""
    from vault import keyfile

    parts = granted.vault.parts
    with parts.catalog.read() as transaction:
        row = transaction.log_rows()[0]
    others = [*(granted.folder / "owner" / "keys").glob("*.json"), granted.folder / "broker" / "log.json"]
    opened = 0
    for path in others:
        secret = keyfile.read(path, "log key" if path.stem == "log" else f"{path.stem} key", None)
        try:
            Opener(parts.vault, [secret]).open(row.sealed)
            opened += 1
        except IntegrityError:
            assert path.stem != "auditor"
    assert opened == 1
