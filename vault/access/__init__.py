"""The access path: authenticate, decide, record, and only then open keys and chunks.

The order of the steps is the security property. A manifest and names are opened with the vendor's
manifest and metadata keys in order to decide; no column's key is unwrapped, and no chunk fetched, before the
entry that says so is durable, and with it, in one change, that the request's proof is used up. Before each shard
leaves, the vendor's head is looked at again.
"""

from collections.abc import Callable

from vault.access.callers import (
    Arrival,
    Caller,
    Sent,
    arrive,
    authenticate,
    authenticate_federated,
    providers,
    vendor_ids,
)
from vault.access.leases import MOST_BYTES, LeasedObject, lease_page, leased_object
from vault.access.permits import Offering, offerings
from vault.access.sharedfiles import ReadableFile, shared_file
from vault.access.streams import Delivery, open_delivery
from vault.access.submissions import Received, receive
from vault.access.tables import Files, Hints, SharedFile, ShownTable, list_tables, shared_files, show_table
from vault.errors import VaultError
from vault.keyring import KeyCounts
from vault.policy import MOST_PARTS, Request
from vault.workings.parts import Parts
from vault.workings.spooled import SpoolCounts
from vault.workings.watch import Watch

__all__ = [
    "MOST_BYTES",
    "MOST_PARTS",
    "Arrival",
    "Caller",
    "Delivery",
    "Files",
    "Hints",
    "KeyCounts",
    "LeasedObject",
    "Offering",
    "ReadableFile",
    "Received",
    "Request",
    "Sent",
    "SharedFile",
    "ShownTable",
    "SpoolCounts",
    "arrive",
    "authenticate",
    "authenticate_federated",
    "key_counts",
    "lease_page",
    "leased_object",
    "list_tables",
    "missing",
    "offerings",
    "open_delivery",
    "providers",
    "receive",
    "settle",
    "shared_file",
    "shared_files",
    "show_table",
    "spool_counts",
    "vendor_ids",
    "watch",
]


def missing(parts: Parts) -> list[str]:
    """What every read needs and cannot be had at this moment, in words; nothing is opened, and nothing written."""
    looks: dict[str, Callable[[], object]] = {
        "the catalog": lambda: parts.catalog.check(parts.vault),
        "the root document": parts.root.refresh,
        "the store": parts.root.ask_store,
        "the KMS": parts.keyring.reach,
    }
    return [name for name, look in looks.items() if not _succeeds(look)]


def _succeeds(look: Callable[[], object]) -> bool:
    try:
        look()
    except VaultError:
        return False
    return True


def watch(parts: Parts) -> Watch:
    """What drops a vendor's keys from this process within a second of a freeze, revocation, rekey or rewrap."""
    return Watch(parts)


def key_counts(parts: Parts) -> KeyCounts:
    """How often this process asked the KMS for data keys, and how often it did not have to."""
    return parts.keyring.counts


def spool_counts(parts: Parts) -> SpoolCounts:
    """What became of shared files in this process."""
    return parts.spools.counts


def settle(parts: Parts) -> None:
    """Write what is left to be written, and a last checkpoint, before the broker stops."""
    parts.journal.settle()
