"""Hugging Face's datasets over a granted slice: streamed, and never in a cache on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from tests.support.loaders import drained
from tests.support.shown import GRANTED, Shown, expected
from vault.errors import InvalidInput

_IDS = expected()["id"].to_pylist()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library writes of its own goes nowhere else, and it asks nobody."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def test_rows_are_equal(given: Shown) -> None:
    """With the granted columns alone and types from Arrow's, each part a read in the log; a revoked grant is refused."""
    dataset = given.dataset.to_datasets(parts=3)
    assert tuple(dataset.features) == GRANTED
    assert dataset.num_shards == 3
    found = sorted(dataset, key=lambda row: row["id"])
    assert found == _rows(expected())
    # One beside the parts, without a row, for the types.
    given.check_log(reads=4)
    with given.revoked():
        next(iter(dataset))


def test_arrow_goes_through(given: Shown) -> None:
    """What is asked for as Arrow or by batches is never made into rows."""
    dataset = given.dataset.to_datasets(parts=3, columns=["id", "prompt"]).with_format("arrow")
    batches = list(dataset.iter(batch_size=1000))
    assert {type(batch) for batch in batches} == {pa.Table}
    assert sorted(pa.concat_tables(batches)["id"].to_pylist()) == _IDS


def test_shuffling_is_by_shard_too(given: Shown) -> None:
    """By a seed and the epoch, every row once."""
    dataset = given.dataset.to_datasets(parts=8, columns=["id"]).shuffle(seed=3, buffer_size=10)
    first = [row["id"] for row in dataset]
    dataset.set_epoch(1)
    second = [row["id"] for row in dataset]
    assert sorted(first) == sorted(second) == _IDS
    assert first != second


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_loader_splits_the_shards(given: Shown, start: str) -> None:
    """Workers have every row once; a revoked grant comes out of it in one sentence."""
    pytest.importorskip("torch", reason="torch is not installed: make torch")
    from torch.utils.data import DataLoader

    dataset = given.dataset.to_datasets(parts=4, columns=["id", "vector"])
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=start)
    assert sorted(row["id"] for row in loader) == _IDS
    with given.revoked():
        drained(loader)


def test_in_memory(given: Shown) -> None:
    """All rows as a dataset that has no file, and what is made of it by map has none either."""
    dataset = given.dataset.to_datasets(in_memory=True)
    assert dataset.to_list() == _rows(expected())
    assert dataset.cache_files == []
    assert dataset.map(lambda row: {"twice": 2 * row["id"]}).cache_files == []
    given.check_log(reads=1)


def test_a_type_that_the_library_does_not_have_is_refused_by_name(given: Shown) -> None:
    """In one sentence, before a row is read."""
    given.lab.vault.publish("odd", _odd())
    given.lab.vault.grant("acme", "odd", ["id", "half"])
    with pytest.raises(InvalidInput, match="^column half: datasets has nothing for"):
        given.client.dataset("odd").to_datasets()


def _odd() -> pa.Table:
    return pa.table({"id": [1], "half": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32()))})


_READ = """
import json, sys
import vault

dataset = vault.connect(sys.argv[1]).dataset("shown")
streamed = dataset.to_datasets(parts=3)
memory = dataset.to_datasets(in_memory=True).map(lambda row: {"again": row["prompt"]}).filter(lambda row: row["id"] > 3)
shuffled = streamed.shuffle(seed=1).map(lambda row: row)
batches = streamed.with_format("arrow").iter(10)
json.dump([len(list(streamed)), len(memory), len(list(shuffled)), sum(map(len, batches))], sys.stdout)
"""


def test_no_row_is_written_anywhere(given: Shown, tmp_path: Path) -> None:
    """Neither in the library's cache nor in a temporary directory, by anything that is done with what was read."""
    home = tmp_path / "home"
    places = {name: str(home / name) for name in ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in places.values():
        Path(place).mkdir(parents=True)
    python = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    watched = {**python, **places, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    trace = tmp_path / "opened"
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED + _READ, str(given.profile), str(trace)],
        env=watched,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [60, 58, 60, 60]
    opened = [Path(line) for line in trace.read_text().splitlines()]
    left = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in opened if path.suffix in {".arrow", ".parquet"}]
    for path in left:
        assert b"prompt number" not in path.read_bytes(), path


#: Notes every file that is opened for writing, also one that is gone by the end, and refuses every connection but ours.
_WATCHED = """
import sys

def watch(event, args, note=open(sys.argv[2], "w", buffering=1)):
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wxa+"):
        note.write(args[0] + "\\n")
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] != "127.0.0.1":
        raise RuntimeError("a connection to somewhere else")

sys.addaudithook(watch)
"""
