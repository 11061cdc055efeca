"""The vault's private keys in files, found by the id that the root document names and not by the file's name.

A file may also say that its key is in a KMS, and where; the KMS then signs.

A role's keys lie in ``<role>.json`` and ``<role>-<anything>.json``: in ``broker/`` for the log key, in ``owner/keys/``
for all others. A new key lies beside the old one until the root document names it, so that a rotation that is killed
at any moment leaves a key that signs. Auditors' keys of earlier times lie in ``owner/keys/retired/``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vault import keyfile
from vault.encoding import from_base64, new_id, to_base64
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable
from vault.kms import open_signing_kms
from vault.trust import RemoteSigner, Role, Root, Signer, public_key_id

__all__ = ["KeyFolder", "kind_of", "make_key", "open_signer", "public_file", "read_public_file"]

_PUBLIC_FORMAT: Final = "1.0"


def kind_of(role: Role) -> str:
    """What a role's key file says that it is."""
    return f"{role.value} key"


def make_key(role: Role, path: Path, passphrase: str | None, kms: str | None = None) -> bytes:
    """Make a role's private key in a new file, or in the KMS of a URI with a file that says where.

    Returns the raw public key. Raises Conflict, KmsError, and InvalidInput for a role whose key no KMS can hold.
    """
    if kms is not None:
        return _make_elsewhere(role, path, kms)
    key = X25519PrivateKey.generate() if role is Role.AUDITOR else Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    keyfile.write_new(path, kind_of(role), public_key_id(public), key.private_bytes_raw(), passphrase)
    return public


def _make_elsewhere(role: Role, path: Path, kms: str) -> bytes:
    if role is Role.AUDITOR:
        raise InvalidInput("--kms: the auditor's key opens what was sealed to it, which no KMS does; keep it in a file")
    if role is Role.LOG:
        raise InvalidInput("--kms: the log key signs at every entry, and stays in the broker's file")
    if path.exists():
        raise Conflict(f"{path}: the key file exists already")
    service = open_signing_kms(kms)
    reference = service.create_signing_key(new_id())
    public = service.public_key(reference)
    keyfile.write_elsewhere(path, kind_of(role), public_key_id(public), keyfile.Elsewhere(kms, reference, public))
    return public


def open_signer(path: Path, role: Role, passphrase: str | None, identifier: str | None = None) -> Signer:
    """The signer of a role's key file, wherever its private key is; raises as `vault.keyfile.read` does."""
    file = keyfile.load(path, kind_of(role), identifier)
    place = file.elsewhere
    signer = Signer(file.open(passphrase)) if place is None else _remote(place)
    if signer.key_id != file.header.id:
        raise IntegrityError(f"{path}: the key in the file is not the one that it says")
    return signer


def _remote(place: keyfile.Elsewhere) -> Signer:
    service = cache(lambda: open_signing_kms(place.kms))
    return RemoteSigner(place.public, lambda message: service().sign(place.reference, message))


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


class KeyFolder:
    """The private key files of one vault directory. An opened key is kept for the life of the process."""

    def __init__(self, vault: Path, passphrase: str | None) -> None:
        self._vault = vault
        self.passphrase = passphrase
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
        raise KeyUnavailable(f"{self.folder(role)}: the {role.value} key is not here, and this needs its signature")

    def any_signer(self, roles: Sequence[Role], root: Root) -> Signer:
        """A signer of one of some roles: one that is open already, or else the first that is here.

        Raises KeyUnavailable.
        """
        for key, signer in self._signers.items():
            if any(root.holds(role, key) for role in roles):
                return signer
        for role in roles:
            with suppress(KeyUnavailable):
                return self.signer(role, root)
        names = " or ".join(role.value for role in roles)
        raise KeyUnavailable(f"{self.folder(roles[0])}: no {names} key is here, and this needs the signature of one")

    def _open(self, role: Role, key: str, path: Path) -> Signer:
        signer = self._signers[key] = open_signer(path, role, self.passphrase, key)
        return signer

    def public(self, role: Role, path: Path) -> bytes:
        """The raw public half of a key file, which must open."""
        if role is Role.AUDITOR:
            secret = keyfile.read(path, kind_of(role), self.passphrase)
            return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return open_signer(path, role, self.passphrase).public

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
