"""A vault on servers that are killed while it is read, published and rekeyed, and the model that it is held to.

Batches of rows are appended under numbers. Whoever appends is told that it is done, or gets an error after which it may
have been done or not. So the model knows of each batch whether it has to be there, or may; and what is read at any time
has to be the rows of one version, whole.
"""

import functools
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import vault
from tests.support.bare import bare_broker
from tests.support.brokers import running_broker
from tests.support.deployed import Cluster, cluster, spoken_of
from tests.support.postgres import Postgres
from tests.support.relay import Balancer
from vault import client
from vault.errors import VaultError
from vault.owner import Vault

__all__ = ["VICTIMS", "Scene", "scene"]

VICTIMS = ("one broker", "the other broker", "PostgreSQL", "SeaweedFS")
_ROWS, _SHARD = 4000, 1000
_COLUMNS = ["id", "batch", "text"]


@functools.cache
def batch(number: int) -> pa.Table:
    """The rows that are appended under a number."""
    ids = range(number * _ROWS, (number + 1) * _ROWS)
    texts = [f"{number}-{each:08d}" * 8 for each in ids]
    return pa.table({"id": list(ids), "batch": [number] * _ROWS, "text": texts})


@dataclass
class _Broker:
    """One that can be killed, and comes back at its port."""

    place: Path
    environment: dict[str, str]
    log: Path
    port: int = 0
    url: str = ""
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: Any = None

    def start(self) -> None:
        self._stack = ExitStack()
        running = running_broker(self.place, port=self.port, environment=self.environment, log=self.log)
        self.url, self._process = self._stack.enter_context(running)
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)
        self._stack.close()
        assert "Traceback" not in self.log.read_text()

    def stop(self) -> None:
        self._stack.close()
        assert "Traceback" not in self.log.read_text()


def _kill_postgres(server: Postgres) -> None:
    """End the server's first process at once, as a power cut would; the others see that and end."""
    process = int((server.folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(process, signal.SIGKILL)


def _until(true: Callable[[], bool], what: Callable[[], str], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, what()
        time.sleep(0.1)


@dataclass
class Scene:
    """The vault, its brokers, what is done to them at one time, and what came of it."""

    servers: Cluster
    folder: Path
    lab: Vault
    profile: Path
    brokers: list[_Broker]
    done: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    reads: list[frozenset[int]] = field(default_factory=list)
    rekeys: int = 0
    troubles: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    # What goes on all the time

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within it two vendors' processes read, and the lab publishes and rekeys, whatever happens."""
        self._over.clear()
        acts = (self._read, self._read, self._publish, self._rekey)
        threads = [threading.Thread(target=self._again, args=(act,), daemon=True) for act in acts]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._over.set()
            for each in threads:
                each.join(180)
        assert not any(each.is_alive() for each in threads), "an act did not come to an end"
        assert not self.failures, self.failures

    def _again(self, act: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                act()
            except VaultError as error:
                # One clear sentence; what it is about is for who reads the record.
                sentence = str(error)
                if not sentence or "\n" in sentence or "Traceback" in sentence:
                    self.failures.append(error)
                self.troubles.append(f"{type(error).__name__}: {sentence}")
                time.sleep(0.2)
            except BaseException as error:  # whatever it is, it is no answer to anybody
                self.failures.append(error)
                return

    def _read(self) -> None:
        table = client.connect(self.profile).dataset("evals").to_arrow(columns=_COLUMNS)
        self.reads.append(self._batches(table))
        time.sleep(0.2)

    def _batches(self, table: pa.Table) -> frozenset[int]:
        """Which batches a table is made of; each has to be there whole, once and unchanged."""
        found = frozenset(pc.unique(table["batch"]).to_pylist())
        expected = pa.concat_tables([batch(number) for number in sorted(found)])
        assert table.sort_by("id").equals(expected), "wrong rows were read"
        return found

    def _publish(self) -> None:
        number = len(self.done) + len(self.unsure) + 1
        # From here on it may be there.
        self.unsure.add(number)
        vault.open(self.folder / "lab").publish("evals", batch(number), append=True, shard_rows=_SHARD)
        self.unsure.discard(number)
        self.done.add(number)
        # Every version makes each rekey, and each look at all versions, longer.
        time.sleep(1.5)

    def _rekey(self) -> None:
        vault.open(self.folder / "lab").rekey(vendor="acme")
        self.rekeys += 1
        # A rekey moves all versions, and takes up what others add; a publisher that meets its end begins again.
        time.sleep(3)

    # What is done to it

    def kill(self, victim: str) -> None:
        """Kill one with -9 in the midst of it, and bring it back a little later."""
        number = VICTIMS.index(victim)
        if number < 2:
            self.brokers[number].kill()
            time.sleep(random.uniform(0.2, 1.5))
            self.brokers[number].start()
        elif victim == "PostgreSQL":
            _kill_postgres(self.servers.postgres)
            time.sleep(random.uniform(0.2, 1.5))
            self._start_postgres()
        else:
            self.servers.seaweed.kill()
            time.sleep(random.uniform(0.2, 1.5))
            self.servers.seaweed.start()

    def _start_postgres(self) -> None:
        """It does not start while processes of before hold its memory."""

        def started() -> bool:
            try:
                self.servers.postgres.run()
            except Exception:
                return False
            return True

        _until(started, lambda: "PostgreSQL did not start again")

    def goes_on(self) -> None:
        """Wait until rows were read, a batch was published and a rekey came to its end, all of it since now."""
        reads, done, rekeys = len(self.reads), len(self.done), self.rekeys

        def went_on() -> bool:
            return bool(self.failures) or (
                len(self.reads) > reads + 1 and len(self.done) > done and self.rekeys > rekeys
            )

        def stood() -> str:
            counts = f"{len(self.reads) - reads} reads, {len(self.done) - done} batches, {self.rekeys - rekeys} rekeys"
            return f"not everything went on: {counts}; last errors: {self.troubles[-6:]}"

        _until(went_on, stood, 300)

    # What has to hold afterwards

    def holds(self) -> None:
        """Nothing is lost and nothing is there twice, versions are linear, and all that is kept is whole."""
        lab = vault.open(self.folder / "lab")
        versions = sorted(each.version for each in lab.show("evals").versions)
        assert versions == list(range(1, len(versions) + 1))
        history = [self._batches(lab.scan("evals", version=each).read_all()) for each in versions]
        assert history[0] == {0}
        for earlier, later in itertools.pairwise(history):
            assert earlier < later, "a version lost a batch, or was made twice"
            assert len(later - earlier) == 1
        assert self.done <= history[-1], "a batch that was published is not there"
        assert history[-1] <= self.done | self.unsure | {0}
        assert set(self.reads) <= set(history), "rows of no version were read"
        assert self._batches(client.connect(self.profile).dataset("evals").to_arrow(columns=_COLUMNS)) == history[-1]
        lab.rekey(vendor="acme")
        report = lab.check()
        assert report.ok, report
        assert lab.audit_verify() > 0
        assert lab.unrecorded() == []


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """A lab on servers of its own, with the vendor acme and two brokers behind a balancer."""
    with ExitStack() as stack:
        servers = stack.enter_context(cluster())
        stack.enter_context(spoken_of(servers))
        lab = vault.init(folder / "lab", **servers.places())
        lab.add_vendor("acme")
        lab.publish("evals", batch(0), key="id", shard_rows=_SHARD)
        lab.grant("acme", "evals", _COLUMNS)
        balancer = stack.enter_context(Balancer([]))
        brokers = []
        for number in (1, 2):
            place = folder / f"broker-{number}"
            environment = {**bare_broker(lab.folder, place), "DSVAULT_SERVE_ENDPOINT": balancer.url}
            broker = _Broker(place, environment, folder / f"broker-{number}.log")
            broker.start()
            stack.callback(broker.stop)
            balancer.targets.append(broker.url)
            brokers.append(broker)
        profile = folder / "acme.json"
        lab.issue_credential("acme", endpoint=balancer.url).save(profile)
        yield Scene(servers, folder, lab, profile, brokers)
