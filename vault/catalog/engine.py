"""Opening the catalog, and its transactions.

SQLite runs in WAL mode with foreign keys on and full synchronisation. A writing transaction begins with
BEGIN IMMEDIATE, so that there is one writer at a time and a check made inside it still holds when it
commits; others wait up to the busy time-out and then get `Unavailable`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, create_engine, event, func, insert, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import IntegrityError as ConstraintError
from sqlalchemy.pool import NullPool

from vault.catalog import schema
from vault.catalog.transaction import Transaction
from vault.encoding import from_timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, Unavailable, VaultError

__all__ = ["Catalog", "open_catalog"]

_BUSY_SECONDS = 30


class Catalog:
    """A vault's SQL catalog.

    `read` and `write` are context managers over one transaction each. Raises Conflict when a write
    would break a uniqueness that another writer has just taken, and Unavailable when the database
    cannot be reached or stays locked; in both cases nothing was changed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view."""
        with self._begin(write=False) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One atomic change; rolled back when the block raises."""
        with self._begin(write=True) as transaction:
            yield transaction

    @contextmanager
    def _begin(self, *, write: bool) -> Iterator[Transaction]:
        try:
            with (
                self._engine.connect().execution_options(dsvault_write=write) as connection,
                connection.begin(),
            ):
                yield Transaction(connection)
        except VaultError:
            raise
        except ConstraintError as error:
            raise Conflict("another change to the catalog came first; try again") from error
        except (DBAPIError, SQLAlchemyError) as error:
            # The driver's text may quote the statement and its parameters: it stays out of the message.
            kind = type(error.orig if isinstance(error, DBAPIError) else error).__name__
            raise Unavailable(f"the catalog could not be read or written ({kind})") from error

    def now(self) -> datetime:
        """The catalog's own clock, UTC."""
        with self._begin(write=False) as transaction:
            return transaction.now(self._clock_expression())

    def _clock_expression(self) -> Any:
        if self._engine.dialect.name == "sqlite":
            return func.strftime("%Y-%m-%dT%H:%M:%f000Z", "now")
        pattern: Any = literal_column('\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\'')
        return func.to_char(func.timezone("UTC", func.clock_timestamp()), pattern)

    def create(self, vault: str) -> None:
        """Make the tables of a new vault; raises InvalidInput where there is one already."""
        try:
            with self._engine.connect().execution_options(dsvault_write=True) as connection:
                schema.metadata.create_all(connection, checkfirst=True)
                connection.commit()
            with self._begin(write=True) as transaction:
                if transaction.about("vault") is not None:
                    raise InvalidInput("the catalog already belongs to a vault")
                rows = [{"name": "vault", "value": vault}, {"name": "schema", "value": schema.SCHEMA_VERSION}]
                transaction.connection.execute(insert(schema.about), rows)
        except SQLAlchemyError as error:
            raise Unavailable("the catalog could not be created") from error

    def check(self, vault: str) -> None:
        """Refuse a catalog of another vault or an unknown schema version; raises IntegrityError."""
        with self.read() as transaction:
            if transaction.about("schema") != schema.SCHEMA_VERSION:
                raise IntegrityError("the catalog has a schema that this release does not know")
            if transaction.about("vault") != vault:
                raise IntegrityError("the catalog belongs to another vault")

    def log_time(self) -> datetime | None:
        """The time of the newest log entry."""
        with self.read() as transaction:
            newest = transaction.connection.execute(
                select(schema.log.c.time).order_by(schema.log.c.sequence.desc()).limit(1)
            ).scalar_one_or_none()
        return from_timestamp(newest) if newest else None

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def open_catalog(url: str) -> Catalog:
    """Open a catalog by its SQLAlchemy URL; raises InvalidInput for one that cannot be used."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise InvalidInput("--catalog: use a sqlite:/// or postgresql+psycopg:// URL")
        if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
            raise InvalidInput("--catalog: a SQLite catalog needs a file, such as sqlite:///path/catalog.db")
        return Catalog(_engine(url, parsed.get_backend_name()))
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidInput("--catalog: the URL cannot be read, or its driver is not installed") from error


def _engine(url: str, backend: str) -> Engine:
    if backend != "sqlite":
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
    # A connection for each transaction: SQLite connections are cheap, must not cross a fork, and an
    # open one would pin the write-ahead log.
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _record: Any) -> None:
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
        write = connection.get_execution_options().get("dsvault_write", False)
        connection.execute(text("BEGIN IMMEDIATE" if write else "BEGIN"))

    return engine
