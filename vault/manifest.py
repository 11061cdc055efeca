"""Manifests: what a version of one compartment consists of, as a sealed chunk.

A manifest is one Parquet chunk under the compartment's ``manifest`` key: a single row with a JSON header, the
Arrow schema (IPC), and the list of chunks. Nobody without that key learns a column's name or a shard's size from
it; its digest is pinned by a statement that the publisher signs. Format: ``docs/reference/format.md`` section 5.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from vault.chunks import EncodeOptions, decode, encode
from vault.encoding import from_json, from_timestamp, json_bytes, timestamp
from vault.errors import IntegrityError
from vault.model import FORMAT, ChunkIdentity, Column

__all__ = ["ChunkRef", "Erasure", "Manifest", "Shard", "decode_manifest", "encode_manifest"]

_CHUNK = pa.struct(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("chunk", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("object", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("checksum", pa.string(), nullable=False),
        pa.field("assigned", pa.string()),
        pa.field("statistics", pa.string(), nullable=False),
    ]
)
_LAYOUT = pa.schema(
    [
        pa.field("header", pa.string(), nullable=False),
        pa.field("schema", pa.binary(), nullable=False),
        pa.field("chunks", pa.list_(pa.field("item", _CHUNK, nullable=False)), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """One chunk of a version.

    ``content`` stays with the plaintext through every rekey and fan-out, so that a compartment knows which
    chunks it has already; ``chunk`` is fresh for every object. ``size`` is in bytes, ``checksum`` the
    XXH3-128 of the object (against bit rot only), ``assigned`` the id of the vendor whose rows these are,
    ``statistics`` maps column ids to `vault.filters` statistics in JSON form.
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
    statistics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of rows: the chunks of the groups that were asked for, by group."""

    index: int
    rows: int
    assigned: str | None
    chunks: Mapping[str, ChunkRef]


@dataclass(frozen=True, slots=True)
class Erasure:
    """Rows that were erased from a version after it was published: when, and how many."""

    time: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version of one compartment. ``schema`` has the compartment's columns, in order; ``erased`` is the owner's."""

    vault: str
    compartment: str
    dataset: str
    version: int
    created: datetime
    columns: tuple[Column, ...]
    schema: pa.Schema
    chunks: tuple[ChunkRef, ...]
    erased: tuple[Erasure, ...] = ()

    @property
    def groups(self) -> frozenset[str]:
        """Every column group of the version."""
        return frozenset(column.group for column in self.columns)

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards())

    def column(self, name: str) -> Column | None:
        """The column of that exact name."""
        return next((column for column in self.columns if column.name == name), None)

    def shards(self, groups: Collection[str] | None = None) -> Iterator[Shard]:
        """The shards in order, with the chunks of these groups (by default all).

        Raises IntegrityError when a shard lacks one of them, or when its chunks differ in rows.
        """
        wanted = self.groups if groups is None else frozenset(groups)
        by_shard: dict[int, dict[str, ChunkRef]] = {}
        for ref in self.chunks:
            by_shard.setdefault(ref.shard, {})[ref.group] = ref
        for index in sorted(by_shard):
            refs = by_shard[index]
            if not wanted <= refs.keys():
                raise IntegrityError(f"shard {index} of the manifest lacks a chunk of a column")
            if len({ref.rows for ref in refs.values()}) != 1:
                raise IntegrityError(f"the chunks of shard {index} differ in their number of rows")
            first = next(iter(refs.values()))
            yield Shard(index, first.rows, first.assigned, {group: refs[group] for group in wanted})

    def narrowed(self, compartment: str, groups: Collection[str], chunks: tuple[ChunkRef, ...]) -> "Manifest":
        """The same version in another compartment: these groups only, under these chunks.

        Schema metadata is dropped: it speaks of columns that the other compartment may not have.
        """
        columns = tuple(column for column in self.columns if column.group in groups)
        schema = pa.schema([self.schema.field(column.name) for column in columns])
        return replace(self, compartment=compartment, columns=columns, schema=schema, chunks=chunks, erased=())


def encode_manifest(manifest: Manifest, key: bytes, identity: ChunkIdentity) -> pa.Buffer:
    """Encode as a sealed chunk under a chunk key of the manifest data key."""
    header = {
        "format": list(FORMAT),
        "vault": manifest.vault,
        "compartment": manifest.compartment,
        "dataset": manifest.dataset,
        "version": manifest.version,
        "created": timestamp(manifest.created),
        "columns": [
            {"id": column.id, "name": column.name, "group": column.group, "formerly": list(column.formerly)}
            for column in manifest.columns
        ],
        "erased": [{"time": each.time, "rows": each.rows} for each in manifest.erased],
    }
    table = pa.table(
        {
            "header": [json_bytes(header).decode()],
            "schema": [manifest.schema.serialize().to_pybytes()],
            "chunks": [[_row(ref) for ref in manifest.chunks]],
        },
        schema=_LAYOUT,
    )
    return encode(table, key, identity, EncodeOptions())


def _row(ref: ChunkRef) -> dict[str, Any]:
    return {
        "shard": ref.shard,
        "group": ref.group,
        "epoch": ref.epoch,
        "chunk": ref.chunk,
        "content": ref.content,
        "object": ref.object,
        "rows": ref.rows,
        "size": ref.size,
        "checksum": ref.checksum,
        "assigned": ref.assigned,
        "statistics": json.dumps(ref.statistics, separators=(",", ":")),
    }


def decode_manifest(data: Any, key: bytes, identity: ChunkIdentity) -> Manifest:
    """Open a manifest; raises IntegrityError when it is not one, or is about another compartment."""
    table = decode(data, key, identity, _LAYOUT)
    if table.num_rows != 1:
        raise IntegrityError("a manifest does not have exactly one row")
    row = table.to_pylist()[0]
    header = from_json(row["header"].encode(), "a manifest's header")
    try:
        if header["format"][0] != FORMAT[0]:
            raise IntegrityError("a manifest has a format that this release does not know")
        if (header["vault"], header["compartment"]) != (identity.scope.vault, identity.scope.compartment):
            raise IntegrityError("a manifest is about another compartment")
        return Manifest(
            vault=header["vault"],
            compartment=header["compartment"],
            dataset=header["dataset"],
            version=header["version"],
            created=from_timestamp(header["created"]),
            columns=tuple(
                Column(item["id"], item["name"], item["group"], tuple(item["formerly"])) for item in header["columns"]
            ),
            schema=pa.ipc.read_schema(pa.py_buffer(row["schema"])),
            chunks=tuple(_ref(item) for item in row["chunks"]),
            erased=tuple(Erasure(item["time"], item["rows"]) for item in header["erased"]),
        )
    except (KeyError, TypeError, IndexError, ValueError, pa.ArrowException) as error:
        raise IntegrityError("a manifest lacks a field") from error


def _ref(item: dict[str, Any]) -> ChunkRef:
    statistics = from_json(item.pop("statistics").encode(), "a chunk's statistics")
    return ChunkRef(**item, statistics=statistics)
