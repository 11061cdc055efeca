"""Incidents: what a vendor was served and could have been."""

from vault.incident.report import Report, report, report_of

__all__ = ["Report", "report", "report_of"]
