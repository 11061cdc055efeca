"""Rewrapping: a holder's data keys under its next KMS key, without reading a single object.

The successor is made and noted (sealed, in the holder's own row) before anything moves, so that a run that was killed
goes on with it. Each data key is then wrapped anew and exchanged in the catalog only if it is still what was read, and
the last transaction, which makes the successor the holder's KMS key, first sees that nothing is left under the old
one. A broker reads a data key and the KMS key that it is under in one row, so it is served at every moment. Until
the old KMS key is disabled or destroyed nothing is lost by stopping.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from vault.audit import Kind
from vault.catalog import KeyRow
from vault.derivation import key_id
from vault.errors import Conflict, IntegrityError, KeyUnavailable, KmsError, NotFound, PartlyDone
from vault.kms import KeyState
from vault.workings.names import Holder, holder_by_id, holders, update_holder
from vault.workings.parts import OwnerParts, holder_sealer, wrapped_key
from vault.workings.steps import checked_places, refuse_gone
from vault.workings.trouble import each_holder, stopped

__all__ = ["Rewrapped", "disable_keys", "rewrap"]

_BATCH = 256
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A holder whose data keys moved: how many in this run, from which KMS key and to which.

    ``done`` is False where the successor was only made.
    """

    vendor: str
    keys: int
    old: str
    new: str
    done: bool


def rewrap(
    parts: OwnerParts,
    vendor: str | None = None,
    *,
    prepare: bool = False,
    disable_old: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Rewrapped]:
    """Wrap the data keys of a vendor (``owner`` is one here), or of everyone, under the next KMS key of each.

    With ``prepare`` the next KMS keys are made and nothing moves yet, so that a policy can name them first. With
    ``disable_old`` the old ones are disabled in the end. ``progress`` is told (keys done, keys in all). May be
    killed and run again. Raises NotFound, KmsError, Conflict where new data keys keep coming, and PartlyDone where
    it failed for some of several holders.
    """
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        people = [holder for holder in holders(transaction, sealer) if not holder.ended]
    chosen = [holder for holder in people if vendor in {None, holder.name}]
    if not chosen:
        raise NotFound(f"there is no vendor named '{str(vendor)[:80]}'")

    def step(holder: Holder) -> Rewrapped:
        refuse_gone(holder)
        # Before a new KMS key is made for data keys that cannot be moved to it.
        why_not = None if prepare else stopped(parts, holder)
        if why_not is not None:
            raise KeyUnavailable(why_not)
        current = _with_successor(parts, holder)
        assert current.successor is not None
        moved = 0 if prepare else _move_all(parts, current, progress)
        if not prepare and disable_old:
            disable_keys(parts, holder, (*current.earlier, current.kms_key))
        return Rewrapped(holder.name, moved, current.kms_key, current.successor, not prepare)

    try:
        results = each_holder(parts, chosen, lambda holder: holder, step)
    except PartlyDone:
        parts.journal.checkpoint()
        raise
    parts.journal.checkpoint()
    return results


def disable_keys(parts: OwnerParts, holder: Holder, keys: tuple[str, ...]) -> None:
    """Disable the KMS keys of before: also that which an earlier run was killed ahead of disabling."""
    for key in keys:
        if parts.kms.state(key) is KeyState.ENABLED:
            parts.journal.record(Kind.KMS_KEY_DISABLED, vendor=holder.name, vendor_id=holder.id, key=key)
            parts.kms.disable_key(key)


def _with_successor(parts: OwnerParts, holder: Holder) -> Holder:
    """The holder with a KMS key to move to: the one that an earlier run noted, else a new one."""
    if holder.successor is not None:
        return holder
    made = parts.kms.rotate_key(holder.kms_key, holder.id)
    sealer, own = parts.sealer(), holder_sealer(parts, parts.keyring, holder.id)
    with parts.catalog.write() as transaction:
        present = holder_by_id(transaction, sealer, holder.id)
        refuse_gone(present)
        if present.successor is None and present.kms_key == holder.kms_key:
            present = replace(present, successor=made)
            update_holder(transaction, present, sealer, own)
            parts.journal.record_in(transaction, Kind.KMS_KEY_MADE, vendor=holder.name, vendor_id=holder.id, key=made)
    if present.successor is None:
        raise Conflict(f"the data keys of '{holder.name}' were rewrapped by somebody else in the meantime")
    return present


def _move_all(parts: OwnerParts, holder: Holder, progress: Callable[[int, int], None]) -> int:
    assert holder.successor is not None
    moved = 0
    settled: set[tuple[str, str, int]] = set()
    for _ in range(_TRIES):
        with parts.catalog.read() as transaction:
            checked_places(parts, transaction, holder.id)
            rows = transaction.keys_of_holder(holder.id)
        if any(row.kms_key not in holder.kms_keys for row in rows):
            raise IntegrityError(f"a data key of '{holder.name}' is under another KMS key than its holder's")
        unsure = [row for row in rows if row.kms_key == holder.successor and _place(row) not in settled]
        wrong = [replace(row, kms_key=holder.kms_key) for row in unsure if not _opens(parts, row)]
        settled |= {_place(row) for row in unsure}
        left = [row for row in rows if row.kms_key != holder.successor] + wrong
        for start in range(0, len(left), _BATCH):
            batch = left[start : start + _BATCH]
            moved += _move(parts, holder.successor, batch)
            settled |= {_place(row) for row in batch}
            progress(moved, len(rows))
        if _finish(parts, holder, moved):
            parts.keyring.drop({holder.id, *(row.compartment for row in rows)})
            return moved
    raise Conflict(f"new data keys of '{holder.name}' kept coming while they were rewrapped; run it again")


def _place(row: KeyRow) -> tuple[str, str, int]:
    return row.compartment, row.group, row.epoch


def _opens(parts: OwnerParts, row: KeyRow) -> bool:
    """Whether a row that says that it moved before opens so: the old key may be disabled on its word."""
    key = wrapped_key(parts.vault, row)
    try:
        plaintext = parts.kms.unwrap(key.kms_key, key.wrapped, key.scope.context())
    except KmsError:
        return False
    return hmac.compare_digest(key_id(plaintext), key.key_id)


def _move(parts: OwnerParts, successor: str, rows: list[KeyRow]) -> int:
    def task(row: KeyRow) -> tuple[KeyRow, str, bytes]:
        context = wrapped_key(parts.vault, row).scope.context()
        return row, successor, parts.kms.rewrap(row.kms_key, row.wrapped, context, successor)

    # The KMS is asked outside the transaction: other writers wait for SQL only.
    moves = list(parts.engine.map(task, rows))
    with parts.catalog.write() as transaction:
        return transaction.move_keys(moves)


def _finish(parts: OwnerParts, holder: Holder, moved: int) -> bool:
    """Make the successor the holder's KMS key; False while a data key is still under the old one."""
    sealer, own = parts.sealer(), holder_sealer(parts, parts.keyring, holder.id)
    with parts.catalog.write() as transaction:
        present = holder_by_id(transaction, sealer, holder.id)
        if present.kms_key == holder.successor:
            return True  # another run of the same has ended it
        if present != holder:
            raise Conflict(f"the KMS key of '{holder.name}' was changed by somebody else in the meantime")
        if any(row.kms_key != holder.successor for row in transaction.keys_of_holder(holder.id)):
            return False
        assert holder.successor is not None
        earlier = (*present.earlier, holder.kms_key)
        after = replace(present, kms_key=holder.successor, successor=None, earlier=earlier)
        update_holder(transaction, after, sealer, own)
        parts.journal.record_in(
            transaction,
            Kind.REWRAPPED,
            vendor=holder.name,
            vendor_id=holder.id,
            keys=moved,
            old=holder.kms_key,
            new=holder.successor,
        )
    return True
