"""Fixtures: labs in temporary directories, and one OpenBao, one SeaweedFS and one AWS endpoint for each worker.

On the servers tests keep apart by mounts and keys of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

import vault
from tests.support.servers import OpenBao, SeaweedFS, aws, openbao, seaweedfs
from tests.support.tables import rows
from vault import access, deployment
from vault.keyring import CacheLimits
from vault.kms import Kms
from vault.owner import Vault
from vault.workings.parts import Parts

#: Fails the very test in which a key, a token or a value shows in a log or an error.
pytest_plugins = ["tests.support.secrecy"]


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


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A vault with the vendors acme and globex and no dataset."""
    opened = vault.init(tmp_path / "lab")
    opened.add_vendor("acme")
    opened.add_vendor("globex")
    # What the log says of keys that were opened comes a moment later; tests that look at the log's rows have it there.
    opened.parts.catalog.settle()
    return Lab(tmp_path / "lab", opened)


@pytest.fixture
def published(lab: Lab) -> Lab:
    """The same with the dataset ``evals``: 100 rows in shards of 30."""
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    return lab


@pytest.fixture
def granted(published: Lab) -> Lab:
    """The same with acme granted id, prompt and lang where lang is 'en'."""
    published.vault.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'", expires=timedelta(days=1))
    return published
