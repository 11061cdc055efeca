"""Ten minutes of everything at once: ``bench/run.py --long``.

Two brokers; small reads without a pause, streams, leases, and accesses that are granted and ended again. Every answer
is compared with the truth: the small reads' after each round of some seconds.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from asking import Asker, Line, Requests, ask
from load import COLUMNS, lab, right
from serving import brokers, resident, spent

import vault
from vault.owner import Vault
from vault.wire import Profile

__all__ = ["long"]

_BODY: dict[str, object] = {"columns": COLUMNS, "limit": 10}
_ROUND = 10.0
#: Longer than any broker may go on serving what was ended.
_DEAD = 1.0


class _Count:
    """How many answers of a kind there were, and how many were wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.right = self.wrong = 0

    def add(self, *, right: bool) -> None:
        """One answer."""
        with self._lock:
            self.right, self.wrong = self.right + right, self.wrong + (not right)


def _reads(profile: Profile, dataset: int) -> Iterator[bytes]:
    requests = Requests(profile, profile.endpoint)
    while True:
        yield requests.make(f"/v1/datasets/evals-{dataset}/read", _BODY)


def _whole(profile: Profile, delivery: str, table: pa.Table, count: _Count, over: threading.Event) -> None:
    """The large dataset again and again."""
    dataset = vault.Client(profile).open("large")
    while not over.is_set():
        count.add(right=dataset.to_arrow(delivery=delivery).replace_schema_metadata().equals(table))


def _ended(opened: Vault, urls: list[str], count: _Count, over: threading.Event) -> None:
    """A grant that is served, then revoked, and refused by every broker a second later."""
    opened.add_vendor("passing")
    turn = 0
    while not over.is_set():
        grant = opened.grant("passing", f"evals-{turn % 2}", COLUMNS, expires=timedelta(days=1))
        issued = opened.issue_credential("passing")
        path = f"/v1/datasets/evals-{turn % 2}/read"
        askers = [Asker(replace(issued.profile, endpoint=url), url) for url in urls]
        served = [asker.ask(path, _BODY) for asker in askers]
        count.add(right=all(right(answer, turn % 2) for answer in served))
        if turn % 2:
            opened.revoke(grant.id)
        else:
            opened.revoke_credential(issued.id)
        time.sleep(_DEAD)
        count.add(right=all(asker.ask(path, _BODY).status in {401, 404} for asker in askers))
        for asker in askers:
            asker.close()
        if not turn % 2:
            opened.revoke(grant.id)
        turn += 1
        over.wait(2.0)


def _large(opened: Vault) -> pa.Table:
    rows = 65_536 * 4
    random = np.random.default_rng(5)
    table = pa.table(
        {"id": np.arange(rows), "score": random.random(rows), "text": [f"row {each}" for each in range(rows)]}
    )
    opened.publish("large", table)
    for name, delivery in (("vendor-0", "stream"), ("vendor-1", "lease")):
        opened.grant(name, "large", table.column_names, delivery=delivery, expires=timedelta(days=1))
    return table


def long(folder: Path, *, quick: bool) -> None:
    """Print the rows of docs/benchmarks.md."""
    minutes = 0.5 if quick else 10
    opened, names = lab(folder / "lab", 4, 2)
    table = _large(opened)
    counts = {kind: _Count() for kind in ("small reads", "streams", "leases", "ended accesses")}
    over = threading.Event()
    with brokers(folder / "lab", 2) as servers, ThreadPoolExecutor(3) as pool:
        urls = [server.url for server in servers]
        profiles = [opened.issue_credential(name, endpoint=urls[n % 2]).profile for n, name in enumerate(names)]
        beside: list[Callable[[], None]] = [
            lambda: _whole(profiles[0], "stream", table, counts["streams"], over),
            lambda: _whole(profiles[1], "lease", table, counts["leases"], over),
            lambda: _ended(opened, urls, counts["ended accesses"], over),
        ]
        running = [pool.submit(each) for each in beside]
        firsts: list[float] = []
        memory, busy, began = [], [spent(server.pid) for server in servers], time.perf_counter()
        while time.perf_counter() - began < minutes * 60:
            lines = [Line(profile.endpoint, _reads(profile, n % 2)) for n, profile in enumerate(profiles)]
            ask(lines, _ROUND)
            for number, line in enumerate(lines):
                for answer in line.answers:
                    counts["small reads"].add(right=right(answer, number % 2))
                    firsts.append(answer.first)
            memory.append(sum(resident(server.pid) for server in servers))
        took = time.perf_counter() - began
        over.set()
        for each in running:
            each.result()
        busy = [spent(server.pid) - before for server, before in zip(servers, busy, strict=True)]
    firsts.sort()
    sys.stdout.write(
        f"{took / 60:.1f} minutes; the brokers took {sum(busy) / took:.2f} of the two cores, "
        f"this process {time.process_time() / took:.2f}.\n\n"
        "| what | answers | a second | wrong |\n| --- | --- | --- | --- |\n"
    )
    for kind, count in counts.items():
        answers = count.right + count.wrong
        sys.stdout.write(f"| {kind} | {answers} | {answers / took:.1f} | {count.wrong} |\n")
    sys.stdout.write(
        "\n| small reads, first byte p50 | p99 | memory of both brokers after the first round | in the middle "
        "| at the end |\n| --- | --- | --- | --- | --- |\n"
        f"| {statistics.median(firsts) * 1000:.0f} ms | {firsts[int(len(firsts) * 0.99)] * 1000:.0f} ms "
        f"| {memory[0]:.0f} MiB | {memory[len(memory) // 2]:.0f} MiB | {memory[-1]:.0f} MiB |\n"
    )
