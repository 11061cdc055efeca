"""What a transaction changes of the administrative tables, noted row by row and written down for the store.

Every change of such a table goes through `Noting`, so that none is left out of the backup. The note is a row of its own
in the same transaction: it is there exactly where the change is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Delete, Result, Row, Table, Update, delete, insert, or_, select, update

from vault.catalog import schema
from vault.catalog.changes import Noted, change_digest, change_document, encode_rows, put_rows, rows_in_pieces
from vault.catalog.records import BackupRow, ChangeRow

__all__ = ["Noting"]

_BACKUP = select(*(column for column in schema.backup.c if column.name != "id"))


class Noting:
    """A transaction that notes what it changes, and what is known of the backup."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        #: What the readers of this one view have found out about it already.
        self.memo: dict[str, Any] = {}
        #: What is to be written last, just before the commit.
        self.finishing: list[Callable[[], None]] = []
        #: The number and digest in the chain of changes of what was changed here, from `finish` on.
        self.changed: tuple[int, bytes] | None = None
        self._noted: list[Noted] = []

    def _add(self, table: Table, **values: Any) -> None:
        self._note_put(table, self.connection.execute(insert(table).values(values).returning(*table.c)))

    def _change(self, table: Table, statement: Update) -> int:
        """How many rows were changed."""
        return self._note_put(table, self.connection.execute(statement.returning(*table.c)))

    def _remove(self, table: Table, statement: Delete) -> int:
        """How many rows were removed."""
        gone = [row._asdict() for row in self.connection.execute(statement.returning(*table.primary_key.columns))]
        self._noted += [Noted("gone", table.name, row) for row in gone]
        return len(gone)

    def _note_put(self, table: Table, found: Iterable[Row[Any]]) -> int:
        return self._note_rows(table, (row._asdict() for row in found))

    def _note_rows(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
        """Note rows as they are since; returns how many."""
        noted = [Noted("put", table.name, row) for row in rows]
        self._noted += noted
        return len(noted)

    def finish(self) -> None:
        """Write what is written last: the change for the store, then what waits in ``finishing``."""
        if self._noted:
            self.changed = self._write_change()
        for each in self.finishing:
            each()

    def _write_change(self) -> tuple[int, bytes]:
        # Whoever holds this row commits next: changes have the order of their commits, also on several machines.
        before = _backup(self.connection.execute(_BACKUP.with_for_update()))
        number = before.number + 1
        document = change_document(number, before, self._noted)
        digest = change_digest(document)
        self.connection.execute(insert(schema.changes).values(number=number, document=document))
        self.set_backup(replace(before, number=number, digest=digest))
        return number, digest

    def backup(self) -> BackupRow:
        """Where the chain of changes ends, and the newest snapshot."""
        return _backup(self.connection.execute(_BACKUP))

    def set_backup(self, row: BackupRow) -> None:
        """Replace the same."""
        values = asdict(row)
        if not self.connection.execute(update(schema.backup).values(values)).rowcount:
            self.connection.execute(insert(schema.backup).values(id=1, **values))

    def changes(self) -> list[ChangeRow]:
        """The changes that the store may not have yet, in order."""
        table = schema.changes
        return [ChangeRow(*row) for row in self.connection.execute(select(table).order_by(table.c.number))]

    def drop_changes(self, numbers: Sequence[int], saved: int) -> None:
        """Forget changes, which are in the store with so many bytes."""
        table = schema.changes
        gone = self.connection.execute(delete(table).where(table.c.number.in_(list(numbers)))).rowcount
        if gone:
            later = schema.backup.c.later_bytes + saved
            self.connection.execute(update(schema.backup).values(later_bytes=later))

    def set_snapshot(self, number: int, digest: str, root: int, size: int) -> None:
        """Note that the store has a snapshot, unless it has a newer one already."""
        table = schema.backup
        newer = or_(table.c.snapshot.is_(None), table.c.snapshot < number, table.c.snapshot_root < root)
        self.connection.execute(
            update(table)
            .where(newer)
            .values(snapshot=number, snapshot_digest=digest, snapshot_root=root, snapshot_bytes=size, later_bytes=0)
        )

    def snapshot(self, most: int) -> Iterator[bytes]:
        """Every row that is backed up, in pieces of about so many bytes at the most; `put_back` takes them."""
        for rows in rows_in_pieces(self.connection, most):
            yield encode_rows(rows)

    def put_back(self, rows: Iterable[Noted]) -> None:
        """Make changes again as they were noted; they are not noted anew."""
        put_rows(self.connection, rows)


def _backup(found: Result[Any]) -> BackupRow:
    row = found.one_or_none()
    return BackupRow(*row) if row else BackupRow()
