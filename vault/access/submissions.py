"""Receiving what a vendor sends back, into quarantine: the broker keeps ciphertext that it cannot read.

A submission is decided on like a read of its grant, before any of it is written. The object goes into the store first;
then one change holds what the grant is charged, the row, and the log's entry: neither stands without the others. A run
that ends in between leaves an object that nothing names, for gc. Nothing here is the last word: the owner checks all of
it again, by keys that no broker has, before it takes anything over.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from vault.access.callers import Arrival, Caller
from vault.access.permits import names_rows, permitted
from vault.access.records import committed, day, mark, refusals_recorded, who
from vault.audit import Kind
from vault.catalog import WAITING, SubmissionRow, Transaction
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, InvalidInput, LimitReached, NotGranted, Unavailable
from vault.limits import Usage, refuse_used_up
from vault.policy import Permit, Request, still_allowed
from vault.submission import Envelope, Quarantine, open_envelope
from vault.workings.parts import Parts, trusted_now
from vault.workings.quarantine import FOLDER

__all__ = ["Received", "receive"]

#: How often it is looked at whether a vendor may go on sending.
_LOOK_SECONDS: Final = 1.0
#: An object that is not in the catalog by then may be taken by gc, which waits longer than that.
_LONGEST_SECONDS: Final = 1800.0

Pieces = Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Received:
    """A submission that is in quarantine, and when it came."""

    submission: str
    received: str


def receive(
    parts: Parts, caller: Caller, dataset: str, envelope: str, size: int, pieces: Pieces, quarantine: Quarantine
) -> Received:
    """Decide on a submission, store its object and put it into quarantine; ``size`` is how long the object is to be.

    One that is there already, and is the very same, is answered as it was then: a client may send it again where the
    answer was lost. The caller's proof is used up. Raises Frozen, NotGranted, Conflict, InvalidInput and LimitReached,
    each logged, and AuditError where the log cannot be written: then nothing was received.
    """
    arrival = Arrival(caller)
    asked = Request(dataset)
    with refusals_recorded(parts, arrival, asked):
        signer, signed = open_envelope(envelope)
        request = Request(dataset, signed.grant)
        allowed = permitted(parts, caller, request)
        permit = allowed.permit
        _refuse_other(parts, caller, signer, signed, permit, size)
        key = allowed.version.manifest.key
        if key is not None and not any(each.id == key and names_rows(permit.grant, each) for each in permit.columns):
            raise NotGranted("the column that identifies rows is not granted to you as it is")
        row = SubmissionRow(
            caller.vendor,
            signed.submission,
            permit.grant.id,
            permit.grant.dataset,
            f"{FOLDER}/{new_id()}",
            size,
            envelope.encode(),
            "",
            WAITING,
        )
        reception = _Reception(parts, caller, permit, signed, row, quarantine)
        before = reception.before()
        if before is not None:
            parts.journal.hold_newest()
            return before
        reception.store(pieces)
        found = reception.commit()
    mark(parts)
    return found


def _refuse_other(parts: Parts, caller: Caller, signer: str, signed: Envelope, permit: Permit, size: int) -> None:
    """Raise InvalidInput or Conflict for an envelope that is not of this caller, vault, version and body."""
    if caller.key is None:
        raise InvalidInput("a submission is signed by the key of a credential, and this credential is bound to none")
    if not hmac.compare_digest(signer, caller.key) or signed.credential != caller.credential:
        raise InvalidInput("the envelope is not signed by the key that proves the request")
    if signed.vault != parts.vault or signed.size != size:
        raise InvalidInput("the envelope is of another vault, or of another body")
    if signed.version != permit.version:
        raise Conflict("the dataset has another version by now; send it again")


@dataclass(slots=True)
class _Reception:
    """One submission on its way into quarantine."""

    parts: Parts
    caller: Caller
    permit: Permit
    signed: Envelope
    row: SubmissionRow
    quarantine: Quarantine
    _began: float = field(default_factory=time.monotonic)

    def before(self) -> Received | None:
        """What was answered to the same one, if it is there; raises as `_place` does where it may not come in."""
        with self.parts.catalog.read() as transaction:
            found = self._place(transaction)
        if isinstance(found, Conflict | LimitReached):
            raise found
        return found

    def _place(self, transaction: Transaction) -> Received | Conflict | LimitReached | None:
        """The same one where it is there; else why there is no place for it, or None."""
        row = self.row
        there = transaction.submission(row.vendor, row.id)
        if there is not None:
            if hmac.compare_digest(there.envelope, row.envelope):
                return Received(there.id, there.received)
            return Conflict("another submission has that id")
        count, size = transaction.waiting_submissions(row.vendor)
        if count >= self.quarantine.waiting or size + row.size > self.quarantine.waiting_bytes:
            return LimitReached("what waits for the lab to look at it is as much as may wait; nothing more is taken")
        limits = self.permit.grant.limits
        try:
            refuse_used_up(limits, self._usage(transaction) if limits else Usage({}, {}))
        except LimitReached as error:
            return error
        return None

    def _usage(self, transaction: Transaction) -> Usage:
        return Usage(*transaction.usage(self.permit.grant.id, day(self.parts)))

    def store(self, pieces: Pieces) -> None:
        """Put the object, piece by piece, for as long as the vendor may send; raises InvalidInput for other bytes."""
        digest, looked = hashlib.sha256(), time.monotonic()

        def produce(write: Callable[[memoryview], object]) -> None:
            nonlocal looked
            came = 0
            for piece in pieces:
                came += len(piece)
                if came > self.row.size:
                    break
                digest.update(piece)
                write(memoryview(piece))
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    self.check()
                    looked = time.monotonic()
            # Within: what is raised here leaves no object.
            if came != self.row.size or not hmac.compare_digest(digest.hexdigest(), self.signed.sha256):
                raise InvalidInput("the body is not the one that the envelope was signed for")

        self.parts.store.put_pieces(self.row.object, produce)
        self.parts.store.settle(FOLDER)

    def check(self) -> datetime:
        """The present time; raises Frozen or NotGranted once the vendor may not send any more."""
        now = trusted_now(self.parts)
        still_allowed(self.permit.basis, self.parts.heads.vendor(self.caller.vendor), now)
        return now

    def commit(self) -> Received:
        """Charge the grant, add the row and write the entry, all or nothing."""
        now = timestamp(self.check())
        if time.monotonic() - self._began > _LONGEST_SECONDS:
            raise Unavailable("the submission took too long to come; send it again")

        def received(transaction: Transaction) -> tuple[int, Received] | Received | Conflict | LimitReached:
            # What is refused here is returned: raised, it would undo what others do in the same transaction.
            found = self._place(transaction)
            if found is not None:
                return found
            if self.permit.grant.limits:
                transaction.add_usage(self.permit.grant.id, day(self.parts), {"requests": 1})
            transaction.add_submission(replace(self.row, received=now))
            entry = self.parts.journal.record_in(transaction, Kind.SUBMITTED, **self._told(now))
            return entry, Received(self.row.id, now)

        found = committed(self.parts, received)
        if isinstance(found, Conflict | LimitReached):
            raise found
        if isinstance(found, Received):
            self.parts.journal.hold_newest()
            return found  # by another request, at the same time
        self.parts.journal.hold(found[0])
        return found[1]

    def _told(self, now: str) -> dict[str, object]:
        """What the entry says: enough to make the row anew by, where the catalog is lost."""
        signed, row = self.signed, self.row
        return {
            **who(self.caller, self.permit),
            "submission": row.id,
            "rows": signed.rows,
            "bytes": row.size,
            "sha256": signed.sha256,
            "object": row.object,
            "envelope": row.envelope.decode(),
            "received": now,
        }
