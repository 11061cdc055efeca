"""What vendors sent back, and what became of it."""

from typing import Any

from sqlalchemy import and_, func, insert, select, update

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.records import SubmissionRow
from vault.catalog.sealed import SealedValue

__all__ = ["WAITING", "Submitted"]

#: The state of a submission that is in quarantine.
WAITING = "waiting"


class Submitted(Noting):
    """The part of a transaction that reads and writes submissions."""

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
