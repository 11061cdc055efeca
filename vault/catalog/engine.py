"""Opening the catalog, and its transactions.

There is one writer at a time, so that a check made inside a write still holds when it commits; others wait up to the
busy time-out and then get `Unavailable`. How SQLite and PostgreSQL come to that is in a module of each.
"""

import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, func, insert, inspect, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import IntegrityError as ConstraintError

from vault.catalog import postgresql, schema
from vault.catalog.roles import roles_sql
from vault.catalog.sharing import Crossed, SharedWrites, Uncertain
from vault.catalog.sqlite import sqlite_engine
from vault.catalog.transaction import Transaction
from vault.encoding import from_timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, OtherSchema, Unavailable, VaultError

__all__ = ["Catalog", "open_catalog"]

_Result = TypeVar("_Result")


class Catalog:
    """A vault's SQL catalog.

    `read` and `write` are context managers over one transaction each. Raises Conflict when a write
    would break a uniqueness that another writer has just taken, and Unavailable when the database
    cannot be reached or stays locked; in both cases nothing was changed.
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._url = url
        # What is held open goes with this object. At the end of the process others still write, and it goes anyway.
        weakref.finalize(self, engine.dispose).atexit = False
        _EVERY.add(self)
        self._shared = SharedWrites(self.write)
        #: Why nothing is read or written any more: the tables became those of another release.
        self._other: str | None = None
        #: Called behind every commit that changed an administrative table, with the number of the change.
        self.after_change: Callable[[int], None] = lambda _number: None

    @property
    def url(self) -> str:
        """What it was opened with, its password too: for another process of the same owner, by a pipe."""
        return self._url

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
            self._refuse_schema(transaction.take_turn())
            yield transaction
        if transaction.changed is not None:
            self.after_change(transaction.changed[0])

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
        committing = False
        try:
            with self._connect(write, migrate) as connection, connection.begin():
                transaction = Transaction(connection)
                if write and self._is_postgresql:
                    postgresql.begin_write(connection)
                yield transaction
                transaction.finish()
                committing = write
        except VaultError:
            raise
        except (ConstraintError, sqlite3.IntegrityError) as error:
            raise Conflict("another change to the catalog came first; try again") from error
        except (DBAPIError, SQLAlchemyError, sqlite3.Error) as error:
            raise _failure(error, committing) from error

    @property
    def is_server(self) -> bool:
        """Whether a server keeps it, which is there before the vault is; a file is made with it."""
        return self._is_postgresql

    @property
    def _is_postgresql(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def _connect(self, write: bool, migrate: bool) -> Connection:
        options: dict[str, Any] = {"dsvault_write": write, "dsvault_migrate": migrate}
        if self._is_postgresql:
            options |= postgresql.options(write=write)
        return self._engine.connect().execution_options(**options)

    def times(self) -> tuple[datetime, datetime | None]:
        """The catalog's own clock, UTC, and the time of the newest log entry."""
        newest = select(schema.log.c.time).order_by(schema.log.c.sequence.desc()).limit(1).scalar_subquery()
        with self.read() as transaction:
            now, logged = transaction.connection.execute(select(self._clock_expression(), newest)).one()
        return from_timestamp(str(now)), from_timestamp(logged) if logged else None

    def _clock_expression(self) -> Any:
        if not self._is_postgresql:
            return func.strftime("%Y-%m-%dT%H:%M:%f000Z", "now")
        pattern: Any = literal_column('\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\'')
        return func.to_char(func.timezone("UTC", func.clock_timestamp()), pattern)

    def reach(self) -> None:
        """Raise Unavailable where the database's server lets nobody in; a file is looked at when it is made."""
        if self._is_postgresql:
            with self._begin(write=False):
                pass

    def create(
        self,
        vault: str,
        then: Callable[[Transaction], object] = lambda _transaction: None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Make the tables of a new vault; raises InvalidInput where there is one already.

        ``then`` fills them in the same transaction: a run that is killed has made none. ``about`` is kept besides.
        """
        with self._begin(write=True) as transaction:
            connection = transaction.connection
            schema.about.create(connection, checkfirst=True)
            if transaction.about("vault") is not None:
                raise InvalidInput("the catalog already belongs to a vault")
            schema.metadata.create_all(connection)
            schema.revision.create(connection, checkfirst=True)
            named = {"vault": vault, "schema": schema.SCHEMA_VERSION, **(about or {})}
            connection.execute(insert(schema.about), [{"name": name, "value": value} for name, value in named.items()])
            connection.execute(insert(schema.revision), {"version_num": schema.SCHEMA_VERSION})
            then(transaction)

    def tables(self) -> frozenset[str]:
        """The names of the tables that there are, whosever they are."""
        with self._begin(write=False) as transaction:
            return frozenset(inspect(transaction.connection).get_table_names())

    def about(self, name: str) -> str | None:
        """A setting of the catalog itself; None where there is no such table either."""
        if schema.about.name not in self.tables():
            return None
        with self._begin(write=False) as transaction:
            return transaction.about(name)

    def check(self, vault: str) -> None:
        """Refuse a catalog of another vault or another schema; raises IntegrityError or OtherSchema."""
        with self.read() as transaction:
            self.refuse_other_schema(transaction)
            if transaction.about("vault") != vault:
                raise IntegrityError("the catalog belongs to another vault")

    def refuse_other_schema(self, transaction: Transaction) -> None:
        """Raise OtherSchema where the tables are those of another release; nothing is read or written after that."""
        self._refuse_schema(transaction.schema())

    def _refuse_schema(self, found: str | None) -> None:
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

        if self._is_postgresql:
            postgresql.shut_others_out(transaction.connection)
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

    def roles(self, owner: str, brokers: Mapping[str, Sequence[str]]) -> str:
        """The SQL of `roles_sql`; raises InvalidInput for a database that has no roles."""
        if not self._is_postgresql:
            raise InvalidInput("the vault's catalog is a SQLite file, which has no roles; PostgreSQL has")
        return roles_sql(owner, brokers)

    def __repr__(self) -> str:
        return f"Catalog({self._engine.url!r})"  # without the password

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
        if parsed.get_backend_name() == "postgresql" and parsed.get_driver_name() == "psycopg":
            return Catalog(postgresql.postgresql_engine(parsed), url)
        if parsed.get_backend_name() != "sqlite":
            raise InvalidInput("--catalog: use a sqlite:/// or postgresql+psycopg:// URL")
        if parsed.database in {None, "", ":memory:"}:
            raise InvalidInput("--catalog: a SQLite catalog needs a file, such as sqlite:///path/catalog.db")
        return Catalog(sqlite_engine(parsed, serving=serving), url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError):
        # What is told of such a URL may quote it, and a password with it.
        raise InvalidInput("--catalog: the URL cannot be read, or its driver is not installed") from None


def _failure(error: Exception, committing: bool) -> VaultError:
    """What is told of a database's error. The driver's text may quote a statement and its parameters: it stays out."""
    if not isinstance(error, DBAPIError):
        return Unavailable(f"the catalog could not be read or written ({type(error).__name__})")
    if committing and error.connection_invalidated:
        return Uncertain("the catalog was lost as a change was committed: it may have been made, or not")
    found = getattr(error.orig, "sqlstate", None)
    if found in _CROSSED:
        return Crossed("another change to the catalog came first; try again")
    if found in _TOLD:
        return Unavailable(f"the catalog could not be read or written: {_TOLD[found]}")
    if found is None and (refused := _refused(str(error.orig))):
        return Unavailable(f"the catalog could not be read or written: {refused}")
    return Unavailable(f"the catalog could not be read or written ({type(error.orig).__name__})")


def _refused(said: str) -> str | None:
    """Why a server let nobody in, in words of ours: libpq gives no code then, and its text names users and hosts."""
    return next((ours for sign, ours in _NOT_LET_IN.items() if sign in said), None)


#: What libpq and a server that speaks English say to who wants to connect, the more telling first.
_NOT_LET_IN: Final = {
    "authentication failed": "the database refuses the user or the password",
    "no password supplied": "the database asks for a password, and none was given",
    "no pg_hba.conf entry": "the database lets nobody in as this user, from this machine, or without TLS",
    "certificate": "the certificates of TLS do not agree with what sslmode, sslrootcert and sslcert ask for",
    "SSL": "the database's server and sslmode do not agree on TLS",
    "too many clients": "the database has no connection left",
    "remaining connection slots": "the database has no connection left",
    "permission denied for database": "the user may not connect to the database",
    "starting up": "the database is starting",
    "shutting down": "the database is ending",
    "does not exist": "there is no such user or database",
    "resolve host": "the database's host has no address",
    "translate host name": "the database's host has no address",
    "refused": "nothing answers at the database's address",
    "timeout": "nothing answers at the database's address",
    "invalid connection option": "the URL of the catalog has an option that libpq does not know",
    "invalid URI query parameter": "the URL of the catalog has an option that libpq does not know",
}
#: PostgreSQL's words for changes of which one had to give way, and for what somebody can do something about.
_CROSSED: Final = frozenset({"40001", "40P01"})
_TOLD: Final = {
    "25P03": "the change was left alone for too long, and the database ended it",
    "42501": "its database role may not do that",
    "55P03": "another process does not let go of it",
    "57014": "it took longer than the database allows",
}


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


def _refuse_dangling(connection: Connection) -> None:
    """SQLite's own check that every reference still has what it refers to: it was off while tables were copied."""
    if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
        raise IntegrityError("a row of the catalog refers to what is not there; nothing was upgraded")
