"""Secrets at rest in files: one JSON file for each secret, mode 0600, sealed under a passphrase if there is one.

With a passphrase the secret is under AES-256-GCM with a key from scrypt (RFC 7914), and the AAD is the whole
header, so that neither the kind, the id, the state nor the parameters can be changed. An older file of the same
secret that somebody puts back is not noticed. A new file is written under a temporary name and moved into place,
so that a crash leaves the old file or the new one; what was replaced is overwritten with zeros, which reaches
the blocks themselves only on file systems and drives that write in place. A secret must never be in an error or
a repr. Specified in ``docs/reference/format.md`` section 8.
"""

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from vault.encoding import canonical, from_base64, json_bytes, new_id, to_base64
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable, KmsError

__all__ = [
    "SCRYPT_N",
    "Elsewhere",
    "Header",
    "KeyFile",
    "Stamp",
    "exclusive",
    "load",
    "parse",
    "put_back",
    "read",
    "remove",
    "replace",
    "reseal",
    "stamp_of",
    "write_apart",
    "write_elsewhere",
    "write_new",
]

#: scrypt's cost: 64 MiB and about a fifth of a second for each file that is opened.
SCRYPT_N: Final = 2**16
_SCRYPT_R, _SCRYPT_P = 8, 1
_MIN_N, _MAX_N = 2**14, 2**20
_NONCE: Final = 12
_FORMAT: Final = "1.0"
_MAX_SIZE: Final = 64 * 1024
_TRIES: Final = 100
_LOCK: Final = ".lock"
_TEMPORARY: Final = re.compile(r"\.keyfile-[0-9a-f]{32}")

#: Device, inode, size, mtime and ctime: what tells one content of a path from another without reading it.
Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Header:
    """What a key file says about its secret, which is none of it."""

    kind: str
    id: str
    state: str = "enabled"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A private key in a KMS: the KMS's URI, the key's reference there, and the raw public key."""

    kms: str
    reference: str
    public: bytes


@dataclass(frozen=True, slots=True, repr=False)
class KeyFile:
    """A key file as it was read: header and secret are of one moment. The header is authenticated by `open`."""

    path: Path
    header: Header
    stamp: Stamp
    document: Mapping[str, Any]

    def open(self, passphrase: str | None) -> bytes:
        """The secret.

        Raises KeyUnavailable when it was destroyed, InvalidInput when the passphrase is missing, wrong or not
        the file's, and IntegrityError when the file is damaged.
        """
        if self.elsewhere is not None:
            raise KeyUnavailable(f"{self.path}: the private key is in a KMS and cannot be taken out")
        if "material" not in self.document:
            raise KeyUnavailable(f"{self.path}: the key was destroyed")
        try:
            if self.document["protection"] == "scrypt":
                return _unseal(self.path, self.document, passphrase)
            if self.document["protection"] != "none":
                raise IntegrityError(f"{self.path}: the key file has a protection that this release does not know")
            # Who may write the folder could otherwise put a key of their own in a sealed one's place.
            if passphrase is not None:
                raise InvalidInput(f"{self.path}: a passphrase is given (DSVAULT_PASSPHRASE), but this key has none")
            return from_base64(self.document["material"], f"{self.path}: the key")
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{self.path}: the key file lacks a field, or one is malformed") from error

    @property
    def elsewhere(self) -> "Elsewhere | None":
        """Where the private key is, if it is not in the file; raises IntegrityError for a malformed entry."""
        if self.document.get("protection") != "kms":
            return None
        try:
            public = from_base64(self.document["public"], f"{self.path}: the public key")
            return Elsewhere(str(self.document["kms"]), str(self.document["reference"]), public)
        except KeyError as error:
            raise IntegrityError(f"{self.path}: the key file lacks a field") from error

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r}, {self.header!r})"


def load(path: Path, kind: str | None = None, identifier: str | None = None, *, most: int = _MAX_SIZE) -> KeyFile:
    """Read a key file without opening its secret; a ``kind`` and an ``identifier`` must be the file's.

    ``most`` is how many bytes it may have.

    Raises KeyUnavailable when it is not there or cannot be read, InvalidInput when others may read it, and
    IntegrityError when it is no such file.
    """
    data, stamp = _stable_content(path, most)
    return _parsed(path, data, stamp, kind, identifier)


def parse(path: Path, data: bytes) -> KeyFile:
    """The same of a file's content that is held already; ``path`` is for what is said of it."""
    return _parsed(path, data, (0, 0, 0, 0, 0), None, None)


def _parsed(path: Path, data: bytes, stamp: Stamp, kind: str | None, identifier: str | None) -> KeyFile:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: this is not a key file") from error
    version = document.get("dsvault_key_file") if isinstance(document, dict) else None
    if not isinstance(version, str):
        raise IntegrityError(f"{path}: this is not a key file")
    if version.split(".")[0] != _FORMAT.split(".", maxsplit=1)[0]:
        raise IntegrityError(f"{path}: the key file has a format that this release does not know")
    if kind is not None and document.get("kind") != kind:
        raise IntegrityError(f"{path}: this is not the file of a {kind}")
    if identifier is not None and document.get("id") != identifier:
        raise IntegrityError(f"{path}: the key file is of another key")
    return KeyFile(
        path, Header(str(document.get("kind")), str(document.get("id")), str(document.get("state"))), stamp, document
    )


def read(path: Path, kind: str, passphrase: str | None, *, identifier: str | None = None) -> bytes:
    """The secret of a file; raises as `load` and `KeyFile.open` do."""
    return load(path, kind, identifier).open(passphrase)


def stamp_of(status: os.stat_result) -> Stamp:
    """Which content a path has. Every change of a key file alters the inode's times, and of a state its size too."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def write_new(
    path: Path, kind: str, identifier: str, secret: bytes, passphrase: str | None, *, n: int = SCRYPT_N
) -> None:
    """Write a secret to a file that must not exist; raises Conflict where it does, and KmsError."""
    _put_new(path, _document(Header(kind, identifier), secret, passphrase, n))


def write_apart(path: Path, kind: str, identifier: str, secret: bytes, passphrase: str, *, n: int = SCRYPT_N) -> None:
    """The same in a folder that is no keystore and anybody's: no lock is left there."""
    document = _document(Header(kind, identifier), secret, passphrase, n)
    with _writing(path):
        temporary = _write_temporary(path.parent, document)
        _link_new(temporary, path)


def put_back(file: KeyFile) -> None:
    """Write a key file as it was in the place that it names; one that is there already stays. Raises KmsError."""
    with exclusive(file.path.parent), _writing(file.path), suppress(Conflict):
        _link_new(_write_temporary(file.path.parent, file.document), file.path)


def write_elsewhere(path: Path, kind: str, identifier: str, place: Elsewhere) -> None:
    """Write where a private key is to a file that must not exist; raises Conflict where it does, and KmsError."""
    document = {
        **_document(Header(kind, identifier), None, None, SCRYPT_N),
        "protection": "kms",
        "kms": place.kms,
        "reference": place.reference,
        "public": to_base64(place.public),
    }
    _put_new(path, document)


def _put_new(path: Path, document: dict[str, Any]) -> None:
    with exclusive(path.parent), _writing(path):
        _link_new(_write_temporary(path.parent, document), path)


def _link_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise Conflict(f"{path}: the key file exists already") from error
    finally:
        _discard(temporary)
    _sync_folder(path.parent)


def replace(path: Path, header: Header, secret: bytes | None, passphrase: str | None, *, n: int = SCRYPT_N) -> None:
    """Put another state or secret in a key file's place; without a secret only the header stays.

    The caller holds `exclusive` on the folder. Raises KmsError; the old file is then as it was.
    """
    document = _document(header, secret, passphrase, n)
    with _writing(path):
        aside = _temporary_name(path.parent)
        temporary = _write_temporary(path.parent, document)
        try:
            # A second name for the old content, so that a run that is killed leaves it where the next finds it.
            os.link(path, aside)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            _discard(temporary)
            _discard(aside)


def remove(path: Path) -> None:
    """Wipe and remove a key file; one that is gone already is no error. Raises KmsError."""
    with exclusive(path.parent), _writing(path):
        _discard(path)
        _sync_folder(path.parent)


def reseal(path: Path, old: str | None, new: str | None, *, n: int = SCRYPT_N) -> None:
    """Seal a file under another passphrase, or under none; one that is under ``new`` already stays.

    So a change over many files that was cut short is finished by running it again. The caller holds `exclusive`
    on the folder. Raises InvalidInput when neither passphrase opens the file.
    """
    file = load(path)
    if "material" not in file.document:
        return
    try:
        secret = file.open(old)
    except InvalidInput:
        file.open(new)
        return
    replace(path, file.header, secret, new, n=n)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock against every other thread and process that changes key files in it.

    Makes the folder (mode 0700) where it lacks, and removes what a killed run left behind: under the lock no
    temporary file is anybody's.
    """
    with _writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with _writing(folder):
            for name in os.listdir(folder):
                if _TEMPORARY.fullmatch(name):
                    _discard(folder / name)
        yield
    finally:
        os.close(descriptor)


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


def _aad(document: Mapping[str, Any]) -> bytes:
    header = {key: value for key, value in document.items() if key not in {"nonce", "material"}}
    return canonical("dsvault key file", json_bytes(header))


def _stretch(passphrase: str, salt: bytes, n: int) -> bytes:
    if not passphrase:
        raise InvalidInput("an empty passphrase protects nothing; give one, or none at all")
    try:
        # The environment's bytes come back as they were, UTF-8 or not.
        encoded = passphrase.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidInput("the passphrase holds what is not a Unicode character") from error
    return Scrypt(salt, 32, n, _SCRYPT_R, _SCRYPT_P).derive(encoded)


def _unseal(path: Path, document: Mapping[str, Any], passphrase: str | None) -> bytes:
    scrypt = document["scrypt"]
    n = scrypt["n"]
    # Parameters come from the file: without bounds they could ask for any amount of memory.
    if type(n) is not int or not _MIN_N <= n <= _MAX_N or n & (n - 1):
        raise IntegrityError(f"{path}: the key file's scrypt cost is out of bounds")
    if (scrypt["r"], scrypt["p"]) != (_SCRYPT_R, _SCRYPT_P):
        raise IntegrityError(f"{path}: the key file's scrypt parameters are not those that dsvault writes")
    if passphrase is None:
        raise InvalidInput(f"{path}: the key is under a passphrase; set DSVAULT_PASSPHRASE")
    salt = from_base64(scrypt["salt"], f"{path}: the salt")
    nonce = from_base64(document["nonce"], f"{path}: the nonce")
    sealed = from_base64(document["material"], f"{path}: the key")
    aad = _aad(document)
    try:
        return AESGCM(_stretch(passphrase, salt, n)).decrypt(nonce, sealed, aad)
    except InvalidTag as error:
        raise InvalidInput(f"{path}: the passphrase is wrong, or the key file was changed") from error


def _stable_content(path: Path, most: int) -> tuple[bytes, Stamp]:
    """The file's bytes, read while they were the path's: a file being wiped after its replacement is none."""
    try:
        for _ in range(_TRIES):
            # Not blocking, so that a pipe in a key file's place cannot hold the process up.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                _check_mode(path, status)
                data = file.read(most + 1)
            if len(data) > most:
                raise IntegrityError(f"{path}: this is not a key file")
            if stamp_of(os.stat(path)) == stamp_of(status):
                return data, stamp_of(status)
    except FileNotFoundError as error:
        raise KeyUnavailable(f"{path}: this key is not held here") from error
    except OSError as error:
        raise KeyUnavailable(f"{path}: the key file cannot be read ({error.strerror})") from error
    raise KmsError(f"{path}: the key file keeps changing; try again")


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{path}: this is not a key file")
    # Secrets that are mounted for a process that is not root belong to root and a group of that process's: whoever
    # could change that is root. PostgreSQL takes its private key on the same terms.
    others = 0o037 if status.st_uid == 0 and os.geteuid() != 0 else 0o077
    if stat.S_IMODE(status.st_mode) & others:
        raise InvalidInput(f"{path}: others may read or change this key file; run chmod 600 on it")


def _temporary_name(folder: Path) -> Path:
    return folder / f".keyfile-{new_id()}"


def _write_temporary(folder: Path, document: Mapping[str, Any]) -> Path:
    temporary = _temporary_name(folder)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        _discard(temporary)
        raise
    return temporary


def _discard(path: Path) -> None:
    """Remove a temporary name, wiping the content first where no other name has it: that one may be live."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    try:
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            _wipe(path, status.st_size)
    finally:
        os.unlink(path)


def _wipe(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, bytes(size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KmsError(f"{path}: the key file cannot be written ({error.strerror})") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
