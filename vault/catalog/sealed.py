"""Catalog fields that are sealed at rest, and the keyed index that finds them.

A holder's metadata key (256 bits) yields two subkeys by HKDF-SHA256 (RFC 5869): one for AES-256-GCM over
fields, with a fresh 96-bit nonce each, and one for HMAC-SHA256 over the text that an index finds. The AAD
binds a field to its vault, holder, place and row, so that a sealed name cannot be moved to another row.
The SQL type accepts nothing but a `SealedValue`: plaintext cannot be bound to such a column by mistake.
Specified in ``docs/reference/format.md`` section 7.
"""

import os
from dataclasses import dataclass
from typing import Any, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from vault.encoding import canonical
from vault.errors import IntegrityError

__all__ = ["FieldSealer", "Sealed", "SealedBlob", "SealedValue"]

_VERSION = b"\x01"
_NONCE = 12
_INDEX_BYTES = 16


@final
class FieldSealer:
    """Seals and opens the catalog fields of one holder. Its repr shows the holder's id only."""

    def __init__(self, vault: str, holder: str, metadata_key: bytes) -> None:
        self._vault = vault
        self._holder = holder
        self._cipher = AESGCM(self._subkey(metadata_key, "seal"))
        self._index_key = self._subkey(metadata_key, "index")

    def _subkey(self, key: bytes, purpose: str) -> bytes:
        info = canonical("dsvault metadata", purpose, self._vault, self._holder)
        return HKDF(SHA256(), 32, salt=None, info=info).derive(key)

    def _aad(self, field: str, row: str) -> bytes:
        return canonical("dsvault field", self._vault, self._holder, field, row)

    def seal(self, field: str, row: str, plaintext: bytes) -> bytes:
        """Seal ``plaintext`` for one field of one row: ``version 1 | nonce 12 | ciphertext | tag 16``."""
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext, self._aad(field, row))

    def open(self, field: str, row: str, blob: bytes) -> bytes:
        """Inverse of `seal`; raises IntegrityError when the field was changed or moved."""
        if blob[:1] != _VERSION:
            raise IntegrityError(f"a sealed {field} has a format that this release does not know")
        try:
            return self._cipher.decrypt(blob[1 : 1 + _NONCE], blob[1 + _NONCE :], self._aad(field, row))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(f"a sealed {field} in the catalog was changed or moved") from error

    def index(self, field: str, text: str) -> bytes:
        """The keyed index of a text: the first 128 bits of HMAC-SHA256, equal only for equal texts."""
        mac = HMAC(self._index_key, SHA256())
        mac.update(canonical("dsvault index", field, text))
        return mac.finalize()[:_INDEX_BYTES]

    def __repr__(self) -> str:
        return f"FieldSealer(holder={self._holder})"


@dataclass(frozen=True, slots=True, repr=False)
class SealedValue:
    """A plaintext on its way into a sealed column of one row. Its repr shows no plaintext."""

    sealer: FieldSealer
    row: str
    plaintext: bytes

    def __repr__(self) -> str:
        return f"SealedValue(row={self.row})"


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A sealed column's value as it came from the catalog."""

    field: str
    blob: bytes

    def open(self, sealer: FieldSealer, row: str) -> bytes:
        """The plaintext; raises IntegrityError."""
        return sealer.open(self.field, row, self.blob)


class Sealed(TypeDecorator[Any]):
    """A column type that binds `SealedValue` and returns `SealedBlob`."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """Seal on the way in; raises TypeError for anything that is not a `SealedValue`."""
        if value is None:
            return None
        if not isinstance(value, SealedValue):
            raise TypeError(f"the sealed column {self.field} takes a SealedValue only")
        return value.sealer.seal(self.field, value.row, value.plaintext)

    def process_result_value(self, value: Any, dialect: Dialect) -> SealedBlob | None:  # noqa: ARG002
        """Hand the ciphertext to the reader, who knows the row and the sealer."""
        return None if value is None else SealedBlob(self.field, bytes(value))
