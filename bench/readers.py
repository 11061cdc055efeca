"""What the tools that vendors have take for a slice, beside a plain Parquet file: ``bench/run.py --readers``.

Run as a program it reads once, with one library, and prints the seconds and the peak memory of that.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apart
import pyarrow.parquet as pq
from data import mixed
from serving import brokers

import vault

__all__ = ["readers"]

_NUMBERS = ["id", "score", "embedding"]
_BATCH = 4096
_LIBRARIES = ("datasets", "duckdb", "pandas", "polars", "torch")
_QUERY = "select count(*), sum(tokens), max(length(prompt)), count(messages) from rows"
#: By name: what reads the slice, and what reads the plain file. Of those of `_LAB` the engineer has the vault itself.
_KINDS: dict[str, tuple[Callable[[Any], object], Callable[[str], object]]] = {}
_LAB = "in the lab, "
#: What took minutes of many rows, and shows as much of few.
_SLOW = "datasets: as Arrow, by `from_generator` of rows"


def _kind(name: str, plain: Callable[[str], object]) -> Callable[[Callable[[Any], object]], None]:
    def keep(ours: Callable[[Any], object]) -> None:
        _KINDS[name] = (ours, plain)

    return keep


def _few(frame: Any) -> object:
    import polars as pl

    return frame.filter((pl.col("label") == "good") & (pl.col("score") > 0.9)).select("id", "tokens").collect()


def _plain_lazily(path: str) -> object:
    import polars as pl

    return _few(pl.scan_parquet(path))


def _blocks(rows: Any) -> int:
    return sum(len(table) for table in rows.iter_batches(batch_size=_BATCH, batch_format="pyarrow"))


def _plain_ray(path: str) -> object:
    import ray.data

    return _blocks(ray.data.read_parquet(path))


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


@_kind(_SLOW, _plain_datasets)
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


@_kind("polars, lazily: two columns, a condition on two more", _plain_lazily)
def _lazily(dataset: Any) -> object:
    return _few(dataset.scan_polars())


@_kind("Ray Data: Arrow batches from two workers", _plain_ray)
def _ray(profile: Any) -> object:
    import ray.data

    from vault.raydata import SliceSource

    return _blocks(ray.data.read_datasource(SliceSource("evals", profile=profile, parts=4)))


_KINDS.update((_LAB + name, _KINDS[name]) for name in list(_KINDS) if name.startswith(("pyarrow", "pandas", "polars")))


def readers(folder: Path, *, quick: bool) -> None:
    """Print the table."""
    folder = folder.absolute()  # Ray's workers have another directory
    plain, runs, table = folder / "plain.parquet", 3, mixed(30_000 if quick else 400_000)
    lab = vault.init(folder / "lab")
    lab.add_vendor("acme")
    lab.publish("evals", table, shard_rows=table.num_rows // 4)
    lab.grant("acme", "evals", table.column_names)
    pq.write_table(table, plain, compression="zstd", row_group_size=65_536)
    sys.stdout.write(
        f"{table.num_rows} rows, {table.nbytes / 1e6:.0f} MB of Arrow memory, in 4 shards; medians of {runs} "
        "interleaved runs, each in a process of its own.\n\n"
    )
    del table
    apart.header("slice")
    with brokers(folder / "lab", 1) as (server,):
        profile = folder / "acme.json"
        lab.issue_credential("acme", endpoint=server.url).save(profile)
        for name in _KINDS:
            if name == _SLOW and not quick:
                continue
            place = folder / "lab" if name.startswith(_LAB) else profile
            apart.row(__file__, name, place, plain, runs)


def _read(name: str, place: str) -> Callable[[], object]:
    """What is to be timed: opening and reading. What is imported for it, and Ray's cluster, is there before."""
    ours, plain = _KINDS[name]
    if "Ray" in name:
        from vault.engines import RayEngine

        RayEngine(workers=2)
        from ray.data import DataContext

        DataContext.get_current().enable_progress_bars = False
    if place.endswith(".parquet"):
        return lambda: plain(place)
    if "Ray" in name:
        return lambda: ours(place)
    if name.startswith(_LAB):
        vault.open(place).dataset("evals").schema  # noqa: B018 - imports what reads use
        return lambda: ours(vault.open(place).dataset("evals"))
    vault.connect(place).open("evals")
    return lambda: ours(vault.connect(place).open("evals"))


if __name__ == "__main__":
    apart.begin(sys.argv[1], _LIBRARIES)
    apart.finish(_read(*sys.argv[1:]))
