"""KMS keys as the lab's administrators see them: how they stand, stopping one, and what a broker needs of them."""

from collections.abc import Callable
from dataclasses import dataclass

from vault.audit import Kind
from vault.errors import Conflict, IntegrityError, InvalidInput, KmsError, NotFound
from vault.kms import KeyState
from vault.masks import is_keyed
from vault.model import MANIFEST_GROUP, MASK_GROUP, METADATA_GROUP, KeyScope
from vault.workings.names import Holder, find_holder, holders
from vault.workings.parts import OwnerParts, metadata_key, trusted_now
from vault.workings.permissions import live_for_vendor
from vault.workings.steps import checked_places, present_vendor
from vault.workings.trouble import being_offboarded

__all__ = ["Custody", "Privileges", "custody", "disable", "enable", "privileges"]


@dataclass(frozen=True, slots=True)
class Custody:
    """A holder's KMS key, its state in the KMS, how many data keys the holder has, and a successor's reference.

    ``earlier`` are the KMS keys that its data keys were wrapped under before, oldest first, with their states.
    """

    holder: str
    id: str
    key: str
    state: KeyState
    data_keys: int
    successor: str | None
    earlier: tuple[tuple[str, KeyState], ...]


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
            tuple((key, parts.kms.state(key)) for key in holder.earlier),
        )
        for holder in people
    ]


def disable(parts: OwnerParts, name: str, key: str | None = None) -> tuple[str, ...]:
    """Have the KMS refuse what opens a vendor's data keys until it is enabled again; returns the keys' references.

    Those are its KMS key, the one that a rewrap moves to, and earlier ones that are still enabled: a copy of the
    catalog from before a rewrap opens under those. ``key`` names just one. Brokers that hold the data keys serve on
    for at most the age of their caches. Raises NotFound, InvalidInput and KmsError.
    """
    vendor = _holder(parts, name)
    if vendor.id == parts.owner and key in {None, *vendor.kms_keys}:
        raise InvalidInput("the owner's KMS key opens the vault itself, and nothing here could enable it again")
    if key is None:
        enabled = tuple(each for each in vendor.earlier if parts.kms.state(each) is KeyState.ENABLED)
        return _change(parts, vendor, (*_present(vendor), *enabled), Kind.KMS_KEY_DISABLED, parts.kms.disable_key)
    return _change(parts, vendor, (_named(vendor, key),), Kind.KMS_KEY_DISABLED, parts.kms.disable_key)


def enable(parts: OwnerParts, name: str, key: str | None = None) -> tuple[str, ...]:
    """Undo `disable` for the KMS key of today (and the one that a rewrap moves to), or for the one named.

    Raises Conflict where a later KMS key is disabled, which some services would enable along with it, and where the
    vendor's offboarding was begun.
    """
    vendor = _holder(parts, name)
    if vendor.ending and not vendor.ended:
        raise Conflict(being_offboarded(name))
    # The newest first: see `TransitKms.enable_key`.
    chosen = tuple(reversed(_present(vendor))) if key is None else (_named(vendor, key),)
    order = (*vendor.earlier, *_present(vendor))
    for later in order[order.index(chosen[0]) + 1 :]:
        if parts.kms.state(later) is KeyState.DISABLED:
            raise Conflict(f"a later KMS key of '{name}' is disabled and might be enabled along; enable {later} first")
    return _change(parts, vendor, chosen, Kind.KMS_KEY_ENABLED, parts.kms.enable_key)


def _present(vendor: Holder) -> tuple[str, ...]:
    return tuple(key for key in (vendor.kms_key, vendor.successor) if key is not None)


def _named(vendor: Holder, key: str) -> str:
    if key not in vendor.every_kms_key:
        raise InvalidInput(f"--key: '{vendor.name}' has and had no such KMS key")
    return key


def _change(
    parts: OwnerParts, vendor: Holder, keys: tuple[str, ...], kind: Kind, change: Callable[[str], None]
) -> tuple[str, ...]:
    """Change every key, also those after one that failed; raises the first failure then."""
    failures = []
    for key in keys:
        # The entry comes first: a run that is killed in between is in the log, and the change may be repeated.
        parts.journal.record(kind, vendor=vendor.name, vendor_id=vendor.id, key=key)
        try:
            change(key)
        except KmsError as error:
            parts.journal.record(kind, vendor=vendor.name, vendor_id=vendor.id, key=key, failed=True)
            failures.append(error)
    with parts.catalog.read() as transaction:
        places = {vendor.id, *(row.id for row in transaction.compartments(holder=vendor.id))}
    parts.keyring.drop(places)
    parts.journal.checkpoint()
    if failures:
        raise failures[0]
    return keys


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
            if not grant.expired_at(now) and not head.frozen
        ]
        places = {row.dataset: row.id for row in checked_places(parts, transaction, vendor.id)}
    wanted = {KeyScope(parts.vault, vendor.id, METADATA_GROUP, epoch)}
    if any(is_keyed(grant.masks) for grant in grants):
        wanted.add(KeyScope(parts.vault, vendor.id, MASK_GROUP, 1))
    for grant in grants:
        if grant.dataset not in places:
            raise IntegrityError("the catalog lacks the compartment of a live grant")
        place = places[grant.dataset]
        groups = (MANIFEST_GROUP, *(cut.group for cut in grant.cuts))
        wanted |= {KeyScope(parts.vault, place, group, 1) for group in groups}
    ordered = sorted(wanted, key=lambda scope: (scope.compartment, scope.group))
    return Privileges(vendor.name, vendor.id, tuple(sorted(vendor.kms_keys)), tuple(ordered))
