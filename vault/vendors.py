"""Vendors: adding them, freezing and thawing them.

Whatever takes effect does so as the next step of a vendor's head. What adds is signed by the authority, what
takes away by the responder, so that at night a responder's key is enough to stop a vendor.
"""

from dataclasses import dataclass

from vault.audit import Kind
from vault.catalog import FieldSealer, Transaction
from vault.encoding import new_id, timestamp
from vault.errors import Conflict
from vault.model import METADATA_GROUP, KeyScope, check_name
from vault.workings.names import Holder, datasets, find_holder, holders, insert_holder
from vault.workings.parts import OwnerParts, key_row
from vault.workings.permissions import next_vendor_head
from vault.workings.steps import announce, present_vendor, removal

__all__ = ["VendorState", "add_holder", "add_vendor", "freeze", "thaw", "vendors"]


@dataclass(frozen=True, slots=True)
class VendorState:
    """A vendor as its newest head has it; ``ended`` says that it was offboarded, ``ending`` that this was begun."""

    id: str
    name: str
    frozen: bool
    ended: bool
    ending: bool
    grants: int
    credentials: int
    created: str


def add_vendor(parts: OwnerParts, name: str) -> Holder:
    """Add a vendor with a KMS key and a metadata key of its own; raises InvalidInput or Conflict."""
    check_name(name, "vendor")
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        taken = find_holder(transaction, sealer, name)
    if taken is not None:
        how = "there was a vendor of that name, and it was offboarded" if taken.ended else "there is one already"
        raise Conflict(f"the vendor '{name}' cannot be added: {how}")
    vendor = new_id()
    holder = Holder(vendor, name, parts.kms.create_key(vendor), timestamp(parts.clock()))
    with parts.catalog.write() as transaction:
        parts.root.seen_by(transaction)
        head = next_vendor_head(parts, parts.signers.authority(), None, vendor, by_authority=True)
        add_holder(parts, transaction, holder, sealer)
        transaction.add_head(head)
        parts.journal.record_in(transaction, Kind.VENDOR_ADDED, vendor=name, vendor_id=vendor, key=holder.kms_key)
    announce(parts, head)
    return holder


def add_holder(parts: OwnerParts, transaction: Transaction, holder: Holder, owner_sealer: FieldSealer | None) -> None:
    """Add a holder's row and metadata key; without a sealer the holder is the owner itself."""
    scope = KeyScope(parts.vault, holder.id, METADATA_GROUP, 1)
    wrapped, plaintext = parts.keyring.create(scope, holder.kms_key)
    own = FieldSealer(parts.vault, holder.id, plaintext)
    insert_holder(transaction, holder, owner_sealer or own, own)
    transaction.add_keys([key_row(wrapped, holder.created)])


def vendors(parts: OwnerParts) -> list[VendorState]:
    """Every vendor, oldest first."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        states = []
        for holder in holders(transaction, sealer):
            if holder.id == parts.owner:
                continue
            head = parts.heads.vendor_in(transaction, holder.id)
            states.append(
                VendorState(
                    holder.id,
                    holder.name,
                    head.frozen,
                    holder.ended,
                    holder.ending,
                    len(head.grants),
                    len(head.credentials),
                    holder.created,
                )
            )
    return states


def freeze(parts: OwnerParts, name: str) -> bool:
    """Stop everything of a vendor at once; nothing is deleted. Returns False where it was frozen already."""
    return removal(parts, name, Kind.FROZEN, lambda head: None if head.frozen else {"frozen": True})


def thaw(parts: OwnerParts, name: str) -> bool:
    """Let a frozen vendor read again, after making up for versions published in the meantime.

    Returns False where it was not frozen.
    """
    from vault.workings.filling import fill_compartment  # it reads tables, which a freeze does not

    vendor = present_vendor(parts, name)
    with parts.catalog.read() as transaction:
        if not parts.heads.vendor_in(transaction, vendor.id).frozen:
            return False
        everything = datasets(transaction, parts.sealer())
    for dataset in everything:
        fill_compartment(parts, vendor, dataset, None)
    head = None
    with parts.catalog.write() as transaction:
        present = parts.heads.vendor_in(transaction, vendor.id)
        if present.frozen:
            head = next_vendor_head(
                parts, parts.signers.authority(), present, vendor.id, by_authority=True, frozen=False
            )
            transaction.add_head(head)
            parts.journal.record_in(transaction, Kind.THAWED, vendor=name, vendor_id=vendor.id)
    if head is not None:
        announce(parts, head)
    return head is not None
