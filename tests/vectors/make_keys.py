"""Writes ``keys.json``: what keys, contexts, seals and signatures have to come out as.

Everything is computed here from ``docs/reference/format.md`` with hashlib, hmac and struct, and AES-GCM and Ed25519 from
the library with fixed keys and nonces; nothing of dsvault is called. Run: ``python tests/vectors/make_keys.py``.
"""

import base64
import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VAULT, HOLDER, COMPARTMENT, GROUP, CHUNK, ROW = (f"{byte:02x}" * 16 for byte in (0xA0, 0xB1, 0xC2, 0xD3, 0xE4, 0xF5))
NONCE = bytes(range(12))
KEYS = (bytes(32), b"\xff" * 32, bytes(range(32)))


def canonical(*parts: bytes | str | int) -> bytes:
    """Section 2: each part as ``u32be length | bytes``."""
    out = b""
    for part in parts:
        data = part.encode() if isinstance(part, str) else struct.pack(">Q", part) if isinstance(part, int) else part
        out += struct.pack(">I", len(data)) + data
    return out


def hkdf(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt."""
    extracted = hmac.digest(bytes(32), key, hashlib.sha256)
    found, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), hashlib.sha256)
        found += block
    return found[:length]


def text(value: Any) -> bytes:
    """Section 2: canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def context(group: str, epoch: int) -> dict[str, str]:
    """The encryption context of a data key."""
    return {
        "dsvault:vault": VAULT,
        "dsvault:compartment": COMPARTMENT,
        "dsvault:group": group,
        "dsvault:epoch": str(epoch),
    }


def _tuples() -> list[dict[str, Any]]:
    tuples: list[list[str | int]] = [
        [],
        [""],
        ["a", "b"],
        ["ab", ""],
        ["", "ab"],
        ["täxt", "\u0301", "\U0001f512"],
        [0],
        [2**64 - 1],
        ["0"],
        ["dsvault", 1, "x"],
    ]
    return [{"parts": parts, "hex": canonical(*parts).hex()} for parts in tuples]


def _identities() -> list[dict[str, Any]]:
    found = []
    for epoch in (1, 2, 10**6):
        identity = canonical("dsvault chunk", 1, VAULT, COMPARTMENT, GROUP, epoch, CHUNK)
        info = canonical("dsvault chunk key", identity)
        found.append(
            {
                "epoch": epoch,
                "context": context(GROUP, epoch),
                "identity": identity.hex(),
                "chunk_keys": {key.hex(): hkdf(key, info, 32).hex() for key in KEYS},
            }
        )
    return found


def _contexts() -> list[dict[str, Any]]:
    found = []
    for pairs in ({}, {"k": "v"}, {"b": "1", "a": "2"}, context(GROUP, 1), context("manifest", 12)):
        ordered = [part for item in sorted(pairs.items()) for part in item]
        others = [part for item in sorted(pairs.items()) for part in item if item[0] != "dsvault:epoch"]
        associated = canonical("dsvault transit", len(pairs), *others)
        if "dsvault:epoch" in pairs:
            associated += canonical("dsvault:epoch", pairs["dsvault:epoch"])
        key, plaintext = KEYS[2], bytes(range(100, 132))
        aad = canonical("dsvault local kms", CHUNK, *ordered)
        blob = b"\x01" + NONCE + AESGCM(key).encrypt(NONCE, plaintext, aad)
        found.append(
            {
                "context": pairs,
                "associated_data": associated.hex(),
                "pkcs11_aad": canonical("dsvault pkcs11 kms", CHUNK, *ordered).hex(),
                "local": {"id": CHUNK, "key": key.hex(), "plaintext": plaintext.hex(), "blob": blob.hex()},
            }
        )
    return found


def _fields() -> list[dict[str, Any]]:
    found = []
    for key in KEYS:
        seal = hkdf(key, canonical("dsvault metadata", "seal", VAULT, HOLDER), 32)
        index = hkdf(key, canonical("dsvault metadata", "index", VAULT, HOLDER), 32)
        plaintext = "a name: täxt".encode()
        aad = canonical("dsvault field", VAULT, HOLDER, "holder name", ROW)
        found.append(
            {
                "metadata_key": key.hex(),
                "plaintext": plaintext.hex(),
                "blob": (b"\x01" + NONCE + AESGCM(seal).encrypt(NONCE, plaintext, aad)).hex(),
                "index_of": "acme",
                "index": hmac.digest(index, canonical("dsvault index", "holder name", "acme"), hashlib.sha256)[
                    :16
                ].hex(),
            }
        )
    return found


def _statements() -> list[dict[str, Any]]:
    found = []
    for label in ("root", "grant", "credential", "manifest", "head", "evidence"):
        secret = hashlib.sha256(label.encode()).digest()
        key = Ed25519PrivateKey.from_private_bytes(secret)
        public = key.public_key().public_bytes_raw()
        payload = text({"z": 1, "a": ["ä", None, True], "label": label})
        message = canonical("dsvault signed", label, hashlib.sha256(payload).digest())
        found.append(
            {
                "label": label,
                "secret": secret.hex(),
                "key_id": hashlib.sha256(canonical("dsvault public key", public)).hexdigest()[:32],
                "payload": payload.decode(),
                "signature": key.sign(message).hex(),
                "digest": hashlib.sha256(message).hexdigest(),
                "encoded": text(
                    {
                        "label": label,
                        "payload": base64.b64encode(payload).decode(),
                        "signatures": [
                            {
                                "key": hashlib.sha256(canonical("dsvault public key", public)).hexdigest()[:32],
                                "signature": base64.b64encode(key.sign(message)).decode(),
                            }
                        ],
                    }
                ).decode(),
            }
        )
    return found


def _bodies() -> list[dict[str, Any]]:
    grants, credentials = {ROW: "1" * 64}, {CHUNK: "2" * 64}
    vendor = text({"grants": grants, "credentials": credentials})
    versions, epochs = {"1": "3" * 64}, {GROUP: [2, "4" * 32], "manifest": [1, ""]}
    place = text({"holder": HOLDER, "dataset": ROW, "versions": versions, "epochs": epochs})
    return [
        {
            "kind": kind,
            "body": body.decode(),
            "digest": hashlib.sha256(canonical("dsvault head body", body)).hexdigest(),
        }
        for kind, body in (("vendor", vendor), ("compartment", place))
    ]


def document() -> bytes:
    """The file."""
    found = {
        "canonical": _tuples(),
        "identities": _identities(),
        "commitments": {key.hex(): hkdf(key, canonical("dsvault key id"), 16).hex() for key in KEYS},
        "contexts": _contexts(),
        "fields": _fields(),
        "statements": _statements(),
        "bodies": _bodies(),
    }
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    Path(__file__).with_name("keys.json").write_bytes(document())
