"""Schema 7: what vendors send back, until the owner takes it over or refuses it."""

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"

_ID = sa.String(32)
_TIME = sa.String(27)


def upgrade() -> None:
    """Make the table of submissions."""
    op.create_table(
        "submissions",
        sa.Column("vendor", _ID, sa.ForeignKey("holders.id"), primary_key=True),
        sa.Column("id", _ID, primary_key=True),
        sa.Column("grant", _ID, sa.ForeignKey("grants.id"), nullable=False),
        sa.Column("dataset", _ID, sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("object", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("received", _TIME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("settled", _TIME),
        sa.Column("note", sa.LargeBinary),
        sa.Index("submissions_of_state", "state"),
    )
