"""Fan-out: filling a vendor's compartment with exactly what its live grants need.

A vendor's compartment holds, of each version, the column groups that its unexpired grants name or filter
by, in the shards that are not assigned to somebody else. Chunks are copied page by page under the vendor's
own keys; what the compartment has already, by content, is not copied again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from vault.catalog import CompartmentRow, FieldSealer, HeadRow, Transaction
from vault.encoding import new_id
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef, Listing, Manifest, Part
from vault.model import MANIFEST_GROUP
from vault.trust import Signer
from vault.workings.jobs import Job
from vault.workings.names import Holder
from vault.workings.parts import OwnerParts
from vault.workings.permissions import live_for_vendor
from vault.workings.trouble import naming
from vault.workings.versions import OpenVersion, open_version
from vault.workings.writing import Source, Writer

__all__ = ["VendorCopy", "begin_copy", "fill", "needed_groups", "source_of"]


def needed_groups(
    parts: OwnerParts,
    transaction: Transaction,
    sealer: FieldSealer,
    dataset: str,
    now: datetime,
    *,
    frozen_too: bool = False,
) -> dict[str, frozenset[str]]:
    """The column groups that each vendor's live grants on a dataset need, by vendor id.

    A frozen vendor gets nothing new; what it missed is made up for when it is thawed.
    """
    rows = transaction.grants(dataset=dataset)
    needed: dict[str, frozenset[str]] = {}
    for vendor in {row.vendor for row in rows}:
        head = parts.heads.vendor_in(transaction, vendor)
        if head.frozen and not frozen_too:
            continue
        grants = live_for_vendor(parts.root, rows, head, sealer, own=False)
        # One that has not begun yet finds its columns there when it does.
        groups = frozenset(group for grant in grants if not grant.expired_at(now) for group in grant.groups)
        if groups:
            needed[vendor] = groups
    return needed


class VendorCopy:
    """The next state of one vendor's compartment for one version, being filled."""

    def __init__(
        self,
        parts: OwnerParts,
        vendor: Holder,
        row: CompartmentRow,
        writer: Writer,
        groups: frozenset[str],
        had: OpenVersion | None,
    ) -> None:
        self._parts = parts
        self.vendor = vendor
        self.row = row
        self.writer = writer
        self.groups = groups
        self._present = had
        self._had = {part.content: part for part in had.manifest.parts if part.group in groups} if had else {}
        self._held: dict[str, dict[str, ChunkRef]] = {}
        self._copied: dict[str, ChunkRef] = {}

    def take(self, ref: ChunkRef, source: Callable[[], Source]) -> None:
        """Copy a chunk of the owner's that is not there, if it belongs here; may run in several threads."""
        if ref.group in self.groups and ref.assigned in {None, self.vendor.id}:
            with naming(self._parts, self.vendor):
                self._copied[ref.content] = self.writer.copy(source())

    def missing(self, parts: Iterable[Part], load: Callable[[Part], Listing]) -> Iterator[ChunkRef]:
        """The chunks in these parts of the owner's that belong here and are not there yet."""
        for part in self._unknown(parts):
            held = self._held_of(part.group)
            for ref in load(part).open_to(self.vendor.id).refs():
                if ref.content not in held and ref.content not in self._copied:
                    yield ref

    def _unknown(self, parts: Iterable[Part]) -> list[Part]:
        """The owner's parts that belong here and that the compartment has no part of the same content of."""
        return [part for part in parts if part.group in self.groups and part.content not in self._had]

    def _held_of(self, group: str) -> dict[str, ChunkRef]:
        """What the compartment has of a group, by content."""
        if group not in self._held:
            with naming(self._parts, self.vendor):
                refs = self._present.refs((group,)) if self._present is not None else ()
                self._held[group] = {ref.content: ref for ref in refs}
        return self._held[group]

    def manifest(self, owners: Manifest, load: Callable[[Part], Listing]) -> Manifest:
        """What the vendor's manifest of this version is to say; ``load`` opens the owner's parts.

        Parts whose content the compartment has are what they were: their chunks, and their own objects.
        """
        parts = (part for part in owners.parts if part.group in self.groups)
        return owners.narrowed(self.row.id, self.groups, [self._part(part, load) for part in parts])

    def _part(self, part: Part, load: Callable[[Part], Listing]) -> Part:
        if part.content in self._had:
            return self._had[part.content]
        listing = load(part).open_to(self.vendor.id)
        return part.holding(listing.moved([self._own(ref) for ref in listing.refs()]))

    def _own(self, ref: ChunkRef) -> ChunkRef:
        return self._copied.get(ref.content) or self._held_of(ref.group)[ref.content]

    def is_current(self, owners: OpenVersion) -> bool:
        """Whether the compartment already says just this."""
        if self._copied or self._unknown(owners.manifest.parts) or self._present is None:
            return False
        return self._present.manifest == self.manifest(owners.manifest, owners.load)

    def stage(self, owners: Manifest, load: Callable[[Part], Listing], publisher: Signer) -> None:
        """Write the vendor's manifest. Only the newest version is served, so the earlier ones are withdrawn: rows
        and columns that a vendor is not to have any more do not stay under its keys.
        """
        manifest = self.manifest(owners, load)
        with naming(self._parts, self.vendor):
            self.writer.manifest(manifest, publisher)
        for version in self._present.head.versions if self._present is not None else ():
            if version != manifest.version:
                self.writer.withdraw(version)
        if self._present is not None:
            self.writer.retire(self._present.head.live_groups - manifest.groups - {MANIFEST_GROUP})

    def commit(self, transaction: Transaction, publisher: Signer) -> HeadRow:
        """Make the vendor's compartment live."""
        if transaction.compartment(self.vendor.id, self.row.dataset) is None:
            transaction.add_compartment(self.row)
        return self.writer.commit(transaction, publisher)


def begin_copy(parts: OwnerParts, job: Job, vendor: Holder, dataset: str, groups: frozenset[str]) -> VendorCopy:
    """Look at what a vendor's compartment holds and begin its next state."""
    with parts.catalog.read() as transaction:
        row = transaction.compartment(vendor.id, dataset)
        head = parts.heads.compartment_in(transaction, row) if row else None
    with naming(parts, vendor):
        had = open_version(parts, parts.keyring, row) if row and head and head.versions else None
    if had is not None:
        head = had.head
    target = row or CompartmentRow(new_id(), vendor.id, dataset)
    return VendorCopy(parts, vendor, target, Writer(parts, job, target, vendor.kms_key, head), groups, had)


def source_of(parts: OwnerParts, ref: ChunkRef, key: WrappedKey) -> Source:
    """One of the owner's chunks as a source for fan-out, read piece by piece."""
    return Source(ref, parts.store.open(ref.object, ref.size), key, parts.keyring.open(key))


def fill(
    parts: OwnerParts,
    job: Job,
    copy: VendorCopy,
    wanted: Iterable[Part],
    load: Callable[[Part], Listing],
    keys: Mapping[str, WrappedKey],
) -> None:
    """Copy what a compartment lacks of some parts of the owner's from the store; ``keys`` are the owner's, by group."""

    def task(ref: ChunkRef) -> None:
        copy.take(ref, lambda: source_of(parts, ref, keys[ref.group]))

    for _ in parts.engine.map(task, copy.missing(wanted, load)):
        job.beat()
