"""Durable appends to the audit log, by how many threads ask at once: ``bench/run.py --appends``."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import vault
from tests.support.postgres import start_postgres
from vault.audit import Kind
from vault.workings.journal import Journal

__all__ = ["appends"]

_AT_ONCE = (1, 8, 64)


def _append(journal: Journal, number: int) -> None:
    journal.record(Kind.REFUSED, number=number)


def appends(folder: Path, quick: bool) -> None:
    """Entries a second, each durable before the thread that asked goes on, and how long verifying them takes."""
    sys.stdout.write("| catalog | threads | entries | durable appends a second | goal |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    catalogs = {"SQLite": None, "PostgreSQL": start_postgres(durable=True).database()}
    checked = []
    for name, url in catalogs.items():
        place = folder / f"appends-{name.lower()}"
        shutil.rmtree(place, ignore_errors=True)
        journal = vault.init(place, catalog=url).parts.journal
        for threads in _AT_ONCE:
            count = (100 if quick else 500) * threads
            with ThreadPoolExecutor(threads) as asking:
                started = time.perf_counter()
                list(asking.map(partial(_append, journal), range(count)))
                took = time.perf_counter() - started
            goal = "≥ 1,000" if threads > 1 else ""
            sys.stdout.write(f"| {name} | {threads} | {count} | {count / took:.0f} | {goal} |\n")
        started = time.perf_counter()
        entries = journal.verify()
        checked.append(f"| {name} | {entries} | {time.perf_counter() - started:.2f} s |\n")
    sys.stdout.write("\n| catalog | entries | `dsvault audit verify` |\n| --- | --- | --- |\n" + "".join(checked))
