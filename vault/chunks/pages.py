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

from vault.chunks.codec import check_key, footer
from vault.chunks.shape import (
    CRYPTO_HEAD,
    CRYPTO_TAIL,
    FILE_ID,
    LENGTH,
    MAGIC,
    MAX_ORDINAL,
    MIN_MODULE,
    NONCE,
    TAG,
    Extent,
    Frame,
    extents,
    frame,
    misshapen,
)
from vault.errors import IntegrityError
from vault.model import ChunkIdentity

__all__ = ["rekey", "verify"]

_FOOTER: Final = 0
_DATA_PAGE: Final = 2
_DICTIONARY_PAGE: Final = 3
_DATA_PAGE_HEADER: Final = 4
_DICTIONARY_PAGE_HEADER: Final = 5


@dataclass(frozen=True, slots=True)
class _Module:
    """One module: where it begins, its whole length, and what the AAD says after prefix and file id."""

    start: int
    size: int
    suffix: bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    """A parsed chunk: its frame, and every module, the footer last."""

    frame: Frame
    modules: tuple[_Module, ...]


def verify(data: Any, key: bytes, identity: ChunkIdentity) -> None:
    """Check every module's tag; raises IntegrityError unless the whole chunk is as it was written."""
    view = memoryview(data).cast("B")
    layout = _parse(view, key, identity)
    cipher, prefix = AESGCM(key), identity.encode() + layout.frame.file_id
    scratch = memoryview(bytearray(max(module.size for module in layout.modules)))
    for module in layout.modules:
        _decrypt(cipher, view, module, prefix, scratch, identity)


def rekey(data: Any, old_key: bytes, old: ChunkIdentity, new_key: bytes, new: ChunkIdentity) -> pa.Buffer:
    """The same chunk under another key and identity, with a fresh file id and fresh nonces.

    The result has the length of the input. Raises IntegrityError unless every byte of the input is what was
    written under ``old_key`` and ``old``, and both keys are 256 bits long.
    """
    check_key(new_key)
    view = memoryview(data).cast("B")
    layout = _parse(view, old_key, old)
    output = pa.allocate_buffer(len(view))
    out = memoryview(output).cast("B")
    file_id = os.urandom(FILE_ID)
    out[: len(MAGIC)] = MAGIC
    out[layout.frame.crypto : layout.frame.footer] = CRYPTO_HEAD + file_id + CRYPTO_TAIL
    out[-8:] = view[-8:]

    reader, writer = AESGCM(old_key), AESGCM(new_key)
    old_prefix, new_prefix = old.encode() + layout.frame.file_id, new.encode() + file_id
    nonces = os.urandom(NONCE * len(layout.modules))
    scratch = memoryview(bytearray(max(module.size for module in layout.modules)))
    for index, module in enumerate(layout.modules):
        plain = _decrypt(reader, view, module, old_prefix, scratch, old)
        nonce = nonces[index * NONCE : (index + 1) * NONCE]
        body = module.start + LENGTH + NONCE
        out[module.start : module.start + LENGTH] = view[module.start : module.start + LENGTH]
        out[module.start + LENGTH : body] = nonce
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
    nonce_at = module.start + LENGTH
    body = nonce_at + NONCE
    plain = scratch[: module.size - LENGTH - NONCE - TAG]
    try:
        cipher.decrypt_into(view[nonce_at:body], view[body : module.start + module.size], prefix + module.suffix, plain)
    except InvalidTag as error:
        raise _altered(identity) from error
    return plain


def _altered(identity: ChunkIdentity) -> IntegrityError:
    return IntegrityError(f"chunk {identity.chunk} was changed: one of its modules does not authenticate")


def _parse(view: memoryview, key: bytes, identity: ChunkIdentity) -> _Layout:
    """Find every module; the footer that says where they are is authenticated before it is believed."""
    found = frame(view, identity)
    metadata = footer(view, key, identity)
    last = _module(view, found.footer, found.end, bytes([_FOOTER]), identity)
    pages = (
        module for extent in extents(metadata, found, identity) for module in _page_modules(view, extent, identity)
    )
    return _Layout(found, (*pages, last))


def _module(view: memoryview, start: int, end: int, suffix: bytes, identity: ChunkIdentity) -> _Module:
    if end - start < MIN_MODULE:
        raise misshapen(identity)
    size = LENGTH + struct.unpack_from("<I", view, start)[0]
    if size < MIN_MODULE or start + size > end:
        raise misshapen(identity)
    return _Module(start, size, suffix)


def _page_modules(view: memoryview, extent: Extent, identity: ChunkIdentity) -> Iterator[_Module]:
    place = struct.pack("<hh", extent.row_group, extent.column)
    position, page = extent.start, 0
    if extent.has_dictionary:
        for kind in (_DICTIONARY_PAGE_HEADER, _DICTIONARY_PAGE):
            module = _module(view, position, extent.stop, bytes([kind]) + place, identity)
            position += module.size
            yield module
    while position < extent.stop:
        if page > MAX_ORDINAL:
            raise misshapen(identity)
        ordinal = struct.pack("<h", page)
        for kind in (_DATA_PAGE_HEADER, _DATA_PAGE):
            module = _module(view, position, extent.stop, bytes([kind]) + place + ordinal, identity)
            position += module.size
            yield module
        page += 1
