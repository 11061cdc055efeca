"""Golden vectors: what is derived, bound and written stays readable for ever."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors.make import vectors
from vault.chunks import decode, verify
from vault.derivation import chunk_key, key_id
from vault.encoding import canonical, json_bytes
from vault.errors import IntegrityError
from vault.model import ChunkIdentity, KeyScope

_GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "chunks.json").read_text())


def _identity(entry: dict[str, Any]) -> ChunkIdentity:
    scope = KeyScope(entry["vault"], entry["compartment"], entry["group"], entry["epoch"])
    return ChunkIdentity(scope, entry["chunk"])


@pytest.mark.parametrize("entry", _GOLDEN["keys"])
def test_identities_and_derived_keys_are_as_ever(entry: dict[str, Any]) -> None:
    """Identity bytes, chunk key, key id and KMS context are those that were written down."""
    identity, data_key = _identity(entry), bytes.fromhex(entry["data_key"])
    assert identity.encode().hex() == entry["identity"]
    assert chunk_key(data_key, identity).hex() == entry["chunk_key"]
    assert key_id(data_key) == entry["key_id"]
    assert identity.scope.context() == entry["context"]


def test_the_generator_makes_what_is_written_down() -> None:
    """The generator beside the vectors still makes them, the random chunk apart."""
    made = json.loads(json.dumps(vectors()))
    assert made == {key: value for key, value in _GOLDEN.items() if key != "chunk"}


def test_the_golden_chunk_opens() -> None:
    """A chunk that was written once opens and reads as it did."""
    entry = _GOLDEN["keys"][0]
    identity, key = _identity(entry), bytes.fromhex(entry["chunk_key"])
    data = bytes.fromhex(_GOLDEN["chunk"])
    verify(data, key, identity)
    assert decode(data, key, identity).to_pydict() == {"n": [1, None, 3], "s": ["a", "b", None]}


def test_a_reader_of_the_specification_alone_opens_the_footer() -> None:
    """The footer module opens with AES-GCM from the page's words: key by HKDF, AAD by concatenation."""
    import hmac

    entry = _GOLDEN["keys"][0]

    def be(text: str) -> bytes:
        return len(text.encode()).to_bytes(4, "big") + text.encode()

    def number(value: int) -> bytes:
        return (8).to_bytes(4, "big") + value.to_bytes(8, "big")

    identity = (
        be("dsvault chunk") + number(1) + be(entry["vault"]) + be(entry["compartment"]) + be(entry["group"])
        + number(entry["epoch"]) + be(entry["chunk"])
    )  # fmt: skip
    info = be("dsvault chunk key") + len(identity).to_bytes(4, "big") + identity
    extracted = hmac.digest(b"\x00" * 32, bytes.fromhex(entry["data_key"]), "sha256")
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    data = bytes.fromhex(_GOLDEN["chunk"])
    length = int.from_bytes(data[-8:-4], "little")
    tail = data[-8 - length : -8]
    file_id, module = tail[4:12], tail[16:]
    assert int.from_bytes(module[:4], "little") == len(module) - 4
    plain = AESGCM(key).decrypt(module[4:16], module[16:], identity + file_id + b"\x00")
    assert b"schema" in plain
    assert hashlib.sha256(plain).digest()


def test_no_two_tuples_share_their_bytes() -> None:
    """The canonical encoding is injective where concatenation is not, and JSON has one form only."""
    assert canonical("a", "bc") != canonical("ab", "c")
    assert canonical("a", "") != canonical("a")
    assert canonical(b"\x00" * 8) == canonical(0)
    assert json_bytes({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'.encode()
    with pytest.raises(TypeError):
        json_bytes({"a": [0.5]})


def test_a_short_data_key_is_refused() -> None:
    """A data key that is not 256 bits long derives nothing."""
    with pytest.raises(IntegrityError):
        key_id(b"\x00" * 16)
    assert pa.__version__
