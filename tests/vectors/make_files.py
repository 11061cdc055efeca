"""Writes ``files.json``: spooled files and submissions, as sections 14 and 13 of the format have them.

Everything is computed here from ``docs/reference/format.md`` with hashlib, hmac, struct and json; HPKE is the second
implementation in ``tests/primitives/hpke.py`` with a fixed ephemeral key, and AES-GCM, X25519 and the signatures are the
library's. Nothing of dsvault is called. What pyarrow fills with fresh random bytes, the encrypted Parquet file of a
submission, and the form that it gives a schema, were made once and are kept: they are taken from the file that is there.
Run: ``python -m tests.vectors.make_files``; with ``--fresh`` those are made anew.
"""

import base64
import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from tests.primitives import hpke
from tests.vectors.make_keys import CHUNK, COMPARTMENT, GROUP, HOLDER, NONCE, ROW, VAULT, canonical, hkdf, text

FILE = Path(__file__).with_name("files.json")
METADATA, MASK, *DATA_KEYS = (hashlib.sha256(name).digest() for name in (b"metadata", b"mask", b"one", b"other"))
SALT, OWNER, EPHEMERAL, SECRET = (hashlib.sha256(each).digest() for each in (b"salt", b"owner", b"eph", b"secret"))
PROVING, CURVE = (hashlib.sha256(each).digest() for each in (b"proving", b"curve"))
SEGMENT = 262_144
SIZES = (0, 1, 1000, SEGMENT, SEGMENT + 1, 3 * SEGMENT - 5)
END, SHARD = 1_767_225_600, 7
VENDOR = "acme"


def plain(size: int) -> bytes:
    """A file of that many bytes."""
    found = b"".join(hashlib.sha256(struct.pack(">I", number)).digest() for number in range(-(-size // 32)))
    return found[:size]


def about() -> dict[str, Any]:
    """What decides the files of a permit."""
    return {
        "vault": VAULT,
        "vendor": HOLDER,
        "grant_digest": hashlib.sha256(b"grant").hexdigest(),
        "version": 3,
        "content": canonical(GROUP, hashlib.sha256(b"content").hexdigest()).hex(),
        "columns": [[ROW, ""], [CHUNK, canonical(canonical("meta", "source")).hex()]],
        "keys": [[COMPARTMENT, 1, "01" * 16], [GROUP, 2, "02" * 16], ["mask", 1, "03" * 16]],
        "delegations": ["d" * 32],
        "schema": '{"type":"struct","fields":[]}',
        "encoder": "1 pyarrow 26.0.1",
        "end": END,
    }


def binding_of(said: dict[str, Any]) -> bytes:
    """What the file of a shard is sealed for."""
    columns = canonical(*(each for name, fields in said["columns"] for each in (name, bytes.fromhex(fields))))
    keys = canonical(*(each for key in said["keys"] for each in key))
    return hashlib.sha256(
        canonical(
            "dsvault spool binding",
            1,
            *(said[name] for name in ("vault", "vendor", "grant_digest", "version")),
            bytes.fromhex(said["content"]),
            *(columns, keys, canonical(*said["delegations"])),
            *(said["schema"], said["encoder"], said["end"], SHARD),
        )
    ).digest()


def hkdf_salted(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 for one block."""
    return hmac.digest(hmac.digest(salt, key, hashlib.sha256), info + b"\x01", hashlib.sha256)


def spooled(size: int, name: str, binding: bytes) -> bytes:
    """A whole object."""
    bound = canonical("dsvault spool", 1, VAULT, HOLDER, name, binding.hex())
    facts_key = hkdf(METADATA, canonical("dsvault spool facts key", SALT), 32)
    facts = {"size": size, "rows": 5, "shard": SHARD, "dataset": "évals"}
    told = AESGCM(facts_key).encrypt(bytes(12), text(facts), canonical("dsvault spool facts", bound))
    keys = [*DATA_KEYS, MASK]
    key = hkdf_salted(b"".join(keys), SALT, canonical("dsvault spool key", len(keys), bound))
    found, data = b"DSVSPL01" + SALT + struct.pack(">I", len(told)) + told, plain(size)
    count = -(-size // SEGMENT)
    for number in range(count):
        piece = data[number * SEGMENT : (number + 1) * SEGMENT]
        last = 1 if number == count - 1 else 0
        added = canonical("dsvault spool segment", bound, number, last)
        found += AESGCM(key).encrypt(number.to_bytes(12, "big"), piece, added)
    return found


def _spool() -> dict[str, Any]:
    said = about()
    binding = binding_of(said)
    name = hkdf(METADATA, canonical("dsvault spool name", binding), 16).hex()
    place = f"spool/{END}/{HOLDER}/{name}"
    objects = []
    for size in SIZES:
        made = spooled(size, place, binding)
        short = {"hex": made.hex()} if size <= 1000 else {}
        objects.append({"size": size, "length": len(made), "sha256": hashlib.sha256(made).hexdigest(), **short})
    return {
        "metadata_key": METADATA.hex(),
        "keys": [key.hex() for key in (*DATA_KEYS, MASK)],
        "salt": SALT.hex(),
        "about": said,
        "shard": SHARD,
        "binding": binding.hex(),
        "name": place,
        "bound": canonical("dsvault spool", 1, VAULT, HOLDER, place, binding.hex()).hex(),
        "facts": {"rows": 5, "shard": SHARD, "dataset": "évals"},
        "objects": objects,
    }


# Submissions

SUBMISSION, CREDENTIAL, GRANT = CHUNK, ROW, GROUP
BOUND = (1, VAULT, VENDOR, CREDENTIAL, GRANT, 3, SUBMISSION)


def rows() -> pa.Table:
    """What is sent."""
    return pa.table({"id": pa.array([1, 5, 9], pa.int64()), "label": ["good", None, "bäd"]})


def _key(purpose: str) -> bytes:
    prefix = canonical("dsvault submission", *BOUND)
    return hkdf(SECRET, canonical("dsvault submission key", purpose, prefix), 32)


def _fresh() -> dict[str, str]:
    """What has random bytes of pyarrow's, or its own form."""
    prefix, sink = canonical("dsvault submission", *BOUND), pa.BufferOutputStream()
    properties = pe.create_encryption_properties(_key("rows"), aad_prefix=prefix, store_aad_prefix=False)
    pq.write_table(rows(), sink, encryption_properties=properties)
    return {"rows": sink.getvalue().to_pybytes().hex(), "schema": rows().schema.serialize().to_pybytes().hex()}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def envelope(claims: dict[str, Any], algorithm: str) -> str:
    """A JWS by a fixed key (RFC 7515; RFC 8037 and 9864 for Ed25519; RFC 6979 makes ES256 the same each time)."""
    if algorithm != "ES256":
        key = Ed25519PrivateKey.from_private_bytes(PROVING)
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": _base64(key.public_key().public_bytes_raw())}
    else:
        private = ec.derive_private_key(int.from_bytes(CURVE, "big"), ec.SECP256R1())
        point = private.public_key().public_numbers()
        x, y = (_base64(each.to_bytes(32, "big")) for each in (point.x, point.y))
        jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    header = {"typ": "dsvault-submission+jwt", "alg": algorithm, "jwk": jwk}
    signed = f"{_base64(text(header))}.{_base64(text(claims))}"
    if algorithm != "ES256":
        return f"{signed}.{_base64(key.sign(signed.encode()))}"
    signature = private.sign(signed.encode(), ec.ECDSA(SHA256(), deterministic_signing=True))
    return f"{signed}.{_base64(b''.join(each.to_bytes(32, 'big') for each in decode_dss_signature(signature)))}"


def wrapped(info: bytes) -> bytes:
    """The secret for the owner, under the fixed ephemeral key: never do so outside of a vector."""
    mine, receiver = (X25519PrivateKey.from_private_bytes(each) for each in (EPHEMERAL, OWNER))
    enc, public = mine.public_key().public_bytes_raw(), receiver.public_key().public_bytes_raw()
    key, nonce = hpke._schedule(hpke.shared_secret(mine.exchange(receiver.public_key()), enc, public), info)
    return enc + AESGCM(key).encrypt(nonce, SECRET, b"")


def _submission(kept: dict[str, str]) -> dict[str, Any]:
    prefix = canonical("dsvault submission", *BOUND)
    schema = base64.b64encode(bytes.fromhex(kept["schema"])).decode()
    particulars = text({"key": "id", "schema": schema, "links": ["a.b.c"]})
    sealed = NONCE + AESGCM(_key("particulars")).encrypt(NONCE, particulars, prefix)
    made = struct.pack(">I", len(sealed)) + sealed + bytes.fromhex(kept["rows"])
    public = X25519PrivateKey.from_private_bytes(OWNER).public_key().public_bytes_raw()
    claims = {
        "format": [1, 0],
        "submission": SUBMISSION,
        "vault": VAULT,
        "credential": CREDENTIAL,
        "grant": GRANT,
        "version": 3,
        "rows": 3,
        "size": len(made),
        "sha256": hashlib.sha256(made).hexdigest(),
        "sealed_to": hashlib.sha256(canonical("dsvault submission key", public)).digest()[:16].hex(),
        "wrapped": base64.b64encode(wrapped(canonical("dsvault submission secret", *BOUND))).decode(),
    }
    return {
        "vendor": VENDOR,
        "owner": OWNER.hex(),
        "owner_public": public.hex(),
        "secret": SECRET.hex(),
        "proving": _base64(PROVING),
        "keys": {purpose: _key(purpose).hex() for purpose in ("rows", "particulars")},
        "prefix": prefix.hex(),
        "info": canonical("dsvault submission secret", *BOUND).hex(),
        "kept": kept,
        "object": made.hex(),
        "claims": claims,
        "envelopes": {each: envelope(claims, each) for each in ("Ed25519", "EdDSA", "ES256")},
    }


def document(kept: dict[str, str]) -> bytes:
    """The file."""
    found = {"spool": _spool(), "submission": _submission(kept)}
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    fresh = "--fresh" in sys.argv or not FILE.exists()
    FILE.write_bytes(document(_fresh() if fresh else json.loads(FILE.read_bytes())["submission"]["kept"]))
