"""Bad input: one sentence that names the file, and the line or row where it is known; nothing is published."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault.errors import InvalidInput
from vault.sources import open_source

_MANY = "".join(f'{{"a": {number}}}\n' for number in range(5000))

#: File name -> content, and what the sentence must say besides the file's name.
_FILES: dict[str, tuple[bytes, str]] = {
    "contradiction.jsonl": (b'{"a": 1}\n{"a": 2}\n{"a": "x"}\n', "line 3: 'a' is a text here and a number"),
    "late.jsonl": ((_MANY + '{"a": "x"}\n').encode(), "line 5001: 'a' is a text"),
    "nested.jsonl": (b'{"m": {"a": [1]}}\n{"m": {"a": ["x"]}}\n', "line 2: 'm.a[]' is a text"),
    "listed.jsonl": (b'{"a": [1]}\n{"a": 1}\n', "line 2: 'a' is a number here and a list"),
    "truth.jsonl": (b'{"a": true}\n{"a": 1}\n', "line 2: 'a' is a number here and true or false"),
    "broken.jsonl": (b'{"a": 1}\n{"a": \n', "line 2: this is not valid JSON"),
    "torn.jsonl": ((_MANY + '{"a": 1, "b').encode(), "line 5001: this is not valid JSON"),
    "notobject.jsonl": (b'{"a": 1}\n[1]\n', "line 2: this is not an object"),
    "twice.jsonl": (b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: a column stands twice"),
    "noname.jsonl": (b'{"a": 1}\n{"": 1}\n', "line 2: a column has an empty name"),
    "utf8.jsonl": (b'{"a": "x"}\n{"a": "\xff"}\n', "line 2: the text is not valid UTF-8"),
    "nan.jsonl": (b'{"a": 1.5}\n{"a": NaN}\n', "line 2: NaN and Infinity are not JSON"),
    "rounded.jsonl": (b'{"a": 1.5}\n{"a": 9007199254740993}\n', "line 2: 'a' is a whole number beyond 2**53"),
    "huge.jsonl": (b'{"a": 1}\n{"a": 123456789012345678901234567890}\n', "line 2: 'a' is a whole number"),
    "deep.jsonl": (b'{"a": 1}\n{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "line 2: this is nested deeper"),
    "deep.json": (b'[{"a": ' + b"[" * 50000 + b"]" * 50000 + b"}]", "row 1: this is nested"),
    "surrogate.jsonl": (b'{"a": "x"}\n{"a": "\\ud800"}\n', "line 2: a text holds half of a surrogate pair"),
    "empty.jsonl": (b"", "there are no rows"),
    "blank.jsonl": (b"\n\n", "there are no rows"),
    "nocolumns.jsonl": (b"{}\n{}\n", "there are no rows, or none with a column"),
    "contradiction.json": (b'[{"a": 1}, {"a": "x"}]', "row 2: 'a' is a text here and a number"),
    "broken.json": (b'[{"a": 1}, {"a": ]', "row 2: this is not valid JSON"),
    "torn.json": (b'[{"a": 1}, {"a": 2', "row 2: this is not valid JSON"),
    "unclosed.json": (b'[{"a": 1}', "row 2: this is not valid JSON"),
    "nocomma.json": (b'[{"a": 1} {"a": 2}]', "row 2: this is not valid JSON"),
    "object.json": (b'{"a": 1}', "holds an array of objects"),
    "more.json": (b'[{"a": 1}] x', "something follows the array"),
    "numbers.json": (b"[1]", "row 1: this is not an object"),
    "twice.json": (b'[{"a": 1, "a": 2}]', "row 1: a column stands twice"),
    "utf8.json": (b'[{"a": "\xff"}]', "not valid UTF-8"),
    "ragged.csv": (b"a,b\n1,2\n3\n", "row 3: there are 1 fields and not 2"),
    "wide.csv": (b"a,b\n1,2\n3,4,5\n", "row 3: there are 3 fields and not 2"),
    "twice.csv": (b"a,a\n1,2\n", "'a' stands twice"),
    "case.csv": (b"a,A\n1,2\n", "differ only in case"),
    "noname.csv": (b"a,\n1,2\n", "column 2 has an empty name"),
    "utf8.csv": (b"a\nx\n\xff\n", "line 3: the text is not valid UTF-8"),
    "empty.csv": (b"", "no header row"),
    "short.jsonl.gz": (gzip.compress(_MANY.encode())[:-20], "the gzip file is cut off or damaged"),
    "notgzip.jsonl.gz": (b'{"a": 1}\n', "the gzip file is cut off or damaged"),
    "short.csv.gz": (gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:-30], "the gzip file is cut off or damaged"),
    "bad.json.zst": (b"nonsense", "the zstd file is cut off or damaged"),
    "bad.parquet": (b"PAR1 nonsense PAR1", "the Parquet file is cut off, damaged or encrypted"),
    "bad.arrow": (b"nonsense", "the Arrow IPC file is cut off, damaged or encrypted"),
    "what.txt": (b"a", "the ending is not known"),
    "what.parquet.gz": (b"a", "the ending is not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", _FILES)
def test_a_bad_file_gives_one_sentence(tmp_path: Path, name: str) -> None:
    """Each kind of fault names its file and place, in one line, with no cell's value in it."""
    content, expected = _FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as caught, open_source(path) as source:
        list(source.batches())
    message = str(caught.value)
    assert name in message
    assert expected in message
    assert "\n" not in message


def _truncated_parquet(path: Path) -> None:
    pq.write_table(rows(1000), path)
    path.write_bytes(path.read_bytes()[:-100])


def _damaged_parquet(path: Path) -> None:
    pq.write_table(rows(50_000), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:20_000] = b"\xff" * (20_000 - 4)
    path.write_bytes(data)


def _union_arrow(path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    table = pa.table({"choice": union})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def _no_columns(path: Path) -> None:
    pq.write_table(pa.table({}), path)


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (_truncated_parquet, "x.parquet", "cut off, damaged"),
        (_damaged_parquet, "x.parquet", "cut off, damaged"),
        (_union_arrow, "x.arrow", "'choice'"),
        (_no_columns, "x.parquet", "no columns"),
    ],
)
def test_nothing_is_published_of_a_bad_file(
    lab: Lab, tmp_path: Path, make: Callable[[Path], None], name: str, expected: str
) -> None:
    """A file that is found to be bad, at once or half-way, leaves no dataset and no version."""
    path = tmp_path / name
    make(path)
    with pytest.raises(InvalidInput, match=expected):
        lab.vault.publish("bad", path, shard_rows=1000)
    assert lab.vault.datasets() == []


def test_a_late_fault_leaves_the_version_before(published: Lab, tmp_path: Path) -> None:
    """A row that contradicts after several shards leaves the newest version as it was."""
    path = tmp_path / "late.jsonl"
    path.write_text(_MANY + '{"a": "x"}\n')
    with pytest.raises(InvalidInput):
        published.vault.publish("evals", path, shard_rows=100)
    assert [state.version for state in published.vault.show("evals").versions] == [1]
    assert published.vault.scan("evals").read_all().equals(rows(100))


def test_missing_files_and_empty_places_are_named(tmp_path: Path) -> None:
    """A file that is not there, an empty directory and a glob without a match each say so."""
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "nope.jsonl", tmp_path / "empty", tmp_path / "*.jsonl", "nosuchscheme://x/y.csv"):
        with pytest.raises(InvalidInput):
            open_source(str(source))
    with pytest.raises(InvalidInput):
        open_source(42)
