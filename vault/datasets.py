"""The owner's view of its datasets, and its own reads.

The owner's reads take the same path as a vendor's from the manifest on, and are logged before the first row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vault.audit import Kind
from vault.errors import InvalidInput
from vault.fields import Path
from vault.filters import bind, parse
from vault.holdings import GrantState, grants
from vault.model import Column, picked
from vault.projection import has_field
from vault.workings.filling import owners_version
from vault.workings.names import Dataset, dataset_named
from vault.workings.names import datasets as _all
from vault.workings.parts import OwnerParts
from vault.workings.reading import ReadPlan, read_batches

__all__ = ["DatasetDetail", "DatasetState", "VersionState", "datasets", "scan", "show"]


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


def _named(parts: OwnerParts, name: str) -> Dataset:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        return dataset_named(transaction, sealer, name)


def show(parts: OwnerParts, name: str) -> DatasetDetail:
    """One dataset in full; raises NotFound."""
    dataset = _named(parts, name)
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


def scan(
    parts: OwnerParts,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    version: int | None = None,
) -> pa.RecordBatchReader:
    """Read a version as its owner; raises NotFound, InvalidInput and what reading raises."""
    dataset = _named(parts, name)
    opened = owners_version(parts, dataset, version)
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
    filters = (bind(parse(where), opened.manifest.schema),) if where is not None else ()
    plan = ReadPlan(opened, chosen, filters, limit)
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
