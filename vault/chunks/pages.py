"""Moving a chunk to another key page by page, without decoding it.

A chunk is ``PARE | modules | FileCryptoMetaData | footer module | u32le length of both | PARE``; a module is
``u32le length | nonce 12 | ciphertext | tag 16`` with AAD ``prefix | file id 8 | type 1 | row group i16le | column
i16le | page i16le`` (Parquet Modular Encryption, sections 4.4.2 and 5.1). Under another key every module keeps its
length, so every offset in the footer stays true and the footer is encrypted again as it is.

Every tag of the input is checked on the way, so a rekey is a scrub too. Whatever is not exactly the shape that
we write is refused with IntegrityError.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.chunks.codec import MAGIC, check_magic, footer
from vault.errors import IntegrityError
from vault.model import ChunkIdentity

__all__ = ["rekey", "verify"]

_NONCE: Final = 12
_TAG: Final = 16
_LENGTH: Final = 4
_FILE_ID: Final = 8
#: FileCryptoMetaData of our files in Thrift's compact protocol, around the 8 bytes of the file's id: the
#: algorithm AES_GCM_V1 with ``aad_file_unique`` and ``supply_aad_prefix``, and no key metadata.
_CRYPTO_HEAD: Final = bytes.fromhex("1c1c2808")
_CRYPTO_TAIL: Final = bytes.fromhex("11000000")
_CRYPTO_BYTES: Final = len(_CRYPTO_HEAD) + _FILE_ID + len(_CRYPTO_TAIL)

_FOOTER: Final = 0
_DATA_PAGE: Final = 2
_DICTIONARY_PAGE: Final = 3
_DATA_PAGE_HEADER: Final = 4
_DICTIONARY_PAGE_HEADER: Final = 5
_MAX_ORDINAL: Final = 32_767


@dataclass(frozen=True, slots=True)
class _Module:
    """One module: where it begins, its whole length, and what the AAD says after prefix and file id."""

    start: int
    size: int
    suffix: bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    """A parsed chunk: its file id, where that stands, and every module, the footer last."""

    file_id: bytes
    file_id_at: int
    modules: tuple[_Module, ...]


def verify(data: Any, key: bytes, identity: ChunkIdentity) -> None:
    """Check every module's tag; raises IntegrityError unless the whole chunk is as it was written."""
    view = memoryview(data).cast("B")
    layout = _parse(view, key, identity)
    cipher, prefix = AESGCM(key), identity.encode() + layout.file_id
    scratch = memoryview(bytearray(max(module.size for module in layout.modules)))
    for module in layout.modules:
        _decrypt(cipher, view, module, prefix, scratch, identity)


def rekey(data: Any, old_key: bytes, old: ChunkIdentity, new_key: bytes, new: ChunkIdentity) -> pa.Buffer:
    """The same chunk under another key and identity, with a fresh file id and fresh nonces.

    The result has the length of the input. Raises IntegrityError unless every byte of the input is what was
    written under ``old_key`` and ``old``.
    """
    view = memoryview(data).cast("B")
    layout = _parse(view, old_key, old)
    output = pa.allocate_buffer(len(view))
    out = memoryview(output).cast("B")
    file_id = os.urandom(_FILE_ID)
    out[: len(MAGIC)] = MAGIC
    tail = layout.file_id_at - len(_CRYPTO_HEAD)
    out[tail : tail + _CRYPTO_BYTES] = _CRYPTO_HEAD + file_id + _CRYPTO_TAIL
    out[-8:] = view[-8:]

    reader, writer = AESGCM(old_key), AESGCM(new_key)
    old_prefix, new_prefix = old.encode() + layout.file_id, new.encode() + file_id
    nonces = os.urandom(_NONCE * len(layout.modules))
    scratch = memoryview(bytearray(max(module.size for module in layout.modules)))
    for index, module in enumerate(layout.modules):
        plain = _decrypt(reader, view, module, old_prefix, scratch, old)
        nonce = nonces[index * _NONCE : (index + 1) * _NONCE]
        body = module.start + _LENGTH + _NONCE
        out[module.start : module.start + _LENGTH] = view[module.start : module.start + _LENGTH]
        out[module.start + _LENGTH : body] = nonce
        writer.encrypt_into(nonce, plain, new_prefix + module.suffix, out[body : module.start + module.size])
    return output


def _decrypt(
    cipher: AESGCM,
    view: memoryview,
    module: _Module,
    prefix: bytes,
    scratch: memoryview,
    identity: ChunkIdentity,
) -> memoryview:
    nonce_at = module.start + _LENGTH
    body = nonce_at + _NONCE
    plain = scratch[: module.size - _LENGTH - _NONCE - _TAG]
    try:
        cipher.decrypt_into(view[nonce_at:body], view[body : module.start + module.size], prefix + module.suffix, plain)
    except InvalidTag as error:
        raise _altered(identity) from error
    return plain


def _altered(identity: ChunkIdentity) -> IntegrityError:
    return IntegrityError(f"chunk {identity.chunk} was changed: one of its modules does not authenticate")


def _misshapen(identity: ChunkIdentity) -> IntegrityError:
    return IntegrityError(f"chunk {identity.chunk} does not have the shape that dsvault writes")


def _parse(view: memoryview, key: bytes, identity: ChunkIdentity) -> _Layout:
    """Find every module; the footer that says where they are is authenticated before it is believed."""
    check_magic(view)
    end = len(view) - 8
    tail_bytes = struct.unpack_from("<I", view, end)[0]
    start = end - tail_bytes
    if start < len(MAGIC) or tail_bytes < _CRYPTO_BYTES + _LENGTH + _NONCE + _TAG:
        raise _misshapen(identity)
    crypto = bytes(view[start : start + _CRYPTO_BYTES])
    if not (crypto.startswith(_CRYPTO_HEAD) and crypto.endswith(_CRYPTO_TAIL)):
        raise _misshapen(identity)
    footer_module = _module(view, start + _CRYPTO_BYTES, end, bytes([_FOOTER]), identity)
    if footer_module.start + footer_module.size != end:
        raise _misshapen(identity)
    metadata = footer(view, key, identity)
    modules = (*_column_modules(view, metadata, start, identity), footer_module)
    file_id_at = start + len(_CRYPTO_HEAD)
    return _Layout(bytes(view[file_id_at : file_id_at + _FILE_ID]), file_id_at, modules)


def _module(view: memoryview, start: int, end: int, suffix: bytes, identity: ChunkIdentity) -> _Module:
    if end - start < _LENGTH + _NONCE + _TAG:
        raise _misshapen(identity)
    size = _LENGTH + struct.unpack_from("<I", view, start)[0]
    if size < _LENGTH + _NONCE + _TAG or start + size > end:
        raise _misshapen(identity)
    return _Module(start, size, suffix)


def _column_modules(view: memoryview, metadata: Any, end: int, identity: ChunkIdentity) -> Iterator[_Module]:
    """The modules of every column chunk; together they must fill the file up to the footer."""
    position = len(MAGIC)
    if metadata.num_row_groups > _MAX_ORDINAL or metadata.num_columns > _MAX_ORDINAL:
        raise _misshapen(identity)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(metadata.num_columns):
            chunk = row_group.column(column)
            if chunk.total_compressed_size == 0:
                continue  # no rows: no pages, and offsets that mean nothing
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            stop = position + chunk.total_compressed_size
            if first != position or not position < stop <= end:
                raise _misshapen(identity)
            has_dictionary = bool(chunk.dictionary_page_offset)
            yield from _page_modules(view, position, stop, group, column, has_dictionary, identity)
            position = stop
    if position != end:
        raise _misshapen(identity)


def _page_modules(
    view: memoryview,
    start: int,
    stop: int,
    group: int,
    column: int,
    has_dictionary: bool,
    identity: ChunkIdentity,
) -> Iterator[_Module]:
    place = struct.pack("<hh", group, column)
    position, page = start, 0
    if has_dictionary:
        for kind in (_DICTIONARY_PAGE_HEADER, _DICTIONARY_PAGE):
            module = _module(view, position, stop, bytes([kind]) + place, identity)
            position += module.size
            yield module
    while position < stop:
        if page > _MAX_ORDINAL:
            raise _misshapen(identity)
        ordinal = struct.pack("<h", page)
        for kind in (_DATA_PAGE_HEADER, _DATA_PAGE):
            module = _module(view, position, stop, bytes([kind]) + place + ordinal, identity)
            position += module.size
            yield module
        page += 1
