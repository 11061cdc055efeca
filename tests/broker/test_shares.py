"""No vendor's reads keep another's from beginning, however many there are and however long each takes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pytest
import urllib3
import uvicorn

from tests.conftest import Lab
from vault import access
from vault.broker import create_app
from vault.broker.shares import Shares
from vault.errors import Unavailable


def test_a_vendor_has_no_more_than_its_share() -> None:
    """Beyond its share a vendor waits, in the order of asking; another one does not wait."""

    async def story() -> list[str]:
        shares, order = Shares(2), []
        await shares.take("acme")
        await shares.take("acme")
        assert not shares.take_now("acme")
        assert shares.take_now("globex")

        async def wait(name: str) -> None:
            await shares.take("acme")
            order.append(name)

        waiting = [asyncio.create_task(wait(name)) for name in "abc"]
        await asyncio.sleep(0)
        for _ in range(3):
            shares.give("acme")
            await asyncio.sleep(0.01)
        await asyncio.gather(*waiting)
        for _ in range(2):
            shares.give("acme")
        shares.give("globex")
        assert not shares._taken
        assert not shares._waiting
        return order

    assert asyncio.run(story()) == ["a", "b", "c"]


def test_who_waits_too_long_or_goes_away_takes_nothing_with_it() -> None:
    """A waiting request that times out or is cancelled, also as its turn comes, loses nobody's place."""

    async def story() -> None:
        shares = Shares(1)
        await shares.take("acme")
        with pytest.raises(Unavailable):
            await shares.take("acme", 0.01)
        gone = asyncio.create_task(shares.take("acme"))
        late = asyncio.create_task(shares.take("acme"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        shares.give("acme")  # to the one behind, which is cancelled before it hears of it
        late.cancel()
        await asyncio.gather(gone, late, return_exceptions=True)
        await asyncio.wait_for(shares.take("acme"), 1)
        shares.give("acme")
        assert not shares._taken

    asyncio.run(story())


@contextmanager
def _broker_here(lab: Lab) -> Iterator[str]:
    """A broker in a thread of this process, where its parts can be replaced; its base URL."""
    parts = lab.broker_parts()
    server = uvicorn.Server(uvicorn.Config(create_app(parts), port=0, log_config=None, backlog=100))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


class _Stuck:
    """Reads of one vendor that make no progress until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vendor: str) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        opening = access.open_delivery

        def open_slowly(parts: object, who: access.Arrival, *arguments: object, **options: object) -> object:
            if who.caller.vendor == vendor:
                self.begun.release()
                assert self.go_on.wait(60)
            return opening(parts, who, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(access, "open_delivery", open_slowly)


@pytest.fixture
def stuck(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Stuck]:
    """A broker in which acme's reads are stuck."""
    (vendor,) = [state.id for state in granted.vault.vendors() if state.name == "acme"]
    found = _Stuck(monkeypatch, vendor)
    yield found
    found.go_on.set()


def test_a_vendor_that_scans_sixty_times_at_once_keeps_nobody_waiting(granted: Lab, stuck: _Stuck) -> None:
    """While sixty reads of one vendor make no progress, another's is answered, and so is the broker's health."""
    lab = granted.vault
    if "globex" not in {state.name for state in lab.vendors()}:
        lab.add_vendor("globex")
    lab.grant("globex", "evals", columns=["id"])
    tokens = {name: lab.issue_credential(name, bearer=True).profile.token for name in ("acme", "globex")}
    with _broker_here(granted) as address, ThreadPoolExecutor(60) as asking:
        pool = urllib3.PoolManager(maxsize=70, block=False)

        def read(vendor: str) -> int:
            headers = {"Authorization": tokens[vendor].header(), "Content-Type": "application/json"}
            body = b'{"columns": ["id"]}'
            answer = pool.request(
                "POST", f"{address}/v1/datasets/evals/read", body=body, headers=headers, retries=False
            )
            if answer.status == 200:
                return int(pa.ipc.open_stream(answer.data).read_all().num_rows)
            return -answer.status

        slow = [asking.submit(read, "acme") for _ in range(60)]
        assert stuck.begun.acquire(timeout=30)
        assert pool.request("GET", f"{address}/healthz", timeout=10, retries=False).status == 200
        assert read("globex") == 100
        assert not any(each.done() for each in slow)
        stuck.go_on.set()
        assert {each.result(60) for each in slow} == {50}
