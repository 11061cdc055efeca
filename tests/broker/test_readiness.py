"""What a balancer and a service manager ask a broker: whether it lives, and whether it could serve."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from vault import access
from vault.broker import readiness
from vault.broker.readiness import Readiness


def _status(endpoint: str, page: str) -> int:
    return urllib3.request("GET", f"{endpoint}/{page}", timeout=10, retries=False).status


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_broker_without_its_store_lives_and_is_not_ready(granted: Lab) -> None:
    """Readiness goes and comes with the store; the answer is like any other refusal, and says nothing of what it was."""
    store, aside = granted.folder / "store", granted.folder / "aside"
    with broker(granted.folder) as endpoint:
        assert (_status(endpoint, "healthz"), _status(endpoint, "readyz")) == (200, 200)
        store.rename(aside)
        _until(lambda: _status(endpoint, "readyz") == 503)
        answer = urllib3.request("GET", f"{endpoint}/readyz")
        assert answer.headers["content-type"] == "application/problem+json"
        assert b"store" not in answer.data
        assert _status(endpoint, "healthz") == 200
        aside.rename(store)
        _until(lambda: _status(endpoint, "readyz") == 200)


@pytest.mark.parametrize(
    ("gone", "said"), [("catalog.db", "the catalog"), ("store/roots", "the store"), ("broker/kms", "the KMS")]
)
def test_each_thing_that_a_read_needs_is_looked_at(granted: Lab, gone: str, said: str) -> None:
    """The catalog, the pinned root document in the store, and the KMS: whatever is away is named, for the log."""
    parts = granted.broker_parts()
    assert access.missing(parts) == []
    place = granted.folder / gone
    place.rename(place.with_name("aside"))
    assert said in access.missing(parts)


def test_another_root_document_in_the_store_is_not_the_pinned_one(granted: Lab, tmp_path: Path) -> None:
    """A store that was exchanged for another vault's does not count as reachable."""
    parts = granted.broker_parts()
    vault.init(tmp_path / "other")
    (theirs,) = (tmp_path / "other" / "store" / "roots").iterdir()
    (first,) = (granted.folder / "store" / "roots").iterdir()
    theirs.replace(first)
    assert access.missing(parts) == ["the store"]


def test_a_look_opens_and_writes_nothing(granted: Lab) -> None:
    """However often it is asked, no data key is unwrapped and the log grows by nothing."""
    parts = granted.broker_parts()
    before = parts.journal.tree().size
    for _ in range(5):
        assert access.missing(parts) == []
    parts.catalog.settle()
    assert (parts.journal.tree().size, parts.keyring.counts.unwraps) == (before, 0)


def test_many_who_ask_cost_one_look() -> None:
    """Questions at one time share a look, and its answer counts for a while."""
    looks: list[int] = []
    now = [0.0]

    async def ask() -> None:
        ready = Readiness(lambda: looks.append(1) or (), lambda: now[0])
        assert all(await asyncio.gather(*(ready.is_ready() for _ in range(200))))
        assert await ready.is_ready()
        assert len(looks) == 1
        now[0] = 2.1
        assert await ready.is_ready()
        assert len(looks) == 2

    asyncio.run(ask())


def test_a_look_that_hangs_is_an_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready, within the time that there is, and one thread is held however many ask; it is ready again afterwards."""
    monkeypatch.setattr(readiness, "_WAIT_SECONDS", 0.05)
    looks: list[int] = []
    going = threading.Event()

    def look() -> tuple[str, ...]:
        looks.append(1)
        going.wait(20)
        return ()

    async def ask() -> None:
        ready = Readiness(look)
        async with asyncio.timeout(5):
            assert not any(await asyncio.gather(*(ready.is_ready() for _ in range(50))))
            assert not await ready.is_ready()
        assert len(looks) == 1
        going.set()
        async with asyncio.timeout(10):
            while not await ready.is_ready():
                await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_a_look_that_fails_in_an_unforeseen_way_is_not_ready() -> None:
    """What is not known to be there is missing; and the next look may find it."""
    found: list[BaseException | None] = [RuntimeError("secret"), None]
    now = [0.0]

    def look() -> tuple[str, ...]:
        error = found.pop(0)
        if error is not None:
            raise error
        return ()

    async def ask() -> None:
        ready = Readiness(look, lambda: now[0])
        assert not await ready.is_ready()
        now[0] = 5.0
        assert await ready.is_ready()

    asyncio.run(ask())
