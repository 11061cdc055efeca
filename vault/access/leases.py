"""Delivery as a lease: the broker hands out chunk keys, and the vendor's client fetches and decrypts by itself.

A lease comes in pages of shards. Each page is a request of its own: decided, charged for whole chunks, and written down
as served before a key goes out. A chunk key opens one object and nothing else, so a page gives away no more than the
same rows in plaintext would. What is fetched is ciphertext, by addresses that end with the page.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import pyarrow as pa

from vault.access.callers import Arrival, Caller
from vault.access.permits import Permitted, permitted
from vault.access.places import Places
from vault.access.records import Charge, begin, mark, refusals_recorded
from vault.access.tickets import REFUSAL, presented
from vault.audit import Kind
from vault.cursors import SALT_BYTES, Cursor, Ticket, open_ticket, seal_ticket
from vault.derivation import chunk_key, ticket_key
from vault.encoding import canonical, timestamp, to_base64
from vault.errors import LimitReached, NotFound, NotGranted
from vault.keyring import ScopedKeyring
from vault.limits import Usage, left
from vault.manifest import Shard
from vault.model import FORMAT
from vault.policy import Basis, Permit, Request, still_allowed
from vault.wire import OBJECTS_PATH, LeasedChunk, LeasedGroup, LeasedShard, LeasePage
from vault.workings.parts import Parts, own_metadata_key, trusted_now
from vault.workings.reading import Position, ReadPlan, group_shape, identity_of, runs
from vault.workings.versions import side_by_side

__all__ = ["LIFE", "MOST_BYTES", "LeasedObject", "lease_page", "leased_object"]

#: The longest that the addresses of a page are good for.
LIFE: Final = timedelta(seconds=300)
#: The most ciphertext that one page is about, but for a single shard that is larger.
MOST_BYTES: Final = 4 << 30
_MOST_CHUNKS: Final = 1024
#: Ciphertext goes through the broker in pieces of this many bytes; before each, the head is looked at again.
_PIECE: Final = 4 << 20


def lease_page(
    parts: Parts,
    asking: Caller | Arrival,
    request: Request,
    cursor: bytes | None = None,
    *,
    most_bytes: int = MOST_BYTES,
    direct: bool = True,
) -> LeasePage:
    """Decide on a page of a lease, charge it, write it down, and open the keys of its chunks.

    ``cursor`` is where an earlier page said that the next one, or one of its shards, begins. ``most_bytes`` bounds the
    ciphertext that the page is about, at a shard at least; ``direct`` takes addresses of the store where it has any.
    Raises what `open_delivery` does, and LimitReached where not even one shard may be had.
    """
    arrival = asking if isinstance(asking, Arrival) else Arrival(asking)
    with refusals_recorded(parts, arrival, request):
        allowed = permitted(parts, arrival.caller, request)
        permit = allowed.permit
        plan = ReadPlan(allowed.version, permit.columns, (), None)
        places, sent = Places(parts, "dsvault lease", permit, plan), 0
        if cursor is not None:
            place = places.open(cursor)
            sent = place.sent
            plan = replace(plan, start=Position(place.shard, 0))
        now = trusted_now(parts)
        until = min(now + LIFE, permit.ends or now + LIFE)
        _, page = begin(
            parts, arrival, permit, Kind.LEASED, lambda usage: _page(allowed, plan, most_bytes, usage, until)
        )
    mark(parts)
    link_seconds = max(1, int((until - now).total_seconds())) if direct else None
    return _Handing(parts, allowed, places, until, link_seconds).page(plan, page.shards, sent)


@dataclass(frozen=True, slots=True)
class _Page(Charge):
    """The shards of a page, what they are charged, and what the entry says of them."""

    shards: Sequence[Shard]


def _page(allowed: Permitted, plan: ReadPlan, most_bytes: int, usage: Usage, until: datetime) -> _Page:
    """As many of the next shards as a page holds and the limits leave room for; LimitReached where that is none."""
    limits, listings = allowed.permit.grant.limits, plan.chosen
    rows_left, bytes_left = left(limits, usage, "rows"), left(limits, usage, "bytes")
    shards: list[Shard] = []
    rows = size = 0
    most = max(1, _MOST_CHUNKS // max(1, len(listings)))
    for shard in side_by_side({group: listing.slice(0, most) for group, listing in listings.items()}):
        more_rows, more = rows + shard.rows, size + sum(ref.size for ref in shard.chunks.values())
        if (rows_left is not None and more_rows > rows_left) or (bytes_left is not None and more > bytes_left):
            if not shards:
                raise LimitReached("what the grant's limit leaves is less than a shard; read it as a stream")
            break
        if shards and more > min(most_bytes, MOST_BYTES):
            break
        shards.append(shard)
        rows, size = more_rows, more
    # All columns that the keys open, and not only those that were asked for.
    columns = [column for column in allowed.version.manifest.columns if column.group in listings]
    fields = {
        "delivery": "lease",
        "columns": [column.name for column in columns],
        "column_ids": [column.id for column in columns],
        **plan.held,
        "shards": runs(pa.array([shard.index for shard in shards], pa.int32())),
        "chunks": {group: _chunk_ids(shards, group) for group in sorted(listings)},
        "rows": rows,
        "bytes": size,
        "until": timestamp(until),
    }
    return _Page({"rows": rows, "bytes": size}, fields, shards)


def _chunk_ids(shards: Sequence[Shard], group: str) -> str:
    """The ids of the chunks of a group whose keys go out, one behind the other."""
    return to_base64(b"".join(bytes.fromhex(shard.chunks[group].chunk) for shard in shards))


@dataclass(frozen=True, slots=True)
class _Handing:
    """One page being handed out, after its entry is written."""

    parts: Parts
    allowed: Permitted
    places: Places
    until: datetime
    link_seconds: int | None

    def page(self, plan: ReadPlan, taken: Sequence[Shard], sent: int) -> LeasePage:
        """The page with its keys and addresses; ``sent`` rows were handed out before it."""
        permit, version = self.allowed.permit, self.allowed.version
        groups = sorted(plan.chosen)
        keys = ScopedKeyring(
            self.parts.keyring,
            {version.keys[group].scope for group in groups},
            lambda: still_allowed(permit.basis, self.parts.heads.vendor(permit.vendor), self.parts.clock()),
        )
        opened = {group: keys.open(version.keys[group]) for group in groups}
        tickets = _Tickets(self.parts, permit, self.until)
        total = sent + (plan.chosen[groups[0]].rows if groups else 0)
        shards = []
        for shard in taken:
            chunks = tuple(self._chunk(shard, group, opened[group], tickets) for group in groups)
            shards.append(LeasedShard(shard.rows, self.places.seal(Cursor(shard.index, 0, sent)), chunks))
            sent += shard.rows
        return LeasePage(
            vault=self.parts.vault,
            grant=permit.grant.id,
            version=permit.version,
            until=timestamp(self.until),
            rows=total,
            schema=plan.schema,
            groups=tuple(self._group(group) for group in groups),
            shards=tuple(shards),
            # A shard behind the last one that was handed out: wherever the next one is, the page begins there.
            next=self.places.seal(Cursor(taken[-1].index + 1, 0, sent)) if sent < total else None,
        )

    def _group(self, group: str) -> LeasedGroup:
        scope, shape = self.allowed.version.keys[group].scope, group_shape(self.allowed.version.manifest, group)
        return LeasedGroup(scope.compartment, group, scope.epoch, shape.schema, dict(shape.formerly))

    def _chunk(self, shard: Shard, group: str, data_key: bytes, tickets: "_Tickets") -> LeasedChunk:
        ref = shard.chunks[group]
        key = chunk_key(data_key, identity_of(self.allowed.version.keys[group], ref))
        link = self.parts.store.link(ref.object, self.link_seconds) if self.link_seconds is not None else None
        return LeasedChunk(ref.chunk, key, ref.size, ref.checksum, link or tickets.path(ref.object, ref.size))


class _Tickets:
    """Addresses at the broker for the objects of one page."""

    def __init__(self, parts: Parts, permit: Permit, until: datetime) -> None:
        self._permit = permit
        self._until = until
        self._salt = os.urandom(SALT_BYTES)
        self._key = ticket_key(own_metadata_key(parts, permit.vendor), self._salt)
        self._bound = _ticket_bound(parts, permit.vendor)

    def path(self, name: str, size: int) -> str:
        """The path of an object."""
        permit = self._permit
        ticket = Ticket(
            name, size, permit.credential, permit.grant.id, permit.grant_digest, permit.delegations, self._until
        )
        sealed = bytes.fromhex(permit.vendor) + seal_ticket(self._key, self._salt, self._bound, ticket)
        return OBJECTS_PATH + base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")


def _ticket_bound(parts: Parts, vendor: str) -> bytes:
    return canonical("dsvault ticket", FORMAT[0], parts.vault, vendor)


@dataclass(frozen=True, slots=True)
class LeasedObject:
    """The ciphertext that a ticket is for, ``size`` bytes."""

    size: int
    _parts: Parts = field(repr=False)
    _basis: Basis = field(repr=False)
    _name: str = field(repr=False)

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, for as long as the vendor may have them, and they are there."""
        for at in range(start, stop, _PIECE):
            self.check()
            try:
                yield self._parts.store.get_range(self._name, at, min(stop, at + _PIECE))
            except NotFound as error:
                # Such as one that was superseded by a rekey, once gc has run.
                raise NotGranted(REFUSAL) from error

    @property
    def vendor(self) -> str:
        """Whose it is."""
        return self._basis.vendor

    def check(self) -> None:
        """Raise Frozen or NotGranted when the vendor may not have it any more."""
        still_allowed(self._basis, self._parts.heads.vendor(self._basis.vendor), self._parts.clock())


def leased_object(parts: Parts, ticket: str, *, vendors: frozenset[str] | None = None) -> LeasedObject:
    """The object that a ticket of a page is for; it needs no credential beside, and gives ciphertext only.

    Raises NotGranted, with one sentence, for any ticket that is not good here and now, and Frozen.
    """
    vendor, key, sealed = presented(parts, ticket, vendors)
    found = open_ticket(key, _ticket_bound(parts, vendor), sealed)
    basis = Basis(vendor, found.credential, found.grant, found.grant_digest, found.delegations, found.until)
    still_allowed(basis, parts.heads.vendor(vendor), trusted_now(parts))
    return LeasedObject(found.size, parts, basis, found.object)
