"""The frame of a chunk: magics, crypto metadata and footer length, which no tag covers and we check ourselves.

``PARE | modules | FileCryptoMetaData | footer module | u32le length of the last two | PARE`` (Parquet Modular
Encryption, section 5.3). pyarrow looks at the last four bytes only, and passes over bits of the crypto metadata that
mean nothing to it; here exactly the bytes that we write are let through.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from vault.chunks.windows import Readable
from vault.errors import IntegrityError
from vault.model import Identity

__all__ = [
    "CRYPTO_HEAD",
    "CRYPTO_TAIL",
    "FILE_ID",
    "LENGTH",
    "MAGIC",
    "MAX_ORDINAL",
    "MIN_MODULE",
    "NONCE",
    "PYARROW_FAILURES",
    "TAG",
    "Extent",
    "Frame",
    "extents",
    "frame",
    "misshapen",
]

#: What pyarrow raises over a file or table that it cannot handle; IndexError and TypeError come from a footer that
#: says what no writer says, RuntimeError hides the cause of a failed write.
PYARROW_FAILURES: Final = (
    pa.ArrowException, OSError, ValueError, OverflowError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
MAGIC: Final = b"PARE"
LENGTH: Final = 4
NONCE: Final = 12
TAG: Final = 16
MIN_MODULE: Final = LENGTH + NONCE + TAG
FILE_ID: Final = 8
#: Row groups, columns and pages are numbered in int16 in a module's AAD.
MAX_ORDINAL: Final = 32_767
#: FileCryptoMetaData of our files in Thrift's compact protocol, around the 8 bytes of the file's id: the
#: algorithm AES_GCM_V1 with ``aad_file_unique`` and ``supply_aad_prefix``, and no key metadata.
CRYPTO_HEAD: Final = bytes.fromhex("1c1c2808")
CRYPTO_TAIL: Final = bytes.fromhex("11000000")
_CRYPTO_BYTES: Final = len(CRYPTO_HEAD) + FILE_ID + len(CRYPTO_TAIL)


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one leaf column of one row group stands, and whether it begins with a dictionary page."""

    row_group: int
    column: int
    start: int
    stop: int
    has_dictionary: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the parts of a chunk stand: modules end at ``crypto``, the footer module fills ``footer`` to ``end``."""

    crypto: int
    file_id: bytes
    footer: int
    end: int


def misshapen(identity: Identity) -> IntegrityError:
    """The error for whatever is not exactly the shape that dsvault writes."""
    return IntegrityError(f"chunk {identity.chunk} does not have the shape that dsvault writes")


def frame(source: Readable, identity: Identity) -> Frame:
    """Find the parts of a chunk; raises IntegrityError for any other shape."""
    shortest = len(MAGIC) + _CRYPTO_BYTES + MIN_MODULE + 8
    size = source.size
    if size < shortest or bytes(source.read(0, 4)) != MAGIC or bytes(source.read(size - 4, size)) != MAGIC:
        raise IntegrityError(f"chunk {identity.chunk}: the object is not a whole encrypted chunk")
    end = size - 8
    crypto = end - _number(source, end)
    footer = crypto + _CRYPTO_BYTES
    if crypto < len(MAGIC) or footer + MIN_MODULE > end:
        raise misshapen(identity)
    metadata = bytes(source.read(crypto, footer))
    if not (metadata.startswith(CRYPTO_HEAD) and metadata.endswith(CRYPTO_TAIL)):
        raise misshapen(identity)
    if footer + LENGTH + _number(source, footer) != end:
        raise misshapen(identity)
    return Frame(crypto, metadata[len(CRYPTO_HEAD) : len(CRYPTO_HEAD) + FILE_ID], footer, end)


def _number(source: Readable, place: int) -> int:
    return int(struct.unpack("<I", source.read(place, place + LENGTH))[0])


def extents(metadata: Any, frame: Frame, identity: Identity) -> list[Extent]:
    """Every column of every row group, by an authenticated footer; raises IntegrityError.

    Together they must fill the file from the first magic to the crypto metadata: nothing stands before, between
    or behind them.
    """
    try:
        return _extents(metadata, frame, identity)
    except PYARROW_FAILURES as error:
        raise misshapen(identity) from error


def _extents(metadata: Any, frame: Frame, identity: Identity) -> list[Extent]:
    if metadata.num_row_groups > MAX_ORDINAL or metadata.num_columns > MAX_ORDINAL:
        raise misshapen(identity)
    found, position = [], len(MAGIC)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(metadata.num_columns):
            chunk = row_group.column(column)
            if chunk.total_compressed_size == 0:
                continue  # no rows: no pages, and offsets that mean nothing
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            stop = position + chunk.total_compressed_size
            if first != position or not position < stop <= frame.crypto:
                raise misshapen(identity)
            found.append(Extent(group, column, position, stop, bool(chunk.dictionary_page_offset)))
            position = stop
    if position != frame.crypto:
        raise misshapen(identity)
    return found
