"""What writes objects or goes on for long, and how far it has come."""

from sqlalchemy import and_, delete, insert, select, update

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.records import JobRow
from vault.catalog.sealed import SealedBlob, SealedValue

__all__ = ["Jobs"]


class Jobs(Noting):
    """The part of a transaction that reads and writes jobs and their steps."""

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
