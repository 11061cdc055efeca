"""Listings: the chunks of one column group, in the order of their shards, as Arrow columns.

A version may have millions of chunks; what is decided about all of them is decided on columns, and a Python object is
made only of a chunk that is about to be read or written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import pyarrow as pa
import pyarrow.compute as pc

from vault.errors import IntegrityError

__all__ = ["ChunkRef", "Entry", "Listing", "Shard"]

_ID = pa.binary(16)
_FIELDS = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("chunk", _ID, nullable=False),
        pa.field("content", _ID, nullable=False),
        pa.field("folder", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("checksum", _ID, nullable=False),
        pa.field("assigned", pa.string()),
    ]
)
#: How many chunks become Python objects at a time.
_STEP = 1024


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """One chunk of a version.

    ``content`` stays with the plaintext through every rekey and fan-out, so that a compartment knows which
    chunks it has already; ``chunk`` is fresh for every object. ``size`` is in bytes, ``checksum`` the
    XXH3-128 of the object (against bit rot only), ``assigned`` the id of the vendor whose rows these are.
    """

    shard: int
    group: str
    epoch: int
    chunk: str
    content: str
    object: str
    rows: int
    size: int
    checksum: str
    assigned: str | None


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of rows: the chunks of the groups that were asked for, by group."""

    index: int
    rows: int
    assigned: str | None
    chunks: Mapping[str, ChunkRef]


class Entry(NamedTuple):
    """A chunk with its statistics: by column id one element of a struct that `vault.filters` made."""

    ref: ChunkRef
    statistics: Mapping[str, pa.StructArray]


@final
class Listing:
    """Chunks of one column group, by ascending shard; it never changes.

    The Arrow table has a row for each chunk: the fields of a `ChunkRef` (ids and checksums as 16 bytes, the object's
    folder without the chunk's id) and, by column id, a struct of statistics.
    """

    def __init__(self, group: str, table: pa.Table) -> None:
        self.group = group
        self.table = table

    @classmethod
    def of(cls, group: str, entries: Sequence[Entry]) -> "Listing":
        """Chunks and their statistics; all have statistics of the same columns."""
        refs = [entry.ref for entry in entries]
        columns: dict[str, Any] = {
            "shard": [ref.shard for ref in refs],
            "epoch": [ref.epoch for ref in refs],
            "chunk": [bytes.fromhex(ref.chunk) for ref in refs],
            "content": [bytes.fromhex(ref.content) for ref in refs],
            "folder": [_folder(ref) for ref in refs],
            "rows": [ref.rows for ref in refs],
            "size": [ref.size for ref in refs],
            "checksum": [bytes.fromhex(ref.checksum) for ref in refs],
            "assigned": [ref.assigned for ref in refs],
        }
        table = pa.table(columns, schema=_FIELDS)
        for column in entries[0].statistics if entries else ():
            table = table.append_column(column, pa.concat_arrays([entry.statistics[column] for entry in entries]))
        return cls(group, table)

    @classmethod
    def joined(cls, listings: Sequence["Listing"]) -> "Listing":
        """Several listings of one group, in their order."""
        if len(listings) == 1:
            return listings[0]
        return cls(listings[0].group, pa.concat_tables([listing.table for listing in listings]))

    @classmethod
    def from_bytes(cls, group: str, data: Any) -> "Listing":
        """Inverse of `to_bytes`; raises IntegrityError for anything else."""
        try:
            table = pa.ipc.open_stream(data).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError("a part of a manifest is not a listing") from error
        if pa.schema(list(table.schema)[: len(_FIELDS)]) != _FIELDS:
            raise IntegrityError("a part of a manifest lacks a field")
        shards = table.column("shard").combine_chunks()
        if not pc.all(pc.less(shards[:-1], shards[1:]), min_count=0).as_py():
            raise IntegrityError("the chunks of a manifest are not in the order of their shards")
        return cls(group, table)

    def to_bytes(self) -> pa.Buffer:
        """As an Arrow IPC stream."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table.combine_chunks())
        return sink.getvalue()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listing) and self.group == other.group and self.table.equals(other.table)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Listing({self.group}, {len(self)} chunks)"

    @property
    def rows(self) -> int:
        """Rows in all chunks."""
        return pc.sum(self.table.column("rows")).as_py() or 0

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return pc.sum(self.table.column("size")).as_py() or 0

    @property
    def shards(self) -> pa.ChunkedArray:
        """The number of each chunk's shard."""
        return self.table.column("shard")

    def statistics(self, column: str) -> pa.StructArray | None:
        """A column's statistics, by its id, one element for each chunk; None where it has none."""
        found = self.table.column(column) if column in self.table.column_names else None
        return None if found is None else found.combine_chunks()

    def slice(self, start: int, length: int | None = None) -> "Listing":
        """A run of the chunks."""
        return Listing(self.group, self.table.slice(start, length))

    def where(self, mask: Any) -> "Listing":
        """The chunks where a mask is true."""
        return Listing(self.group, self.table.filter(mask))

    def within(self, shards: pa.Array) -> "Listing":
        """The chunks of these shards."""
        return self.where(pc.is_in(self.shards, value_set=shards))

    def open_to(self, holder: str) -> "Listing":
        """The chunks that are assigned to nobody else."""
        assigned = self.table.column("assigned")
        return self.where(pc.or_kleene(pc.is_null(assigned), pc.equal(assigned, holder)))

    def moved(self, refs: Sequence[ChunkRef], group: str | None = None) -> "Listing":
        """The same rows in other objects, one for each chunk, maybe of another group: their statistics stay."""
        fresh = Listing.of(self.group, [Entry(ref, {}) for ref in refs]).table
        table = self.table
        for name in ("epoch", "chunk", "content", "folder", "size", "checksum"):
            table = table.set_column(table.schema.get_field_index(name), _FIELDS.field(name), fresh.column(name))
        return Listing(group or self.group, table)

    def refs(self) -> Iterator[ChunkRef]:
        """The chunks as objects, made as they are asked for."""
        for batch in self.table.select(_FIELDS.names).to_batches(max_chunksize=_STEP):
            for shard, epoch, chunk, content, folder, rows, size, checksum, assigned in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                name = chunk.hex()
                yield ChunkRef(
                    shard,
                    self.group,
                    epoch,
                    name,
                    content.hex(),
                    f"{folder}/{name}",
                    rows,
                    size,
                    checksum.hex(),
                    assigned,
                )

    def entries(self) -> Iterator[Entry]:
        """The chunks with their statistics."""
        names = self.table.column_names[len(_FIELDS) :]
        columns = {name: self.table.column(name).combine_chunks() for name in names}
        for index, ref in enumerate(self.refs()):
            yield Entry(ref, {name: column.slice(index, 1) for name, column in columns.items()})


def _folder(ref: ChunkRef) -> str:
    folder, _, name = ref.object.rpartition("/")
    if name != ref.chunk:
        raise IntegrityError("the object of a chunk does not have the chunk's id for a name")
    return folder
