"""The whole story of the demo on each KMS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import OpenBao
from tests.support.softhsm import softhsm


def _play(folder: Path, uri: str, **environment: str) -> list[str]:
    command = [sys.executable, "-m", "vault_cli.main", "demo", "--dir", str(folder / "demo"), "--kms", uri, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    return [step["step"] for step in document["steps"]]


@pytest.fixture
def told(tmp_path: Path) -> list[str]:
    """The steps of the story on a local keystore, which every other KMS has to tell too."""
    return _play(tmp_path / "local", f"local://{tmp_path / 'keys'}")


def test_on_openbao(tmp_path: Path, told: list[str], bao: OpenBao) -> None:
    """Publish, grant, serve, fetch, refuse, revoke, rewrap, rekey, check: on OpenBao's transit engine."""
    assert _play(tmp_path, bao.uri(bao.mount()), BAO_TOKEN=bao.token) == told


def test_on_aws(tmp_path: Path, told: list[str], moto: str) -> None:
    """The same on AWS KMS, as far as moto shows it."""
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    uri = f"awskms://{moto.removeprefix('http://')}/?region=eu-central-1"
    assert _play(tmp_path, uri, **keys) == told


def test_on_an_hsm(tmp_path: Path, told: list[str]) -> None:
    """The same on an HSM over PKCS#11."""
    hsm = softhsm()
    assert _play(tmp_path, hsm.uri, **hsm.environment) == told
