"""Putting single chunks of one compartment: encoded, cut or copied, each under a fresh id.

A `ChunkWriter` only puts objects and says what it put. It signs nothing and commits nothing, and it may run in any
process that can open the keys: what it put counts once a manifest lists it, and is garbage until then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import xxhash

from vault.chunks import EncodeOptions, decode, encode, footer, rekey_into
from vault.derivation import chunk_key
from vault.encoding import new_id
from vault.filters import collect_stats
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef, Entry
from vault.model import ChunkIdentity, Column, Cut
from vault.projection import narrowed, narrowed_field
from vault.workings.parts import Parts
from vault.workings.reading import GroupShape, identity_of

__all__ = ["Checksum", "ChunkWriter", "Source", "Written", "copies_of", "source_of"]


class Checksum:
    """XXH3-128 of an object, piece by piece: finds bit rot and cut transfers, proves nothing."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        self._digest.update(piece)

    def hex(self) -> str:
        """What is kept in the manifest."""
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """An encoded chunk and the key that opens it: what a rekey or fan-out starts from."""

    ref: ChunkRef
    data: Any
    key: WrappedKey
    data_key: bytes

    def whole(self) -> Any:
        """All of the encrypted bytes."""
        return self.data.read(0, self.ref.size) if hasattr(self.data, "read") else self.data

    def __repr__(self) -> str:
        return f"Source({self.ref.chunk})"


@dataclass(frozen=True, slots=True, repr=False)
class Written:
    """A chunk that was encoded and put: a source for fan-out, and the statistics of its columns by id."""

    source: Source
    statistics: Mapping[str, pa.StructArray]

    @property
    def entry(self) -> Entry:
        """What a manifest says of it."""
        return Entry(self.source.ref, self.statistics)

    def __repr__(self) -> str:
        return f"Written({self.source.ref.chunk})"


@dataclass(frozen=True, slots=True)
class _Plain:
    """What of a chunk's reference stays with the plaintext, whatever key it is under."""

    shard: int
    content: str
    rows: int
    assigned: str | None


class ChunkWriter:
    """Puts chunks of one compartment into a job's folder. May be used by several threads."""

    def __init__(self, parts: Parts, folder: str) -> None:
        self._parts = parts
        self._folder = folder

    def key(self, group: str) -> tuple[WrappedKey, bytes]:
        """The data key that chunks of a group are put under, wrapped and not."""
        raise NotImplementedError

    def chunk(
        self,
        table: pa.Table,
        columns: Iterable[Column],
        shard: int,
        assigned: str | None,
        encoding: EncodeOptions | None = None,
    ) -> Written:
        """Encode and put the columns of one group of one shard."""
        members = tuple(columns)
        wrapped, data_key = self.key(members[0].group)
        identity = ChunkIdentity(wrapped.scope, new_id())
        piece = table.select([column.name for column in members])
        data = encode(piece, chunk_key(data_key, identity), identity, encoding)
        statistics = {
            column.id: found for column in members if (found := collect_stats(piece.column(column.name))) is not None
        }
        plain = _Plain(shard, new_id(), piece.num_rows, assigned)
        view = memoryview(data).cast("B")
        ref = self._put(plain, identity, len(view), lambda write: write(view))
        return Written(Source(ref, data, wrapped, data_key), statistics)

    def cut(self, source: Source, cut: Cut, shape: GroupShape | None) -> ChunkRef:
        """Encode what a cut leaves of one of the owner's chunks, under this compartment's key, and put it.

        ``shape`` is what the chunk holds. It is decoded and encoded: the pages of fields that are left out must not be
        in the object, under whatever key. A whole group is copied.
        """
        if not cut.fields:
            return self.copy(source)
        assert shape is not None
        old, data = identity_of(source.key, source.ref), source.whole()
        key = chunk_key(source.data_key, old)
        table = decode(data, key, old, shape.schema, shape.formerly)
        columns = [narrowed(table.column(each.name), cut.of(each).fields) for each in shape.columns]
        fields = [narrowed_field(shape.schema.field(each.name), cut.of(each).fields) for each in shape.columns]
        piece = pa.table(columns, schema=pa.schema(fields))
        wrapped, data_key = self.key(cut.group)
        new = ChunkIdentity(wrapped.scope, new_id())
        found = footer(data, key, old)
        rows = found.row_group(0).num_rows if found.num_row_groups else 1
        view = memoryview(encode(piece, chunk_key(data_key, new), new, EncodeOptions(row_group_rows=rows))).cast("B")
        ref = source.ref
        plain = _Plain(ref.shard, cut.content(ref.content), ref.rows, ref.assigned)
        return self._put(plain, new, len(view), lambda write: write(view))

    def copy(self, source: Source) -> ChunkRef:
        """Encrypt a chunk anew, page by page, under this compartment's key, and put it."""
        wrapped, data_key = self.key(source.ref.group)
        old, new = identity_of(source.key, source.ref), ChunkIdentity(wrapped.scope, new_id())
        ref = source.ref
        plain = _Plain(ref.shard, ref.content, ref.rows, ref.assigned)
        return self._put(
            plain,
            new,
            ref.size,
            lambda write: rekey_into(
                source.data, chunk_key(source.data_key, old), old, chunk_key(data_key, new), new, write
            ),
        )

    def _put(
        self,
        plain: _Plain,
        identity: ChunkIdentity,
        size: int,
        produce: Callable[[Callable[[memoryview], object]], object],
    ) -> ChunkRef:
        name, digest = f"{self._folder}/{identity.chunk}", Checksum()

        def both(write: Callable[[memoryview], object]) -> None:
            def piece(data: memoryview) -> None:
                digest.add(data)
                write(data)

            produce(piece)

        self._parts.store.put_pieces(name, both)
        return ChunkRef(
            shard=plain.shard,
            group=identity.scope.group,
            epoch=identity.scope.epoch,
            chunk=identity.chunk,
            content=plain.content,
            object=name,
            rows=plain.rows,
            size=size,
            checksum=digest.hex(),
            assigned=plain.assigned,
        )


def source_of(parts: Parts, ref: ChunkRef, key: WrappedKey) -> Source:
    """A chunk in the store as a source, read piece by piece."""
    return Source(ref, parts.store.open(ref.object, ref.size), key, parts.keyring.open(key))


def copies_of(
    writer: ChunkWriter, source: Source, cuts: Sequence[Cut], shape: GroupShape | None
) -> list[tuple[str, ChunkRef]]:
    """Put what each cut leaves of a chunk; by content id. ``shape`` is what it holds, needed where a cut has fields."""
    return [(cut.content(source.ref.content), writer.cut(source, cut, shape)) for cut in cuts]
