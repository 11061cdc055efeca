"""SQL that gives each of dsvault's parts a PostgreSQL role of its own, with what that part needs and no more.

The catalog is not trusted, and what is signed holds whoever wrote it. This keeps a broker that was taken over from
doing damage that would have to be found and mended: it reads what it serves and appends to the log, and the server
refuses it everything else. Rows of a vendor are kept apart by row-level security. Nothing here asks a database.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vault.catalog import schema
from vault.encoding import is_id
from vault.errors import InvalidInput

__all__ = ["AUDITOR", "BROKER", "OWNER_ROLE", "RESPONDER", "roles_sql"]

OWNER_ROLE: Final = "dsvault_owner"
RESPONDER: Final = "dsvault_responder"
BROKER: Final = "dsvault_broker"
AUDITOR: Final = "dsvault_auditor"
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,56}")

#: What the owner's commands, a responder and a broker do with each table. An auditor reads all of them.
_ALLOWED: Final[Mapping[str, tuple[str, str, str]]] = {
    "about": ("SELECT", "SELECT", "SELECT"),
    "roots": ("SELECT, INSERT", "SELECT", "SELECT"),
    "holders": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT"),
    "datasets": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT"),
    "compartments": ("SELECT, INSERT", "SELECT", "SELECT"),
    "keys": ("SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT"),
    "versions": ("SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT"),
    "heads": ("SELECT, INSERT", "SELECT, INSERT", "SELECT"),
    "grants": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT"),
    "credentials": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT"),
    "submissions": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT, INSERT"),
    "usage": ("SELECT, INSERT, UPDATE", "SELECT", "SELECT, INSERT, UPDATE (requests, rows, bytes)"),
    "proofs": ("SELECT, INSERT, DELETE", "", "SELECT, INSERT, DELETE"),
    "jobs": ("SELECT, INSERT, UPDATE", "SELECT", ""),
    "steps": ("SELECT, INSERT, DELETE", "SELECT", ""),
    "log": ("SELECT, INSERT", "SELECT, INSERT", "SELECT, INSERT"),
    "log_tail": ("SELECT, INSERT, UPDATE", "SELECT, UPDATE", "SELECT, UPDATE"),
    "changes": ("SELECT, INSERT, DELETE", "SELECT, INSERT, DELETE", ""),
    "backup": ("SELECT, INSERT, UPDATE", "SELECT, INSERT, UPDATE", ""),
}
#: Whose a row is, where it is somebody's, as far as a broker may see; each looks at rows that are kept apart already.
_WHOSE: Final[Mapping[str, str]] = {
    "keys": "compartment IN (SELECT id FROM holders) OR compartment IN (SELECT id FROM compartments)",
    "versions": "compartment IN (SELECT id FROM compartments)",
    "heads": "subject IN (SELECT id FROM holders) OR subject IN (SELECT id FROM compartments)",
    "grants": "vendor IN (SELECT id FROM holders)",
    "credentials": "vendor IN (SELECT id FROM holders)",
    "submissions": "vendor IN (SELECT id FROM holders)",
    "usage": '"grant" IN (SELECT id FROM grants)',
}
#: What a row is that a broker adds, beside being of its own vendors: nothing that only the owner says of one.
_ADDED: Final[Mapping[str, str]] = {"submissions": "state = 'waiting' AND settled IS NULL AND note IS NULL"}
_APART: Final = ("holders", "compartments", *_WHOSE)
#: A proof may be forgotten once it is too old to be used.
_OVER: Final = "until < to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def roles_sql(owner: str, brokers: Mapping[str, Sequence[str]]) -> str:
    """Statements for the owner of the tables to run, again after each upgrade or change; they may be run repeatedly.

    ``owner`` is the holder id of the lab. ``brokers`` names further roles, each of brokers of the vendors with these
    ids only. None can log in: users are made members. Raises InvalidInput for a name that no role may have.
    """
    for name in brokers:
        if not _NAME.fullmatch(name) or name in {OWNER_ROLE, RESPONDER, BROKER, AUDITOR}:
            raise InvalidInput(
                f"--broker: {name[:80]!r} is no name for a role: use a-z, 0-9 and _, and none of dsvault's"
            )
    everyone = (OWNER_ROLE, RESPONDER, BROKER, AUDITOR, *brokers)
    seen = {BROKER: f"<> '{_checked(owner)}'"}
    for name, vendors in brokers.items():
        listed = ", ".join(f"'{_checked(vendor)}'" for vendor in vendors)
        seen[name] = f"IN ({listed})"
    lines = ["BEGIN;", *_roles(everyone), *_tables(everyone, tuple(brokers)), *_rows(seen), "COMMIT;"]
    return "\n".join(lines) + "\n"


def _checked(identifier: str) -> str:
    if not is_id(identifier):
        raise InvalidInput("a holder's id is not of an id's form")
    return identifier


def _roles(names: Sequence[str]) -> Iterator[str]:
    yield "-- Roles that nobody logs in as: make each part's user a member of its role."
    for name in names:
        yield (
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') "
            f"THEN CREATE ROLE {name} NOLOGIN; END IF; END $$;"
        )


def _tables(everyone: Sequence[str], brokers: Sequence[str]) -> Iterator[str]:
    yield "-- What each does with which table."
    listed = ", ".join(everyone)
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {listed};"
    # Before PostgreSQL 15 anybody might make tables and functions there.
    yield "REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
    yield f"GRANT USAGE ON SCHEMA public TO {listed};"
    for table in schema.metadata.sorted_tables:
        owner, responder, broker = _ALLOWED[table.name]
        yield from _given(table.name, owner, OWNER_ROLE)
        yield from _given(table.name, responder, RESPONDER)
        yield from _given(table.name, broker, ", ".join((BROKER, *brokers)))
        yield from _given(table.name, "SELECT", AUDITOR)


def _given(table: str, what: str, to: str) -> Iterator[str]:
    if what:
        yield f"GRANT {what} ON {table} TO {to};"


def _rows(seen: Mapping[str, str]) -> Iterator[str]:
    """Policies: everybody sees every row, but for brokers; ``seen`` says by role which holders a broker sees."""
    yield "-- Whose rows each sees. The owner of the tables is not held to this."
    for table in (*_APART, "proofs"):
        yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
        yield from _policy(table, "dsvault_lab", f"FOR ALL TO {OWNER_ROLE} USING (true) WITH CHECK (true)")
        yield from _policy(table, "dsvault_read", f"FOR SELECT TO {RESPONDER}, {AUDITOR} USING (true)")
    # What a responder signs takes something away; a head of the authority's is none of his.
    yield from _policy("heads", "dsvault_removal", f"FOR INSERT TO {RESPONDER} WITH CHECK (by_authority = 0)")
    for role, holders in seen.items():
        rows = {"holders": f"id {holders}", "compartments": f"holder {holders}", **_WHOSE}
        for table in _APART:
            added = f" WITH CHECK (({rows[table]}) AND {_ADDED[table]})" if table in _ADDED else ""
            yield from _policy(table, f"{role}_rows", f"FOR ALL TO {role} USING ({rows[table]}){added}")
    brokers = ", ".join(seen)
    yield from _policy("proofs", "dsvault_seen", f"FOR SELECT TO {brokers} USING (true)")
    yield from _policy("proofs", "dsvault_used", f"FOR INSERT TO {brokers} WITH CHECK (true)")
    yield from _policy("proofs", "dsvault_over", f"FOR DELETE TO {brokers} USING ({_OVER})")


def _policy(table: str, name: str, what: str) -> Iterator[str]:
    yield f"DROP POLICY IF EXISTS {name} ON {table};"
    yield f"CREATE POLICY {name} ON {table} {what};"
