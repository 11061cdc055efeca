"""The lab's own datasets through the same readers: every version, lazily, and in the log."""

import datetime as dt
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from tests.conftest import Lab
from tests.support.shown import NAME, publish, table
from tests.support.tables import rows
from vault.audit import Kind
from vault.errors import InvalidInput, NotFound, VaultError
from vault.viewing import OwnedDataset
from vault.workings import reading


def _reads(lab: Lab) -> list[dict[str, Any]]:
    return [dict(entry.fields) for _, entry in lab.vault.audit_entries() if entry.kind is Kind.OWNER_READ]


@pytest.fixture
def whole(lab: Lab) -> OwnedDataset:
    """The dataset that every client is shown, as the lab has it: all columns of all rows in three shards."""
    return lab.vault.dataset(NAME)


@pytest.fixture
def lab(cast: Callable[..., Lab]) -> Lab:
    """A lab that has it."""
    return cast(publish)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The columns of the chunks that are opened from now on."""
    found: set[str] = set()
    opens = reading.open_chunk

    def seen(parts: Any, keys: Any, key: Any, ref: Any, shape: Any, keep: Any = None) -> pa.Table:
        found.update(shape.schema.names)
        return opens(parts, keys, key, ref, shape, keep)

    monkeypatch.setattr(reading, "open_chunk", seen)
    return found


def test_every_reader_has_every_row(lab: Lab, whole: OwnedDataset) -> None:
    """Equal rows by each, and each is in the log as the owner's read of all columns."""
    assert whole.schema.equals(table().schema)
    assert whole.to_arrow().equals(table())
    assert whole.to_pandas(dtype_backend="pyarrow")["price"].tolist() == table().to_pandas(types_mapper=pd.ArrowDtype)[
        "price"
    ].tolist()  # fmt: skip
    assert_frame_equal(whole.to_polars(), pl.DataFrame(table()))
    assert_frame_equal(pl.DataFrame(whole), pl.DataFrame(table()))
    assert_frame_equal(whole.scan_polars().collect(), pl.DataFrame(table()))
    assert duckdb.from_arrow(whole.scan()).fetchall() == duckdb.from_arrow(table()).fetchall()
    found = _reads(lab)
    assert len(found) == 6
    assert {tuple(read["columns"]) for read in found} == {tuple(table().column_names)}


def test_only_what_is_selected_is_opened(lab: Lab, whole: OwnedDataset, opened: set[str]) -> None:
    """The columns that a query reads and those of its condition: no chunk of another is opened, and the log says so."""
    query = whole.scan_polars().filter(pl.col("lang") == "en").select("id", "price")
    truth = pl.DataFrame(table()).filter(pl.col("lang") == "en").select("id", "price")
    assert_frame_equal(query.collect(), truth)
    assert opened == {"id", "price", "lang"}
    assert set(_reads(lab)[-1]["columns"]) == {"id", "price", "lang"}
    opened.clear()
    chosen = whole.lazy().select("id").where("price > 20").limit(3)
    assert opened == set()
    assert chosen.to_arrow()["id"].to_pylist() == [81, 82, 83]
    assert opened == {"id", "price"}
    last = _reads(lab)[-1]
    assert (last["columns"], last["where"], last["limit"]) == (["id"], "price > 20", 3)


def test_shards_without_a_row_are_not_opened(lab: Lab, whole: OwnedDataset) -> None:
    """A query's condition rules out shards by their statistics, and a number of rows ends with the first that has them."""
    assert whole.scan_polars().filter(pl.col("id") >= 80).select("id").collect()["id"].to_list() == list(range(80, 90))
    assert _reads(lab)[-1]["shards"] == [[2, 2]]
    assert whole.scan_polars().select("id").head(5).collect()["id"].to_list() == list(range(5))
    assert (_reads(lab)[-1]["shards"], _reads(lab)[-1]["limit"]) == ([[0, 0]], 5)


def test_duckdb_pushes_down_into_a_lazy_frame(lab: Lab, whole: OwnedDataset) -> None:
    """A frame of polars is a table to DuckDB, and the columns and rows of its query are asked for."""
    frame = whole.scan_polars()  # noqa: F841 -- DuckDB finds it by its name
    found = duckdb.sql("select id, label from frame where id < 3 and lang = 'en' order by id").fetchall()
    assert [row[0] for row in found] == [1, 2]
    last = _reads(lab)[-1]
    assert set(last["columns"]) == {"id", "label", "lang"}
    assert "\"lang\" = 'en'" in last["where"]
    assert last["shards"] == [[0, 0]]


def test_a_version_is_read_as_it_was(lab: Lab) -> None:
    """By its number or by a time; without either it is whatever is the newest when it is read."""
    lab.vault.publish("evals", rows(4), key="id")
    newest, first = lab.vault.dataset("evals"), lab.vault.dataset("evals", 1)
    between = dt.datetime.now(dt.UTC)
    lab.vault.publish("evals", rows(2, start=4), key="id", append=True)
    assert newest.to_arrow()["id"].to_pylist() == [0, 1, 2, 3, 4, 5]
    for old in (first, newest.at(1), newest.at(as_of=between), lab.vault.dataset("evals", as_of=between.isoformat())):
        assert old.version == 1
        assert old.to_arrow()["id"].to_pylist() == [0, 1, 2, 3]
    assert lab.vault.dataset("evals", as_of=dt.datetime.now(dt.UTC)).version == 2
    assert [(state.version, state.rows) for state in newest.versions] == [(1, 4), (2, 6)]
    assert (repr(newest), repr(first)) == ("OwnedDataset(evals)", "OwnedDataset(evals, version 1)")
    assert [read["version"] for read in _reads(lab)] == [2, 1, 1, 1, 1]


def test_parts_have_each_row_once(lab: Lab, whole: OwnedDataset) -> None:
    """As a vendor's parts do, by shards."""
    assert whole.extent() == (1, 3)
    read = [part.to_arrow(columns=["id"])["id"].to_pylist() for part in whole.parts()]
    assert read == [list(range(30)), list(range(30, 60)), list(range(60, 90))]
    assert sorted(number for part in whole.parts(5) for number in part.to_arrow()["id"].to_pylist()) == list(range(90))
    assert _reads(lab)[0]["shards"] == [[0, 0]]


def test_a_lazy_scan_is_read_in_parts(lab: Lab, whole: OwnedDataset) -> None:
    """Its columns and conditions go into each part; a limit is not one of each."""
    chosen = whole.lazy().select("id").where("id < 40")
    assert [part.to_arrow()["id"].to_pylist() for part in chosen.parts()] == [list(range(30)), list(range(30, 40)), []]
    with pytest.raises(InvalidInput, match="^parts: what has a limit is not read in parts$"):
        chosen.limit(3).parts()


def _in_a_child(dataset: OwnedDataset, answers: Any) -> None:
    answers.put((dataset.to_arrow(columns=["id"]).num_rows, id(dataset.opened.parts)))


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_another_process_opens_the_vault_for_itself(lab: Lab, whole: OwnedDataset, way: str) -> None:
    """Forked or sent a dataset: no connection is shared, no key is in what is sent, and each read is in the log."""
    whole.to_arrow(columns=["id"])
    context = multiprocessing.get_context(way)
    answers = context.SimpleQueue()
    process = context.Process(target=_in_a_child, args=(whole, answers))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    read, parts = answers.get()
    assert read == 90
    assert way == "spawn" or parts != id(whole.opened.parts)
    assert len(_reads(lab)) == 2
    sent = pickle.dumps(whole)
    assert b"open_owner" in sent
    assert len(sent) < 600


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_a_loader_read_the_labs_own_rows(lab: Lab, whole: OwnedDataset, way: str) -> None:
    """Each part once, by a vault that its worker opened, and each read in the log."""
    pytest.importorskip("torch", reason="torch is not installed: make torch")
    from torch.utils.data import DataLoader

    rows = whole.to_torch(columns=["id"], batch_size=25)
    loader = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context=way)
    assert sorted(number for batch in loader for number in batch["id"].tolist()) == list(range(90))
    assert len(_reads(lab)) == 3


def test_what_there_is_not_is_said(lab: Lab) -> None:
    """A dataset, a version, one that has expired, and a time before the first: each in one sentence, when it is named."""
    before = dt.datetime.now(dt.UTC)
    lab.vault.publish("evals", rows(4), key="id")
    lab.vault.publish("evals", rows(5), key="id")
    held = lab.vault.dataset("evals", 1)
    lab.vault.expire("evals", keep=1)
    sentences: list[tuple[type[VaultError], str, Any]] = [
        (NotFound, "there is no dataset named 'nope'", lambda: lab.vault.dataset("nope")),
        (NotFound, "the dataset 'evals' has no version 7", lambda: lab.vault.dataset("evals", 7)),
        (NotFound, "the dataset 'evals' has no version 1", lambda: lab.vault.dataset("evals", 1)),
        (NotFound, "the dataset 'evals' has no version 1", held.to_arrow),
        (NotFound, "the dataset 'evals' has no version of that time", lambda: lab.vault.dataset("evals", as_of=before)),
        (InvalidInput, "version, as_of: give one of them", lambda: lab.vault.dataset("evals", 2, as_of="1h")),
        (InvalidInput, "version: give a whole number", lambda: lab.vault.dataset("evals", "2")),  # type: ignore[arg-type]
        (InvalidInput, "as_of: 'soon' is neither", lambda: lab.vault.dataset("evals", as_of="soon")),
        (InvalidInput, "limit: give a whole number of rows", lambda: lab.vault.dataset("evals").scan(limit=-1)),
        (InvalidInput, "--columns: the dataset has no column 'x'", lambda: lab.vault.dataset("evals").scan(["x"])),
    ]
    for kind, sentence, act in sentences:
        with pytest.raises(kind) as refused:
            act()
        assert str(refused.value).startswith(sentence)
        assert "\n" not in str(refused.value)
