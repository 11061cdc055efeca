"""What crosses a cluster: nothing that could be read there, and nothing that is believed when it was changed."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cluster.faults import FAIL, Faulty
from tests.conftest import Lab
from tests.support.cluster import Cluster
from tests.support.tables import rows
from vault import worker
from vault.encoding import to_base64
from vault.engines import RayEngine
from vault.errors import IntegrityError, NotFound, VaultError
from vault.owner import Vault
from vault.workings import errands
from vault.workings.parts import wrapped_key

#: Words of the rows, of the names and of the places that no part of a cluster may see.
_PLAIN = [b"prompt number", b"the answer to", b"private ", b"evals", b"acme", b"prompt", b"meta", b"rows.parquet"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """300 rows in a Parquet file of row groups of 50."""
    pq.write_table(rows(300), tmp_path / "rows.parquet", row_group_size=50)
    return tmp_path / "rows.parquet"


@pytest.fixture
def workers(lab: Lab, engine: RayEngine) -> Faulty:
    """Workers that show what crosses, and may change it."""
    return Faulty(engine, lab.folder, lab.vault.parts.vault)


@pytest.fixture
def watched(lab: Lab, workers: Faulty) -> Vault:
    """The lab's vault with those workers."""
    return Vault(lab.folder, replace(lab.vault.parts, workers=workers))


def test_no_row_name_statistic_or_key_crosses(lab: Lab, watched: Vault, workers: Faulty, source: Path) -> None:
    """Tasks and results of a publish, a fan-out and a rekey, byte by byte."""
    watched.publish("evals", source, key="id", shard_rows=50)
    watched.grant("acme", "evals", columns=["prompt"])
    watched.publish("evals", source, key="id", shard_rows=50)
    watched.rekey()
    crossed = workers.sent + workers.came
    assert len(crossed) >= 2 * (6 + 1 + 6 + 2)
    with lab.vault.parts.catalog.read() as transaction:
        found = [row for place in transaction.compartments() for row in transaction.keys(place.id)]
    wrapped = [row.wrapped for row in found]
    held = [lab.vault.parts.keyring.open(wrapped_key(lab.vault.parts.vault, row)) for row in found]
    assert len(held) > 6
    secret = [*_PLAIN, *wrapped, *held, *(to_base64(each).encode() for each in (*wrapped, *held))]
    # As numbers stand in an Arrow listing: the bounds of the row key in the last shard.
    secret += [(250).to_bytes(8, "little") + (299).to_bytes(8, "little")]
    for parcel in crossed:
        assert parcel[:1] == b"\x01"
        for each in secret:
            assert each not in parcel


def test_nothing_of_it_is_in_the_clusters_files(
    lab: Lab, ray_cluster: Cluster, engine: RayEngine, source: Path, tmp_path: Path
) -> None:
    """Neither what is spilled nor a log of Ray's holds a value, also after an error whose text quotes one."""
    parts = lab.vault.parts
    failing = Faulty(engine, lab.folder, parts.vault, FAIL, tmp_path / "happened")
    vault = Vault(lab.folder, replace(parts, workers=failing))
    with pytest.raises(VaultError, match="a worker failed"):
        vault.publish("evals", source, shard_rows=50)
    time.sleep(0.5)  # Ray's processes write their logs by the way
    files = [path for path in Path(ray_cluster.session).rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    for path in files:
        data = path.read_bytes()
        for word in (b"planted answer", b"prompt number", b"the answer to"):
            assert word not in data, path.name


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_task_that_was_changed_is_not_done(watched: Vault, workers: Faulty, source: Path) -> None:
    """A worker does nothing that the driver did not say."""
    workers.change_task = _flipped
    with pytest.raises(IntegrityError, match="was changed on its way"):
        watched.publish("evals", source, shard_rows=50)
    with pytest.raises(NotFound):
        watched.show("evals")


def test_a_task_of_another_job_is_not_done(lab: Lab, watched: Vault, workers: Faulty, source: Path) -> None:
    """A task that was good once is so for its own job alone."""
    watched.publish("evals", source, shard_rows=300)
    earlier = workers.sent[0]
    workers.change_task = lambda _parcel: earlier
    with pytest.raises(IntegrityError, match="was changed on its way"):
        watched.publish("evals", source, shard_rows=300)
    assert lab.vault.show("evals").versions[-1].version == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda _before, reply: _flipped(reply),
        lambda before, reply: before[0] if before else reply,
        lambda _before, reply: b"\x07" + reply[1:],
    ],
    ids=["altered", "another task's", "another format"],
)
def test_a_result_that_was_changed_is_not_believed(
    watched: Vault, workers: Faulty, source: Path, change: Callable[[list[bytes], bytes], bytes]
) -> None:
    """No chunk that the driver lists is of somebody's making between it and the worker."""
    workers.change = change
    with pytest.raises(IntegrityError, match="came from the cluster"):
        watched.publish("evals", source, shard_rows=50)
    with pytest.raises(NotFound):
        watched.show("evals")


def test_a_made_up_failure_is_a_failure_and_no_more(watched: Vault, workers: Faulty, source: Path) -> None:
    """What comes unsealed can end the work; it cannot pass for a result, or raise what is no error of ours."""
    told = {"done": {"listings": {}, "copies": {}, "keys": None}, "error": "os.system", "text": "x" * 1000}
    workers.change = lambda _before, _reply: b"\x00" + json.dumps(told).encode()
    with pytest.raises(VaultError) as caught:
        watched.publish("evals", source, shard_rows=50)
    assert type(caught.value) is VaultError
    assert str(caught.value) == "x" * 500
    with pytest.raises(NotFound):
        watched.show("evals")


def test_an_order_is_sealed_in_the_catalog_and_gone_when_the_job_ends(
    lab: Lab, watched: Vault, workers: Faulty, source: Path
) -> None:
    """What the tasks share stands there while they run, for nobody without the owner's metadata key."""
    seen: list[bytes] = []

    def look(_before: list[bytes], reply: bytes) -> bytes:
        with lab.vault.parts.catalog.read() as transaction:
            (job,) = [row for row in transaction.jobs() if row.state == "active"]
            seen.extend(blob.blob for _, blob in transaction.steps(job.id))
        return reply

    workers.change = look
    watched.publish("evals", source, shard_rows=300)
    assert seen
    assert not any(word in blob for blob in seen for word in _PLAIN)
    with lab.vault.parts.catalog.read() as transaction:
        assert not [step for row in transaction.jobs() for step in transaction.steps(row.id)]


def _listening(pids: set[int]) -> set[str]:
    """The addresses, as the kernel writes them, that processes listen on."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in sockets and (words[3] == "0A" or table.startswith("udp")):
                found.add(words[1].split(":")[0])
    return found


def _with_children(pid: int) -> set[int]:
    found, waiting = set(), [pid]
    while waiting:
        each = waiting.pop()
        found.add(each)
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            waiting += map(int, path.read_text().split())
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc, which is Linux's")
def test_a_cluster_that_is_started_here_listens_on_loopback_alone(ray_cluster: Cluster, engine: RayEngine) -> None:
    """Every socket of every process of it; whoever reached one could run code as the worker."""
    assert engine.workers == 2
    addresses = _listening(_with_children(ray_cluster.pid))
    assert len(addresses) >= 1
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_cluster_that_is_started_here_lets_in_its_own_alone(ray_cluster: Cluster) -> None:
    """Another user of the machine, without the token, cannot join."""
    import subprocess
    import sys

    script = "import sys; from vault.engines import RayEngine\nRayEngine(sys.argv[1])"
    environment = {**os.environ, **ray_cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", script, ray_cluster.address],
        capture_output=True,
        check=False,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 1
    assert "--ray-address: there is no Ray cluster that can be joined" in done.stderr


def test_an_idle_worker_holds_no_key(lab: Lab, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys go when their age is over, whether or not anything else is done."""
    lab.vault.publish("evals", source)
    monkeypatch.setattr(worker, "_open", type(worker._open)())
    monkeypatch.setattr(worker, "_sweeping", False)
    monkeypatch.setattr(worker, "_SWEEP_SECONDS", 0.05)
    path = lab.folder / "owner" / "config.toml"
    path.write_text(path.read_text() + "\n[data_keys]\nage = 0.2\n")
    parts = worker.errands_of(str(lab.folder), lab.vault.parts.vault).parts
    parts.sealer()
    assert parts.keyring._held
    deadline = time.monotonic() + 10
    while parts.keyring._held:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_opened_order_holds_no_key_but_wrapped_ones(lab: Lab, source: Path) -> None:
    """What a worker keeps between tasks opens nothing by itself."""
    from vault.publish import PublishOptions, begin_publication

    opened = begin_publication(lab.vault.parts, "evals", rows(1).schema, PublishOptions())
    kept = errands.Errands(lab.vault.parts)
    order = kept._order(opened.job, opened.step)
    assert isinstance(order, errands.RowsOrder)
    plain = {held.plaintext for held in lab.vault.parts.keyring._held.values()}
    assert plain
    assert not plain & {key.wrapped for key in order.keys.values()}
    opened.abandon()
