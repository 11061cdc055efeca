"""What every part of the owner's side stands on."""

from pathlib import Path

from vault.workings.parts import OwnerParts

__all__ = ["Opened"]


class Opened:
    """A vault that is open, by its directory and its parts."""

    folder: Path
    parts: OwnerParts
