"""Whoever writes the catalog cannot choose under which KMS key anything is."""

import pytest

import vault
from tests.conftest import Lab
from tests.support.catalog import sql
from tests.support.reading import read
from tests.support.tables import rows
from vault.catalog import schema
from vault.errors import IntegrityError, KmsError, VaultError
from vault.kms import KeyState

pytestmark = pytest.mark.both_catalogs


def _keys(lab: Lab) -> dict[str, str]:
    return {each.holder: each.key for each in lab.vault.kms_keys()}


def test_a_data_key_under_another_kms_key_is_a_fault(granted: Lab) -> None:
    """A row that names another KMS key does not open, and check names it."""
    keys = _keys(granted)
    with sql(granted) as connection:
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
    with sql(granted) as connection:
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
    with sql(granted) as connection:
        holders = connection.execute("select * from holders").fetchall()
        data_keys = connection.execute("select * from keys").fetchall()
    granted.vault.rewrap("acme", disable_old=True)
    with sql(granted) as connection:
        for table, place, old in (("holders", 1, holders), ("keys", 3, data_keys)):
            columns = [column.name for column in schema.metadata.tables[table].columns]
            taken = ", ".join(f"{name} = excluded.{name}" for name in columns[place:])
            marks = ",".join("?" * len(columns))
            statement = f"insert into {table} values ({marks}) on conflict ({', '.join(columns[:place])})"
            connection.executemany(f"{statement} do update set {taken}", old)
    parts = granted.broker_parts()
    with pytest.raises(KmsError):
        read(parts, granted.caller(parts, "acme"))
    with pytest.raises(VaultError):
        granted.vault.rekey("acme")
    assert not granted.vault.check().ok


def test_the_owners_compartment_cannot_be_slipped_to_a_vendor(granted: Lab) -> None:
    """With the owner's compartment put down as acme's, neither rewrap, policy nor offboarding takes its keys for acme's."""
    people = {each.holder: each.id for each in granted.vault.kms_keys()}
    with sql(granted) as connection:
        connection.execute("update compartments set dataset = ? where holder = ?", ("0" * 32, people["acme"]))
        connection.execute("update compartments set holder = ? where holder = ?", (people["acme"], people["owner"]))
        before = connection.execute("select * from keys order by compartment, column_group").fetchall()
    for act in (
        lambda: granted.vault.rewrap("acme"),
        lambda: granted.vault.privileges("acme"),
        lambda: granted.vault.offboard("acme"),
    ):
        with pytest.raises(IntegrityError):
            act()
    with sql(granted) as connection:
        assert connection.execute("select * from keys order by compartment, column_group").fetchall() == before
    assert all(each.state is KeyState.ENABLED for each in granted.vault.kms_keys())


def test_a_row_that_only_says_that_it_moved_is_moved(granted: Lab) -> None:
    """Rows that name the successor over a blob of the old key are found before the old key is disabled."""
    (ready,) = granted.vault.rewrap("owner", prepare=True)
    with sql(granted) as connection:
        connection.execute(
            "update keys set kms_key = ? where kms_key = ? and column_group != 'metadata'", (ready.new, ready.old)
        )
    (done,) = granted.vault.rewrap("owner", disable_old=True)
    assert done.keys > 0
    assert vault.open(granted.folder).scan("evals").read_all().num_rows == 100
