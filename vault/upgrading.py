"""Upgrading a vault that an older release made: its catalog's tables become those of this release.

One transaction changes the tables, says which schema they have, and holds the log's entry that says so. A process of
the older release that still runs finds another schema than its own at its next write, or within half a second, and
from then on refuses everything.
"""

from dataclasses import dataclass

from vault.audit import Kind
from vault.catalog import Catalog, Transaction
from vault.workings.journal import Journal

__all__ = ["Upgraded", "upgrade_catalog"]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The schema of the catalog before and now; the same where there was nothing to do."""

    before: int
    after: int


def upgrade_catalog(catalog: Catalog, journal: Journal, vault: str) -> Upgraded:
    """Bring the catalog to this release's schema, and record it; raises what `Catalog.upgrade` does.

    May be killed at any moment: it is done then, or nothing was.
    """
    # Nothing may be written behind a log that was rolled back, or it would be the longer one.
    journal.refuse_rollback()

    def record(transaction: Transaction, before: str, after: str) -> None:
        journal.record_in(transaction, Kind.CATALOG_UPGRADED, before=int(before), after=int(after))

    before, after = catalog.upgrade(vault, record)
    if before != after:
        journal.checkpoint()
    return Upgraded(int(before), int(after))
