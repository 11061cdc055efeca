"""The catalog's tables. Ids, counters, times, wrapped keys and signed statements; no names in clear."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from vault.catalog.sealed import Sealed

__all__ = [
    "BASELINE",
    "SCHEMA_VERSION",
    "about",
    "backup",
    "changes",
    "compartments",
    "credentials",
    "datasets",
    "grants",
    "heads",
    "holders",
    "jobs",
    "keys",
    "log",
    "log_tail",
    "metadata",
    "proofs",
    "revision",
    "roots",
    "steps",
    "submissions",
    "usage",
    "versions",
]

#: Raised with every change below; `vault.catalog.migrations` says how.
SCHEMA_VERSION = "7"
#: The schema of vaults from before there were revisions.
BASELINE = "5"
_ID = String(32)
_TIME = String(27)

metadata = MetaData()

# Where Alembic looks for the revision that the tables are at; vaults at schema 5 may be without.
revision = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))

about = Table("about", metadata, Column("name", String(32), primary_key=True), Column("value", String(255)))

# The chain of root documents; each row is believed only where it follows from the one before it.
roots = Table(
    "roots",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("statement", LargeBinary, nullable=False),
)

holders = Table(
    "holders",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kms_key", String(2048), nullable=False),
    Column("name", Sealed("holder name"), nullable=False),
    Column("name_index", LargeBinary(16), nullable=False, unique=True),
    Column("own_name", Sealed("holder own name")),
    Column("created", _TIME, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", Sealed("dataset name"), nullable=False),
    Column("name_index", LargeBinary(16), nullable=False, unique=True),
    Column("settings", Sealed("dataset settings"), nullable=False),
    Column("created", _TIME, nullable=False),
)

compartments = Table(
    "compartments",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("holder", _ID, ForeignKey("holders.id"), nullable=False),
    Column("dataset", _ID, ForeignKey("datasets.id"), nullable=False),
    UniqueConstraint("holder", "dataset"),
)

# A key's compartment is a holder's id for metadata keys, so there is no foreign key here.
keys = Table(
    "keys",
    metadata,
    Column("compartment", _ID, primary_key=True),
    Column("column_group", _ID, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("key_id", _ID, nullable=False),
    Column("kms_key", String(2048), nullable=False),
    Column("wrapped", LargeBinary(4096), nullable=False),
    Column("created", _TIME, nullable=False),
)

# A superseded manifest stays listed, with the time of its retirement, until gc drops it: until then
# its objects count as in use, so that streams that were opened before can end.
versions = Table(
    "versions",
    metadata,
    Column("compartment", _ID, ForeignKey("compartments.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("statement", LargeBinary, nullable=False),
    Column("retired", _TIME),
)

heads = Table(
    "heads",
    metadata,
    Column("subject", _ID, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("by_authority", Integer, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("vendor", _ID, ForeignKey("holders.id"), nullable=False),
    Column("dataset", _ID, ForeignKey("datasets.id"), nullable=False),
    Column("statement", Sealed("grant"), nullable=False),
    Column("vendor_statement", Sealed("vendor grant"), nullable=False),
    Column("created", _TIME, nullable=False),
    # When a head first listed it: tells a pending grant from a revoked one, for people only.
    Column("settled", _TIME),
    Index("grants_of_vendor", "vendor", "dataset"),
    Index("grants_of_dataset", "dataset"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("vendor", _ID, ForeignKey("holders.id"), nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("created", _TIME, nullable=False),
    Index("credentials_of_vendor", "vendor"),
)

# What vendors sent back, still in quarantine or settled. The envelope is signed by a vendor's key and names ids alone;
# what the owner notes of a settled one is sealed. A broker adds rows, and changes none.
submissions = Table(
    "submissions",
    metadata,
    Column("vendor", _ID, ForeignKey("holders.id"), primary_key=True),
    Column("id", _ID, primary_key=True),
    Column("grant", _ID, ForeignKey("grants.id"), nullable=False),
    Column("dataset", _ID, ForeignKey("datasets.id"), nullable=False),
    Column("object", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("received", _TIME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("settled", _TIME),
    Column("note", Sealed("submission note")),
    Index("submissions_of_state", "state"),
)

# What was used of grants that have limits, by day (UTC, as YYYY-MM-DD).
usage = Table(
    "usage",
    metadata,
    Column("grant", _ID, ForeignKey("grants.id"), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

# Proofs of possession that were used, until they would be refused for their age: no broker takes one a second time.
proofs = Table(
    "proofs",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("until", _TIME, nullable=False, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("process", String(255), nullable=False),
    Column("started", _TIME, nullable=False),
    Column("beat", _TIME, nullable=False),
)

# What a job that can be taken up again has done so far.
steps = Table(
    "steps",
    metadata,
    Column("job", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("document", Sealed("job step"), nullable=False),
)

log = Table(
    "log",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("time", _TIME, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# The signed end of the log, and the hashes of the perfect subtrees of its tree, the largest first.
log_tail = Table(
    "log_tail",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("note", LargeBinary, nullable=False),
    Column("edge", LargeBinary, nullable=False),
)

# What administrative transactions changed and the store does not have yet, by number: the order of their commits.
changes = Table(
    "changes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
)

# Where the chain of changes ends, and the newest snapshot that is in the store: one row. The snapshot is of so many
# changes and was made under a version of the root document; the bytes are its own, and those of the changes since.
backup = Table(
    "backup",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("snapshot", BigInteger),
    Column("snapshot_digest", String(64)),
    Column("snapshot_root", Integer),
    Column("snapshot_bytes", BigInteger, nullable=False),
    Column("later_bytes", BigInteger, nullable=False),
)
