"""Readers of a slice and of a plain Parquet file, each run in a process of its own, as rows of one table."""

import ctypes
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

__all__ = ["begin", "finish", "header", "row"]


def header(place: str) -> None:
    """Begin the table; ``place`` says what the first column of times is of."""
    sys.stdout.write(
        f"| read with | {place} | plain Parquet file | ratio | peak memory | of the plain one |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )


def row(program: str, name: str, place: Path, plain: Path, runs: int) -> None:
    """Print one row: ``program NAME PLACE`` reads once and ends by `finish`; the two places take turns."""
    found: dict[Path, list[tuple[float, float]]] = {place: [], plain: []}
    for _ in range(runs):
        for each, measured in found.items():
            measured.append(_once(program, name, each))
    (ours, ours_peak), (theirs, their_peak) = (
        [statistics.median(column) for column in zip(*measured, strict=True)] for measured in found.values()
    )
    sys.stdout.write(
        f"| {name} | {ours:.3f} s | {theirs:.3f} s | {ours / theirs:.2f} | {ours_peak:.0f} MiB "
        f"| {their_peak:.0f} MiB |\n"
    )
    sys.stdout.flush()


def _once(program: str, name: str, place: Path) -> tuple[float, float]:
    done = subprocess.run([sys.executable, program, name, str(place)], check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.splitlines()[-1].split()
    return float(seconds), float(peak)


def begin(name: str, libraries: Iterable[str]) -> None:
    """Import what the reader of that name uses: how long that takes, and what it holds, is not what is measured."""
    for library in libraries:
        if library in name.lower():
            __import__(library)


def finish(read: Callable[[], object]) -> None:
    """Read once, print the seconds and the peak memory in MiB, and end the process."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    # "5" lets the kernel's mark of the highest resident set begin anew (Linux, proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    kept = read()
    seconds = time.perf_counter() - began
    assert kept is not None
    sys.stdout.write(f"{seconds} {_peak('self') + sum(map(_peak, _workers()))}\n")
    sys.stdout.flush()
    _ended_ray()
    # Of a plain Parquet file datasets leaves threads behind, on which the interpreter aborts when it ends.
    os._exit(0)


def _peak(process: int | str) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _workers() -> Iterator[int]:
    """Processes of this one's Ray that have run a task."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = (
                int((path / "stat").read_text().rpartition(")")[2].split()[1]),
                (path / "cmdline").read_bytes(),
            )
        except OSError:
            continue  # it ended
    for process, (parent, command) in parents.items():
        while parent in parents and parent != os.getpid():
            parent = parents[parent][0]
        if parent == os.getpid() and command.startswith(b"ray::"):
            yield process


def _ended_ray() -> None:
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
