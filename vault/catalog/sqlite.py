"""A catalog in a SQLite file.

SQLite runs in WAL mode with foreign keys on and full synchronisation. A writing transaction begins with
BEGIN IMMEDIATE, so that there is one writer at a time and a check made inside it still holds when it
commits; others wait up to the busy time-out.
"""

import os
import sqlite3
import time
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import NullPool, QueuePool

__all__ = ["sqlite_engine"]

#: How long a change waits for others.
BUSY_SECONDS: float = 30
_FIRST_LOOK = 0.0002
_LAST_LOOK = 0.004
#: Connections that a serving process keeps; more are opened and closed where more are needed at once.
_POOL = 8


def sqlite_engine(url: URL, *, serving: bool) -> Engine:
    """An engine whose connections begin as their execution options ``dsvault_write`` and ``dsvault_migrate`` say."""
    # Elsewhere a connection for each transaction: a connection must not cross a fork, and as long as one is open the
    # write-ahead log stays beside the file, which is then not all that there is to copy.
    pool: dict[str, Any] = (
        {"poolclass": QueuePool, "pool_size": _POOL, "max_overflow": -1} if serving else {"poolclass": NullPool}
    )
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, hide_parameters=True, connect_args=arguments, **pool)

    @event.listens_for(engine, "checkout")
    def _same_file(_connection: Any, record: Any, _proxy: Any) -> None:
        # Another file under this name is another catalog: what is revoked there would never be seen in the old one.
        if record.info["file"] != _file_of(url):
            raise DisconnectionError

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, record: Any) -> None:
        record.info["file"] = _file_of(url)
        connection.isolation_level = None  # the driver must not begin transactions of its own
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        options = connection.get_execution_options()
        if options.get("dsvault_migrate", False):
            # A table that others refer to is copied and put in the place of the old one.
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
        if options.get("dsvault_write", False):
            _begin_write(connection.connection.driver_connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_write(connection: Any) -> None:
    """Take SQLite's only writer's place, looking every few milliseconds whether it is free.

    SQLite's own waiting sleeps for up to a tenth of a second at a time, while others come and go: of two brokers that
    write all the time one would starve.
    """
    connection.execute("PRAGMA busy_timeout=0")
    try:
        ends, wait = time.monotonic() + BUSY_SECONDS, _FIRST_LOOK
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, _LAST_LOOK)
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout={round(BUSY_SECONDS * 1000)}")


def _file_of(url: URL) -> tuple[int, int] | None:
    """Which file a SQLite URL means at this moment."""
    try:
        found = os.stat(url.database or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino
