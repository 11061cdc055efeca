"""What tools that open files take for a slice through ``dsvault://``: ``bench/run.py --filesystem``.

Run as a program it reads once, with one tool, and prints the seconds and the peak memory of that.
"""

import ctypes
import gc
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data import mixed
from serving import brokers

import vault
from vault.filesystem import DsvaultFileSystem

__all__ = ["filesystem"]

_THREE = ["id", "label", "score"]
_FILE = "dsvault://evals/latest.parquet"
_QUERY = "select count(*), max(score) from read_parquet('{}')"


def _pandas(place: Path, columns: list[str] | None) -> object:
    import pandas as pd

    if place.suffix == ".parquet":
        return pd.read_parquet(place, columns=columns)
    options = {"profile": str(place), "columns": columns}
    return pd.read_parquet(_FILE, storage_options=options)


def _pyarrow(place: Path) -> object:
    if place.suffix == ".parquet":
        return pq.read_table(place)
    return pq.read_table("evals/latest.parquet", filesystem=DsvaultFileSystem(place))


def _duckdb(place: Path) -> object:
    import duckdb

    if place.suffix == ".parquet":
        return duckdb.sql(_QUERY.format(place)).fetchall()
    connection = duckdb.connect()
    connection.register_filesystem(DsvaultFileSystem(place))
    return connection.sql(_QUERY.format(_FILE)).fetchall()


#: By name: what reads the slice of a profile, or a plain Parquet file.
_KINDS: dict[str, Callable[[Path], object]] = {
    "pandas: `read_parquet`": lambda place: _pandas(place, None),
    "pandas: `read_parquet`, 3 of 12 columns": lambda place: _pandas(place, _THREE),
    "pyarrow: `read_table`": _pyarrow,
    "DuckDB: a query of one column": _duckdb,
}


def filesystem(folder: Path, *, quick: bool) -> None:
    """Print the table."""
    table, runs = mixed(30_000 if quick else 400_000), 3
    lab = vault.init(folder / "lab")
    lab.add_vendor("acme")
    lab.publish("evals", table)
    lab.grant("acme", "evals", table.column_names)
    plain, profile = folder / "plain.parquet", folder / "acme.json"
    pq.write_table(table, plain, compression="zstd", row_group_size=65_536)
    sys.stdout.write(
        f"{table.num_rows} rows, {table.nbytes / 1e6:.0f} MB of Arrow memory; medians of {runs} interleaved runs, each "
        "in a process of its own, which makes the file once.\n\n"
        "| read with | `dsvault://` | plain Parquet file | ratio | peak memory | of the plain one |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    del table
    with brokers(folder / "lab", 1) as (server,):
        lab.issue_credential("acme", endpoint=server.url).save(profile)
        for name in _KINDS:
            found: dict[Path, list[list[float]]] = {profile: [], plain: []}
            for _ in range(runs):
                for place, measured in found.items():
                    command = [sys.executable, __file__, name, str(place)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    measured.append([float(each) for each in done.stdout.split()])
            (ours, most), (theirs, their_most) = (
                [statistics.median(column) for column in zip(*measured, strict=True)] for measured in found.values()
            )
            sys.stdout.write(
                f"| {name} | {ours:.3f} s | {theirs:.3f} s | {ours / theirs:.2f} | {most:.0f} MiB "
                f"| {their_most:.0f} MiB |\n"
            )
            sys.stdout.flush()


def _run(name: str, place: Path) -> None:
    for library in ("duckdb", "pandas"):
        if library in name.lower():
            __import__(library)
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    # "5" lets the kernel's mark of the highest resident set begin anew (Linux, proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    kept = _KINDS[name](place)
    seconds = time.perf_counter() - began
    assert kept is not None
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    sys.stdout.write(f"{seconds} {int(peak[1]) / 1024}\n")


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]))
