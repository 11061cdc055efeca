"""Peak memory of each job, in a process that does nothing else: ``make bench`` starts one for every line.

Run as a program it does one job, of dsvault or of what one would use instead, and prints its peak.
"""

import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import vault

sys.path.insert(0, str(Path(__file__).parent))
from rivals import RIVALS, sync

__all__ = ["memory"]

_THREE = ["id", "label", "score"]


def _peak(step: Callable[[], object]) -> float:
    """The highest resident set in MiB while a step runs, what was there before included."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    # "5" lets the kernel's mark of the highest resident set begin anew (Linux, proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    step()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _ours(job: str, folder: Path) -> None:
    lab = vault.open(folder / "lab")
    jobs: dict[str, Callable[[], object]] = {
        "publish": lambda: lab.publish("evals", str(folder / "source.parquet")),
        "read 3 of 12 columns": lambda: lab.scan("evals", columns=_THREE).read_all(),
        "read all 12 columns": lambda: lab.scan("evals").read_all(),
        "stream all 12 columns": lambda: sum(batch.num_rows for batch in lab.scan("evals")),
        "fan-out of all columns": lambda: lab.grant("acme", "evals", pq.read_schema(folder / "source.parquet").names),
        "rekey": lambda: lab.rekey("owner"),
        "rewrap": lambda: lab.rewrap("owner"),
    }
    sys.stdout.write(f"{_peak(jobs[job])}\n")


def _plain(job: str, folder: Path) -> None:
    source, target = folder / "source.parquet", folder / "plain.parquet"

    def copy() -> None:
        shutil.copyfile(source, target)
        sync(target)

    write = lambda: pq.write_table(pq.read_table(source), target, compression="zstd")  # noqa: E731
    jobs: dict[str, Callable[[], object]] = {
        "publish": write,
        "read 3 of 12 columns": lambda: pq.read_table(source, columns=_THREE),
        "read all 12 columns": lambda: pq.read_table(source),
        "stream all 12 columns": lambda: sum(batch.num_rows for batch in pq.ParquetFile(source).iter_batches()),
        "fan-out of all columns": write,
        "rekey": write,
        "file copy": copy,
    }
    sys.stdout.write(f"{_peak(jobs[job])}\n")


def _rival(name: str, folder: Path) -> None:
    rival = next(make for make in RIVALS if make.name == name)(folder)
    steps = (lambda: rival.write(pq.read_table(folder / "source.parquet")), rival.read, rival.rekey)
    sys.stdout.write(" ".join(str(_peak(step)) for step in steps) + "\n")


def _child(*arguments: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return [float(each) for each in done.stdout.split()]


def memory(table: pa.Table, folder: Path) -> None:
    """A table of peaks, over the data of the other rows, read from a plain Parquet file."""
    folder = folder / "memory"
    folder.mkdir()
    pq.write_table(table, folder / "source.parquet", compression="zstd", row_group_size=65_536)
    vault.init(folder / "lab").add_vendor("acme")
    sys.stdout.write("\n| job | dsvault | beside | peak memory |\n| --- | --- | --- | --- |\n")
    found = {}
    for job, beside in (
        ("publish", "`read_table`, `write_table`"),
        ("read 3 of 12 columns", "`read_table`"),
        ("read all 12 columns", "`read_table`"),
        ("stream all 12 columns", "`iter_batches`"),
        ("fan-out of all columns", "`read_table`, `write_table`"),
        ("rekey", "`read_table`, `write_table`"),
        ("rewrap", None),
    ):
        (found[job],) = _child("ours", job, str(folder))
        theirs = f"{_child('plain', job, str(folder))[0]:.0f} MiB" if beside is not None else ""
        sys.stdout.write(f"| {job} | {found[job]:.0f} MiB | {beside or ''} | {theirs} |\n")
        sys.stdout.flush()
    (copied,) = _child("plain", "file copy", str(folder))
    sys.stdout.write(f"| rekey | {found['rekey']:.0f} MiB | file copy | {copied:.0f} MiB |\n")
    for rival in RIVALS:
        peaks = _child("rival", rival.name, str(folder))
        for job, peak in zip(("publish", "read all 12 columns", "rekey"), peaks, strict=True):
            sys.stdout.write(f"| {job} | {found[job]:.0f} MiB | {rival.name} | {peak:.0f} MiB |\n")
        sys.stdout.flush()
    shutil.rmtree(folder)


if __name__ == "__main__":
    {"ours": _ours, "plain": _plain, "rival": _rival}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
