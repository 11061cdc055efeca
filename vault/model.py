"""The nouns of the design as frozen values, shared by every layer above.

Nothing here does I/O or holds a secret. Ids are 32 hex digits (128 random bits) and say nothing
about what they name; names are for people and appear only inside sealed or signed documents.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from vault.encoding import canonical
from vault.errors import InvalidInput

__all__ = [
    "FORMAT",
    "MANIFEST_GROUP",
    "MASK_GROUP",
    "METADATA_GROUP",
    "OWNER",
    "ChunkIdentity",
    "Column",
    "KeyScope",
    "check_column_names",
    "check_name",
]

#: (major, minor) of everything that dsvault writes; a reader refuses an unknown major.
FORMAT: Final = (1, 0)
#: The column-group id of a compartment's manifest key.
MANIFEST_GROUP: Final = "manifest"
#: The column-group id of a holder's metadata key.
METADATA_GROUP: Final = "metadata"
#: The column-group id of a vendor's mask key.
MASK_GROUP: Final = "mask"
#: The reserved name of the lab's own holder; no vendor can take it.
OWNER: Final = "owner"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What a data key is for; its fields are the KMS encryption context.

    All are opaque ids rebuilt from the catalog. ``compartment`` is the holder's id when ``group`` is
    `METADATA_GROUP` or `MASK_GROUP`; otherwise a compartment's id. ``epoch`` counts from 1.
    """

    vault: str
    compartment: str
    group: str
    epoch: int

    def context(self) -> dict[str, str]:
        """The KMS encryption context, as string pairs (AWS KMS's form, logged in plaintext there)."""
        return {
            "dsvault:vault": self.vault,
            "dsvault:compartment": self.compartment,
            "dsvault:group": self.group,
            "dsvault:epoch": str(self.epoch),
        }


@dataclass(frozen=True, slots=True)
class ChunkIdentity:
    """Which object a chunk is: the ``aad_prefix`` of its Parquet modules and the info of its key."""

    scope: KeyScope
    chunk: str

    def encode(self) -> bytes:
        """Canonical bytes of (format major, vault, compartment, group, epoch, chunk id)."""
        scope = self.scope
        return canonical(
            "dsvault chunk",
            FORMAT[0],
            scope.vault,
            scope.compartment,
            scope.group,
            scope.epoch,
            self.chunk,
        )


@dataclass(frozen=True, slots=True)
class Column:
    """A top-level column of a dataset: what a grant signs is ``id``, never ``name``.

    ``group`` is the id of the column group whose file and key hold it. ``formerly`` are the names that it had before
    it was renamed, oldest first: chunks of then carry them.
    """

    id: str
    name: str
    group: str
    formerly: tuple[str, ...] = ()


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may name a dataset or a vendor; raises InvalidInput."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"the {what} name {str(name)[:80]!r} is not allowed: use 1 to 63 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
    if name == OWNER:
        raise InvalidInput(f"'{OWNER}' is the lab's own holder and cannot be a {what} name")
    return name


def check_column_names(names: list[str], where: str) -> None:
    """Refuse an empty, non-NFC or repeated column name (case-folded); raises InvalidInput."""
    seen: dict[str, str] = {}
    for position, name in enumerate(names, 1):
        if not name:
            raise InvalidInput(f"{where}: column {position} has an empty name")
        if unicodedata.normalize("NFC", name) != name:
            raise InvalidInput(f"{where}: column {position} ({name!r}) is not named in Unicode NFC form")
        folded = name.casefold()
        if seen.get(folded) == name:
            raise InvalidInput(f"{where}: the column name {name!r} stands twice")
        if folded in seen:
            raise InvalidInput(f"{where}: the column names {seen[folded]!r} and {name!r} differ only in case")
        seen[folded] = name
