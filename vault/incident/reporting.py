"""The report as a bundle has it: from the bundle's own entries alone, so that whoever holds it comes to the same.

What needs other vendors' entries is not in it: who else has the same rows, and data keys that a process opened for
several vendors at once.
"""

from collections.abc import Iterable, Mapping

from vault.audit import Entry
from vault.incident.document import FORM
from vault.incident.report import report_of

__all__ = ["report_members"]


def report_members(
    entries: Iterable[tuple[int, Entry]], vendor: str, placed: Mapping[int, str], minor: int = FORM[1]
) -> dict[str, bytes]:
    """The members of a bundle that are the report about the vendor of that id; ``placed`` are the leaves' times.

    ``minor`` is that of the report's format: an older bundle's is worked out in the form that it has.
    """
    made = report_of(entries, vendor, placed=placed)
    return {"report.json": made.json(minor), "report.html": made.html()}
