"""Secrets at rest in files: one JSON file for each secret, mode 0600, sealed under a passphrase if there is one.

With a passphrase the secret is under AES-256-GCM with a key from scrypt (RFC 7914), and the AAD is the whole
header, so that neither the kind, the id, the state nor the parameters can be changed. Files are written to a
temporary name and moved into place, so that a crash leaves the old file or the new one. Specified in
``docs/reference/format.md`` section 8.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from vault.encoding import canonical, from_base64, json_bytes, new_id, to_base64
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable

__all__ = ["SCRYPT_N", "Header", "exclusive", "read", "read_header", "write_new", "write_replacing"]

#: scrypt's cost: 64 MiB and about a fifth of a second for each file that is opened.
SCRYPT_N: Final = 2**16
_SCRYPT_R, _SCRYPT_P = 8, 1
_MIN_N, _MAX_N = 2**14, 2**20
_NONCE = 12
_FORMAT = "1.0"


@dataclass(frozen=True, slots=True)
class Header:
    """What a key file says about its secret, which is none of it."""

    kind: str
    id: str
    state: str = "enabled"


def write_new(
    path: Path, kind: str, identifier: str, secret: bytes, passphrase: str | None, *, n: int = SCRYPT_N
) -> None:
    """Write a secret to a file that must not exist; raises Conflict where it does."""
    temporary = _write_temporary(path, _document(Header(kind, identifier), secret, passphrase, n))
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise Conflict(f"{path}: the key file exists already") from error
    finally:
        os.unlink(temporary)
    _sync_folder(path.parent)


def write_replacing(
    path: Path, header: Header, secret: bytes | None, passphrase: str | None, *, n: int = SCRYPT_N
) -> None:
    """Put another state or secret in a key file's place; without a secret only the header stays."""
    temporary = _write_temporary(path, _document(header, secret, passphrase, n))
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _document(header: Header, secret: bytes | None, passphrase: str | None, n: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "dsvault_key_file": _FORMAT,
        "kind": header.kind,
        "id": header.id,
        "state": header.state,
        "protection": "none",
    }
    if secret is None:
        return document
    if passphrase is None:
        return document | {"material": to_base64(secret)}
    salt, nonce = os.urandom(16), os.urandom(_NONCE)
    scrypt = {"n": n, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": to_base64(salt)}
    document |= {"protection": "scrypt", "scrypt": scrypt, "nonce": to_base64(nonce)}
    sealed = AESGCM(_stretch(passphrase, salt, n)).encrypt(nonce, secret, _aad(document))
    return document | {"material": to_base64(sealed)}


def _aad(document: dict[str, Any]) -> bytes:
    header = {key: value for key, value in document.items() if key not in {"nonce", "material"}}
    return canonical("dsvault key file", json_bytes(header))


def _stretch(passphrase: str, salt: bytes, n: int) -> bytes:
    return Scrypt(salt, 32, n, _SCRYPT_R, _SCRYPT_P).derive(passphrase.encode("utf-8"))


def _write_temporary(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{new_id()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(path: Path, kind: str) -> dict[str, Any]:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InvalidInput(f"{path}: others may read this key file; run chmod 600 on it")
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise KeyUnavailable(f"{path}: this key is not held here") from error
    except OSError as error:
        raise KeyUnavailable(f"{path}: the key file cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: this is not a key file") from error
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise IntegrityError(f"{path}: this is not the file of a {kind}")
    if str(document.get("dsvault_key_file", "")).split(".")[0] != "1":
        raise IntegrityError(f"{path}: the key file has a format that this release does not know")
    return document


def read_header(path: Path, kind: str) -> Header:
    """What the file says about its secret; unauthenticated until the secret is read."""
    document = _load(path, kind)
    return Header(kind, str(document.get("id")), str(document.get("state")))


def read(path: Path, kind: str, passphrase: str | None) -> bytes:
    """The secret; raises KeyUnavailable, InvalidInput (passphrase) or IntegrityError."""
    document = _load(path, kind)
    if "material" not in document:
        raise KeyUnavailable(f"{path}: the key was destroyed")
    try:
        if document["protection"] == "none":
            return from_base64(document["material"], "a key")
        if document["protection"] != "scrypt":
            raise IntegrityError(f"{path}: the key file has a protection that this release does not know")
        return _unseal(path, document, passphrase)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: the key file lacks a field") from error


def _unseal(path: Path, document: dict[str, Any], passphrase: str | None) -> bytes:
    scrypt = document["scrypt"]
    n = scrypt["n"]
    # Parameters come from the file: without bounds they could ask for any amount of memory.
    if type(n) is not int or not _MIN_N <= n <= _MAX_N or n & (n - 1):
        raise IntegrityError(f"{path}: the key file's scrypt cost is out of bounds")
    if (scrypt["r"], scrypt["p"]) != (_SCRYPT_R, _SCRYPT_P):
        raise IntegrityError(f"{path}: the key file's scrypt parameters are not those that dsvault writes")
    if passphrase is None:
        raise InvalidInput(f"{path}: the key is under a passphrase; set DSVAULT_PASSPHRASE")
    key = _stretch(passphrase, from_base64(scrypt["salt"], "a salt"), n)
    nonce, sealed = from_base64(document["nonce"], "a nonce"), from_base64(document["material"], "a key")
    try:
        return AESGCM(key).decrypt(nonce, sealed, _aad(document))
    except InvalidTag as error:
        raise InvalidInput(f"{path}: the passphrase is wrong, or the key file was changed") from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock against other processes that change key files in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def with_state(header: Header, state: str) -> Header:
    """The same header in another state."""
    return replace(header, state=state)
