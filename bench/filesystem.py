"""What tools that open files take for a slice through ``dsvault://``: ``bench/run.py --filesystem``.

Run as a program it reads once, with one tool, and prints the seconds and the peak memory of that.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import apart
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
    )
    del table
    apart.header("`dsvault://`")
    with brokers(folder / "lab", 1) as (server,):
        lab.issue_credential("acme", endpoint=server.url).save(profile)
        for name in _KINDS:
            apart.row(__file__, name, profile, plain, runs)


if __name__ == "__main__":
    apart.begin(sys.argv[1], ("duckdb", "pandas"))
    apart.finish(lambda: _KINDS[sys.argv[1]](Path(sys.argv[2])))
