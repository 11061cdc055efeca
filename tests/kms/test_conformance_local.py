"""The local keystore keeps every KMS backend's obligations, with a passphrase and without."""

from pathlib import Path

import pytest

from vault.kms import LocalKms

from .conformance import Connect, KmsConformance

# The least cost that a key file may name, so that the suite is quick.
CHEAP = 2**14


class TestUnsealed(KmsConformance):
    """Key files without a passphrase."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        """Keystores over the same two folders."""
        return lambda: LocalKms(tmp_path / "owner", tmp_path / "broker", None)


class TestSealed(KmsConformance):
    """Key files under a passphrase."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        """Keystores over the same two folders and with the same passphrase."""
        return lambda: LocalKms(tmp_path / "owner", tmp_path / "broker", "correct horse", scrypt_n=CHEAP)
