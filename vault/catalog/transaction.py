"""One transaction's reads and writes, one method for each question that the rest of dsvault asks."""

from sqlalchemy import bindparam, select, update

from vault.catalog import schema
from vault.catalog.holdings import Holdings
from vault.catalog.jobs import Jobs
from vault.catalog.logged import TAIL_COLUMNS, Logged
from vault.catalog.often import Often
from vault.catalog.permissions import Permissions
from vault.catalog.records import LogTailRow, RootRow
from vault.catalog.submitted import Submitted

__all__ = ["Transaction"]

_OF_SCHEMA = select(schema.about.c.value).where(schema.about.c.name == bindparam("wanted"))
_SCHEMA = Often(_OF_SCHEMA)
_NEWEST_ROOT = Often(select(schema.roots).order_by(schema.roots.c.version.desc()).limit(1))
_TURN = Often(
    select(_OF_SCHEMA.scalar_subquery(), *TAIL_COLUMNS),
    lambda: select(_OF_SCHEMA.scalar_subquery(), *TAIL_COLUMNS).with_for_update(),
)


class Transaction(Holdings, Permissions, Submitted, Jobs, Logged):
    """The catalog inside one transaction. Nothing here judges what it reads."""

    def about(self, name: str) -> str | None:
        """A setting of the catalog itself."""
        table = schema.about
        value: str | None = self.connection.execute(
            select(table.c.value).where(table.c.name == name)
        ).scalar_one_or_none()
        return value

    def schema(self) -> str | None:
        """The number of the schema that the tables have. Until this transaction ends nobody upgrades them."""
        row = _SCHEMA.run(self.connection, wanted="schema").fetchone()
        return str(row[0]) if row else None

    def take_turn(self) -> str | None:
        """What every write begins with: wait until nobody else writes, and return what `schema` does."""
        if self.connection.dialect.name == "sqlite":
            return self.schema()  # whoever writes is the only writer already
        row = _TURN.run(self.connection, wanted="schema").fetchone()
        if row is None:
            return self.schema()  # the log has no end yet: the vault is being made
        self._held = LogTailRow(row[1], row[2])
        return row[0] and str(row[0])

    def set_about(self, name: str, value: str) -> None:
        """Replace a setting of the catalog itself."""
        table = schema.about
        self.connection.execute(update(table).where(table.c.name == name).values(value=value))

    # The root document

    def add_root(self, row: RootRow) -> None:
        """Add the next version; a number that is taken is a Conflict."""
        self.memo.pop("root", None)
        self._add(schema.roots, version=row.version, statement=row.statement)

    def newest_root(self) -> RootRow | None:
        """The highest version of the root document."""
        row = _NEWEST_ROOT.run(self.connection).fetchone()
        return RootRow(*row) if row else None

    def roots(self, after: int = 0) -> list[RootRow]:
        """The versions above a number, in order."""
        table = schema.roots
        query = select(table).where(table.c.version > after).order_by(table.c.version)
        return [RootRow(row.version, row.statement) for row in self.connection.execute(query)]
