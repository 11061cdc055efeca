"""Every format reads the same rows, whole and typed."""

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault.errors import InvalidInput
from vault.sources import open_source

_ROWS: list[dict[str, Any]] = [
    {"n": 1, "x": 0.5, "s": "2026-01-01 00:00:00", "m": {"a": [1, None], "b": None}, "late": None},
    {"n": None, "x": 2, "s": "line\nbreak, \"quoted\" ü", "m": None, "late": None},
    {"n": 3, "x": None, "s": "", "m": {"a": [], "b": "x"}, "late": {"deep": [True]}},
]  # fmt: skip
_SCHEMA = pa.schema(
    [
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("s", pa.string()),
        ("m", pa.struct([("a", pa.list_(pa.int64())), ("b", pa.string())])),
        ("late", pa.struct([("deep", pa.list_(pa.bool_()))])),
    ]
)


def _read(source: Any, **options: Any) -> pa.Table:
    with open_source(source, **options) as opened:
        return pa.Table.from_batches(list(opened.batches()), opened.schema)


def _jsonl() -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in _ROWS).encode()


def _compressed(data: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(data)
    return pa.compress(data, "zstd", asbytes=True) if ending == ".zst" else data


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_json_lines_and_arrays_read_alike(tmp_path: Path, ending: str) -> None:
    """Types are found over all rows: nulls first, integers among fractions, and text that looks like a time."""
    expected = pa.Table.from_pylist(_ROWS, _SCHEMA)
    lines, array = tmp_path / f"rows.jsonl{ending}", tmp_path / f"rows.json{ending}"
    lines.write_bytes(_compressed(_jsonl(), ending))
    array.write_bytes(_compressed(json.dumps(_ROWS, indent=2).encode(), ending))
    assert _read(lines).equals(expected)
    assert _read(array).equals(expected)
    assert _read([lines, array]).num_rows == 6


def test_types_are_found_over_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is null in the first blocks and a fraction in the last is typed by all of them."""
    from vault.sources import json_blocks

    monkeypatch.setattr(json_blocks, "_BLOCK", 4096)
    some = [{"id": number, "v": None, "w": number} for number in range(3000)] + [
        {"id": 3000, "v": {"k": "x"}, "w": 0.5}
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in some) + "\n")
    found = _read(path)
    assert found.schema.field("v").type == pa.struct([("k", pa.string())])
    assert found.schema.field("w").type == pa.float64()
    assert found.column("id").to_pylist() == list(range(3001))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([{**row, "s": "x" * 3000} for row in some[-40:]]))
    assert _read(array).num_rows == 40


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_csv_types_follow_all_rows(tmp_path: Path, ending: str) -> None:
    """Numbers, fractions, truth values and text; leading zeros and mixed columns stay text; empty is null or ''."""
    text = 'n,x,b,zip,mixed,s\n1,0.5,true,007,1,"a\nb"\n,2,false,010,x,\n-3,1e3,,1,2.5,"c, ""d"""\n'
    path = tmp_path / f"rows.csv{ending}"
    path.write_bytes(_compressed(text.encode(), ending))
    assert _read(path).to_pydict() == {
        "n": [1, None, -3],
        "x": [0.5, 2.0, 1000.0],
        "b": [True, False, None],
        "zip": ["007", "010", "1"],
        "mixed": ["1", "x", "2.5"],
        "s": ["a\nb", "", 'c, "d"'],
    }


def test_a_csv_of_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    """Columns without rows are columns: text, and none of them."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n")
    assert _read(path).schema == pa.schema([("a", pa.string()), ("b", pa.string())])
    assert _read(path).num_rows == 0


def test_parquet_and_arrow_keep_their_types(tmp_path: Path) -> None:
    """Parquet, Arrow files and Arrow streams come with the very schema that they were written with."""
    table = rows(100).append_column("d", pa.array(["a", "b"] * 50).dictionary_encode())
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=30)
    with pa.ipc.new_file(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        found = _read(tmp_path / name)
        assert found.schema.equals(table.schema)
        assert found.to_pylist() == table.to_pylist()
    assert _read(tmp_path).num_rows == 300
    assert _read(str(tmp_path / "*.arrow")).num_rows == 200


def test_tables_streams_and_urls(tmp_path: Path) -> None:
    """Tables, readers, data frames and fsspec URLs are sources too."""
    table = rows(10)
    memory = fsspec.filesystem("memory")
    with memory.open("/sources-test/rows.jsonl", "wb") as file:
        file.write(_jsonl())
    assert _read("memory://sources-test/rows.jsonl").num_rows == 3
    assert _read("memory://sources-test/*.jsonl").num_rows == 3
    assert _read(table).equals(table)
    assert _read(table.to_batches()[0]).equals(table)
    assert _read(table.to_reader()).equals(table)
    assert _read(pl.DataFrame({"a": [1, 2]})).num_rows == 2
    assert _read(pd.DataFrame({"a": [1, 2]})).column("a").to_pylist() == [1, 2]


def test_files_of_one_publish_agree(tmp_path: Path) -> None:
    """A column that one file lacks is null there; types that contradict name both files."""
    (tmp_path / "1.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "2.jsonl").write_text('{"b": "x"}\n')
    assert _read(tmp_path).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    (tmp_path / "3.jsonl").write_text('{"b": 5}\n')
    with pytest.raises(InvalidInput, match=r"3\.jsonl: the column 'b' is int64, and string in .*2\.jsonl"):
        open_source(tmp_path)


def test_an_append_takes_the_datasets_types(lab: Lab, tmp_path: Path) -> None:
    """Appended rows are read under the dataset's schema: missing columns are null, others are refused."""
    lab.vault.publish("evals", pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}))
    path = tmp_path / "more.jsonl"
    path.write_text('{"a": 2}\n{"b": "y"}\n')
    assert lab.vault.publish("evals", path, append=True).rows == 3
    assert lab.vault.scan("evals").read_all().to_pydict() == {"a": [1, 2, None], "b": ["x", None, "y"]}
    assert lab.vault.scan("evals", version=1).read_all().num_rows == 1
    for text, expected in (('{"c": 1}\n', "no column 'c'"), ('{"a": "x"}\n', "line 1"), ('{"a": 1.5}\n', "more")):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=expected):
            lab.vault.publish("evals", path, append=True)
    with pytest.raises(InvalidInput, match="'a' is int64, and int32"):
        lab.vault.publish("evals", pa.table({"a": [1]}), append=True)
    with pytest.raises(InvalidInput, match="no version to append to"):
        lab.vault.publish("new", pa.table({"a": [1]}), append=True)
