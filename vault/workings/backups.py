"""The backup of the catalog in the store: every administrative change, and now and then a snapshot of everything.

A transaction that changes an administrative table leaves the change beside it in the catalog; behind its commit it is
put into the store under its number, sealed to the auditor and signed with whichever of the owner's keys the process
has, and is dropped from the catalog then. Whoever comes next puts what a killed process left. A snapshot takes the
place of all changes before it when those after the last one have become larger than it; `prune` removes what is not
needed.

Nobody who holds the store alone can read any of it, nor make another: each is signed, and each change has the digest of
the one before it. What somebody planted under a number is passed over, and the change gets another name.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final, final

from vault.catalog import BackupRow, Catalog, ChangeRow, change_digest
from vault.encoding import canonical, new_id
from vault.errors import Conflict, IntegrityError, NotFound, VaultError
from vault.objects import ObjectStore
from vault.snapshots import seal_piece
from vault.trust import BackupPiece, BackupStatement, Label, Role, Root, Signed, Signer
from vault.workings.chain import CHANGES, PIECES, SNAPSHOTS, change_place, number_of, piece_place, read_signed
from vault.workings.prompt import within
from vault.workings.roots import Roots

__all__ = ["PROMPT_SECONDS", "Backups"]

_LOG = logging.getLogger("dsvault.backup")
#: For how long an act that takes something away waits for the store behind its commit.
PROMPT_SECONDS: Final = 2.0
_PIECE_BYTES: Final = 8 << 20
#: A snapshot is not worth its while for less than this.
_LEAST_BYTES: Final = 256 << 10
_AT_ONCE: Final = 8
#: How old a piece is that no snapshot names before it is removed: one may be under way.
_UNFINISHED: Final = timedelta(days=1)
_BEHIND: Final = "the backup in the store is behind ({}); the next administrative command makes up for it"


@final
class Backups:
    """The backup of one vault's catalog. Safe for use from several threads."""

    def __init__(
        self,
        roots: Roots,
        catalog: Catalog,
        store: ObjectStore,
        signer: Callable[[Root], Signer],
        clock: Callable[[], datetime],
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._store = store
        self._signer = signer
        self._clock = clock
        self._saving = threading.Lock()
        #: The changes that waited when this process looked last.
        self._seen: frozenset[int] = frozenset()
        self._prompt = threading.local()

    # Behind a commit

    def after_commit(self, number: int | None = None) -> None:
        """Save the change of a number, which was just committed, or all that wait. It is done, whatever becomes of
        this: what fails is told, and made up for.

        Raises IntegrityError alone, where the store has another change under the number.
        """
        try:
            if getattr(self._prompt, "is_on", False):
                within(PROMPT_SECONDS, lambda: self.save(number, snapshots=False))
            else:
                self.save(number)
        except IntegrityError:
            raise
        except VaultError as error:
            _LOG.warning("%s", _BEHIND.format(error))

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Let no commit of this thread within wait for the store for more than 2 seconds."""
        self._prompt.is_on = True
        try:
            yield
        finally:
            self._prompt.is_on = False

    def save(self, number: int | None = None, *, snapshots: bool = True) -> None:
        """Put the changes into the store that it lacks, and a snapshot if it is time for one.

        With a ``number`` only that change, and those that waited already when this process looked last: others that
        wait are about to be put by who made them.

        Raises Unavailable, KmsError and KeyUnavailable where they cannot be put, and IntegrityError where another
        change stands under a number: the catalog was rolled back, or has a double.
        """
        # Whoever comes while another thread of this process saves finds it done, or waits for it no longer than that.
        with self._saving:
            self._save_changes(number)
            if snapshots and self._is_due():
                self._take_snapshot()

    def complete(self, *, snapshot: bool) -> None:
        """The same, with a snapshot in any case if that is asked for."""
        with self._saving:
            self._save_changes()
            if snapshot or self._is_due():
                self._take_snapshot()

    def save_left(self) -> None:
        """Save what a killed process left, if there is anything; told where it fails."""
        with self._catalog.read() as transaction:
            state, waiting = transaction.backup(), transaction.changes()
        if waiting or state.snapshot is None or state.snapshot_root != self._roots.known.version:
            self.after_commit()

    # Changes

    def _save_changes(self, number: int | None = None) -> None:
        with self._catalog.read() as transaction:
            root, state, waiting = self._roots.seen_by(transaction), transaction.backup(), transaction.changes()
        seen, self._seen = self._seen, frozenset(change.number for change in waiting)
        if number is not None:
            waiting = [change for change in waiting if change.number == number or change.number in seen]
        if waiting:
            self._put_changes(root, waiting)
        if root.version != state.snapshot_root:
            # Whoever reads the backup learns from the store by which keys it is judged. Only now: a root document that
            # is known there and is in no backup would hold a restore to a change that nobody has.
            self._roots.announce()

    def _put_changes(self, root: Root, waiting: Sequence[ChangeRow]) -> None:
        signer = self._signer(root)

        def put(change: ChangeRow) -> int:
            return self._put_change(root, signer, change)

        if len(waiting) == 1:
            sizes = [put(waiting[0])]
        else:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                sizes = list(threads.map(put, waiting))
        self._store.settle(CHANGES)
        with self._catalog.write() as transaction:
            transaction.drop_changes([change.number for change in waiting], sum(sizes))

    def _put_change(self, root: Root, signer: Signer, change: ChangeRow) -> int:
        """Put a change; returns its size."""
        place = change_place(change.number)
        sealed = seal_piece(root.vault, root.public_key(Role.AUDITOR), place, change.document)
        digest = change_digest(change.document).hex()
        signed = self._signed(signer, root, "change", change.number, digest, [_piece("", sealed)])
        data = canonical(signed.encode(), sealed)
        self._put(f"{CHANGES}/{change.number:020d}", data, "change", change.number, digest)
        return len(data)

    def _signed(
        self, signer: Signer, root: Root, kind: str, number: int, digest: str, pieces: Sequence[BackupPiece]
    ) -> Signed:
        statement = BackupStatement(root.vault, kind, number, digest, tuple(pieces), self._clock())
        return signer.sign(Label.BACKUP, statement.payload())

    def _put(self, name: str, data: bytes, kind: str, number: int, digest: str) -> Signed | None:
        """Put an object; what another process put there before it is returned, if it says the same.

        Raises IntegrityError where one of our keys signed something else there.
        """
        try:
            self._store.put(name, data)
        except Conflict:
            there = self._there(name)
            if there is None:
                self._store.put(f"{name}x{new_id()}", data)
                return None
            statement = BackupStatement.parse(there)
            if (statement.kind, statement.number, statement.digest) != (kind, number, digest):
                raise IntegrityError(
                    f"the store has another change {number} than this catalog: the catalog was rolled back, or there "
                    "are two of this vault"
                ) from None
            return there
        return None

    def _there(self, name: str) -> Signed | None:
        """The statement of an object in the way; None where no key of ours signed it."""
        try:
            return read_signed(self._roots, self._store.get(name)).signed
        except IntegrityError as error:
            _LOG.warning("%s in the store is no backup of this vault: %s", name, error)
            return None

    # Snapshots

    def _is_due(self) -> bool:
        with self._catalog.read() as transaction:
            state, root = transaction.backup(), self._roots.seen_by(transaction)
        # The keys that sign and the auditor's may have changed with the root document.
        if state.snapshot is None or state.snapshot_root != root.version:
            return True
        return state.later_bytes > max(state.snapshot_bytes, _LEAST_BYTES)

    def _take_snapshot(self) -> None:
        """Put all that is backed up into the store, as one view of the catalog has it."""
        with self._catalog.read() as transaction:
            root, state = self._roots.seen_by(transaction), transaction.backup()
            signer = self._signer(root)
            pieces = [self._put_piece(root, piece) for piece in transaction.snapshot(_PIECE_BYTES)]
        self._store.settle(PIECES)
        signed = self._signed(signer, root, "snapshot", state.number, state.digest.hex(), pieces)
        self._note_snapshot(root, state, signed)

    def _put_piece(self, root: Root, plaintext: bytes) -> BackupPiece:
        name = f"{PIECES}/{new_id()}"
        sealed = seal_piece(root.vault, root.public_key(Role.AUDITOR), piece_place(name), plaintext)
        self._store.put(name, sealed)
        return _piece(name, sealed)

    def _note_snapshot(self, root: Root, state: BackupRow, signed: Signed) -> None:
        # Under the number of its change and of the root document: after a rotation nobody else's is in the way.
        name = f"{SNAPSHOTS}/{state.number:020d}"
        kept = self._put(name, canonical(signed.encode()), "snapshot", state.number, state.digest.hex())
        if kept is not None:
            # An earlier one of the same number. It may be under keys that were replaced: this one stands beside it.
            self._store.put(f"{name}x{new_id()}", canonical(signed.encode()))
        self._store.settle(SNAPSHOTS)
        size = sum(piece.size for piece in BackupStatement.parse(signed).pieces)
        with self._catalog.write() as transaction:
            transaction.set_snapshot(state.number, signed.digest, root.version, size)

    def prune(self) -> None:
        """Remove what the newest snapshot and the one before it do not need. Only after the log was verified.

        The one before stays for the case that something of the newest cannot be read any more.
        """
        with self._catalog.read() as transaction:
            newest = transaction.backup().snapshot
        if newest is None:
            return
        listed = [info.name for info in self._store.list(SNAPSHOTS)]
        numbers = sorted({number_of(name) for name in listed if number_of(name) <= newest})
        if newest not in numbers:
            return  # somebody removed it: the next snapshot first
        oldest = numbers[-2] if len(numbers) > 1 else numbers[-1]
        kept = [name for name in listed if number_of(name) >= oldest]
        gone = [name for name in listed if name not in kept]
        named, unneeded = self._pieces_of(kept), self._pieces_of(gone)
        changes = [info.name for info in self._store.list(CHANGES) if number_of(info.name) <= oldest]
        # In this order, so that no snapshot is ever left without its pieces.
        self._store.delete_all([*gone, *changes])
        before = self._clock() - _UNFINISHED
        pieces = [info for info in self._store.list(PIECES) if info.name not in named]
        self._store.delete_all(
            [
                info.name
                for info in pieces
                if info.name in unneeded or (info.written is not None and info.written < before)
            ]
        )

    def _pieces_of(self, snapshots: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        for name in snapshots:
            try:
                statement = read_signed(self._roots, self._store.get(name)).statement
            except (IntegrityError, NotFound):
                continue  # planted, or gone
            found |= {piece.object for piece in statement.pieces}
        return frozenset(found)


def _piece(name: str, sealed: bytes) -> BackupPiece:
    return BackupPiece(name, hashlib.sha256(sealed).hexdigest(), len(sealed))
