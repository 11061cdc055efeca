"""Brokers as they run in containers: told everything by the environment, with a folder that holds the log key alone."""

import shutil
from pathlib import Path

from vault.configuration import Configuration

__all__ = ["bare_broker"]


def bare_broker(vault: Path, folder: Path) -> dict[str, str]:
    """Make ``folder`` a bare broker's of a vault; returns the variables that say the rest."""
    found = Configuration.read(vault / "broker" / "config.toml")
    (folder / "broker").mkdir(mode=0o700, parents=True)
    for path in (vault / "broker").glob("log*.json"):
        shutil.copy(path, folder / "broker")
    return {
        "DSVAULT_STORE": found.store,
        "DSVAULT_CATALOG": found.catalog,
        "DSVAULT_KMS": found.kms,
        "DSVAULT_ROOT_FINGERPRINT": found.root_fingerprint,
    }
