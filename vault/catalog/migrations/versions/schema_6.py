"""Schema 6: what administrative transactions changed, on its way into the store, and how far the backup is."""

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    """Make the two tables of the backup."""
    op.create_table(
        "changes",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "backup",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("snapshot", sa.BigInteger),
        sa.Column("snapshot_digest", sa.String(64)),
        sa.Column("snapshot_root", sa.Integer),
        sa.Column("snapshot_bytes", sa.BigInteger, nullable=False),
        sa.Column("later_bytes", sa.BigInteger, nullable=False),
    )
