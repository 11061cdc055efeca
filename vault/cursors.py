"""Cursors: where a stream was, sealed, so that a client can go on after its connection broke.

A cursor opens for the very read that it came from, at any broker of the vault, and for nobody else: it is sealed with
AES-256-GCM (NIST SP 800-38D) under a key that follows from the vendor's metadata key and a salt of its own stream, with
everything that decides what is read as associated data. It is not only signed: positions would tell how many rows a
row filter hides.
"""

import os
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.errors import InvalidInput

__all__ = ["MAX_BYTES", "SALT_BYTES", "Cursor", "open_cursor", "salt_of", "seal_cursor"]

SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_FORM: Final = struct.Struct(">IQQ")
#: The length of every cursor.
MAX_BYTES: Final = SALT_BYTES + _NONCE_BYTES + _FORM.size + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a read: so many rows of a shard that passed have left, and so many rows in all."""

    shard: int
    row: int
    sent: int


def salt_of(data: bytes) -> bytes:
    """The salt that a cursor's key follows from; raises InvalidInput where it is none."""
    if len(data) != MAX_BYTES:
        raise _refused()
    return data[:SALT_BYTES]


def seal_cursor(key: bytes, salt: bytes, bound: bytes, cursor: Cursor) -> bytes:
    """``salt | nonce 12 | ciphertext | tag 16``; ``bound`` is what decides what is read, and the key is the salt's."""
    nonce = os.urandom(_NONCE_BYTES)
    plain = _FORM.pack(cursor.shard, cursor.row, cursor.sent)
    return salt + nonce + AESGCM(key).encrypt(nonce, plain, bound)


def open_cursor(key: bytes, bound: bytes, data: bytes) -> Cursor:
    """Inverse of `seal_cursor`; raises InvalidInput for one that was changed or is of another read."""
    nonce, sealed = data[SALT_BYTES : SALT_BYTES + _NONCE_BYTES], data[SALT_BYTES + _NONCE_BYTES :]
    try:
        return Cursor(*_FORM.unpack(AESGCM(key).decrypt(nonce, sealed, bound)))
    except (InvalidTag, struct.error) as error:
        raise _refused() from error


def _refused() -> InvalidInput:
    return InvalidInput("cursor: it is not of this read, or what is read has changed since; begin the read anew")
