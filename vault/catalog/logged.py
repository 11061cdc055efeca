"""The log's rows, and its signed end."""

import sqlite3
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, and_, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError as ConstraintError

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.often import Often
from vault.catalog.records import LogRow, LogTailRow
from vault.errors import IntegrityError

__all__ = ["TAIL_COLUMNS", "Logged"]

TAIL_COLUMNS = (schema.log_tail.c.note, schema.log_tail.c.edge)
_TAIL = Often(select(*TAIL_COLUMNS))
_TAIL_TO_MOVE = Often(select(*TAIL_COLUMNS), lambda: select(*TAIL_COLUMNS).with_for_update())
_ADD_LOG = Often(insert(schema.log))
_MOVE_TAIL = Often(update(schema.log_tail).values(note=bindparam("note"), edge=bindparam("edge")))
_LOG_RANGE = Often(
    select(schema.log.c.sequence, schema.log.c.time, schema.log.c.sealed, schema.log.c.hash)
    .where(and_(schema.log.c.sequence > bindparam("after"), schema.log.c.sequence <= bindparam("last")))
    .order_by(schema.log.c.sequence)
)
_LOG_HASHES = Often(
    select(schema.log.c.hash)
    .where(and_(schema.log.c.sequence > bindparam("after"), schema.log.c.sequence <= bindparam("last")))
    .order_by(schema.log.c.sequence)
)


class Logged(Noting):
    """The part of a transaction that reads and writes the log."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        #: The end of the log, where this transaction holds it already.
        self._held: LogTailRow | None = None

    def log_tail(self, *, to_move: bool = False) -> LogTailRow | None:
        """The signed end of the log; ``to_move`` keeps other writers from moving it before this transaction ends."""
        if self._held is not None:
            return self._held
        row = (_TAIL_TO_MOVE if to_move else _TAIL).run(self.connection).fetchone()
        return LogTailRow(*row) if row else None

    def append_log(self, rows: Sequence[LogRow], tail: LogTailRow) -> None:
        """Append entries and move the signed end with them."""
        values = [{"sequence": row.sequence, "time": row.time, "sealed": row.sealed, "hash": row.hash} for row in rows]
        self._held = None
        try:
            _ADD_LOG.run_all(self.connection, values)
        except (ConstraintError, sqlite3.IntegrityError) as error:
            if rows[0].sequence == 1:
                raise
            # Whoever writes holds the signed end, so that no other process of dsvault's can have put it there.
            raise IntegrityError(
                f"there is an entry {rows[0].sequence} behind the log's signed end, which nobody signed: "
                "while it is there, nothing can be written to the log"
            ) from error
        moved = _MOVE_TAIL.run(self.connection, note=tail.note, edge=tail.edge)
        if moved.rowcount == 0:
            self.connection.execute(insert(schema.log_tail).values(id=1, note=tail.note, edge=tail.edge))

    def log_row(self, sequence: int) -> LogRow | None:
        """One log entry by number."""
        row = self.connection.execute(select(schema.log).where(schema.log.c.sequence == sequence)).one_or_none()
        return LogRow(*row) if row else None

    def log_rows(self, after: int | None = None, limit: int | None = None) -> list[LogRow]:
        """Log entries in order, from the first or from the one behind ``after``."""
        table = schema.log
        query = select(table).order_by(table.c.sequence).limit(limit)
        if after is not None:
            query = query.where(table.c.sequence > after)
        return [LogRow(*row) for row in self.connection.execute(query)]

    def log_range(self, after: int, last: int) -> Iterator[tuple[int, str, bytes, bytes]]:
        """Sequence, time, sealed entry and hash of the entries behind one and up to another, in order."""
        rows: Iterator[tuple[int, str, bytes, bytes]] = iter(_LOG_RANGE.run(self.connection, after=after, last=last))
        return rows

    def log_hashes(self, after: int, last: int) -> list[bytes]:
        """The hashes of the entries behind one and up to another, in order."""
        return [row[0] for row in _LOG_HASHES.run(self.connection, after=after, last=last)]
