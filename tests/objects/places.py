"""The stores that the conformance suite runs on, each empty and a test's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from tests.support.servers import S3_KEY, S3_SECRET, SeaweedFS
from vault.encoding import new_id
from vault.objects import ObjectStore, open_store

#: What always runs; GCS and Azure run where `tests/objects/clouds.py` finds their emulators.
ALWAYS = ["file", "memory", "moto", "seaweed"]


def s3_environment(url: str) -> dict[str, str]:
    """What s3fs and boto3 find a server by."""
    return {
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }


def moto_bucket(url: str) -> str:
    """A new bucket on moto's server."""
    name = f"tests-{new_id()[:12]}"
    client = boto3.client("s3", endpoint_url=url, aws_access_key_id=S3_KEY, aws_secret_access_key=S3_SECRET)
    client.create_bucket(Bucket=name)
    client.close()
    return name


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def store_url(kind: str, request: pytest.FixtureRequest, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """The URL of a new store of a kind, for which the environment is set."""
    if kind == "file":
        return str(folder / "store")
    if kind == "memory":
        return f"memory://{folder.name}-{new_id()[:8]}"
    if kind == "seaweed":
        server: SeaweedFS = request.getfixturevalue("seaweed")
        url, bucket = server.url, server.bucket()
    elif kind == "moto":
        url = request.getfixturevalue("moto")
        bucket = moto_bucket(url)
    else:
        from tests.objects.clouds import cloud_store

        return cloud_store(kind, request, patch)
    for name, value in s3_environment(url).items():
        patch.setenv(name, value)
    return f"s3://{bucket}/vault"


def opened(kind: str, request: pytest.FixtureRequest, folder: Path, patch: pytest.MonkeyPatch) -> ObjectStore:
    """A new store of a kind."""
    return open_store(store_url(kind, request, folder, patch))


def is_set(name: str) -> bool:
    """Whether a variable names a file that is there."""
    return bool(os.environ.get(name)) and Path(os.environ[name]).exists()
