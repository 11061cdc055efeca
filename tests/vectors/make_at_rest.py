"""Writes ``at_rest.json``: JSON forms, sealed log entries, the log's tree and its checkpoints, and key files.

Everything is computed here from ``docs/reference/format.md`` with hashlib, hmac, struct and json; HPKE is the second
implementation in ``tests/primitives/hpke.py``, with a fixed ephemeral key, and AES-GCM and X25519 are the library's.
Nothing of dsvault is called. Run: ``python -m tests.vectors.make_at_rest``.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.primitives import hpke
from tests.vectors.make_keys import CHUNK, HOLDER, NONCE, VAULT, canonical, hkdf, text

AUDITOR, EPHEMERAL, LOG = (hashlib.sha256(name).digest() for name in (b"auditor", b"ephemeral", b"log"))
SESSION = bytes(range(100, 132))
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


def wrapped(secret: bytes, info: bytes) -> bytes:
    """``enc | ciphertext`` to the auditor under the fixed ephemeral key: never do so outside of a vector."""
    mine, receiver = (X25519PrivateKey.from_private_bytes(each) for each in (EPHEMERAL, AUDITOR))
    enc, public = mine.public_key().public_bytes_raw(), receiver.public_key().public_bytes_raw()
    shared = hpke.shared_secret(mine.exchange(receiver.public_key()), enc, public)
    key, nonce = hpke._schedule(shared, info)
    return enc + AESGCM(key).encrypt(nonce, secret, b"")


def sealed(
    plaintext: bytes,
    number: int,
    *,
    info: bytes = canonical("dsvault log session", VAULT),
    keys: bytes = canonical("dsvault log entry keys", VAULT),
    label: tuple[str, ...] = ("dsvault log entry", VAULT),
    commitment: bytes | None = None,
) -> bytes:
    """An entry as section 9 has it, or one that is wrong in one place."""
    key = hkdf(SESSION, keys, 255 * 32)[32 * number : 32 * (number + 1)]
    committed = commitment or hashlib.sha256(canonical("dsvault log entry key", key)).digest()
    header = b"\x01" + wrapped(SESSION, info) + bytes([number]) + committed
    return header + NONCE + AESGCM(key).encrypt(NONCE, plaintext, canonical(*label, header))


def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"kind": "init", "time": TIMES[0]},
        {"kind": "grant made", "time": TIMES[1], "vendor": HOLDER, "columns": ["täxt", "n"], "rows": 2**40},
        {"kind": "read ended", "time": TIMES[2], "reason": None, "whole": True},
    ]
    keys = hkdf(SESSION, canonical("dsvault log entry keys", VAULT), 255 * 32)
    found = []
    for number, entry in zip((0, 1, 254), entries, strict=True):
        key = keys[32 * number : 32 * (number + 1)]
        found.append({"entry": text(entry).decode(), "sealed": sealed(text(entry), number).hex(), "key": key.hex()})
    return found


def _refused_entries() -> dict[str, str]:
    """What must not open, by what is wrong: the infos and labels are near misses of the right ones."""
    plain = text({"kind": "init", "time": TIMES[0]})
    found = {
        "session without a label": sealed(plain, 0, info=canonical(VAULT)),
        "session without an info": sealed(plain, 0, info=b""),
        "session of another vault": sealed(plain, 0, info=canonical("dsvault log session", HOLDER)),
        "session with another label": sealed(plain, 0, info=canonical("dsvault log entry", VAULT)),
        "session swapped": sealed(plain, 0, info=canonical(VAULT, "dsvault log session")),
        "keys of another vault": sealed(plain, 0, keys=canonical("dsvault log entry keys", HOLDER)),
        "keys without an info": sealed(plain, 0, keys=b""),
        "another key's commitment": sealed(plain, 0, commitment=bytes(32)),
        "bound to another vault": sealed(plain, 0, label=("dsvault log entry", HOLDER)),
        "bound without a label": sealed(plain, 0, label=(VAULT,)),
        "another version": b"\x02" + sealed(plain, 0)[1:],
    }
    return {wrong: each.hex() for wrong, each in found.items()}


def root_of(leaves: list[bytes]) -> bytes:
    """The tree's root hash, word for word as RFC 6962 section 2.1 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def note(text_: str, secret: bytes = LOG, name: str = f"dsvault/{VAULT}") -> str:
    """A signed note with one line."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    hashed = hashlib.sha256(name.encode() + b"\n\x01" + key.public_key().public_bytes_raw()).digest()[:4]
    line = base64.b64encode(hashed + key.sign(text_.encode())).decode()
    return f"{text_}\n\u2014 {name} {line}\n"


def _log() -> list[dict[str, Any]]:
    """The entries in their places, with the root hash and the checkpoint behind each."""
    rows, leaves = [], []
    for sequence, (time, entry) in enumerate(zip(TIMES, _entries(), strict=True), 1):
        leaf = canonical("dsvault log leaf", sequence, time, bytes.fromhex(entry["sealed"]))
        leaves.append(hashlib.sha256(b"\x00" + leaf).digest())
        root = root_of(leaves)
        shown = f"dsvault/{VAULT}\n{sequence}\n{base64.b64encode(root).decode()}\ntime {time}\n"
        rows.append(
            {
                "sequence": sequence,
                "time": time,
                "hash": leaves[-1].hex(),
                "root": root.hex(),
                "checkpoint": note(shown),
            }
        )
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
        "log_public": Ed25519PrivateKey.from_private_bytes(LOG).public_key().public_bytes_raw().hex(),
        "log": _log(),
        "key_file_secret": SECRET.hex(),
        "key_files": _key_files(),
    }
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    Path(__file__).with_name("at_rest.json").write_bytes(document())
