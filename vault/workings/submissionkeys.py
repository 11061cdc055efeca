"""The owner's submission keys: X25519 private keys in files, to whose public halves vendors seal what they send back.

The present one lies in ``owner/keys/submission.json`` and is made when a first profile needs it; earlier ones lie in
``owner/keys/retired/``, for what was sealed to them. The public half goes to vendors in their profiles, which come from
the owner: a broker that was taken over cannot put a key of its own in its place. Being key files, they are exported,
restored and sealed under another passphrase with the others.
"""

import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vault import keyfile
from vault.audit import Kind
from vault.errors import Conflict, IntegrityError, KeyUnavailable
from vault.submission import key_name
from vault.trust import Role
from vault.workings.keyfolder import KeyFolder
from vault.workings.parts import OwnerParts

__all__ = ["private_key", "public_key", "rotate"]

_KIND: Final = "submission key"
_NAME: Final = "submission"


def public_key(parts: OwnerParts) -> bytes:
    """The raw public half of the present key, which is made where there is none."""
    keys = parts.signers.keys
    path = _present(keys)
    if not path.exists():
        private, public = _new()
        try:
            keyfile.write_new(path, _KIND, key_name(public), private, keys.passphrase)
        except Conflict:
            pass  # another process made one in this moment: that one counts
        else:
            _record(parts, None, public)
    return _opened(path, keys)[1]


def rotate(parts: OwnerParts) -> tuple[str | None, str]:
    """Make a new key; the one before is kept for what was sealed to it. Returns the names of both.

    May be killed at any moment, and run again: the one before is put away first, and has two places for a while.
    """
    keys = parts.signers.keys
    path = _present(keys)
    if not path.exists():
        return None, key_name(public_key(parts))
    private, public = _new()
    with keyfile.exclusive(path.parent):
        before, old = _opened(path, keys)
        aside = keys.retired / f"{_NAME}-{key_name(old)}.json"
        if not aside.exists():
            keyfile.write_new(aside, _KIND, key_name(old), before, keys.passphrase)
        keyfile.replace(path, keyfile.Header(_KIND, key_name(public)), private, keys.passphrase)
    _record(parts, key_name(old), public)
    return key_name(old), key_name(public)


def private_key(keys: KeyFolder, name: str) -> bytes:
    """The raw private key of that name, the present one or an earlier one; raises KeyUnavailable."""
    for path in (_present(keys), keys.retired / f"{_NAME}-{name}.json"):
        if path.exists() and keyfile.load(path, _KIND).header.id == name:
            return _opened(path, keys)[0]
    raise KeyUnavailable(f"{_present(keys).parent}: the submission key {name} is not here, and this is sealed to it")


def _present(keys: KeyFolder) -> Path:
    return keys.folder(Role.AUTHORITY) / f"{_NAME}.json"


def _new() -> tuple[bytes, bytes]:
    made = X25519PrivateKey.generate()
    return made.private_bytes_raw(), made.public_key().public_bytes_raw()


def _opened(path: Path, keys: KeyFolder) -> tuple[bytes, bytes]:
    """Both halves of a key file; raises as `vault.keyfile.read` does."""
    file = keyfile.load(path, _KIND)
    private = file.open(keys.passphrase)
    if len(private) != 32:
        raise IntegrityError(f"{os.fspath(path)}: this is not the file of a {_KIND}")
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    if key_name(public) != file.header.id:
        raise IntegrityError(f"{os.fspath(path)}: the key in the file is not the one that it says")
    return private, public


def _record(parts: OwnerParts, before: str | None, public: bytes) -> None:
    parts.journal.record(Kind.SUBMISSION_KEY_MADE, key=key_name(public), before=before)
