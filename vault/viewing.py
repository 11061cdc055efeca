"""A dataset as its owner reads it: `Vault.dataset`, with the readers that a vendor has, and every version.

Each read is in the log as an owner's read.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from vault import datasets
from vault.encoding import asked_time, utcnow
from vault.errors import InvalidInput, NotFound
from vault.readers import Extent, Readers, checked_part
from vault.workings.filling import owners_version
from vault.workings.parts import OwnerParts

__all__ = ["Opened", "OwnedDataset", "owned"]


class Opened:
    """An open vault that another process opens for itself: one that was forked, or that was sent a dataset.

    Connections to a catalog are one process's own, and no key goes from one to another: there it is opened anew, by its
    directory.
    """

    __slots__ = ("_folder", "_opens", "_parts", "_pid")

    def __init__(self, opens: Callable[[Path], OwnerParts], folder: Path, parts: OwnerParts | None = None) -> None:
        self._opens = opens
        self._folder = folder.absolute()
        self._parts = parts
        self._pid = os.getpid()

    @property
    def parts(self) -> OwnerParts:
        """The vault's parts in this process; raises what opening it does."""
        parts, pid = self._parts, os.getpid()
        if parts is None or pid != self._pid:
            self._parts = parts = self._opens(self._folder)
            self._pid = pid
        return parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Opened, (self._opens, self._folder)


@dataclass(frozen=True, slots=True, repr=False)
class OwnedDataset(Readers):
    """A dataset as of one version, or as of whatever is the newest when it is read (``version`` None).

    Works wherever Arrow's C stream interface does (`__arrow_c_stream__`).
    """

    opened: Opened
    name: str
    version: int | None = None

    @property
    def _parts(self) -> OwnerParts:
        return self.opened.parts

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of all columns; raises NotFound."""
        return datasets.plan_scan(self._parts, self.name, version=self.version, most=1).schema

    @property
    def versions(self) -> list[datasets.VersionState]:
        """Every version that there is, oldest first; raises NotFound."""
        return datasets.show(self._parts, self.name).versions

    def at(self, version: int | None = None, as_of: str | datetime | timedelta | None = None) -> "OwnedDataset":
        """The same dataset as of another version, or of a time; raises NotFound and InvalidInput."""
        return owned(self.opened, self.name, version, as_of)

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        *,
        part: tuple[int, int] | None = None,
        version: int | None = None,
    ) -> pa.RecordBatchReader:
        """Read it: ``columns`` in that order, the rows that ``where`` keeps, at most ``limit``; it is logged.

        Of a nested column a path names one field, such as ``meta.source``. ``part=(i, n)`` is the i-th of n parts of
        neighbouring shards. ``version`` reads that one in the place of this object's. Raises NotFound and InvalidInput.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidInput("limit: give a whole number of rows")
        number = version if version is not None else self.version
        shards = None if part is None else self._shards(part, number)
        return datasets.scan(
            self._parts, self.name, columns=columns, where=where, limit=limit, version=number, shards=shards
        )

    def extent(self) -> Extent:
        """The version that would be read now, and its shards; raises NotFound."""
        manifest = owners_version(self._parts, datasets.named(self._parts, self.name), self.version).manifest
        return Extent(manifest.version, manifest.shards)

    def _shards(self, part: tuple[int, int], version: int | None) -> list[int]:
        index, of = checked_part(part)
        dataset = datasets.named(self._parts, self.name)
        opened = owners_version(self._parts, dataset, version)
        numbers = [shard.index for shard in opened.shards({column.group for column in opened.manifest.columns})]
        return numbers[index * len(numbers) // of : (index + 1) * len(numbers) // of]

    def __repr__(self) -> str:
        return f"OwnedDataset({self.name}{'' if self.version is None else f', version {self.version}'})"


def owned(
    opened: Opened, name: str, version: int | None = None, as_of: str | datetime | timedelta | None = None
) -> OwnedDataset:
    """A dataset by name, of a version or as of a time; raises NotFound for one that there is not, and InvalidInput."""
    parts = opened.parts
    dataset = datasets.named(parts, name)
    if version is not None and as_of is not None:
        raise InvalidInput("version, as_of: give one of them")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise InvalidInput("version: give a whole number")
    if as_of is not None:
        moment = asked_time(as_of, "as_of", utcnow())
        for number in sorted(owners_version(parts, dataset).head.versions, reverse=True):
            if owners_version(parts, dataset, number).manifest.created <= moment:
                return OwnedDataset(opened, name, number)
        raise NotFound(f"the dataset '{name}' has no version of that time any more, or had none yet")
    if version is not None:
        owners_version(parts, dataset, version)
    return OwnedDataset(opened, name, version)
