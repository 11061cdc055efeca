"""Reading a range of the log: each entry is checked, opened, and gathered if it concerns the vendor.

What is checked here is each entry by itself: its number, its hash, its time. Whoever puts ranges together holds their
hashes against the signed end of the log. Most entries are of others' deliveries; of those no more is read than that.
"""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from vault.audit import DELIVERIES, Kind, Opener, check_leaves
from vault.catalog import Catalog
from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError
from vault.exposure import Gathering
from vault.incident.decoding import WRONG, Decoder

__all__ = ["Asked", "Range", "read_range"]

_KIND: Final = b'"kind":"'
#: Entries of deliveries: each names the vendor that it is of by its id.
_OF_DELIVERIES: Final = frozenset(kind.value.encode() for kind in DELIVERIES)
#: Entries that are checked, and then opened, at a time.
_PAGE: Final = 500
#: No clock is wrong by so much.
_FAR_AHEAD: Final = timedelta(days=3653)
_ADDED: Final = Kind.VENDOR_ADDED.value.encode()


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """What is read for: a vendor by its id, with ``name`` None; or the id of the vendor of that name, or id.

    ``every`` says that no auditor's secret is missing: what does not open is false then, and is counted as odd.
    """

    vault: str
    secrets: tuple[bytes, ...]
    vendor: str = ""
    name: str | None = None
    since: str | None = None
    until: str | None = None
    every: bool = False

    def __repr__(self) -> str:
        return f"Asked({self.vendor or self.name})"


@dataclass(slots=True)
class Range:
    """What a range holds: hashes of its entries in one piece, its first and last time, and what was gathered.

    ``found`` is the id of the vendor whose name was asked for, where it was added in this range.
    """

    after: int
    last: int
    hashes: bytes
    first_time: str
    last_time: str
    gathered: Gathering = field(repr=False)
    found: str | None = None


def read_range(catalog: Catalog, opener: Opener, asked: Asked, after: int, last: int) -> Range:
    """Read the entries behind one and up to another.

    Raises IntegrityError that names an entry that is wrong or does not open, and Unavailable.
    """
    with _without_collector():
        return _read_range(catalog, opener, asked, after, last)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Within it Python looks for no cycles of objects: of the millions that are made here none is in one."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read_range(catalog: Catalog, opener: Opener, asked: Asked, after: int, last: int) -> Range:
    gathered = Gathering(asked.vendor, asked.since, asked.until)
    hashes, before, first, number, found = bytearray(), "", "", after, None
    vendor, name, decoder = asked.vendor.encode(), asked.name, Decoder()
    with catalog.read() as transaction:
        rows = transaction.log_range(after, last)
        while page := list(islice(rows, _PAGE)):
            hashes += b"".join(check_leaves(page, number, before))
            before, first = page[-1][1], first or page[0][1]
            for number, time, sealed, _ in page:
                try:
                    plain = opener.plain(sealed)
                except IntegrityError as error:
                    if not asked.every:
                        raise IntegrityError(f"log entry {number}: {error}") from error
                    gathered.odd.append(number)
                    continue
                if name is not None:
                    found = found or _added(plain, name)
                elif vendor in plain or _kind(plain) not in _OF_DELIVERIES:
                    _gather(gathered, number, decoder, plain, time)
    if number != last:
        raise IntegrityError(f"log entry {number + 1} is missing or out of order")
    gathered.last_number, gathered.last_time = last, _through(before)
    return Range(after, last, bytes(hashes), first, before, gathered, found)


def _through(time: str) -> str:
    """The time of a last entry, or now, where somebody wrote what is no time there, or one that is far ahead."""
    now = datetime.now(UTC)
    try:
        return time if from_timestamp(time) < now + _FAR_AHEAD else timestamp(now)
    except IntegrityError:
        return timestamp(now)


def _kind(plain: bytes) -> bytes | None:
    """The kind that an entry says first, of which there is no telling that it is of the right form."""
    at = plain.find(_KIND)
    return plain[at + len(_KIND) : plain.find(b'"', at + len(_KIND))] if at >= 0 else None


def _gather(gathered: Gathering, number: int, decoder: Decoder, plain: bytes, placed: str) -> None:
    try:
        kind, time, fields, alike = decoder.decode(plain)
    except WRONG:
        gathered.odd.append(number)
        return
    gathered.add(number, kind, time, fields, placed, alike)


def _added(plain: bytes, name: str) -> str | None:
    """The id of a vendor of a name, or of that id, from the entry that says that it was added."""
    if _kind(plain) != _ADDED:
        return None
    try:
        document = json.loads(plain)
        vendor = document["vendor_id"]
        return vendor if isinstance(vendor, str) and name in (document["vendor"], vendor) else None
    except WRONG:
        return None  # somebody appended it, and it adds nobody
