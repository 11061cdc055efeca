"""The grants that there are: how each stands, and ending one.

Nothing here reads a table: who has to stop a vendor at night does not wait for what only the making of a grant needs.
"""

from dataclasses import dataclass
from datetime import UTC

from vault.audit import Kind
from vault.encoding import timestamp
from vault.errors import IntegrityError, NotFound
from vault.limits import Usage
from vault.trust import Grant, VendorHead
from vault.workings.parts import OwnerParts
from vault.workings.permissions import open_grant
from vault.workings.steps import listing_vendor, removal, standing, vendor_named

__all__ = ["GrantState", "grants", "revoke"]


@dataclass(frozen=True, slots=True)
class GrantState:
    """A grant and how it stands: ``pending``, ``scheduled``, ``live``, ``expired`` or ``revoked``.

    ``used`` counts what was served under it, where it has limits; ``missing`` the signatures that a pending one lacks.
    """

    grant: Grant
    state: str
    used: Usage
    missing: int = 0


def grants(parts: OwnerParts, vendor_name: str | None = None) -> list[GrantState]:
    """Every grant, or those of one vendor, oldest first.

    Raises IntegrityError naming one that is live and not what was signed.
    """
    sealer = parts.sealer()
    wanted = vendor_named(parts, vendor_name).id if vendor_name is not None else None
    now = parts.clock()
    with parts.catalog.read() as transaction:
        states = []
        for row in transaction.grants(vendor=wanted):
            head = parts.heads.vendor_in(transaction, row.vendor)
            try:
                found, signed = open_grant(parts.root, row, sealer, own=False)
            except IntegrityError as error:
                if row.id not in head.grants:
                    continue  # it counts for nothing, whatever was done to it
                raise IntegrityError(f"grant {row.id}: {error}; 'dsvault revoke {row.id}' ends it") from error
            missing = parts.root.missing(signed, found.dataset)
            listed = head.grants.get(row.id) == signed.digest
            settled = row.settled is not None and not (listed and missing)
            state = standing(not found.expired_at(now), listed and not missing, settled)
            if state == "live" and not found.live_at(now):
                state = "scheduled"
            used = Usage(*transaction.usage(found.id, now.astimezone(UTC).date().isoformat()))
            states.append(GrantState(found, state, used, missing if state == "pending" else 0))
    return states


def revoke(parts: OwnerParts, grant_id: str) -> None:
    """End a grant, or a pending one before it takes effect. Raises NotFound.

    What a head lists is ended also where its row in the catalog is gone or not what it was: a forger's would be.
    """
    vendor, dataset, dataset_id = _whose(parts, grant_id)

    def change(head: VendorHead) -> dict[str, object] | None:
        if grant_id not in head.grants:
            return None
        return {"grants": {key: digest for key, digest in head.grants.items() if key != grant_id}}

    if not removal(parts, vendor, Kind.REVOKED, change, grant=grant_id, dataset=dataset, dataset_id=dataset_id):
        _withdraw(parts, grant_id, vendor, dataset)


def _withdraw(parts: OwnerParts, grant_id: str, vendor: str, dataset: str | None) -> None:
    """Note that a pending grant is not to be finished: an approval of it may come back later."""
    with parts.catalog.write() as transaction:
        rows = transaction.grants(grant=grant_id)
        if not rows or rows[0].settled is not None:
            return
        transaction.settle_grant(grant_id, timestamp(parts.clock()))
        parts.journal.record_in(
            transaction,
            Kind.REVOKED,
            vendor=vendor,
            vendor_id=rows[0].vendor,
            grant=grant_id,
            dataset=dataset,
            dataset_id=rows[0].dataset,
        )
    parts.journal.checkpoint()


def _whose(parts: OwnerParts, grant_id: str) -> tuple[str, str | None, str | None]:
    """The names of a grant's vendor and dataset, and the dataset's id; the latter two where the grant can be opened."""
    with parts.catalog.read() as transaction:
        rows = transaction.grants(grant=grant_id)
    try:
        if rows:
            found, _ = open_grant(parts.root, rows[0], parts.sealer(), own=False)
            return found.vendor_name, found.dataset_name, found.dataset
    except IntegrityError:
        pass
    vendor = listing_vendor(parts, lambda head: grant_id in head.grants)
    if vendor is None:
        raise NotFound(f"there is no grant {grant_id[:80]}")
    return vendor.name, None, None
