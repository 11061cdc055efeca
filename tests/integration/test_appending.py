"""Several processes append to one log: nothing is lost, doubled or out of order, on SQLite and on PostgreSQL."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vault
from tests.support.postgres import postgres
from vault.audit import Kind
from vault.errors import AuditError

_APPENDING = """
import sys, vault
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from vault.audit import Kind
from vault.deployment import open_broker
folder, process = sys.argv[1:]
parts, _ = open_broker(Path(folder))
def write(thread):
    who = f"{process}-{thread}"
    return [parts.journal.record(Kind.REFUSED, who=who, number=number) for number in range(25)]
with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(write, range(4)))
assert all(each == sorted(each) for each in found)
parts.journal.settle()
parts.catalog.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[vault.owner.Vault]:
    """A vault on either kind of catalog."""
    catalog = postgres().database() if request.param == "postgresql" else None
    made = vault.init(tmp_path / "lab", catalog=catalog)
    yield made
    made.parts.catalog.close()


def test_entries_of_several_processes_are_all_there_and_in_order(lab: vault.owner.Vault) -> None:
    """Three processes of four threads each append; the log verifies, and holds every thread's entries in its order."""
    command = [sys.executable, "-c", _APPENDING, str(lab.folder)]
    running = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    found: dict[str, list[int]] = {}
    for _, entry in lab.audit_entries():
        if entry.kind is Kind.REFUSED:
            found.setdefault(entry.fields["who"], []).append(entry.fields["number"])
    assert len(found) == 12
    assert all(numbers == list(range(25)) for numbers in found.values())
    assert lab.audit_verify() == len(lab.audit_entries())


def test_a_log_without_its_database_takes_nothing(lab: vault.owner.Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that cannot be written is an error, and the log afterwards is as it was before."""
    before = lab.audit_verify()

    def failing(*_arguments: object) -> None:
        from sqlalchemy.exc import OperationalError

        raise OperationalError("insert", {}, Exception("disk full"))

    with monkeypatch.context() as patched:
        patched.setattr("vault.catalog.transaction.Transaction.append_log", failing)
        with pytest.raises(AuditError, match="so nothing was done"):
            lab.parts.journal.record(Kind.REFUSED)
    assert lab.audit_verify() == before
    assert lab.parts.journal.record(Kind.REFUSED) == before + 1
