"""Encoding and decoding one chunk with pyarrow's Parquet modular encryption.

AES_GCM_V1 with one 256-bit key for the whole file and an encrypted footer; the chunk's identity is the AAD
prefix and is not stored (Parquet Modular Encryption, sections 4.4 and 5). A file of another identity, a plain
file, or one that was cut or changed does not open. Encryption properties are made afresh for every file: shared
ones would share the file's id, and pages could be spliced. Specified in ``docs/reference/format.md`` section 4.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.parquet.encryption import create_decryption_properties, create_encryption_properties

from vault.chunks.restore import restore
from vault.chunks.shape import MAGIC, MAX_ORDINAL, PYARROW_FAILURES, extents, frame
from vault.chunks.storing import storable
from vault.chunks.windows import InMemory, readable
from vault.compact import chosen
from vault.errors import IntegrityError, InvalidInput
from vault.model import Identity

__all__ = ["MAX_MODULES", "EncodeOptions", "check_key", "decode", "encode", "footer"]

_KEY_BYTES: Final = 32
_CODECS: Final = ("gzip", "lz4", "none", "snappy", "zstd")
#: Random 96-bit nonces: at most 2^32 invocations under one key (NIST SP 800-38D section 8.3).
MAX_MODULES: Final = 2**32


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How a chunk is written: Parquet codec and its level, rows in a row group, data page size in bytes.

    Raises InvalidInput naming the option that is not allowed.
    """

    compression: str = "zstd"
    compression_level: int | None = None
    row_group_rows: int = 65_536
    data_page_size: int | None = None
    use_dictionary: bool = True

    def __post_init__(self) -> None:
        if self.compression not in _CODECS:
            raise InvalidInput(f"--compression: use one of {', '.join(_CODECS)}")
        if self.compression_level is not None:
            _check_level(self.compression, self.compression_level)
        if self.row_group_rows < 1:
            raise InvalidInput("row_group_rows: give at least 1")
        if self.data_page_size is not None and self.data_page_size < 1:
            raise InvalidInput("data_page_size: give at least 1 byte")


def _check_level(codec: str, level: int) -> None:
    try:
        least, most = pa.Codec.minimum_compression_level(codec), pa.Codec.maximum_compression_level(codec)
    except (pa.ArrowException, ValueError) as error:
        raise InvalidInput(f"--compression-level: {codec} has no levels") from error
    if not least <= level <= most:
        raise InvalidInput(f"--compression-level: {codec} takes {least} to {most}")


def check_key(key: bytes) -> None:
    """Refuse a key that is not 256 bits long: AES takes shorter ones without a word; raises IntegrityError."""
    if len(key) != _KEY_BYTES:
        raise IntegrityError("a chunk key is not 256 bits long")


def encode(
    table: pa.Table,
    key: bytes,
    identity: Identity,
    options: EncodeOptions | None = None,
    *,
    max_modules: int = MAX_MODULES,
) -> pa.Buffer:
    """Encode a table as a chunk.

    Schema-level metadata is dropped: pandas, for one, keeps the names of all columns there, those of other
    chunks among them. Raises InvalidInput when Parquet cannot hold the table, or when one key would be used
    for more modules than ``max_modules``.
    """
    check_key(key)
    chosen = options or EncodeOptions()
    if not table.num_columns:
        raise InvalidInput("a chunk needs at least one column")
    properties = create_encryption_properties(key, aad_prefix=identity.encode(), store_aad_prefix=False)
    sink = pa.BufferOutputStream()
    written: list[Any] = []
    try:
        pq.write_table(
            storable(table).replace_schema_metadata(None),
            sink,
            row_group_size=chosen.row_group_rows,
            version="2.6",
            compression=chosen.compression,
            compression_level=chosen.compression_level,
            use_dictionary=chosen.use_dictionary,
            # pyarrow 26 reads a version 2 page of an empty list of booleans back with fewer rows.
            data_page_version="1.0",
            data_page_size=chosen.data_page_size,
            encryption_properties=properties,
            metadata_collector=written,
        )
    except PYARROW_FAILURES as error:
        raise InvalidInput(f"the columns {', '.join(table.column_names)} cannot be held in Parquet") from error
    data = sink.getvalue()
    _check_usage(written[0], data.size, max_modules)
    return data


def _check_usage(metadata: Any, size: int, max_modules: int) -> None:
    if metadata.num_row_groups > MAX_ORDINAL:
        raise InvalidInput("a chunk would have more row groups than the format can number; use larger ones")
    # A page is two modules of at least 32 bytes each, so a file has at most this many.
    if size // 32 > max_modules:
        raise InvalidInput("a chunk would use its key more often than AES-GCM allows; use smaller shards")


def _decryption(key: bytes, identity: Identity) -> Any:
    check_key(key)
    return create_decryption_properties(key, aad_prefix=identity.encode())


def footer(data: Any, key: bytes, identity: Identity) -> Any:
    """The Parquet metadata out of the decrypted footer; of a `Readable` no more than the end is read.

    Raises IntegrityError.
    """
    source = readable(data)
    found = frame(source, identity)
    # Between the magics only what tells of the footer: its offsets are of the whole file, and nobody follows them here.
    end = MAGIC + bytes(source.read(found.crypto, source.size))
    try:
        return pq.read_metadata(pa.BufferReader(end), decryption_properties=_decryption(key, identity))
    except PYARROW_FAILURES as error:
        raise _refused(identity) from error


def decode(
    data: Any,
    key: bytes,
    identity: Identity,
    schema: pa.Schema | None = None,
    formerly: Mapping[str, Collection[str]] | None = None,
    keep: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Decode a chunk, into exactly ``schema`` where one is given; ``formerly`` are names that its columns may have in
    the chunk instead. ``keep`` says of each row whether it is wanted, never null: row groups with none are not decoded.

    Raises IntegrityError for anything but the whole, unchanged chunk of this identity and key. pyarrow's own
    text stays out of the message.
    """
    view = memoryview(data).cast("B")
    found = frame(InMemory(view), identity)
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(view)), decryption_properties=_decryption(key, identity))
        extents(file.metadata, found, identity)
        # One row group at a time: pyarrow cannot join some nested columns across row groups while it reads.
        groups = [
            _wanted(file.read_row_group(group, use_threads=False), rows, part)
            for group, rows, part in _row_groups(file.metadata, keep)
        ]
        table = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
    except PYARROW_FAILURES as error:
        raise _refused(identity) from error
    return restore(table, schema, formerly) if schema is not None else table


def _row_groups(metadata: Any, keep: pa.ChunkedArray | None) -> Iterator[tuple[int, int, pa.ChunkedArray | None]]:
    """The row groups to decode, their rows, and which of these are wanted; None for all."""
    if keep is not None and len(keep) != metadata.num_rows:
        raise ValueError("the rows that are wanted are of another chunk")
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        part = keep.slice(first, rows) if keep is not None else None
        first += rows
        if part is None or pc.any(part).as_py():
            yield group, rows, part


def _wanted(table: pa.Table, rows: int, keep: pa.ChunkedArray | None) -> pa.Table:
    if table.num_rows != rows:
        raise ValueError("a row group has another number of rows than the footer says")
    return table if keep is None or pc.all(keep).as_py() else chosen(table, keep)


def _refused(identity: Identity) -> IntegrityError:
    return IntegrityError(f"chunk {identity.chunk} does not open: it was changed, or is another chunk")
