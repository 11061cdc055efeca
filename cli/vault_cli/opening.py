"""Opening the vault that a command is about."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vault.owner import Vault

__all__ = ["open_vault", "split_names"]

_ITEM: Final = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')


def open_vault(folder: Path | None) -> "Vault":
    """The vault, as its owner. The import waits until a command needs it: it costs half a second."""
    from vault import owner

    return owner.open(folder)


def split_names(text: str) -> list[str]:
    """Column names and paths from ``a,b.c``; a name that holds a comma or a dot is written in double quotes."""
    from vault.errors import InvalidInput

    if _ITEM.sub("", text).strip(","):
        raise InvalidInput(f"{text[:80]!r}: a double quote is not closed")
    items = (item.strip() for item in _ITEM.findall(text))
    return [quoted[1].replace('""', '"') if (quoted := _QUOTED.fullmatch(item)) else item for item in items if item]
