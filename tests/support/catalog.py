"""The catalog as whoever can write its file or database has it."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.engine import make_url

from vault.catalog import schema

if TYPE_CHECKING:
    from tests.conftest import Lab

__all__ = ["Plain", "gone", "snapshot", "sql"]

_ZEROS = re.compile(r"zeroblob\((\d+|length\(\w+\))\)")
_BYTES = re.compile(r"x'([0-9a-f]*)'")


class Plain:
    """A connection of the driver's that takes SQLite's question marks and bytes, on PostgreSQL too."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._on_sqlite = isinstance(connection, sqlite3.Connection)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The driver's cursor, whose rows are tuples."""
        if not self._on_sqlite:
            statement = _BYTES.sub(r"'\\x\1'::bytea", statement).replace("%", "%%").replace("?", "%s")
            statement = _ZEROS.sub(r"decode(repeat('00', \1), 'hex')", statement)
        return self._connection.execute(statement, tuple(values))

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same for each of some rows."""
        for row in rows:
            self.execute(statement, row)


@contextmanager
def sql(lab: "Lab") -> Iterator[Plain]:
    """A plain connection to the catalog, foreign keys off, as an attacker has it; committed at the end.

    What the lab's own vault was yet to write is written first, or it would come between what is done here.
    """
    import psycopg

    lab.vault.parts.catalog.settle()
    url = make_url(lab.vault.parts.catalog.url)
    if url.get_backend_name() == "sqlite":
        connection: Any = sqlite3.connect(url.database or "")
    else:
        connection = psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        connection.execute("SET session_replication_role = replica")
    try:
        yield Plain(connection)
        connection.commit()
    finally:
        connection.close()


@contextmanager
def gone(lab: "Lab") -> Iterator[None]:
    """Within it nobody can open the catalog: its file is elsewhere, or its database takes no connection."""
    import psycopg

    url = make_url(lab.vault.parts.catalog.url)
    if url.get_backend_name() == "sqlite":
        path, away = Path(url.database or ""), Path(url.database or "").with_name("gone.db")
        path.rename(away)
        path.mkdir()
        yield
        path.rmdir()
        away.rename(path)
        return
    plain = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"alter database {url.database} allow_connections false".encode())
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (url.database,))
        yield
        connection.execute(f"alter database {url.database} allow_connections true".encode())


def snapshot(lab: "Lab") -> Callable[[], None]:
    """Remember every row; what is returned puts an old copy of the catalog in its place, as a restored backup would."""
    engine = create_engine(lab.vault.parts.catalog.url)
    tables = schema.metadata.sorted_tables
    plain = MetaData()
    with engine.connect() as connection:
        plain.reflect(connection)
        kept = {table.name: connection.execute(plain.tables[table.name].select()).fetchall() for table in tables}
    engine.dispose()

    def restore() -> None:
        with engine.begin() as connection:
            for table in reversed(tables):
                connection.execute(text(f'delete from "{table.name}"'))
            for table in tables:
                if kept[table.name]:
                    values = [dict(row._mapping) for row in kept[table.name]]
                    connection.execute(plain.tables[table.name].insert(), values)
        engine.dispose()

    return restore
