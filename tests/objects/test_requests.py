"""How many requests each act makes: each costs money and a wait, so that none may creep in."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.objects.places import moto_bucket
from tests.support.brokers import broker
from tests.support.bucketline import BucketLine
from tests.support.tables import rows
from vault import access
from vault.policy import Request

#: Of `rows`: each column is a chunk of its own, in four shards of 30 rows and less.
_COLUMNS, _SHARDS = rows(1).num_columns, 4
_CHUNKS = _COLUMNS * _SHARDS


@pytest.fixture
def lab(tmp_path: Path, line: BucketLine, moto: str) -> Lab:
    """A vault on a bucket, with the vendor acme."""
    opened = vault.init(tmp_path / "lab", store=f"s3://{moto_bucket(moto)}/vault")
    opened.add_vendor("acme")
    return Lab(tmp_path / "lab", opened)


def _counted(line: BucketLine, act: Callable[[], Any]) -> tuple[dict[str, int], dict[str, int], Any]:
    """What an act asks of objects, and what it asks of everything."""
    with line.counting("objects") as objects, line.counting() as every:
        found = act()
    return dict(objects), dict(every), found


def test_each_act_makes_the_requests_that_it_has_to(lab: Lab, line: BucketLine) -> None:
    """One put for each chunk that is written and one get for each that is read, and a few for what belongs to them."""
    publish = lambda: lab.vault.publish("evals", rows(100), key="id", shard_rows=30)  # noqa: E731
    objects, every, _ = _counted(line, publish)
    # The manifest is one object more; beside objects there are the dataset's head, its backup, and the log's newest.
    assert objects == {"PutObject": _CHUNKS + 1}
    assert every["PutObject"] - objects["PutObject"] <= 4
    assert every.get("GetObject", 0) <= 1
    assert every.keys() <= {"PutObject", "ListObjects", "GetObject"}
    assert every.get("ListObjects", 0) <= 2

    grant = lambda: lab.vault.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'")  # noqa: E731
    objects, every, _ = _counted(line, grant)
    assert objects == {"GetObject": 3 * _SHARDS + 1, "PutObject": 3 * _SHARDS + 1}
    assert "HeadObject" not in every

    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    read = lambda: sum(b.num_rows for b in access.open_delivery(parts, caller, Request("evals")).batches)  # noqa: E731
    objects, every, count = _counted(line, read)
    assert count == 50
    assert objects == {"GetObject": 3 * _SHARDS + 1}
    assert "HeadObject" not in every

    owner = vault.open(lab.folder)
    objects, every, report = _counted(line, owner.check)
    assert report.faults == []
    assert objects == {"ListObjects": 1, "GetObject": _CHUNKS + 3 * _SHARDS + 2}

    objects, every, done = _counted(line, lambda: lab.vault.gc(timedelta(0)))
    assert done.objects == 0
    assert objects.pop("GetObject", 0) <= 2  # manifests, which it may have read before
    assert objects == {"ListObjects": 1, "ListUploads": 1}


def test_a_lease_asks_for_each_chunk_once(lab: Lab, line: BucketLine) -> None:
    """The broker signs addresses without a request, and the client fetches each chunk with one."""
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    lab.vault.grant("acme", "evals", ["id", "prompt"], delivery="lease")
    with broker(lab.folder) as url:
        dataset = vault.connect(lab.profile("acme", url)).dataset("evals")
        objects, _, table = _counted(line, lambda: dataset.to_arrow(delivery="lease"))
    assert table.num_rows == 100
    # The manifest, which the broker may have read before.
    assert 2 * _SHARDS <= objects.pop("GetObject") <= 2 * _SHARDS + 1
    assert objects == {}


def test_what_is_removed_goes_with_few_requests(lab: Lab, line: BucketLine) -> None:
    """gc removes a thousand objects at a time."""
    store = lab.vault.parts.store
    for number in range(12):
        store.put(f"objects/left/{number:02d}", b"x")
    before = line.counts.copy()
    lab.vault.gc(timedelta(0))
    after = line.counts - before
    assert list(store.list("objects/left")) == []
    assert 1 <= after["DeleteObjects"] <= 3  # one for the chunks, and one each for what it prunes elsewhere
    assert after["DeleteObject"] == 0


@pytest.mark.parametrize("where", [None, "id >= 0"])
def test_chunks_are_fetched_beside_one_another(lab: Lab, line: BucketLine, where: str | None) -> None:
    """A read waits for many chunks at once, of several shards and columns, and not for one after the other."""
    lab.vault.publish("evals", rows(200), key="id", shard_rows=10)
    lab.vault.grant("acme", "evals", ["id", "prompt", "score"], where=where)
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    line.latency, line.peak = 0.05, 0
    assert sum(batch.num_rows for batch in access.open_delivery(parts, caller, Request("evals")).batches) == 200
    assert line.peak >= 8


def test_chunks_are_put_and_copied_beside_one_another(lab: Lab, line: BucketLine) -> None:
    """A publish and a fan-out have several requests under way, however few processors there are."""
    line.latency, line.peak = 0.05, 0
    lab.vault.publish("evals", rows(100), key="id", shard_rows=10)
    assert line.peak >= 5
    line.peak = 0
    lab.vault.grant("acme", "evals", ["id", "prompt", "score"])
    assert line.peak >= 5
