"""Keys that follow from a data key: HKDF-SHA256 (RFC 5869) with distinct infos, never stored.

``docs/reference/format.md`` section 2. A data key is 32 uniformly random bytes, so HKDF needs no salt.
"""

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.encoding import canonical
from vault.errors import IntegrityError
from vault.model import ChunkIdentity

__all__ = [
    "KEY_BYTES",
    "chunk_key",
    "cursor_key",
    "key_id",
    "lot_key",
    "lots",
    "parcel_key",
    "spool_facts_key",
    "spool_key",
    "spool_name",
    "submission_key",
    "ticket_key",
]

KEY_BYTES: Final = 32
_COMMITMENT_BYTES = 16
_LOT_BYTES = 8
_NAME_BYTES = 16


def _derive(data_key: bytes, info: bytes, length: int) -> bytes:
    if len(data_key) != KEY_BYTES:
        raise IntegrityError("a data key is not 256 bits long")
    return HKDF(SHA256(), length, salt=None, info=info).derive(data_key)


def chunk_key(data_key: bytes, identity: ChunkIdentity) -> bytes:
    """The AES-256 key of one chunk: ``HKDF(data key, info = canonical("dsvault chunk key", identity))``."""
    return _derive(data_key, canonical("dsvault chunk key", identity.encode()), KEY_BYTES)


def cursor_key(metadata_key: bytes, salt: bytes) -> bytes:
    """The AES-256 key of one stream's cursors: ``HKDF(metadata key, info = canonical("dsvault cursor key", salt))``."""
    return _derive(metadata_key, canonical("dsvault cursor key", salt), KEY_BYTES)


def ticket_key(metadata_key: bytes, salt: bytes) -> bytes:
    """The AES-256 key of one page's tickets: ``HKDF(metadata key, info = canonical("dsvault ticket key", salt))``."""
    return _derive(metadata_key, canonical("dsvault ticket key", salt), KEY_BYTES)


def lot_key(metadata_key: bytes, compartment: str) -> bytes:
    """The AES-256 key of the lots by which shards go to the parts of a read:
    ``HKDF(metadata key, info = canonical("dsvault lot key", compartment))``.
    """
    return _derive(metadata_key, canonical("dsvault lot key", compartment), KEY_BYTES)


def lots(key: bytes, count: int) -> bytes:
    """A lot of 8 bytes for each of so many shards: the key stream of AES-256-CTR (NIST SP 800-38A section 6.5) from
    counter 0 on, under a lot key, which encrypts nothing. The lot of a shard does not depend on how many there are.
    """
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(_LOT_BYTES * count))


def parcel_key(metadata_key: bytes, job: str) -> bytes:
    """The AES-256 key of what one job's processes send each other:
    ``HKDF(metadata key, info = canonical("dsvault parcel key", job))``.
    """
    return _derive(metadata_key, canonical("dsvault parcel key", job), KEY_BYTES)


def submission_key(secret: bytes, purpose: str, bound: bytes) -> bytes:
    """An AES-256 key of one submission, by what it is for:
    ``HKDF(the submission's secret, info = canonical("dsvault submission key", purpose, bound))``.
    """
    return _derive(secret, canonical("dsvault submission key", purpose, bound), KEY_BYTES)


def key_id(data_key: bytes) -> str:
    """A data key's commitment as hex: ``HKDF(data key, info = canonical("dsvault key id"), 16 bytes)``."""
    return _derive(data_key, canonical("dsvault key id"), _COMMITMENT_BYTES).hex()


def spool_key(data_keys: Sequence[bytes], salt: bytes, bound: bytes) -> bytes:
    """The AES-256 key of one spooled file:
    ``HKDF(data keys one behind the other, salt, info = canonical("dsvault spool key", number of keys, bound))``.

    Who may not unwrap every one of them does not have it. The salt is the file's own: no two files share a key.
    """
    if not data_keys or any(len(key) != KEY_BYTES for key in data_keys):
        raise IntegrityError("a data key is not 256 bits long")
    info = canonical("dsvault spool key", len(data_keys), bound)
    return HKDF(SHA256(), KEY_BYTES, salt=salt, info=info).derive(b"".join(data_keys))


def spool_facts_key(metadata_key: bytes, salt: bytes) -> bytes:
    """The AES-256 key of what is said of one spooled file:
    ``HKDF(metadata key, info = canonical("dsvault spool facts key", salt))``.
    """
    return _derive(metadata_key, canonical("dsvault spool facts key", salt), KEY_BYTES)


def spool_name(metadata_key: bytes, binding: bytes) -> str:
    """The name of a spooled file as hex: ``HKDF(metadata key, info = canonical("dsvault spool name", binding), 16)``.

    It is the same for every broker of the vault, and tells nobody else what the file is of.
    """
    return _derive(metadata_key, canonical("dsvault spool name", binding), _NAME_BYTES).hex()
