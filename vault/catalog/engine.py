"""Opening the catalog, and its transactions.

SQLite runs in WAL mode with foreign keys on and full synchronisation. A writing transaction begins with
BEGIN IMMEDIATE, so that there is one writer at a time and a check made inside it still holds when it
commits; others wait up to the busy time-out and then get `Unavailable`.
"""

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, literal_column, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import IntegrityError as ConstraintError
from sqlalchemy.pool import NullPool, QueuePool

from vault.catalog import schema
from vault.catalog.sharing import SharedWrites
from vault.catalog.transaction import Transaction
from vault.encoding import from_timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, OtherSchema, Unavailable, VaultError

__all__ = ["Catalog", "open_catalog"]

#: How long a change waits for others.
BUSY_SECONDS: float = 30
_FIRST_LOOK = 0.0002
_LAST_LOOK = 0.004
#: Connections that a serving process keeps; more are opened and closed where more are needed at once.
_POOL = 8
_Result = TypeVar("_Result")


class Catalog:
    """A vault's SQL catalog.

    `read` and `write` are context managers over one transaction each. Raises Conflict when a write
    would break a uniqueness that another writer has just taken, and Unavailable when the database
    cannot be reached or stays locked; in both cases nothing was changed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # What is held open goes with this object. At the end of the process others still write, and it goes anyway.
        weakref.finalize(self, engine.dispose).atexit = False
        _EVERY.add(self)
        self._shared = SharedWrites(self.write)
        #: Why nothing is read or written any more: the tables became those of another release.
        self._other: str | None = None

    @property
    def url(self) -> str:
        """What it was opened with, its password too: for another process of the same owner, by a pipe."""
        return self._engine.url.render_as_string(hide_password=False)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view."""
        if self._other is not None:
            raise OtherSchema(self._other)
        with self._begin(write=False) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One atomic change; rolled back when the block raises."""
        with self._begin(write=True) as transaction:
            # A process that was running when the tables were upgraded must not write what it takes them to be.
            self.refuse_other_schema(transaction)
            yield transaction

    def submit(self, change: Callable[[Transaction], _Result]) -> _Result:
        """One change that touches nothing else, durable on return; it may share its transaction with other threads'.

        ``change`` may be run twice, of which one counts. Raises what it raises, and what `write` does.
        """
        return self._shared.run(change)

    def submit_soon(self, change: Callable[[Transaction], object], failed: Callable[[BaseException], None]) -> None:
        """A change that nobody waits for, in the next transaction that is shared, or its own some milliseconds later.

        ``failed`` is told where it could not be made; it must not raise.
        """
        self._shared.run_soon(change, failed)

    def submit_aside(self, change: Callable[[Transaction], object], failed: Callable[[BaseException], None]) -> None:
        """The same, which never waits itself: for whoever may be within a transaction, and asks for one at a time."""
        self._shared.run_aside(change, failed)

    def settle(self) -> None:
        """Make the changes that nobody waits for; they are durable on return, or were told to have failed."""
        self._shared.settle()

    @contextmanager
    def _begin(self, *, write: bool, migrate: bool = False) -> Iterator[Transaction]:
        options = {"dsvault_write": write, "dsvault_migrate": migrate}
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                transaction = Transaction(connection)
                yield transaction
                for finish in transaction.finishing:
                    finish()
        except VaultError:
            raise
        except (ConstraintError, sqlite3.IntegrityError) as error:
            raise Conflict("another change to the catalog came first; try again") from error
        except (DBAPIError, SQLAlchemyError, sqlite3.Error) as error:
            # The driver's text may quote the statement and its parameters: it stays out of the message.
            kind = type(error.orig if isinstance(error, DBAPIError) else error).__name__
            raise Unavailable(f"the catalog could not be read or written ({kind})") from error

    def times(self) -> tuple[datetime, datetime | None]:
        """The catalog's own clock, UTC, and the time of the newest log entry."""
        newest = select(schema.log.c.time).order_by(schema.log.c.sequence.desc()).limit(1).scalar_subquery()
        with self.read() as transaction:
            now, logged = transaction.connection.execute(select(self._clock_expression(), newest)).one()
        return from_timestamp(str(now)), from_timestamp(logged) if logged else None

    def _clock_expression(self) -> Any:
        if self._engine.dialect.name == "sqlite":
            return func.strftime("%Y-%m-%dT%H:%M:%f000Z", "now")
        pattern: Any = literal_column('\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\'')
        return func.to_char(func.timezone("UTC", func.clock_timestamp()), pattern)

    def create(self, vault: str) -> None:
        """Make the tables of a new vault; raises InvalidInput where there is one already."""
        with self._begin(write=True) as transaction:
            connection = transaction.connection
            schema.about.create(connection, checkfirst=True)
            if transaction.about("vault") is not None:
                raise InvalidInput("the catalog already belongs to a vault")
            schema.metadata.create_all(connection)
            schema.revision.create(connection, checkfirst=True)
            rows = [{"name": "vault", "value": vault}, {"name": "schema", "value": schema.SCHEMA_VERSION}]
            connection.execute(insert(schema.about), rows)
            connection.execute(insert(schema.revision), {"version_num": schema.SCHEMA_VERSION})

    def check(self, vault: str) -> None:
        """Refuse a catalog of another vault or another schema; raises IntegrityError or OtherSchema."""
        with self.read() as transaction:
            self.refuse_other_schema(transaction)
            if transaction.about("vault") != vault:
                raise IntegrityError("the catalog belongs to another vault")

    def refuse_other_schema(self, transaction: Transaction) -> None:
        """Raise OtherSchema where the tables are those of another release; nothing is read or written after that."""
        found = transaction.schema()
        if found != schema.SCHEMA_VERSION:
            self._other = _told(found)
            raise OtherSchema(self._other)

    def upgrade(self, vault: str, then: Callable[[Transaction, str, str], object]) -> tuple[str, str]:
        """Bring the tables to this release's schema; returns the schema before and after, and may be alike.

        All in one transaction, which nobody else writes beside: a run that is killed has changed nothing. ``then`` is
        called in it with both numbers where something was changed. Raises OtherSchema for a newer schema than this
        release knows, IntegrityError for the catalog of another vault, and Unavailable where another process does not
        let go of the catalog.
        """
        try:
            with self._begin(write=True, migrate=True) as transaction:
                return self._upgrade(transaction, vault, then)
        finally:
            self._engine.dispose()  # a connection on which references were not looked at serves for nothing else

    def _upgrade(
        self, transaction: Transaction, vault: str, then: Callable[[Transaction, str, str], object]
    ) -> tuple[str, str]:
        from vault.catalog.migrations import migrate

        _shut_others_out(transaction.connection)
        before = transaction.schema()
        if transaction.about("vault") != vault:
            raise IntegrityError("the catalog belongs to another vault")
        if before == schema.SCHEMA_VERSION:
            return before, before
        if before is None or not _is_older(before) or int(before) < int(schema.BASELINE):
            raise OtherSchema(_told(before))
        migrate(transaction.connection, before)
        _refuse_dangling(transaction.connection)
        transaction.set_about("schema", schema.SCHEMA_VERSION)
        then(transaction, before, schema.SCHEMA_VERSION)
        return before, schema.SCHEMA_VERSION

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def forget(self) -> None:
        """In a process that was forked: what is open is the parent's, and is not even closed."""
        self._engine.dispose(close=False)


def open_catalog(url: str, *, serving: bool = False) -> Catalog:
    """Open a catalog by its SQLAlchemy URL; raises InvalidInput for one that cannot be used.

    ``serving`` keeps connections to SQLite open between transactions, for a process that has many of them.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise InvalidInput("--catalog: use a sqlite:/// or postgresql+psycopg:// URL")
        if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
            raise InvalidInput("--catalog: a SQLite catalog needs a file, such as sqlite:///path/catalog.db")
        return Catalog(_engine(url, parsed, serving=serving))
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidInput("--catalog: the URL cannot be read, or its driver is not installed") from error


def _engine(url: str, parsed: URL, *, serving: bool) -> Engine:
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
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
        if record.info["file"] != _file_of(parsed):
            raise DisconnectionError

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, record: Any) -> None:
        record.info["file"] = _file_of(parsed)
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


#: All that there are.
_EVERY: "weakref.WeakSet[Catalog]" = weakref.WeakSet()


def _after_fork() -> None:
    for catalog in list(_EVERY):
        catalog.forget()


os.register_at_fork(after_in_child=_after_fork)


def _is_older(found: str) -> bool:
    return found.isdecimal() and int(found) < int(schema.SCHEMA_VERSION)


def _told(found: str | None) -> str:
    """What is said of a schema that is not this release's."""
    if found is None or not found.isdecimal():
        return "the catalog does not say which schema it has"
    if int(found) < int(schema.BASELINE):
        return f"the catalog has schema {found}, which is older than any that a release can upgrade"
    if _is_older(found):
        return f"the catalog has schema {found}, and this release needs {schema.SCHEMA_VERSION}: run 'dsvault upgrade'"
    return (
        f"the catalog has schema {found}, and this release knows none above {schema.SCHEMA_VERSION}: "
        "use the release that upgraded it"
    )


def _shut_others_out(connection: Connection) -> None:
    """Wait until nobody is within a write, and let nobody begin one before this transaction has ended.

    On SQLite whoever writes is alone already. Elsewhere every write begins with a look at the schema's number, and
    holds its table until it ends.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(text(f"SET LOCAL lock_timeout = '{round(BUSY_SECONDS)}s'"))
        connection.execute(text("LOCK TABLE about IN ACCESS EXCLUSIVE MODE"))


def _refuse_dangling(connection: Connection) -> None:
    """SQLite's own check that every reference still has what it refers to: it was off while tables were copied."""
    if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
        raise IntegrityError("a row of the catalog refers to what is not there; nothing was upgraded")


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
