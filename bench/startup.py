"""How long short commands take, from the shell's side: a process each, beside Python's own start.

Whoever stops a vendor at night waits for this, and so does a script that calls dsvault often. The commands take turns,
so that what else the machine does falls on all of them alike.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa

import vault

__all__ = ["startup"]

_PROGRAM = ("-m", "vault_cli.main")


def _seconds(words: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, env=_ENVIRONMENT, check=True)
    return time.perf_counter() - started


#: As it is for a user: what was compiled once is not compiled again.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def startup(folder: Path, *, quick: bool) -> None:
    """Print a row for each command: the median of its runs, and of those of a Python that does nothing."""
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
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range((5 if quick else 15) + 1):
        for name, words in commands.items():
            seconds = _seconds(words)
            if turn:
                times[name].append(seconds)
    sys.stdout.write("\n| command | median | fastest |\n| --- | --- | --- |\n")
    for name, found in times.items():
        sys.stdout.write(f"| {name} | {statistics.median(found):.2f} s | {min(found):.2f} s |\n")
    sys.stdout.flush()
