"""Fixtures: labs in temporary directories, and one OpenBao, one SeaweedFS and one AWS endpoint for each worker.

On the servers tests keep apart by mounts and keys of their own.
"""

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deployed import Cluster, spoken_of
from tests.support.deployed import cluster as running_cluster
from tests.support.memory import in_memory
from tests.support.moulds import Anew, More, Moulds
from tests.support.on_cluster import ONLY_HERE
from tests.support.postgres import postgres
from tests.support.servers import OpenBao, SeaweedFS, aws, openbao, seaweedfs
from vault import access, deployment
from vault.keyring import CacheLimits
from vault.kms import Kms
from vault.owner import Vault
from vault.workings.parts import Parts

#: Fails the very test in which a key, a token or a value shows in a log or an error.
pytest_plugins = ["tests.support.secrecy"]

_ROOT = Path(__file__).parent.parent
_BEFORE = 4


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory, and let processes that they start find dsvault compiled.

    Most of a short process's time would go into compiling. Where Python is told to write nothing beside the sources,
    what is compiled lies in pytest's own cache.
    """
    if not hasattr(config, "workerinput") and "TMPDIR" not in os.environ:
        in_memory()
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_ROOT / ".pytest_cache" / "bytecode"))


@dataclass
class Lab:
    """A vault with vendors, and short ways to what tests do with it."""

    folder: Path
    vault: Vault

    def broker_parts(self, kms_wrap: Callable[[Kms], Kms] = lambda kms: kms, key_age: float = 60) -> Parts:
        """A fresh broker's parts, as a newly started process would have them."""
        return deployment.open_broker(self.folder, kms_wrap=kms_wrap, limits=CacheLimits(age=key_age))[0]

    def caller(self, parts: Parts, vendor: str) -> access.Caller:
        """The vendor, authenticated with a new credential."""
        profile = self.vault.issue_credential(vendor, bearer=True).profile
        return access.authenticate(parts, profile.token, "test")

    def profile(self, vendor: str, endpoint: str) -> Path:
        """A profile file for the vendor."""
        path = self.folder.parent / f"{vendor}-{len(list(self.folder.parent.glob('*.json')))}.json"
        self.vault.issue_credential(vendor, endpoint=endpoint).save(path)
        return path


@pytest.fixture(scope="session")
def bao() -> Iterator[OpenBao]:
    """A running OpenBao."""
    with openbao() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of a running moto server."""
    with aws() as url:
        yield url


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    """A running SeaweedFS."""
    with seaweedfs() as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--deployment cluster`` has the labs of all tests live on SeaweedFS, PostgreSQL and OpenBao."""
    parser.addoption("--deployment", choices=["embedded", "cluster"], default="embedded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On the cluster leave out what is about one machine's files, as listed; begin with what takes longest."""
    if config.getoption("--deployment") == "cluster":
        here = [item for item in items if item.nodeid.partition("[")[0] in ONLY_HERE]
        config.hook.pytest_deselected(items=here)
        items[:] = [item for item in items if item not in here]
    # Each worker is given a run of them to begin with: begun last, a test of minutes would be waited for by all.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = [item for item in items if item.get_closest_marker("minutes")]
    rest = [item for item in items if item not in first]
    items[:] = []
    for worker in range(workers):
        share = rest[worker * len(rest) // workers : (worker + 1) * len(rest) // workers]
        # Not at the very beginning, where the run before may end.
        items += [*share[:_BEFORE], *first[worker::workers], *share[_BEFORE:]]


def pytest_collection_finish() -> None:
    """What is loaded by now stays, and need not be looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked ``both_catalogs`` and has a catalog is run on SQLite and on PostgreSQL."""
    if metafunc.config.getoption("--deployment") == "cluster":
        return  # where every catalog is PostgreSQL's
    if metafunc.definition.get_closest_marker("both_catalogs") and "catalog_url" in metafunc.fixturenames:
        metafunc.parametrize("catalog_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def deployed() -> Iterator[Cluster]:
    """A running SeaweedFS, PostgreSQL and OpenBao, which the processes of the tests know of."""
    with running_cluster() as servers, spoken_of(servers):
        yield servers


@pytest.fixture(scope="session", autouse=True)
def _deployment(request: pytest.FixtureRequest) -> Iterator[None]:
    """Vaults are made where ``--deployment`` says."""
    if request.config.getoption("--deployment") == "cluster":
        Anew.elsewhere = request.getfixturevalue("deployed").places
    yield
    Anew.elsewhere = None


@pytest.fixture
def catalog_url(request: pytest.FixtureRequest) -> str | None:
    """Where the lab's catalog is: None for the SQLite file in its directory, else a database that PostgreSQL is to make."""
    return postgres().unmade() if getattr(request, "param", "sqlite") == "postgresql" else None


@pytest.fixture(scope="session")
def moulds(tmp_path_factory: pytest.TempPathFactory) -> Anew:
    """What vaults are made with: copies, where a module does not say otherwise."""
    return Moulds(tmp_path_factory.mktemp("moulds"))


@pytest.fixture
def lab(moulds: Anew, tmp_path: Path, catalog_url: str | None) -> Lab:
    """A vault with the vendors acme and globex and no dataset."""
    return Lab(tmp_path / "lab", moulds.vault("vendors", tmp_path / "lab", catalog_url))


@pytest.fixture
def published(moulds: Anew, tmp_path: Path, catalog_url: str | None) -> Lab:
    """The same with the dataset ``evals``: 100 rows in shards of 30."""
    return Lab(tmp_path / "lab", moulds.vault("published", tmp_path / "lab", catalog_url))


@pytest.fixture
def granted(moulds: Anew, tmp_path: Path, catalog_url: str | None) -> Lab:
    """The same with acme granted id, prompt and lang where lang is 'en'."""
    return Lab(tmp_path / "lab", moulds.vault("granted", tmp_path / "lab", catalog_url))


@pytest.fixture
def cast(moulds: Anew, tmp_path: Path, catalog_url: str | None) -> Callable[..., Lab]:
    """Makes a lab with what a function adds to a vault of one of these names; the next test's is a copy."""

    def made(more: More, name: str = "vendors") -> Lab:
        return Lab(tmp_path / "lab", moulds.vault(name, tmp_path / "lab", catalog_url, more))

    return made
