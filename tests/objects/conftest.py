"""One emulator of each cloud for each worker, where it is installed, and a line to an S3 server."""

from collections.abc import Iterator

import pytest

from tests.objects.clouds import emulator
from tests.objects.places import s3_environment
from tests.support.bucketline import BucketLine


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


@pytest.fixture
def line(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketLine]:
    """A line to an S3 server, which dsvault goes by."""
    with BucketLine(moto) as found:
        for name, value in s3_environment(found.url).items():
            monkeypatch.setenv(name, value)
        yield found
