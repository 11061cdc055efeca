"""Writing rows to files: whole or not at all."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.support.tables import every_type, rows, same
from vault.errors import InvalidInput, Unavailable
from vault.sinks import check_ending, plain_rows, write_table_as


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "csv"])
def test_every_format_holds_every_row(tmp_path: Path, ending: str) -> None:
    """What is written reads back: typed where the format has types, by value where it has not."""
    table, path = rows(70), tmp_path / f"out.{ending}"
    seen: list[int] = []
    assert write_table_as(table.to_reader(max_chunksize=30), path, seen.append) == 70
    assert seen == [30, 60, 70]
    assert path.stat().st_mode & 0o777 == 0o600
    if ending == "parquet":
        assert pq.read_table(path).equals(table)
    elif ending == "arrow":
        assert pa.ipc.open_stream(path).read_all().equals(table)
    elif ending == "jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()] == table.to_pylist()
    else:
        assert pa.csv.read_csv(path).column("prompt").to_pylist() == table.column("prompt").to_pylist()


def test_typed_formats_keep_every_type(tmp_path: Path) -> None:
    """Arrow files keep every type, JSON lines a form of every value."""
    table = every_type()
    write_table_as(table.to_reader(), tmp_path / "out.arrow")
    assert same(pa.ipc.open_stream(tmp_path / "out.arrow").read_all(), table)
    plain = table.drop_columns(["float"])
    for ending in ("jsonl", "csv"):
        assert write_table_as(plain.to_reader(), tmp_path / f"out.{ending}") == 3


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "csv"])
def test_a_broken_stream_leaves_the_file_before(tmp_path: Path, ending: str) -> None:
    """When the rows break off, what stood there stays, and nothing temporary is left."""
    path = tmp_path / f"out.{ending}"
    path.write_text("before")

    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows(10).to_batches()
        raise Unavailable("the stream was cut off")

    with pytest.raises(Unavailable):
        write_table_as(pa.RecordBatchReader.from_batches(rows(1).schema, broken()), path)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "before"


def test_an_unknown_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """Endings that cannot be written, and directories that are not there, are sentences."""
    with pytest.raises(InvalidInput, match=r"\.parquet"):
        check_ending(tmp_path / "x.docx")
    with pytest.raises(InvalidInput):
        write_table_as(rows(1).to_reader(), tmp_path / "no" / "x.csv")


def test_a_directory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """A file cannot take a directory's place: said of the option, and at once."""
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InvalidInput, match=r"-o: .*x\.csv: this is a directory"):
        check_ending(tmp_path / "x.csv")


def _strict(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_holds_no_bare_nan_or_infinity(tmp_path: Path) -> None:
    """JSON has no such numbers: they are text there, also within lists and structs, and other formats keep them."""
    bad = [1.5, float("nan"), float("inf"), float("-inf")]
    table = pa.table({"x": bad, "deep": [[{"y": value}] for value in bad]})
    said = [1.5, "NaN", "Infinity", "-Infinity"]
    expected = [{"x": value, "deep": [{"y": value}]} for value in said]
    write_table_as(table.to_reader(), tmp_path / "x.jsonl")
    assert [_strict(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == expected
    assert plain_rows(table) == expected
    write_table_as(table.to_reader(), tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [_strict(row["deep"]) for row in cells] == [row["deep"] for row in expected]
    assert str([float(row["x"]) for row in cells]) == str(bad)
    write_table_as(table.to_reader(), tmp_path / "x.parquet")
    assert str(pq.read_table(tmp_path / "x.parquet")["x"].to_pylist()) == str(bad)


_NO_PANDAS = """
import importlib.abc, sys
import pyarrow as pa

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "pandas" else found(name, *rest)
sys.meta_path.insert(0, Absent())
from vault.errors import InvalidInput
from vault.sinks import plain_rows, write_table_as

fine = pa.table({"id": [1], "at": pa.array([1_000_000_007], pa.timestamp("ns"))})
whole = pa.table({"at": pa.array([1_000_000_000], pa.timestamp("ns"))})
print(plain_rows(whole))
for act in (
    lambda: plain_rows(fine),
    lambda: write_table_as(fine.to_reader(), sys.argv[1] + "/x.jsonl"),
    lambda: write_table_as(fine.to_reader(), sys.argv[1] + "/x.csv"),
):
    try:
        act()
    except InvalidInput as error:
        print(error)
"""


def test_without_pandas_a_time_that_needs_it_is_named(tmp_path: Path) -> None:
    """Arrow makes Python's values of nanoseconds with it: said of the column, with what helps, and no file is left."""
    done = subprocess.run([sys.executable, "-c", _NO_PANDAS, tmp_path], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == "[{'at': '1970-01-01T00:00:01'}]"
    assert len(others) == 3
    assert all(each.startswith("column 'at' has times finer than a microsecond") for each in others)
    assert all("dsvault[pandas]" in each for each in others)
    assert list(tmp_path.iterdir()) == []
