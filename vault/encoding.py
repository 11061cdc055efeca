"""Bytes that two programs must agree on: canonical tuples, canonical JSON, ids and times.

What is authenticated (an AAD, an HKDF info, a signed statement) has to have exactly one byte form.
Two forms are used, both specified in ``docs/reference/format.md`` section 2:

* ``canonical(*parts)`` for AADs and HKDF infos: each part as ``u32be length | bytes``. Lengths make it
  injective, so that no two different tuples share a byte string.
* ``json_bytes(value)`` for statements that people may want to read: UTF-8 JSON with sorted keys, no
  white space and no floats. Signatures are over the bytes as they stand, so a reader never has to
  re-encode in order to verify.

This module does no I/O and holds no keys.
"""

import base64
import binascii
import json
import os
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from vault.errors import IntegrityError, InvalidInput

__all__ = [
    "ID_BYTES",
    "LONGEST",
    "asked_time",
    "canonical",
    "duration",
    "from_base64",
    "from_canonical",
    "from_json",
    "from_timestamp",
    "is_id",
    "json_bytes",
    "new_id",
    "timestamp",
    "to_base64",
    "utcnow",
]

ID_BYTES = 16
#: The longest duration that is taken: a moment that far ahead can still be written down.
LONGEST = timedelta(days=36_525)
_ID = re.compile(r"[0-9a-f]{32}")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
#: What holds nothing else, and is no float.
_PLAIN = frozenset({str, int, bool, type(None)})
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def canonical(*parts: bytes | str | int) -> bytes:
    """Encode a tuple injectively: each part is ``u32be length | bytes``.

    Text is UTF-8; an integer is eight bytes, big-endian and unsigned.
    """
    encoded = bytearray()
    for part in parts:
        if isinstance(part, str):
            part = part.encode("utf-8")
        elif isinstance(part, int):
            part = struct.pack(">Q", part)
        encoded += struct.pack(">I", len(part))
        encoded += part
    return bytes(encoded)


def from_canonical(data: bytes | memoryview) -> Iterator[bytes]:
    """The parts of what `canonical` wrote, one by one; raises IntegrityError where one is cut off."""
    at, view = 0, memoryview(data)
    while at < len(view):
        start = at + 4
        at = start + (struct.unpack_from(">I", view, at)[0] if start <= len(view) else len(view))
        if at > len(view):
            raise IntegrityError("what was read is cut off")
        yield bytes(view[start:at])


def json_bytes(value: Any) -> bytes:
    """Encode as canonical JSON (sorted keys, no white space, UTF-8). Floats are refused."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("canonical JSON holds no floats: their text form is not unique")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        if type(item) not in _PLAIN:
            _refuse_floats(item)


def from_json(data: bytes, what: str) -> Any:
    """Decode JSON that dsvault itself wrote; ``what`` names it in the error.

    Raises IntegrityError: our own documents are never malformed unless somebody changed them.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not the JSON document that dsvault writes") from error


def to_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, what: str) -> bytes:
    """Strict inverse of `to_base64`; raises IntegrityError naming ``what``."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise IntegrityError(f"{what} is not valid base64") from error


def new_id() -> str:
    """A fresh random 128-bit id as 32 lower-case hex digits."""
    return os.urandom(ID_BYTES).hex()


def is_id(text: object) -> bool:
    """Whether ``text`` has the form of an id made by `new_id`."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def utcnow() -> datetime:
    """The present time in UTC; one place, so that tests can say where time comes from."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """A moment as ``YYYY-MM-DDTHH:MM:SS.ffffffZ`` (RFC 3339, UTC), which sorts as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_timestamp(text: str) -> datetime:
    """Inverse of `timestamp`; raises IntegrityError."""
    try:
        if _TIMESTAMP.fullmatch(text) is None:
            raise ValueError
        return datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise IntegrityError("a time is not in the form that dsvault writes") from error


def asked_time(given: str | datetime | timedelta, option: str, now: datetime, *, ahead: bool = False) -> datetime:
    """A moment as somebody asks for it: ISO 8601, in UTC where it has no offset, or so long before now, or ``ahead``.

    The one place where such times are read. Raises InvalidInput naming ``option``.
    """
    sign = 1 if ahead else -1
    try:
        if isinstance(given, timedelta):
            found = now + sign * given
        elif isinstance(given, datetime):
            found = given
        elif _DURATION.fullmatch(given.strip()):
            found = now + sign * duration(given, option)
        else:
            found = datetime.fromisoformat(given.strip())
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except ValueError:
        how = "a duration from now such as 12h" if ahead else "how long ago, such as 12h"
        raise InvalidInput(
            f"{option}: {str(given)[:80]!r} is neither a time such as 2026-12-01T08:00:00Z nor {how}"
        ) from None
    except OverflowError as error:
        raise InvalidInput(f"{option}: {str(given)[:80]!r} is beyond the times that can be written") from error


def duration(text: str, option: str) -> timedelta:
    """Read ``90s``, ``15m``, ``12h``, ``30d`` or ``2w``; raises InvalidInput naming ``option``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{option}: '{text}' is not a duration such as 90s, 15m, 12h or 30d")
    try:
        found = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError as error:
        raise InvalidInput(f"{option}: '{text}' is too long") from error
    if found > LONGEST:
        raise InvalidInput(f"{option}: '{text}' is longer than a hundred years")
    return found
