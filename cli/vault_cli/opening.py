"""Opening the vault that a command is about."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vault.owner import Vault

__all__ = ["open_vault", "split_names"]


def open_vault(folder: Path | None) -> "Vault":
    """The vault, as its owner. The import waits until a command needs it: it costs half a second."""
    from vault import owner

    return owner.open(folder)


def split_names(text: str) -> list[str]:
    """Column names from ``a,b,c``; a name that holds a comma is written in double quotes."""
    import csv

    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip()]
