"""What the tools that vendors have take for a slice, beside a plain Parquet file: ``bench/run.py --readers``.

Run as a program it reads once, with one library, and prints the seconds and the peak memory of that.
"""

import ctypes
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from data import mixed
from serving import brokers

import vault

__all__ = ["readers"]

_NUMBERS = ["id", "score", "embedding"]
_BATCH = 4096
_QUERY = "select count(*), sum(tokens), max(length(prompt)), count(messages) from rows"
#: By name: what reads the slice, and what reads the plain file.
_KINDS: dict[str, tuple[Callable[[Any], object], Callable[[str], object]]] = {}


def _kind(name: str, plain: Callable[[str], object]) -> Callable[[Callable[[Any], object]], None]:
    def keep(ours: Callable[[Any], object]) -> None:
        _KINDS[name] = (ours, plain)

    return keep


def _plain_duckdb(path: str) -> object:
    import duckdb

    duckdb.sql(f"create view rows as select * from read_parquet('{path}')")
    return duckdb.sql(_QUERY).fetchall()


def _plain_polars(path: str) -> object:
    import polars as pl

    return pl.read_parquet(path)


def _plain_pandas(path: str) -> object:
    import pandas as pd

    return pd.read_parquet(path)


def _plain_datasets(path: str) -> object:
    import datasets

    rows = datasets.IterableDataset.from_parquet(path)
    return sum(len(table) for table in rows.with_format("arrow").iter(_BATCH))


def _plain_torch(path: str) -> object:
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    class Plain(IterableDataset[Any]):  # what one would write
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=_NUMBERS):
                found = {name: torch.from_numpy(batch[name].to_numpy().copy()) for name in _NUMBERS[:2]}
                vectors = batch["embedding"].flatten().to_numpy().copy()
                yield found | {"embedding": torch.from_numpy(vectors).reshape(batch.num_rows, -1)}

    return sum(len(batch["id"]) for batch in DataLoader(Plain(), batch_size=None))


@_kind("pyarrow: `to_arrow`", pq.read_table)
def _arrow(dataset: Any) -> object:
    return dataset.to_arrow()


@_kind("pandas: `to_pandas`", _plain_pandas)
def _pandas(dataset: Any) -> object:
    return dataset.to_pandas()


@_kind("polars: `to_polars`", _plain_polars)
def _polars(dataset: Any) -> object:
    return dataset.to_polars()


@_kind("DuckDB: a query of four columns", _plain_duckdb)
def _duckdb(dataset: Any) -> object:
    import duckdb

    columns = ["id", "tokens", "prompt", "messages"]
    rows = duckdb.from_arrow(dataset.scan(columns=columns))
    return rows.query("rows", _QUERY).fetchall()


@_kind("datasets: as Arrow", _plain_datasets)
def _datasets(dataset: Any) -> object:
    return sum(len(table) for table in dataset.to_datasets().with_format("arrow").iter(_BATCH))


@_kind("datasets: as Arrow, by `from_generator` of rows", _plain_datasets)
def _generator(dataset: Any) -> object:
    import datasets

    def rows(parts: list[Any]) -> Iterator[dict[str, Any]]:
        for part in parts:
            for batch in part.scan():
                yield from batch.to_pylist()

    found = datasets.IterableDataset.from_generator(rows, gen_kwargs={"parts": dataset.parts()})
    return sum(len(table) for table in found.with_format("arrow").iter(_BATCH))


@_kind("torch: batches of three columns", _plain_torch)
def _torch(dataset: Any) -> object:
    from torch.utils.data import DataLoader

    rows = dataset.to_torch(columns=_NUMBERS, batch_size=_BATCH)
    return sum(len(batch["id"]) for batch in DataLoader(rows, batch_size=None))


def readers(folder: Path, *, quick: bool) -> None:
    """Print the table."""
    table, runs = mixed(30_000 if quick else 400_000), 3
    lab = vault.init(folder / "lab")
    lab.add_vendor("acme")
    lab.publish("evals", table, shard_rows=table.num_rows // 4)
    lab.grant("acme", "evals", table.column_names)
    pq.write_table(table, folder / "plain.parquet", compression="zstd", row_group_size=65_536)
    sys.stdout.write(
        f"{table.num_rows} rows, {table.nbytes / 1e6:.0f} MB of Arrow memory, in 4 shards; medians of {runs} "
        "interleaved runs, each in a process of its own.\n\n"
        "| read with | slice | plain Parquet file | ratio | peak memory | of the plain one |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    del table
    with brokers(folder / "lab", 1) as (server,):
        profile = folder / "acme.json"
        lab.issue_credential("acme", endpoint=server.url).save(profile)
        for name in _KINDS:
            found: dict[Path, list[tuple[float, float]]] = {profile: [], folder / "plain.parquet": []}
            for _ in range(runs):
                for place, measured in found.items():
                    command = [sys.executable, __file__, name, str(place)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    seconds, peak = done.stdout.split()
                    measured.append((float(seconds), float(peak)))
            (ours, ours_peak), (plain, plain_peak) = (
                [statistics.median(column) for column in zip(*measured, strict=True)] for measured in found.values()
            )
            sys.stdout.write(
                f"| {name} | {ours:.3f} s | {plain:.3f} s | {ours / plain:.2f} | {ours_peak:.0f} MiB "
                f"| {plain_peak:.0f} MiB |\n"
            )
            sys.stdout.flush()


def _run(name: str, place: str) -> None:
    ours, plain = _KINDS[name]
    for library in ("datasets", "duckdb", "pandas", "polars", "torch"):
        if library in name.lower():
            __import__(library)
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    # "5" lets the kernel's mark of the highest resident set begin anew (Linux, proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    kept = plain(place) if place.endswith(".parquet") else ours(vault.connect(place).open("evals"))
    seconds = time.perf_counter() - began
    assert kept is not None
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    sys.stdout.write(f"{seconds} {int(peak[1]) / 1024}\n")
    sys.stdout.flush()
    # Of a plain Parquet file datasets leaves threads behind, on which the interpreter aborts when it ends.
    os._exit(0)


if __name__ == "__main__":
    _run(*sys.argv[1:])
