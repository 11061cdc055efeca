"""One OpenBao and one AWS endpoint for each worker; tests keep apart by mounts and keys of their own."""

from collections.abc import Iterator

import pytest

from tests.support.servers import OpenBao, aws, openbao


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
