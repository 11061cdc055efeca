"""Rows on their way into shards: cutting, assigning to vendors, and checking row keys.

Memory stays bounded by about one shard: rows are handed out as soon as a shard's worth is there, and while
rows are being sorted by vendor the fullest shard is cut early when all together would grow past the bound.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from vault.compact import chosen_rows
from vault.errors import InvalidInput

__all__ = ["SHARD_BYTES", "RowKeys", "ShardRows", "cut_shards"]

#: A shard holds at most this many bytes of Arrow memory.
SHARD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The rows of one shard, and the holder that they are assigned to (None: to nobody in particular)."""

    table: pa.Table
    assigned: str | None


@dataclass(slots=True)
class _Pile:
    assigned: str | None
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def take(self, schema: pa.Schema) -> ShardRows:
        table = pa.Table.from_batches(self.batches, schema=schema)
        self.batches, self.rows, self.bytes = [], 0, 0
        return ShardRows(table, self.assigned)


def cut_shards(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    shard_rows: int,
    assign_by: str | None,
    holders: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
    first_row: int = 0,
) -> Iterator[ShardRows]:
    """Cut batches into shards of at most ``shard_rows`` rows or ``shard_bytes`` bytes.

    With ``assign_by``, every row goes to a shard of the holder that the column names; a null names the owner.
    ``holders`` maps names to ids. Raises InvalidInput for a name that is no vendor's, with its row, of which there are
    ``first_row`` before the first one here.
    """
    piles: dict[str | None, _Pile] = {}
    row = first_row
    for batch in batches:
        for assigned, part in _assigned(batch, assign_by, holders, row):
            pile = piles.setdefault(assigned, _Pile(assigned))
            for piece in _pieces(part, shard_rows, shard_bytes, pile):
                pile.add(piece)
                if pile.rows >= shard_rows or pile.bytes >= shard_bytes:
                    yield pile.take(schema)
        row += batch.num_rows
        if sum(pile.bytes for pile in piles.values()) >= shard_bytes:
            yield max(piles.values(), key=lambda pile: pile.bytes).take(schema)
    for pile in piles.values():
        if pile.rows:
            yield pile.take(schema)


def _pieces(batch: pa.RecordBatch, shard_rows: int, shard_bytes: int, pile: _Pile) -> Iterator[pa.RecordBatch]:
    """Slices of a batch such that each, added to the pile, fills it at most to the bound."""
    start = 0
    while start < batch.num_rows:
        room = shard_rows - pile.rows
        rest = batch.slice(start)
        average = max(1, rest.nbytes // rest.num_rows)
        room = max(1, min(room, (shard_bytes - pile.bytes + average - 1) // average))
        piece = rest.slice(0, room)
        start += piece.num_rows
        yield piece


def _assigned(
    batch: pa.RecordBatch, assign_by: str | None, holders: Mapping[str, str], first_row: int
) -> Iterator[tuple[str | None, pa.RecordBatch]]:
    if assign_by is None:
        yield None, batch
        return
    column = batch.column(batch.schema.get_field_index(assign_by))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidInput(f"--assign-by: the column {assign_by!r} must hold vendors' names, not {column.type}")
    for value in pc.unique(column).to_pylist():
        mask = pc.is_null(column) if value is None else pc.fill_null(pc.equal(column, value), False)
        name = "owner" if value is None else value
        if name not in holders:
            row = first_row + pc.index(column, value).as_py() + 1
            raise InvalidInput(f"--assign-by: row {row} names a vendor that does not exist")
        yield holders[name], chosen_rows(batch, mask)


class RowKeys:
    """Checks that a column identifies rows: no nulls, no value twice. Holds that column in memory."""

    def __init__(self, column: str | None) -> None:
        self.column = column
        self._pieces: list[pa.ChunkedArray] = []

    def add(self, values: pa.ChunkedArray) -> None:
        """Take the key column of the next rows; raises InvalidInput for a null or a type that is no key."""
        kind = values.type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InvalidInput(f"--key: the column {self.column!r} is {kind}; a row key is text or an integer")
        if values.null_count:
            row = sum(len(piece) for piece in self._pieces) + pc.index(pc.is_null(values), True).as_py() + 1
            raise InvalidInput(f"--key: the column {self.column!r} is null in row {row}")
        self._pieces.append(values)

    def check(self) -> None:
        """Raise InvalidInput, naming the row, when a value stands twice."""
        if not self._pieces:
            return
        values = pa.chunked_array([chunk for piece in self._pieces for chunk in piece.chunks])
        if pc.count_distinct(values).as_py() == len(values):
            return
        seen = set()
        for row, value in enumerate(values.to_pylist(), 1):
            if value in seen:
                raise InvalidInput(f"--key: the value of {self.column!r} in row {row} stands in an earlier row")
            seen.add(value)
