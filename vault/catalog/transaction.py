"""One transaction's reads and writes, one method for each question that the rest of dsvault asks."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError as ConstraintError

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.records import (
    CompartmentRow,
    CredentialRow,
    DatasetRow,
    GrantRow,
    HeadRow,
    HolderRow,
    JobRow,
    KeyRow,
    LogRow,
    LogTailRow,
    RootRow,
    SubmissionRow,
    VersionRow,
)
from vault.catalog.sealed import SealedBlob, SealedValue
from vault.errors import IntegrityError

__all__ = ["WAITING", "Transaction"]

#: The state of a submission that is in quarantine.
WAITING = "waiting"

#: One proof in so many 256ths, by its digest, clears the old ones away.
_CLEARING = 8
_USED = ("requests", "rows", "bytes")


class _Often:
    """What every request of a vendor's asks: made once, since making a statement takes longer than running it.

    On SQLite the driver is given its text as it is. Of the columns' types none may need to be converted. What differs
    on PostgreSQL is made when it is first run there.
    """

    def __init__(self, statement: Any, on_postgresql: Callable[[], Any] | None = None) -> None:
        self._statement = statement
        self._on_postgresql = on_postgresql

    @cached_property
    def _elsewhere(self) -> Any:
        return self._statement if self._on_postgresql is None else self._on_postgresql()

    @cached_property
    def _on_sqlite(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """The text, the names of its parameters in their order, and those that are always the same."""
        compiled = self._statement.compile(dialect=_SQLITE)
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        return str(compiled), tuple(compiled.positiontup or ()), fixed

    def run(self, connection: Connection, **values: Any) -> Any:
        """The result's rows are tuples of the table's columns in their order."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._elsewhere, values)
        text, names, fixed = self._on_sqlite
        values |= fixed
        driver: Any = connection.connection.driver_connection
        return driver.execute(text, [values[name] for name in names])

    def run_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """The same for each of some rows."""
        for row in rows:
            self.run(connection, **row)


def _proof_on_postgresql() -> Any:
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(schema.proofs).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


_SQLITE = sqlite.dialect()
_OF_SCHEMA = select(schema.about.c.value).where(schema.about.c.name == bindparam("wanted"))
_SCHEMA = _Often(_OF_SCHEMA)
_NEWEST_ROOT = _Often(select(schema.roots).order_by(schema.roots.c.version.desc()).limit(1))
_NEWEST_HEAD = _Often(
    select(schema.heads)
    .where(schema.heads.c.subject == bindparam("wanted"))
    .order_by(schema.heads.c.sequence.desc())
    .limit(1)
)
_ADD_PROOF = _Often(sqlite.insert(schema.proofs).on_conflict_do_nothing(), _proof_on_postgresql)
_TAIL_COLUMNS = (schema.log_tail.c.note, schema.log_tail.c.edge)
_TAIL = _Often(select(*_TAIL_COLUMNS))
# On SQLite whoever writes is the only writer already.
_TAIL_TO_MOVE = _Often(select(*_TAIL_COLUMNS), lambda: select(*_TAIL_COLUMNS).with_for_update())
_TURN = _Often(
    select(_OF_SCHEMA.scalar_subquery(), *_TAIL_COLUMNS),
    lambda: select(_OF_SCHEMA.scalar_subquery(), *_TAIL_COLUMNS).with_for_update(),
)
_ADD_LOG = _Often(insert(schema.log))
_MOVE_TAIL = _Often(update(schema.log_tail).values(note=bindparam("note"), edge=bindparam("edge")))
_LOG_RANGE = _Often(
    select(schema.log.c.sequence, schema.log.c.time, schema.log.c.sealed, schema.log.c.hash)
    .where(and_(schema.log.c.sequence > bindparam("after"), schema.log.c.sequence <= bindparam("last")))
    .order_by(schema.log.c.sequence)
)
_LOG_HASHES = _Often(
    select(schema.log.c.hash)
    .where(and_(schema.log.c.sequence > bindparam("after"), schema.log.c.sequence <= bindparam("last")))
    .order_by(schema.log.c.sequence)
)


class Transaction(Noting):
    """The catalog inside one transaction. Nothing here judges what it reads."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        #: The end of the log, where this transaction holds it already.
        self._held: LogTailRow | None = None

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

    # Holders

    def add_holder(
        self, row: str, kms_key: str, name: SealedValue, index: bytes, own_name: SealedValue, created: str
    ) -> None:
        """Add the owner or a vendor."""
        self._add(
            schema.holders, id=row, kms_key=kms_key, name=name, name_index=index, own_name=own_name, created=created
        )

    def set_holder(self, row: str, kms_key: str, name: SealedValue, own_name: SealedValue | None) -> None:
        """Replace a holder's KMS key and sealed fields."""
        table = schema.holders
        self._change(
            table, update(table).where(table.c.id == row).values(kms_key=kms_key, name=name, own_name=own_name)
        )

    def set_holder_name(self, row: str, name: SealedValue) -> None:
        """Replace what is sealed of a holder for the owner."""
        table = schema.holders
        self._change(table, update(table).where(table.c.id == row).values(name=name))

    def holders(self) -> list[HolderRow]:
        """Every holder, oldest first."""
        table = schema.holders
        return [_holder(row) for row in self.connection.execute(select(table).order_by(table.c.created))]

    def holder(self, holder: str) -> HolderRow | None:
        """A holder by id."""
        table = schema.holders
        row = self.connection.execute(select(table).where(table.c.id == holder)).one_or_none()
        return _holder(row) if row else None

    def holder_by_index(self, index: bytes) -> HolderRow | None:
        """A holder by the keyed index of its name."""
        table = schema.holders
        row = self.connection.execute(select(table).where(table.c.name_index == index)).one_or_none()
        return _holder(row) if row else None

    # Datasets and compartments

    def add_dataset(self, row: str, name: SealedValue, index: bytes, settings: SealedValue, created: str) -> None:
        """Add a dataset; a taken name is a Conflict."""
        self._add(schema.datasets, id=row, name=name, name_index=index, settings=settings, created=created)

    def set_dataset_settings(self, row: str, settings: SealedValue) -> None:
        """Replace a dataset's sealed settings."""
        table = schema.datasets
        self._change(table, update(table).where(table.c.id == row).values(settings=settings))

    def end_dataset(self, row: str, settings: SealedValue, index: bytes) -> None:
        """Replace a dataset's settings and what its name is found by."""
        table = schema.datasets
        self._change(table, update(table).where(table.c.id == row).values(settings=settings, name_index=index))

    def datasets(self) -> list[DatasetRow]:
        """Every dataset, oldest first."""
        table = schema.datasets
        return [_dataset(row) for row in self.connection.execute(select(table).order_by(table.c.created))]

    def dataset_by_index(self, index: bytes) -> DatasetRow | None:
        """A dataset by the keyed index of its name."""
        table = schema.datasets
        row = self.connection.execute(select(table).where(table.c.name_index == index)).one_or_none()
        return _dataset(row) if row else None

    def add_compartment(self, row: CompartmentRow) -> None:
        """Add a compartment; one for each holder and dataset."""
        self._add(schema.compartments, id=row.id, holder=row.holder, dataset=row.dataset)

    def compartment(self, holder: str, dataset: str) -> CompartmentRow | None:
        """The compartment of a holder and dataset."""
        table = schema.compartments
        row = self.connection.execute(
            select(table).where(and_(table.c.holder == holder, table.c.dataset == dataset))
        ).one_or_none()
        return CompartmentRow(row.id, row.holder, row.dataset) if row else None

    def compartments(self, *, holder: str | None = None, dataset: str | None = None) -> list[CompartmentRow]:
        """Compartments, of one holder or dataset where named."""
        table = schema.compartments
        query = select(table).order_by(table.c.id)
        if holder is not None:
            query = query.where(table.c.holder == holder)
        if dataset is not None:
            query = query.where(table.c.dataset == dataset)
        return [CompartmentRow(row.id, row.holder, row.dataset) for row in self.connection.execute(query)]

    # Keys

    def add_keys(self, rows: Iterable[KeyRow]) -> None:
        """Add wrapped data keys; an epoch that exists is a Conflict."""
        values = [_written(row) for row in rows]
        if values:
            self._note_put(schema.keys, self.connection.execute(insert(schema.keys).returning(*schema.keys.c), values))

    def key(self, compartment: str, group: str, epoch: int) -> KeyRow | None:
        """One wrapped data key."""
        table = schema.keys
        row = self.connection.execute(
            select(table).where(
                and_(table.c.compartment == compartment, table.c.column_group == group, table.c.epoch == epoch)
            )
        ).one_or_none()
        return _key(row) if row else None

    def keys(self, compartment: str) -> list[KeyRow]:
        """Every wrapped data key of a compartment, by group and epoch."""
        table = schema.keys
        query = select(table).where(table.c.compartment == compartment).order_by(table.c.column_group, table.c.epoch)
        return [_key(row) for row in self.connection.execute(query)]

    def keys_of_holder(self, holder: str) -> list[KeyRow]:
        """Every wrapped data key of a holder: its metadata keys, and those of all its compartments."""
        table, places = schema.keys, schema.compartments
        own = select(places.c.id).where(places.c.holder == holder)
        query = select(table).where(or_(table.c.compartment == holder, table.c.compartment.in_(own)))
        query = query.order_by(table.c.compartment, table.c.column_group, table.c.epoch)
        return [_key(row) for row in self.connection.execute(query)]

    def move_keys(self, moves: Iterable[tuple[KeyRow, str, bytes]]) -> int:
        """Put (row, KMS key, wrapped) in the place of rows that are still as they were; returns how many."""
        table = schema.keys
        moving = list(moves)
        # All in one go: one by one they would each be a way to the server and back.
        values = [
            {
                "at_compartment": row.compartment,
                "at_group": row.group,
                "at_epoch": row.epoch,
                "was": row.wrapped,
                "kms_key": kms_key,
                "wrapped": wrapped,
            }
            for row, kms_key, wrapped in moving
        ]
        if not values:
            return 0
        place = and_(
            table.c.compartment == bindparam("at_compartment"),
            table.c.column_group == bindparam("at_group"),
            table.c.epoch == bindparam("at_epoch"),
            table.c.wrapped == bindparam("was"),
        )
        changed = self.connection.execute(
            update(table).where(place).values(kms_key=bindparam("kms_key"), wrapped=bindparam("wrapped")), values
        )
        if changed.rowcount != len(values):
            # Some were no longer as they were read: those that did move have what was to be put there.
            moving = [move for move in moving if self._has_moved(*move)]
        self._note_rows(
            table,
            ({**_written(row), "kms_key": kms_key, "wrapped": wrapped} for row, kms_key, wrapped in moving),
        )
        return int(changed.rowcount)

    def _has_moved(self, row: KeyRow, kms_key: str, wrapped: bytes) -> bool:
        found = self.key(row.compartment, row.group, row.epoch)
        return found is not None and (found.kms_key, found.wrapped) == (kms_key, wrapped)

    def delete_keys_of_holder(self, holder: str) -> int:
        """Forget every wrapped data key of a holder; returns how many there were."""
        table, places = schema.keys, schema.compartments
        own = select(places.c.id).where(places.c.holder == holder)
        return self._remove(
            table, delete(table).where(or_(table.c.compartment == holder, table.c.compartment.in_(own)))
        )

    def delete_key(self, compartment: str, group: str, epoch: int) -> None:
        """Forget a wrapped data key that nothing needs any more."""
        table = schema.keys
        self._remove(
            table,
            delete(table).where(
                and_(table.c.compartment == compartment, table.c.column_group == group, table.c.epoch == epoch)
            ),
        )

    # Versions

    def add_version(self, row: VersionRow) -> None:
        """Add a manifest statement."""
        self._add(
            schema.versions,
            compartment=row.compartment,
            version=row.version,
            generation=row.generation,
            statement=row.statement,
            retired=row.retired,
        )

    def versions(self, compartment: str, version: int | None = None) -> list[VersionRow]:
        """The manifest statements of a compartment, retired ones among them."""
        table = schema.versions
        query = select(table).where(table.c.compartment == compartment)
        if version is not None:
            query = query.where(table.c.version == version)
        query = query.order_by(table.c.version, table.c.generation)
        return [
            VersionRow(row.compartment, row.version, row.generation, row.statement, row.retired)
            for row in self.connection.execute(query)
        ]

    def retire_versions(self, compartment: str, versions: Iterable[int], now: str) -> None:
        """Mark the present manifests of these versions as superseded."""
        table = schema.versions
        self._change(
            table,
            update(table)
            .where(
                and_(
                    table.c.compartment == compartment,
                    table.c.version.in_(list(versions)),
                    table.c.retired.is_(None),
                )
            )
            .values(retired=now),
        )

    def delete_versions(self, compartment: str) -> None:
        """Forget every manifest of a compartment."""
        table = schema.versions
        self._remove(table, delete(table).where(table.c.compartment == compartment))

    def delete_version(self, compartment: str, version: int, generation: int) -> None:
        """Forget a retired manifest."""
        table = schema.versions
        self._remove(
            table,
            delete(table).where(
                and_(
                    table.c.compartment == compartment,
                    table.c.version == version,
                    table.c.generation == generation,
                )
            ),
        )

    def set_version_statement(self, row: VersionRow, statement: bytes) -> None:
        """Put the same manifest statement under another signature in its place."""
        table = schema.versions
        self._change(
            table,
            update(table)
            .where(
                and_(
                    table.c.compartment == row.compartment,
                    table.c.version == row.version,
                    table.c.generation == row.generation,
                )
            )
            .values(statement=statement),
        )

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

    # Submissions

    def add_submission(self, row: SubmissionRow) -> None:
        """Put a submission into quarantine. A broker does, who may note no change for the backup: the log has it."""
        self.connection.execute(insert(schema.submissions).values(_submission_values(row)))

    def submission(self, vendor: str, submission: str) -> SubmissionRow | None:
        """A vendor's submission by the id that the vendor gave it."""
        table = schema.submissions
        query = select(table).where(and_(table.c.vendor == vendor, table.c.id == submission))
        row = self.connection.execute(query).one_or_none()
        return SubmissionRow(*row) if row else None

    def submissions(
        self, *, vendor: str | None = None, dataset: str | None = None, submission: str | None = None
    ) -> list[SubmissionRow]:
        """Submissions, of one vendor, dataset or id where named, oldest first."""
        table = schema.submissions
        query = select(table).order_by(table.c.received, table.c.id)
        for column, wanted in ((table.c.vendor, vendor), (table.c.dataset, dataset), (table.c.id, submission)):
            if wanted is not None:
                query = query.where(column == wanted)
        return [SubmissionRow(*row) for row in self.connection.execute(query)]

    def waiting_submissions(self, vendor: str) -> tuple[int, int]:
        """How many of a vendor's submissions are in quarantine, and their bytes together."""
        table = schema.submissions
        query = select(func.count(), func.coalesce(func.sum(table.c.size), 0)).where(
            and_(table.c.vendor == vendor, table.c.state == WAITING)
        )
        count, size = self.connection.execute(query).one()
        return int(count), int(size)

    def settle_submission(self, vendor: str, submission: str, state: str, now: str, note: SealedValue | None) -> bool:
        """Take a submission out of quarantine; False where it is not in it any more."""
        table = schema.submissions
        place = and_(table.c.vendor == vendor, table.c.id == submission, table.c.state == WAITING)
        return bool(self._change(table, update(table).where(place).values(state=state, settled=now, note=note)))

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

    # Jobs

    def add_job(self, row: JobRow) -> None:
        """Register something that will write objects."""
        self.connection.execute(
            insert(schema.jobs).values(
                id=row.id,
                kind=row.kind,
                state=row.state,
                process=row.process,
                started=row.started,
                beat=row.beat,
            )
        )

    def jobs(self) -> list[JobRow]:
        """Every job, oldest first."""
        table = schema.jobs
        return [
            JobRow(row.id, row.kind, row.state, row.process, row.started, row.beat)
            for row in self.connection.execute(select(table).order_by(table.c.started))
        ]

    def set_job(self, job: str, *, before: str, state: str, beat: str) -> bool:
        """Move a job from one state to another; False when it was no longer in the first."""
        table = schema.jobs
        changed = self.connection.execute(
            update(table).where(and_(table.c.id == job, table.c.state == before)).values(state=state, beat=beat)
        )
        return changed.rowcount == 1

    def take_job(self, row: JobRow, process: str, beat: str) -> bool:
        """Give a job that is still as it was read to another process; False when somebody else did."""
        table = schema.jobs
        same = and_(
            table.c.id == row.id,
            table.c.state == row.state,
            table.c.process == row.process,
            table.c.beat == row.beat,
        )
        changed = self.connection.execute(update(table).where(same).values(process=process, beat=beat))
        return changed.rowcount == 1

    def add_step(self, job: str, number: int, document: SealedValue) -> None:
        """Note what a job has done."""
        self.connection.execute(insert(schema.steps).values(job=job, number=number, document=document))

    def steps(self, job: str, number: int | None = None) -> list[tuple[int, SealedBlob]]:
        """What a job has done, in order, or one step of it."""
        table = schema.steps
        query = select(table).where(table.c.job == job).order_by(table.c.number)
        if number is not None:
            query = query.where(table.c.number == number)
        return [(row.number, row.document) for row in self.connection.execute(query)]

    def delete_steps(self, job: str) -> None:
        """Forget what a job has done: it is over."""
        self.connection.execute(delete(schema.steps).where(schema.steps.c.job == job))

    # Log

    def log_tail(self, *, to_move: bool = False) -> LogTailRow | None:
        """The signed end of the log; ``to_move`` keeps other writers from moving it before this transaction ends."""
        if self._held is not None:
            return self._held
        row = (_TAIL_TO_MOVE if to_move else _TAIL).run(self.connection).fetchone()
        return LogTailRow(*row) if row else None

    def append_log(self, rows: Sequence[LogRow], tail: LogTailRow) -> None:
        """Append entries and move the signed end with them."""
        values = [{"sequence": row.sequence, "time": row.time, "sealed": row.sealed, "hash": row.hash} for row in rows]
        self._held = None
        try:
            _ADD_LOG.run_all(self.connection, values)
        except (ConstraintError, sqlite3.IntegrityError) as error:
            if rows[0].sequence == 1:
                raise
            # Whoever writes holds the signed end, so that no other process of dsvault's can have put it there.
            raise IntegrityError(
                f"there is an entry {rows[0].sequence} behind the log's signed end, which nobody signed: "
                "while it is there, nothing can be written to the log"
            ) from error
        moved = _MOVE_TAIL.run(self.connection, note=tail.note, edge=tail.edge)
        if moved.rowcount == 0:
            self.connection.execute(insert(schema.log_tail).values(id=1, note=tail.note, edge=tail.edge))

    def log_row(self, sequence: int) -> LogRow | None:
        """One log entry by number."""
        row = self.connection.execute(select(schema.log).where(schema.log.c.sequence == sequence)).one_or_none()
        return LogRow(*row) if row else None

    def log_rows(self, after: int | None = None, limit: int | None = None) -> list[LogRow]:
        """Log entries in order, from the first or from the one behind ``after``."""
        table = schema.log
        query = select(table).order_by(table.c.sequence).limit(limit)
        if after is not None:
            query = query.where(table.c.sequence > after)
        return [LogRow(*row) for row in self.connection.execute(query)]

    def log_range(self, after: int, last: int) -> Iterator[tuple[int, str, bytes, bytes]]:
        """Sequence, time, sealed entry and hash of the entries behind one and up to another, in order."""
        rows: Iterator[tuple[int, str, bytes, bytes]] = iter(_LOG_RANGE.run(self.connection, after=after, last=last))
        return rows

    def log_hashes(self, after: int, last: int) -> list[bytes]:
        """The hashes of the entries behind one and up to another, in order."""
        return [row[0] for row in _LOG_HASHES.run(self.connection, after=after, last=last)]


def _holder(row: Any) -> HolderRow:
    return HolderRow(row.id, row.kms_key, row.name, row.own_name, row.created)


def _dataset(row: Any) -> DatasetRow:
    return DatasetRow(row.id, row.name, row.settings, row.created)


def _key(row: Any) -> KeyRow:
    return KeyRow(row.compartment, row.column_group, row.epoch, row.key_id, row.kms_key, row.wrapped, row.created)


def _submission_values(row: SubmissionRow) -> dict[str, Any]:
    """What is known of a submission that comes in: it is settled later."""
    return {
        "vendor": row.vendor,
        "id": row.id,
        "grant": row.grant,
        "dataset": row.dataset,
        "object": row.object,
        "size": row.size,
        "envelope": row.envelope,
        "received": row.received,
        "state": row.state,
        "settled": row.settled,
    }


def _written(row: KeyRow) -> dict[str, Any]:
    """A wrapped data key by the names of its columns."""
    return {
        "compartment": row.compartment,
        "column_group": row.group,
        "epoch": row.epoch,
        "key_id": row.key_id,
        "kms_key": row.kms_key,
        "wrapped": row.wrapped,
        "created": row.created,
    }


def _head(row: Any) -> HeadRow:
    return HeadRow(row.subject, row.sequence, row.kind, bool(row.by_authority), row.statement, row.body)
