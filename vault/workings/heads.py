"""Reading heads so that nothing revoked comes back.

A subject's head is read from the catalog, and its frontier from the store too, where every head is also a
put-if-absent object. The higher of both counts; a catalog that is behind, or differs, is refused. What
was seen once is remembered for the life of the process.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, TypeVar

from vault.catalog import Catalog, CompartmentRow, HeadRow, Transaction
from vault.errors import Conflict, IntegrityError, NotFound, Unavailable
from vault.objects import ObjectStore
from vault.trust import (
    CompartmentHead,
    Frontier,
    Label,
    Role,
    Root,
    Signed,
    VendorHead,
    trusted_compartment_head,
    trusted_vendor_head,
)
from vault.trust.heads import checked_listing, checked_payload
from vault.workings.roots import GLANCE_SECONDS, Roots

__all__ = ["HEAD_AGE_SECONDS", "Heads", "Overtaken"]

#: How old a head may be when a decision is made on it.
HEAD_AGE_SECONDS = 1.0
#: How often the store is asked whether it knows a higher head than the catalog.
_STORE_SECONDS = 60.0
#: How many heads a store that is reached by requests is asked for at once.
_ASKED_AT_ONCE = 32
#: How often a view of the catalog is taken anew because heads came while it was looked at.
_VIEWS = 8
_Result = TypeVar("_Result")
_ROLES = {
    "vendor": (Role.AUTHORITY, Role.RESPONDER),
    "compartment": (Role.PUBLISHER, Role.AUTHORITY),
}


def _head_name(subject: str, sequence: int) -> str:
    return f"heads/{subject}/{sequence:020d}"


#: How many heads under keys that were replaced are passed over in the store in search of one that counts. A thief can
#: plant as many as the store takes, and each has to be read.
_PASSED_OVER = 4096


class Overtaken(Conflict):
    """A head came behind the view of the catalog that a transaction has: it is to be read again in a new one."""

    def __init__(self) -> None:
        super().__init__("another change came while the catalog was read; try again")


@dataclass(frozen=True, slots=True)
class _Seen:
    head: VendorHead
    read_at: float
    root: int


@dataclass(frozen=True, slots=True)
class _SeenCompartment:
    """A compartment's head, the row and root document that it was verified by, and when that row was read last."""

    head: CompartmentHead
    row: HeadRow
    root: int
    read_at: float


class Heads:
    """The verified heads of one vault. Safe for use from several threads."""

    def __init__(
        self, roots: Roots, catalog: Catalog, store: ObjectStore, clock: Callable[[], float] = monotonic
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._store = store
        self._glance = store.within(GLANCE_SECONDS)
        self._clock = clock
        self._lock = threading.RLock()
        self._frontiers: dict[str, Frontier] = {}
        self._asked_store: dict[str, float] = {}
        self._vendors: dict[str, _Seen] = {}
        self._compartments: dict[str, _SeenCompartment] = {}

    def vendor(self, vendor: str, *, max_age: float = HEAD_AGE_SECONDS) -> VendorHead:
        """A vendor's head, read at most ``max_age`` seconds ago; raises IntegrityError or Unavailable."""
        with self._lock:
            seen = self._vendors.get(vendor)
        now = self._clock()
        if seen is not None and now - seen.read_at <= max_age:
            return seen.head

        def read(transaction: Transaction) -> _Seen:
            root = self._roots.seen_by(transaction)
            return _Seen(self._fresh_vendor(transaction, root, vendor, seen), now, root.version)

        found = self.reading(read)
        with self._lock:
            self._vendors[vendor] = found
        return found.head

    def reading(self, read: Callable[[Transaction], _Result]) -> _Result:
        """What ``read`` returns of a view of the catalog, taken anew where it was overtaken; raises Overtaken.

        The store is asked while a view is held, and may know of a head that was committed since.
        """
        for _ in range(_VIEWS - 1):
            with suppress(Overtaken), self._catalog.read() as transaction:
                return read(transaction)
        with self._catalog.read() as transaction:
            return read(transaction)

    def _fresh_vendor(self, transaction: Transaction, root: Root, vendor: str, seen: _Seen | None) -> VendorHead:
        if seen is not None and seen.root == root.version and not self._store_is_due(vendor):
            row = transaction.newest_head(vendor)
            if row is not None and Signed.decode(row.statement, Label.HEAD).digest == seen.head.digest:
                return seen.head
        return self.vendor_in(transaction, vendor)

    def vendor_in(self, transaction: Transaction, vendor: str) -> VendorHead:
        """A vendor's head as a transaction sees it, verified."""
        root = self._roots.seen_by(transaction)
        rows = transaction.head_steps(vendor)
        steps = [(Signed.decode(row.statement, Label.HEAD), row.body) for row in rows]
        with self._lock:
            frontier = self._frontier(root, "vendor", vendor)
            self._refuse_overtaken(rows[-1] if rows else None, frontier, vendor)
            head, reached = trusted_vendor_head(root, vendor, steps, frontier)
            self._frontiers[vendor] = reached
        return head

    def frozen_since(self, transaction: Transaction, vendor: str, sequence: int) -> bool:
        """Whether a vendor was frozen at a step of its head and at every one since.

        False as well where the catalog's steps leave that in doubt.
        """
        newest = self.vendor_in(transaction, vendor)
        rows = transaction.heads_from(vendor, sequence)
        if not newest.frozen or [row.sequence for row in rows] != list(range(sequence, newest.sequence + 1)):
            return False
        root = self._roots.seen_by(transaction)
        try:
            steps = [
                self._stored_payload(root, Signed.decode(row.statement, Label.HEAD), "vendor", vendor)[0]
                for row in rows
            ]
        except IntegrityError:
            return False
        return all(step["frozen"] and step["sequence"] == row.sequence for step, row in zip(steps, rows, strict=True))

    def frozen_at(self, transaction: Transaction, vendor: str) -> str | None:
        """When a vendor was frozen that is so now, by the earliest step of its head since which it was all the time."""
        root, found = self._roots.seen_by(transaction), None
        if not self.vendor_in(transaction, vendor).frozen:
            return None
        for row in reversed(transaction.heads_from(vendor, 1)):
            try:
                step, _ = self._stored_payload(root, Signed.decode(row.statement, Label.HEAD), "vendor", vendor)
            except IntegrityError:
                break
            if not step["frozen"]:
                break
            found = str(step["signed_at"])
        return found

    def signed_steps(
        self, transaction: Transaction, kind: str, subject: str
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """All steps of a head that a key of some root document signed, oldest first, each with its listing.

        What does not verify is left out, and nothing tells whether one is missing.
        """
        roots = [self._roots.seen_by(transaction), *self._roots.earlier]
        found = []
        for row in transaction.heads_from(subject, 1):
            for root in roots:
                try:
                    signed = Signed.decode(row.statement, Label.HEAD)
                    found.append(checked_listing(root, signed, row.body, kind, subject, *_ROLES[kind]))
                    break
                except IntegrityError:
                    continue
        return found

    def compartment(self, place: CompartmentRow) -> CompartmentHead | None:
        """`compartment_in` of a view of its own."""
        return self.reading(lambda transaction: self.compartment_in(transaction, place))

    def compartment_in(self, transaction: Transaction, place: CompartmentRow) -> CompartmentHead | None:
        """A compartment's head as a transaction sees it, verified; None where it never had one.

        Raises IntegrityError also when the head is that of another holder's or dataset's compartment than the
        catalog's row says: rows that were swapped would have one vendor's data written for another.
        """
        compartment = place.id
        root, now = self._roots.seen_by(transaction), self._clock()
        row = transaction.newest_head(compartment)
        with self._lock:
            frontier = self._frontier(root, "compartment", compartment)
            self._refuse_overtaken(row, frontier, compartment)
            if row is None:
                if frontier.sequence:
                    raise IntegrityError("the catalog lacks the head of a compartment: it was rolled back")
                return None
            head = self._compartment_of(root, row, frontier, now)
        if (head.holder, head.dataset) != (place.holder, place.dataset):
            raise IntegrityError("a compartment is another holder's or dataset's than the catalog says")
        return head

    def compartment_held(self, place: CompartmentRow) -> CompartmentHead | None:
        """A compartment's head as it was read a second ago at the most, if it is held.

        For who asks `is_newest` before it acts upon it.
        """
        with self._lock:
            seen = self._compartments.get(place.id)
        if seen is None or self._clock() - seen.read_at > HEAD_AGE_SECONDS:
            return None
        return seen.head if (seen.head.holder, seen.head.dataset) == (place.holder, place.dataset) else None

    def is_newest(self, transaction: Transaction, head: CompartmentHead) -> bool:
        """Whether a transaction sees a head that was verified here as the newest of its compartment."""
        with self._lock:
            seen = self._compartments.get(head.compartment)
        return seen is not None and seen.head == head and transaction.newest_head(head.compartment) == seen.row

    def _compartment_of(self, root: Root, row: HeadRow, frontier: Frontier, now: float) -> CompartmentHead:
        """The head in a row that is read now, verified unless it is the one that was verified last."""
        seen = self._compartments.get(row.subject)
        if seen is not None and (seen.row, seen.root) == (row, root.version) and frontier.digest == seen.head.digest:
            self._compartments[row.subject] = replace(seen, read_at=now)
            return seen.head
        signed = Signed.decode(row.statement, Label.HEAD)
        head, reached = trusted_compartment_head(root, row.subject, signed, row.body, frontier)
        self._frontiers[row.subject] = reached
        self._compartments[row.subject] = _SeenCompartment(head, row, root.version, now)
        return head

    def _refuse_overtaken(self, row: HeadRow | None, frontier: Frontier, subject: str) -> None:
        """Raise Overtaken where a view is behind a head that the catalog has by now: nothing was rolled back.

        Where the catalog lacks that head in a new view too, whoever asked goes on, and refuses what was rolled back.
        """
        if (row.sequence if row is not None else 0) >= frontier.sequence:
            return
        with self._catalog.read() as later:
            found = next(iter(later.heads_from(subject, frontier.sequence)), None)
        if found is None or found.sequence != frontier.sequence:
            return
        if Signed.decode(found.statement, Label.HEAD).digest == frontier.digest:
            raise Overtaken

    def _store_is_due(self, subject: str) -> bool:
        asked = self._asked_store.get(subject)
        return asked is None or self._clock() - asked >= _STORE_SECONDS

    def _frontier(self, root: Root, kind: str, subject: str) -> Frontier:
        known = self._frontiers.get(subject, Frontier())
        if not self._store_is_due(subject):
            return known
        try:
            stored = self._stored_frontier(root, kind, subject)
        except Unavailable:
            # The catalog's own head still counts, and what was seen before still binds it.
            return known
        self._asked_store[subject] = self._clock()
        return max(known, stored, key=lambda frontier: frontier.sequence)

    def _stored_frontier(self, root: Root, kind: str, subject: str) -> Frontier:
        """The highest head in the store that counts.

        One under a key that was replaced counts only while there is none under a present key: between a rotation's
        commit and its announcement. Later it can only be somebody's who has the old key, and is passed over.
        """
        replaced = Frontier()
        names = sorted((info.name for info in self._glance.list(f"heads/{subject}")), reverse=True)
        for passed, name in enumerate(names):
            if passed == _PASSED_OVER:
                raise IntegrityError(
                    f"more than {_PASSED_OVER} heads in the store carry signatures of keys that were replaced: "
                    f"look at heads/{subject}, and remove those with numbers that nobody gave"
                )
            try:
                signed = Signed.decode(self._store.get(name), Label.HEAD)
            except NotFound as error:
                raise Unavailable("a head in the store vanished while it was read") from error
            document, counts = self._stored_payload(root, signed, kind, subject)
            # A copy of an old head under a high number would otherwise hide every later one.
            if name != _head_name(subject, document["sequence"]):
                raise IntegrityError("a head in the store does not carry the number that it lies under")
            found = Frontier(document["sequence"], signed.digest)
            if counts:
                return found
            replaced = replaced if replaced.sequence else found
        return replaced

    def _stored_payload(self, root: Root, signed: Signed, kind: str, subject: str) -> tuple[dict[str, Any], bool]:
        """A stored head's payload, and whether a present key signed it; raises IntegrityError if none ever did."""
        try:
            return checked_payload(root, signed, kind, subject, *_ROLES[kind]), True
        except IntegrityError:
            for earlier in self._roots.earlier:
                try:
                    return checked_payload(earlier, signed, kind, subject, *_ROLES[kind]), False
                except IntegrityError:
                    continue
            raise

    def free_number(self, subject: str, last: int) -> int:
        """The first number behind ``last`` whose name is free in the store."""
        taken = {info.name for info in self._store.list(f"heads/{subject}")}
        number = last + 1
        while _head_name(subject, number) in taken:
            number += 1
        return number

    def announce(self, rows: list[HeadRow]) -> None:
        """Put committed heads into the store; raises IntegrityError where another object stands in the way."""
        for row in rows:
            name = _head_name(row.subject, row.sequence)
            try:
                self._store.put(name, row.statement)
            except Conflict as error:
                if self._store.get(name) != row.statement:
                    raise IntegrityError("another object stands where a head belongs in the store") from error

    def refuse_behind(self, transaction: Transaction) -> None:
        """Raise IntegrityError where the store has a newer head than a transaction sees, or another one of its number.

        Of every subject, also of those that the catalog knows nothing of. Raises Unavailable where one cannot be read.
        """
        root = self._roots.seen_by(transaction)
        known = dict(transaction.head_subjects())
        for subject in sorted({info.name.split("/")[1] for info in self._store.list("heads")}):
            row = transaction.newest_head(subject) if subject in known else None
            stored = self._highest(root, subject, (row.kind,) if row is not None else tuple(_ROLES))
            number = row.sequence if row is not None else 0
            if stored.sequence > number:
                raise IntegrityError(
                    f"the store has head {stored.sequence} of {subject}, which is newer than number {number} of the "
                    "backup: the newest part of the backup is missing"
                )
            if row is not None and stored.sequence == number:
                stored.checked(number, Signed.decode(row.statement, Label.HEAD).digest)

    def _highest(self, root: Root, subject: str, kinds: Sequence[str]) -> Frontier:
        """The highest head of a subject in the store, of any of these kinds."""
        *others, last = kinds
        for kind in others:
            try:
                return self._stored_frontier(root, kind, subject)
            except IntegrityError:
                continue
        return self._stored_frontier(root, last, subject)

    def reconcile(self) -> None:
        """Announce the newest head of every subject that the store lacks: the rest of a killed act."""
        with self._catalog.read() as transaction:
            subjects = transaction.head_subjects()
        lacking = self._lacking(subjects)
        if lacking:
            with self._catalog.read() as transaction:
                rows = [row for subject in lacking if (row := transaction.newest_head(subject)) is not None]
            self.announce(rows)

    def _lacking(self, subjects: Sequence[tuple[str, int]]) -> list[str]:
        """Those whose newest head the store lacks; of a store that is reached by requests, many are asked at once."""

        def lacks(each: tuple[str, int]) -> bool:
            return self._store.size(_head_name(*each)) is None

        if self._store.is_local:
            return [each[0] for each in subjects if lacks(each)]
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
            return [
                subject for (subject, _), lacking in zip(subjects, threads.map(lacks, subjects), strict=True) if lacking
            ]

    def forget(self, vendor: str) -> None:
        """Read a vendor's head anew at the next question."""
        with self._lock:
            self._vendors.pop(vendor, None)
