"""Offboarding a vendor: its access ends, and what was encrypted for it becomes unreadable for ever.

The order is: its head (frozen, no grants, no credentials), so that nothing is served any more; a mark in its row,
from which every other act knows what is going on; its KMS key, which is the point of no return; then, in one
transaction, the wrapped keys and manifests in the catalog and the heads of its compartments. Its objects in the store
are ciphertext without a key then, and gc takes them. The log's entries are sealed to the auditor and stay as they are,
and so do the owner's copies of its grants. May be killed and run again.
"""

from dataclasses import dataclass, replace

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.errors import Conflict, NotFound
from vault.kms import KeyState
from vault.trust import VendorHead
from vault.workings.names import Holder, find_holder, holder_by_id, note_ending, update_holder
from vault.workings.parts import OwnerParts
from vault.workings.steps import checked_places, emptied_head, removal

__all__ = ["Offboarded", "offboard"]

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Offboarded:
    """What offboarding did: the grants and credentials that ended, the wrapped keys that were deleted, and in plain
    words what the KMS says of the key's end. ``changed`` is False where the vendor was offboarded before.
    """

    vendor: str
    grants: int
    credentials: int
    keys: int
    destruction: str
    changed: bool


def offboard(parts: OwnerParts, name: str) -> Offboarded:
    """End a vendor and destroy its KMS key; raises NotFound and KmsError.

    After a KmsError the vendor's access has ended all the same, and the command can be run again.
    """
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        vendor = find_holder(transaction, sealer, name)
        if vendor is None or vendor.id == parts.owner:
            raise NotFound(f"there is no vendor named '{name[:80]}'")
        head = parts.heads.vendor_in(transaction, vendor.id)
        # Before the point of no return, since the last transaction has to be able to follow it.
        checked_places(parts, transaction, vendor.id)
    if vendor.ended:
        return Offboarded(name, 0, 0, 0, parts.kms.destruction, False)
    keys = _destroy(parts, vendor)
    return Offboarded(name, len(head.grants), len(head.credentials), keys, parts.kms.destruction, True)


def _everything(head: VendorHead) -> dict[str, object] | None:
    if head.frozen and not head.grants and not head.credentials:
        return None
    return {"frozen": True, "grants": {}, "credentials": {}}


def _listed(head: VendorHead) -> dict[str, object]:
    """What ends with it."""
    return {"grants": sorted(head.grants), "credentials": sorted(head.credentials)}


def _destroy(parts: OwnerParts, vendor: Holder) -> int:
    """End its access, destroy every KMS key that it has and ever had, one that a rewrap makes meanwhile too, and forget
    what is under them.
    """
    for _ in range(_TRIES):
        removal(parts, vendor.name, Kind.OFFBOARDING, _everything, _listed)
        vendor = _mark(parts, vendor)
        for key in sorted(vendor.every_kms_key):
            # An earlier key may be gone from the KMS for good; the present one may not be missing.
            if key in vendor.kms_keys or parts.kms.state(key) is not KeyState.ABSENT:
                parts.kms.destroy_key(key)
        try:
            return _forget(parts, vendor)
        except Conflict:
            with parts.catalog.read() as transaction:
                vendor = holder_by_id(transaction, parts.sealer(), vendor.id)
    raise Conflict(f"the KMS key of '{vendor.name}' kept changing while it was offboarded; run it again")


def _mark(parts: OwnerParts, vendor: Holder) -> Holder:
    """Note that the vendor's KMS keys may be gone from here on; returns it as it stands."""
    sealer = parts.sealer()
    with parts.catalog.write() as transaction:
        present = holder_by_id(transaction, sealer, vendor.id)
        if not present.ending:
            note_ending(transaction, present, sealer)
    return replace(present, ending=True)


def _forget(parts: OwnerParts, vendor: Holder) -> int:
    """Delete the vendor's wrapped keys and manifests, and sign that its compartments hold nothing."""
    sealer = parts.sealer()
    with parts.catalog.write() as transaction:
        present = holder_by_id(transaction, sealer, vendor.id)
        if present.kms_keys != vendor.kms_keys:
            raise Conflict("the vendor has another KMS key by now")
        if _everything(parts.heads.vendor_in(transaction, vendor.id)) is not None:
            raise Conflict("the vendor was thawed or given something in the meantime")
        heads = [
            head
            for place in transaction.compartments(holder=vendor.id)
            if (head := _emptied(parts, transaction, place)) is not None
        ]
        for head in heads:
            transaction.add_head(head)
            transaction.delete_versions(head.subject)
        keys = transaction.delete_keys_of_holder(vendor.id)
        update_holder(transaction, replace(present, successor=None, ending=False, ended=True), sealer, None)
        parts.journal.record_in(
            transaction,
            Kind.OFFBOARDED,
            vendor=vendor.name,
            vendor_id=vendor.id,
            keys=keys,
            kms_keys=sorted(vendor.every_kms_key),
            compartments=sorted(head.subject for head in heads),
        )
    parts.heads.announce(heads)
    parts.keyring.drop({vendor.id, *(head.subject for head in heads)})
    parts.journal.checkpoint()
    return keys


def _emptied(parts: OwnerParts, transaction: Transaction, place: CompartmentRow) -> HeadRow | None:
    head = parts.heads.compartment_in(transaction, place)
    return emptied_head(parts, place, head) if head is not None else None
