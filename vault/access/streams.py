"""Delivery as a stream: the broker decrypts, filters, masks and sends Arrow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from vault.access.accounts import Account
from vault.access.callers import Arrival, Caller
from vault.access.cutting import shards_of_part
from vault.access.permits import Permitted, mask_key, masks_of, permitted
from vault.access.places import Places
from vault.access.records import Charge, Outdated, begin, day, mark, refusals_recorded
from vault.audit import Kind
from vault.catalog import Transaction
from vault.compact import compact_batch
from vault.cursors import Cursor
from vault.encoding import new_id
from vault.errors import Abandoned, LimitReached, VaultError
from vault.fields import shown
from vault.filters import parse
from vault.keyring import ScopedKeyring
from vault.limits import Usage, left
from vault.policy import Permit, Request, still_allowed
from vault.workings.parts import Parts, trusted_now
from vault.workings.reading import Placed, Position, ReadPlan, read_batches

__all__ = ["Delivery", "open_delivery", "planned"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A read that was allowed and recorded: its schema, and its batches, read once.

    ``cursor`` gives the sealed place behind the batch that was taken last: whoever has the read may go on from there.
    ``check`` raises Frozen, NotGranted or Unavailable when no further batch would be given: for whoever holds one back.
    ``short`` says that there is one batch at the most. ``total`` is how many rows the whole read has, wherever it was
    taken up. Both are told of reads only that no filter of others narrows: else they would tell of rows that it hides.
    """

    permit: Permit
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    cursor: Callable[[], bytes]
    check: Callable[[], None]
    short: bool
    total: int | None


def open_delivery(
    parts: Parts,
    asking: Caller | Arrival,
    request: Request,
    where: str | None = None,
    cursor: bytes | None = None,
    *,
    gone: Callable[[], bool] = lambda: False,
) -> Delivery:
    """Decide on a read and, if it is allowed, begin it; ``where`` is the caller's own predicate as it was sent.

    ``cursor`` is from an earlier delivery of the very same: it goes on behind the batch that the cursor came with. The
    proof of one who only arrived is used up in the very change that begins the read. ``gone`` says whether whoever asks
    has gone away: the read ends then before it opens another chunk, also where no row was found yet, with Abandoned.
    Raises Unauthenticated where the proof was used up before; Frozen, Conflict, NotGranted or InvalidInput, each
    logged; AuditError when the log cannot be written: then nothing is served.
    """
    arrival = asking if isinstance(asking, Arrival) else Arrival(asking)
    with refusals_recorded(parts, arrival, request):
        if where is not None:
            request = replace(request, where=parse(where, "where"))
        try:
            return _opened(parts, arrival, request, cursor, gone, held=True)
        except Outdated:
            return _opened(parts, arrival, request, cursor, gone, held=False)


def _opened(
    parts: Parts, arrival: Arrival, request: Request, cursor: bytes | None, gone: Callable[[], bool], *, held: bool
) -> Delivery:
    """A read that is decided on, and has begun; with ``held``, Outdated where a version that was held is no more."""
    caller = arrival.caller
    allowed = permitted(parts, caller, request, held=held)
    permit = allowed.permit
    keys, plan = planned(parts, caller, allowed, gone)
    total = _total(allowed, plan)
    cursors = _Cursors(parts, permit, plan, cursor)
    plan = cursors.plan

    def holds(transaction: Transaction) -> bool:
        return not held or allowed.is_newest(parts, transaction)

    def check() -> None:
        still_allowed(permit.basis, parts.heads.vendor(caller.vendor), trusted_now(parts))

    nonce = new_id()
    charge = Charge({}, {**_fields(permit, plan), "nonce": nonce})
    read, _ = begin(parts, arrival, permit, Kind.READ_BEGUN, lambda _usage: charge, holds)
    account = Account(parts, caller, permit, read, nonce)
    batches = _deliver(parts, permit, keys, cursors, check, account)
    short = plan.short and not allowed.narrowed
    return Delivery(permit, plan.schema, batches, cursors.seal, check, short, total)


def _total(allowed: Permitted, plan: ReadPlan) -> int | None:
    """How many rows the whole read has, where whoever may read them could count them.

    Not with any filter, and not with a limit on what may be read in all: it may be reached before the last row.
    """
    permit = allowed.permit
    if allowed.filters or allowed.closed:
        return None
    rows = allowed.version.manifest.rows
    if permit.part is not None:
        # Without a filter the plan has all of the part's shards, or as many as the limit reaches.
        rows = next((listing.rows for listing in plan.chosen.values()), 0)
    return rows if permit.limit is None else min(rows, permit.limit)


class _Cursors:
    """The cursors of one delivery, and the plan that goes on from the one it was asked with."""

    def __init__(self, parts: Parts, permit: Permit, plan: ReadPlan, given: bytes | None) -> None:
        self._places = Places(parts, "dsvault cursor", permit, plan)
        self.plan = plan
        self._sent, self._position = 0, Position(0, 0)
        if given is not None:
            before = self._places.open(given)
            self._sent, self._position = before.sent, Position(before.shard, before.row)
            left_over = permit.limit - before.sent if permit.limit is not None else None
            self.plan = replace(plan, start=self._position, limit=left_over)

    def advance(self, placed: Placed, rows: int) -> None:
        """A batch leaves, or the first rows of it."""
        self._position = Position(placed.position.shard, placed.first + rows)
        self._sent += rows

    def seal(self) -> bytes:
        """The place behind what has left."""
        return self._places.seal(Cursor(self._position.shard, self._position.row, self._sent))


def planned(
    parts: Parts, caller: Caller, allowed: Permitted, gone: Callable[[], bool] = lambda: False
) -> tuple[ScopedKeyring, ReadPlan]:
    """What a permit reads, and the keyring that opens just that."""
    permit, version = allowed.permit, allowed.version
    masks = masks_of(permit.grant, permit.columns)
    hashing = mask_key(parts, caller.vendor) if any(mask.keyed for mask in masks.values()) else None
    # Keys are opened when the plan is run, which is after the entry is written: here only names are bound.
    keys: ScopedKeyring

    def open_mask_key() -> bytes:
        assert hashing is not None
        return keys.open(hashing)

    def make() -> ReadPlan:
        among = shards_of_part(parts, allowed)
        return ReadPlan(version, permit.columns, allowed.filters, permit.limit, masks, open_mask_key, among=among)

    if masks or allowed.filters:
        plan = make()
    else:
        # Which grant it is under does not matter to what is read: two of the same columns read the same chunks, and of
        # a part the same where both are cut alike.
        part = (permit.part, allowed.closed) if permit.part is not None else None
        place = (permit.compartment, version.head.digest, version.manifest.version, permit.columns, permit.limit, part)
        plan = parts.lately.plans.get(place, make)
    scopes = {version.keys[group].scope for group in plan.groups} | ({hashing.scope} if hashing is not None else set())

    def go_on() -> None:
        if gone():
            raise Abandoned("the client went away")
        # By this process's own clock: expiry is judged at every batch, and here it matters whether anybody ended it.
        still_allowed(permit.basis, parts.heads.vendor(caller.vendor), parts.clock())

    keys = ScopedKeyring(parts.keyring, scopes, go_on)
    return keys, plan


def _fields(permit: Permit, plan: ReadPlan) -> dict[str, object]:
    """What the entry says of a stream that begins."""
    return {
        "delivery": "stream",
        "columns": [name for column in permit.columns for name in column.shown],
        "column_ids": [column.id for column in permit.columns],
        **plan.held,
        "shards": plan.shards,
        "where": permit.where.text() if permit.where else None,
        "filtered": bool(plan.filters),
        "limit": permit.limit,
        "masks": {shown(path): mask.text for path, mask in plan.masks.items()},
        "resumed": [plan.start.shard, plan.start.row] if plan.start is not None else None,
    }


def _charged(parts: Parts, permit: Permit, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The part of a batch that the grant's limits have room for, charged before it leaves; nothing is behind it."""
    limits, today = permit.grant.limits, day(parts)
    with parts.catalog.write() as transaction:
        usage = Usage(*transaction.usage(permit.grant.id, today))
        rows, size = left(limits, usage, "rows"), left(limits, usage, "bytes")
        piece = batch if rows is None or rows >= batch.num_rows else compact_batch(batch.slice(0, rows))
        while size is not None and piece.num_rows and piece.nbytes > size:
            # Rows differ in size: what fits is found by shares of it, and one row is the least step.
            fewer = min(piece.num_rows - 1, piece.num_rows * size // piece.nbytes)
            piece = compact_batch(piece.slice(0, fewer))
        # Even without a row some types have a buffer, but nothing leaves then.
        served = piece.nbytes if piece.num_rows else 0
        transaction.add_usage(permit.grant.id, today, {"rows": piece.num_rows, "bytes": served})
    return piece


def _deliver(
    parts: Parts,
    permit: Permit,
    keys: ScopedKeyring,
    cursors: _Cursors,
    check: Callable[[], None],
    account: Account,
) -> Iterator[pa.RecordBatch]:
    outcome = "broken off"
    try:
        for placed in read_batches(parts, keys, cursors.plan):
            check()
            batch = placed.batch
            piece = _charged(parts, permit, batch) if permit.grant.limits else batch
            # Before the batch leaves: what nobody was handed may be in the account, and never the other way round.
            account.add(placed, piece)
            cursors.advance(placed, piece.num_rows)
            if piece.num_rows:
                yield piece
            if piece.num_rows < batch.num_rows:
                raise LimitReached(
                    f"the grant's limit is used up after {account.rows} rows of this read; the rest was not sent"
                )
        check()
        outcome = "complete"
    except Abandoned:
        raise
    except VaultError as error:
        outcome = type(error).__name__
        raise
    finally:
        # Of a short read all is at hand before any of it leaves: nobody waits for the disk a second time.
        account.close(outcome, soon=cursors.plan.short)
        mark(parts)
