"""The vault's private keys in files, found by the id that the root document names and not by the file's name.

A role's keys lie in ``<role>.json`` and ``<role>-<anything>.json``: in ``broker/`` for the log key, in ``owner/keys/``
for all others. A new key lies beside the old one until the root document names it, so that a rotation that is killed
at any moment leaves a key that signs. Auditors' keys of earlier times lie in ``owner/keys/retired/``.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vault import keyfile
from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError, InvalidInput, KeyUnavailable
from vault.trust import Role, Root, Signer, public_key_id

__all__ = ["Elsewhere", "KeyFolder", "kind_of", "make_key", "public_file", "read_public_file"]

_PUBLIC_FORMAT: Final = "1.0"


def kind_of(role: Role) -> str:
    """What a role's key file says that it is."""
    return f"{role.value} key"


def make_key(role: Role, path: Path, passphrase: str | None) -> bytes:
    """Make a role's private key in a new file; returns its raw public key. Raises Conflict and KmsError."""
    key = X25519PrivateKey.generate() if role is Role.AUDITOR else Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    keyfile.write_new(path, kind_of(role), public_key_id(public), key.private_bytes_raw(), passphrase)
    return public


def public_file(role: Role, public: bytes) -> str:
    """The text of a public key file."""
    document = {"dsvault_public_key": _PUBLIC_FORMAT, "role": role.value, "public": to_base64(public)}
    return json.dumps(document, indent=1) + "\n"


def read_public_file(path: Path, role: Role) -> bytes:
    """The raw public key in a public key file of a role; raises InvalidInput."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if str(document["dsvault_public_key"]).split(".")[0] != _PUBLIC_FORMAT.split(".", maxsplit=1)[0]:
            raise InvalidInput(f"{path}: the public key file has a format that this release does not know")
        found, public = str(document["role"]), from_base64(document["public"], "a public key")
    except OSError as error:
        raise InvalidInput(f"{path}: the public key file cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError, IntegrityError) as error:
        raise InvalidInput(f"{path}: this is not a public key file; 'dsvault root new-key' makes one") from error
    if found != role.value:
        raise InvalidInput(f"{path}: this is the public key of another role than {role.value}")
    if len(public) != 32:
        raise InvalidInput(f"{path}: the public key is not 32 bytes long")
    return public


#: A signer for one of the keys that a root document names for a role, or None where there is none.
Elsewhere = Callable[[Role, Root], Signer | None]


class KeyFolder:
    """The private key files of one vault directory. An opened key is kept for the life of the process.

    ``elsewhere`` gives signers for keys that are in no file, such as those in a KMS; it is asked when no file fits.
    """

    def __init__(self, vault: Path, passphrase: str | None, elsewhere: Elsewhere = lambda _role, _root: None) -> None:
        self._vault = vault
        self.passphrase = passphrase
        self._elsewhere = elsewhere
        self._signers: dict[str, Signer] = {}

    def folder(self, role: Role) -> Path:
        """Where a role's keys lie."""
        return self._vault / "broker" if role is Role.LOG else self._vault / "owner" / "keys"

    @property
    def retired(self) -> Path:
        """Where auditors' keys of earlier times lie."""
        return self._vault / "owner" / "keys" / "retired"

    def files(self, role: Role) -> Mapping[str, Path]:
        """The key files of a role by key id, unopened; raises IntegrityError for a file that is none."""
        return _files_in(self.folder(role), role)

    def new_path(self, role: Role, name: str) -> Path:
        """Where a new key of a role goes."""
        return self.folder(role) / f"{role.value}-{name}.json"

    def signer(self, role: Role, root: Root) -> Signer:
        """The newest key of a role that the root document names and that is here; raises KeyUnavailable."""
        named = list(reversed(root.roles[role].keys))
        for key in named:
            if key in self._signers:
                return self._signers[key]
        files = self.files(role)
        for key in named:
            if key in files:
                return self._open(role, key, files[key])
        remote = self._elsewhere(role, root)
        if remote is not None and remote.key_id in named:
            self._signers[remote.key_id] = remote
            return remote
        raise KeyUnavailable(f"{self.folder(role)}: the {role.value} key is not here, and this needs its signature")

    def _open(self, role: Role, key: str, path: Path) -> Signer:
        signer = Signer(keyfile.read(path, kind_of(role), self.passphrase, identifier=key))
        if signer.key_id != key:
            raise IntegrityError(f"{path}: the key in the file is not the one that it says")
        self._signers[key] = signer
        return signer

    def public(self, role: Role, path: Path) -> bytes:
        """The raw public half of a key file, which must open."""
        secret = keyfile.read(path, kind_of(role), self.passphrase)
        if role is Role.AUDITOR:
            return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return Signer(secret).public

    def auditor_secrets(self) -> tuple[bytes, ...]:
        """Every auditor's private key that is here, those of earlier times last; raises KeyUnavailable for none."""
        kind = kind_of(Role.AUDITOR)
        files = {**_files_in(self.retired, Role.AUDITOR), **self.files(Role.AUDITOR)}
        if not files:
            raise KeyUnavailable(f"{self.folder(Role.AUDITOR)}: the auditor key is not here, and the log needs it")
        return tuple(keyfile.read(path, kind, self.passphrase) for path in reversed(files.values()))

    def retire(self, role: Role, key: str, path: Path) -> None:
        """Put away a key that the root document names no more: an auditor's is kept, any other is wiped."""
        if role is Role.AUDITOR:
            with keyfile.exclusive(self.retired):
                os.replace(path, self.retired / f"{role.value}-{key}.json")
        else:
            keyfile.remove(path)
        self._signers.pop(key, None)


def _files_in(folder: Path, role: Role) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.glob(f"{role.value}*.json")):
        if path.name != f"{role.value}.json" and not path.name.startswith(f"{role.value}-"):
            continue
        try:
            found[keyfile.load(path, kind_of(role)).header.id] = path
        except KeyUnavailable:
            if path.exists():
                raise
    return found
