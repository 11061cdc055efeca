"""The owner's keys in one file under a passphrase of its own: what a restore needs besides the store and the KMS.

It holds the owner's configuration, every private key file of the owner's and the log key's, and the key files of a
local keystore, each as it is: one that is under a passphrase stays under it. The file is of the family of key files,
sealed as those are. It is written whole, mode 0600, and never over another one; nothing of it is ever on a disk
unsealed.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vault import keyfile
from vault.encoding import from_json, json_bytes, timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable, KmsError
from vault.kms import keystore_folders
from vault.workings.files import put_file
from vault.workings.parts import OwnerParts

__all__ = [
    "CONFIGURATION",
    "KEYSTORE",
    "BackedUp",
    "Exported",
    "Keys",
    "back_up",
    "export_keys",
    "note_exported",
    "read_keys",
    "unexported",
]

_KIND: Final = "owner keys"
_FORMAT: Final = "1.0"
#: Some 100,000 key files of a local keystore.
_MOST: Final = 64 << 20
CONFIGURATION: Final = "owner/config.toml"
#: Where a local keystore's files are in the export, wherever it lies.
KEYSTORE: Final = "keystore"
_RECORD: Final = "exported.json"


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What the store has of the catalog and the log: everything up to an administrative change and a log entry.

    ``snapshot`` is the change that the newest snapshot is of; objects and bytes are those of all that is kept.
    ``unexported`` are the key files that no export of the owner's keys has, None where there was none yet.
    """

    change: int
    snapshot: int
    entries: int
    objects: int
    bytes: int
    log_objects: int
    log_bytes: int
    unexported: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: how many key files, and the fingerprint that a restore pins."""

    path: str
    keys: int
    root_fingerprint: str


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The owner's keys as they were exported: the text of each file by its name."""

    vault: str
    root_fingerprint: str
    created: str
    files: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Keys(vault={self.vault}, files={len(self.files)})"


def back_up(parts: OwnerParts, folder: Path, kms: str) -> BackedUp:
    """Bring the backup in the store up to date, with a snapshot of everything, and say what there is.

    Raises Unavailable, KmsError and KeyUnavailable where it cannot be, and IntegrityError where the store has another.
    """
    parts.journal.settle()
    parts.backups.complete(snapshot=True)
    parts.journal.settle()
    end = parts.journal.end()
    with parts.catalog.read() as transaction:
        state = transaction.backup()
    kept, log = list(parts.store.list("backup")), list(parts.store.list("log"))
    missing = unexported(folder, kms)
    return BackedUp(
        state.number,
        state.snapshot if state.snapshot is not None else 0,
        end[1].size if end is not None else 0,
        len(kept),
        sum(info.size for info in kept),
        len(log),
        sum(info.size for info in log),
        tuple(missing) if missing is not None else None,
    )


def export_keys(
    folder: Path, vault: str, fingerprint: str, kms: str, target: Path, passphrase: str, now: datetime
) -> Exported:
    """Write the keys of the vault in a directory to a new file; needs neither its catalog nor its store.

    Raises InvalidInput where the file exists or cannot be written, and for an empty passphrase.
    """
    if not passphrase:
        raise InvalidInput("an empty passphrase protects nothing; the file with the keys needs one")
    if target.exists():
        raise InvalidInput(f"{target}: the file exists already; exported keys are never overwritten")
    files = dict(_files(folder, kms))
    keys = sum(1 for name in files if name != CONFIGURATION)
    document = {
        "format": _FORMAT,
        "vault": vault,
        "root_fingerprint": fingerprint,
        "created": timestamp(now),
        "files": files,
    }
    try:
        keyfile.write_apart(target, _KIND, vault, zlib.compress(json_bytes(document)), passphrase)
    except (Conflict, KmsError) as error:
        raise InvalidInput(f"{target}: the keys cannot be written there ({error})") from error
    note_exported(folder, Keys(vault, fingerprint, timestamp(now), files))
    return Exported(str(target), keys, fingerprint)


def note_exported(folder: Path, keys: Keys) -> None:
    """Note in a vault's directory which key files an export has."""
    record = {"created": keys.created, "files": _digests(keys.files)}
    put_file(folder / "owner" / _RECORD, json_bytes(record))


def _files(folder: Path, kms: str) -> Iterator[tuple[str, str]]:
    """The files that are exported, by the names that they have in the export."""
    yield CONFIGURATION, (folder / CONFIGURATION).read_text(encoding="utf-8")
    owned = [*sorted((folder / "owner" / "keys").rglob("*.json")), *sorted((folder / "broker").glob("log*.json"))]
    for path in owned:
        yield path.relative_to(folder).as_posix(), _text(path)
    keystore = keystore_folders(kms, owner=folder / "owner", broker=folder / "broker")
    for name, place in zip(("owner", "broker"), keystore or (), strict=False):
        for path in sorted(place.glob("*.json")):
            yield f"{KEYSTORE}/{name}/{path.name}", _text(path)


def _text(path: Path) -> str:
    """A key file as it is; read while nobody replaces it."""
    return json.dumps(keyfile.load(path).document, indent=1) + "\n"


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def unexported(folder: Path, kms: str) -> list[str] | None:
    """The files that are newer than the last export, by their names in it; None where there was none."""
    try:
        record = json.loads((folder / "owner" / _RECORD).read_bytes())
        exported: Mapping[str, str] = record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    present = _digests(dict(_files(folder, kms)))
    return sorted(name for name, digest in present.items() if name != CONFIGURATION and exported.get(name) != digest)


def read_keys(path: Path, passphrase: str | None) -> Keys:
    """Open a file that `export_keys` wrote; raises InvalidInput for a wrong passphrase, or what is no such file."""
    if not path.exists():
        raise InvalidInput(f"--keys: {path}: there is no such file")
    try:
        file = keyfile.load(path, _KIND, most=_MOST)
    except (KeyUnavailable, IntegrityError) as error:
        raise InvalidInput(f"--keys: {error}") from error
    if file.document.get("protection") != "scrypt":
        raise InvalidInput(f"--keys: {path}: this is not a file that 'dsvault backup --keys' writes")
    if passphrase is None:
        raise InvalidInput(f"--keys: {path} is under a passphrase; set DSVAULT_BACKUP_PASSPHRASE")
    try:
        packed = file.open(passphrase)
    except (InvalidInput, IntegrityError) as error:
        raise InvalidInput(f"--keys: {error}") from error
    return _read(path, file.header.id, from_json(zlib.decompress(packed), f"{path}"))


def _read(path: Path, vault: str, document: Any) -> Keys:
    try:
        if document["format"].split(".")[0] != _FORMAT.split(".", maxsplit=1)[0]:
            raise InvalidInput(f"--keys: {path} has a format that this release does not know")
        keys = Keys(
            str(document["vault"]), str(document["root_fingerprint"]), str(document["created"]), document["files"]
        )
        names = [PurePosixPath(name) for name in keys.files]
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"--keys: {path} lacks a field") from error
    # Whoever has the passphrase wrote it; all the same, nothing is ever written outside the vault's directory.
    if keys.vault != vault or any(name.is_absolute() or ".." in name.parts for name in names):
        raise IntegrityError(f"--keys: {path} is not as 'dsvault backup --keys' writes it")
    return keys
