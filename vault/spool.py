"""Spooled files: a plain file of a permit's rows, sealed so that any range of it can be opened by itself.

``magic 8 | salt 32 | length of the facts u32be | facts sealed | segments``. The facts (canonical JSON: what the file is
of) and each segment of 256 KiB (the last one may be shorter) are sealed with AES-256-GCM (NIST SP 800-38D), under two
keys that both follow from the salt, which is random for every object that is ever put. So no two objects share a key,
also where two brokers seal the same file at once, and a counter is a nonce that is used once. A segment's associated
data are what it is bound to, its number, and whether it is the last: none can be taken out, put in another place, or
come from another object. ``docs/reference/format.md`` section 14.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.encoding import canonical, from_json, json_bytes
from vault.errors import IntegrityError, InvalidInput
from vault.model import FORMAT

__all__ = [
    "FOLDER",
    "PREFIX_BYTES",
    "SALT_BYTES",
    "SEGMENT_BYTES",
    "About",
    "Prefix",
    "SpoolLimits",
    "Window",
    "bound_to",
    "end_of",
    "ends",
    "new_salt",
    "object_name",
    "open_facts",
    "sealed",
    "sealed_size",
    "vendor_of",
    "window",
    "window_end",
]

#: Where spooled files are in the store: ``spool/<end of the window>/<vendor id>/<keyed name>``.
FOLDER: Final = "spool"
SALT_BYTES: Final = 32
#: Of the plain file in each segment but the last.
SEGMENT_BYTES: Final = 256 << 10
_MAGIC: Final = b"DSVSPL01"
_FORM: Final = struct.Struct(f">8s{SALT_BYTES}sI")
#: What is before the facts.
PREFIX_BYTES: Final = _FORM.size
_TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12
#: More is not read, whatever an object says: a bitmap of 131,072 rows and 10,000 names fit many times.
_MOST_FACTS: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """For how long a spooled file's address is good, and how many bytes may be spooled at a time.

    ``vendor_bytes`` for one vendor, ``total_bytes`` for all. Raises InvalidInput for a life that is not 1 minute to 1
    day, or a number that is not positive.
    """

    life: timedelta = timedelta(hours=1)
    vendor_bytes: int = 64 << 30
    total_bytes: int = 256 << 30

    def __post_init__(self) -> None:
        if not timedelta(minutes=1) <= self.life <= timedelta(days=1):
            raise InvalidInput("a shared file's address is good for 1m to 1d")
        if self.vendor_bytes < 1 or self.total_bytes < 1:
            raise InvalidInput("a number of bytes is 1 or more")


def window_end(now: datetime, life: timedelta) -> int:
    """When nobody has an address any more of what is spooled now, in seconds since 1970.

    What is asked for within one window is built once for all of it, and each address is good for ``life``.
    """
    seconds = round(life.total_seconds())
    return (int(now.timestamp()) // seconds + 2) * seconds


def object_name(end: int, vendor: str, name: str) -> str:
    """The name of a spooled file's object."""
    return f"{FOLDER}/{end}/{vendor}/{name}"


def end_of(name: str) -> int:
    """When the window of an object is over, in seconds since 1970; what is no such name never was one."""
    pieces = name.split("/")
    try:
        return int(pieces[1])
    except (IndexError, ValueError):
        return 0


def ends(name: str) -> datetime:
    """The same as a time."""
    try:
        return datetime.fromtimestamp(end_of(name), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def vendor_of(name: str) -> str:
    """The id of the vendor whose file an object is."""
    pieces = name.split("/")
    return pieces[2] if len(pieces) == 4 else ""


@dataclass(frozen=True, slots=True)
class About:
    """All that decides what is in the files of one permit: two that are equal in it are equal byte for byte.

    ``content`` are the content ids of what is read, ``columns`` each column's id and fields, ``keys`` the group, epoch
    and key id of each data key, ``schema`` the Delta schema, ``encoder`` what writes the files, and ``end`` when nobody
    has an address of them any more.
    """

    vault: str
    vendor: str
    grant_digest: str
    version: int
    content: bytes
    columns: Sequence[tuple[str, bytes]]
    keys: Sequence[tuple[str, int, str]]
    delegations: Sequence[str]
    schema: str
    encoder: str
    end: int
    _hash: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        about = (
            *(self.vault, self.vendor, self.grant_digest, self.version, self.content),
            canonical(*(text for column in self.columns for text in column)),
            canonical(*(text for key in self.keys for text in key)),
            *(canonical(*self.delegations), self.schema, self.encoder, self.end),
        )
        # A grant's shards may be many, and they differ at the end alone.
        begun = hashlib.sha256(canonical("dsvault spool binding", FORMAT[0], *about))
        object.__setattr__(self, "_hash", begun)

    def binding(self, shard: int) -> str:
        """What the file of a shard is sealed for, as hex."""
        hashed = self._hash.copy()
        hashed.update(canonical(shard))
        found: str = hashed.hexdigest()
        return found


def bound_to(vault: str, vendor: str, name: str, binding: str) -> bytes:
    """What every sealed piece of an object is bound to."""
    return canonical("dsvault spool", FORMAT[0], vault, vendor, name, binding)


@dataclass(frozen=True, slots=True)
class Prefix:
    """How an object begins: its salt, and how long all is that comes before the segments."""

    salt: bytes
    head: int

    @classmethod
    def parse(cls, data: bytes) -> "Prefix":
        """Read the first `PREFIX_BYTES`; raises IntegrityError."""
        if len(data) < PREFIX_BYTES:
            raise _changed()
        magic, salt, length = _FORM.unpack(data[:PREFIX_BYTES])
        if magic != _MAGIC or not _TAG_BYTES <= length <= _MOST_FACTS:
            raise _changed()
        return cls(salt, PREFIX_BYTES + length)


def new_salt() -> bytes:
    """The salt of one object."""
    return os.urandom(SALT_BYTES)


def sealed(
    facts: Mapping[str, Any], facts_key: bytes, data: memoryview, key: bytes | None, salt: bytes, bound: bytes
) -> Iterator[bytes]:
    """An object, piece by piece; both keys have to be of this salt. Without data there are facts alone, and no key."""
    told = AESGCM(facts_key).encrypt(_nonce(0), json_bytes(facts), canonical("dsvault spool facts", bound))
    yield _FORM.pack(_MAGIC, salt, len(told)) + told
    if key is None:
        return
    cipher, count = AESGCM(key), _count(len(data))
    for number in range(count):
        piece = data[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
        yield cipher.encrypt(_nonce(number), piece, _bound(bound, number, count))


def sealed_size(facts: Mapping[str, Any], size: int) -> int:
    """How long the object of a file of ``size`` bytes is."""
    return PREFIX_BYTES + len(json_bytes(facts)) + _TAG_BYTES + size + _count(size) * _TAG_BYTES


def open_facts(head: bytes, facts_key: bytes, bound: bytes) -> dict[str, Any]:
    """What is said of a file, from all that comes before the segments; raises IntegrityError."""
    if len(head) != Prefix.parse(head).head:
        raise _changed()
    try:
        plain = AESGCM(facts_key).decrypt(_nonce(0), head[PREFIX_BYTES:], canonical("dsvault spool facts", bound))
    except InvalidTag as error:
        raise _changed() from error
    found: dict[str, Any] = from_json(plain, "what is said of a spooled file")
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """Segments that hold some bytes of a file of ``size`` bytes: from ``first`` on, and before ``stop``.

    ``start`` and ``end`` are where they lie in the object behind its head.
    """

    size: int
    first: int
    stop: int

    @property
    def start(self) -> int:
        """Where the first of them begins."""
        return self.first * (SEGMENT_BYTES + _TAG_BYTES)

    @property
    def end(self) -> int:
        """Where the last of them ends."""
        return min(self.stop * (SEGMENT_BYTES + _TAG_BYTES), self.size + _count(self.size) * _TAG_BYTES)

    def open(self, data: bytes, key: bytes, bound: bytes) -> bytes:
        """The plain bytes of these segments; raises IntegrityError where one is not as it was sealed."""
        cipher, count, view = AESGCM(key), _count(self.size), memoryview(data)
        if len(view) != self.end - self.start:
            raise _changed()
        step = SEGMENT_BYTES + _TAG_BYTES
        try:
            return b"".join(
                cipher.decrypt(_nonce(number), view[at : at + step], _bound(bound, number, count))
                for number, at in zip(range(self.first, self.stop), range(0, len(view), step), strict=True)
            )
        except (InvalidTag, ValueError) as error:
            raise _changed() from error


def window(size: int, start: int, stop: int) -> Window:
    """The segments that the bytes from ``start`` up to ``stop`` lie in."""
    return Window(size, start // SEGMENT_BYTES, min(_count(size), -(-stop // SEGMENT_BYTES)))


def _count(size: int) -> int:
    return -(-size // SEGMENT_BYTES)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _bound(bound: bytes, number: int, count: int) -> bytes:
    return canonical("dsvault spool segment", bound, number, int(number == count - 1))


def _changed() -> IntegrityError:
    return IntegrityError("a spooled file in the store is not as it was sealed")
