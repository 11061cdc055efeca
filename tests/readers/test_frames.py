"""Data frames of a granted slice: equal rows, only granted columns, in the log, and refused once it is revoked."""

import importlib.util
from decimal import Decimal
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.support.shown import GRANTED, Shown, expected
from vault.errors import InvalidInput, VaultError


def test_pandas(given: Shown) -> None:
    """With pandas' own types as Arrow makes them: times with their zone, decimals, lists and dicts, a categorical."""
    frame = given.dataset.to_pandas()
    pd.testing.assert_frame_equal(frame, expected().to_pandas())
    assert tuple(frame.columns) == GRANTED
    assert str(frame["zoned"].dtype) == "datetime64[us, Asia/Tokyo]"
    assert frame["label"].dtype == "category"
    assert {type(price) for price in frame["price"].dropna()} == {Decimal}
    given.check_log(reads=1)
    with given.revoked():
        given.client.open("shown").to_pandas()


def test_pandas_with_arrows_types(given: Shown) -> None:
    """Whole numbers beside nulls stay exact, and what is nested comes back as it was."""
    frame = given.dataset.to_pandas(dtype_backend="pyarrow")
    assert frame["score"].dropna().tolist() == [
        number for number in expected()["score"].to_pylist() if number is not None
    ]
    back = pa.Table.from_pandas(frame, preserve_index=False)
    assert back.select(list(GRANTED)).to_pylist() == expected().to_pylist()
    with pytest.raises(InvalidInput, match="dtype_backend"):
        given.dataset.to_pandas(dtype_backend="numpy")


def test_polars(given: Shown) -> None:
    """By `to_polars`, and by whatever takes Arrow's C stream."""
    for frame in (given.dataset.to_polars(), pl.DataFrame(given.dataset)):
        assert frame.equals(pl.DataFrame(expected()))
        assert tuple(frame.columns) == GRANTED
        # As Arrow's own rows, but for a time's zone, which is another object of the same name.
        assert frame["score"].to_list() == expected()["score"].to_pylist()
        assert frame["price"].to_list() == expected()["price"].to_pylist()
        assert frame["messages"].to_list() == expected()["messages"].to_pylist()
    given.check_log(reads=2)
    with given.revoked():
        given.client.open("shown").to_polars()
    with pytest.raises(VaultError):
        pl.DataFrame(given.client.open("shown"))


@pytest.mark.parametrize("through", ["scan", "dataset"])
def test_duckdb(given: Shown, through: str) -> None:
    """A query over the stream, which is read once, and over a dataset, by its C stream."""
    connection = duckdb.connect()

    def relation(dataset: Any) -> duckdb.DuckDBPyRelation:
        return connection.from_arrow(dataset.scan() if through == "scan" else pa.RecordBatchReader.from_stream(dataset))

    found = relation(given.dataset).filter("id >= 20").order("id").to_arrow_table()
    wanted = [row for row in expected().to_pylist() if row["id"] >= 20]
    assert tuple(found.column_names) == GRANTED
    for name in GRANTED:
        assert found[name].to_pylist() == [row[name] for row in wanted], name
    given.check_log(reads=1)
    with given.revoked():
        relation(given.client.open("shown"))


def test_options_of_a_scan(given: Shown) -> None:
    """Each reader takes columns, a predicate, a limit, and a part."""
    options: dict[str, Any] = {"columns": ["meta.source", "id"], "where": "id > 10", "limit": 3}
    wanted = given.dataset.to_arrow(**options)
    assert wanted.num_rows == 3
    assert given.dataset.to_pandas(**options).equals(wanted.to_pandas())
    assert given.dataset.to_polars(**options).equals(pl.DataFrame(wanted))
    parts = [given.dataset.to_polars(part=(index, 3)) for index in range(3)]
    assert sorted(pl.concat(parts)["id"].to_list()) == expected()["id"].to_pylist()
    assert pl.concat([pl.DataFrame(part) for part in given.dataset.parts(3)]).equals(pl.concat(parts))


@pytest.mark.parametrize(
    ("package", "read"),
    [
        ("pandas", lambda dataset: dataset.to_pandas()),
        ("polars", lambda dataset: dataset.to_polars()),
        ("polars", lambda dataset: dataset.scan_polars()),
        ("torch", lambda dataset: dataset.to_torch()),
        ("datasets", lambda dataset: dataset.to_datasets(in_memory=True)),
    ],
)
def test_a_package_that_is_not_there_is_named_before_anything_is_read(
    given: Shown, monkeypatch: pytest.MonkeyPatch, package: str, read: Any
) -> None:
    """With what installs it, and no read in the log, which would count against the grant's limits."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    with pytest.raises(InvalidInput, match=rf"^{package} is not installed: pip install 'dsvault\[{package}\]'$"):
        read(given.dataset)
    assert given.reads() == []
