"""Opening manifests and reading shards: the one path from a head to Arrow.

The order is always the same: a verified head pins the manifest's statement, the statement pins the object,
the manifest pins chunks and their epoch, and each chunk is opened under the identity that follows from its
place. Rows leave only after every filter of the plan has passed them.
"""

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vault.catalog import CompartmentRow, Transaction
from vault.chunks import decode
from vault.derivation import chunk_key
from vault.errors import Conflict, IntegrityError, NotFound
from vault.filters import BoundFilter, ColumnStats, stats_from_json
from vault.keyring import KeySource, WrappedKey
from vault.manifest import ChunkRef, Manifest, Shard, decode_manifest
from vault.model import MANIFEST_GROUP, ChunkIdentity, Column
from vault.trust import CompartmentHead, Label, ManifestStatement, Role, Signed
from vault.workings.parts import Parts, wrapped_key

__all__ = [
    "GroupShape",
    "OpenVersion",
    "ReadPlan",
    "group_shape",
    "identity_of",
    "live_keys",
    "live_versions",
    "manifest_statement",
    "open_chunk",
    "open_manifest",
    "open_version",
    "read_batches",
    "read_column",
]

_BATCH_ROWS = 65_536
_TRIES = 5


@dataclass(frozen=True, slots=True)
class GroupShape:
    """The columns of a column group's chunks, and the names that each may have there from before it was renamed."""

    schema: pa.Schema
    formerly: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """A version of a compartment whose manifest was opened, with its wrapped keys by group."""

    head: CompartmentHead
    manifest: Manifest
    keys: Mapping[str, WrappedKey]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What one read does: the columns that leave, the filters every row must pass, and a limit."""

    version: OpenVersion
    columns: tuple[Column, ...]
    filters: tuple[BoundFilter, ...]
    limit: int | None

    @property
    def filter_columns(self) -> frozenset[str]:
        """The names of the columns that the filters read."""
        return frozenset(name for condition in self.filters for name in condition.filter.columns())

    @property
    def groups(self) -> frozenset[str]:
        """The column groups whose chunks the read opens."""
        return frozenset(
            column.group
            for column in self.version.manifest.columns
            if column in self.columns or column.name in self.filter_columns
        )

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of what leaves, without schema-level metadata."""
        schema = self.version.manifest.schema
        return pa.schema([schema.field(column.name) for column in self.columns])


def live_keys(
    parts: Parts, transaction: Transaction, head: CompartmentHead, groups: frozenset[str]
) -> dict[str, WrappedKey]:
    """The wrapped live key of each group; raises IntegrityError where the catalog contradicts the head."""
    rows = {(row.group, row.epoch): row for row in transaction.keys(head.compartment)}
    keys = {}
    for group in groups:
        if group not in head.live_groups:
            raise IntegrityError("a compartment's head names no key for one of its column groups")
        epoch, key_id = head.epochs[group]
        row = rows.get((group, epoch))
        if row is None or not hmac.compare_digest(row.key_id, key_id):
            raise IntegrityError("the catalog's key of a column group is not the one that its head names")
        keys[group] = wrapped_key(parts.vault, row)
    return keys


def manifest_statement(
    parts: Parts, transaction: Transaction, head: CompartmentHead, version: int
) -> ManifestStatement:
    """The statement of a live version, verified against the head; raises NotFound or IntegrityError."""
    if version not in head.versions:
        raise NotFound(f"there is no version {version}")
    for row in transaction.versions(head.compartment, version):
        if row.retired is not None:
            continue
        signed = Signed.decode(row.statement, Label.MANIFEST)
        if not hmac.compare_digest(signed.digest, head.versions[version]):
            break
        parts.root.verify(signed, Role.PUBLISHER)
        statement = ManifestStatement.parse(signed)
        if (statement.vault, statement.compartment, statement.version) != (
            parts.vault,
            head.compartment,
            version,
        ):
            break
        return statement
    raise IntegrityError("the catalog's manifest of a version is not the one that its head names")


def open_manifest(parts: Parts, keys: KeySource, key: WrappedKey, statement: ManifestStatement) -> Manifest:
    """Fetch, check and open a manifest; raises IntegrityError, NotFound, Unavailable or KmsError."""
    data = parts.store.get(statement.object)
    if len(data) != statement.size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), statement.sha256):
        raise IntegrityError("a manifest in the store is not the one that was signed")
    if key.scope.group != MANIFEST_GROUP or key.scope.epoch != statement.epoch:
        raise IntegrityError("a manifest is not under the live epoch of its compartment")
    identity = ChunkIdentity(key.scope, statement.chunk)
    manifest = decode_manifest(data, chunk_key(keys.open(key), identity), identity)
    if manifest.version != statement.version:
        raise IntegrityError("a manifest is that of another version")
    return manifest


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
    data = parts.store.get(ref.object)
    if len(data) != ref.size:
        raise IntegrityError(f"the object of chunk {ref.chunk} is not as long as the manifest says")
    identity = identity_of(key, ref)
    table = decode(data, chunk_key(keys.open(key), identity), identity, shape.schema, shape.formerly, keep)
    if table.num_rows != (ref.rows if keep is None else pc.sum(keep).as_py() or 0):
        raise IntegrityError(f"chunk {ref.chunk} has another number of rows than the manifest says")
    return table


def read_batches(parts: Parts, keys: KeySource, plan: ReadPlan) -> Iterator[pa.RecordBatch]:
    """The rows of a plan as record batches of ``plan.schema``, shard by shard.

    The columns that filters read are decoded first, and of the others only the row groups where rows are left; chunks
    of shards without any are not even fetched. Chunks of a shard are fetched and decoded in parallel, and those of the
    next one ahead of time. With a limit, no shard is begun that is not needed.
    """
    reading = _Reading(parts, keys, plan)
    left = plan.limit
    try:
        for table in reading.tables():
            piece = table if left is None else table.slice(0, left)
            yield from piece.to_batches(max_chunksize=_BATCH_ROWS)
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
        manifest = plan.version.manifest
        groups = plan.groups
        self._first = sorted({column.group for column in manifest.columns if column.name in plan.filter_columns})
        self._rest = sorted(groups - set(self._first))
        self._shapes = {group: group_shape(manifest, group) for group in groups}
        self._shards = list(self._needed(manifest.shards(groups)))
        self._maps: list[Any] = []

    def _needed(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        rows = 0
        for shard in shards:
            if not _may_match(self._plan, shard):
                continue
            yield shard
            rows += shard.rows
            if self._plan.limit is not None and not self._plan.filters and rows >= self._plan.limit:
                return

    def tables(self) -> Iterator[pa.Table]:
        """Shard by shard the rows that pass."""
        passing: deque[_Passing] = deque()

        def places() -> Iterator[tuple[_Passing, str]]:
            for each in self._passing():
                passing.append(each)
                yield from ((each, group) for group in self._rest)

        if not self._rest:
            for each in self._passing():
                yield self._joined(each, [])
            return
        opened = self._map(lambda place: self._open(place[0].shard, place[1], place[0].keep), places(), len(self._rest))
        for table in opened:
            each = passing.popleft()
            yield self._joined(each, [table, *(next(opened) for _ in self._rest[1:])])

    def _passing(self) -> Iterator[_Passing]:
        """The shards where rows pass."""
        if not self._first:
            yield from (_Passing(shard, None, None) for shard in self._shards)
            return
        opened = self._map(
            lambda place: self._open(place[0], place[1], None),
            ((shard, group) for shard in self._shards for group in self._first),
            len(self._first),
        )
        for shard in self._shards:
            table = _side_by_side([next(opened) for _ in self._first])
            keep = self._keep(table)
            if pc.any(keep).as_py():
                yield _Passing(shard, keep, table.filter(keep))

    def _keep(self, table: pa.Table) -> pa.ChunkedArray:
        masks = [condition.true_of(table) for condition in self._plan.filters]
        return reduce(pc.and_, masks)

    def _open(self, shard: Shard, group: str, keep: pa.ChunkedArray | None) -> pa.Table:
        key = self._plan.version.keys[group]
        return open_chunk(self._parts, self._keys, key, shard.chunks[group], self._shapes[group], keep)

    def _joined(self, each: _Passing, pieces: list[pa.Table]) -> pa.Table:
        table = _side_by_side([*([each.columns] if each.columns is not None else []), *pieces])
        return table.select([column.name for column in self._plan.columns]).cast(self._plan.schema)

    def _map(self, task: Callable[[Any], pa.Table], places: Iterator[Any], chunks: int) -> Iterator[pa.Table]:
        engine = self._parts.engine
        found = engine.map(task, places, ahead=chunks + engine.workers)
        self._maps.append(found)
        return found

    def close(self) -> None:
        """Cancel what was to be fetched ahead."""
        for found in reversed(self._maps):
            found.close()


def _side_by_side(pieces: Sequence[pa.Table]) -> pa.Table:
    fields = [field for piece in pieces for field in piece.schema]
    return pa.table([column for piece in pieces for column in piece.columns], schema=pa.schema(fields))


def group_shape(manifest: Manifest, group: str) -> GroupShape:
    """What a column group's chunks hold."""
    columns = [column for column in manifest.columns if column.group == group]
    schema = pa.schema([manifest.schema.field(column.name) for column in columns])
    return GroupShape(schema, {column.name: column.formerly for column in columns})


def _may_match(plan: ReadPlan, shard: Shard) -> bool:
    if not plan.filters:
        return True
    statistics: dict[str, ColumnStats] = {}
    for column in plan.version.manifest.columns:
        ref = shard.chunks.get(column.group)
        if ref is not None and column.id in ref.statistics:
            statistics[column.name] = _statistics(ref.statistics[column.id])
    return all(condition.may_match(statistics) for condition in plan.filters)


def _statistics(document: Any) -> ColumnStats:
    return stats_from_json(document)


def open_version(parts: Parts, keys: KeySource, place: CompartmentRow, version: int | None = None) -> OpenVersion:
    """Open a live version of a compartment, by default the newest; raises NotFound and others."""
    with parts.catalog.read() as transaction:
        head = parts.heads.compartment_in(transaction, place)
        wanted = version if version is not None else (head.newest if head else None)
        if head is None or wanted is None:
            raise NotFound("there is no version")
        statement = manifest_statement(parts, transaction, head, wanted)
        wrapped = live_keys(parts, transaction, head, head.live_groups)
    manifest = parts.manifests.get(statement.sha256)
    if manifest is None:
        manifest = open_manifest(parts, keys, wrapped[MANIFEST_GROUP], statement)
        parts.manifests.keep(statement.sha256, manifest)
    if not manifest.groups <= wrapped.keys():
        raise IntegrityError("a compartment's head names no key for one of its column groups")
    return OpenVersion(head, manifest, wrapped)


def live_versions(parts: Parts, place: CompartmentRow) -> tuple[CompartmentHead | None, list[OpenVersion]]:
    """A compartment's head and every live version under it, oldest first; raises Conflict when it keeps moving."""
    for _ in range(_TRIES):
        with parts.catalog.read() as transaction:
            head = parts.heads.compartment_in(transaction, place)
        if head is None:
            return None, []
        found = [open_version(parts, parts.keyring, place, number) for number in sorted(head.versions)]
        if all(version.head.digest == head.digest for version in found):
            return head, found
    raise Conflict("the compartment keeps changing; try again")


def read_column(parts: Parts, version: OpenVersion, name: str) -> Iterator[pa.ChunkedArray]:
    """One column of a version, shard by shard, for the owner's own checks."""
    column = version.manifest.column(name)
    if column is None:
        raise NotFound(f"there is no column {name!r}")
    shape = group_shape(version.manifest, column.group)
    for shard in version.manifest.shards((column.group,)):
        ref = shard.chunks[column.group]
        yield open_chunk(parts, parts.keyring, version.keys[column.group], ref, shape).column(name)
