"""One dataset, and everything that reads it: the same rows, only what is granted, in the log, and refused when it ends."""

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import delta_sharing
import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Lab
from tests.support.moulds import Anew
from tests.support.shown import GRANTED, NAME, Shown, expected, publish, shown
from vault.audit import Kind

# Delta Sharing's client: a copy that pandas need not make, and sessions that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")
#: What each entry of a read's rows is: one that begins, and one of a shared file.
_READS = (Kind.READ_BEGUN, Kind.FILE_READ)


def _delta(given: Shown) -> pd.DataFrame:
    path = given.profile.with_name("bearer.json")
    if not path.exists():
        given.lab.vault.issue_credential("acme", endpoint=given.endpoint, bearer=True).save(path)
    return delta_sharing.load_as_pandas(f"{path}#dsvault.default.{NAME}")


def _options(given: Shown) -> dict[str, Any]:
    """Of a file that is not kept for the next tool."""
    return {"profile": str(given.profile), "keep_seconds": 0}


def _file(given: Shown) -> Any:
    return fsspec.filesystem("dsvault", **_options(given))


def _duckdb_file(given: Shown) -> pa.Table:
    connection = duckdb.connect()
    connection.register_filesystem(_file(given))
    return connection.sql(f"select * from 'dsvault://{NAME}/latest.parquet'").to_arrow_table()


def _torch(given: Shown) -> list[dict[str, Any]]:
    pytest.importorskip("torch", reason="torch is not installed: make torch")
    return list(given.dataset.to_torch(parts=3))


#: Everything that reads a slice. Ray's tasks are in tests/cluster, on a cluster.
CLIENTS: dict[str, Callable[[Shown], Any]] = {
    "pyarrow": lambda given: given.dataset.to_arrow(),
    "Arrow's C stream": lambda given: pa.RecordBatchReader.from_stream(given.dataset).read_all(),
    "in parts": lambda given: pa.concat_tables(part.to_arrow() for part in given.dataset.parts(3)),
    "lazily": lambda given: given.dataset.lazy().to_arrow(),
    "pandas": lambda given: given.dataset.to_pandas(dtype_backend="pyarrow"),
    "polars": lambda given: given.dataset.to_polars().to_arrow(),
    "polars by itself": lambda given: pl.DataFrame(given.dataset).to_arrow(),
    "polars, lazily": lambda given: given.dataset.scan_polars().collect().to_arrow(),
    "DuckDB": lambda given: duckdb.from_arrow(given.dataset.scan(), connection=duckdb.connect()).to_arrow_table(),
    "torch": _torch,
    "datasets": lambda given: list(given.dataset.to_datasets(parts=3)),
    "pandas, a file": lambda given: pd.read_parquet(
        f"dsvault://{NAME}/latest.parquet", storage_options=_options(given), dtype_backend="pyarrow"
    ),
    "pyarrow, a file": lambda given: pq.read_table(f"{NAME}/latest.parquet", filesystem=_file(given)),
    "DuckDB, a file": _duckdb_file,
    "Delta Sharing": _delta,
}


def _rows(found: Any) -> list[dict[str, Any]]:
    """What a client has, as plain values by the row's id; its columns are in the order of the grant."""
    if isinstance(found, pa.Table):
        found = found.to_pylist()
    elif isinstance(found, pd.DataFrame):
        found = found.to_dict("records")
    assert {tuple(row) for row in found} == {GRANTED}
    return sorted(({name: _plain(value) for name, value in row.items()} for row in found), key=lambda row: row["id"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(each) for each in value]
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, pd.Timestamp):
        value = value.to_pydatetime()
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo is not None else value
    return value.item() if isinstance(value, np.generic) else value


@pytest.fixture(scope="module")
def given(moulds: Anew, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The dataset, granted and served."""
    folder: Path = tmp_path_factory.mktemp("every") / "lab"
    with shown(Lab(folder, moulds.vault("vendors", folder, more=publish))) as found:
        yield found


def _logged(given: Shown) -> list[dict[str, Any]]:
    given.lab.vault.parts.catalog.settle()
    return [dict(entry.fields) for _, entry in given.lab.vault.audit_entries() if entry.kind in _READS]


def test_the_dataset_is_worth_showing() -> None:
    """Nested columns, nulls, moments, days and decimals are in it, and rows and columns that are not granted."""
    kinds = {type(value) for row in expected().to_pylist() for value in row.values()}
    assert {int, str, Decimal, datetime, date, list, dict, type(None)} <= kinds


def _truth(client: str) -> list[dict[str, Any]]:
    """What it has to have. Delta Sharing's client makes floats of whole numbers beside nulls, whoever serves them."""
    rows = _rows(expected())
    if client != "Delta Sharing":
        return rows
    return [{**row, "score": None if row["score"] is None else float(row["score"])} for row in rows]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_the_slice(given: Shown, client: str) -> None:
    """Equal rows, of the granted columns and no other, and the log says of each read what it was of."""
    before = len(_logged(given))
    assert _rows(CLIENTS[client](given)) == _truth(client)
    read = _logged(given)[before:]
    assert read
    assert {tuple(fields["columns"]) for fields in read} == {GRANTED}
    assert {(fields["vendor"], fields["grant"], fields["version"]) for fields in read} == {("acme", given.grant.id, 1)}


def test_a_revoked_grant_refuses_every_client(cast: Callable[..., Lab]) -> None:
    """Each of them within a second, and none has a row, though each has just read it."""
    with shown(cast(publish)) as found:
        for client in CLIENTS.values():
            client(found)
        found.lab.vault.revoke(found.grant.id)
        time.sleep(1.1)
        read = len(_logged(found))
        for name, client in CLIENTS.items():
            try:
                had = client(found)
            except Exception as refused:
                assert not isinstance(refused, AssertionError | pytest.fail.Exception), name
                assert "prompt number" not in str(refused), name
            else:
                pytest.fail(f"{name} read {len(had)} rows")
        assert len(_logged(found)) == read
