"""Incidents: what a vendor was served, making its keys worthless, and proving both to whoever asks."""

from vault.incident.against import verify_against
from vault.incident.bundle import Bundled
from vault.incident.containing import Contained, contain
from vault.incident.outline import Outline, outline
from vault.incident.report import Report, report, report_of
from vault.incident.verifying import Evidence, verify_bundle

__all__ = [
    "Bundled",
    "Contained",
    "Evidence",
    "Outline",
    "Report",
    "contain",
    "outline",
    "report",
    "report_of",
    "verify_against",
    "verify_bundle",
]
