"""Many small reads at once: ``bench/run.py --load``.

1,000 grants of 100 vendors lie in one catalog. Every answer is read and compared after the clock stopped.
"""

import re
import statistics
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
from asking import Answer, Line, Requests, ask
from serving import Server, brokers, spent

import vault
from vault.owner import Vault
from vault.wire import Profile

__all__ = ["COLUMNS", "lab", "load", "right", "small_reads"]

ROWS = 10_000
COLUMNS = ["id", "label", "score"]
_LABELS = ("good", "bad", "unsure")
_BODY: dict[str, object] = {"columns": COLUMNS, "limit": 10}


def lab(folder: Path, vendors: int, datasets: int) -> tuple[Vault, list[str]]:
    """A vault with a grant for each vendor and dataset, and 10,000 rows in each dataset."""
    opened = vault.init(folder)
    names = [f"vendor-{number}" for number in range(vendors)]
    for name in names:
        opened.add_vendor(name)
    numbers = np.arange(ROWS)
    for number in range(datasets):
        table = pa.table(
            {
                "id": numbers,
                "label": pa.array(_LABELS).take(pa.array(numbers % 3)),
                "score": (numbers + number) / 7,
                "notes": [f"note {each} of {number}" for each in numbers],
            }
        )
        opened.publish(f"evals-{number}", table)
        for name in names:
            opened.grant(name, f"evals-{number}", COLUMNS, expires=timedelta(days=1))
    return opened, names


def right(answer: Answer, dataset: int) -> bool:
    """Whether an answer holds the first ten rows of a dataset, every value of them."""
    if answer.status != 200:
        return False
    expected = {
        "id": list(range(10)),
        "label": [_LABELS[each % 3] for each in range(10)],
        "score": [(each + dataset) / 7 for each in range(10)],
    }
    return bool(pa.ipc.open_stream(answer.body).read_all().to_pydict() == expected)


def _decisions(servers: list[Server]) -> Counter[float]:
    """How many decisions the brokers have made so far in so many seconds at the most, by their own counters."""
    found: Counter[float] = Counter()
    for server in servers:
        with urlopen(f"{server.url}/metrics") as answer:
            text = answer.read().decode()
        for bound, count in re.findall(r'^dsvault_decision_seconds_bucket\{le="(\S+)"\} (\S+)$', text, re.MULTILINE):
            found[float(bound)] += int(float(count))
    return found


def _within(counts: Counter[float], share: float) -> float:
    """The smallest bound that this share of the decisions keeps."""
    most = counts[max(counts)]
    return min(bound for bound, count in counts.items() if count >= share * most)


def small_reads(
    servers: list[Server], profiles: list[Profile], datasets: int, seconds: float, count: int
) -> dict[str, float]:
    """Reads of 10 rows and 3 columns for that long, on ``count`` connections.

    How many a second, milliseconds to the first byte, wrong answers, and the processor time of brokers and of this
    process, in milliseconds a read.
    """
    estimate, lines, asked = int(1500 * seconds / count) + 50, [], []
    for number in range(count):
        profile, server, dataset = profiles[number % len(profiles)], servers[number % len(servers)], number % datasets
        requests = Requests(profile, server.url)
        made = [requests.make(f"/v1/datasets/evals-{dataset}/read", _BODY) for _ in range(estimate)]
        lines.append(Line(server.url, made))
        asked.append(dataset)
    before, own = sum(spent(server.pid) for server in servers), time.process_time()
    decided = _decisions(servers)
    took = ask(lines, seconds)
    own = time.process_time() - own
    taken = sum(spent(server.pid) for server in servers) - before
    answers = [(answer, dataset) for line, dataset in zip(lines, asked, strict=True) for answer in line.answers]
    firsts = sorted(answer.first for answer, _ in answers)
    return {
        "per_second": len(answers) / took,
        "p50": statistics.median(firsts) * 1000,
        "p99": firsts[int(len(firsts) * 0.99)] * 1000,
        "decision": _within(_decisions(servers) - decided, 0.99) * 1000,
        "wrong": sum(not right(answer, dataset) for answer, dataset in answers),
        "brokers": taken / len(answers) * 1000,
        "asking": own / len(answers) * 1000,
    }


def load(folder: Path, *, quick: bool) -> None:
    """Print the rows of docs/benchmarks.md: one and two brokers, few and many connections."""
    vendors, datasets, seconds, runs = (4, 2, 3, 1) if quick else (100, 10, 10, 3)
    opened, names = lab(folder / "lab", vendors, datasets)
    sys.stdout.write(
        f"{vendors * datasets} grants of {vendors} vendors; medians of {runs} runs of {seconds} s.\n\n"
        "| brokers | connections | reads a second | decision p99 | first byte p50 | p99 | wrong answers "
        "| brokers' processor time a read | of the asking |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for count, lines in ((1, 1), (1, 8), (2, 8), (2, 16), (2, 32)):
        with brokers(folder / "lab", count) as servers:
            # A proof is for one address, so each broker has profiles of its own.
            profiles = [opened.issue_credential(name, endpoint=servers[0].url).profile for name in names]
            small_reads(servers, profiles, datasets, 2, lines)  # everything is warm from here on
            found = [small_reads(servers, profiles, datasets, seconds, lines) for _ in range(runs)]
        middle = {name: statistics.median(each[name] for each in found) for name in found[0]}
        wrong = sum(each["wrong"] for each in found)
        sys.stdout.write(
            f"| {count} | {lines} | {middle['per_second']:.0f} | ≤ {middle['decision']:.1f} ms "
            f"| {middle['p50']:.0f} ms | {middle['p99']:.0f} ms | {wrong:.0f} "
            f"| {middle['brokers']:.2f} ms | {middle['asking']:.2f} ms |\n"
        )
        sys.stdout.flush()
