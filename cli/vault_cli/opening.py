"""Opening the vault that a command is about."""

import gc
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vault.owner import Vault

__all__ = ["open_vault", "split_names"]

_ITEM: Final = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')


def open_vault(
    folder: Path | None, engine: str = "local", ray_address: str | None = None, *, urgent: bool = False
) -> "Vault":
    """The vault, as its owner; ``urgent`` is as for `vault.owner.open`."""
    return _opener()(folder, engine=engine, ray_address=ray_address, urgent=urgent)


@cache
def _opener() -> "Callable[..., Vault]":
    """What opens it. The import waits until a command needs it: it takes most of a short command's time."""
    # All that it makes stays until the process ends, and is looked through for garbage neither now nor then.
    gc.disable()
    try:
        from vault import owner
    finally:
        gc.freeze()
        gc.enable()
    return owner.open


def split_names(text: str, option: str = "--columns") -> list[str]:
    """Column names and paths from ``a,b.c``; a name that holds a comma or a dot is written in double quotes.

    Raises InvalidInput naming the option where there is no name, or an empty one between commas.
    """
    from vault.errors import InvalidInput

    shape = _ITEM.sub(lambda item: "x" if item[0].strip() else "", text)
    if shape.strip("x,"):
        raise InvalidInput(f"{option}: {text[:80]!r}: a double quote is not closed")
    if not shape.strip(","):
        raise InvalidInput(f"{option}: name at least one {option.lstrip('-').removesuffix('s')}, and none twice")
    if "" in shape.split(","):
        raise InvalidInput(f"{option}: {text[:80]!r} has an empty name between its commas")
    items = (item.strip() for item in _ITEM.findall(text))
    return [quoted[1].replace('""', '"') if (quoted := _QUOTED.fullmatch(item)) else item for item in items]
