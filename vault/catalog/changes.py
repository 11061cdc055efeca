"""What is backed up of the catalog: its administrative tables, as snapshots and as a chain of changes.

A *change* is what one transaction did to rows of these tables, in its order. Its document holds the digest of the one
before it, so that the digest of the newest stands for all of them: none can be left out, replaced or moved. Usage,
proofs, jobs and the log are not in it; the log has its own way into the store. Sealed fields stay sealed as they are.
Specified in ``docs/reference/format.md`` section 10.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, and_, delete, insert, select, update

from vault.catalog import schema
from vault.catalog.records import BackupRow
from vault.catalog.sealed import Sealed, SealedBlob
from vault.encoding import canonical, from_base64, from_json, json_bytes
from vault.errors import IntegrityError

__all__ = [
    "BACKED_UP",
    "Change",
    "Noted",
    "change_digest",
    "change_document",
    "encode_rows",
    "put_rows",
    "read_rows",
    "rows_in_pieces",
]

_SALT: Final = 16
_PAGE: Final = 500


def _as_stored(table: Table) -> Table:
    """A table whose sealed columns are the bytes that lie there."""
    columns: list[Column[Any]] = [
        Column(each.name, LargeBinary() if isinstance(each.type, Sealed) else each.type, primary_key=each.primary_key)
        for each in table.columns
    ]
    return Table(table.name, MetaData(), *columns)


_ORDER: Final = (
    schema.roots,
    schema.holders,
    schema.datasets,
    schema.compartments,
    schema.keys,
    schema.versions,
    schema.heads,
    schema.grants,
    schema.credentials,
    schema.submissions,
)
#: The tables that are backed up, those first that others refer to.
BACKED_UP: Final[Mapping[str, Table]] = {table.name: _as_stored(table) for table in _ORDER}


@dataclass(frozen=True, slots=True)
class Noted:
    """A row as it is since (``put``), or the key of one that is not there any more (``gone``)."""

    action: str
    table: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A change as its document says it.

    ``snapshot`` is the number and digest of the newest snapshot in the store that was known when it was made.
    """

    number: int
    previous: bytes
    snapshot: tuple[int, str] | None
    rows: tuple[Noted, ...]

    @classmethod
    def decode(cls, document: bytes) -> "Change":
        """Inverse of `change_document`; raises IntegrityError."""
        found = from_json(document, "a change in a backup")
        try:
            snapshot = found["snapshot"]
            return cls(
                int(found["number"]),
                bytes.fromhex(found["previous"]),
                (int(snapshot[0]), str(snapshot[1])) if snapshot is not None else None,
                tuple(_noted(each) for each in found["rows"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise IntegrityError("a change in a backup lacks a field") from error


def change_document(number: int, before: BackupRow, rows: Iterable[Noted]) -> bytes:
    """A change as it is kept and sealed. What is random in it keeps its digest from telling anything of it."""
    known = [before.snapshot, before.snapshot_digest] if before.snapshot is not None else None
    return json_bytes(
        {
            "number": number,
            "previous": before.digest.hex(),
            "salt": os.urandom(_SALT).hex(),
            "snapshot": known,
            "rows": [_written(each) for each in rows],
        }
    )


def change_digest(document: bytes) -> bytes:
    """What stands for a change and all before it, of 32 bytes."""
    return hashlib.sha256(canonical("dsvault change", document)).digest()


def encode_rows(rows: Iterable[Noted]) -> bytes:
    """Rows as a piece of a snapshot."""
    return json_bytes([_written(each) for each in rows])


def read_rows(piece: bytes) -> list[Noted]:
    """Inverse of `encode_rows`; raises IntegrityError."""
    found = from_json(piece, "a piece of a backup")
    try:
        return [_noted(each) for each in found]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise IntegrityError("a piece of a backup lacks a field") from error


def _written(each: Noted) -> list[Any]:
    return [each.action, each.table, {name: _plain(value) for name, value in each.row.items() if value is not None}]


def _plain(value: Any) -> Any:
    if isinstance(value, SealedBlob):
        value = value.blob
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def _noted(found: Any) -> Noted:
    action, name, values = found
    if action not in {"put", "gone"} or name not in BACKED_UP:
        raise IntegrityError("a backup holds what this release does not know")
    columns = BACKED_UP[name].columns
    if not set(values) <= set(columns.keys()):
        raise IntegrityError("a backup holds what this release does not know")
    row = {
        column: from_base64(value, "a field in a backup") if isinstance(columns[column].type, LargeBinary) else value
        for column, value in values.items()
    }
    return Noted(action, name, row)


def rows_in_pieces(connection: Connection, most: int) -> Iterator[list[Noted]]:
    """Every row that is backed up, some at a time: of about so many bytes together at the most."""
    piece: list[Noted] = []
    size = 0
    for table in BACKED_UP.values():
        for row in connection.execute(select(table), execution_options={"yield_per": _PAGE}):
            noted = Noted("put", table.name, row._asdict())
            piece.append(noted)
            size += sum(len(value) if isinstance(value, bytes | str) else 8 for value in noted.row.values())
            if size >= most:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


def put_rows(connection: Connection, rows: Iterable[Noted]) -> None:
    """Put rows in their places and take those away that are gone. Raises IntegrityError for a row without its key."""
    for each in rows:
        table = BACKED_UP[each.table]
        try:
            place = and_(*(column == each.row[column.name] for column in table.primary_key.columns))
        except KeyError as error:
            raise IntegrityError("a row in a backup lacks its key") from error
        if each.action == "gone":
            connection.execute(delete(table).where(place))
            continue
        values = {column.name: each.row.get(column.name) for column in table.columns}
        if not connection.execute(update(table).where(place).values(values)).rowcount:
            connection.execute(insert(table).values(values))
