"""Writing rows to files: whole or not at all."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.support.tables import every_type, rows, same
from vault.errors import InvalidInput, Unavailable
from vault.sinks import check_ending, write_table_as


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
