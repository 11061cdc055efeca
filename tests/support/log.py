"""What tests look for in the log."""

import threading

from vault.audit import Entry, Kind
from vault.owner import Vault

__all__ = ["acts", "written_beside"]


def acts(opened: Vault) -> list[Entry]:
    """The entries in their order, without those that say which data keys were asked for: they come a moment later."""
    return [entry for _, entry in opened.audit_entries() if entry.kind is not Kind.KEYS_OPENED]


def written_beside() -> bool:
    """Whether this is the thread that writes what nobody waits for: it is not the one that a test kills."""
    return threading.current_thread().name == "dsvault-soon"
