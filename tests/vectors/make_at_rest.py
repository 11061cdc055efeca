"""Writes ``at_rest.json``: JSON forms, sealed log entries, links of the log's chain, and key files.

Everything is computed here from ``docs/reference/format.md`` with hashlib, hmac, struct and json; HPKE is the second
implementation in ``tests/primitives/hpke.py``, with a fixed ephemeral key, and AES-GCM and X25519 are the library's.
Nothing of dsvault is called. Run: ``python -m tests.vectors.make_at_rest``.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.primitives import hpke
from tests.vectors.make_keys import CHUNK, HOLDER, NONCE, VAULT, canonical, text

AUDITOR, EPHEMERAL = (hashlib.sha256(name).digest() for name in (b"auditor", b"ephemeral"))
SECRET, SALT, PASSPHRASE = bytes(range(50, 82)), bytes(range(16)), "pass phräse \U0001f512"
KIND = "local KMS key"
TIMES = ("2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05.000006Z", "2027-12-31T23:59:59.999999Z")


def _forms() -> list[dict[str, Any]]:
    """Values as ordinary JSON, and their one form. Each is written here by hand, not by an encoder."""
    forms: list[tuple[Any, str]] = [
        ({}, "{}"),
        ([], "[]"),
        (None, "null"),
        ([True, False, None], "[true,false,null]"),
        ({"b": 1, "a": {"d": [], "c": {}}}, '{"a":{"c":{},"d":[]},"b":1}'),
        ({"B": 1, "a": 2, "": 3, "10": 4, "9": 5}, '{"":3,"10":4,"9":5,"B":1,"a":2}'),
        ({"ä": "\U0001f512", "z": "/"}, '{"z":"/","ä":"\U0001f512"}'),
        ('"\\\n\t\x01\x7f', '"\\"\\\\\\n\\t\\u0001\x7f"'),
        ([0, -1, 2**64 - 1, 10**30], "[0,-1,18446744073709551615,1000000000000000000000000000000]"),
    ]
    return [{"value": value, "hex": form.encode().hex()} for value, form in forms]


def sealed(plaintext: bytes, info: bytes) -> bytes:
    """``enc | ciphertext`` to the auditor under the fixed ephemeral key: never do so outside of a vector."""
    mine, receiver = (X25519PrivateKey.from_private_bytes(secret) for secret in (EPHEMERAL, AUDITOR))
    enc, public = mine.public_key().public_bytes_raw(), receiver.public_key().public_bytes_raw()
    secret = hpke.shared_secret(mine.exchange(receiver.public_key()), enc, public)
    key, nonce = hpke._schedule(secret, info)
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")


def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"kind": "init", "time": TIMES[0]},
        {"kind": "grant made", "time": TIMES[1], "vendor": HOLDER, "columns": ["täxt", "n"], "rows": 2**40},
        {"kind": "read ended", "time": TIMES[2], "reason": None, "whole": True},
    ]
    info = canonical("dsvault log entry", VAULT)
    return [{"entry": text(entry).decode(), "sealed": sealed(text(entry), info).hex()} for entry in entries]


def _refused_entries() -> dict[str, str]:
    """What must not open, by what is wrong: the infos are near misses of the right one."""
    plaintext = text({"kind": "init", "time": TIMES[0]})
    infos = {
        "no label": canonical(VAULT),
        "no info": b"",
        "swapped": canonical(VAULT, "dsvault log entry"),
        "not length-prefixed": b"dsvault log entry" + VAULT.encode(),
        "another vault": canonical("dsvault log entry", HOLDER),
        "another label": canonical("dsvault log link", VAULT),
    }
    return {wrong: sealed(plaintext, info).hex() for wrong, info in infos.items()}


def _chain() -> list[dict[str, Any]]:
    rows, previous = [], bytes(32)
    for sequence, (time, entry) in enumerate(zip(TIMES, _entries(), strict=True), 1):
        body = bytes.fromhex(entry["sealed"])
        found = hashlib.sha256(canonical("dsvault log link", VAULT, sequence, time, previous, body)).digest()
        rows.append({"sequence": sequence, "time": time, "previous": previous.hex(), "hash": found.hex()})
        previous = found
    return rows


def _key_files() -> list[dict[str, Any]]:
    plain = {"dsvault_key_file": "1.0", "kind": KIND, "id": CHUNK, "state": "enabled", "protection": "none"}
    scrypt = {"n": 2**14, "r": 8, "p": 1, "salt": base64.b64encode(SALT).decode()}
    header = plain | {"protection": "scrypt", "scrypt": scrypt}
    key = hashlib.scrypt(PASSPHRASE.encode(), salt=SALT, n=2**14, r=8, p=1, dklen=32)
    material = AESGCM(key).encrypt(NONCE, SECRET, canonical("dsvault key file", text(header)))
    under = {"nonce": base64.b64encode(NONCE).decode(), "material": base64.b64encode(material).decode()}
    return [
        {"passphrase": None, "document": plain | {"material": base64.b64encode(SECRET).decode()}},
        {"passphrase": PASSPHRASE, "document": header | under},
    ]


def document() -> bytes:
    """The file."""
    found = {
        "json": _forms(),
        "vault": VAULT,
        "auditor_secret": AUDITOR.hex(),
        "entries": _entries(),
        "refused_entries": _refused_entries(),
        "chain": _chain(),
        "key_file_secret": SECRET.hex(),
        "key_files": _key_files(),
    }
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    Path(__file__).with_name("at_rest.json").write_bytes(document())
