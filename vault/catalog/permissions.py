"""Who may do what: heads, grants and credentials, what was used of a grant, and proofs that were used."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import sqlite

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.often import Often
from vault.catalog.records import CredentialRow, GrantRow, HeadRow
from vault.catalog.sealed import SealedValue

__all__ = ["Permissions"]

#: One proof in so many 256ths, by its digest, clears the old ones away.
_CLEARING = 8
_USED = ("requests", "rows", "bytes")


def _proof_on_postgresql() -> Any:
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(schema.proofs).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


_NEWEST_HEAD = Often(
    select(schema.heads)
    .where(schema.heads.c.subject == bindparam("wanted"))
    .order_by(schema.heads.c.sequence.desc())
    .limit(1)
)
_ADD_PROOF = Often(sqlite.insert(schema.proofs).on_conflict_do_nothing(), _proof_on_postgresql)


class Permissions(Noting):
    """The part of a transaction that reads and writes these."""

    # Heads

    def add_head(self, row: HeadRow) -> None:
        """Add the next step of a subject; a number that is taken is a Conflict."""
        self._add(
            schema.heads,
            subject=row.subject,
            sequence=row.sequence,
            kind=row.kind,
            by_authority=int(row.by_authority),
            statement=row.statement,
            body=row.body,
        )

    def newest_head(self, subject: str) -> HeadRow | None:
        """The highest step of a subject."""
        row = _NEWEST_HEAD.run(self.connection, wanted=subject).fetchone()
        return HeadRow(row[0], row[1], row[2], bool(row[3]), row[4], row[5]) if row else None

    def head_steps(self, subject: str) -> list[HeadRow]:
        """The steps from the authority's last one on, oldest first."""
        table = schema.heads
        last = (
            select(func.max(table.c.sequence))
            .where(and_(table.c.subject == subject, table.c.by_authority == 1))
            .scalar_subquery()
        )
        query = select(table).where(and_(table.c.subject == subject, table.c.sequence >= last))
        return [_head(row) for row in self.connection.execute(query.order_by(table.c.sequence))]

    def heads_from(self, subject: str, sequence: int) -> list[HeadRow]:
        """The steps of a subject from one number on, oldest first."""
        table = schema.heads
        query = select(table).where(and_(table.c.subject == subject, table.c.sequence >= sequence))
        return [_head(row) for row in self.connection.execute(query.order_by(table.c.sequence))]

    def head_subjects(self) -> list[tuple[str, int]]:
        """Every subject and its highest number."""
        table = schema.heads
        query = select(table.c.subject, func.max(table.c.sequence)).group_by(table.c.subject)
        return [(row[0], row[1]) for row in self.connection.execute(query)]

    def marks(self) -> dict[str, str]:
        """For every head's subject and every holder something that changes when its keys may have to be dropped."""
        marks = {subject: str(sequence) for subject, sequence in self.head_subjects()}
        table = schema.holders
        for row in self.connection.execute(select(table.c.id, table.c.kms_key)):
            marks[row.id] = f"{marks.get(row.id, '')} {row.kms_key}"
        return marks

    # Grants and credentials

    def add_grant(
        self,
        row: str,
        vendor: str,
        dataset: str,
        statement: SealedValue,
        vendor_statement: SealedValue,
        created: str,
    ) -> None:
        """Add a signed grant; it is effective only once a vendor head lists it."""
        self._add(
            schema.grants,
            id=row,
            vendor=vendor,
            dataset=dataset,
            statement=statement,
            vendor_statement=vendor_statement,
            created=created,
        )

    def grants(
        self, *, vendor: str | None = None, dataset: str | None = None, grant: str | None = None
    ) -> list[GrantRow]:
        """Grants, of one vendor, dataset or id where named, oldest first."""
        table = schema.grants
        query = select(table).order_by(table.c.created, table.c.id)
        for column, wanted in ((table.c.vendor, vendor), (table.c.dataset, dataset), (table.c.id, grant)):
            if wanted is not None:
                query = query.where(column == wanted)
        return [
            GrantRow(
                row.id,
                row.vendor,
                row.dataset,
                row.statement,
                row.vendor_statement,
                row.created,
                row.settled,
            )
            for row in self.connection.execute(query)
        ]

    def set_grant_statements(
        self, grant: str, statement: SealedValue | None, vendor_statement: SealedValue | None
    ) -> None:
        """Put the same grant under another signature in its place; a copy that is not given stays."""
        table = schema.grants
        copies = {"statement": statement, "vendor_statement": vendor_statement}
        values = {name: value for name, value in copies.items() if value is not None}
        self._change(table, update(table).where(table.c.id == grant).values(values))

    def settle_grant(self, grant: str, now: str) -> None:
        """Note when a grant became effective."""
        table = schema.grants
        self._change(table, update(table).where(table.c.id == grant).values(settled=now))

    def add_credential(self, row: CredentialRow) -> None:
        """Add a signed credential; it is effective only once a vendor head lists it."""
        self._add(schema.credentials, id=row.id, vendor=row.vendor, statement=row.statement, created=row.created)

    def set_credential_statement(self, credential: str, statement: bytes) -> None:
        """Put the same credential under another signature in its place."""
        table = schema.credentials
        self._change(table, update(table).where(table.c.id == credential).values(statement=statement))

    def credential(self, credential: str) -> CredentialRow | None:
        """A credential by id."""
        table = schema.credentials
        row = self.connection.execute(select(table).where(table.c.id == credential)).one_or_none()
        return CredentialRow(row.id, row.vendor, row.statement, row.created) if row else None

    def credentials(self, vendor: str | None = None) -> list[CredentialRow]:
        """Credentials, of one vendor where named, oldest first."""
        table = schema.credentials
        query = select(table).order_by(table.c.created, table.c.id)
        if vendor is not None:
            query = query.where(table.c.vendor == vendor)
        return [CredentialRow(row.id, row.vendor, row.statement, row.created) for row in self.connection.execute(query)]

    # Usage of grants

    def usage(self, grant: str, day: str) -> tuple[dict[str, int], dict[str, int]]:
        """Requests, rows and bytes that were used of a grant, in all and on a day."""
        table = schema.usage
        total, today = dict.fromkeys(_USED, 0), dict.fromkeys(_USED, 0)
        for row in self.connection.execute(select(table).where(table.c.grant == grant)):
            for name in _USED:
                total[name] += getattr(row, name)
                today[name] += getattr(row, name) if row.day == day else 0
        return total, today

    def add_usage(self, grant: str, day: str, used: Mapping[str, int]) -> None:
        """Add to what was used of a grant on a day; called in the transaction that read it."""
        table = schema.usage
        key = and_(table.c.grant == grant, table.c.day == day)
        changes = {name: table.c[name] + used.get(name, 0) for name in _USED}
        if not self.connection.execute(update(table).where(key).values(changes)).rowcount:
            values = {name: used.get(name, 0) for name in _USED}
            self.connection.execute(insert(table).values(grant=grant, day=day, **values))

    # Proofs of possession

    def use_proof(self, digest: bytes, until: str, now: str) -> bool:
        """Remember that a proof was used; False where it had been. What is too old to count is cleared now and then."""
        if digest[0] < _CLEARING:
            self.connection.execute(delete(schema.proofs).where(schema.proofs.c.until < now))
        # Where another broker is adding the same one, this waits for what becomes of it.
        return bool(_ADD_PROOF.run(self.connection, digest=digest, until=until).rowcount == 1)


def _head(row: Any) -> HeadRow:
    return HeadRow(row.subject, row.sequence, row.kind, bool(row.by_authority), row.statement, row.body)
