"""HPKE in dsvault's own suite, held to the vector of RFC 9180's test file that has exactly this suite.

The vector's messages have an AAD, which the library's one-message call does not take. So the second implementation is
held to every value of the vector, and the library to that implementation under the vector's own keys.
"""

import hashlib
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography_vectors import open_vector_file

from tests.primitives import hpke
from vault.audit.sealing import _SUITE

#: Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM (RFC 9180 section 7).
_IDS = {"mode": 0, "kem_id": 0x20, "kdf_id": 1, "aead_id": 2}


@pytest.fixture(scope="module")
def vector() -> dict[str, Any]:
    """The one vector of the suite."""
    with open_vector_file("HPKE/test-vectors.json", "r") as file:
        found = [each for each in json.load(file) if each.items() >= _IDS.items()]
    assert len(found) == 1
    return {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in found[0].items()}


def _schedule(vector: dict[str, Any]) -> tuple[bytes, bytes]:
    receiver = X25519PrivateKey.from_private_bytes(vector["skRm"])
    assert receiver.public_key().public_bytes_raw() == vector["pkRm"]
    exchanged = receiver.exchange(X25519PublicKey.from_public_bytes(vector["enc"]))
    secret = hpke.shared_secret(exchanged, vector["enc"], vector["pkRm"])
    assert secret == vector["shared_secret"]
    return hpke._schedule(secret, vector["info"])


def test_the_second_implementation_derives_what_the_vector_says(vector: dict[str, Any]) -> None:
    """Shared secret, key and base nonce from the receiver's secret, the encapsulated key and the info."""
    assert _schedule(vector) == (vector["key"], vector["base_nonce"])


def test_the_vectors_messages_open_and_nothing_else_does(vector: dict[str, Any]) -> None:
    """Each of the vector's messages under the derived key; with another AAD or a bit changed it is refused."""
    key, base = _schedule(vector)
    cipher, count = AESGCM(key), 0
    for number, message in enumerate(vector["encryptions"]):
        nonce, sealed, aad, plain = (bytes.fromhex(message[name]) for name in ("nonce", "ct", "aad", "pt"))
        # The RFC's file gives the first 256 messages and then the one after them.
        assert nonce == (int.from_bytes(base, "big") ^ number).to_bytes(12, "big")
        assert cipher.decrypt(nonce, sealed, aad) == plain
        assert cipher.encrypt(nonce, plain, aad) == sealed
        for wrong, other in ((sealed, aad + b"!"), (bytes([sealed[0] ^ 1]) + sealed[1:], aad)):
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, wrong, other)
        count += 1
    assert count >= 250


def test_the_library_opens_what_is_sealed_under_the_vectors_keys(vector: dict[str, Any]) -> None:
    """dsvault's suite, in the call that dsvault makes, comes to the vector's key and nonce: it opens what these seal."""
    receiver = X25519PrivateKey.from_private_bytes(vector["skRm"])
    plain = bytes.fromhex(vector["encryptions"][0]["pt"])
    sealed = vector["enc"] + AESGCM(vector["key"]).encrypt(vector["base_nonce"], plain, b"")
    assert _SUITE.decrypt(sealed, receiver, info=vector["info"]) == plain
    other = X25519PrivateKey.from_private_bytes(vector["skEm"])
    cases = [
        (sealed, receiver, vector["info"] + b"!"),
        (sealed, receiver, b""),
        (sealed, other, vector["info"]),
        (vector["pkRm"] + sealed[32:], receiver, vector["info"]),
        (vector["enc"] + bytes.fromhex(vector["encryptions"][0]["ct"]), receiver, vector["info"]),
    ]
    cases += [(_flipped(sealed, place), receiver, vector["info"]) for place in (0, 32, len(sealed) - 1)]
    for wrong, key, info in cases:
        with pytest.raises(InvalidTag):
            _SUITE.decrypt(wrong, key, info=info)


def test_the_encapsulated_key_is_the_vectors(vector: dict[str, Any]) -> None:
    """The sender's half: the ephemeral secret gives the encapsulated key and the same shared secret."""
    mine = X25519PrivateKey.from_private_bytes(vector["skEm"])
    assert mine.public_key().public_bytes_raw() == vector["pkEm"] == vector["enc"]
    exchanged = mine.exchange(X25519PublicKey.from_public_bytes(vector["pkRm"]))
    assert hpke.shared_secret(exchanged, vector["enc"], vector["pkRm"]) == vector["shared_secret"]
    assert hashlib.sha256(exchanged).digest() != vector["shared_secret"]


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
