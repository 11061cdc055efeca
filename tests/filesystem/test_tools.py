"""Tools that open files read a granted slice through ``dsvault://``: its rows, its columns, and no longer than granted."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.conftest import Lab
from tests.support.shown import GRANTED, NAME, Shown, expected, publish, shown, table
from vault.errors import Frozen, InvalidInput
from vault.filesystem import DsvaultFileSystem
from vault.filesystem.asking import Access

_URL = f"dsvault://{NAME}/latest"
_PARQUET = f"{NAME}/latest.parquet"


@pytest.fixture
def at(cast: Callable[..., Lab]) -> Iterator[Shown]:
    """The dataset that every client is shown, at a broker."""
    with shown(cast(publish)) as found:
        yield found


def _opened(found: Shown) -> DsvaultFileSystem:
    return fsspec.filesystem("dsvault", profile=str(found.profile))


def _duckdb(found: Shown, query: str) -> pa.Table:
    connection = duckdb.connect()
    connection.register_filesystem(_opened(found))
    return connection.sql(query).to_arrow_table()


def _pandas(found: Shown) -> pa.Table:
    frame = pd.read_parquet(f"{_URL}.parquet", storage_options={"profile": str(found.profile)}, dtype_backend="pyarrow")
    return pa.table({name: pa.array(frame[name]) for name in frame.columns})


def _polars(found: Shown) -> pa.Table:
    options = {"profile": str(found.profile)}
    return pl.read_parquet(f"{_URL}.parquet", use_pyarrow=True, storage_options=options).to_arrow()


#: Every tool that reads the slice, and how.
_TOOLS: dict[str, Callable[[Shown], pa.Table]] = {
    "pandas": _pandas,
    "pyarrow": lambda found: pq.read_table(_PARQUET, filesystem=_opened(found)),
    "pyarrow, a directory": lambda found: ds.dataset(NAME, filesystem=_opened(found), format="parquet").to_table(),
    "polars": _polars,
    "polars, lazily": lambda found: pl.scan_parquet(_opened(found).open(_PARQUET)).collect().to_arrow(),
    "duckdb": lambda found: _duckdb(found, f"select * from '{_URL}.parquet'"),
    "duckdb, a pattern": lambda found: _duckdb(found, f"select * from read_parquet('dsvault://{NAME}/*.parquet')"),
}


def _plain(read: pa.Table) -> list[dict[str, Any]]:
    """Rows as values, moments in UTC whatever a tool calls their zone, and vectors as plain lists."""
    zoned = read.schema.get_field_index("zoned")
    moments = read.column(zoned).cast(pa.timestamp("us", "UTC"))
    return read.set_column(zoned, "zoned", moments).to_pylist()


@pytest.mark.parametrize("tool", _TOOLS)
def test_a_tool_reads_the_slice(at: Shown, tool: str) -> None:
    """The rows that the grant lets through, of its columns and no other, in one read that is in the log."""
    read = _TOOLS[tool](at)
    assert read.column_names == list(GRANTED)
    assert _plain(read) == _plain(expected())
    at.check_log(reads=1)


@pytest.mark.parametrize("tool", _TOOLS)
def test_a_revoked_grant_refuses_a_tool(at: Shown, tool: str) -> None:
    """At once, though the file has just been made for the same tool."""
    _TOOLS[tool](at)
    at.lab.vault.revoke(at.grant.id)
    time.sleep(1.1)
    with pytest.raises(Exception, match=f"granted|{NAME}") as refused:
        _TOOLS[tool](at)
    assert isinstance(refused.value, FileNotFoundError | duckdb.IOException)
    at.check_log(reads=1)


#: What each tool is given where options ask for less than all.
_WITH_OPTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fsspec": lambda options: fsspec.open(f"{_URL}.parquet", **options).open(),
    "pandas": lambda options: pd.read_parquet(f"{_URL}.parquet", storage_options=options),
    "pandas, text": lambda options: pd.read_csv(f"{_URL}.csv", storage_options=options),
    "pyarrow": lambda options: pq.read_table(_PARQUET, filesystem=fsspec.filesystem("dsvault", **options)),
    "pyarrow, a directory": lambda options: ds.dataset(
        NAME, filesystem=fsspec.filesystem("dsvault", **options), format="parquet"
    ).to_table(),
    "polars": lambda options: pl.read_parquet(f"{_URL}.parquet", use_pyarrow=True, storage_options=options),
    "duckdb": lambda options: _in_duckdb(fsspec.filesystem("dsvault", **options)),
}


def _in_duckdb(files: DsvaultFileSystem) -> Any:
    connection = duckdb.connect()
    connection.register_filesystem(files)
    return connection.sql(f"select * from '{_URL}.parquet'").fetchall()


@pytest.mark.parametrize("tool", _WITH_OPTIONS)
def test_an_option_at_fault_is_named_to_the_reader(at: Shown, tool: str) -> None:
    """A misspelt column and one that is not granted, alike, a condition on one, a lease that there is none of: in one
    sentence, and not as a file that is not there.
    """
    wrong = [
        ({"columns": ["id", "promt"]}, "columns: 'promt' is no column, or field of one, that is granted to you"),
        ({"columns": ["id", "secret"]}, "columns: 'secret' is no column, or field of one, that is granted to you"),
        ({"columns": "meta.sauce"}, "columns: 'meta.sauce' is no column, or field of one, that is granted to you"),
        ({"where": "secret = 'x'"}, "where: it names a column that is not granted to you, or that is masked"),
        ({"where": "nothing = 'x'"}, "where: it names a column that is not granted to you, or that is masked"),
        ({"where": "id ="}, "where: "),
        ({"delivery": "lease"}, "delivery: the grant allows no lease of these columns; use stream"),
        ({"delivery": "lease", "limit": 3}, "delivery: a lease is of all rows"),
    ]
    for options, sentence in wrong:
        with pytest.raises(duckdb.Error if tool == "duckdb" else ValueError, match=".") as refused:
            _WITH_OPTIONS[tool]({"profile": str(at.profile), **options})
        if tool == "duckdb":
            # Its own doing: the text of a traceback, whose last line is ours.
            said = str(refused.value).splitlines()[-1].removeprefix("BadOption: ")
        else:
            assert isinstance(refused.value, InvalidInput)
            assert not isinstance(refused.value, OSError)
            said = str(refused.value)
        assert said.startswith(sentence), options
    assert at.reads() == []


@pytest.mark.parametrize("tool", _WITH_OPTIONS)
def test_a_wrong_delivery_is_said_before_anything_is_asked(tmp_path: Path, tool: str) -> None:
    """No tool takes it for a file that is not there."""
    with pytest.raises(InvalidInput, match="^delivery: use stream or lease$"):
        _WITH_OPTIONS[tool]({"profile": str(tmp_path / "acme.json"), "delivery": "post"})


def test_an_option_is_not_blamed_for_a_grant_that_has_ended(at: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that is only found out by the read: there is no such file any more, whatever was asked of it."""
    files = fsspec.filesystem("dsvault", profile=str(at.profile), columns=["promt"])
    makes = Access._make

    def revoked(access: Access, offered: Any) -> Any:
        at.lab.vault.revoke(at.grant.id)
        time.sleep(1.1)
        return makes(access, offered)

    monkeypatch.setattr(Access, "_make", revoked)
    with pytest.raises(FileNotFoundError, match="^no dataset or column of that name is granted to you$"):
        files.open(_PARQUET)


def test_a_freeze_is_the_last_line_that_duckdb_says(at: Shown) -> None:
    """It makes a traceback's text of whatever a file system raises; no secret is in it, and our sentence ends it."""
    files = _opened(at)
    connection = duckdb.connect()
    connection.register_filesystem(files)
    at.lab.vault.freeze("acme")
    time.sleep(1.1)
    with pytest.raises(duckdb.Error) as refused:
        connection.sql(f"select * from '{_URL}.parquet'")
    *_, last = str(refused.value).splitlines()
    assert last.startswith("FilesFrozen: ")
    with pytest.raises(Frozen) as plainly:
        files.open(_PARQUET)
    assert last == f"FilesFrozen: {plainly.value}"
    assert json.loads(at.profile.read_text())["secret"] not in str(refused.value)


def test_other_endings_are_the_same_rows(at: Shown) -> None:
    """Arrow, comma-separated text and lines of JSON, by the ending."""
    options = {"profile": str(at.profile)}
    files = _opened(at)
    with files.open(f"{NAME}/latest.arrow") as file:
        assert pa.ipc.open_stream(file).read_all().equals(expected())
    numbers = expected()["id"].to_pylist()
    assert pd.read_csv(f"{_URL}.csv", storage_options=options)["id"].tolist() == numbers
    lines = pd.read_json(f"{_URL}.jsonl", lines=True, storage_options=options)
    assert lines["id"].tolist() == numbers
    assert lines["meta"].tolist() == expected()["meta"].to_pylist()
    assert files.open(f"{NAME}/v1.jsonl", "r").readline().startswith('{"id":1,')
    at.check_log(reads=3)


def test_columns_rows_and_limit_of_a_file(at: Shown) -> None:
    """The storage options ask the broker for less: what is not wanted is never sent."""
    options = {"profile": str(at.profile), "columns": "id,meta.source", "where": "price > 5", "limit": 4}
    frame = pd.read_parquet(f"{_URL}.parquet", storage_options=options)
    truth = [row for row in expected().to_pylist() if row["price"] is not None and row["price"] > 5][:4]
    assert frame["id"].tolist() == [row["id"] for row in truth]
    assert frame["meta"].tolist() == [row["meta"] and {"source": row["meta"]["source"]} for row in truth]
    (read,) = at.reads()
    assert (read["columns"], read["where"], read["limit"]) == (["id", "meta.source"], '"price" > 5', 4)


def test_duckdb_joins_a_slice_with_what_it_has(at: Shown) -> None:
    """Several opens, stats and ranges of one query are one read."""
    mine = pd.DataFrame({"id": [1, 2, 3, 4]})
    connection = duckdb.connect()
    connection.register_filesystem(_opened(at))
    connection.register("mine", mine)
    found = connection.sql(f"select f.id, f.price from '{_URL}.parquet' f join mine using (id) order by 1").fetchall()
    assert [row[0] for row in found] == [1, 2, 4]
    at.check_log(reads=1)


def test_nothing_is_on_the_disk(at: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a tool does, no file appears where it could put one, and no value is in what was there."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(scratch)
    for tool in _TOOLS.values():
        tool(at)
    written = [path for path in scratch.rglob("*") if path.is_file()]
    assert not [path for path in written if b"question" in path.read_bytes() or path.suffix == ".parquet"]
    beside = {path for path in tmp_path.iterdir() if path.is_file()}
    assert {path.suffix for path in beside} <= {".json"}
    opened = [
        os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if number.isdigit() and os.path.lexists(f"/proc/self/fd/{number}")
    ]
    assert not [path for path in opened if path.startswith(str(scratch))]


def test_the_whole_table_is_larger(at: Shown) -> None:
    """What is not granted is there to be left out."""
    assert set(table().column_names) - set(GRANTED) == {"lang", "secret"}
    assert table().num_rows > expected().num_rows
    assert b"never shown" not in _opened(at).cat_file(f"{NAME}/latest.arrow")
