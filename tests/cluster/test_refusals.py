"""What is said where Ray is not there, or is not asked for rightly."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import vault
from tests.conftest import Lab
from tests.support.cluster import Cluster
from tests.support.servers import free_port
from tests.support.tables import rows
from vault.errors import InvalidInput


def _run(*arguments: object, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "vault_cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, check=False, text=True, env={**os.environ, **(environment or {})}, timeout=200
    )


def test_an_engine_that_is_none_is_refused(lab: Lab) -> None:
    """The option is named, and what it takes."""
    with pytest.raises(InvalidInput, match="--engine: use local or ray"):
        vault.open(lab.folder, engine="spark")
    with pytest.raises(InvalidInput, match="--ray-address: it goes with --engine ray"):
        vault.open(lab.folder, ray_address="127.0.0.1:6379")
    done = _run("rotate", "rekey", "--engine", "threads", "--vault", lab.folder)
    assert done.returncode == 1
    assert done.stderr == "dsvault: --engine: use local or ray\n"


def test_a_cluster_that_is_not_there_is_told_at_once(lab: Lab) -> None:
    """Ray would wait for many minutes for whatever may yet listen at the address."""
    address = f"127.0.0.1:{free_port()}"
    for given in (address, f"ray://{address}"):
        done = _run("rotate", "rekey", "--engine", "ray", "--ray-address", given, "--vault", lab.folder)
        assert done.returncode == 1
        assert done.stderr == f"dsvault: --ray-address: nothing answers at {address}; is the cluster running?\n"


def test_without_ray_one_sentence_says_what_to_install(lab: Lab, tmp_path: Path) -> None:
    """No traceback, whoever asks."""
    (tmp_path / "ray.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = _run("rotate", "rekey", "--engine", "ray", "--vault", lab.folder, environment={"PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr == "dsvault: --engine ray: Ray is not installed; pip install 'dsvault[ray]'\n"


def test_ray_that_listens_everywhere_already_is_not_used(lab: Lab) -> None:
    """A process that imported Ray before would start it on every interface: refused, with what helps."""
    script = "import sys, ray, vault\nvault.open(sys.argv[1], engine='ray')"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(lab.folder)],
        capture_output=True,
        check=False,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 1
    assert "Ray was imported before the vault was opened" in done.stderr.splitlines()[-1]


def test_the_commands_use_a_cluster(lab: Lab, ray_cluster: Cluster, tmp_path: Path) -> None:
    """publish, grant and rekey with --engine ray and an address."""
    pq.write_table(rows(100), tmp_path / "a.parquet", row_group_size=25)
    there = ("--engine", "ray", "--ray-address", ray_cluster.address, "--vault", lab.folder)
    for command in (
        ("publish", tmp_path / "a.parquet", "--dataset", "evals", "--key", "id", "--shard-rows", "25"),
        ("grant", "acme", "evals", "--columns", "id,prompt"),
        ("rotate", "rekey"),
    ):
        done = _run(*command, *there, environment=ray_cluster.environment)
        assert (done.returncode, done.stderr) == (0, "")
    assert lab.vault.scan("evals").read_all().equals(rows(100))
    assert lab.vault.check().ok


def test_a_cluster_that_does_not_start_is_told_in_one_sentence(lab: Lab, tmp_path: Path) -> None:
    """Ray's own error is of no kind, and says nothing that helps."""
    (tmp_path / "ray.py").write_text(
        "class util:\n    get_node_ip_address = staticmethod(lambda: '127.0.0.1')\n"
        "def init(**_options):\n    raise Exception('the raylet took too long')\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = _run("rotate", "rekey", "--engine", "ray", "--vault", lab.folder, environment={"PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr == "dsvault: --engine ray: a cluster could not be started on this machine; try again\n"
