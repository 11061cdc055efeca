"""Pages of a lease: chunk keys, and where the ciphertext is. Specified in ``docs/reference/wire.md``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError, Unavailable

__all__ = ["OBJECTS_PATH", "LeasePage", "LeasedChunk", "LeasedGroup", "LeasedShard"]

#: Below it the broker serves the ciphertext of leased chunks itself, where the store has no addresses of its own.
OBJECTS_PATH: Final = "/v1/objects/"


@dataclass(frozen=True, slots=True, repr=False)
class LeasedChunk:
    """One chunk with its key: ``size`` in bytes, ``checksum`` the XXH3-128 of the ciphertext, ``url`` absolute or a
    path at the broker."""

    chunk: str
    key: bytes
    size: int
    checksum: str
    url: str


@dataclass(frozen=True, slots=True)
class LeasedGroup:
    """A column group: what its chunks' identities have in common, and the columns that they hold."""

    compartment: str
    group: str
    epoch: int
    schema: pa.Schema
    formerly: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, repr=False)
class LeasedShard:
    """A run of rows: one chunk for each group of the page, and the cursor of a page that begins here."""

    rows: int
    cursor: bytes
    chunks: tuple[LeasedChunk, ...]


@dataclass(frozen=True, slots=True, repr=False)
class LeasePage:
    """Some shards of a lease; ``rows`` are those of the whole lease, ``schema`` is what is read of it.

    ``next`` is the cursor of the page behind this one, None behind the last.
    """

    vault: str
    grant: str
    version: int
    until: str
    rows: int
    schema: pa.Schema
    groups: tuple[LeasedGroup, ...]
    shards: tuple[LeasedShard, ...]
    next: bytes | None

    def encode(self) -> bytes:
        """As JSON; it holds keys."""
        document = {
            "format": [1, 0],
            "vault": self.vault,
            "grant": self.grant,
            "version": self.version,
            "until": self.until,
            "rows": self.rows,
            "schema": _schema_text(self.schema),
            "groups": [
                {
                    "compartment": group.compartment,
                    "group": group.group,
                    "epoch": group.epoch,
                    "schema": _schema_text(group.schema),
                    "formerly": {name: list(names) for name, names in group.formerly.items() if names},
                }
                for group in self.groups
            ],
            "shards": [
                {
                    "rows": shard.rows,
                    "cursor": to_base64(shard.cursor),
                    "chunks": [
                        {
                            "chunk": chunk.chunk,
                            "key": to_base64(chunk.key),
                            "size": chunk.size,
                            "checksum": chunk.checksum,
                            "url": chunk.url,
                        }
                        for chunk in shard.chunks
                    ],
                }
                for shard in self.shards
            ],
            "next": to_base64(self.next) if self.next is not None else None,
        }
        return json.dumps(document).encode()

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "LeasePage":
        """Inverse of `encode`; raises Unavailable for anything else."""
        try:
            groups = tuple(_group(entry) for entry in document["groups"])
            shards = tuple(_shard(entry) for entry in document["shards"])
            if document["format"][0] != 1 or any(len(shard.chunks) != len(groups) for shard in shards):
                raise ValueError("not a page")
            return cls(
                vault=str(document["vault"]),
                grant=str(document["grant"]),
                version=int(document["version"]),
                until=str(document["until"]),
                rows=int(document["rows"]),
                schema=_schema(document["schema"]),
                groups=groups,
                shards=shards,
                next=from_base64(document["next"], "a cursor") if document["next"] is not None else None,
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            IntegrityError,
            pa.ArrowException,
        ) as error:
            raise Unavailable("the broker's answer is not one that this client understands") from error


def _schema_text(schema: pa.Schema) -> str:
    return to_base64(schema.serialize().to_pybytes())


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(from_base64(text, "a schema")))


def _group(entry: Mapping[str, Any]) -> LeasedGroup:
    formerly = {str(name): tuple(str(each) for each in names) for name, names in entry["formerly"].items()}
    return LeasedGroup(
        str(entry["compartment"]), str(entry["group"]), int(entry["epoch"]), _schema(entry["schema"]), formerly
    )


def _shard(entry: Mapping[str, Any]) -> LeasedShard:
    chunks = tuple(
        LeasedChunk(
            str(each["chunk"]),
            from_base64(each["key"], "a key"),
            int(each["size"]),
            str(each["checksum"]),
            str(each["url"]),
        )
        for each in entry["chunks"]
    )
    return LeasedShard(int(entry["rows"]), from_base64(entry["cursor"], "a cursor"), chunks)
