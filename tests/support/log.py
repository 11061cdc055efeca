"""What tests look for in the log."""

import threading

from vault.audit import Entry, Kind
from vault.owner import Vault

__all__ = ["acts", "counted", "written_beside"]


def acts(opened: Vault) -> list[Entry]:
    """The entries in their order, without those that come later: which data keys were asked for, and what was counted."""
    entries = (entry for _, entry in opened.audit_entries())
    return [entry for entry in entries if entry.kind is not Kind.KEYS_OPENED and not counted(entry)]


def counted(entry: Entry) -> bool:
    """Whether an entry is of requests that were refused like one before; a broker writes it ten seconds later."""
    return entry.kind is Kind.REFUSED and "times" in entry.fields


def written_beside() -> bool:
    """Whether this is the thread that writes what nobody waits for: it is not the one that a test kills."""
    return threading.current_thread().name == "dsvault-soon"
