"""Appending to the audit log, and its checkpoints in the store.

An administrative act records its entry in the same catalog transaction that makes it effective, so
that neither stands without the other. A delivery records its entry in a transaction of its own before
the first byte. Whatever stops an entry from being written stops the act.
"""

import hmac
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from vault.audit import ChainRow, Entry, Kind, Tail, link, open_entry, read_tail, seal_entry, sign_tail, verify_chain
from vault.catalog import Catalog, LogRow, LogTailRow, Transaction
from vault.errors import AuditError, Conflict, IntegrityError, KmsError, VaultError
from vault.objects import ObjectStore
from vault.trust import Role, Root, Signer
from vault.workings.roots import Roots

__all__ = ["Journal"]

_LOG = logging.getLogger("dsvault.log")
_FOLDER = "checkpoints"
_PAGE = 1000
_CHECKPOINT_EVERY = timedelta(seconds=1)
_KEPT_CHECKPOINTS = 50


def _name(sequence: int) -> str:
    return f"{_FOLDER}/{sequence:020d}"


@dataclass(slots=True)
class _Pending:
    """The entries of one transaction: where the log ends with them, and by whose key that is to be signed."""

    tail: Tail | None
    root: Root
    rows: list[LogRow] = field(default_factory=list)


class Journal:
    """The log of one vault, for whoever holds the log key."""

    def __init__(
        self,
        roots: Roots,
        catalog: Catalog,
        store: ObjectStore,
        log_signer: Callable[[Root], Signer],
        clock: Callable[[], datetime],
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._store = store
        self._signer = log_signer
        self._clock = clock
        self._marked = datetime.min.replace(tzinfo=UTC)
        self._last: tuple[str, bytes, Tail] | None = None

    def record(self, kind: Kind, **fields: Any) -> int:
        """Append durably in a transaction of its own; returns the entry's number. Raises AuditError."""
        try:
            return self._catalog.submit(lambda transaction: self.record_in(transaction, kind, **fields))
        except AuditError:
            raise
        except VaultError as error:
            raise AuditError(f"the audit log could not be written ({error}), so nothing was done") from error

    def record_soon(self, kind: Kind, **fields: Any) -> None:
        """Append with the next change that this process commits, or some milliseconds from now by itself.

        For what an entry before has announced already, and nobody acts upon; the process's log tells where it failed.
        """

        def failed(error: BaseException) -> None:
            _LOG.warning("an entry '%s' could not be written: %s", kind.value, type(error).__name__)

        entry = Entry(kind, self._clock(), fields)

        def appended(transaction: Transaction) -> None:
            root = self._roots.seen_by(transaction)
            self._record(transaction, root, root, entry)

        self._catalog.submit_soon(appended, failed)

    def record_in(self, transaction: Transaction, kind: Kind, **fields: Any) -> int:
        """Append as part of a transaction that makes the act effective; returns the entry's number."""
        root = self._roots.seen_by(transaction)
        return self.record_change(transaction, root, root, kind, fields)

    def record_change(
        self, transaction: Transaction, before: Root, after: Root, kind: Kind, fields: Mapping[str, Any]
    ) -> int:
        """Append the entry of a changed root document: behind an end that ``before`` judges, by ``after``'s keys."""
        return self._record(transaction, before, after, Entry(kind, self._clock(), fields))

    def _record(self, transaction: Transaction, before: Root, after: Root, entry: Entry) -> int:
        pending: _Pending | None = transaction.memo.get("log")
        if pending is None:
            stored = transaction.log_tail()
            pending = _Pending(self._read(before, stored.statement) if stored else None, after)
            transaction.memo["log"] = pending
            transaction.finishing.append(lambda: self._append(transaction, pending))
        pending.root = after
        sealed = seal_entry(entry, after.vault, after.public_key(Role.AUDITOR))
        row = link(after.vault, pending.tail, sealed, entry.time)
        pending.rows.append(LogRow(row.sequence, row.time, row.previous, row.sealed, row.hash))
        pending.tail = Tail(row.sequence, row.hash, row.time)
        return row.sequence

    def _append(self, transaction: Transaction, pending: "_Pending") -> None:
        """Write a transaction's entries and sign where the log ends with them, once for all."""
        assert pending.tail is not None
        root = pending.root
        try:
            statement = sign_tail(root.vault, pending.tail, self._signer(root)).encode()
        except KmsError as error:
            raise AuditError(f"{error}; so nothing was done") from error
        transaction.append_log(pending.rows, LogTailRow(statement))
        self._last = (root.digest, statement, pending.tail)

    def _read(self, root: Root, statement: bytes) -> Tail:
        """The tail in a statement, verified unless it is the one that was signed here last."""
        last = self._last
        if last is not None and (last[0], last[1]) == (root.digest, statement):
            return last[2]
        return read_tail(root, statement)

    def settle(self) -> None:
        """Write what was to be written soon, and leave a checkpoint behind it."""
        self._catalog.settle()
        self.checkpoint()

    def checkpoint(self) -> None:
        """Copy the signed end of the log into the store, where a rolled-back catalog cannot follow."""
        with self._catalog.read() as transaction:
            stored = transaction.log_tail()
            root = self._roots.seen_by(transaction)
        if stored is None:
            return
        tail = read_tail(root, stored.statement)
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
        """Every checkpoint in the store that counts, verified; raises IntegrityError.

        Those under a log key that was replaced count only while there is none under a present one.
        """
        found = [self._checkpoint(info.name) for info in self._store.list(_FOLDER)]
        return [tail for tail, counts in found if counts] or [tail for tail, _ in found]

    def _checkpoint(self, name: str) -> tuple[Tail, bool]:
        """A checkpoint, and whether a present key signed it; raises IntegrityError if none ever did."""
        tail, counts = self._read_ever(self._store.get(name))
        if name != _name(tail.sequence):
            raise IntegrityError("a checkpoint in the store does not carry the number that it lies under")
        return tail, counts

    def _read_ever(self, statement: bytes) -> tuple[Tail, bool]:
        try:
            return read_tail(self._roots.current, statement), True
        except IntegrityError:
            for earlier in self._roots.earlier:
                try:
                    return read_tail(earlier, statement), False
                except IntegrityError:
                    continue
            raise

    def refuse_rollback(self) -> None:
        """Raise IntegrityError when the catalog's log ends before the newest checkpoint, or differs from it."""
        mark = self._newest_checkpoint()
        if mark is None:
            return
        with self._catalog.read() as transaction:
            row = transaction.log_row(mark.sequence)
        if row is None or not hmac.compare_digest(row.hash, mark.hash):
            raise IntegrityError("the catalog's log is not the one that a checkpoint was signed over")

    def _newest_checkpoint(self) -> Tail | None:
        replaced = None
        for name in sorted((info.name for info in self._store.list(_FOLDER)), reverse=True):
            tail, counts = self._checkpoint(name)
            if counts:
                return tail
            replaced = replaced or tail
        return replaced

    def prune_checkpoints(self) -> None:
        """Keep the newest checkpoints: each is over all that came before it. Only after the log was verified."""
        self.drop_replaced_checkpoints()
        for info in sorted(self._store.list(_FOLDER), key=lambda info: info.name)[:-_KEPT_CHECKPOINTS]:
            self._store.delete(info.name)

    def drop_replaced_checkpoints(self) -> None:
        """Remove checkpoints under log keys that were replaced, once there is one under a present key."""
        found = [(info.name, self._checkpoint(info.name)[1]) for info in self._store.list(_FOLDER)]
        if any(counts for _, counts in found):
            for name in (name for name, counts in found if not counts):
                self._store.delete(name)

    def verify(self) -> int:
        """Check the whole chain, its signed end and the checkpoints; returns the number of entries.

        Raises IntegrityError that names the first entry that was changed, removed, inserted or moved.
        """
        checkpoints = self.checkpoints()
        with self._catalog.read() as transaction:
            root = self._roots.seen_by(transaction)
            stored = transaction.log_tail()
            tail = read_tail(root, stored.statement) if stored else None
            return verify_chain(root, _pages(transaction), tail, checkpoints)

    def _before(self, transaction: Transaction, newest: int) -> int | None:
        """The number of the entry before so many of the newest; None where that is all of them."""
        stored = transaction.log_tail()
        last = self._read(self._roots.seen_by(transaction), stored.statement).sequence if stored is not None else 0
        return last - newest if last > newest else None

    def entries(self, auditor_secrets: Sequence[bytes], newest: int | None = None) -> Iterator[tuple[int, Entry]]:
        """Open every entry, or so many of the newest, with the auditors' keys, oldest first.

        Each is sealed to the auditor of its time.
        """
        with self._catalog.read() as transaction:
            for row in _pages(transaction, self._before(transaction, newest) if newest is not None else None):
                try:
                    yield row.sequence, _open_with_any(row.sealed, self._roots.vault, auditor_secrets)
                except IntegrityError as error:
                    raise IntegrityError(f"log entry {row.sequence}: {error}") from error


def _open_with_any(sealed: bytes, vault: str, secrets: Sequence[bytes]) -> Entry:
    for secret in secrets[:-1]:
        try:
            return open_entry(sealed, vault, secret)
        except IntegrityError:
            continue
    return open_entry(sealed, vault, secrets[-1])


def _pages(transaction: Transaction, after: int | None = None) -> Iterator[ChainRow]:
    while True:
        rows = transaction.log_rows(after, _PAGE)
        if not rows:
            return
        for row in rows:
            yield ChainRow(row.sequence, row.time, row.previous, row.sealed, row.hash)
        after = rows[-1].sequence
