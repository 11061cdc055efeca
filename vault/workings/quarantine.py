"""The objects of submissions: which are waited for or lately settled, and which nothing needs any more.

They lie below ``submissions/``, where brokers put them; no job knows of them. One that no row names was left by an
upload that was broken off, or is of one that is under way: it is left alone for as long as that could be.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from vault.catalog import WAITING, SubmissionRow
from vault.encoding import from_timestamp
from vault.errors import IntegrityError, InvalidInput, NotFound
from vault.objects import ObjectInfo
from vault.submission import open_envelope
from vault.workings.parts import OwnerParts

__all__ = ["FOLDER", "Kept", "check_kept", "kept"]

FOLDER: Final = "submissions"
#: Longer than an upload may take.
_UNDER_WAY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """The submissions that wait for the owner, the objects that nothing needs, and how many are left alone for now."""

    waiting: tuple[SubmissionRow, ...]
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
        since = from_timestamp(row.settled) if row is not None and row.settled is not None else info.written
        wait = grace if row is not None else max(grace, _UNDER_WAY)
        if since is not None and since <= now - wait:
            garbage.append(info)
        else:
            recent += 1
    return Kept(tuple(row for row in every if row.state == WAITING), tuple(garbage), recent)


def check_kept(parts: OwnerParts, row: SubmissionRow, *, whole: bool) -> None:
    """Raise IntegrityError unless a waiting submission's object is there and, with ``whole``, what was signed.

    Whether it may be accepted is another question.
    """
    if parts.store.size(row.object) != row.size:
        raise IntegrityError("its object is missing from the store, or not as long as it was")
    try:
        _, envelope = open_envelope(row.envelope.decode("ascii", "replace"))
    except InvalidInput as error:
        raise IntegrityError("its envelope in the catalog was changed") from error
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
