"""Reading the backup of a catalog out of the store: the newest snapshot that is whole, and every change behind it.

What is believed: an object that the authority, the publisher or the responder signed, a change whose digest is that of
its statement and which goes on from the one before it, and a snapshot that a present key signed or that a change behind
it names. The newest object must be under a present key: it has the digest of all changes before it, whoever signed
them. Whatever else lies there somebody planted or damaged; it is passed over, and what is missing then is a gap.

Nothing here can tell that the newest changes were taken away: that is for the heads and checkpoints to say.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from vault.catalog import Change, change_digest, read_rows
from vault.catalog.changes import Noted
from vault.encoding import from_canonical, timestamp
from vault.errors import IntegrityError, NotFound
from vault.objects import ObjectStore
from vault.snapshots import open_piece
from vault.trust import BackupStatement, Label, Role, Root, Signed
from vault.workings.roots import Roots

__all__ = [
    "CHANGES",
    "PIECES",
    "SIGNERS",
    "SNAPSHOTS",
    "Backup",
    "Kept",
    "change_place",
    "number_of",
    "piece_place",
    "read_backup",
    "read_signed",
]

CHANGES: Final = "backup/changes"
SNAPSHOTS: Final = "backup/snapshots"
PIECES: Final = "backup/pieces"
#: Whose keys a backup may be signed with: any process that makes a change has one of them.
SIGNERS: Final = (Role.AUTHORITY, Role.PUBLISHER, Role.RESPONDER)
_AT_ONCE: Final = 16


def change_place(number: int) -> str:
    """What a sealed change is bound to."""
    return f"change {number}"


def piece_place(name: str) -> str:
    """What a sealed piece of a snapshot is bound to, by the name of its object."""
    return f"piece {name}"


def number_of(name: str) -> int:
    """The number in the name of a change or a snapshot; -1 where it is none."""
    number = name.rpartition("/")[2].partition("x")[0]
    return int(number) if len(number) == 20 and number.isdecimal() else -1


@dataclass(frozen=True, slots=True)
class Kept:
    """An object of the backup whose signature holds.

    ``sealed`` is what lies beside the statement, and ``counts`` whether a present key signed it.
    """

    signed: Signed
    statement: BackupStatement
    sealed: bytes
    counts: bool


def read_signed(roots: Roots, data: bytes) -> Kept:
    """An object of the backup; raises IntegrityError where no key that ever counted signed it."""
    statement, *rest = from_canonical(data)
    signed = Signed.decode(statement, Label.BACKUP)
    found = BackupStatement.parse(_verified(signed, roots.known, roots.earlier))
    if found.vault != roots.vault:
        raise IntegrityError("a backup is one of another vault")
    return Kept(signed, found, b"".join(rest), _holds(roots.known, signed))


def _verified(signed: Signed, newest: Root, earlier: Sequence[Root]) -> Signed:
    if not any(_holds(root, signed) for root in (newest, *earlier)):
        newest.verify(signed, *SIGNERS)
    return signed


def _holds(root: Root, signed: Signed) -> bool:
    try:
        root.verify(signed, *SIGNERS)
    except IntegrityError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read: the snapshot, the changes behind it in order, and where the chain ends.

    ``digests`` are those of the chain by number, from the snapshot's on; ``junk`` says what there is besides.
    """

    store: ObjectStore = field(repr=False)
    secrets: Sequence[bytes] = field(repr=False)
    snapshot: BackupStatement
    changes: tuple[Change, ...]
    digests: dict[int, bytes]
    created: str
    junk: tuple[str, ...]

    @property
    def number(self) -> int:
        """The number of the newest change."""
        return max(self.digests)

    @property
    def digest(self) -> bytes:
        """What stands for it and all before it."""
        return self.digests[self.number]

    def rows(self) -> Iterator[list[Noted]]:
        """Every row, some at a time, then every change of one; raises IntegrityError."""
        for piece in self.snapshot.pieces:
            sealed = _checked(self.store.get(piece.object), piece.sha256)
            place = piece_place(piece.object)
            yield read_rows(open_piece(self.snapshot.vault, self.secrets, place, sealed))
        for change in self.changes:
            yield list(change.rows)


def _checked(sealed: bytes, sha256: str) -> bytes:
    if not hmac.compare_digest(hashlib.sha256(sealed).hexdigest(), sha256):
        raise IntegrityError("an object of the backup is not the one that was signed: it was changed")
    return sealed


def read_backup(roots: Roots, store: ObjectStore, secrets: Sequence[bytes]) -> Backup:
    """The newest state that the store has of a vault's catalog.

    ``secrets`` are the auditors' private keys. Raises NotFound where there is no backup, IntegrityError for one that
    has a gap or was changed, and KeyUnavailable where it is sealed to a key that is not here.
    """
    reader = _Reader(roots, store, secrets)
    snapshots, changes = reader.listed(SNAPSHOTS), reader.listed(CHANGES)
    if not snapshots and not changes and not reader.junk:
        raise NotFound("the store holds no backup of a catalog")
    newest = max((*snapshots, *changes), default=-1)
    failed: list[str] = []
    for number in sorted(snapshots, reverse=True):
        for candidate in snapshots[number]:
            try:
                return reader.behind(candidate, changes, newest)
            except (IntegrityError, NotFound) as error:
                failed.append(str(error))
    raise IntegrityError((failed or reader.junk or ["the store holds no whole snapshot of the catalog"])[0])


class _Reader:
    """One reading of a store's backup."""

    def __init__(self, roots: Roots, store: ObjectStore, secrets: Sequence[bytes]) -> None:
        self._roots = roots
        self._store = store
        self._secrets = secrets
        self.junk: list[str] = []

    def listed(self, folder: str) -> dict[int, list[Kept]]:
        """What lies in a folder and is signed, by its number."""
        names = [info.name for info in self._store.list(folder)]
        kind = "change" if folder == CHANGES else "snapshot"
        found: dict[int, list[Kept]] = {}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for name, kept in zip(names, threads.map(self._read, names), strict=True):
                if isinstance(kept, str):
                    self.junk.append(kept)
                elif (kept.statement.kind, kept.statement.number) != (kind, number_of(name)):
                    self.junk.append(f"{name} in the store does not lie where it was put")
                else:
                    found.setdefault(kept.statement.number, []).append(kept)
        return found

    def _read(self, name: str) -> Kept | str:
        try:
            return read_signed(self._roots, self._store.get(name))
        except (IntegrityError, NotFound, ValueError) as error:
            return f"{name} in the store is no backup of this vault: {error}"

    def behind(self, snapshot: Kept, changes: dict[int, list[Kept]], newest: int) -> Backup:
        """The state from a snapshot on; raises IntegrityError where something of it is not whole."""
        number = snapshot.statement.number
        digests = {number: bytes.fromhex(snapshot.statement.digest)}
        last, read = snapshot, []
        while number < newest:
            number += 1
            if number not in changes:
                said = f": {self.junk[0]}" if self.junk else ""
                raise IntegrityError(f"the backup lacks change {number} of the catalog, though it has {newest}{said}")
            last, change = self._change(changes[number], number, digests[number - 1])
            digests[number] = bytes.fromhex(last.statement.digest)
            read.append(change)
        if not last.counts:
            raise IntegrityError("the newest object of the backup is signed with a key that was replaced")
        if not snapshot.counts and (snapshot.statement.number, snapshot.signed.digest) not in {
            change.snapshot for change in read
        }:
            raise IntegrityError("the snapshot of the backup is signed with a key that was replaced")
        for piece in snapshot.statement.pieces:
            if self._store.size(piece.object) != piece.size:
                raise IntegrityError(f"{piece.object} of the backup is missing from the store, or was changed")
        created = timestamp(max(kept.statement.created for kept in (snapshot, last)))
        return Backup(self._store, self._secrets, snapshot.statement, tuple(read), digests, created, tuple(self.junk))

    def _change(self, candidates: Sequence[Kept], number: int, previous: bytes) -> tuple[Kept, Change]:
        """The change of a number that goes on from the one before it."""
        failed = ""
        for kept in candidates:
            if len(kept.statement.pieces) != 1:
                continue
            sealed = _checked(kept.sealed, kept.statement.pieces[0].sha256)
            document = open_piece(self._roots.vault, self._secrets, change_place(number), sealed)
            change = Change.decode(document)
            if change_digest(document).hex() != kept.statement.digest or change.number != number:
                failed = f"change {number} of the backup is not the one that was signed"
            elif not hmac.compare_digest(change.previous, previous):
                failed = f"change {number} of the backup does not go on from the one before it"
            else:
                return kept, change
        raise IntegrityError(failed or f"change {number} of the backup is not whole")
