"""Every primitive that dsvault calls passes the vectors that the package cryptography_vectors carries.

Each is called in the form in which dsvault calls it. Every test has a floor on how many vectors it saw, so that a file
that moved or was emptied is a failure.
"""

import json
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography_vectors import open_vector_file

from tests.primitives import hpke


def _records(path: str, first: str) -> Iterator[dict[str, str]]:
    """The vectors of a file of ``Name = value`` lines; each begins with ``first``, and headings hold for what follows."""
    record: dict[str, str] = {}
    heading: dict[str, str] = {}
    with open_vector_file(path, "r") as file:
        for line in (line.strip() for line in file):
            name, equals, value = (part.strip() for part in line.strip("[]").partition("="))
            if line.startswith("#") or not line:
                continue
            if line.startswith("["):
                heading[name] = value
                continue
            if name.lower() == first.lower() and record:
                yield record
                record = {}
            record = record or dict(heading)
            record[name.lower()] = value if equals else "yes"
    if record:
        yield record


def _hex(record: dict[str, str], name: str) -> bytes:
    return bytes.fromhex(record.get(name, ""))


def test_aes_256_gcm_opens_and_refuses_what_nist_says() -> None:
    """AES-256-GCM with 96-bit nonces and whole tags: every CAVP decryption vector, those that must fail among them."""
    opened = refused = 0
    for record in _records("ciphers/AES/GCM/gcmDecrypt256.rsp", "Count"):
        if (record["IVlen"], record["Taglen"]) != ("96", "128"):
            continue
        cipher, sealed = AESGCM(_hex(record, "key")), _hex(record, "ct") + _hex(record, "tag")
        if "fail" in record:
            with pytest.raises(InvalidTag):
                cipher.decrypt(_hex(record, "iv"), sealed, _hex(record, "aad"))
            refused += 1
        else:
            assert cipher.decrypt(_hex(record, "iv"), sealed, _hex(record, "aad")) == _hex(record, "pt")
            opened += 1
    assert opened >= 100
    assert refused >= 100


def test_aes_256_ctr_makes_the_key_stream_of_rfc_3686() -> None:
    """AES-256 in counter mode, over zeros as it draws lots: the plaintext and ciphertext of every vector differ by it."""
    count = 0
    for record in _records("ciphers/AES/CTR/aes-256-ctr.txt", "Count"):
        plain, sealed = _hex(record, "plaintext"), _hex(record, "ciphertext")
        stream = Cipher(AES256(_hex(record, "key")), CTR(_hex(record, "iv"))).encryptor().update(bytes(len(plain)))
        assert bytes(left ^ right for left, right in zip(plain, stream, strict=True)) == sealed
        count += 1
    assert count >= 3


def test_aes_256_gcm_seals_what_nist_says() -> None:
    """Encryption gives the ciphertext and tag of every CAVP vector, also into a buffer, as a rekey does it."""
    count = 0
    for record in _records("ciphers/AES/GCM/gcmEncryptExtIV256.rsp", "Count"):
        if (record["IVlen"], record["Taglen"]) != ("96", "128"):
            continue
        cipher, plain = AESGCM(_hex(record, "key")), _hex(record, "pt")
        sealed = _hex(record, "ct") + _hex(record, "tag")
        assert cipher.encrypt(_hex(record, "iv"), plain, _hex(record, "aad")) == sealed
        out = bytearray(len(sealed))
        cipher.encrypt_into(_hex(record, "iv"), plain, _hex(record, "aad"), out)
        assert bytes(out) == sealed
        back = bytearray(len(plain))
        cipher.decrypt_into(_hex(record, "iv"), sealed, _hex(record, "aad"), back)
        assert bytes(back) == plain
        count += 1
    assert count >= 200


def test_hkdf_sha256_derives_what_rfc_5869_says() -> None:
    """HKDF-SHA256: the RFC's test cases."""
    count = 0
    for record in _records("KDF/rfc-5869-HKDF-SHA256.txt", "COUNT"):
        derived = HKDF(SHA256(), int(record["l"]), salt=_hex(record, "salt") or None, info=_hex(record, "info"))
        assert derived.derive(_hex(record, "ikm")) == _hex(record, "okm")
        count += 1
    assert count >= 3


def test_hmac_sha256_is_rfc_4231s() -> None:
    """HMAC-SHA256: the RFC's test cases."""
    count = 0
    for record in _records("HMAC/rfc-4231-sha256.txt", "Len"):
        mac = HMAC(_hex(record, "key"), SHA256())
        mac.update(_hex(record, "msg"))
        assert mac.finalize().hex().startswith(record["md"])
        count += 1
    assert count >= 6


@pytest.mark.parametrize("name", ["SHA256ShortMsg.rsp", "SHA256LongMsg.rsp"])
def test_sha256_is_nists(name: str) -> None:
    """SHA-256: NIST's short and long messages, with cryptography's and with hashlib's, which dsvault uses."""
    import hashlib

    count = 0
    for record in _records(f"hashes/SHA2/{name}", "Len"):
        message = _hex(record, "msg")[: int(record["len"]) // 8]
        digest = Hash(SHA256())
        digest.update(message)
        assert digest.finalize() == hashlib.sha256(message).digest() == _hex(record, "md")
        count += 1
    assert count >= 60


def test_ed25519_signs_and_verifies_as_it_should() -> None:
    """Ed25519: all of the reference implementation's vectors; a signature over another message is refused."""
    count = 0
    with open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        for line in file:
            secret, public, message, signed = (bytes.fromhex(part) for part in line.strip().split(":")[:4])
            key = Ed25519PrivateKey.from_private_bytes(secret[:32])
            assert key.public_key().public_bytes_raw() == public
            assert key.sign(message) == signed[:64]
            if count % 16 == 0:
                Ed25519PublicKey.from_public_bytes(public).verify(signed[:64], message)
                with pytest.raises(InvalidSignature):
                    Ed25519PublicKey.from_public_bytes(public).verify(signed[:64], message + b"\0")
            count += 1
    assert count >= 1000


def test_x25519_exchanges_what_rfc_7748_says() -> None:
    """X25519: the RFC's vectors."""
    count = 0
    for record in _records("asymmetric/X25519/rfc7748.txt", "COUNT"):
        key = X25519PrivateKey.from_private_bytes(_hex(record, "input_scalar"))
        shared = key.exchange(X25519PublicKey.from_public_bytes(_hex(record, "input_u")))
        assert shared == _hex(record, "output_u")
        count += 1
    assert count >= 3


def test_scrypt_stretches_what_rfc_7914_says() -> None:
    """scrypt: the RFC's vectors, the one of 1 GiB left out."""
    count = 0
    for record in _records("KDF/scrypt.txt", "COUNT"):
        if int(record["n"]) > 2**16:
            continue
        salt, cost = record["salt"].encode(), (int(record["n"]), int(record["r"]), int(record["p"]))
        derived = Scrypt(salt, int(record["length"]), *cost).derive(record["password"].encode())
        assert derived == _hex(record, "derived_key")
        count += 1
    assert count >= 3


def test_hpke_is_rfc_9180s() -> None:
    """HPKE: a second implementation, written from the RFC, opens what the library seals and the other way round; its KEM
    is held to a published vector. The RFC's own messages are in `test_hpke_vectors.py`.
    """
    with open_vector_file("HPKE/hpke-pq-test-vectors.json", "r") as file:
        vectors = [vector for vector in json.load(file) if (vector["mode"], vector["kem_id"]) == (0, 0x20)]
    assert vectors
    for vector in vectors:
        receiver, enc = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skRm"])), bytes.fromhex(vector["enc"])
        exchanged = receiver.exchange(X25519PublicKey.from_public_bytes(enc))
        assert hpke.shared_secret(exchanged, enc, bytes.fromhex(vector["pkRm"])).hex() == vector["shared_secret"]
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    key = X25519PrivateKey.generate()
    secret, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    for message, info in ((b"", b""), (b"an entry", b"dsvault"), (bytes(10_000), b"x" * 500)):
        assert hpke.open_(suite.encrypt(message, key.public_key(), info=info), secret, info) == message
        sealed = hpke.seal(message, public, info)
        assert suite.decrypt(sealed, key, info=info) == message
        for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:]):
            with pytest.raises((InvalidTag, ValueError)):
                suite.decrypt(wrong, key, info=info)
        with pytest.raises(InvalidTag):
            suite.decrypt(sealed, key, info=info + b"!")
