"""The objects of submissions: which are waited for or lately settled, and which nothing needs any more.

They lie below ``submissions/``, where brokers put them; no job knows of them. One that no row names was left by an
upload that was broken off, or is of one that is under way: it is left alone for as long as that could be.

Brokers add the rows, so that whoever has the database role of one can add what is none, or a copy of another's. Such a
row is in nobody's way: what of it cannot be understood is told, and hides no other.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vault.catalog import WAITING, SubmissionRow, Transaction
from vault.encoding import from_timestamp, is_id
from vault.errors import IntegrityError, InvalidInput, NotFound
from vault.objects import ObjectInfo
from vault.submission import Envelope, open_envelope
from vault.workings.parts import OwnerParts

__all__ = ["FOLDER", "Kept", "Places", "called", "check_kept", "kept", "received_at"]

FOLDER: Final = "submissions"
#: Longer than an upload may take.
_UNDER_WAY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is in quarantine: ``rows``, those of what was settled too; objects that nothing needs; how many are left
    alone for now.
    """

    rows: tuple[SubmissionRow, ...]
    garbage: tuple[ObjectInfo, ...]
    recent: int


def kept(parts: OwnerParts, grace: timedelta) -> Kept:
    """Look at the quarantine. What was settled longer than ``grace`` ago is garbage."""
    # Listed before the catalog is read: an object that is seen here, and is in the catalog by then, is found there.
    listed = list(parts.store.list(FOLDER))
    with parts.catalog.read() as transaction:
        every = transaction.submissions()
    # A broker adds rows: one that it says is settled takes no object from another that waits.
    rows = {row.object: row for row in sorted(every, key=lambda row: row.state == WAITING)}
    now = parts.clock()
    garbage, recent = [], 0
    for info in listed:
        row = rows.get(info.name)
        if row is not None and row.state == WAITING:
            continue
        settled = _settled_at(row) if row is not None else None
        since = settled if settled is not None else info.written
        wait = grace if settled is not None else max(grace, _UNDER_WAY)
        if since is not None and since <= now - wait:
            garbage.append(info)
        else:
            recent += 1
    return Kept(tuple(every), tuple(garbage), recent)


def _settled_at(row: SubmissionRow) -> datetime | None:
    try:
        return from_timestamp(row.settled) if row.settled is not None else None
    except IntegrityError:
        return None  # no process of dsvault's wrote that


def called(row: SubmissionRow) -> str:
    """A submission's id for a sentence, whatever somebody wrote in its place."""
    return row.id if is_id(row.id) else repr(row.id)[:80]


def received_at(row: SubmissionRow) -> datetime:
    """When a submission came; raises IntegrityError where its row does not say."""
    try:
        return from_timestamp(row.received)
    except IntegrityError as error:
        raise IntegrityError(
            f"the row of the submission {called(row)} does not say when it was received, as every row that a broker of "
            "dsvault writes does: reject it"
        ) from error


@dataclass(frozen=True, slots=True)
class Places:
    """Whose the credentials and grants of a catalog are, by their ids."""

    vault: str
    credentials: Mapping[str, str]
    grants: Mapping[str, tuple[str, str]]

    @classmethod
    def read(cls, vault: str, transaction: Transaction) -> "Places":
        """All of them."""
        return cls(
            vault,
            {row.id: row.vendor for row in transaction.credentials()},
            {row.id: (row.vendor, row.dataset) for row in transaction.grants()},
        )

    def check(self, row: SubmissionRow) -> None:
        """Raise IntegrityError for a row whose envelope was not signed for its place: a copy, or one made up."""
        envelope = _envelope(row)
        place = (envelope.vault, envelope.submission, envelope.grant, envelope.size)
        whose = (self.credentials.get(envelope.credential), self.grants.get(row.grant))
        if place != (self.vault, row.id, row.grant, row.size) or whose != (row.vendor, (row.vendor, row.dataset)):
            raise IntegrityError(
                "its envelope is of another vendor, grant or submission: whoever has the database role of a broker has "
                "copied it here"
            )


def _envelope(row: SubmissionRow) -> Envelope:
    try:
        return open_envelope(row.envelope.decode("ascii", "replace"))[1]
    except InvalidInput as error:
        raise IntegrityError("its envelope in the catalog was changed") from error


def check_kept(parts: OwnerParts, row: SubmissionRow, *, whole: bool) -> None:
    """Raise IntegrityError unless a waiting submission's object is there and, with ``whole``, what was signed.

    Whether it may be accepted is another question.
    """
    received_at(row)
    if parts.store.size(row.object) != row.size:
        raise IntegrityError("its object is missing from the store, or not as long as it was")
    envelope = _envelope(row)
    if not whole:
        return
    digest, data = hashlib.sha256(), parts.store.open(row.object, row.size)
    try:
        for start in range(0, row.size, data.step):
            digest.update(data.read(start, min(start + data.step, row.size)))
    except NotFound as error:
        raise IntegrityError("its object is missing from the store") from error
    if not hmac.compare_digest(digest.hexdigest(), envelope.sha256):
        raise IntegrityError("its object is not the one that was signed")
