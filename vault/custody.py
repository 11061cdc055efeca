"""KMS keys as the lab's administrators see them: how they stand, stopping one, and what a broker needs of them."""

from collections.abc import Callable
from dataclasses import dataclass

from vault.audit import Kind
from vault.errors import IntegrityError, InvalidInput, KmsError, NotFound
from vault.kms import KeyState
from vault.model import MANIFEST_GROUP, METADATA_GROUP, KeyScope
from vault.workings.names import Holder, find_holder, holders
from vault.workings.parts import OwnerParts, metadata_key, trusted_now
from vault.workings.permissions import live_for_vendor
from vault.workings.steps import checked_places, present_vendor

__all__ = ["Custody", "Privileges", "custody", "disable", "enable", "privileges"]


@dataclass(frozen=True, slots=True)
class Custody:
    """A holder's KMS key, its state in the KMS, how many data keys the holder has, and a successor's reference."""

    holder: str
    id: str
    key: str
    state: KeyState
    data_keys: int
    successor: str | None


@dataclass(frozen=True, slots=True)
class Privileges:
    """What a broker that serves a vendor has to be able to unwrap, and nothing else.

    ``keys`` are KMS key references, the successor's among them while one is being moved to. ``scopes`` are encryption
    contexts (their epoch is to be left open by a policy).
    """

    vendor: str
    vendor_id: str
    keys: tuple[str, ...]
    scopes: tuple[KeyScope, ...]


def custody(parts: OwnerParts) -> list[Custody]:
    """Every holder that was not offboarded, the owner first; raises KmsError where the KMS cannot be asked."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        people = [holder for holder in holders(transaction, sealer) if not holder.ended]
        counts = {holder.id: len(transaction.keys_of_holder(holder.id)) for holder in people}
    return [
        Custody(
            holder.name,
            holder.id,
            holder.kms_key,
            parts.kms.state(holder.kms_key),
            counts[holder.id],
            holder.successor,
        )
        for holder in people
    ]


def disable(parts: OwnerParts, name: str, key: str | None = None) -> str:
    """Have the KMS refuse a holder's key until it is enabled again; ``key`` names an earlier one of the holder's.

    Brokers that hold its data keys serve on for at most the age of their caches. Raises NotFound and KmsError.
    """
    return _change(parts, name, key, Kind.KMS_KEY_DISABLED, parts.kms.disable_key)


def enable(parts: OwnerParts, name: str, key: str | None = None) -> str:
    """Undo `disable`."""
    return _change(parts, name, key, Kind.KMS_KEY_ENABLED, parts.kms.enable_key)


def _change(parts: OwnerParts, name: str, key: str | None, kind: Kind, change: Callable[[str], None]) -> str:
    vendor = _holder(parts, name)
    if vendor.id == parts.owner and key in {None, *vendor.kms_keys}:
        raise InvalidInput("the owner's KMS key opens the vault itself, and nothing here could enable it again")
    if key is not None and key not in vendor.every_kms_key:
        raise InvalidInput(f"--key: '{name}' has and had no such KMS key")
    reference = key or vendor.kms_key
    # The entry comes first: a run that is killed in between is in the log, and the change may be repeated.
    parts.journal.record(kind, vendor=vendor.name, vendor_id=vendor.id, key=reference)
    try:
        change(reference)
    except KmsError:
        parts.journal.record(kind, vendor=vendor.name, vendor_id=vendor.id, key=reference, failed=True)
        raise
    with parts.catalog.read() as transaction:
        places = {vendor.id, *(row.id for row in transaction.compartments(holder=vendor.id))}
    parts.keyring.drop(places)
    parts.journal.checkpoint()
    return reference


def _holder(parts: OwnerParts, name: str) -> Holder:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        found = find_holder(transaction, sealer, name)
    if found is None:
        raise NotFound(f"there is no vendor named '{name[:80]}'")
    return found


def privileges(parts: OwnerParts, name: str) -> Privileges:
    """What a broker needs for a vendor's live grants as they stand now; raises NotFound and Conflict.

    A vendor that is frozen needs nothing but its own names, since it is served nothing.
    """
    vendor = present_vendor(parts, name)
    sealer, now = parts.sealer(), trusted_now(parts)
    with parts.catalog.read() as transaction:
        head = parts.heads.vendor_in(transaction, vendor.id)
        epoch = metadata_key(transaction, vendor.id).epoch
        rows = transaction.grants(vendor=vendor.id)
        grants = [
            grant
            for grant in live_for_vendor(parts.root, rows, head, sealer, own=False)
            if grant.live_at(now) and not head.frozen
        ]
        places = {row.dataset: row.id for row in checked_places(parts, transaction, vendor.id)}
    wanted = {KeyScope(parts.vault, vendor.id, METADATA_GROUP, epoch)}
    for grant in grants:
        if grant.dataset not in places:
            raise IntegrityError("the catalog lacks the compartment of a live grant")
        place = places[grant.dataset]
        wanted |= {KeyScope(parts.vault, place, group, 1) for group in (MANIFEST_GROUP, *grant.groups)}
    ordered = sorted(wanted, key=lambda scope: (scope.compartment, scope.group))
    return Privileges(vendor.name, vendor.id, tuple(sorted(vendor.kms_keys)), tuple(ordered))
