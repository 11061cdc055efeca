"""Datasets as tables of Delta Sharing: what there is, what each looks like, and the files of one.

It is the same access path: a request is decided under one grant, written down, charged, and only then is anything
opened. What is asked for is all that the grant covers: whoever wants less takes less of it. A hint has fewer shards
looked at by what the manifest says of them, where no row filter of others narrows the read: what a filter hides would
else be found out by which files come.
"""

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa

from vault import delta, spool
from vault.access.callers import Arrival, Caller
from vault.access.permits import Permitted, offerings, permitted
from vault.access.records import Charge, begin, day, mark, refusals_recorded, refused, who
from vault.access.spooling import Spool, Spooled, shape_of
from vault.access.streams import planned
from vault.audit import Kind
from vault.catalog import Transaction
from vault.cursors import SALT_BYTES, FileTicket, seal_file_ticket
from vault.derivation import ticket_key
from vault.encoding import canonical, new_id, timestamp
from vault.errors import Abandoned, LimitReached, NotGranted
from vault.fields import shown
from vault.filters import hinted
from vault.limits import Usage, left
from vault.model import FORMAT
from vault.policy import Permit, Request, still_allowed
from vault.wire import FILES_PATH, SharedTable
from vault.workings.parts import Parts, own_metadata_key, trusted_now
from vault.workings.reading import ReadPlan, leaving_schema

__all__ = ["Files", "Hints", "SharedFile", "ShownTable", "file_bound", "list_tables", "shared_files", "show_table"]

_NONE = "no dataset or column of that name is granted to you"


def list_tables(parts: Parts, caller: Caller) -> list[SharedTable]:
    """The caller's tables, in order: a dataset under its only grant in the default schema, else each under its own."""
    offered = [offering.grant for offering in offerings(parts, caller)]
    several = Counter(grant.dataset_name for grant in offered)
    return sorted(
        SharedTable.of(grant.dataset_name, grant.id if several[grant.dataset_name] > 1 else None) for grant in offered
    )


@dataclass(frozen=True, slots=True)
class ShownTable:
    """A table as it is now: its version and since when that is, its stable id, and how its files look."""

    id: str
    version: int
    created: datetime
    shape: delta.Shape


def show_table(parts: Parts, arrival: Arrival, table: SharedTable | None) -> ShownTable:
    """A table that the caller may read; raises as `shared_files` does, each refusal logged."""
    request = _request(table)
    with refusals_recorded(parts, arrival, request):
        return _shown(_allowed(parts, arrival, table, request))


def _request(table: SharedTable | None) -> Request:
    return Request(table.dataset if table is not None else "", table.grant if table is not None else None)


def _allowed(parts: Parts, arrival: Arrival, table: SharedTable | None, request: Request) -> Permitted:
    if table is None:
        raise NotGranted(_NONE)
    return permitted(parts, arrival.caller, request)


def _shown(allowed: Permitted) -> ShownTable:
    permit = allowed.permit
    return ShownTable(permit.grant.id, permit.version, allowed.version.manifest.created, shape_of(allowed))


@dataclass(frozen=True, slots=True)
class Hints:
    """What whoever asks needs at the least: so many rows, and rows that pass predicates."""

    limit: int | None = None
    texts: Sequence[str] = ()
    document: str | None = None


@dataclass(frozen=True, slots=True)
class SharedFile:
    """One file of a table, and the path at the broker that reads it until ``until``."""

    id: str
    path: str
    size: int
    rows: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Files:
    """A table, and its files one by one, each built as it is taken if it has to be; ``vendor`` is whose they are.

    ``check`` raises Frozen or NotGranted when no further one would be handed out.
    """

    table: ShownTable
    vendor: str
    files: Iterator[SharedFile]
    check: Callable[[], None]


def shared_files(
    parts: Parts,
    arrival: Arrival,
    table: SharedTable | None,
    hints: Hints,
    *,
    gone: Callable[[], bool] = lambda: False,
) -> Files:
    """Decide on a request for a table's files, write it down, and hand them out.

    ``gone`` says whether whoever asks has gone away: then no further file is built, and Abandoned raised.
    Raises Frozen, Conflict, NotGranted or InvalidInput, each logged, AuditError, and while files are taken what a read
    does, and LimitReached where a grant's limit leaves less than a file, or the spool is full.
    """
    request = _request(table)
    with refusals_recorded(parts, arrival, request):
        allowed = _allowed(parts, arrival, table, request)
        permit, shown = allowed.permit, _shown(allowed)
        keys, plan = planned(parts, arrival.caller, allowed, gone)
        plan = _pruned(allowed, plan, hints)
        now = trusted_now(parts)
        until = min(now + parts.spool.life, permit.ends or now + parts.spool.life)
        nonce = new_id()
        charge = Charge({}, {**_fields(plan, until), "nonce": nonce})
        asked, _ = begin(parts, arrival, permit, Kind.FILES_ASKED, lambda _usage: charge)

    def go_on() -> None:
        if gone():
            raise Abandoned("the client went away")
        handing.check()

    built = Spool(parts, allowed, plan, keys, spool.window_end(now, parts.spool.life), go_on)
    handing = _Handing(parts, arrival.caller, permit, built, until, {"asked": asked, "nonce": nonce})
    return Files(shown, permit.vendor, handing.files(plan, hints.limit), handing.check)


def _fields(plan: ReadPlan, until: datetime) -> dict[str, object]:
    return {
        "delivery": "sharing",
        "columns": [name for column in plan.columns for name in column.shown],
        "column_ids": [column.id for column in plan.columns],
        **plan.held,
        "shards": plan.shards,
        "filtered": bool(plan.filters),
        "masks": {shown(path): mask.text for path, mask in plan.masks.items()},
        "until": timestamp(until),
    }


def _pruned(allowed: Permitted, plan: ReadPlan, hints: Hints) -> ReadPlan:
    """The plan without shards that no wanted row can be in, as far as that says nothing of hidden rows.

    Nor of rows that a limit may keep back: which files come tells of the values of all, and costs nothing of it.
    """
    if allowed.filters or allowed.closed:
        return plan
    # Whole columns that leave as they are: statistics are of what is under a mask, too.
    seen = [each for each in plan.columns if each.fields is None and not allowed.permit.grant.masked(each.id)]
    wanted = hinted(hints.texts, hints.document, leaving_schema(allowed.version.manifest.schema, seen, {}))
    if not wanted:
        return plan
    looked = ReadPlan(plan.version, plan.columns, tuple(wanted), None)
    return replace(
        plan, among=pa.array([n for first, last in looked.shards for n in range(first, last + 1)], pa.int32())
    )


class _Handing:
    """Handing out the files of one request, after its entry is written."""

    def __init__(
        self, parts: Parts, caller: Caller, permit: Permit, built: Spool, until: datetime, entry: dict[str, object]
    ) -> None:
        self._parts, self._caller, self._permit = parts, caller, permit
        self._spool, self._until, self._entry = built, until, entry
        self._salt = os.urandom(SALT_BYTES)
        self._key = ticket_key(own_metadata_key(parts, permit.vendor), self._salt)

    def files(self, plan: ReadPlan, limit: int | None) -> Iterator[SharedFile]:
        """The files of a plan's shards, up to as many rows as are wanted."""
        rows = 0
        try:
            for shard in (n for first, last in plan.shards for n in range(first, last + 1)):
                if limit is not None and rows >= limit:
                    return
                self.check()
                try:
                    found = self._spool.file(shard)
                    if found.rows:
                        self._hand_out(found)
                except LimitReached as error:
                    grant = self._permit.grant
                    refused(self._parts, self._caller, Request(grant.dataset_name, grant.id), error)
                    raise
                if found.rows:
                    rows += found.rows
                    yield SharedFile(found.binding[:32], self._path(found), found.size, found.rows, self._until)
        finally:
            mark(self._parts)

    def check(self) -> None:
        """Raise Frozen or NotGranted when nothing more may be handed out."""
        still_allowed(self._permit.basis, self._parts.heads.vendor(self._permit.vendor), trusted_now(self._parts))

    def _hand_out(self, found: Spooled) -> None:
        """Charge a whole file, and write it down, in one change, before its address leaves."""
        grant, today = self._permit.grant, day(self._parts) if self._permit.grant.limits else ""
        fields = {**who(self._caller, self._permit), **self._entry, "shard": found.shard}
        fields |= {"rows": found.rows, "bytes": found.charged, "size": found.size, "until": timestamp(self._until)}

        def handed(transaction: Transaction) -> bool:
            if grant.limits:
                usage = Usage(*transaction.usage(grant.id, today))
                rows, size = left(grant.limits, usage, "rows"), left(grant.limits, usage, "bytes")
                if (rows is not None and found.rows > rows) or (size is not None and found.charged > size):
                    return False
                transaction.add_usage(grant.id, today, {"rows": found.rows, "bytes": found.charged})
            self._parts.journal.record_in(transaction, Kind.FILE_HANDED_OUT, **fields)
            return True

        if not self._parts.catalog.submit(handed):
            raise LimitReached("what the grant's limit leaves is less than a file; read it as a stream")

    def _path(self, found: Spooled) -> str:
        permit, vendor = self._permit, self._permit.vendor
        ticket = FileTicket(
            found.object,
            found.size,
            found.head,
            found.binding,
            found.checksum,
            permit.credential,
            self._caller.subject,
            permit.grant.id,
            permit.grant_digest,
            self._until,
        )
        sealed = seal_file_ticket(self._key, self._salt, file_bound(self._parts, vendor), ticket)
        return FILES_PATH + base64.urlsafe_b64encode(bytes.fromhex(vendor) + sealed).decode("ascii").rstrip("=")


def file_bound(parts: Parts, vendor: str) -> bytes:
    """What the tickets of a vendor's files are bound to."""
    return canonical("dsvault file ticket", FORMAT[0], parts.vault, vendor)
