"""Sealing pieces of a backup to the auditor, so that whoever holds the store alone cannot read them.

A piece is compressed (RFC 1950) and sealed with HPKE (RFC 9180: DHKEM X25519, HKDF-SHA256, AES-256-GCM, base mode)
under an info that names the vault and the piece's place, so that it opens in that place only. HPKE says nothing of who
sealed it: what a piece is believed for is the signed statement that has its digest. Specified in
``docs/reference/format.md`` section 10.
"""

import zlib
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from vault.encoding import canonical
from vault.errors import IntegrityError, KeyUnavailable

__all__ = ["open_piece", "seal_piece"]

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_VERSION: Final = b"\x01"


def _info(vault: str, place: str) -> bytes:
    return canonical("dsvault backup", vault, place)


def seal_piece(vault: str, auditor_public: bytes, place: str, plaintext: bytes) -> bytes:
    """Seal a piece: ``01 | encapsulated key, 32 bytes | ciphertext | tag``."""
    public = X25519PublicKey.from_public_bytes(auditor_public)
    return _VERSION + _SUITE.encrypt(zlib.compress(plaintext), public, info=_info(vault, place))


def open_piece(vault: str, auditor_secrets: Sequence[bytes], place: str, sealed: bytes) -> bytes:
    """The piece, by whichever auditor's private key it was sealed to.

    Call it for a piece whose digest was signed only: what is opened is also expanded. Raises KeyUnavailable where none
    of the keys opens it, and IntegrityError for what is no piece.
    """
    if sealed[:1] != _VERSION:
        raise IntegrityError("a piece of a backup has a format that this release does not know")
    for secret in auditor_secrets:
        try:
            packed = _SUITE.decrypt(sealed[1:], X25519PrivateKey.from_private_bytes(secret), info=_info(vault, place))
        except (InvalidTag, ValueError):
            continue
        try:
            return zlib.decompress(packed)
        except zlib.error as error:
            raise IntegrityError("a piece of a backup is not what was written") from error
    raise KeyUnavailable("a piece of the backup is sealed to an auditor's key that is not here")
