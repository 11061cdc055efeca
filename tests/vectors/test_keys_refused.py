"""What differs from a vector of ``keys.json`` by one bit or by two fields swapped comes out as another or is refused."""

import itertools
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors import make_keys
from tests.vectors.make_keys import CHUNK, COMPARTMENT, GROUP, HOLDER, NONCE, ROW, VAULT
from vault import keyfile
from vault.catalog import FieldSealer
from vault.derivation import chunk_key, key_id
from vault.encoding import canonical
from vault.errors import IntegrityError, KmsError
from vault.kms import LocalKms
from vault.model import ChunkIdentity, KeyScope
from vault.trust import Label, Signed, Signer
from vault.trust.signed import signature_holds

VECTORS: dict[str, Any] = json.loads(Path(make_keys.__file__).with_name("keys.json").read_bytes())


def _bits(data: bytes) -> list[bytes]:
    """The data with one bit changed, for one bit of every byte."""
    return [data[:at] + bytes([byte ^ 1 << at % 8]) + data[at + 1 :] for at, byte in enumerate(data)]


def _others(identity: ChunkIdentity) -> list[ChunkIdentity]:
    """Every identity with two of the ids swapped, and those with another epoch."""
    scope = identity.scope
    ids = (scope.vault, scope.compartment, scope.group, identity.chunk)
    swapped = [order for order in itertools.permutations(ids) if order != ids]
    others = [ChunkIdentity(KeyScope(a, b, c, scope.epoch), d) for a, b, c, d in swapped]
    return others + [replace(identity, scope=replace(scope, epoch=epoch)) for epoch in (0, scope.epoch + 1, 256)]


def test_another_identity_has_another_chunk_key() -> None:
    """With fields swapped or another epoch the identity, the chunk key and what it sealed are others'."""
    vector = VECTORS["identities"][0]
    identity = ChunkIdentity(KeyScope(VAULT, COMPARTMENT, GROUP, vector["epoch"]), CHUNK)
    others = _others(identity)
    assert len(others) == 26
    assert len({each.encode() for each in (identity, *others)}) == 27
    for data_key, expected in vector["chunk_keys"].items():
        sealed = AESGCM(bytes.fromhex(expected)).encrypt(NONCE, b"a module", bytes.fromhex(vector["identity"]))
        own = AESGCM(chunk_key(bytes.fromhex(data_key), identity))
        assert own.decrypt(NONCE, sealed, identity.encode()) == b"a module"
        for each in others:
            with pytest.raises(InvalidTag):
                AESGCM(chunk_key(bytes.fromhex(data_key), each)).decrypt(NONCE, sealed, identity.encode())
            with pytest.raises(InvalidTag):
                AESGCM(bytes.fromhex(expected)).decrypt(NONCE, sealed, each.encode())


@pytest.mark.parametrize("data_key", VECTORS["commitments"], ids=lambda key: key[-4:])
def test_another_data_key_has_another_id(data_key: str) -> None:
    """One bit changed gives another commitment; a key that is too short or too long gives none."""
    key = bytes.fromhex(data_key)
    assert len({key_id(each) for each in (key, *_bits(key))}) == 33
    for wrong in (key[:-1], key + b"\0", b"", key * 2):
        with pytest.raises(IntegrityError):
            key_id(wrong)


def test_numbers_out_of_range_have_no_encoding() -> None:
    """An integer that does not fit eight bytes, unsigned, is refused and not cut off."""
    for number in (-1, 2**64):
        with pytest.raises(struct.error):
            canonical(number)


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    """A keystore with the vectors' key under two ids."""
    local = VECTORS["contexts"][0]["local"]
    for identifier in (local["id"], HOLDER):
        keyfile.write_new(
            tmp_path / f"{identifier}.json", "local KMS key", identifier, bytes.fromhex(local["key"]), None
        )
    return LocalKms(None, tmp_path, None)


@pytest.mark.parametrize("vector", VECTORS["contexts"], ids=lambda vector: str(len(vector["context"])))
def test_another_context_or_key_opens_no_blob(vector: dict[str, Any], kms: LocalKms) -> None:
    """Any bit of the blob, the values of a context swapped, each of the other contexts, or another id of the same key."""
    context, blob = vector["context"], bytes.fromhex(vector["local"]["blob"])
    contexts = [each["context"] for each in VECTORS["contexts"] if each["context"] != context]
    names = sorted(context)
    contexts += [
        {**context, one: context[two], two: context[one]}
        for one, two in itertools.combinations(names, 2)
        if context[one] != context[two]
    ]
    contexts += [{value: name for name, value in context.items()}] if context else []
    for other in contexts:
        with pytest.raises(KmsError):
            kms.unwrap(f"local:{CHUNK}", blob, other)
    for wrong in (*_bits(blob), blob[:-1], b""):
        with pytest.raises(KmsError):
            kms.unwrap(f"local:{CHUNK}", wrong, context)
    with pytest.raises(KmsError):
        kms.unwrap(f"local:{HOLDER}", blob, context)
    # The order of the pairs is nothing that a context has.
    backwards = dict(reversed(list(context.items())))
    assert kms.unwrap(f"local:{CHUNK}", blob, backwards).hex() == vector["local"]["plaintext"]


@pytest.mark.parametrize("vector", VECTORS["fields"], ids=lambda vector: vector["metadata_key"][:4])
def test_a_sealed_field_opens_nowhere_else(vector: dict[str, Any]) -> None:
    """Any bit of the blob, vault and holder swapped, field and row swapped, or another key; indexes differ alike."""
    key, blob = bytes.fromhex(vector["metadata_key"]), bytes.fromhex(vector["blob"])
    sealer = FieldSealer(VAULT, HOLDER, key)
    # Refusals say something only about a blob that opens in its own place.
    assert sealer.open("holder name", ROW, blob).hex() == vector["plaintext"]
    assert sealer.index("holder name", vector["index_of"]).hex() == vector["index"]
    for wrong in (*_bits(blob), blob[:-1], b""):
        with pytest.raises(IntegrityError):
            sealer.open("holder name", ROW, wrong)
    for other, field, row in (
        (FieldSealer(HOLDER, VAULT, key), "holder name", ROW),
        (FieldSealer(VAULT, HOLDER, _bits(key)[31]), "holder name", ROW),
        (sealer, ROW, "holder name"),
        (sealer, "holder own name", ROW),
    ):
        with pytest.raises(IntegrityError):
            other.open(field, row, blob)
    swapped = FieldSealer(HOLDER, VAULT, key).index("holder name", vector["index_of"])
    assert vector["index"] not in {swapped.hex(), sealer.index(vector["index_of"], "holder name").hex()}
    assert vector["index"] not in {sealer.index("holder name", text).hex() for text in ("Acme", "acme ", "", "acm")}


@pytest.mark.parametrize("vector", VECTORS["statements"], ids=lambda vector: vector["label"])
def test_a_changed_statement_does_not_verify(vector: dict[str, Any]) -> None:
    """Any bit of signature, payload or public key; another label's document is refused, and the digest is another."""
    public, label = Signer(bytes.fromhex(vector["secret"])).public, Label(vector["label"])
    payload, signature = vector["payload"].encode(), bytes.fromhex(vector["signature"])
    assert signature_holds(public, label, payload, signature)
    for each in (*_bits(signature), signature[:-1], b"", signature[32:] + signature[:32]):
        assert not signature_holds(public, label, payload, each)
    for each in _bits(payload):
        assert not signature_holds(public, label, each, signature)
        assert Signed(label, each, ()).digest != vector["digest"]
    for each in _bits(public):
        assert not signature_holds(each, label, payload, signature)
    for other in set(Label) - {label}:
        assert Signed(other, payload, ()).digest != vector["digest"]
        with pytest.raises(IntegrityError):
            Signed.decode(vector["encoded"].encode(), other)
