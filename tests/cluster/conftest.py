"""A vault whose publishes, fan-outs and rekeys are done by the worker processes of a Ray cluster."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Lab
from tests.support.cluster import Cluster, cluster
from vault.engines import RayEngine
from vault.owner import Vault
from vault.worker import RayWorkers


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cluster]:
    """A running cluster; test processes share it."""
    base = tmp_path_factory.getbasetemp()
    with cluster((base if worker_id == "master" else base.parent) / "ray") as found:
        yield found


@pytest.fixture(scope="session")
def engine(ray_cluster: Cluster) -> Iterator[RayEngine]:
    """This process, joined to it."""
    before = dict(os.environ)
    os.environ.update(ray_cluster.environment)
    yield RayEngine(ray_cluster.address)
    import ray

    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def spread(engine: RayEngine) -> Callable[[Lab], Vault]:
    """A lab's vault, opened so that workers do its work."""

    def opened(lab: Lab) -> Vault:
        parts = lab.vault.parts
        return Vault(lab.folder, replace(parts, workers=RayWorkers(Path(lab.folder), parts.vault, engine)))

    return opened
