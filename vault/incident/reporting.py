"""The report as a bundle has it: from the bundle's own entries alone, so that whoever holds it comes to the same.

What needs other vendors' entries is not in it: who else has the same rows, and data keys that a process opened for
several vendors at once.
"""

from collections.abc import Iterable, Mapping

from vault.audit import Entry
from vault.incident.report import report_of

__all__ = ["report_members"]


def report_members(entries: Iterable[tuple[int, Entry]], vendor: str, placed: Mapping[int, str]) -> dict[str, bytes]:
    """The members of a bundle that are the report about the vendor of that id; ``placed`` are the leaves' times."""
    made = report_of(entries, vendor, placed=placed)
    return {"report.json": made.json(), "report.html": made.html()}
