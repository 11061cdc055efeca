"""Changes that share a transaction, and connections that a broker keeps."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.support.postgres import postgres
from vault.catalog import Catalog, Transaction, open_catalog, schema
from vault.encoding import new_id
from vault.errors import Conflict, Unavailable
from vault.workings.recent import Recent

pytestmark = pytest.mark.both_catalogs

_LATER, _NOW = "2030-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z"


@pytest.fixture
def catalog(tmp_path: Path, catalog_url: str | None) -> Catalog:
    """A catalog of a vault, as a broker opens it."""
    url = postgres().make(catalog_url) if catalog_url else f"sqlite:///{tmp_path}/catalog.db"
    made = open_catalog(url, serving=True)
    made.create("v")
    return made


def _digest(number: int) -> bytes:
    return bytes([255]) + number.to_bytes(31, "big")


def _use(catalog: Catalog, number: int) -> bool:
    return catalog.submit(lambda transaction: transaction.use_proof(_digest(number), _LATER, _NOW))


def test_changes_of_many_threads_are_all_made_once(catalog: Catalog) -> None:
    """Of 400 changes by 16 threads, each is there on return, and each that comes twice is found out."""
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda number: _use(catalog, number), range(400)))
        assert not any(pool.map(lambda number: _use(catalog, number), range(400)))
        assert sorted(pool.map(lambda _: _use(catalog, 1000), range(32))) == [False] * 31 + [True]


def test_a_change_that_fails_takes_no_other_with_it(catalog: Catalog) -> None:
    """Where one of those that came together fails, it alone does, with its own error."""
    gate = threading.Event()

    def slow(transaction: Transaction) -> None:
        gate.wait(10)

    def failing(transaction: Transaction) -> None:
        transaction.use_proof(_digest(7777), _LATER, _NOW)
        raise Conflict("this one")

    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(catalog.submit, slow)
        others = [pool.submit(_use, catalog, number) for number in range(8)]
        wrong = pool.submit(catalog.submit, failing)
        gate.set()
        first.result(30)
        assert all(other.result(30) for other in others)
        with pytest.raises(Conflict, match="this one"):
            wrong.result(30)
    assert _use(catalog, 7777)


def test_a_change_within_a_change_is_refused_and_not_waited_for(catalog: Catalog) -> None:
    """It would wait for itself for ever."""
    with pytest.raises(Unavailable, match="within another"):
        catalog.submit(lambda _transaction: _use(catalog, 1))
    assert _use(catalog, 1)


def test_another_file_under_the_name_is_another_catalog(tmp_path: Path) -> None:
    """A broker that keeps connections sees what is in the file of now, and not in the one that was there."""
    catalog = open_catalog(f"sqlite:///{tmp_path}/catalog.db", serving=True)
    catalog.create("v")
    catalog.check("v")
    other = open_catalog(f"sqlite:///{tmp_path}/other.db")
    other.create("w")
    shutil.move(tmp_path / "other.db", tmp_path / "catalog.db")
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    catalog.check("w")


def test_what_is_held_is_bounded_in_weight_and_age() -> None:
    """Heavy values are not held, old ones are made anew, and nothing is that was made while all was cleared."""
    now = [0.0]
    recent: Recent[str] = Recent(32, 10, len, lambda: now[0])
    for number in range(40):
        recent.get(number, lambda: "ab")
    assert recent.get(39, lambda: "new") == "ab"
    assert recent.get(0, lambda: "new") == "new"
    heavy = [recent.get("heavy", new_id) for _ in range(2)]
    assert heavy[0] != heavy[1]
    now[0] = 10.5
    assert recent.get(39, lambda: "new") == "new"

    def clearing() -> str:
        recent.clear()
        return "c"

    recent.get("cleared", clearing)
    assert recent.get("cleared", lambda: "d") == "d"
    none: Recent[str] = Recent(32, 0)
    none.get("a", lambda: "a")
    assert none.get("a", lambda: "b") == "b"


def test_a_change_that_nobody_waits_for_goes_with_the_next_commit_or_by_itself(catalog: Catalog) -> None:
    """It is there after the next change of anybody, after `settle`, and otherwise some milliseconds later."""
    failed: list[BaseException] = []

    def soon(number: int) -> None:
        catalog.submit_soon(lambda transaction: transaction.use_proof(_digest(number), _LATER, _NOW), failed.append)

    def there(number: int) -> bool:
        query = select(schema.proofs.c.digest).where(schema.proofs.c.digest == _digest(number))
        with catalog.read() as transaction:
            return transaction.connection.execute(query).first() is not None

    soon(1)
    assert _use(catalog, 2)
    assert there(1)
    soon(3)
    catalog.settle()
    assert there(3)
    soon(4)
    deadline = time.monotonic() + 30
    while not there(4):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not failed


def test_a_change_that_nobody_waits_for_tells_its_own_failure_and_takes_no_other_with_it(catalog: Catalog) -> None:
    """Whoever waits for the same commit gets what was asked for."""
    failed: list[BaseException] = []

    def failing(_transaction: Transaction) -> None:
        raise Conflict("this one")

    catalog.submit_soon(failing, failed.append)
    assert _use(catalog, 1)
    assert [str(error) for error in failed] == ["this one"]
    assert not _use(catalog, 1)
