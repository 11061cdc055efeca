"""Reading shards: from an opened version to Arrow.

A read is planned on the columns of the manifest's listings, without an object for any chunk; each chunk is then opened
under the identity that follows from its place. Rows leave only after every filter of the plan has passed them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from vault.chunks import decode
from vault.compact import chosen, compact, compact_batch, is_plain
from vault.derivation import chunk_key
from vault.encoding import canonical
from vault.errors import IntegrityError, NotFound
from vault.fields import Path, shown
from vault.filters import BoundFilter, ShardStatistics
from vault.keyring import KeySource, WrappedKey
from vault.manifest import ChunkRef, Listing, Manifest, Shard
from vault.masks import Mask
from vault.model import ChunkIdentity, Column
from vault.projection import changed, field_at, narrowed, narrowed_field, with_field
from vault.workings.parts import Parts
from vault.workings.versions import OpenVersion, agree, side_by_side

__all__ = [
    "GroupShape",
    "Placed",
    "Position",
    "ReadPlan",
    "group_shape",
    "identity_of",
    "leaving_schema",
    "masked_field",
    "open_chunk",
    "read_batches",
    "read_column",
    "runs",
]

_BATCH_ROWS = 65_536
#: What is not worth waking other threads for, in bytes of ciphertext.
_SMALL_BYTES = 512 << 10
#: Chunks that are fetched ahead of what is read, and how many bytes of them where they are more than the processors.
_MOST_AHEAD = 16
_AHEAD_BYTES = 64 << 20
#: Chunks that may be held decoded for a while.
_WARM_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class GroupShape:
    """The columns of a column group's chunks, and the names that each may have there from before it was renamed."""

    columns: tuple[Column, ...]
    schema: pa.Schema

    @property
    def formerly(self) -> Mapping[str, tuple[str, ...]]:
        """The earlier names by the present one."""
        return {column.name: column.formerly for column in self.columns}


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a read: a shard, and how many of its rows that passed have left."""

    shard: int
    row: int


class Placed(NamedTuple):
    """A batch, the place behind it, and what it is of: the ``of`` rows of a shard, or those where ``keep`` is true.

    It is the last of them up to its place: ``keep`` and the place say which rows of the shard it holds.
    """

    batch: pa.RecordBatch
    position: Position
    of: int
    keep: pa.ChunkedArray | None

    @property
    def first(self) -> int:
        """How many rows of the shard that pass are before the batch."""
        return self.position.row - int(self.batch.num_rows)


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What one read does: the columns that leave, the filters every row must pass, and a limit.

    ``masks`` are by the path, from the column's name on, of what they stand in the place of; ``mask_key`` opens the
    vendor's mask key, when it is needed.
    ``among`` are the shards that it is of, ascending, where it is not of all.
    ``start`` is where an earlier read of the same was broken off: from there on, ``limit`` rows at most.
    ``chosen`` are the chunks that it may open, by group: those of shards that the statistics do not exclude and, where
    nothing is filtered, that the limit reaches. Making a plan opens parts of the manifest and no chunk; it raises
    IntegrityError, NotFound, Unavailable or KmsError.
    """

    version: OpenVersion
    columns: tuple[Column, ...]
    filters: tuple[BoundFilter, ...]
    limit: int | None
    masks: Mapping[Path, Mask] = field(default_factory=dict)
    mask_key: Callable[[], bytes] | None = field(default=None, repr=False)
    start: "Position | None" = None
    among: "pa.Array | None" = field(default=None, repr=False)
    chosen: Mapping[str, Listing] = field(init=False, repr=False)
    #: The column groups whose chunks the read opens.
    groups: frozenset[str] = field(init=False, repr=False)
    #: The Arrow schema of what leaves, without schema-level metadata.
    schema: pa.Schema = field(init=False, repr=False)
    #: The shards that the read may open, as `runs`.
    shards: Sequence[Sequence[int]] = field(init=False, repr=False)
    #: What the chunks of each group hold.
    shapes: Mapping[str, GroupShape] = field(init=False, repr=False)
    #: Which keys it is read with, as an entry of the log says it: the compartment, and each group's epoch.
    held: Mapping[str, Any] = field(init=False, repr=False)
    #: The one shard of a read of one at the most; None where there are more.
    only: Sequence[Shard] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Asked for several times in each read, and a plan may be good for many of them.
        schema = leaving_schema(self.version.manifest.schema, self.columns, self.masks)
        object.__setattr__(self, "groups", self.filter_groups | {column.group for column in self.columns})
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "chosen", self._choose())
        any_group = next(iter(self.chosen.values()), None)
        shards = runs(any_group.shards.combine_chunks()) if any_group is not None else []
        object.__setattr__(self, "shards", shards)
        object.__setattr__(self, "shapes", {each: group_shape(self.version.manifest, each) for each in self.groups})
        keys, groups = self.version.keys, sorted(self.groups)
        epochs = {group: keys[group].scope.epoch for group in groups}
        held = {"groups": groups, "epochs": epochs, "compartment": self.version.head.compartment}
        object.__setattr__(self, "held", held)
        few = any_group is None or len(any_group) <= 1
        object.__setattr__(self, "only", tuple(side_by_side(self.chosen)) if few else None)

    @property
    def filter_columns(self) -> frozenset[str]:
        """The names of the columns that the filters read."""
        return frozenset(name for condition in self.filters for name in condition.filter.columns())

    @property
    def filter_groups(self) -> frozenset[str]:
        """The column groups that the filters read."""
        return frozenset(c.group for c in self.version.manifest.columns if c.name in self.filter_columns)

    @property
    def size(self) -> int:
        """Bytes of all chunks that it may open."""
        return sum(listing.size for listing in self.chosen.values())

    @property
    def short(self) -> bool:
        """Whether all of it comes as one batch at the most."""
        any_group = next(iter(self.chosen.values()), None)
        return any_group is None or (len(any_group) <= 1 and any_group.rows <= _BATCH_ROWS)

    def _choose(self) -> dict[str, Listing]:
        """First what the filters' own statistics leave, then of the other groups only the chunks of those shards."""
        first = sorted(self.filter_groups) or sorted(self.groups)[:1]
        among = self.among
        chosen = {group: found for group in first if (found := self.version.listing(group, among)) is not None}
        if not chosen:
            return {}  # a version without rows
        agree(chosen)
        any_group = next(iter(chosen.values()))
        mask = self._wanted(chosen, any_group)
        left = among
        if mask is not None:
            left = any_group.shards.combine_chunks().filter(mask)
            chosen = {group: listing.where(mask) for group, listing in chosen.items()}
        for group in sorted(self.groups - chosen.keys()):
            if (found := self.version.listing(group, left)) is not None:
                chosen[group] = found
        if chosen.keys() != self.groups:
            raise IntegrityError("a column of a manifest has no chunks")
        agree(chosen)
        return chosen

    @property
    def content(self) -> bytes:
        """What the read is made of, as bytes that are equal as long as its rows and their order are.

        The content ids of the manifest's parts: they stay through every rekey, and an erasure makes new ones.
        """
        parts = sorted((part.group, part.first, part.content) for part in self.version.manifest.parts)
        return canonical(*(text for group, _, content in parts if group in self.groups for text in (group, content)))

    def _wanted(self, listings: Mapping[str, Listing], any_group: Listing) -> Any:
        """For each shard whether it is to be opened; None for all."""
        rows, shards = any_group.table.column("rows").combine_chunks(), any_group.shards.combine_chunks()
        if self.start is None:
            return self._may_match(listings, rows)
        behind = pc.less(shards, self.start.shard)
        mask = self._may_match(listings, pc.if_else(behind, pa.scalar(0, rows.type), rows))
        return pc.invert(behind) if mask is None else pc.and_not(mask, behind)

    def _may_match(self, listings: Mapping[str, Listing], rows: pa.Array) -> Any:
        if self.filters:
            columns = {
                column.name: found
                for column in self.version.manifest.columns
                if column.group in listings and (found := listings[column.group].statistics(column.id)) is not None
            }
            statistics = ShardStatistics(rows, columns)
            return reduce(pc.and_, [condition.may_match(statistics) for condition in self.filters])
        if self.limit is not None:
            skipped = self.start.row if self.start is not None else 0
            return pc.less(pc.subtract(pc.cumulative_sum(rows), rows), self.limit + skipped)
        return None


def runs(numbers: pa.Array) -> list[list[int]]:
    """Ascending numbers as runs of neighbours: the first and the last of each."""
    if not len(numbers):
        return []
    breaks = pc.indices_nonzero(pc.not_equal(pc.subtract(numbers[1:], numbers[:-1]), 1)).to_pylist()
    starts, ends = [0, *(at + 1 for at in breaks)], [*breaks, len(numbers) - 1]
    return [[numbers[start].as_py(), numbers[end].as_py()] for start, end in zip(starts, ends, strict=True)]


def identity_of(key: WrappedKey, ref: ChunkRef) -> ChunkIdentity:
    """A chunk's identity from its place; raises IntegrityError when its epoch is not the key's."""
    if (ref.group, ref.epoch) != (key.scope.group, key.scope.epoch):
        raise IntegrityError("a chunk is not under the live epoch of its column group")
    return ChunkIdentity(key.scope, ref.chunk)


def open_chunk(
    parts: Parts,
    keys: KeySource,
    key: WrappedKey,
    ref: ChunkRef,
    shape: GroupShape,
    keep: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Fetch and decode one chunk into the columns of its group, or those of its rows that are to be kept.

    Raises IntegrityError and others.
    """
    data_key = keys.open(key)
    if keep is not None or ref.size > _WARM_BYTES:
        return _opened_chunk(parts, data_key, key, ref, shape, keep)
    # The key was opened just now, so whoever asks may have the chunk.
    place = (key.scope, ref.chunk, ref.checksum, shape.schema.serialize().to_pybytes())
    return parts.lately.tables.get(place, lambda: _opened_chunk(parts, data_key, key, ref, shape, None))


def _opened_chunk(
    parts: Parts,
    data_key: bytes,
    key: WrappedKey,
    ref: ChunkRef,
    shape: GroupShape,
    keep: pa.ChunkedArray | None,
) -> pa.Table:
    data = parts.store.get_large(ref.object, ref.size)
    if len(data) != ref.size:
        raise IntegrityError(f"the object of chunk {ref.chunk} is not as long as the manifest says")
    identity = identity_of(key, ref)
    table = decode(data, chunk_key(data_key, identity), identity, shape.schema, shape.formerly, keep)
    if table.num_rows != (ref.rows if keep is None else pc.sum(keep).as_py() or 0):
        raise IntegrityError(f"chunk {ref.chunk} has another number of rows than the manifest says")
    return table


def read_batches(parts: Parts, keys: KeySource, plan: ReadPlan) -> Iterator[Placed]:
    """The rows of a plan as record batches of ``plan.schema``, shard by shard, each with the place behind it.

    The columns that filters read are decoded first, and of the others only the row groups where rows are left; chunks
    of shards without any are not even fetched. Chunks of a shard are fetched and decoded in parallel, and those of the
    next one ahead of time. With a limit, no shard is begun that is not needed.
    """
    reading = _Reading(parts, keys, plan)
    left = plan.limit
    try:
        for shard, keep, table in reading.tables():
            row = plan.start.row if plan.start is not None and plan.start.shard == shard.index else 0
            piece = table.slice(row, left)
            for batch in piece.to_batches(max_chunksize=_BATCH_ROWS):
                row += batch.num_rows
                # Rows that come later, or not at all, are not sent in the buffers of these.
                own = batch if batch.num_rows == table.num_rows else compact_batch(batch)
                yield Placed(own, Position(shard.index, row), shard.rows, keep)
            if left is not None:
                left -= piece.num_rows
                if not left:
                    return
    finally:
        reading.close()


@dataclass(frozen=True, slots=True)
class _Passing:
    """A shard, which of its rows pass (None: all), and the columns that told."""

    shard: Shard
    keep: pa.ChunkedArray | None
    columns: pa.Table | None


class _Reading:
    """One read under way: first the chunks that filters read, shard by shard, then what is wanted of the others."""

    def __init__(self, parts: Parts, keys: KeySource, plan: ReadPlan) -> None:
        self._parts = parts
        self._keys = keys
        self._plan = plan
        self._first = sorted(plan.filter_groups)
        self._rest = sorted(plan.groups - plan.filter_groups)
        self._maps: list[Any] = []
        local, number = parts.store.is_local, sum(len(listing) for listing in plan.chosen.values())
        self._small = plan.size <= _SMALL_BYTES and (local or number <= 1)
        # Of small chunks in a store that is reached by requests, many are asked for at once.
        self._ahead = parts.engine.workers
        if not local and number:
            self._ahead = max(self._ahead, min(_MOST_AHEAD, _AHEAD_BYTES * number // max(1, plan.size)))
        self._mask_key: bytes | None = None

    def tables(self) -> Iterator[tuple[Shard, pa.ChunkedArray | None, pa.Table]]:
        """Shard by shard which of its rows pass (None: all), and these."""
        passing: deque[_Passing] = deque()

        def places() -> Iterator[tuple[_Passing, str]]:
            for each in self._passing():
                passing.append(each)
                yield from ((each, group) for group in self._rest)

        if not self._rest:
            for each in self._passing():
                yield each.shard, each.keep, self._joined(each, [])
            return
        opened = self._map(lambda place: self._open(place[0].shard, place[1], place[0].keep), places(), len(self._rest))
        for table in opened:
            each = passing.popleft()
            yield each.shard, each.keep, self._joined(each, [table, *(next(opened) for _ in self._rest[1:])])

    def _passing(self) -> Iterator[_Passing]:
        """The shards where rows pass."""
        plan = self._plan
        shards = iter(plan.only) if plan.only is not None else side_by_side(plan.chosen)
        if not self._first:
            yield from (_Passing(shard, None, None) for shard in shards)
            return
        begun: deque[Shard] = deque()

        def places() -> Iterator[tuple[Shard, str]]:
            for shard in shards:
                begun.append(shard)
                yield from ((shard, group) for group in self._first)

        opened = self._map(lambda place: self._open(place[0], place[1], None), places(), len(self._first))
        for piece in opened:
            table = _side_by_side([piece, *(next(opened) for _ in self._first[1:])])
            shard, keep = begun.popleft(), self._keep(table)
            if pc.any(keep).as_py():
                yield _Passing(shard, keep, chosen(table, keep))

    def _keep(self, table: pa.Table) -> pa.ChunkedArray:
        masks = [condition.true_of(table) for condition in self._plan.filters]
        return reduce(pc.and_, masks)

    def _open(self, shard: Shard, group: str, keep: pa.ChunkedArray | None) -> pa.Table:
        key = self._plan.version.keys[group]
        return open_chunk(self._parts, self._keys, key, shard.chunks[group], self._plan.shapes[group], keep)

    def _joined(self, each: _Passing, pieces: list[pa.Table]) -> pa.Table:
        table = _side_by_side([*([each.columns] if each.columns is not None else []), *pieces])
        # The types are the manifest's already; a cast to the same type fails for lists of structs of nulls.
        # What a filter alone reads is in the table, and leaves with no column.
        columns = [self._leaving(column, table.column(column.name)) for column in self._plan.columns]
        return pa.Table.from_arrays(columns, schema=self._plan.schema)

    def _leaving(self, column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """What leaves of a column: first masked, then without the fields that are not wanted of it."""
        masks = {path: mask for path, mask in self._plan.masks.items() if path[0] == column.name}
        if masks:
            arrow = self._plan.version.manifest.schema.field(column.name)
            for path, mask in masks.items():
                arrow = masked_field(arrow, path, mask)
                values = self._masked(values, path[1:], arrow.type, mask)
        left = narrowed(values, column.fields)
        # A chunk of an earlier release may have values in its dictionary that none of its rows has.
        return left if is_plain(left.type) else compact(left)

    def _masked(self, values: pa.ChunkedArray, path: Path, kind: pa.DataType, mask: Mask) -> pa.ChunkedArray:
        if mask.keyed and self._mask_key is None and self._plan.mask_key is not None:
            self._mask_key = self._plan.mask_key()
        if not path:
            return mask.apply(values, self._mask_key)
        return changed(values, path, kind, lambda found: mask.apply(found, self._mask_key))

    def _map(self, task: Callable[[Any], pa.Table], places: Iterator[Any], chunks: int) -> Iterator[pa.Table]:
        if self._small:
            yield from map(task, places)
            return
        engine = self._parts.engine
        found = engine.map(task, places, ahead=chunks + self._ahead)
        self._maps.append(found)
        yield from found

    def close(self) -> None:
        """Cancel what was to be fetched ahead."""
        for found in reversed(self._maps):
            found.close()


def _side_by_side(pieces: Sequence[pa.Table]) -> pa.Table:
    fields = [field for piece in pieces for field in piece.schema]
    return pa.table([column for piece in pieces for column in piece.columns], schema=pa.schema(fields))


def masked_field(arrow: pa.Field, path: Path, mask: Mask, place: str | None = None) -> pa.Field:
    """A column's Arrow field with a mask on it, or a field of it; InvalidInput, naming ``place``, for another type."""
    inner = field_at(arrow, path[1:])
    return with_field(arrow, path[1:], mask.output(inner, place or shown(path)))


def leaving_schema(schema: pa.Schema, columns: Sequence[Column], masks: Mapping[Path, Mask]) -> pa.Schema:
    """The Arrow schema of some columns, or of some fields of them, as they leave; LookupError for an unknown one."""
    fields = []
    for column in columns:
        arrow = schema.field(column.name)
        for path, mask in masks.items():
            if path[0] == column.name:
                arrow = masked_field(arrow, path, mask)
        fields.append(narrowed_field(arrow, column.fields))
    return pa.schema(fields)


def group_shape(manifest: Manifest, group: str) -> GroupShape:
    """What a column group's chunks hold."""
    members = manifest.members(group)
    return GroupShape(tuple(column for column, _ in members), pa.schema([each for _, each in members]))


def read_column(parts: Parts, version: OpenVersion, name: str) -> Iterator[pa.ChunkedArray]:
    """One column of a version, shard by shard, for the owner's own checks."""
    column = version.manifest.column(name)
    if column is None:
        raise NotFound(f"there is no column {name!r}")
    shape = group_shape(version.manifest, column.group)
    for ref in version.refs((column.group,)):
        yield open_chunk(parts, parts.keyring, version.keys[column.group], ref, shape).column(name)
