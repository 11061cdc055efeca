"""HPKE (RFC 9180, base mode) written from the RFC, over nothing but X25519, HMAC and AES-GCM: a second implementation.

Only for tests: the suite that dsvault uses, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEM_SUITE = b"KEM" + (0x0020).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, 0x0002))


def _extract(salt: bytes, suite: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, hashlib.sha256)


def _expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    found, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + labelled + bytes([counter]), hashlib.sha256)
        found += block
    return found[:length]


def shared_secret(exchanged: bytes, enc: bytes, receiver: bytes) -> bytes:
    """DHKEM's ExtractAndExpand (section 4.1)."""
    secret = _extract(b"", KEM_SUITE, b"eae_prk", exchanged)
    return _expand(secret, KEM_SUITE, b"shared_secret", enc + receiver, 32)


def _schedule(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    context = b"\0" + _extract(b"", SUITE, b"psk_id_hash", b"") + _extract(b"", SUITE, b"info_hash", info)
    extracted = _extract(secret, SUITE, b"secret", b"")
    return _expand(extracted, SUITE, b"key", context, 32), _expand(extracted, SUITE, b"base_nonce", context, 12)


def seal(plaintext: bytes, receiver: bytes, info: bytes) -> bytes:
    """``enc | ciphertext`` of a single message (section 6.1)."""
    mine = X25519PrivateKey.generate()
    enc = mine.public_key().public_bytes_raw()
    key, nonce = _schedule(
        shared_secret(mine.exchange(X25519PublicKey.from_public_bytes(receiver)), enc, receiver), info
    )
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")


def open_(sealed: bytes, secret: bytes, info: bytes) -> bytes:
    """The plaintext of a single message."""
    mine = X25519PrivateKey.from_private_bytes(secret)
    enc = sealed[:32]
    exchanged = mine.exchange(X25519PublicKey.from_public_bytes(enc))
    key, nonce = _schedule(shared_secret(exchanged, enc, mine.public_key().public_bytes_raw()), info)
    return AESGCM(key).decrypt(nonce, sealed[32:], b"")
