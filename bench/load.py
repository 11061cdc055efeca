"""Many small reads at once: ``bench/run.py --load``.

1,000 grants of 100 vendors lie in one catalog. Raw sockets ask, since any HTTP client in Python would take more of the
two cores than the broker; every request has a proof of its own, made before the clock starts, and every answer is read
and compared after it stopped.
"""

import json
import queue
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

import vault
from vault.encoding import utcnow
from vault.owner import Vault
from vault.proof import ProofKey
from vault.wire import Profile

_ROWS = 10_000
_COLUMNS = ["id", "label", "score"]
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)")
_BODY = json.dumps({"columns": _COLUMNS, "limit": 10}).encode()


@dataclass(frozen=True)
class Answer:
    """What came of one request: seconds to the first byte and to the last, and all that was received."""

    first: float
    last: float
    data: bytes


def lab(folder: Path, vendors: int, datasets: int) -> tuple[Vault, list[str]]:
    """A vault with a grant for each vendor and dataset, and 10,000 rows in each dataset."""
    opened = vault.init(folder)
    names = [f"vendor-{number}" for number in range(vendors)]
    for name in names:
        opened.add_vendor(name)
    numbers = np.arange(_ROWS)
    for number in range(datasets):
        table = pa.table(
            {
                "id": numbers,
                "label": pa.array(["good", "bad", "unsure"]).take(pa.array(numbers % 3)),
                "score": (numbers + number) / 7,
                "notes": [f"note {each} of {number}" for each in numbers],
            }
        )
        opened.publish(f"evals-{number}", table)
        for name in names:
            opened.grant(name, f"evals-{number}", _COLUMNS, expires=timedelta(days=1))
    return opened, names


@contextmanager
def brokers(folder: Path, count: int, *options: str) -> Iterator[list[str]]:
    """That many brokers over one vault; their base URLs."""
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(folder), *options]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield [process.stdout.readline().removeprefix("serving on ").strip() for process in processes]  # type: ignore[union-attr]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def _requests(profile: Profile, url: str, dataset: str, count: int) -> list[bytes]:
    key = ProofKey.parse(profile.key, "the profile") if profile.key is not None else None
    path, place = f"/v1/datasets/{dataset}/read", urlsplit(url).netloc
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
    )
    head += f"Authorization: {profile.token.header()}\r\n"
    made = []
    for _ in range(count):
        proof = f"DPoP: {key.prove('POST', url + path, profile.token.text, utcnow())}\r\n" if key is not None else ""
        made.append((head + proof + "\r\n").encode() + _BODY)
    return made


def _ask(connection: socket.socket, request: bytes) -> Answer:
    began = time.perf_counter()
    connection.sendall(request)
    data = connection.recv(65_536)
    first = time.perf_counter() - began
    while not _whole(data):
        more = connection.recv(65_536)
        if not more:
            break
        data += more
    return Answer(first, time.perf_counter() - began, data)


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    length = _LENGTH.search(head.lower())
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def _right(answer: Answer) -> bool:
    head, _, body = answer.data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return False
    table = pa.ipc.open_stream(body).read_all()
    return table.column("id").to_pylist() == list(range(10)) and table.column_names == _COLUMNS


def small_reads(
    urls: list[str], profiles: list[Profile], datasets: int, seconds: float, threads: int
) -> dict[str, float]:
    """Reads of 10 rows and 3 columns for that long: how many a second, times in milliseconds, and wrong answers."""
    estimate = int(1200 * seconds / threads) + 50
    work: list[list[bytes]] = []
    for number in range(threads):
        profile, url = profiles[number % len(profiles)], urls[number % len(urls)]
        work.append(_requests(profile, url, f"evals-{number % datasets}", estimate))
    found: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    ends = time.perf_counter() + seconds

    def run(number: int) -> int:
        place = urlsplit(urls[number % len(urls)])
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for count, request in enumerate(work[number]):
                if time.perf_counter() > ends:
                    return count
                found.put(_ask(connection, request))
        raise RuntimeError("there were not enough requests")

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(run, range(threads)))
    took = time.perf_counter() - began
    answers = [found.get() for _ in range(total)]
    firsts = sorted(answer.first for answer in answers)
    return {
        "per_second": total / took,
        "p50": statistics.median(firsts) * 1000,
        "p99": firsts[int(len(firsts) * 0.99)] * 1000,
        "wrong": sum(not _right(answer) for answer in answers),
    }


def load(folder: Path, *, quick: bool) -> None:
    """Print the rows of docs/benchmarks.md: one and two brokers, few and many connections."""
    vendors, datasets, seconds, runs = (4, 2, 3, 1) if quick else (100, 10, 10, 3)
    opened, names = lab(folder / "lab", vendors, datasets)
    sys.stdout.write(
        f"{vendors * datasets} grants of {vendors} vendors; medians of {runs} runs of {seconds} s.\n\n"
        "| brokers | connections | reads a second | first byte p50 | p99 | wrong answers |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for count, threads in ((1, 1), (1, 8), (2, 8), (2, 16), (2, 32)):
        with brokers(folder / "lab", count) as urls:
            # A proof is for one address, so each broker has profiles of its own.
            profiles = [opened.issue_credential(name, endpoint=urls[0]).profile for name in names]
            found = [small_reads(urls, profiles, datasets, seconds, threads) for _ in range(runs + 1)][1:]
        middle = {name: statistics.median(each[name] for each in found) for name in found[0]}
        wrong = sum(each["wrong"] for each in found)
        sys.stdout.write(
            f"| {count} | {threads} | {middle['per_second']:.0f} | {middle['p50']:.0f} ms "
            f"| {middle['p99']:.0f} ms | {wrong:.0f} |\n"
        )
        sys.stdout.flush()
