"""Schema 5: the tables of vaults from before there were revisions."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = None

_ID = sa.String(32)
_TIME = sa.String(27)


def upgrade() -> None:
    """Make every table."""
    _keys_and_versions()
    _access()
    _work()


def _keys_and_versions() -> None:
    op.create_table("about", sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.String(255)))
    op.create_table(
        "roots",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "holders",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("kms_key", sa.String(2048), nullable=False),
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("name_index", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("own_name", sa.LargeBinary),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_table(
        "datasets",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("name_index", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("settings", sa.LargeBinary, nullable=False),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_table(
        "compartments",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("holder", _ID, sa.ForeignKey("holders.id"), nullable=False),
        sa.Column("dataset", _ID, sa.ForeignKey("datasets.id"), nullable=False),
        sa.UniqueConstraint("holder", "dataset"),
    )
    op.create_table(
        "keys",
        sa.Column("compartment", _ID, primary_key=True),
        sa.Column("column_group", _ID, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("kms_key", sa.String(2048), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(4096), nullable=False),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("compartment", _ID, sa.ForeignKey("compartments.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("retired", _TIME),
    )


def _access() -> None:
    op.create_table(
        "heads",
        sa.Column("subject", _ID, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("by_authority", sa.Integer, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("vendor", _ID, sa.ForeignKey("holders.id"), nullable=False),
        sa.Column("dataset", _ID, sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("vendor_statement", sa.LargeBinary, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("settled", _TIME),
        sa.Index("grants_of_vendor", "vendor", "dataset"),
        sa.Index("grants_of_dataset", "dataset"),
    )
    op.create_table(
        "credentials",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("vendor", _ID, sa.ForeignKey("holders.id"), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Index("credentials_of_vendor", "vendor"),
    )
    op.create_table(
        "usage",
        sa.Column("grant", _ID, sa.ForeignKey("grants.id"), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "proofs",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("until", _TIME, nullable=False, index=True),
    )


def _work() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("process", sa.String(255), nullable=False),
        sa.Column("started", _TIME, nullable=False),
        sa.Column("beat", _TIME, nullable=False),
    )
    op.create_table(
        "steps",
        sa.Column("job", _ID, sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "log",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", _TIME, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "log_tail",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sa.Column("edge", sa.LargeBinary, nullable=False),
    )
