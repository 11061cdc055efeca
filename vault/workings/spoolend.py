"""Which spooled files nobody needs any more: by the owner, for whom they are objects with a name and a time."""

from datetime import datetime, timedelta
from typing import Final

from vault.catalog import Transaction
from vault.encoding import from_timestamp
from vault.errors import IntegrityError
from vault.objects import ObjectInfo
from vault.spool import FOLDER, ends, vendor_of
from vault.trust import Label, Signed
from vault.workings.parts import OwnerParts

__all__ = ["spent_files"]

#: By how much the clocks of a store and of who signs may differ.
_TOLERANCE: Final = timedelta(minutes=5)


def spent_files(parts: OwnerParts, grace: timedelta, at_once: str | None = None) -> list[ObjectInfo]:
    """Those of windows that are over; those of before a vendor's copies changed longer than ``grace`` ago, which may
    hold what was erased, or follow from keys that were replaced; and all of the holder ``at_once``.

    Their names and times say so; what is in them is nobody's question. One that an address is still good for is built
    anew by the broker that is asked for it.
    """
    # By this machine's own clock: what a forged entry says of the time keeps nobody from removing them.
    now = parts.clock()
    with parts.catalog.read() as transaction:
        changed = _changed(transaction)
    found = []
    for info in parts.store.list(FOLDER):
        vendor = vendor_of(info.name)
        since = changed.get(vendor)
        stale = (
            since is not None and since <= now - grace and (info.written is None or info.written <= since + _TOLERANCE)
        )
        if ends(info.name) <= now or stale or (at_once and vendor == at_once):
            found.append(info)
    return found


def _changed(transaction: Transaction) -> dict[str, datetime]:
    """When the newest of each holder's compartments got its present state."""
    found: dict[str, datetime] = {}
    for place in transaction.compartments():
        row = transaction.newest_head(place.id)
        if row is None:
            continue
        try:
            signed = from_timestamp(str(Signed.decode(row.statement, Label.HEAD).document().get("signed_at")))
        except IntegrityError:
            continue  # whoever reads by it says so
        found[place.holder] = max(signed, found.get(place.holder, signed))
    return found
