"""Appending to the audit log, and its checkpoints in the store.

An administrative act records its entry in the same catalog transaction that makes it effective, so
that neither stands without the other. A delivery records its entry in a transaction of its own before
the first byte. Whatever stops an entry from being written stops the act.
"""

import hmac
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from vault.audit import ChainRow, Entry, Kind, Tail, link, open_entry, read_tail, seal_entry, verify_chain
from vault.catalog import Catalog, LogRow, LogTailRow, Transaction
from vault.errors import AuditError, Conflict, IntegrityError, VaultError
from vault.objects import ObjectStore
from vault.trust import Role, Root, Signer

__all__ = ["Journal"]

_FOLDER = "checkpoints"
_PAGE = 1000
_CHECKPOINT_EVERY = timedelta(seconds=1)
_KEPT_CHECKPOINTS = 50


def _name(sequence: int) -> str:
    return f"{_FOLDER}/{sequence:020d}"


class Journal:
    """The log of one vault, for whoever holds the log key."""

    def __init__(
        self,
        root: Root,
        catalog: Catalog,
        store: ObjectStore,
        log_signer: Signer,
        clock: Callable[[], datetime],
    ) -> None:
        self._root = root
        self._catalog = catalog
        self._store = store
        self._signer = log_signer
        self._clock = clock
        self._auditor = root.public_key(Role.AUDITOR)
        self._marked = datetime.min.replace(tzinfo=UTC)

    def record(self, kind: Kind, **fields: Any) -> int:
        """Append durably in a transaction of its own; returns the entry's number. Raises AuditError."""
        try:
            with self._catalog.write() as transaction:
                return self.record_in(transaction, kind, **fields)
        except AuditError:
            raise
        except VaultError as error:
            raise AuditError(f"the audit log could not be written ({error}), so nothing was done") from error

    def record_in(self, transaction: Transaction, kind: Kind, **fields: Any) -> int:
        """Append as part of a transaction that makes the act effective; returns the entry's number."""
        now = self._clock()
        stored = transaction.log_tail()
        tail = read_tail(self._root, stored.statement) if stored else None
        sealed = seal_entry(Entry(kind, now, fields), self._root.vault, self._auditor)
        row, statement = link(self._root.vault, tail, sealed, now, self._signer)
        transaction.append_log(
            LogRow(row.sequence, row.time, row.previous, row.sealed, row.hash),
            LogTailRow(statement.encode()),
        )
        return row.sequence

    def checkpoint(self) -> None:
        """Copy the signed end of the log into the store, where a rolled-back catalog cannot follow."""
        with self._catalog.read() as transaction:
            stored = transaction.log_tail()
        if stored is None:
            return
        tail = read_tail(self._root, stored.statement)
        self._marked = self._clock()
        try:
            self._store.put(_name(tail.sequence), stored.statement)
        except Conflict:
            return  # another process has signed this end already

    def checkpoint_if_due(self) -> None:
        """A checkpoint at most once a second: how much of the log's end a rolled-back catalog could lose."""
        if self._clock() - self._marked >= _CHECKPOINT_EVERY:
            self.checkpoint()

    def checkpoints(self) -> list[Tail]:
        """Every checkpoint in the store, verified; raises IntegrityError."""
        return [self._checkpoint(info.name) for info in self._store.list(_FOLDER)]

    def _checkpoint(self, name: str) -> Tail:
        tail = read_tail(self._root, self._store.get(name))
        if name != _name(tail.sequence):
            raise IntegrityError("a checkpoint in the store does not carry the number that it lies under")
        return tail

    def refuse_rollback(self) -> None:
        """Raise IntegrityError when the catalog's log ends before the newest checkpoint, or differs from it."""
        newest = max((info.name for info in self._store.list(_FOLDER)), default=None)
        if newest is None:
            return
        mark = self._checkpoint(newest)
        with self._catalog.read() as transaction:
            row = transaction.log_row(mark.sequence)
        if row is None or not hmac.compare_digest(row.hash, mark.hash):
            raise IntegrityError("the catalog's log is not the one that a checkpoint was signed over")

    def prune_checkpoints(self) -> None:
        """Keep the newest checkpoints: each is over all that came before it. Only after the log was verified."""
        for info in sorted(self._store.list(_FOLDER), key=lambda info: info.name)[:-_KEPT_CHECKPOINTS]:
            self._store.delete(info.name)

    def verify(self) -> int:
        """Check the whole chain, its signed end and the checkpoints; returns the number of entries.

        Raises IntegrityError that names the first entry that was changed, removed, inserted or moved.
        """
        checkpoints = self.checkpoints()
        with self._catalog.read() as transaction:
            stored = transaction.log_tail()
            tail = read_tail(self._root, stored.statement) if stored else None
            return verify_chain(self._root, _pages(transaction), tail, checkpoints)

    def entries(self, auditor_secret: bytes) -> Iterator[tuple[int, Entry]]:
        """Open every entry with the auditor's key, oldest first."""
        with self._catalog.read() as transaction:
            for row in _pages(transaction):
                try:
                    yield row.sequence, open_entry(row.sealed, self._root.vault, auditor_secret)
                except IntegrityError as error:
                    raise IntegrityError(f"log entry {row.sequence}: {error}") from error


def _pages(transaction: Transaction) -> Iterator[ChainRow]:
    after = None
    while True:
        rows = transaction.log_rows(after, _PAGE)
        if not rows:
            return
        for row in rows:
            yield ChainRow(row.sequence, row.time, row.previous, row.sealed, row.hash)
        after = rows[-1].sequence
