"""Shared files where the store is a bucket."""

from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.sharing import arrival, fetched, listed, table_of


def test_files_are_spooled_in_a_bucket(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones in parts, once, sealed; another broker reads them, and gc takes them away."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_ENDPOINT_URL", moto)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"shared-{vault.encoding.new_id()[:12]}"
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    lab = Lab(tmp_path / "lab", vault.init(tmp_path / "lab", store=f"s3://{bucket}/vault"))
    lab.vault.add_vendor("acme")
    noise = np.random.default_rng(7).bytes
    lab.vault.publish("big", pa.table({"id": range(40), "blob": [noise(300_000) for _ in range(40)]}), key="id")
    lab.vault.grant("acme", "big", ["id", "blob"])
    parts = lab.broker_parts()
    (file,) = listed(parts, arrival(lab, parts), "big")
    assert file.size > 10_000_000
    other = lab.broker_parts()
    assert table_of(fetched(other, file))["id"].to_pylist() == list(range(40))
    assert [each.id for each in listed(other, arrival(lab, other), "big")] == [file.id]

    def spooled() -> list[str]:
        return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix="vault/spool/").get("Contents", [])]

    (name,) = spooled()
    assert b"PAR1" not in s3.get_object(Bucket=bucket, Key=name)["Body"].read()
    lab.vault.contain("acme")
    assert spooled() == []
