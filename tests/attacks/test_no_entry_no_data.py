"""Where the log cannot be written nothing leaves: not as a stream, not as a lease, and not to the owner either."""

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from sqlalchemy import event

from tests.conftest import Lab
from tests.support.brokers import running_broker
from tests.support.catalog import sql
from vault import access
from vault.audit import Kind
from vault.catalog import postgresql, sqlite
from vault.errors import VaultError
from vault.owner import Vault
from vault.policy import Request
from vault.workings import reading
from vault.workings.parts import Parts

_Asking = Callable[[], int]
_BEGINNINGS = {"stream": Kind.READ_BEGUN, "lease": Kind.LEASED, "owner": Kind.OWNER_READ}
_DELIVERIES = pytest.mark.parametrize("delivery", list(_BEGINNINGS))


@pytest.fixture
def leasable(cast: Callable[..., Lab]) -> Lab:
    """100 rows that acme may have as a stream or as a lease."""
    return cast(_leasable, "published")


def _leasable(opened: Vault) -> None:
    opened.grant("acme", "evals", ["id", "prompt"], delivery="lease")


def _asking(lab: Lab, parts: Parts, delivery: str) -> _Asking:
    """How the data is asked for; the rows that came of it."""
    if delivery == "owner":
        return lambda: int(lab.vault.scan("evals").read_all().num_rows)
    caller = lab.caller(parts, "acme")
    if delivery == "stream":
        return lambda: sum(
            batch.num_rows for batch in access.open_delivery(parts, caller, Request("evals", limit=5)).batches
        )
    return lambda: len(access.lease_page(parts, caller, Request("evals", lease=True)).shards)


def _begun(lab: Lab, delivery: str) -> int:
    """How many deliveries of this kind the log knows."""
    return sum(entry.kind is _BEGINNINGS[delivery] for _, entry in lab.vault.audit_entries())


@contextmanager
def _full(catalog: Path, parts: Parts) -> Iterator[None]:
    """A database that may not become larger than it is, as on a disk that is full."""
    connection = sqlite3.connect(catalog)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()

    def small(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    pool = parts.catalog._engine
    event.listen(pool, "connect", small)
    pool.dispose()
    try:
        yield
    finally:
        event.remove(pool, "connect", small)
        pool.dispose()


@_DELIVERIES
def test_a_full_disk_serves_nothing(leasable: Lab, delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is room to write down is served, and nothing beyond; with room again, it goes on."""
    parts = leasable.vault.parts if delivery == "owner" else leasable.broker_parts()
    ask = _asking(leasable, parts, delivery)
    assert ask() > 0
    served, before = 0, _begun(leasable, delivery)
    with _full(leasable.folder / "catalog.db", parts):
        for _ in range(100):
            try:
                assert ask() > 0
            except VaultError:
                break
            served += 1
        else:
            raise AssertionError("the database never became full")
        fetched = _no_chunks(parts, monkeypatch)
        with pytest.raises(VaultError):
            ask()
        assert fetched == []
    monkeypatch.undo()
    assert _begun(leasable, delivery) == before + served
    assert ask() > 0


def _no_chunks(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is decoded from here on."""
    found: list[str] = []
    real = reading.decode

    def decode(*arguments: Any) -> Any:
        found.append("a chunk")
        return real(*arguments)

    monkeypatch.setattr(reading, "decode", decode)
    parts.lately.clear()
    return found


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@contextmanager
def _locked(lab: Lab) -> Iterator[None]:
    """Another process is writing, and does not end."""
    if lab.vault.parts.catalog.url.startswith("postgresql"):
        with sql(lab) as connection:
            connection.execute("select * from log_tail for update")
            yield
        return
    catalog = lab.folder / "catalog.db"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate("\n", timeout=10)


@pytest.mark.both_catalogs
@_DELIVERIES
def test_a_locked_database_serves_nothing(leasable: Lab, delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the time to wait is over there is an error, and no row; with the lock gone, it goes on."""
    for each in (sqlite, postgresql):
        monkeypatch.setattr(each, "BUSY_SECONDS", 0.3)
    parts = leasable.vault.parts if delivery == "owner" else leasable.broker_parts()
    ask = _asking(leasable, parts, delivery)
    assert ask() > 0
    before = _begun(leasable, delivery)
    with monkeypatch.context() as patch, _locked(leasable):
        fetched = _no_chunks(parts, patch)
        with pytest.raises(VaultError):
            ask()
        assert fetched == []
    assert _begun(leasable, delivery) == before
    assert ask() > 0


@_DELIVERIES
def test_without_the_catalog_nothing_is_served(leasable: Lab, delivery: str) -> None:
    """Also where a moment ago it was there, and an empty one comes in its place."""
    parts = leasable.vault.parts if delivery == "owner" else leasable.broker_parts()
    ask = _asking(leasable, parts, delivery)
    assert ask() > 0
    parts.journal.settle()
    before = _begun(leasable, delivery)
    catalog = leasable.folder / "catalog.db"
    files = [path for path in leasable.folder.iterdir() if path.name.startswith("catalog.db")]
    for path in files:
        path.rename(path.with_name(f"gone-{path.name}"))
    with pytest.raises(VaultError):
        ask()
    sqlite3.connect(catalog).close()
    with pytest.raises(VaultError):
        ask()
    for path in leasable.folder.glob("catalog.db*"):
        path.unlink()
    for path in files:
        path.with_name(f"gone-{path.name}").rename(path)
    assert _begun(leasable, delivery) == before
    assert ask() > 0


def test_a_broker_that_cannot_write_a_file_serves_nothing(leasable: Lab) -> None:
    """As the system itself says it, to a real broker: 503 for whoever asks, and no row."""
    token = leasable.vault.issue_credential("acme", bearer=True).profile.token.header()

    def ask(delivery: str) -> tuple[int, bytes]:
        url = f"{endpoint}/v1/datasets/evals/{delivery}"
        answered = urllib3.request("POST", url, json={}, headers={"Authorization": token}, retries=False)
        return answered.status, answered.data

    with running_broker(leasable.folder) as (endpoint, process):
        assert [ask(delivery)[0] for delivery in ("read", "lease")] == [200, 200]
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))
        refused = [ask(delivery) for delivery in ("read", "lease")]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        assert [status for status, _ in refused] == [503, 503]
        assert all(len(body) < 300 for _, body in refused)
        assert [ask(delivery)[0] for delivery in ("read", "lease")] == [200, 200]
    assert (_begun(leasable, "stream"), _begun(leasable, "lease")) == (2, 2)
