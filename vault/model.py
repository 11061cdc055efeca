"""The nouns of the design as frozen values, shared by every layer above.

Nothing here does I/O or holds a secret. Ids are 32 hex digits (128 random bits) and say nothing
about what they name; names are for people and appear only inside sealed or signed documents.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Protocol

from vault.encoding import ID_BYTES, canonical
from vault.errors import InvalidInput
from vault.fields import Fields, Path, below, parse_path, shown, union

__all__ = [
    "DEFAULT_GRACE",
    "DEFAULT_SHARD_ROWS",
    "FORMAT",
    "MANIFEST_GROUP",
    "MASK_GROUP",
    "METADATA_GROUP",
    "OWNER",
    "ChunkIdentity",
    "Column",
    "Cut",
    "Identity",
    "KeyScope",
    "check_column_names",
    "check_name",
    "picked",
    "placed",
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
#: Rows of a shard, where the publisher says nothing else.
DEFAULT_SHARD_ROWS: Final = 131_072
#: How long gc leaves what was superseded, where the configuration says nothing else.
DEFAULT_GRACE: Final = timedelta(hours=1)

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

    @classmethod
    def of(cls, context: Mapping[str, object]) -> "KeyScope":
        """The inverse of `context`; raises InvalidInput for what is no context of ours."""
        try:
            named = {name: str(context[f"dsvault:{name}"]) for name in ("vault", "compartment", "group", "epoch")}
            scope = cls(named["vault"], named["compartment"], named["group"], int(named["epoch"]))
        except (KeyError, ValueError) as error:
            raise InvalidInput("this is not the context of a data key") from error
        if scope.context() != context:
            raise InvalidInput("this is not the context of a data key")
        return scope


class Identity(Protocol):
    """Which object an encrypted Parquet file is: what binds its modules to their place, and nothing else's."""

    @property
    def chunk(self) -> str:
        """The object's own id, for sentences."""
        ...

    def encode(self) -> bytes:
        """Canonical bytes that begin with a domain label: the ``aad_prefix`` of its modules."""
        ...


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
    it was renamed, oldest first: chunks of then carry them; ``since`` is when it got its present one, None where it had
    no other. ``fields`` are those of its fields that there are, None for all: a vendor's compartment, and a permit, may
    have a nested column in part.
    """

    id: str
    name: str
    group: str
    formerly: tuple[str, ...] = ()
    fields: Fields | None = None
    since: datetime | None = None

    def was_named(self, moment: datetime) -> bool:
        """Whether it had its name at a moment already, as far as is known."""
        return not self.formerly or (self.since is not None and self.since <= moment)

    @property
    def shown(self) -> tuple[str, ...]:
        """Its name, or the paths of the fields that there are, for people."""
        return tuple(shown((self.name, *path)) for path in (self.fields or ((),)))


@dataclass(frozen=True)
class Cut:
    """A column group as a compartment holds it: the owner's group ``source``, with some fields only of some columns.

    ``fields`` are by column id, sorted, for the columns that are there in part; none where the group is whole. Each cut
    is a column group of its own, with an id, a data key and chunks of its own, so that no key for some fields ever
    opens others. All follows from what was signed.
    """

    source: str
    fields: tuple[tuple[str, Fields], ...] = ()

    @cached_property
    def group(self) -> str:
        """The id of the group in the compartment; a whole one keeps the owner's."""
        if not self.fields:
            return self.source
        columns = [canonical(column, *(canonical(*path) for path in paths)) for column, paths in self.fields]
        return _derived(canonical("dsvault cut", self.source, *columns))

    def content(self, source: str) -> str:
        """The content id of a chunk, or of a part of a manifest, that was cut from one of this content."""
        return _derived(canonical("dsvault cut content", self.group, source)) if self.fields else source

    def of(self, column: Column) -> Column:
        """One of the owner's columns of the group, as it is in the cut."""
        return replace(column, group=self.group, fields=dict(self.fields).get(column.id))


def _derived(data: bytes) -> str:
    return hashlib.sha256(data).digest()[:ID_BYTES].hex()


def picked(
    names: Iterable[str],
    columns: Iterable[Column],
    exists: Callable[[Column, Path], bool],
    *,
    passing: bool = False,
) -> tuple[Column, ...] | None:
    """The columns, or the fields of them, that are named, in that order; None where one is not there.

    A name is that of a column or, where there is no such column, a path to a field; ``exists`` says whether a column's
    type has one at a path. ``passing`` passes over what is not there.
    """
    known = {column.name: column for column in columns}
    found: dict[str, Fields | None] = {}
    for name in names:
        column, path = placed(name, known)
        taken = below(column.fields, path) if column is not None and exists(column, path) else ()
        if column is None or taken == ():
            if passing:
                continue
            return None
        before = found.get(column.name, ())
        found[column.name] = None if taken is None or before is None else union((*before, *taken))
    return tuple(replace(known[name], fields=fields) for name, fields in found.items())


def placed(name: str, known: Mapping[str, Column]) -> tuple[Column | None, Path]:
    """The column that a name is about, and the path below it; None where there is no such column."""
    if name in known:
        return known[name], ()
    try:
        path = parse_path(name)
    except ValueError:
        return None, ()
    # One name of a plain column is enough: in quotes it is not another.
    return (known.get(path[0]), path[1:]) if len(path) > 1 else (None, ())


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
