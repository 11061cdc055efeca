"""Steps in a vendor's history: who it is, the next head, and what must follow a commit."""

import logging
from collections.abc import Callable, Mapping

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.errors import Conflict, IntegrityError, NotFound, Unavailable
from vault.trust import CompartmentHead, VendorHead, emptied_body, head_statement
from vault.workings.backups import PROMPT_SECONDS
from vault.workings.names import Holder, holder_named, holders
from vault.workings.parts import OwnerParts
from vault.workings.permissions import next_vendor_head
from vault.workings.prompt import within
from vault.workings.trouble import being_offboarded

__all__ = [
    "announce",
    "checked_places",
    "emptied_head",
    "listing_vendor",
    "present_vendor",
    "refuse_gone",
    "removal",
    "standing",
    "vendor_named",
]

_LOG = logging.getLogger("dsvault")


def vendor_named(parts: OwnerParts, name: str) -> Holder:
    """A vendor by name; raises NotFound."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        holder = holder_named(transaction, sealer, name)
    if holder.id == parts.owner:
        raise NotFound(f"there is no vendor named '{name}'")
    return holder


def present_vendor(parts: OwnerParts, name: str) -> Holder:
    """A vendor that was not offboarded, nor is being so; raises NotFound or Conflict."""
    vendor = vendor_named(parts, name)
    refuse_gone(vendor)
    return vendor


def refuse_gone(vendor: Holder) -> None:
    """Raises Conflict for a vendor that was offboarded, or is being so."""
    if vendor.ended:
        raise Conflict(f"the vendor '{vendor.name}' was offboarded; its keys are gone for good")
    if vendor.ending:
        raise Conflict(being_offboarded(vendor.name))


def checked_places(parts: OwnerParts, transaction: Transaction, holder: str) -> list[CompartmentRow]:
    """A holder's compartments, after every compartment's signed head confirmed whose it is; raises IntegrityError.

    The catalog's word alone would let its writer have the owner's data keys counted among a vendor's.
    """
    places = transaction.compartments()
    for place in places:
        if parts.heads.compartment_in(transaction, place) is None:
            raise IntegrityError("a compartment in the catalog has no head")
    return [place for place in places if place.holder == holder]


def emptied_head(parts: OwnerParts, place: CompartmentRow, head: CompartmentHead) -> HeadRow:
    """The next head of a compartment: no version and no live key."""
    body, sequence = emptied_body(head), head.sequence + 1
    signed = head_statement(
        parts.signers.publisher(),
        vault=parts.vault,
        kind="compartment",
        subject=place.id,
        sequence=sequence,
        body=body,
        frozen=False,
        now=parts.clock(),
    )
    return HeadRow(place.id, sequence, "compartment", False, signed.encode(), body)


def listing_vendor(parts: OwnerParts, listed: Callable[[VendorHead], bool]) -> Holder | None:
    """The vendor whose head lists something, whatever the catalog's row of that thing says; None for nobody."""

    def read(transaction: Transaction) -> Holder | None:
        for holder in holders(transaction, parts.sealer()):
            try:
                if holder.id != parts.owner and listed(parts.heads.vendor_in(transaction, holder.id)):
                    return holder
            except IntegrityError:
                continue  # a fault of one vendor's head must not keep another's from being stopped
        return None

    return parts.heads.reading(read)


def announce(parts: OwnerParts, head: HeadRow) -> None:
    """After the commit: the head into the store, and the log's end beside it."""
    parts.heads.forget(head.subject)
    parts.heads.announce([head])
    parts.journal.checkpoint()


def _tell_store(tell: Callable[[], None]) -> None:
    """Tell the store of what was taken away. It is done: a store that cannot be told now is told by whoever comes next.

    Raises IntegrityError where something else stands in the way there.
    """
    try:
        within(PROMPT_SECONDS, tell)
    except Unavailable as error:
        _LOG.warning("the store does not know of it yet (%s); the next administrative command makes up for it", error)


def removal(
    parts: OwnerParts,
    name: str,
    kind: Kind,
    change: Callable[[VendorHead], dict[str, object] | None],
    told: Callable[[VendorHead], Mapping[str, object]] = lambda _head: {},
    **fields: object,
) -> bool:
    """Sign a removal with the responder's key; ``change`` gives what the next head changes, or None.

    The entry has ``fields``, and what ``told`` says of the head that is changed.
    Returns whether anything was changed: False where it had been done before. A store that is down holds it up for a
    few seconds at the most, and is told later.
    """
    vendor = vendor_named(parts, name)
    with parts.backups.promptly(), parts.catalog.write() as transaction:
        present = parts.heads.vendor_in(transaction, vendor.id)
        changes = change(present)
        if changes is not None:
            head = next_vendor_head(
                parts,
                parts.signers.responder(),
                present,
                vendor.id,
                by_authority=False,
                **changes,  # type: ignore[arg-type]
            )
            transaction.add_head(head)
            about = {"vendor": name, "vendor_id": vendor.id, **fields, **told(present)}
            parts.journal.record_in(transaction, kind, **about)
    if changes is None:
        # Done before, perhaps by a run that was killed between the catalog and the store.
        _tell_store(parts.heads.reconcile)
        return False
    parts.heads.forget(head.subject)
    _tell_store(lambda: announce(parts, head))
    with parts.catalog.read() as transaction:
        parts.keyring.drop(row.id for row in transaction.compartments(holder=vendor.id))
    return True


def standing(unexpired: bool, listed: bool, settled: bool) -> str:
    """How a grant or credential stands: ``live``, ``expired``, ``revoked`` or ``pending``."""
    if listed:
        return "live" if unexpired else "expired"
    return "revoked" if settled else "pending"
