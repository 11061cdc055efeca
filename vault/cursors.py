"""Cursors and tickets: what a client holds for a while and can neither read nor change.

A cursor is where a delivery was, so that a client can go on after its connection broke: it opens for the very read that
it came from, at any broker of the vault. A ticket is leave to fetch the ciphertext of one object for a few minutes.
Both are sealed with AES-256-GCM (NIST SP 800-38D) under a key that follows from the vendor's metadata key and a salt of
their own delivery, with what they belong to as associated data. They are not only signed: positions would tell how many
rows a row filter hides.
"""

import os
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.encoding import from_json, from_timestamp, json_bytes, timestamp
from vault.errors import IntegrityError, InvalidInput, NotGranted

__all__ = [
    "CURSOR_BYTES",
    "SALT_BYTES",
    "Cursor",
    "FileTicket",
    "Ticket",
    "open_cursor",
    "open_file_ticket",
    "open_ticket",
    "salt_of",
    "seal_cursor",
    "seal_file_ticket",
    "seal_ticket",
]

SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_FORM: Final = struct.Struct(">IQQ")
#: The length of every cursor.
CURSOR_BYTES: Final = SALT_BYTES + _NONCE_BYTES + _FORM.size + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a read: so many rows of a shard that passed have left, and so many rows in all."""

    shard: int
    row: int
    sent: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to fetch one object of ``size`` bytes until a moment, as long as what it stands on holds."""

    object: str
    size: int
    credential: str
    grant: str
    grant_digest: str
    delegations: tuple[str, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class FileTicket:
    """Leave to read one spooled file of ``size`` bytes until a moment, as long as what it stands on holds.

    ``head`` bytes of the object come before its segments, and ``binding`` is what it is sealed for; ``checksum`` is the
    file's own. ``subject`` is whom the vendor's identity provider spoke of to whoever asked for it.
    """

    object: str
    size: int
    head: int
    binding: str
    checksum: str
    credential: str
    subject: str | None
    grant: str
    grant_digest: str
    until: datetime


def salt_of(data: bytes) -> bytes:
    """The salt that a cursor's key follows from; raises InvalidInput where it is none."""
    if len(data) != CURSOR_BYTES:
        raise _refused()
    return data[:SALT_BYTES]


def seal_cursor(key: bytes, salt: bytes, bound: bytes, cursor: Cursor) -> bytes:
    """``salt | nonce 12 | ciphertext | tag 16``; ``bound`` is what decides what is read, and the key is the salt's."""
    return salt + _seal(key, bound, _FORM.pack(cursor.shard, cursor.row, cursor.sent))


def open_cursor(key: bytes, bound: bytes, data: bytes) -> Cursor:
    """Inverse of `seal_cursor`; raises InvalidInput for one that was changed or is of another read."""
    try:
        return Cursor(*_FORM.unpack(_open(key, bound, data[SALT_BYTES:])))
    except (InvalidTag, struct.error) as error:
        raise _refused() from error


def seal_ticket(key: bytes, salt: bytes, bound: bytes, ticket: Ticket) -> bytes:
    """``salt | nonce 12 | ciphertext | tag 16`` over canonical JSON; ``bound`` is the vault and the vendor."""
    document = {
        "object": ticket.object,
        "size": ticket.size,
        "credential": ticket.credential,
        "grant": ticket.grant,
        "digest": ticket.grant_digest,
        "delegations": list(ticket.delegations),
        "until": timestamp(ticket.until),
    }
    return salt + _seal(key, bound, json_bytes(document))


def open_ticket(key: bytes, bound: bytes, data: bytes) -> Ticket:
    """Inverse of `seal_ticket`; raises NotGranted for one that was changed or is of another vendor."""
    try:
        document = from_json(_open(key, bound, data[SALT_BYTES:]), "a ticket")
        return Ticket(
            document["object"],
            document["size"],
            document["credential"],
            document["grant"],
            document["digest"],
            tuple(document["delegations"]),
            from_timestamp(document["until"]),
        )
    except (InvalidTag, ValueError, KeyError, TypeError, IntegrityError) as error:
        raise NotGranted("the address is not one that was handed out, or its time is over") from error


def seal_file_ticket(key: bytes, salt: bytes, bound: bytes, ticket: FileTicket) -> bytes:
    """As `seal_ticket`; another ``bound`` keeps the two apart."""
    document = {name: getattr(ticket, name) for name in FileTicket.__slots__}
    return salt + _seal(key, bound, json_bytes({**document, "until": timestamp(ticket.until)}))


def open_file_ticket(key: bytes, bound: bytes, data: bytes) -> FileTicket:
    """Inverse of `seal_file_ticket`; raises NotGranted for one that was changed or is of another vendor."""
    try:
        document = from_json(_open(key, bound, data[SALT_BYTES:]), "a ticket")
        return FileTicket(**{**document, "until": from_timestamp(document["until"])})
    except (InvalidTag, ValueError, KeyError, TypeError, IntegrityError) as error:
        raise NotGranted("the address is not one that was handed out, or its time is over") from error


def _seal(key: bytes, bound: bytes, plain: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def _open(key: bytes, bound: bytes, data: bytes) -> bytes:
    return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)


def _refused() -> InvalidInput:
    return InvalidInput("cursor: it is not of this read, or what is read has changed since; begin the read anew")
