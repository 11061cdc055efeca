"""A catalog in a PostgreSQL database.

A read is one REPEATABLE READ, READ ONLY transaction: one view, however many statements look at it. A write is READ
COMMITTED and takes the end of the log first, which whoever writes has to move anyway: so there is one writer at a time,
as on SQLite, each statement sees all that was committed before, and a check made inside still holds at the commit. Who
waits too long for that, or sits in a transaction, is sent away by the server.

Whatever a connection is told it is told within its transactions, so that a pool that gives a connection to another
client after each of them changes nothing.
"""

from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL

from vault.errors import InvalidInput

__all__ = ["begin_write", "options", "postgresql_engine", "shut_others_out"]

#: How long a change waits for others.
BUSY_SECONDS: float = 30
#: How long a change may do nothing: it keeps all others waiting, and its process may have been stopped.
_IDLE_SECONDS = 60
#: How a server that has gone without a word is noticed; what the URL says counts before this.
_CONNECTING: Final = {
    "application_name": "dsvault",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: In the URL: after how many times the driver has the server prepare a statement, or ``none``.
_PREPARE: Final = "prepare_threshold"
_SETTINGS = text(
    "SELECT set_config('lock_timeout', :busy, true), set_config('idle_in_transaction_session_timeout', :idle, true)"
)


def postgresql_engine(url: URL) -> Engine:
    """An engine that looks at each use whether its connection still stands; raises InvalidInput for a wrong option."""
    arguments: dict[str, Any] = {name: value for name, value in _CONNECTING.items() if name not in url.query}
    if (threshold := url.query.get(_PREPARE)) is not None:
        if threshold != "none" and not (isinstance(threshold, str) and threshold.isdecimal()):
            raise InvalidInput(f"--catalog: {_PREPARE} is a number, or none")
        arguments[_PREPARE] = None if threshold == "none" else int(threshold)
        url = url.difference_update_query([_PREPARE])
    return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=arguments)


def options(*, write: bool) -> dict[str, Any]:
    """What a transaction begins with, as execution options of its connection."""
    if write:
        return {"isolation_level": "READ COMMITTED"}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def begin_write(connection: Connection) -> None:
    """Bound how long the write that begins waits for others, and lets them wait."""
    seconds = {"busy": f"{round(BUSY_SECONDS * 1000)}ms", "idle": f"{_IDLE_SECONDS}s"}
    connection.execute(_SETTINGS, seconds)


def shut_others_out(connection: Connection) -> None:
    """Wait until nobody is within a write, and let nobody begin one before this transaction has ended.

    Every write begins with a look at the schema's number, and holds its table until it ends.
    """
    connection.execute(text("LOCK TABLE about IN ACCESS EXCLUSIVE MODE"))
