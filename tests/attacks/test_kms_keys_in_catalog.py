"""Whoever writes the catalog cannot choose under which KMS key anything is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import rows
from vault.errors import IntegrityError, KmsError, VaultError


@contextmanager
def _sql(lab: Lab) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(lab.folder / "catalog.db")) as connection:
        yield connection
        connection.commit()


def _keys(lab: Lab) -> dict[str, str]:
    return {each.holder: each.key for each in lab.vault.kms_keys()}


def test_a_data_key_under_another_kms_key_is_a_fault(granted: Lab) -> None:
    """A row that names another KMS key does not open, and check names it."""
    keys = _keys(granted)
    with _sql(granted) as connection:
        changed = connection.execute(
            "update keys set kms_key = ? where kms_key = ? and column_group = 'manifest'",
            (keys["globex"], keys["acme"]),
        )
        assert changed.rowcount == 1
    parts = granted.broker_parts()
    with pytest.raises(KmsError):
        read(parts, granted.caller(parts, "acme"))
    assert any("another KMS key" in fault for fault in granted.vault.check().faults)


def test_a_holders_kms_key_cannot_be_chosen(granted: Lab) -> None:
    """A holder's row with another vendor's KMS key is refused before anything is wrapped under it."""
    keys = _keys(granted)
    with _sql(granted) as connection:
        connection.execute("update holders set kms_key = ? where kms_key = ?", (keys["globex"], keys["acme"]))
    for act in (
        lambda: granted.vault.rewrap("acme"),
        lambda: granted.vault.rekey("acme"),
        lambda: granted.vault.publish("evals", rows(5), key="id"),
        lambda: granted.vault.offboard("acme"),
    ):
        with pytest.raises(IntegrityError):
            act()


def test_rows_of_before_a_rewrap_bring_nothing_back(granted: Lab) -> None:
    """With holder and data keys of before put back and the old KMS key disabled, nothing opens and nothing is written."""
    with _sql(granted) as connection:
        holders = connection.execute("select * from holders").fetchall()
        data_keys = connection.execute("select * from keys").fetchall()
    granted.vault.rewrap("acme", disable_old=True)
    with _sql(granted) as connection:
        for table, old in (("holders", holders), ("keys", data_keys)):
            marks = ",".join("?" * len(old[0]))
            connection.executemany(f"insert or replace into {table} values ({marks})", old)
    parts = granted.broker_parts()
    with pytest.raises(KmsError):
        read(parts, granted.caller(parts, "acme"))
    with pytest.raises(VaultError):
        granted.vault.rekey("acme")
    assert not granted.vault.check().ok
