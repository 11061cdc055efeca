"""Reading a shared file by its address: a plain Parquet file, whole or in ranges, as often as its reader likes.

An address is leave enough, as that of a signed object in a store would be, and here it gives rows in the clear. So each
request is decided anew: the ticket's time, the vendor's head, the credential's networks, and that the version and every
key it was sealed under are live still. And each is an entry of the log that says which columns and rows are in the
file, durable before a key is opened and a byte leaves.
"""

import hmac
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from vault import spool
from vault.access.callers import Caller, may_come_from
from vault.access.permits import live_version, mask_key
from vault.access.regaining import regained
from vault.access.spooling import Damaged, data_keys, facts_of, segments_of, spool_bound
from vault.access.tables import file_bound
from vault.access.tickets import REFUSAL, presented
from vault.audit import Kind
from vault.cursors import FileTicket, open_file_ticket
from vault.derivation import spool_key
from vault.errors import Abandoned, NotFound, NotGranted
from vault.keyring import ScopedKeyring, WrappedKey
from vault.policy import Basis, still_allowed
from vault.workings.parts import Parts, trusted_now

__all__ = ["ReadableFile", "shared_file"]

#: At most so many segments are fetched and opened at a time, one at first: clients ask for all of a file to see whether
#: it is there, and leave. Before each run of them the head is looked at again.
_SEGMENTS: Final = 16


@dataclass(frozen=True, slots=True, repr=False)
class ReadableFile:
    """The file that a ticket is for, ``size`` bytes."""

    size: int
    _parts: Parts
    _basis: Basis
    _ticket: FileTicket
    _address: str
    _facts: Any
    _salt: bytes
    _head: int
    _keys: list[WrappedKey]
    _go_on: Callable[[], None]

    @property
    def vendor(self) -> str:
        """Whose it is."""
        return self._basis.vendor

    def check(self) -> None:
        """Raise Frozen or NotGranted when the vendor may not have it any more."""
        _check(self._parts, self._basis)

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, once it is written down that they leave. Raises AuditError.

        A segment that is not as it was sealed is never among them: the object is built anew, and read from there on.
        """
        parts = self._parts
        # The rows of a file take up to as many bits: ranges of one that is read in many say them once a minute.
        again = parts.spools.read_before(self._ticket.object)
        number = parts.journal.record(Kind.FILE_READ, **self._said(start, stop, again))
        parts.journal.hold(number)
        if again is None:
            parts.spools.was_read(self._ticket.object, number)
        read = self._segments(self._salt, self._head)
        first, run = start, 1
        while first < stop:
            self.check()
            last = min(stop, (first // spool.SEGMENT_BYTES + run) * spool.SEGMENT_BYTES)
            found = spool.window(self.size, first, last)
            try:
                plain = read(found)
            except (NotFound, Damaged):
                read = self._again(found, read)
                plain = read(found)
            skipped = first - found.first * spool.SEGMENT_BYTES
            yield plain[skipped : skipped + last - first]
            first, run = last, min(4 * run, _SEGMENTS)

    def _segments(self, salt: bytes, head: int) -> Callable[[spool.Window], bytes]:
        """What reads segments of the object that has that salt."""
        parts, ticket = self._parts, self._ticket
        bound = spool_bound(parts, self.vendor, ticket.object, ticket.binding)
        keyring = ScopedKeyring(parts.keyring, {key.scope for key in self._keys}, self.check)
        key = spool_key([keyring.open(each) for each in self._keys], salt, bound)
        return lambda found: segments_of(parts, ticket.object, head, found, key, bound)

    def _again(self, found: spool.Window, read: Callable[[spool.Window], bytes]) -> Callable[[spool.Window], bytes]:
        """What reads segments that could not be read: from the object as it is, or from one that is built anew."""
        with suppress(NotFound, Damaged):
            # A transfer that was cut is no damage: nothing is removed that opens when it is looked at again.
            read(found)
            return read
        caller = _caller(self.vendor, self._ticket, self._address)
        facts, salt, head = regained(self._parts, caller, self._ticket, self._salt, self._go_on)
        if not _is_of(facts, self._ticket):
            raise NotGranted(REFUSAL)
        return self._segments(salt, head)

    def _said(self, start: int, stop: int, again: int | None) -> dict[str, object]:
        """What the entry says: any of the file's rows may be in any of its bytes."""
        facts, ticket = self._facts, self._ticket
        told = {name: facts[name] for name in ("vendor", "grant", "purpose", "dataset", "dataset_id", "version")}
        return {
            **told,
            "vendor_id": self.vendor,
            "credential": ticket.credential,
            "delegates": [],
            "subject": ticket.subject,
            "address": self._address,
            "delivery": "sharing",
            **{name: facts[name] for name in ("columns", "column_ids", "masks", "filtered", "rows")},
            **({"served": facts["served"]} if again is None else {"again": again}),
            **facts["held"],
            "shards": [[facts["shard"], facts["shard"]]],
            "range": [start, stop],
            "bytes": stop - start,
            "size": self.size,
        }


def shared_file(
    parts: Parts,
    ticket: str,
    address: str,
    *,
    vendors: frozenset[str] | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> ReadableFile:
    """The file that a ticket is for; it needs no credential beside. ``gone`` says whether whoever asks has gone away.

    Raises NotGranted, with one sentence, for any ticket that is not good here, now and from there, Frozen, and where
    the file has to be built anew what `regained` does.
    """
    vendor, key, sealed = presented(parts, ticket, vendors)
    found = open_file_ticket(key, file_bound(parts, vendor), sealed)
    basis = Basis(vendor, found.credential, found.grant, found.grant_digest, (), found.until)

    def go_on() -> None:
        if gone():
            raise Abandoned("the client went away")
        _check(parts, basis)

    _check(parts, basis)
    if not may_come_from(parts, found.credential, address):
        raise NotGranted(REFUSAL)
    try:
        facts, salt, head = facts_of(parts, vendor, found.object, found.binding, found.head)
    except (NotFound, Damaged):
        facts, salt, head = regained(parts, _caller(vendor, found, address), found, None, go_on)
    try:
        keys = _live_keys(parts, vendor, facts)
    except NotFound:
        raise NotGranted(REFUSAL) from None
    if keys is None or not _is_of(facts, found):
        raise NotGranted(REFUSAL)
    return ReadableFile(found.size, parts, basis, found, address, facts, salt, head, keys, go_on)


def _is_of(facts: Any, ticket: FileTicket) -> bool:
    """Whether a file is the one that an address was handed out of, byte for byte."""
    return bool((facts["size"], facts["checksum"]) == (ticket.size, ticket.checksum))


def _check(parts: Parts, basis: Basis) -> None:
    still_allowed(basis, parts.heads.vendor(basis.vendor), trusted_now(parts))


def _caller(vendor: str, ticket: FileTicket, address: str) -> Caller:
    """Whoever was handed an address out, as who may have its file."""
    return Caller(vendor, ticket.credential, address, ticket.until, subject=ticket.subject)


def _live_keys(parts: Parts, vendor: str, facts: Any) -> list[WrappedKey] | None:
    """The keys that a file was sealed under, or None where one was replaced: by a rekey, or since rows were erased."""
    version, groups = live_version(parts, vendor, facts["dataset_id"], facts["version"]), facts["held"]["groups"]
    if not version.manifest.groups >= set(groups):
        return None
    keys = data_keys(version.keys, groups, mask_key(parts, vendor) if facts["hashed"] else None)
    ids = "".join(key.key_id for key in keys)
    return keys if hmac.compare_digest(ids, "".join(facts["keys"])) else None
