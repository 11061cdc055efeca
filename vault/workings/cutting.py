"""Cutting a stream of rows into chunks, for the owner and for every vendor who needs them.

The same whoever does it: a process that has all rows of a source, or one of many that have a run of them each.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from vault.chunks import EncodeOptions
from vault.manifest import ChunkRef, Entry
from vault.model import Column
from vault.workings.putting import ChunkWriter, Source
from vault.workings.reading import GroupShape
from vault.workings.rows import cut_shards

__all__ = ["Chunk", "Cutter", "Recipient", "RowShape"]

#: A row group is read as a whole: of wide rows it has fewer.
_GROUP_BYTES: Final = 64 << 20


class Recipient(Protocol):
    """Whoever takes a copy of a chunk of the owner's where it belongs to it."""

    def take(self, ref: ChunkRef, source: Callable[[], Source], shape: GroupShape) -> None:
        """Copy a chunk that was just written."""
        ...


@dataclass(frozen=True, slots=True)
class RowShape:
    """What rows become: their columns with their groups, and how they are cut and encoded.

    ``names`` are the holders' ids by the names that the column ``assign_by`` may hold.
    """

    columns: tuple[Column, ...]
    schema: pa.Schema
    shard_rows: int
    encoding: EncodeOptions
    assign_by: str | None
    names: Mapping[str, str]
    groups: Mapping[str, GroupShape] = field(init=False)

    def __post_init__(self) -> None:
        members: dict[str, list[Column]] = {}
        for column in self.columns:
            members.setdefault(column.group, []).append(column)
        shapes = {
            group: GroupShape(tuple(each), pa.schema([self.schema.field(column.name) for column in each]))
            for group, each in members.items()
        }
        object.__setattr__(self, "groups", shapes)


class Chunk(NamedTuple):
    """What one chunk is written from."""

    table: pa.Table
    columns: Sequence[Column]
    shard: int
    assigned: str | None
    encoding: EncodeOptions


class Cutter:
    """Cuts rows into chunks and puts them. `put` may run in several threads."""

    def __init__(self, writer: ChunkWriter, shape: RowShape, recipients: Callable[[], Iterable[Recipient]]) -> None:
        self._writer = writer
        self._shape = shape
        self._recipients = recipients

    def chunks(
        self,
        batches: Iterable[pa.RecordBatch],
        seen: Callable[[pa.Table], None],
        first_shard: int = 0,
        first_row: int = 0,
    ) -> Iterator[Chunk]:
        """The chunks of all rows, shard by shard; ``seen`` is told of each shard's rows first."""
        shape, shard = self._shape, first_shard
        for piece in cut_shards(
            batches, shape.schema, shape.shard_rows, shape.assign_by, shape.names, first_row=first_row
        ):
            seen(piece.table)
            encoding = self._encoding_of(piece.table)
            # Each with its own columns only, so that what is written is let go of.
            waiting = deque(
                Chunk(piece.table.select([c.name for c in of.columns]), of.columns, shard, piece.assigned, encoding)
                for of in shape.groups.values()
            )
            shard += 1
            del piece  # or it would be held while the next shard's rows pile up
            while waiting:
                yield waiting.popleft()
            pa.default_memory_pool().release_unused()

    def _encoding_of(self, table: pa.Table) -> EncodeOptions:
        """The same row-group borders for all columns of a shard."""
        size, encoding = max(1, table.nbytes // max(1, table.num_rows)), self._shape.encoding
        return replace(encoding, row_group_rows=max(1, min(encoding.row_group_rows, _GROUP_BYTES // size)))

    def put(self, chunk: Chunk) -> Entry:
        """One chunk, for the owner and for every vendor who needs it."""
        written = self._writer.chunk(*chunk)
        for recipient in self._recipients():
            recipient.take(written.source.ref, lambda: written.source, self._shape.groups[written.source.ref.group])
        return written.entry
