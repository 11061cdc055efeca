"""Schema versions of the catalog, one Alembic revision for each number.

A revision's id is the schema's number, and ``about`` holds the same number for releases to look at. A new vault's
tables are made from `vault.catalog.schema` as it is; an older vault's are brought there by the revisions between.
A test holds that both come to the same.

To add one:

1. change ``schema.py``, and raise its ``SCHEMA_VERSION`` by one;
2. add ``versions/schema_N.py`` with ``revision = "N"``, ``down_revision`` the number before, and ``upgrade()``. It is a
   record of what was done: it names tables and columns itself and imports nothing of `vault`. To alter a table that is
   there use ``op.batch_alter_table``, since SQLite copies the table for that. Nothing goes back: there is no
   ``downgrade``. All runs in one transaction, so no statement may be one that PostgreSQL refuses within one;
3. say in ``docs/explanation/decisions/0032-schema-versions.md`` what the number brought.

The ``roots`` and the ``log_tail`` are read before: nothing is written behind a log that was rolled back.

This module alone imports Alembic, and is imported to upgrade a vault and for nothing else.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["PLACES", "migrate"]

_HERE = Path(__file__).parent
#: Where revisions lie.
PLACES: tuple[Path, ...] = (_HERE / "versions",)


def migrate(connection: Connection, before: str | None) -> None:
    """Bring the tables from one schema, or from nothing, to the newest, in the transaction that the connection is in.

    ``before`` is believed over Alembic's own table, which vaults at the baseline may lack.
    """
    config = Config(attributes={"connection": connection})
    for name, value in (
        ("script_location", str(_HERE)),
        ("version_locations", "\n".join(map(str, PLACES))),
        ("path_separator", "newline"),
    ):
        config.set_main_option(name, value.replace("%", "%%"))
    if before is not None:
        command.stamp(config, before, purge=True)
    command.upgrade(config, "head")
