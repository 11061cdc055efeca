"""Appending to the audit log, and its checkpoints in the store.

An administrative act records its entry in the same catalog transaction that makes it effective, so
that neither stands without the other. A delivery records its entry in a transaction of its own before
the first byte. Whatever stops an entry from being written stops the act. Where a witness is required, nothing is
delivered before a checkpoint that is about the delivery's entry lies there.
"""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vault.audit import (
    Checkpoint,
    Edge,
    Entry,
    Kind,
    Leaf,
    Opener,
    Pinned,
    Sealer,
    Tail,
    Tree,
    append,
    read_checkpoint,
    sign_checkpoint,
    verify_log,
)
from vault.catalog import Catalog, LogRow, LogTailRow, Transaction
from vault.encoding import from_timestamp, timestamp
from vault.errors import AuditError, IntegrityError, InvalidInput, KmsError, Unavailable, VaultError
from vault.objects import ObjectStore
from vault.trust import Role, Root, Signer
from vault.workings.checkpoints import Checkpoints, pinned_by
from vault.workings.repeats import Alike, Repeated, Repeats
from vault.workings.roots import Roots
from vault.workings.segments import Segments

__all__ = ["Journal", "Witness"]

_LOG = logging.getLogger("dsvault.log")
_PAGE = 1000
_HASH = 32
_CHECKPOINT_EVERY = timedelta(seconds=1)
#: How many counted refusals are written in one change: others may have to wait for its commit.
_COUNTED_OF_CHANGE = 256


@dataclass(frozen=True, slots=True)
class Witness:
    """Where checkpoints go beside the store, and whether nothing may be delivered without it."""

    store: ObjectStore
    required: bool


@dataclass(slots=True)
class _Pending:
    """The entries of one transaction, sealed, and the end of the log that they come behind."""

    tail: Tail
    root: Root
    entries: list[tuple[datetime, bytes]] = field(default_factory=list)


class Journal:
    """The log of one vault, for whoever holds the log key."""

    def __init__(
        self,
        roots: Roots,
        catalog: Catalog,
        store: ObjectStore,
        log_signer: Callable[[Root], Signer],
        clock: Callable[[], datetime],
        witness: Witness | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._signer = log_signer
        self._clock = clock
        self._kept = Checkpoints(roots, store, "checkpoints", "the store")
        self._segments = Segments(roots, catalog, store, log_signer)
        self._witness = self.witness_at(witness.store) if witness is not None else None
        self._required = witness is not None and witness.required
        self._marked = datetime.min.replace(tzinfo=UTC)
        self._last: tuple[str, LogTailRow, Tail] | None = None
        self._sealer: tuple[bytes, Sealer] | None = None
        self._highest = 0
        self._witnessed = 0
        self._witnessing = threading.Lock()
        self._repeats = Repeats(monotonic)

    # Appending

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

    def refuse(self, vendor: str, credential: str, address: str, reason: str) -> None:
        """Append that a credential was refused: durably, or for one like another of a moment ago, as a count.

        Whoever knows a credential's id and no secret may have it refused as often as he likes. Raises AuditError.
        """
        self.write_counted()
        alike = Alike(vendor, credential, address, reason)
        if not self._repeats.note(alike, self._clock()):
            return
        try:
            self.record(Kind.REFUSED, vendor_id=vendor, credential=credential, address=address, reason=reason)
        except BaseException:
            self._repeats.untold(alike)
            raise

    def write_counted(self, *, all_: bool = False) -> None:
        """Append soon what was refused alike, once the time is over in which it is counted, or all of it now."""
        counted = self._repeats.due(all_=all_)
        for start in range(0, len(counted), _COUNTED_OF_CHANGE):
            self._write_counted(counted[start : start + _COUNTED_OF_CHANGE])

    def _write_counted(self, counted: Sequence[Repeated]) -> None:
        def write(transaction: Transaction) -> None:
            for each in counted:
                alike = each.alike
                self.record_in(
                    transaction,
                    Kind.REFUSED,
                    vendor_id=alike.vendor,
                    credential=alike.credential,
                    address=alike.address,
                    reason=alike.reason,
                    times=each.times,
                    since=timestamp(each.since),
                )

        def failed(error: BaseException) -> None:
            self._repeats.put_back(counted)
            _LOG.warning("refused requests could not be written down yet: %s", type(error).__name__)

        self._catalog.submit_aside(write, failed)

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
            pending = _Pending(self._tail_to_move(before, transaction), after)
            transaction.memo["log"] = pending
            transaction.finishing.append(lambda: self._append(transaction, pending))
        pending.root = after
        sealed = self._sealing(after).seal(entry)
        pending.entries.append((entry.time, sealed))
        return pending.tail.edge.size + len(pending.entries)

    def _sealing(self, root: Root) -> Sealer:
        """The sealer to the auditor of a root document."""
        public = root.public_key(Role.AUDITOR)
        if self._sealer is None or self._sealer[0] != public:
            self._sealer = (public, Sealer(root.vault, public))
        return self._sealer[1]

    def _append(self, transaction: Transaction, pending: "_Pending") -> None:
        """Write a transaction's entries and sign where the log ends with them, once for all."""
        root = pending.root
        leaves, tail = append(pending.tail, pending.entries, transaction.changed)
        try:
            note = sign_checkpoint(root.vault, tail.checkpoint, self._signer(root))
        except KmsError as error:
            raise AuditError(f"{error}; so nothing was done") from error
        row = LogTailRow(note, b"".join(tail.edge.hashes))
        rows = [LogRow(each.sequence, each.time, each.sealed, each.hash) for each in leaves]
        transaction.append_log(rows, row)
        self._last = (root.digest, row, tail)

    def _tail(self, root: Root, row: LogTailRow | None) -> Tail:
        """The end of the log as a transaction sees it, verified unless it is the one that was signed here last."""
        if row is None:
            tail = Tail()
        elif (last := self._last) is not None and (last[0], last[1]) == (root.digest, row):
            tail = last[2]
        else:
            checkpoint = read_checkpoint(root, row.note)
            if type(row.edge) is not bytes:
                raise IntegrityError("the edge of the log was changed")
            hashes = tuple(row.edge[at : at + _HASH] for at in range(0, len(row.edge), _HASH))
            tail = Tail(checkpoint, Edge(checkpoint.size, hashes))
        self._highest = max(self._highest, tail.checkpoint.size)
        return tail

    def _tail_to_move(self, root: Root, transaction: Transaction) -> Tail:
        """The end of the log for whoever is about to move it: nobody else can, so it is the newest that there is."""
        highest = self._highest
        tail = self._tail(root, transaction.log_tail(to_move=True))
        if tail.checkpoint.size < highest:
            raise IntegrityError("the catalog's log is behind what this process saw of it: it was rolled back")
        return tail

    def settle(self) -> None:
        """Write what was to be written soon or was counted, and leave a checkpoint behind it."""
        self.write_counted(all_=True)
        self._catalog.settle()
        self.checkpoint()

    # Checkpoints

    def end(self) -> tuple[bytes, Checkpoint] | None:
        """The signed note of where the log ends, and what it says; None before the first entry."""
        with self._catalog.read() as transaction:
            row = transaction.log_tail()
            root = self._roots.seen_by(transaction)
        return (row.note, self._tail(root, row).checkpoint) if row is not None else None

    def checkpoint(self) -> None:
        """Copy the signed end of the log to the store and the witness, where a rolled-back catalog cannot follow.

        The entries that it is about go before it: a checkpoint that is known anywhere is never ahead of what is left
        when the catalog is lost. A witness that cannot be reached holds up no act that has been done; the process's log
        tells.
        """
        end = self.end()
        if end is None:
            return
        self._marked = self._clock()
        self._segments.put(*end)
        self._kept.put(*end)
        if self._witness is not None:
            try:
                self._tell_witness(self._witness, end)
            except IntegrityError:
                raise
            except VaultError as error:
                _LOG.warning("the log's witness could not be told: %s", type(error).__name__)

    def _tell_witness(self, witness: Checkpoints, end: tuple[bytes, Checkpoint]) -> None:
        if end[1].size > self._witnessed:
            witness.put(*end)
            self._witnessed = max(self._witnessed, end[1].size)

    def hold(self, sequence: int) -> None:
        """Wait until the witness knows of an entry, where one is required; raises AuditError where it cannot be told.

        Whoever comes while another is telling it waits, and mostly finds that its own entry was told of too.
        """
        if self._witness is None or not self._required:
            return
        with self._witnessing:
            if self._witnessed >= sequence:
                return
            try:
                end = self.end()
                assert end is not None
                self._segments.put(*end)
                self._tell_witness(self._witness, end)
            except VaultError as error:
                raise AuditError(f"the log's witness could not be told ({error}), so nothing was served") from error

    def hold_newest(self) -> None:
        """`hold` of whatever entry is the newest: for an act that was recorded by another request."""
        if self._witness is not None and self._required and (end := self.end()) is not None:
            self.hold(end[1].size)

    def checkpoint_if_due(self) -> None:
        """A checkpoint at most once a second: how much of the log's end a rolled-back catalog could lose."""
        if self._clock() - self._marked >= _CHECKPOINT_EVERY:
            self.checkpoint()

    def checkpoint_before(self, time: str) -> bytes | None:
        """The note of the newest checkpoint in the store whose last entry is from before a time."""
        found = self._kept.before(time)
        return found.note if found is not None else None

    def refuse_rollback(self) -> None:
        """Raise IntegrityError when the catalog's log ends before the newest checkpoint, or is another of its size.

        Its end is signed, and who signs goes on from the end that was there: a log that ends behind the checkpoint and
        is another before it takes the log key to make, and `verify` to find.
        """
        mark = self._kept.newest()
        if mark is None or not mark.size:
            return
        end = self.end()
        size, root = (end[1].size, end[1].root) if end is not None else (0, b"")
        if size < mark.size or (size == mark.size and not hmac.compare_digest(root, mark.root)):
            raise IntegrityError("the catalog's log is not the one that a checkpoint was signed over")

    def prune_checkpoints(self) -> None:
        """Keep the newest checkpoints of the store: each is over all before it. Only after the log was verified."""
        self._kept.prune()

    def merge_segments(self) -> None:
        """Make few large segments of the log's many small ones in the store. Only after the log was verified."""
        self._segments.merge(self.end)

    def drop_replaced_checkpoints(self) -> None:
        """Remove checkpoints under log keys that were replaced, once there is one under a present key."""
        self._kept.drop_replaced()

    def witness_at(self, store: ObjectStore) -> Checkpoints:
        """The checkpoints of this vault at a witness."""
        return Checkpoints(self._roots, store, f"{self._roots.vault}/checkpoints", "the witness")

    # Reading and proving

    @property
    def roots(self) -> Roots:
        """The root documents that the log is judged by."""
        return self._roots

    def verify(
        self, *, witness: ObjectStore | None = None, asked: bool = False, kept: Sequence[tuple[str, bytes]] = ()
    ) -> int:
        """Check every entry, the signed end and the checkpoints; returns the number of entries.

        ``asked`` has the configured witness's checkpoints checked too, ``witness`` another one's, and ``kept`` those
        that somebody kept, each with where it is from in words. Raises IntegrityError that names the first entry that
        was changed, removed, inserted or moved, or the checkpoint that is not about this log.
        """
        pinned, junk = self._kept.sorted_out()
        pinned = [*pinned, *pinned_by(self._roots, kept)]
        for each in (self._witness if asked else None, self.witness_at(witness) if witness is not None else None):
            if each is not None:
                good, bad = self._witnessed_by(each)
                pinned, junk = pinned + good, junk + bad
        with self._catalog.read() as transaction:
            tail = self._tail(self._roots.seen_by(transaction), transaction.log_tail())
            size = verify_log(_leaves(transaction), tail, pinned)
        if junk:
            # Nobody may be able to remove it there: what can be said of the log is said all the same.
            raise IntegrityError(
                f"the log of {size} entries agrees with every checkpoint, but there is what is none: {junk[0]}"
            )
        return size

    def claimed(self) -> tuple[Tail, list[Pinned]]:
        """Where the log ends by its own signature, and the checkpoints of the store that it has to agree with.

        For whoever reads the whole log and verifies what it has read.
        """
        pinned, junk = self._kept.sorted_out()
        for each in junk:
            _LOG.warning("%s; remove it there", each)
        with self._catalog.read() as transaction:
            return self._tail(self._roots.seen_by(transaction), transaction.log_tail()), pinned

    @staticmethod
    def _witnessed_by(witness: Checkpoints) -> tuple[list[Pinned], list[str]]:
        try:
            found, junk = witness.sorted_out()
        except Unavailable as error:
            raise Unavailable(f"the witness could not be read, so that the log is not verified ({error})") from error
        if not found:
            raise IntegrityError("the witness holds no checkpoint of this vault's log")
        return found, junk

    def tree(self, size: int | None = None) -> Tree:
        """The log's tree, for making proofs; of the first ``size`` entries, or all."""
        if size is None:
            end = self.end()
            size = end[1].size if end is not None else 0

        def read(start: int, stop: int) -> list[bytes]:
            with self._catalog.read() as transaction:
                return transaction.log_hashes(start, stop)

        return Tree(size, read)

    def leaf(self, sequence: int) -> Leaf:
        """One sealed entry in its place; raises InvalidInput where there is none."""
        with self._catalog.read() as transaction:
            row = transaction.log_row(sequence)
        if row is None:
            raise InvalidInput(f"the log has no entry {sequence}")
        return _leaf(row)

    def opener(self, auditor_secrets: Sequence[bytes]) -> Opener:
        """What opens this vault's entries."""
        return Opener(self._roots.vault, auditor_secrets)

    def leaves(self, after: int | None = None, newest: int | None = None) -> Iterator[Leaf]:
        """Every sealed entry in its place, oldest first; those behind a number, or so many of the newest."""
        with self._catalog.read() as transaction:
            if newest is not None:
                size = self._tail(self._roots.seen_by(transaction), transaction.log_tail()).checkpoint.size
                after = max(after or 0, size - newest)
            yield from _leaves(transaction, after)

    def entries(
        self, auditor_secrets: Sequence[bytes], newest: int | None = None, after: int | None = None
    ) -> Iterator[tuple[int, Entry]]:
        """Open every entry with the auditors' keys, oldest first; those behind a number, or so many of the newest.

        What no auditor's key opens, or makes no entry, somebody appended who had the log key: it comes as an UNREADABLE
        one, and keeps nobody from the rest. Raises IntegrityError for it where an auditor's key is missing here.
        """
        read = self.reader(auditor_secrets)
        for leaf in self.leaves(after, newest):
            yield leaf.sequence, read(leaf)

    def reader(self, auditor_secrets: Sequence[bytes]) -> Callable[[Leaf], Entry]:
        """What opens leaves one by one, as `entries` does."""
        opener = self.opener(auditor_secrets)

        def read(leaf: Leaf) -> Entry:
            try:
                return opener.open(leaf.sealed)
            except IntegrityError as error:
                if not self.are_all_auditors(auditor_secrets):
                    raise IntegrityError(f"log entry {leaf.sequence}: {error}") from error
                return Entry(Kind.UNREADABLE, _moment(leaf.time), {"why": str(error), "bytes": len(leaf.sealed)})

        return read

    def are_all_auditors(self, auditor_secrets: Sequence[bytes]) -> bool:
        """Whether these are the private keys of every auditor that the log was ever sealed to."""
        held = {X25519PrivateKey.from_private_bytes(each).public_key().public_bytes_raw() for each in auditor_secrets}
        newest = self._roots.refresh()
        return {root.public_key(Role.AUDITOR) for root in (newest, *self._roots.earlier)} <= held


def _moment(time: str) -> datetime:
    """The time of a leaf, whoever wrote it there."""
    try:
        return from_timestamp(time)
    except IntegrityError:
        return datetime.max.replace(tzinfo=UTC)


def _leaf(row: LogRow) -> Leaf:
    return Leaf(row.sequence, row.time, row.sealed, row.hash)


def _leaves(transaction: Transaction, after: int | None = None) -> Iterator[Leaf]:
    while True:
        rows = transaction.log_rows(after, _PAGE)
        if not rows:
            return
        yield from map(_leaf, rows)
        after = rows[-1].sequence
