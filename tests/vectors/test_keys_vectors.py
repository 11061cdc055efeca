"""Keys, contexts, seals and signatures come out as ``keys.json`` says, which nothing of dsvault has computed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import make_keys
from tests.vectors.make_keys import CHUNK, COMPARTMENT, GROUP, HOLDER, ROW, VAULT
from vault import keyfile
from vault.catalog import FieldSealer
from vault.derivation import chunk_key, key_id
from vault.encoding import canonical, json_bytes
from vault.errors import IntegrityError, KmsError
from vault.kms import LocalKms
from vault.kms.pkcs11 import _aad
from vault.kms.transit import associated_data
from vault.model import ChunkIdentity, KeyScope
from vault.trust import Label, Signed, Signer, compartment_body, vendor_body
from vault.trust.heads import _body_digest
from vault.trust.signed import signature_holds

FILE = Path(make_keys.__file__).with_name("keys.json")
VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())


def test_the_generator_gives_the_file() -> None:
    """The committed file is what its generator writes, byte for byte."""
    assert make_keys.document() == FILE.read_bytes()


@pytest.mark.parametrize("vector", VECTORS["canonical"], ids=lambda vector: str(vector["parts"]))
def test_tuples(vector: dict[str, Any]) -> None:
    """A tuple has one encoding, and no other tuple has it."""
    assert canonical(*vector["parts"]).hex() == vector["hex"]
    assert [each["hex"] for each in VECTORS["canonical"]].count(vector["hex"]) == 1


@pytest.mark.parametrize("vector", VECTORS["identities"], ids=lambda vector: str(vector["epoch"]))
def test_identities_and_chunk_keys(vector: dict[str, Any]) -> None:
    """A chunk's identity, its data key's context, and the chunk key that follows from both."""
    identity = ChunkIdentity(KeyScope(VAULT, COMPARTMENT, GROUP, vector["epoch"]), CHUNK)
    assert identity.scope.context() == vector["context"]
    assert identity.encode().hex() == vector["identity"]
    for data_key, expected in vector["chunk_keys"].items():
        assert chunk_key(bytes.fromhex(data_key), identity).hex() == expected
    assert len(set(vector["chunk_keys"].values())) == len(vector["chunk_keys"])


def test_commitments() -> None:
    """A data key's id."""
    for data_key, expected in VECTORS["commitments"].items():
        assert key_id(bytes.fromhex(data_key)) == expected


@pytest.mark.parametrize("vector", VECTORS["contexts"], ids=lambda vector: str(len(vector["context"])))
def test_contexts(vector: dict[str, Any], tmp_path: Path) -> None:
    """The associated data of a context, and a blob of the local KMS; with one bit changed or another context it is refused."""
    assert associated_data(vector["context"]).hex() == vector["associated_data"]
    assert _aad(f"pkcs11:{CHUNK}", vector["context"]).hex() == vector["pkcs11_aad"]
    local = vector["local"]
    keyfile.write_new(tmp_path / f"{local['id']}.json", "local KMS key", local["id"], bytes.fromhex(local["key"]), None)
    kms, key, blob = LocalKms(None, tmp_path, None), f"local:{local['id']}", bytes.fromhex(local["blob"])
    assert kms.unwrap(key, blob, vector["context"]).hex() == local["plaintext"]
    for wrong, context in (
        (blob[:-1] + bytes([blob[-1] ^ 1]), vector["context"]),
        (b"\x02" + blob[1:], vector["context"]),
        (blob, {**vector["context"], "more": ""}),
    ):
        with pytest.raises(KmsError):
            kms.unwrap(key, wrong, context)


@pytest.mark.parametrize("vector", VECTORS["fields"], ids=lambda vector: vector["metadata_key"][:4])
def test_sealed_fields(vector: dict[str, Any]) -> None:
    """A sealed catalog field and its index; in another field, row, holder or vault, or with a bit changed, it is refused."""
    key, blob = bytes.fromhex(vector["metadata_key"]), bytes.fromhex(vector["blob"])
    sealer = FieldSealer(VAULT, HOLDER, key)
    assert sealer.open("holder name", ROW, blob).hex() == vector["plaintext"]
    assert sealer.index("holder name", vector["index_of"]).hex() == vector["index"]
    assert sealer.index("dataset name", vector["index_of"]).hex() != vector["index"]
    for other, field, row, wrong in (
        (sealer, "dataset name", ROW, blob),
        (sealer, "holder name", CHUNK, blob),
        (FieldSealer(VAULT, CHUNK, key), "holder name", ROW, blob),
        (FieldSealer(HOLDER, HOLDER, key), "holder name", ROW, blob),
        (sealer, "holder name", ROW, blob[:20] + bytes([blob[20] ^ 1]) + blob[21:]),
    ):
        with pytest.raises(IntegrityError):
            other.open(field, row, wrong)


@pytest.mark.parametrize("vector", VECTORS["statements"], ids=lambda vector: vector["label"])
def test_statements(vector: dict[str, Any]) -> None:
    """A signed statement's bytes, key id, signature and digest; under another label it does not verify."""
    signer, label = Signer(bytes.fromhex(vector["secret"])), Label(vector["label"])
    signed = signer.sign(label, json.loads(vector["payload"]))
    assert signed.payload.decode() == vector["payload"]
    assert signer.key_id == vector["key_id"]
    assert signed.signatures == ((vector["key_id"], bytes.fromhex(vector["signature"])),)
    assert signed.digest == vector["digest"]
    assert signed.encode().decode() == vector["encoded"]
    assert Signed.decode(vector["encoded"].encode(), label) == signed
    for each in Label:
        holds = signature_holds(signer.public, each, signed.payload, bytes.fromhex(vector["signature"]))
        assert holds == (each is label)
    assert not signature_holds(signer.public, label, signed.payload + b" ", bytes.fromhex(vector["signature"]))


def test_bodies() -> None:
    """What heads cover."""
    bodies = {vector["kind"]: vector for vector in VECTORS["bodies"]}
    made = {
        "vendor": vendor_body({ROW: "1" * 64}, {CHUNK: "2" * 64}),
        "compartment": compartment_body(HOLDER, ROW, {1: "3" * 64}, {GROUP: (2, "4" * 32), "manifest": (1, "")}),
    }
    for kind, body in made.items():
        assert body.decode() == bodies[kind]["body"]
        assert _body_digest(body) == bodies[kind]["digest"]


def test_json_has_no_floats() -> None:
    """What has no unique text is refused in whatever is signed."""
    with pytest.raises(TypeError):
        json_bytes({"a": [1.0]})
