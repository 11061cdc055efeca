"""How long short commands take, from the shell's side: a process each, beside Python's own start.

Whoever stops a vendor at night waits for this, and so does a script that calls dsvault often. The commands take turns,
so that what else the machine does falls on all of them alike.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa

import vault

__all__ = ["startup"]

_PROGRAM = ("-m", "vault_cli.main")


#: As it is for a user: what was compiled once is not compiled again.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """How long a command takes, and what it takes of the processors."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, env=_ENVIRONMENT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def startup(folder: Path, *, quick: bool) -> None:
    """Print a row for each command, beside a Python that does nothing and one that loads what any catalog needs."""
    lab = folder / "startup"
    opened = vault.init(lab)
    opened.add_vendor("acme")
    opened.publish("evals", pa.table({"id": range(100), "text": ["x"] * 100}), key="id")
    opened.grant("acme", "evals", ["id"])
    commands: dict[str, tuple[str, ...]] = {
        "`python -c pass`": ("-c", "pass"),
        "`python -c 'import sqlalchemy'`": ("-c", "import sqlalchemy"),
        "`dsvault --help`": (*_PROGRAM, "--help"),
        "`dsvault vendor freeze acme`": (*_PROGRAM, "vendor", "freeze", "acme", "--vault", str(lab)),
        "`dsvault grants`": (*_PROGRAM, "grants", "--vault", str(lab)),
        "`dsvault dataset show evals`": (*_PROGRAM, "dataset", "show", "evals", "--vault", str(lab)),
        "`python -c 'from vault import connect'`": ("-c", "from vault import connect"),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range((5 if quick else 15) + 1):
        for name, words in commands.items():
            found = _seconds(words)
            if turn:
                times[name].append(found)
    sys.stdout.write("\n| command | median | fastest | of the processors, median |\n| --- | --- | --- | --- |\n")
    for name, all_ in times.items():
        seconds, processors = zip(*all_, strict=True)
        middle, used = statistics.median(seconds), statistics.median(processors)
        sys.stdout.write(f"| {name} | {middle:.2f} s | {min(seconds):.2f} s | {used:.2f} s |\n")
    sys.stdout.flush()
