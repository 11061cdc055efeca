"""Spooled files and submissions are what ``files.json`` says, which nothing of dsvault computed."""

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.vectors import make_files
from tests.vectors.make_files import FILE, plain, rows
from vault import spool
from vault.chunks import decode
from vault.derivation import spool_facts_key, spool_key, spool_name, submission_key
from vault.encoding import to_base64
from vault.errors import IntegrityError, InvalidInput
from vault.proof import ProofKey
from vault.submission import Bound, Envelope, Particulars, Secret, key_name, open_envelope, pack, unpack

VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())
SPOOL, SENT = VECTORS["spool"], VECTORS["submission"]
BOUND = bytes.fromhex(SPOOL["bound"])
SALT, METADATA = bytes.fromhex(SPOOL["salt"]), bytes.fromhex(SPOOL["metadata_key"])
KEYS = [bytes.fromhex(key) for key in SPOOL["keys"]]


def test_the_generator_gives_the_file() -> None:
    """The committed file is what its generator writes, byte for byte, with what was kept of the first time."""
    assert make_files.document(SENT["kept"]) == FILE.read_bytes()


# Spooled files


def _about() -> spool.About:
    said = SPOOL["about"]
    columns = [(name, bytes.fromhex(fields)) for name, fields in said["columns"]]
    return spool.About(**{**said, "content": bytes.fromhex(said["content"]), "columns": columns})


def test_bindings_and_names() -> None:
    """What decides a file gives the binding that is written down, and that the name and what it is sealed for."""
    binding = _about().binding(SPOOL["shard"])
    assert binding == SPOOL["binding"]
    vendor, end = SPOOL["about"]["vendor"], SPOOL["about"]["end"]
    name = spool.object_name(end, vendor, spool_name(METADATA, bytes.fromhex(binding)))
    assert name == SPOOL["name"]
    assert spool.bound_to(SPOOL["about"]["vault"], vendor, name, binding) == BOUND
    assert (spool.end_of(name), spool.vendor_of(name)) == (end, vendor)


@pytest.mark.parametrize(
    "changed",
    [
        {"vault": "0" * 32},
        {"vendor": "0" * 32},
        {"grant_digest": "0" * 64},
        {"version": 4},
        {"content": b""},
        {"columns": []},
        {"keys": []},
        {"delegations": []},
        {"schema": ""},
        {"encoder": "1 pyarrow 26.0.2"},
        {"end": 0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_decides_a_file_is_in_its_binding(changed: dict[str, Any]) -> None:
    """Files that differ in any of it have other names, and open under no other's."""
    assert replace(_about(), **changed).binding(SPOOL["shard"]) != SPOOL["binding"]
    assert _about().binding(SPOOL["shard"] + 1) != SPOOL["binding"]


def _sealed(size: int) -> bytes:
    key = spool_key(KEYS, SALT, BOUND) if size else None
    facts = {**SPOOL["facts"], "size": size}
    made = b"".join(spool.sealed(facts, spool_facts_key(METADATA, SALT), memoryview(plain(size)), key, SALT, BOUND))
    assert spool.sealed_size(facts, size) == len(made)
    return made


@pytest.mark.parametrize("vector", SPOOL["objects"], ids=lambda vector: str(vector["size"]))
def test_spooled_files_are_sealed_to_the_byte(vector: dict[str, Any]) -> None:
    """An object of these keys, this salt and these bytes is the very one that is written down."""
    made = _sealed(vector["size"])
    assert (len(made), hashlib.sha256(made).hexdigest()) == (vector["length"], vector["sha256"])


@pytest.mark.parametrize("vector", SPOOL["objects"], ids=lambda vector: str(vector["size"]))
def test_spooled_files_open(vector: dict[str, Any]) -> None:
    """What another program sealed opens, its facts and its bytes; with any of some bits changed it does not."""
    size, binding = vector["size"], bytes.fromhex(SPOOL["binding"])
    made = make_files.spooled(size, SPOOL["name"], binding)
    assert hashlib.sha256(made).hexdigest() == vector["sha256"]
    if "hex" in vector:
        assert made.hex() == vector["hex"]
    assert _opened(made, size) == ({**SPOOL["facts"], "size": size}, plain(size))
    head = spool.Prefix.parse(made).head
    places = {0, 7, 8, 39, 43, 44, head - 1} | ({head, len(made) - 1} if size else set())
    for place in places:
        with pytest.raises(IntegrityError):
            _opened(made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :], size)


def _opened(made: bytes, size: int) -> tuple[dict[str, Any], bytes]:
    prefix = spool.Prefix.parse(made)
    facts = spool.open_facts(made[: prefix.head], spool_facts_key(METADATA, prefix.salt), BOUND)
    found, key = spool.window(size, 0, size), spool_key(KEYS, prefix.salt, BOUND)
    return facts, found.open(made[prefix.head + found.start : prefix.head + found.end], key, BOUND)


# Submissions


CLAIMS = SENT["claims"]
BOUND_TO = Bound(*(CLAIMS["vault"], SENT["vendor"], CLAIMS["credential"], CLAIMS["grant"]), 3, CLAIMS["submission"])
OWNER, OBJECT = bytes.fromhex(SENT["owner"]), bytes.fromhex(SENT["object"])


def _envelope() -> Envelope:
    return Envelope(
        *(CLAIMS[name] for name in ("submission", "vault", "credential", "grant", "version", "rows", "size", "sha256")),
        CLAIMS["sealed_to"],
        base64.b64decode(CLAIMS["wrapped"]),
    )


def test_what_a_submission_is_bound_to() -> None:
    """The prefix of its modules, the info of its secret, its keys, and what the owner's key is called."""
    assert BOUND_TO.encode().hex() == SENT["prefix"]
    assert BOUND_TO.info().hex() == SENT["info"]
    for purpose, key in SENT["keys"].items():
        assert submission_key(bytes.fromhex(SENT["secret"]), purpose, BOUND_TO.encode()).hex() == key
    assert key_name(bytes.fromhex(SENT["owner_public"])) == CLAIMS["sealed_to"]


@pytest.mark.parametrize("algorithm", SENT["envelopes"])
def test_envelopes(algorithm: str) -> None:
    """One that another program signed opens, and says what is written down; with a changed character it does not."""
    text = SENT["envelopes"][algorithm]
    signer, found = open_envelope(text)
    assert found == _envelope()
    header, claims, signature = text.split(".")
    jwk = json.loads(base64.urlsafe_b64decode(header + "=="))["jwk"]
    # RFC 7638: the required members alone, in order.
    thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
    assert signer == base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    for place, piece in ((0, header), (1, claims), (2, signature)):
        pieces = [header, claims, signature]
        pieces[place] = piece[:10] + ("A" if piece[10] != "A" else "B") + piece[11:]
        with pytest.raises(InvalidInput):
            open_envelope(".".join(pieces))


def test_an_envelope_is_signed_as_it_is_opened() -> None:
    """What dsvault signs has the header and the claims that are written down, and no other."""
    public = json.loads(base64.urlsafe_b64decode(SENT["envelopes"]["Ed25519"].split(".")[0] + "=="))
    key = ProofKey.parse({**public["jwk"], "d": SENT["proving"]}, "the vector")
    pieces = [_envelope().signed(key).split("."), SENT["envelopes"]["Ed25519"].split(".")]
    ours, theirs = ([json.loads(base64.urlsafe_b64decode(each + "==")) for each in piece[:2]] for piece in pieces)
    assert ours == theirs


def test_a_submission_opens() -> None:
    """The secret for the owner, the particulars and the rows; and it is put together to the byte."""
    secret = Secret.opened(base64.b64decode(CLAIMS["wrapped"]), OWNER, BOUND_TO)
    particulars, sealed_rows = unpack(OBJECT)
    told = secret.open(particulars)
    assert told == Particulars("id", bytes.fromhex(SENT["kept"]["schema"]), ("a.b.c",))
    schema = pa.ipc.read_schema(pa.py_buffer(told.schema))
    assert decode(sealed_rows, secret.rows_key, BOUND_TO, schema).equals(rows())
    assert pack(particulars, sealed_rows) == OBJECT
    said = {"key": "id", "links": ["a.b.c"], "schema": to_base64(told.schema)}
    assert told.encode() == json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"vault": "0" * 32},
        {"vendor": "globex"},
        {"credential": "0" * 32},
        {"grant": "0" * 32},
        {"version": 4},
        {"submission": "0" * 32},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_submission_of_another_place_does_not_open(changed: dict[str, Any]) -> None:
    """Neither its secret, nor with the secret its particulars or its rows."""
    other = replace(BOUND_TO, **changed)
    with pytest.raises(IntegrityError):
        Secret.opened(base64.b64decode(CLAIMS["wrapped"]), OWNER, other)
    secret = Secret(bytes.fromhex(SENT["secret"]), other)
    particulars, sealed_rows = unpack(OBJECT)
    with pytest.raises(IntegrityError):
        secret.open(particulars)
    with pytest.raises(IntegrityError):
        decode(sealed_rows, secret.rows_key, other)
