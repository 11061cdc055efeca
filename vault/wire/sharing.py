"""The names under which datasets are tables of Delta Sharing, and the addresses of that interface.

A request runs under one grant, and so does a table: that of a dataset which the caller has one grant on is in the
schema ``default``; where there are several, each is in a schema of its own. Clients split an address at its dots, which
a dataset's name may hold, so that a dot is written ``~``, which no such name holds. Names are compared without case,
as the protocol has it: our own have none.
"""

from dataclasses import dataclass
from typing import Final

from vault.encoding import is_id

__all__ = ["DEFAULT_SCHEMA", "FILES_PATH", "SHARE", "SHARING_PATH", "SharedTable", "grant_schema"]

SHARING_PATH: Final = "/delta-sharing/"
FILES_PATH: Final = "/delta-sharing/files/"
SHARE: Final = "dsvault"
DEFAULT_SCHEMA: Final = "default"
_OF_GRANT: Final = "grant-"


@dataclass(frozen=True, slots=True, order=True)
class SharedTable:
    """A table: of a dataset, under one grant or, where `grant` is None, the only one that there is."""

    schema: str
    name: str

    @classmethod
    def of(cls, dataset: str, grant: str | None = None) -> "SharedTable":
        """The table of a dataset."""
        return cls(DEFAULT_SCHEMA if grant is None else grant_schema(grant), dataset.replace(".", "~"))

    @classmethod
    def named(cls, share: str, schema: str, name: str) -> "SharedTable | None":
        """The table of these names, whatever their case; None where there can be none."""
        share, schema, name = share.lower(), schema.lower(), name.lower()
        known = schema == DEFAULT_SCHEMA or (schema.startswith(_OF_GRANT) and is_id(schema[len(_OF_GRANT) :]))
        return cls(schema, name) if share == SHARE and known and "." not in name else None

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return self.name.replace("~", ".")

    @property
    def grant(self) -> str | None:
        """The grant's id, where the schema is of one."""
        return None if self.schema == DEFAULT_SCHEMA else self.schema.removeprefix(_OF_GRANT)


def grant_schema(grant: str) -> str:
    """The schema of one grant's tables."""
    return _OF_GRANT + grant
