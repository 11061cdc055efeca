"""One emulator of each cloud for each worker, where it is installed."""

from collections.abc import Iterator

import pytest

from tests.objects.clouds import emulator


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """A running emulator of Google's storage."""
    with emulator("gcs") as url:
        yield url


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """A running emulator of Azure's blobs."""
    with emulator("azure") as url:
        yield url
