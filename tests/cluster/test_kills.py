"""A killed worker, a raised error and a driver killed before its commit each end in one whole version or none."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cluster.faults import ALWAYS_LOSE, DIE, FAIL, LOSE, SAID, Faulty
from tests.conftest import Lab
from tests.support.cluster import Cluster
from tests.support.tables import rows
from vault.engines import RayEngine
from vault.errors import NotFound, Unavailable, VaultError
from vault.owner import Vault

_NOW = timedelta(0)
_DRIVER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import vault
from vault import rotate
from vault.engines import RayEngine
from vault.worker import RayWorkers
from vault.workings import publication

def stand(*_arguments):
    print("ready", flush=True)
    time.sleep(600)

folder, address, act = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lab = vault.open(folder, engine="ray", ray_address=address)
if act == "publish":
    publication.Publication.finish = stand
    lab.publish("evals", sys.argv[4], shard_rows=50)
else:
    rotate._moved = stand
    lab.rekey(vendor="owner")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """300 rows in a Parquet file of row groups of 50."""
    pq.write_table(rows(300), tmp_path / "rows.parquet", row_group_size=50)
    return tmp_path / "rows.parquet"


def _faulty(lab: Lab, engine: RayEngine, fault: str, marker: Path) -> Vault:
    parts = lab.vault.parts
    return Vault(lab.folder, replace(parts, workers=Faulty(engine, lab.folder, parts.vault, fault, marker)))


def _nothing_left(vault: Vault) -> None:
    """gc removes what a lost attempt put, and then there is nothing else to remove."""
    assert vault.gc(_NOW).objects
    report = vault.check()
    assert report.ok
    assert not report.garbage


@pytest.mark.parametrize("fault", [DIE, LOSE])
def test_a_publish_outlives_a_worker(lab: Lab, engine: RayEngine, source: Path, tmp_path: Path, fault: str) -> None:
    """A worker that is killed, or cannot reach the store, in the midst of an object: another does its task again."""
    vault = _faulty(lab, engine, fault, tmp_path / "happened")
    vault.publish("evals", source, key="id", shard_rows=50)
    assert (tmp_path / "happened").exists()
    assert vault.scan("evals").read_all().equals(rows(300))
    _nothing_left(vault)


@pytest.mark.parametrize("fault", [DIE, LOSE])
def test_a_rekey_outlives_a_worker(lab: Lab, engine: RayEngine, source: Path, tmp_path: Path, fault: str) -> None:
    """The same for chunks that are copied."""
    lab.vault.publish("evals", source, shard_rows=50)
    vault = _faulty(lab, engine, fault, tmp_path / "happened")
    vault.rekey()
    assert (tmp_path / "happened").exists()
    assert vault.scan("evals").read_all().equals(rows(300))
    assert vault.check().ok
    _nothing_left(vault)


def test_an_error_of_a_worker_ends_in_no_version(lab: Lab, engine: RayEngine, source: Path, tmp_path: Path) -> None:
    """What is not a matter of reaching something is not tried again; its own text stays where it was raised."""
    vault = _faulty(lab, engine, FAIL, tmp_path / "happened")
    with pytest.raises(VaultError, match="a worker failed at its part of the work") as caught:
        vault.publish("evals", source, shard_rows=50)
    assert "ValueError" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert SAID not in repr(error)
        error = error.__cause__ or error.__context__
    with pytest.raises(NotFound):
        vault.show("evals")
    _nothing_left(vault)


def test_a_store_that_stays_away_ends_in_no_version(lab: Lab, engine: RayEngine, source: Path, tmp_path: Path) -> None:
    """Tried again a few times, and then told in one sentence."""
    vault = _faulty(lab, engine, ALWAYS_LOSE, tmp_path / "unused")
    with pytest.raises(Unavailable, match="could not reach the store, the catalog or the KMS"):
        vault.publish("evals", source, shard_rows=300)
    with pytest.raises(NotFound):
        vault.show("evals")


def _kill_driver(lab: Lab, cluster: Cluster, act: str, source: Path) -> None:
    """Run a driver until everything is put and nothing committed, and kill it."""
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(lab.folder), cluster.address, act, str(source)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **cluster.environment},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_driver_killed_before_its_commit_leaves_no_version(
    lab: Lab, ray_cluster: Cluster, source: Path, spread: Callable[[Lab], Vault]
) -> None:
    """All chunks are there and none counts; the next publish is whole, and gc removes the first one's."""
    _kill_driver(lab, ray_cluster, "publish", source)
    with pytest.raises(NotFound):
        lab.vault.show("evals")
    vault = spread(lab)
    assert vault.publish("evals", source, shard_rows=50).version == 1
    assert vault.scan("evals").read_all().equals(rows(300))
    _nothing_left(vault)


def test_a_rekey_whose_driver_was_killed_goes_on(
    lab: Lab, ray_cluster: Cluster, source: Path, spread: Callable[[Lab], Vault]
) -> None:
    """The old version is whole until the commit, and what workers copied is not copied again."""
    lab.vault.publish("evals", source, shard_rows=50)
    _kill_driver(lab, ray_cluster, "rekey", source)
    assert lab.vault.scan("evals").read_all().equals(rows(300))
    vault = spread(lab)
    (done,) = vault.rekey(vendor="owner")
    assert done.chunks + done.resumed == 36
    assert vault.scan("evals").read_all().equals(rows(300))
    assert vault.check().ok
