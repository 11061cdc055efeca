"""Manifests and their parts as sealed chunks of the compartment's ``manifest`` key."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa

from vault.chunks import EncodeOptions, decode, encode
from vault.encoding import from_json, from_timestamp, json_bytes, timestamp
from vault.errors import IntegrityError
from vault.fields import is_fields
from vault.manifest.listing import Listing
from vault.manifest.parts import Part, Place
from vault.model import FORMAT, ChunkIdentity, Column

__all__ = [
    "Erasure",
    "Manifest",
    "column_entry",
    "decode_manifest",
    "decode_part",
    "encode_manifest",
    "encode_part",
    "read_column",
]

_PART = pa.struct(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("first", pa.int32(), nullable=False),
        pa.field("last", pa.int32(), nullable=False),
        pa.field("chunks", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("object", pa.string()),
        pa.field("chunk", pa.string()),
        pa.field("object_size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("listing", pa.large_binary()),
    ]
)
_LAYOUT = pa.schema(
    [
        pa.field("header", pa.string(), nullable=False),
        pa.field("schema", pa.binary(), nullable=False),
        pa.field("parts", pa.list_(pa.field("item", _PART, nullable=False)), nullable=False),
    ]
)
_APART = pa.schema([pa.field("listing", pa.large_binary(), nullable=False)])
#: Listings hold random ids: looking for repetitions among whole ones is of no use.
_OPTIONS = EncodeOptions(use_dictionary=False)


@dataclass(frozen=True, slots=True)
class Erasure:
    """Rows that were erased from a version after it was published: when, and how many."""

    time: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version of one compartment. ``schema`` has the compartment's columns, in order; ``erased`` is the owner's.

    ``key`` is the id of the column that identifies rows, where there is one and the compartment has all of it; versions
    of earlier releases do not say. ``parts`` are in the order of their shards within each column group. A vendor's
    compartment may have a column more than once, with other fields of it each time: there a name alone does not say
    which is meant.
    """

    vault: str
    compartment: str
    dataset: str
    version: int
    created: datetime
    columns: tuple[Column, ...]
    schema: pa.Schema
    parts: tuple[Part, ...]
    erased: tuple[Erasure, ...] = ()
    key: str | None = None

    @property
    def groups(self) -> frozenset[str]:
        """Every column group of the version."""
        return frozenset(column.group for column in self.columns)

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(part.rows for part in self._any_group())

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return sum(part.chunks for part in self._any_group())

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return sum(part.chunks for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(part.size for part in self.parts)

    def parts_of(self, group: str) -> list[Part]:
        """The parts of one column group, in the order of their shards."""
        return [part for part in self.parts if part.group == group]

    def _any_group(self) -> list[Part]:
        return self.parts_of(self.parts[0].group) if self.parts else []

    def column(self, name: str) -> Column | None:
        """The column of that exact name."""
        return next((column for column in self.columns if column.name == name), None)

    def members(self, group: str) -> list[tuple[Column, pa.Field]]:
        """The columns of a group with their Arrow fields, in order."""
        return [pair for pair in zip(self.columns, self.schema, strict=True) if pair[0].group == group]

    def narrowed(self, groups: Collection[str], parts: Iterable[Part] | None = None) -> "Manifest":
        """The same version with these groups only, by default in the parts that they have."""
        kept = [pair for pair in zip(self.columns, self.schema, strict=True) if pair[0].group in groups]
        if parts is None:
            parts = (part for part in self.parts if part.group in groups)
        return self.moved(self.compartment, kept, parts)

    def moved(self, compartment: str, columns: Sequence[tuple[Column, pa.Field]], parts: Iterable[Part]) -> "Manifest":
        """The same version in another compartment, with these columns and parts.

        Schema metadata is dropped: it speaks of columns that the other compartment may not have.
        """
        whole = {column.id for column, _ in columns if column.fields is None}
        return replace(
            self,
            compartment=compartment,
            columns=tuple(column for column, _ in columns),
            key=self.key if self.key in whole else None,
            schema=pa.schema([field for _, field in columns]),
            parts=tuple(parts),
            erased=(),
        )


def encode_part(listing: Listing, key: bytes, identity: ChunkIdentity) -> pa.Buffer:
    """Encode a part of its own under a chunk key of the manifest data key."""
    table = pa.table({"listing": [listing.to_bytes().to_pybytes()]}, schema=_APART)
    return encode(table, key, identity, _OPTIONS)


def decode_part(data: Any, key: bytes, identity: ChunkIdentity, part: Part) -> Listing:
    """Open a part that has an object of its own; raises IntegrityError when it is not what the manifest says."""
    table = decode(data, key, identity, _APART)
    if table.num_rows != 1:
        raise IntegrityError("a part of a manifest does not have exactly one row")
    return _checked(part, table.column("listing")[0].as_buffer())


def _checked(part: Part, data: Any) -> Listing:
    listing = Listing.from_bytes(part.group, data)
    if (len(listing), listing.rows, listing.size) != (part.chunks, part.rows, part.size):
        raise IntegrityError("a part of a manifest lists other chunks than the manifest says")
    if len(listing) and not part.first <= listing.shards[0].as_py() <= listing.shards[-1].as_py() <= part.last:
        raise IntegrityError("a part of a manifest lists shards that are another part's")
    return listing


def encode_manifest(manifest: Manifest, key: bytes, identity: ChunkIdentity) -> pa.Buffer:
    """Encode as a sealed chunk under a chunk key of the manifest data key; parts that are apart have their places."""
    header = {
        "format": list(FORMAT),
        "vault": manifest.vault,
        "compartment": manifest.compartment,
        "dataset": manifest.dataset,
        "version": manifest.version,
        "created": timestamp(manifest.created),
        "columns": [column_entry(column) for column in manifest.columns],
        "erased": [{"time": each.time, "rows": each.rows} for each in manifest.erased],
        **({"key": manifest.key} if manifest.key is not None else {}),
    }
    table = pa.table(
        {
            "header": [json_bytes(header).decode()],
            "schema": [manifest.schema.serialize().to_pybytes()],
            "parts": [[_part_row(part, identity) for part in manifest.parts]],
        },
        schema=_LAYOUT,
    )
    return encode(table, key, identity, _OPTIONS)


def column_entry(column: Column) -> dict[str, Any]:
    """A column as a JSON document."""
    entry: dict[str, Any] = {
        "id": column.id,
        "name": column.name,
        "group": column.group,
        "formerly": list(column.formerly),
    }
    # Only where there is something to say: a whole column's entry is what it always was.
    if column.since is not None:
        entry["since"] = timestamp(column.since)
    if column.fields is not None:
        entry["fields"] = [list(path) for path in column.fields]
    return entry


def read_column(entry: dict[str, Any]) -> Column:
    """Inverse of `column_entry`; raises IntegrityError, KeyError or TypeError."""
    fields = tuple(tuple(path) for path in entry["fields"]) if "fields" in entry else None
    if fields is not None and not is_fields(fields):
        raise IntegrityError("a manifest names fields of a column that are none")
    since = from_timestamp(entry["since"]) if "since" in entry else None
    return Column(entry["id"], entry["name"], entry["group"], tuple(entry["formerly"]), fields, since)


def _part_row(part: Part, identity: ChunkIdentity) -> dict[str, Any]:
    row: dict[str, Any] = {
        "group": part.group,
        "content": part.content,
        "first": part.first,
        "last": part.last,
        "chunks": part.chunks,
        "rows": part.rows,
        "size": part.size,
    }
    if not part.apart:
        assert part.listing is not None
        return row | {"listing": part.listing.to_bytes().to_pybytes()}
    place = part.place
    if place is None or place.epoch != identity.scope.epoch:
        raise IntegrityError("a part of a manifest is not under the epoch of the manifest")
    return row | {
        "object": place.object,
        "chunk": place.chunk,
        "object_size": place.size,
        "sha256": place.sha256,
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
        return _consistent(
            Manifest(
                vault=header["vault"],
                compartment=header["compartment"],
                dataset=header["dataset"],
                version=header["version"],
                created=from_timestamp(header["created"]),
                columns=tuple(read_column(item) for item in header["columns"]),
                schema=pa.ipc.read_schema(pa.py_buffer(row["schema"])),
                parts=tuple(_read_part(item, identity) for item in row["parts"]),
                erased=tuple(Erasure(item["time"], item["rows"]) for item in header["erased"]),
                key=header.get("key"),
            )
        )
    except (KeyError, TypeError, IndexError, ValueError, pa.ArrowException) as error:
        raise IntegrityError("a manifest lacks a field") from error


def _read_part(row: dict[str, Any], identity: ChunkIdentity) -> Part:
    data, apart = row["listing"], row["object"] is not None
    place = (
        Place(row["object"], row["chunk"], identity.scope.epoch, row["object_size"], row["sha256"]) if apart else None
    )
    known = {name: row[name] for name in ("group", "content", "first", "last", "chunks", "rows", "size")}
    part = Part(**known, apart=apart, place=place, listing=None)
    return part if apart else replace(part, listing=_checked(part, pa.py_buffer(data)))


def _consistent(manifest: Manifest) -> Manifest:
    """Raises IntegrityError unless every column group lists as many shards and rows, each shard once, in order."""
    groups = manifest.groups
    if len(manifest.columns) != len(manifest.schema):
        raise IntegrityError("a manifest has other columns than its schema")
    if any(part.group not in groups for part in manifest.parts):
        raise IntegrityError("a manifest lists chunks of a column that it does not have")
    totals = set()
    for group in groups:
        parts = manifest.parts_of(group)
        if any(earlier.last >= later.first for earlier, later in pairwise(parts)):
            raise IntegrityError("the chunks of a manifest are not in the order of their shards")
        totals.add((sum(part.chunks for part in parts), sum(part.rows for part in parts)))
    if len(totals) > 1:
        raise IntegrityError("the columns of a manifest do not have the same shards")
    return manifest
