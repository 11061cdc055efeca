"""The chain: each entry's hash covers the one before, and the log key signs where it ends.

``hash = SHA-256(canonical("dsvault log link", vault, sequence, time, previous, sealed))``. Changing, removing,
inserting or reordering an entry breaks a link; making the links anew, or cutting the end off, contradicts
the signed tail. Verifying needs the root document only, not the auditor's key.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from vault.encoding import canonical, timestamp
from vault.errors import IntegrityError
from vault.model import FORMAT
from vault.trust import Label, Role, Root, Signed, Signer

__all__ = ["GENESIS", "ChainRow", "Tail", "link", "read_tail", "sign_tail", "verify_chain"]

GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainRow:
    """An entry in its place: number from 1, time, previous hash, sealed entry, own hash."""

    sequence: int
    time: str
    previous: bytes
    sealed: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the log ends; sequence 0 and `GENESIS` stand for an empty log."""

    sequence: int
    hash: bytes
    time: str


def _hash(vault: str, sequence: int, time: str, previous: bytes, sealed: bytes) -> bytes:
    return hashlib.sha256(canonical("dsvault log link", vault, sequence, time, previous, sealed)).digest()


def link(vault: str, tail: Tail | None, sealed: bytes, now: datetime) -> ChainRow:
    """The next row behind a tail.

    An entry's time is never before the one that it follows, so that time in the log does not run back.
    """
    before = tail or Tail(0, GENESIS, "")
    time = max(timestamp(now), before.time)
    sequence = before.sequence + 1
    digest = _hash(vault, sequence, time, before.hash, sealed)
    return ChainRow(sequence, time, before.hash, sealed, digest)


def sign_tail(vault: str, tail: Tail, signer: Signer) -> Signed:
    """The statement that the log ends there."""
    payload = {
        "format": list(FORMAT),
        "type": "log tail",
        "vault": vault,
        "sequence": tail.sequence,
        "hash": tail.hash.hex(),
        "time": tail.time,
    }
    return signer.sign(Label.LOG_TAIL, payload)


def read_tail(root: Root, statement: bytes) -> Tail:
    """Verify a signed tail; raises IntegrityError."""
    signed = Signed.decode(statement, Label.LOG_TAIL)
    root.verify(signed, Role.LOG)
    document = signed.document()
    if document.get("type") != "log tail" or document.get("vault") != root.vault:
        raise IntegrityError("the end of the log is that of another vault")
    try:
        return Tail(int(document["sequence"]), bytes.fromhex(document["hash"]), str(document["time"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the signed end of the log lacks a field") from error


def verify_chain(root: Root, rows: Iterable[ChainRow], tail: Tail | None, checkpoints: Iterable[Tail]) -> int:
    """Check every link, the signed tail, and that every checkpoint lies on the chain.

    Returns the number of entries; raises IntegrityError naming the first entry that is wrong.
    """
    pinned = {mark.sequence: mark.hash for mark in checkpoints}
    previous, count = GENESIS, 0
    for row in rows:
        count += 1
        if row.sequence != count:
            raise IntegrityError(f"log entry {count} is missing or out of order")
        expected = _hash(root.vault, row.sequence, row.time, previous, row.sealed)
        if row.previous != previous or not hmac.compare_digest(row.hash, expected):
            raise IntegrityError(f"log entry {count} was changed, or does not follow the one before it")
        if count in pinned and not hmac.compare_digest(pinned.pop(count), row.hash):
            raise IntegrityError(f"log entry {count} is not the one that a checkpoint was signed over")
        previous = row.hash
    if (tail.sequence, tail.hash) != (count, previous) if tail else count:
        raise IntegrityError(f"the log ends at entry {count}, which is not where its signed end says")
    if pinned:
        raise IntegrityError(f"the log ends at entry {count}, before a signed checkpoint in the store")
    return count
