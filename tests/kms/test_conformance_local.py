"""The local keystore keeps every KMS backend's obligations, with a passphrase and without."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vault.kms import LocalKms

from .conformance import Connect, KmsConformance, Trouble

# The least cost that a key file may name, so that the suite is quick.
CHEAP = 2**14


class Disk(KmsConformance):
    """Trouble is the disk's: it is slow, fails before a change is durable, or after the change was made."""

    @pytest.fixture
    def trouble(self, monkeypatch: pytest.MonkeyPatch) -> Trouble:
        """Trouble in the system calls that key files stand on, met once."""
        real_stat, real_sync = os.stat, os.fsync

        @contextmanager
        def begin(kind: str) -> Iterator[Callable[[], bool]]:
            met: list[str] = []

            def meet() -> None:
                if not met:
                    met.append(kind)
                    if kind != "slow":
                        raise OSError(errno.EIO, "trouble")
                    time.sleep(1)

            def os_stat(path: Any, **options: Any) -> os.stat_result:
                if kind != "lost" and str(path).endswith(".json"):
                    meet()
                return real_stat(path, **options)

            def fsync(descriptor: int) -> None:
                real_sync(descriptor)
                # A folder is synced when the file is in its place.
                if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (kind == "lost"):
                    meet()

            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", os_stat)
                patch.setattr(os, "fsync", fsync)
                # Reading a file has no answer that could be lost.
                yield lambda: bool(met) or kind == "lost"

        return begin


class TestUnsealed(Disk):
    """Key files without a passphrase."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        """Keystores over the same two folders."""
        return lambda: LocalKms(tmp_path / "owner", tmp_path / "broker", None)


class TestSealed(Disk):
    """Key files under a passphrase."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        """Keystores over the same two folders and with the same passphrase."""
        return lambda: LocalKms(tmp_path / "owner", tmp_path / "broker", "correct horse", scrypt_n=CHEAP)
