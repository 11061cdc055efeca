"""Statements that are run very often: made once, since making one takes longer than running it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite

__all__ = ["Often"]

_SQLITE = sqlite.dialect()


class Often:
    """What every request of a vendor's asks: made once, since making a statement takes longer than running it.

    On SQLite the driver is given its text as it is. Of the columns' types none may need to be converted. What differs
    on PostgreSQL is made when it is first run there.
    """

    def __init__(self, statement: Any, on_postgresql: Callable[[], Any] | None = None) -> None:
        self._statement = statement
        self._on_postgresql = on_postgresql

    @cached_property
    def _elsewhere(self) -> Any:
        return self._statement if self._on_postgresql is None else self._on_postgresql()

    @cached_property
    def _on_sqlite(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """The text, the names of its parameters in their order, and those that are always the same."""
        compiled = self._statement.compile(dialect=_SQLITE)
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        return str(compiled), tuple(compiled.positiontup or ()), fixed

    def run(self, connection: Connection, **values: Any) -> Any:
        """The result's rows are tuples of the table's columns in their order."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._elsewhere, values)
        text, names, fixed = self._on_sqlite
        values |= fixed
        driver: Any = connection.connection.driver_connection
        return driver.execute(text, [values[name] for name in names])

    def run_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """The same for each of some rows."""
        for row in rows:
            self.run(connection, **row)
