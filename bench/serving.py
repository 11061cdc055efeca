"""Brokers in processes of their own, and what they take of the machine."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Server", "brokers", "peak", "process", "resident", "spent"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server that listens: its base URL, and its process."""

    url: str
    pid: int


@contextmanager
def process(command: list[str]) -> Iterator[Server]:
    """A server that prints where it listens, ended with the context."""
    # What a broker logs of a catalog that was taken from it is none of the figures.
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line.startswith("serving on "):
            raise RuntimeError(f"it does not start: {' '.join(command)}")
        yield Server(line.removeprefix("serving on ").strip(), started.pid)
    finally:
        started.terminate()
        started.wait()


@contextmanager
def brokers(folder: Path, count: int, *options: str) -> Iterator[list[Server]]:
    """That many brokers over one vault."""
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(folder), *options]
    if not count:
        yield []
        return
    with process(command) as first, brokers(folder, count - 1, *options) as rest:
        yield [first, *rest]


def spent(pid: int) -> float:
    """Seconds of processor time that a process has taken, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> float:
    """Memory that a process holds at this moment, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak(pid: int) -> float:
    """The most memory that a process has held since it began, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
