"""Reading heads so that nothing revoked comes back.

A subject's head is read from the catalog, and its frontier from the store too, where every head is also a
put-if-absent object. The higher of both counts; a catalog that is behind, or differs, is refused. What
was seen once is remembered for the life of the process.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

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
from vault.trust.heads import checked_payload

__all__ = ["HEAD_AGE_SECONDS", "Heads"]

#: How old a head may be when a decision is made on it.
HEAD_AGE_SECONDS = 1.0
#: How often the store is asked whether it knows a higher head than the catalog.
_STORE_SECONDS = 60.0
_ROLES = {
    "vendor": (Role.AUTHORITY, Role.RESPONDER),
    "compartment": (Role.PUBLISHER, Role.AUTHORITY),
}


def _head_name(subject: str, sequence: int) -> str:
    return f"heads/{subject}/{sequence:020d}"


@dataclass(frozen=True, slots=True)
class _Seen:
    head: VendorHead
    read_at: float


class Heads:
    """The verified heads of one vault. Safe for use from several threads."""

    def __init__(
        self, root: Root, catalog: Catalog, store: ObjectStore, clock: Callable[[], float] = monotonic
    ) -> None:
        self._root = root
        self._catalog = catalog
        self._store = store
        self._clock = clock
        self._lock = threading.RLock()
        self._frontiers: dict[str, Frontier] = {}
        self._asked_store: dict[str, float] = {}
        self._vendors: dict[str, _Seen] = {}

    def vendor(self, vendor: str, *, max_age: float = HEAD_AGE_SECONDS) -> VendorHead:
        """A vendor's head, read at most ``max_age`` seconds ago; raises IntegrityError or Unavailable."""
        with self._lock:
            seen = self._vendors.get(vendor)
        now = self._clock()
        if seen is not None and now - seen.read_at <= max_age:
            return seen.head
        with self._catalog.read() as transaction:
            head = self._fresh_vendor(transaction, vendor, seen)
        with self._lock:
            self._vendors[vendor] = _Seen(head, now)
        return head

    def _fresh_vendor(self, transaction: Transaction, vendor: str, seen: _Seen | None) -> VendorHead:
        if seen is not None and not self._store_is_due(vendor):
            row = transaction.newest_head(vendor)
            if row is not None and Signed.decode(row.statement, Label.HEAD).digest == seen.head.digest:
                return seen.head
        return self.vendor_in(transaction, vendor)

    def vendor_in(self, transaction: Transaction, vendor: str) -> VendorHead:
        """A vendor's head as a transaction sees it, verified."""
        steps = [(Signed.decode(row.statement, Label.HEAD), row.body) for row in transaction.head_steps(vendor)]
        with self._lock:
            frontier = self._frontier("vendor", vendor)
            head, reached = trusted_vendor_head(self._root, vendor, steps, frontier)
            self._frontiers[vendor] = reached
        return head

    def compartment_in(self, transaction: Transaction, place: CompartmentRow) -> CompartmentHead | None:
        """A compartment's head as a transaction sees it, verified; None where it never had one.

        Raises IntegrityError also when the head is that of another holder's or dataset's compartment than the
        catalog's row says: rows that were swapped would have one vendor's data written for another.
        """
        compartment = place.id
        row = transaction.newest_head(compartment)
        with self._lock:
            frontier = self._frontier("compartment", compartment)
            if row is None:
                if frontier.sequence:
                    raise IntegrityError("the catalog lacks the head of a compartment: it was rolled back")
                return None
            signed = Signed.decode(row.statement, Label.HEAD)
            head, reached = trusted_compartment_head(self._root, compartment, signed, row.body, frontier)
            self._frontiers[compartment] = reached
        if (head.holder, head.dataset) != (place.holder, place.dataset):
            raise IntegrityError("a compartment is another holder's or dataset's than the catalog says")
        return head

    def _store_is_due(self, subject: str) -> bool:
        asked = self._asked_store.get(subject)
        return asked is None or self._clock() - asked >= _STORE_SECONDS

    def _frontier(self, kind: str, subject: str) -> Frontier:
        known = self._frontiers.get(subject, Frontier())
        if not self._store_is_due(subject):
            return known
        try:
            stored = self._stored_frontier(kind, subject)
        except Unavailable:
            # The catalog's own head still counts, and what was seen before still binds it.
            return known
        self._asked_store[subject] = self._clock()
        return max(known, stored, key=lambda frontier: frontier.sequence)

    def _stored_frontier(self, kind: str, subject: str) -> Frontier:
        names = [info.name for info in self._store.list(f"heads/{subject}")]
        if not names:
            return Frontier()
        try:
            signed = Signed.decode(self._store.get(max(names)), Label.HEAD)
        except NotFound as error:
            raise Unavailable("a head in the store vanished while it was read") from error
        document = checked_payload(self._root, signed, kind, subject, *_ROLES[kind])
        # A copy of an old head under a high number would otherwise hide every later one.
        if max(names) != _head_name(subject, document["sequence"]):
            raise IntegrityError("a head in the store does not carry the number that it lies under")
        return Frontier(document["sequence"], signed.digest)

    def announce(self, rows: list[HeadRow]) -> None:
        """Put committed heads into the store; raises IntegrityError where another object stands in the way."""
        for row in rows:
            name = _head_name(row.subject, row.sequence)
            try:
                self._store.put(name, row.statement)
            except Conflict as error:
                if self._store.get(name) != row.statement:
                    raise IntegrityError("another object stands where a head belongs in the store") from error

    def reconcile(self) -> None:
        """Announce the newest head of every subject that the store lacks: the rest of a killed act."""
        with self._catalog.read() as transaction:
            subjects = transaction.head_subjects()
            rows = [
                row
                for subject, sequence in subjects
                if self._store.size(_head_name(subject, sequence)) is None
                and (row := transaction.newest_head(subject)) is not None
            ]
        self.announce(rows)

    def forget(self, vendor: str) -> None:
        """Read a vendor's head anew at the next question."""
        with self._lock:
            self._vendors.pop(vendor, None)
