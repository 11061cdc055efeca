"""What the lab has signed about a vendor and the datasets, from the heads in the catalog, to hold the log against.

Only whether something ended is asked of it. Heads that are missing, or do not verify, bear nothing out, so that the
report says more and not less.
"""

from collections.abc import Collection
from typing import Any

from vault.errors import IntegrityError
from vault.exposure import Evidence, Step, Versions
from vault.exposure.gathering import micro
from vault.workings.parts import OwnerParts

__all__ = ["signed_about"]


def signed_about(parts: OwnerParts, vendor: str, datasets: Collection[str]) -> Evidence:
    """The steps of a vendor's head, and of the owner's copy of some datasets, all by their ids; raises Unavailable."""
    with parts.catalog.read() as transaction:
        steps = parts.heads.signed_steps(transaction, "vendor", vendor)
        try:
            parts.heads.vendor_in(transaction, vendor)
            counts = True
        except IntegrityError:
            counts = False
        versions = {
            place.dataset: [_versions(*step) for step in parts.heads.signed_steps(transaction, "compartment", place.id)]
            for place in transaction.compartments(holder=parts.owner)
            if place.dataset in datasets
        }
    return Evidence([_step(*step) for step in steps], versions, counts)


def _step(payload: dict[str, Any], listing: dict[str, Any]) -> Step:
    return Step(
        micro(payload["signed_at"]), payload["frozen"], frozenset(listing["grants"]), frozenset(listing["credentials"])
    )


def _versions(payload: dict[str, Any], listing: dict[str, Any]) -> Versions:
    return Versions(micro(payload["signed_at"]), {int(number): each for number, each in listing["versions"].items()})
