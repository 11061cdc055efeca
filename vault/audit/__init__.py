"""The audit log: entries sealed to the auditor, chained by hash, with a signed end."""

from vault.audit.chain import GENESIS, ChainRow, Tail, link, read_tail, sign_tail, verify_chain
from vault.audit.entry import Entry, Kind, open_entry, seal_entry

__all__ = [
    "GENESIS",
    "ChainRow",
    "Entry",
    "Kind",
    "Tail",
    "link",
    "open_entry",
    "read_tail",
    "seal_entry",
    "sign_tail",
    "verify_chain",
]
