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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

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
from vault.chunks.windows import Readable, Sink, Window, readable
from vault.errors import IntegrityError
from vault.model import ChunkIdentity

__all__ = ["rekey", "rekey_into", "verify", "verify_footer"]

_FOOTER: Final = b"\x00"
_DATA_PAGE: Final = b"\x02"
_DICTIONARY_PAGE: Final = b"\x03"
_DATA_PAGE_HEADER: Final = b"\x04"
_DICTIONARY_PAGE_HEADER: Final = b"\x05"


@dataclass(frozen=True, slots=True)
class _Module:
    """One module's bytes, and what its AAD says after prefix and file id."""

    data: memoryview
    suffix: bytes


class _Opener:
    """Opens the modules of one chunk under one key, each into the same scratch."""

    def __init__(self, key: bytes, identity: ChunkIdentity, file_id: bytes) -> None:
        self._cipher = AESGCM(key)
        self._identity = identity
        self._prefix = identity.encode() + file_id
        self._scratch = memoryview(bytearray(1 << 20))

    def open(self, module: _Module) -> memoryview:
        """The plaintext, until the next one is opened; raises IntegrityError."""
        data, size = module.data, len(module.data) - LENGTH - NONCE - TAG
        if size > len(self._scratch):
            self._scratch = memoryview(bytearray(size))
        plain, body = self._scratch[:size], LENGTH + NONCE
        try:
            self._cipher.decrypt_into(data[LENGTH:body], data[body:], self._prefix + module.suffix, plain)
        except InvalidTag as error:
            raise IntegrityError(
                f"chunk {self._identity.chunk} was changed: one of its modules does not authenticate"
            ) from error
        return plain


def verify(data: object, key: bytes, identity: ChunkIdentity) -> None:
    """Check every module's tag; raises IntegrityError unless the whole chunk is as it was written.

    ``data`` is a buffer, or a `Readable`, of which a few MiB are held at a time.
    """
    source = readable(data)
    found = frame(source, identity)
    opener = _Opener(key, identity, found.file_id)
    for module in _modules(source, found, key, identity):
        opener.open(module)


def verify_footer(data: object, key: bytes, identity: ChunkIdentity) -> None:
    """Check that a chunk's footer authenticates, of a `Readable` reading only its ends; raises IntegrityError.

    The footer's tag is over the identity and the file's id, so under no other key or place does it open.
    """
    source = readable(data)
    found = frame(source, identity)
    footer_module = _module(Window(source, found.footer, found.end), found.end - found.footer, _FOOTER, identity)
    _Opener(key, identity, found.file_id).open(footer_module)


def rekey(data: object, old_key: bytes, old: ChunkIdentity, new_key: bytes, new: ChunkIdentity) -> pa.Buffer:
    """The same chunk under another key and identity, with a fresh file id and fresh nonces.

    The result has the length of the input. Raises IntegrityError unless every byte of the input is what was
    written under ``old_key`` and ``old``, and both keys are 256 bits long.
    """
    source = readable(data)
    output = pa.allocate_buffer(source.size)
    _move(source, old_key, old, new_key, new, _Into(memoryview(output).cast("B")))
    return output


def rekey_into(
    data: object,
    old_key: bytes,
    old: ChunkIdentity,
    new_key: bytes,
    new: ChunkIdentity,
    write: Callable[[memoryview], object],
) -> None:
    """`rekey` in pieces: each goes to ``write``, in order, and must not be kept.

    Of a `Readable` and of the result a few MiB are held at a time, or as much as the largest page takes. Raises
    IntegrityError as `rekey` does, when some pieces may have been written already: they are no chunk then.
    """
    source = readable(data)
    sink = Sink(write, source.size)
    _move(source, old_key, old, new_key, new, sink)
    sink.flush()


class _Into:
    """Room in one buffer that holds the whole result."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._used = 0

    def room(self, count: int) -> memoryview:
        """The next bytes."""
        self._used += count
        return self._view[self._used - count : self._used]


def _move(
    source: Readable, old_key: bytes, old: ChunkIdentity, new_key: bytes, new: ChunkIdentity, out: "Sink | _Into"
) -> None:
    check_key(new_key)
    found = frame(source, old)
    opener = _Opener(old_key, old, found.file_id)
    file_id = os.urandom(FILE_ID)
    writer, prefix = AESGCM(new_key), new.encode() + file_id
    out.room(len(MAGIC))[:] = MAGIC
    for module in _modules(source, found, old_key, old):
        if module.suffix == _FOOTER:
            crypto = CRYPTO_HEAD + file_id + CRYPTO_TAIL
            out.room(len(crypto))[:] = crypto
        plain = opener.open(module)
        room, nonce = out.room(len(module.data)), os.urandom(NONCE)
        room[:LENGTH] = module.data[:LENGTH]
        room[LENGTH : LENGTH + NONCE] = nonce
        writer.encrypt_into(nonce, plain, prefix + module.suffix, room[LENGTH + NONCE :])
    out.room(8)[:] = source.read(source.size - 8, source.size)


def _modules(source: Readable, found: Frame, key: bytes, identity: ChunkIdentity) -> Iterator[_Module]:
    """Every module in order, the footer last; the footer that says where they are is authenticated first."""
    metadata = footer(source, key, identity)
    window = Window(source, len(MAGIC), found.crypto)
    for extent in extents(metadata, found, identity):
        yield from _page_modules(window, extent, identity)
    yield _module(Window(source, found.footer, found.end), found.end - found.footer, _FOOTER, identity)


def _module(window: Window, left: int, suffix: bytes, identity: ChunkIdentity) -> _Module:
    if left < MIN_MODULE:
        raise misshapen(identity)
    size = LENGTH + int(struct.unpack("<I", window.peek(LENGTH))[0])
    if not MIN_MODULE <= size <= left:
        raise misshapen(identity)
    return _Module(window.take(size), suffix)


def _page_modules(window: Window, extent: Extent, identity: ChunkIdentity) -> Iterator[_Module]:
    place = struct.pack("<hh", extent.row_group, extent.column)
    left, page = extent.stop - extent.start, 0
    kinds = [(_DICTIONARY_PAGE_HEADER, b""), (_DICTIONARY_PAGE, b"")] if extent.has_dictionary else []
    while kinds or left:
        if not kinds:
            if page > MAX_ORDINAL:
                raise misshapen(identity)
            ordinal = struct.pack("<h", page)
            kinds = [(_DATA_PAGE_HEADER, ordinal), (_DATA_PAGE, ordinal)]
            page += 1
        for kind, number in kinds:
            module = _module(window, left, kind + place + number, identity)
            left -= len(module.data)
            yield module
        kinds = []
