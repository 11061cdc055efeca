"""The audit log: what is in it, and that changing it is found."""

import sqlite3

import pytest

from tests.conftest import Lab
from tests.support.reading import read
from vault.errors import IntegrityError, NotGranted


def _sql(lab: Lab, *statements: str) -> None:
    connection = sqlite3.connect(lab.folder / "catalog.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


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
        "update log set previous = zeroblob(32) where sequence = 4",
        "delete from log where sequence = 4",
        "delete from log where sequence = 1",
        "delete from log where sequence = (select max(sequence) from log)",
        "delete from log",
        "insert into log select sequence + 1, time, hash, sealed, hash from log order by sequence desc limit 1",
        "insert into log select 0, time, previous, sealed, hash from log where sequence = 1",
        "update log_tail set statement = zeroblob(100)",
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


def test_a_chain_made_anew_is_found(granted: Lab) -> None:
    """Dropping an entry and computing every later link again does not pass: the end is signed."""
    from vault.audit import GENESIS
    from vault.audit.chain import _hash

    connection = sqlite3.connect(granted.folder / "catalog.db")
    kept = connection.execute("select time, sealed from log where sequence <> 4 order by sequence").fetchall()
    connection.execute("delete from log")
    previous = GENESIS
    for sequence, (time, sealed) in enumerate(kept, 1):
        digest = _hash(granted.vault.parts.vault, sequence, time, previous, sealed)
        connection.execute("insert into log values (?, ?, ?, ?, ?)", (sequence, time, previous, sealed, digest))
        previous = digest
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def test_a_log_cut_back_to_an_earlier_signed_end_is_found(granted: Lab) -> None:
    """Rolling entries and the signed end back together contradicts the checkpoint in the store."""
    connection = sqlite3.connect(granted.folder / "catalog.db")
    (old,) = connection.execute("select statement from log_tail").fetchone()
    (count,) = connection.execute("select max(sequence) from log").fetchone()
    connection.close()
    granted.vault.freeze("acme")
    connection = sqlite3.connect(granted.folder / "catalog.db")
    connection.execute("delete from log where sequence > ?", (count,))
    connection.execute("update log_tail set statement = ?", (old,))
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def test_a_broker_cannot_read_what_it_wrote(granted: Lab) -> None:
    """Entries are sealed to the auditor: no other key of the vault opens them."""
    from vault import keyfile
    from vault.audit import open_entry

    parts = granted.vault.parts
    with parts.catalog.read() as transaction:
        row = transaction.log_rows()[0]
    others = [*(granted.folder / "owner" / "keys").glob("*.json"), granted.folder / "broker" / "log.json"]
    opened = 0
    for path in others:
        secret = keyfile.read(path, "log key" if path.stem == "log" else f"{path.stem} key", None)
        try:
            open_entry(row.sealed, parts.vault, secret)
            opened += 1
        except IntegrityError:
            assert path.stem != "auditor"
    assert opened == 1
