"""Signing keys that live in a KMS: the vault works as with files, and no private key is anywhere in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import vault
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.servers import OpenBao
from tests.support.tables import rows
from vault import deployment, roots
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms.aws import AwsKms
from vault.kms.transit import TransitKms
from vault.trust import Label, RemoteSigner, Role
from vault.trust.signed import signature_holds

ROLES = (Role.ADMINISTRATOR, Role.AUTHORITY, Role.RESPONDER, Role.PUBLISHER)


@pytest.fixture
def uri(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> str:
    """A transit engine for signing keys; the data keys stay in the local keystore."""
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    return bao.uri(bao.mount())


def test_a_vault_whose_signing_keys_are_all_in_openbao(granted: Lab, uri: str) -> None:
    """Each role moves to the KMS; then granting, publishing, freezing, reading, checking and rotating go on as before."""
    for role in ROLES:
        assert granted.vault.rotate_key(role, uri).applied is not None
    files = sorted((granted.folder / "owner" / "keys").glob("*.json"))
    kept = {path.name.split("-")[0].split(".")[0] for path in files if "material" in json.loads(path.read_text())}
    assert kept == {"auditor"}
    opened = vault.open(granted.folder)
    opened.publish("evals", rows(20, start=100), key="id", append=True)
    opened.grant("globex", "evals", ["answer"])
    parts = deployment.open_broker(granted.folder)[0]
    assert read(parts, granted.caller(parts, "globex")).num_rows == 120
    assert opened.freeze("globex")
    assert opened.thaw("globex")
    assert opened.check().ok
    assert opened.rotate_key(Role.AUTHORITY, uri).applied is not None
    assert opened.rotate_key(Role.AUTHORITY).applied is not None
    assert vault.open(granted.folder).check().ok


def test_a_grant_of_many_columns_can_be_signed(lab: Lab, uri: str) -> None:
    """What is signed is short however long the statement is: KMSs sign messages of 4,096 bytes at most."""
    import pyarrow as pa

    lab.vault.rotate_key(Role.AUTHORITY, uri)
    names = [f"a_rather_long_column_name_{number}" for number in range(80)]
    lab.vault.publish("wide", pa.table({name: [1] for name in names}))
    lab.vault.grant("acme", "wide", names)
    assert lab.vault.check().ok


def test_a_kms_that_is_away_is_one_sentence(
    granted: Lab, bao: OpenBao, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the KMS, or without a right to the key, nothing is signed and nothing changes."""
    granted.vault.rotate_key(Role.AUTHORITY, uri)
    grants = len(granted.vault.grants())
    monkeypatch.setenv("BAO_TOKEN", bao.token_for('path "nothing" { capabilities = ["read"] }'))
    opened = vault.open(granted.folder)
    with pytest.raises(KeyUnavailable, match="permission denied"):
        opened.grant("globex", "evals", ["answer"])
    assert len(opened.grants()) <= grants + 1
    assert [state.state for state in opened.grants("globex")] in ([], ["pending"])
    # The responder's key is a file still: what must be stopped at night can be.
    assert opened.freeze("acme")


def test_an_administrator_signs_with_a_key_in_the_kms(lab: Lab, uri: str, tmp_path: Path) -> None:
    """``root sign`` takes a file that says where the key is, also where there is no vault."""
    roots.new_key(Role.ADMINISTRATOR, tmp_path / "second.json", None, uri)
    assert "material" not in json.loads((tmp_path / "second.json").read_text())
    change = roots.Change(
        add=((Role.ADMINISTRATOR, _public(tmp_path / "second.json.pub")),), remove=(), signers={Role.ADMINISTRATOR: 2}
    )
    lab.vault.apply_root(roots.propose_change(lab.vault.parts, change))
    (tmp_path / "proposal").write_bytes(lab.vault.rotate_key(Role.PUBLISHER).proposal.encode())
    signed, _ = roots.sign(tmp_path / "proposal", tmp_path / "second.json", None)
    assert lab.vault.apply_root(signed).changed


def _public(path: Path) -> bytes:
    """The public key in a file."""
    from vault.workings.keyfolder import read_public_file

    return read_public_file(path, Role.ADMINISTRATOR)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.LOG])
def test_what_no_kms_can_hold_is_refused(lab: Lab, uri: str, tmp_path: Path, role: Role) -> None:
    """The auditor's key opens, and the log key signs at every entry: both stay in files."""
    with pytest.raises(InvalidInput, match="--kms"):
        roots.new_key(role, tmp_path / "key.json", None, uri)
    with pytest.raises(InvalidInput, match="--kms"):
        lab.vault.rotate_key(role, uri)
    with pytest.raises(InvalidInput, match="transit"):
        roots.new_key(Role.AUTHORITY, tmp_path / "key.json", None, "local:")
    assert list(tmp_path.glob("key.json*")) == []


def test_a_signature_of_another_key_is_refused(bao: OpenBao) -> None:
    """What the KMS gives back is checked before anything relies on it."""
    kms = TransitKms(bao.address, bao.mount(), bao.token)
    key, other = kms.create_signing_key("0" * 32), kms.create_signing_key("0" * 32)
    public = kms.public_key(key)
    signed = RemoteSigner(public, lambda message: kms.sign(key, message)).sign(Label.GRANT, {"a": 1})
    assert signature_holds(public, Label.GRANT, signed.payload, signed.signatures[0][1])
    for wrong in (
        lambda message: kms.sign(other, message),
        lambda message: kms.sign(key, message + b"x"),
        lambda _: b"",
    ):
        with pytest.raises(KmsError):
            RemoteSigner(public, wrong).sign(Label.GRANT, {"a": 1})
    with pytest.raises(KeyUnavailable):
        kms.public_key(kms.create_key("0" * 32))
    kms.close()


def test_aws_is_asked_for_a_pure_ed25519_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto has no Ed25519 keys, so the calls are held against botocore's model of the service, with a key of our own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    kms = AwsKms("eu-central-1")
    arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with Stubber(kms._client) as stub:
        tags = [{"TagKey": "dsvault:signer", "TagValue": "a"}]
        made: dict[str, Any] = {
            "Description": "dsvault signer a",
            "KeySpec": "ECC_NIST_EDWARDS25519",
            "KeyUsage": "SIGN_VERIFY",
            "Tags": tags,
        }
        stub.add_response("create_key", {"KeyMetadata": {"KeyId": "k", "Arn": arn}}, made)
        reference = kms.create_signing_key("a")
        stub.add_response("get_public_key", {"PublicKey": public}, {"KeyId": arn})
        assert kms.public_key(reference) == key.public_key().public_bytes_raw()
        asked = {"KeyId": arn, "Message": b"m", "MessageType": "RAW", "SigningAlgorithm": "ED25519_SHA_512"}
        stub.add_response("sign", {"Signature": key.sign(b"m")}, asked)
        key.public_key().verify(kms.sign(reference, b"m"), b"m")
        stub.add_response("get_public_key", {"PublicKey": b"nonsense"}, {"KeyId": arn})
        with pytest.raises(KmsError):
            kms.public_key(reference)
