"""What the catalog says about whose a thing is, and what the store says about what is newest, is not believed."""

import shutil
from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.catalog import snapshot, sql
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.errors import Conflict, IntegrityError, InvalidInput, NotGranted, VaultError
from vault.owner import Vault
from vault.wire import Token

pytestmark = pytest.mark.both_catalogs


def _sql(lab: Lab, *statements: str) -> None:
    with sql(lab) as connection:
        for statement in statements:
            connection.execute(statement)


def _vendor(lab: Lab, name: str) -> str:
    return next(vendor.id for vendor in lab.vault.vendors() if vendor.name == name)


def _serve(lab: Lab, token: Token) -> int:
    """Rows that a freshly started broker serves."""
    parts = lab.broker_parts()
    return read(parts, access.authenticate(parts, token, "test")).num_rows


@pytest.fixture
def assigned(cast: Callable[..., Lab]) -> Lab:
    """A dataset whose rows are assigned: nine to acme and one to globex, both granted."""
    return cast(_assigned)


def _assigned(opened: Vault) -> None:
    opened.publish("d", pa.table({"n": range(10), "who": ["acme"] * 9 + ["globex"]}), assign_by="who")
    for vendor in ("acme", "globex"):
        opened.grant(vendor, "d", ["n"])


def _swap_compartments(lab: Lab) -> None:
    acme, globex = _vendor(lab, "acme"), _vendor(lab, "globex")
    _sql(
        lab,
        f"update compartments set holder = 'x' where holder = '{acme}'",
        f"update compartments set holder = '{acme}' where holder = '{globex}'",
        f"update compartments set holder = '{globex}' where holder = 'x'",
    )


def test_swapped_compartments_are_found_out(assigned: Lab) -> None:
    """One vendor's rows are not written into another's compartment because the catalog says that they are its."""
    _swap_compartments(assigned)
    more = pa.table({"n": range(10), "who": ["acme"] * 9 + ["globex"]})
    with pytest.raises(IntegrityError, match="another holder's"):
        assigned.vault.publish("d", more)
    parts = assigned.broker_parts()
    with pytest.raises(IntegrityError):
        read(parts, assigned.caller(parts, "globex"), "d")
    assert not assigned.vault.check().ok
    with pytest.raises(IntegrityError):
        assigned.vault.gc()


def test_an_old_head_under_a_high_number_hides_nothing(granted: Lab) -> None:
    """A copy of a head under a number that is not its own is refused, and does not hide a later revocation."""
    acme = _vendor(granted, "acme")
    token = granted.vault.issue_credential("acme", bearer=True).profile.token
    put_back = snapshot(granted)
    folder = granted.folder / "store" / "heads" / acme
    shutil.copyfile(max(folder.iterdir()), folder / ("9" * 20))
    fresh = Vault(granted.folder, granted.vault.parts)
    with pytest.raises(VaultError):
        _serve(granted, token)
    (folder / ("9" * 20)).unlink()
    fresh.revoke(fresh.grants()[0].grant.id)
    (granted.folder / "store" / "checkpoints").rename(granted.folder / "gone")
    put_back()
    with pytest.raises(IntegrityError, match="rolled back"):
        _serve(granted, token)


def test_an_object_in_the_way_of_a_head_is_told(granted: Lab) -> None:
    """A freeze whose head cannot reach the store says so; it is in force all the same."""
    acme = _vendor(granted, "acme")
    folder = granted.folder / "store" / "heads" / acme
    newest = max(folder.iterdir())
    shutil.copyfile(newest, folder / f"{int(newest.name) + 1:020d}")
    with pytest.raises(IntegrityError, match="stands where a head belongs"):
        granted.vault.freeze("acme")
    assert [vendor.frozen for vendor in granted.vault.vendors() if vendor.name == "acme"] == [True]


def test_gc_takes_nothing_when_the_catalog_lost_something(granted: Lab) -> None:
    """Compartments that the store knows and the catalog lacks are a fault; gc refuses and check says so."""
    _sql(granted, "delete from compartments")
    before = sorted(granted.folder.rglob("objects/*/*"))
    with pytest.raises(IntegrityError, match="nothing was removed"):
        granted.vault.gc(timedelta(0))
    assert sorted(granted.folder.rglob("objects/*/*")) == before
    assert not granted.vault.check().ok


def test_a_read_does_not_vanish_with_the_catalog_put_back(granted: Lab) -> None:
    """The catalog of before a read contradicts the broker's checkpoint: neither side opens it."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    put_back = snapshot(granted)
    assert read(parts, caller).num_rows == 50
    access.settle(parts)
    put_back()
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()
    with pytest.raises(IntegrityError, match="checkpoint"):
        granted.broker_parts()
    import vault

    with pytest.raises(IntegrityError, match="checkpoint"):
        vault.open(granted.folder)


@pytest.mark.parametrize(
    "statement",
    [
        "update heads set body = x'7b7d' where kind = 'vendor'",
        "update grants set vendor_statement = x'00'",
        "update grants set statement = x'00'",
        "delete from grants",
        "update credentials set statement = x'00'",
        "delete from credentials",
        "update holders set own_name = x'00'",
        "update holders set name = x'00'",
        "update datasets set settings = x'00'",
        "update versions set statement = x'00'",
    ],
)
def test_check_looks_at_everything_that_is_signed_or_sealed(granted: Lab, statement: str) -> None:
    """Heads, grants, credentials, names and settings that were changed are faults."""
    granted.vault.issue_credential("acme")
    assert granted.vault.check().ok
    _sql(granted, statement)
    assert not granted.vault.check().ok


def test_a_rekey_reaches_keys_that_nothing_is_under(granted: Lab) -> None:
    """After revoke, gc and rekey, in any order, a later grant writes under none of the keys of before."""
    parts = granted.vault.parts
    with parts.catalog.read() as transaction:
        acme = next(row for row in transaction.compartments() if row.holder == _vendor(granted, "acme"))
        before = {key.key_id for key in transaction.keys(acme.id)}
    granted.vault.revoke(granted.vault.grants()[0].grant.id)
    granted.vault.gc(timedelta(0))
    granted.vault.rekey(vendor="acme")
    granted.vault.gc(timedelta(0))
    granted.vault.grant("acme", "evals", ["id", "prompt", "lang"])
    with parts.catalog.read() as transaction:
        after = {key.key_id for key in transaction.keys(acme.id)}
    assert not before & after
    broker = granted.broker_parts()
    assert read(broker, granted.caller(broker, "acme")).num_rows == 100
    report = granted.vault.check()
    assert (report.faults, report.garbage) == ([], [])


def test_a_forgotten_option_does_not_open_the_rows(assigned: Lab) -> None:
    """Publishing again without --assign-by keeps it; ending it must be said."""
    more = pa.table({"n": range(10), "who": ["acme"] * 3 + ["globex"] * 7})
    assigned.vault.publish("d", more)
    parts = assigned.broker_parts()
    assert read(parts, assigned.caller(parts, "acme"), "d")["n"].to_pylist() == [0, 1, 2]
    with pytest.raises(InvalidInput, match="--no-assign-by"):
        assigned.vault.publish("d", more.drop_columns("who"))
    assigned.vault.publish("d", more, assign_by="")
    parts = assigned.broker_parts()
    assert read(parts, assigned.caller(parts, "acme"), "d").num_rows == 10


def test_rows_that_went_to_another_vendor_leave_the_first(assigned: Lab) -> None:
    """A vendor's compartment keeps the version that is served only: reassigned rows do not stay under its keys."""
    assigned.vault.publish("d", pa.table({"n": range(10), "who": ["acme"] * 3 + ["globex"] * 7}))
    assigned.vault.gc(timedelta(0))
    parts = assigned.vault.parts
    with parts.catalog.read() as transaction:
        for row in transaction.compartments():
            head = parts.heads.compartment_in(transaction, row)
            assert head is not None
            assert set(head.versions) == ({1, 2} if row.holder == parts.owner else {2})
    assert assigned.vault.check().garbage == []


def test_a_vendor_with_no_rows_reads_none(lab: Lab) -> None:
    """A grant on a dataset that has no row for the vendor is an empty table, and bricks nothing."""
    table = pa.table({"n": range(5), "who": ["acme"] * 5})
    lab.vault.publish("d", table, assign_by="who")
    lab.vault.grant("globex", "d", ["n"])
    for _ in range(2):
        parts = lab.broker_parts()
        assert read(parts, lab.caller(parts, "globex"), "d").equals(table.select(["n"]).slice(0, 0))
        lab.vault.publish("d", table, append=True)
        lab.vault.rekey()
        lab.vault.gc(timedelta(0))
        assert lab.vault.check().faults == []


def test_a_column_is_not_asked_for_twice(granted: Lab) -> None:
    """A request that names a column twice is bad input."""
    parts = granted.broker_parts()
    with pytest.raises(InvalidInput, match="named twice"):
        read(parts, granted.caller(parts, "acme"), columns=("id", "id"))


def test_a_predicate_that_cannot_be_read_is_logged(granted: Lab) -> None:
    """Probing with malformed predicates leaves entries like every other refusal."""
    from vault.policy import Request

    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    with pytest.raises(InvalidInput):
        access.open_delivery(parts, caller, Request("evals"), "1=1; drop table x")
    refused = [entry for _, entry in granted.vault.audit_entries() if entry.kind.value == "request refused"]
    assert refused[-1].fields["reason"] == "InvalidInput"


def test_a_stream_ends_with_its_credential(granted: Lab) -> None:
    """A permit ends no later than the credential that it was given to."""
    import time

    from vault.policy import Request

    token = granted.vault.issue_credential("acme", expires=timedelta(seconds=4), bearer=True).profile.token
    parts = granted.broker_parts()
    caller = access.authenticate(parts, token, "test")
    delivery = access.open_delivery(parts, caller, Request("evals"))
    assert next(delivery.batches).num_rows > 0
    time.sleep(4.1)
    with pytest.raises(NotGranted, match="expired"):
        list(delivery.batches)


def test_two_publishers_of_one_new_dataset_end_in_one(lab: Lab) -> None:
    """The second of two that make a dataset at once gets Conflict, and the first is whole."""

    def batches() -> object:
        lab.vault.publish("new", rows(3))
        yield from rows(5).to_batches()

    with pytest.raises(Conflict):
        lab.vault.publish("new", pa.RecordBatchReader.from_batches(rows(1).schema, batches()))
    assert lab.vault.scan("new").read_all().equals(rows(3))
