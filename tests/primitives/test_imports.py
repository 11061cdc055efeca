"""No primitive comes in without vectors: every name that is imported from ``cryptography`` is listed here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vault
import vault_cli

_HAZMAT = "cryptography.hazmat.primitives."

#: What is imported, and the test whose vectors it passes; None for what computes nothing secret.
_COVERED: dict[str, str | None] = {
    "cryptography.exceptions.InvalidSignature": None,
    "cryptography.exceptions.InvalidTag": None,
    _HAZMAT + "asymmetric.ed25519.Ed25519PrivateKey": "test_ed25519_signs_and_verifies_as_it_should",
    _HAZMAT + "asymmetric.ed25519.Ed25519PublicKey": "test_ed25519_signs_and_verifies_as_it_should",
    _HAZMAT + "asymmetric.x25519.X25519PrivateKey": "test_x25519_exchanges_what_rfc_7748_says",
    _HAZMAT + "asymmetric.x25519.X25519PublicKey": "test_x25519_exchanges_what_rfc_7748_says",
    _HAZMAT + "ciphers.Cipher": "test_aes_256_ctr_makes_the_key_stream_of_rfc_3686",
    _HAZMAT + "ciphers.algorithms.AES256": "test_aes_256_ctr_makes_the_key_stream_of_rfc_3686",
    _HAZMAT + "ciphers.modes.CTR": "test_aes_256_ctr_makes_the_key_stream_of_rfc_3686",
    _HAZMAT + "ciphers.aead.AESGCM": "test_aes_256_gcm_opens_and_refuses_what_nist_says",
    _HAZMAT + "hashes.SHA256": "test_sha256_is_nists",
    _HAZMAT + "hmac.HMAC": "test_hmac_sha256_is_rfc_4231s",
    _HAZMAT + "hpke.AEAD": "test_the_library_opens_what_is_sealed_under_the_vectors_keys",
    _HAZMAT + "hpke.KDF": "test_the_library_opens_what_is_sealed_under_the_vectors_keys",
    _HAZMAT + "hpke.KEM": "test_the_library_opens_what_is_sealed_under_the_vectors_keys",
    _HAZMAT + "hpke.Suite": "test_the_library_opens_what_is_sealed_under_the_vectors_keys",
    _HAZMAT + "kdf.hkdf.HKDF": "test_hkdf_sha256_derives_what_rfc_5869_says",
    _HAZMAT + "kdf.scrypt.Scrypt": "test_scrypt_stretches_what_rfc_7914_says",
    _HAZMAT + "serialization.Encoding": None,
    _HAZMAT + "serialization.PublicFormat": None,
    _HAZMAT + "serialization.load_der_public_key": None,
}


def _imported(source: str) -> Iterator[str]:
    """Every name that a module takes from ``cryptography``, in whatever form."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{name.name}" for name in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "cryptography")


def test_every_name_from_the_library_is_listed() -> None:
    """The list is what vault/ and the command line import, neither less nor more."""
    folders = [Path(path) for package in (vault, vault_cli) for path in package.__path__]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    assert len(files) >= 50
    found = {name for file in files for name in _imported(file.read_text(encoding="utf-8"))}
    assert found == set(_COVERED)


def test_every_listed_primitive_has_its_test() -> None:
    """The tests that the list names are there."""
    tests = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    named = {node.name for text in tests for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    assert {test for test in _COVERED.values() if test} <= named


@pytest.mark.parametrize(
    "source",
    [
        "import cryptography",
        "import cryptography.fernet",
        "from cryptography import fernet",
        "from cryptography.hazmat.primitives import poly1305",
        "from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305",
        "from cryptography.hazmat.primitives.hashes import *",
        "def late():\n    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id",
    ],
)
def test_a_new_primitive_is_noticed(source: str) -> None:
    """Whatever the form of the import, a name that is not listed is found."""
    assert set(_imported(source)) - set(_COVERED)
