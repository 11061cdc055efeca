"""The owner's view of its datasets, and its own reads.

The owner's reads take the same path as a vendor's from the manifest on, and are logged before the first row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from vault.audit import Kind
from vault.errors import InvalidInput
from vault.fields import Path
from vault.filters import bind, parse
from vault.holdings import GrantState, grants
from vault.manifest import Shard
from vault.model import Column, picked
from vault.projection import has_field
from vault.workings.filling import owners_version
from vault.workings.names import Dataset, dataset_named
from vault.workings.names import datasets as _all
from vault.workings.parts import OwnerParts
from vault.workings.reading import ReadPlan, leaving_schema, read_batches
from vault.workings.versions import OpenVersion

__all__ = [
    "DatasetDetail",
    "DatasetState",
    "ScanPart",
    "ScanPlan",
    "VersionState",
    "datasets",
    "named",
    "plan_scan",
    "scan",
    "show",
]


@dataclass(frozen=True, slots=True)
class DatasetState:
    """A dataset in a list: its newest version, rows, columns, encoded bytes, and how many must sign a grant on it."""

    name: str
    version: int
    rows: int
    columns: int
    bytes: int
    signers: int = 1


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version of a dataset; ``erased`` is how many rows were erased from it since."""

    version: int
    created: str
    rows: int
    shards: int
    bytes: int
    erased: int


@dataclass(frozen=True, slots=True)
class DatasetDetail:
    """A dataset as its owner sees it; ``signers`` is how many must sign a grant on it."""

    name: str
    id: str
    key: str | None
    assign_by: str | None
    schema: pa.Schema
    column_ids: dict[str, str]
    versions: list[VersionState]
    grants: list[GrantState]
    signers: int = 1


def datasets(parts: OwnerParts) -> list[DatasetState]:
    """Every dataset, oldest first."""
    with parts.catalog.read() as transaction:
        found = _all(transaction, parts.sealer())
        protected = parts.root.seen_by(transaction).protected
    states = []
    for dataset in found:
        manifest = owners_version(parts, dataset, None).manifest
        columns, signers = len(manifest.columns), protected.get(dataset.id, 1)
        states.append(DatasetState(dataset.name, manifest.version, manifest.rows, columns, manifest.size, signers))
    return states


def named(parts: OwnerParts, name: str) -> Dataset:
    """A dataset by name; raises NotFound."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        return dataset_named(transaction, sealer, name)


def show(parts: OwnerParts, name: str) -> DatasetDetail:
    """One dataset in full; raises NotFound."""
    dataset = named(parts, name)
    newest = owners_version(parts, dataset, None)
    states = []
    for number in sorted(newest.head.versions):
        manifest = owners_version(parts, dataset, number).manifest
        created = manifest.created.isoformat(timespec="seconds")
        erased = sum(each.rows for each in manifest.erased)
        states.append(VersionState(number, created, manifest.rows, manifest.shards, manifest.size, erased))
    return DatasetDetail(
        name=dataset.name,
        id=dataset.id,
        key=dataset.key,
        assign_by=dataset.assign_by,
        schema=newest.manifest.schema,
        column_ids={column.name: column.id for column in newest.manifest.columns},
        versions=states,
        grants=[state for state in grants(parts) if state.grant.dataset == dataset.id],
        signers=parts.root.refresh().protected.get(dataset.id, 1),
    )


class ScanPart(NamedTuple):
    """Neighbouring shards of a version, their rows, and the bytes of their chunks of the columns."""

    shards: tuple[int, ...]
    rows: int
    bytes: int


class ScanPlan(NamedTuple):
    """A version as parts that `scan` reads by themselves, and the schema of what comes."""

    version: int
    schema: pa.Schema
    parts: tuple[ScanPart, ...]


def plan_scan(
    parts: OwnerParts, name: str, *, columns: Sequence[str] | None = None, version: int | None = None, most: int
) -> ScanPlan:
    """A version in at most so many parts, each of about as many rows. Opens no chunk; raises what `scan` does."""
    opened = owners_version(parts, named(parts, name), version)
    chosen = _chosen(opened, columns)
    schema = leaving_schema(opened.manifest.schema, chosen, {})
    if columns is None:
        schema = schema.with_metadata(opened.manifest.schema.metadata)
    shards = list(opened.shards({column.group for column in chosen}))
    return ScanPlan(opened.manifest.version, schema, tuple(_scan_part(each) for each in _shared_out(shards, most)))


def _shared_out(shards: Sequence[Shard], most: int) -> list[list[Shard]]:
    total, rows = sum(shard.rows for shard in shards), 0
    found: list[list[Shard]] = []
    for shard in shards:
        if not found or rows * max(1, most) >= total * len(found):
            found.append([])
        found[-1].append(shard)
        rows += shard.rows
    return found


def _scan_part(shards: Sequence[Shard]) -> ScanPart:
    size = sum(ref.size for shard in shards for ref in shard.chunks.values())
    return ScanPart(tuple(shard.index for shard in shards), sum(shard.rows for shard in shards), size)


def _chosen(opened: OpenVersion, columns: Sequence[str] | None) -> tuple[Column, ...]:
    """The columns of a version, or the named ones, or fields of them; raises InvalidInput."""
    wanted = columns if columns is not None else [column.name for column in opened.manifest.columns]
    every, arrow = opened.manifest.columns, opened.manifest.schema

    def exists(column: Column, path: Path) -> bool:
        return has_field(arrow.field(column.name), path)

    for each in wanted:
        if picked([each], every, exists) is None:
            raise InvalidInput(f"--columns: the dataset has no column {each!r}")
    chosen = picked(wanted, every, exists)
    if not chosen or len(set(wanted)) != len(wanted):
        raise InvalidInput("--columns: name at least one column, and none twice")
    return chosen


def scan(
    parts: OwnerParts,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    version: int | None = None,
    shards: Sequence[int] | None = None,
) -> pa.RecordBatchReader:
    """Read a version as its owner, or some shards of it; raises NotFound, InvalidInput and what reading raises."""
    dataset = named(parts, name)
    opened = owners_version(parts, dataset, version)
    chosen = _chosen(opened, columns)
    filters = (bind(parse(where), opened.manifest.schema),) if where is not None else ()
    among = None if shards is None else pa.array(sorted(shards), pa.int32())
    plan = ReadPlan(opened, chosen, filters, limit, among=among)
    entry = parts.journal.record(
        Kind.OWNER_READ,
        dataset=name,
        dataset_id=dataset.id,
        version=opened.manifest.version,
        columns=[name for column in chosen for name in column.shown],
        column_ids=[column.id for column in chosen],
        where=where,
        limit=limit,
        shards=plan.shards,
        **plan.held,
    )
    parts.journal.hold(entry)
    schema = plan.schema
    if columns is None:
        schema = schema.with_metadata(opened.manifest.schema.metadata)

    def batches() -> Iterator[pa.RecordBatch]:
        for placed in read_batches(parts, parts.keyring, plan):
            yield placed.batch.replace_schema_metadata(schema.metadata)

    return pa.RecordBatchReader.from_batches(schema, batches())
