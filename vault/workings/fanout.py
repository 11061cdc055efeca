"""Fan-out: filling a vendor's compartment with exactly what its live grants need.

A vendor's compartment holds, of each version, the column groups that its unexpired grants name or filter
by, in the shards that are not assigned to somebody else. Chunks are copied page by page under the vendor's
own keys; what the compartment has already, by content, is not copied again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from vault.catalog import CompartmentRow, FieldSealer, HeadRow, Transaction
from vault.encoding import new_id
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef, Manifest
from vault.model import MANIFEST_GROUP
from vault.trust import Signer
from vault.workings.jobs import Job
from vault.workings.names import Holder
from vault.workings.parts import OwnerParts
from vault.workings.permissions import live_for_vendor
from vault.workings.reading import OpenVersion, open_version
from vault.workings.trouble import naming
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
        groups = frozenset(group for grant in grants if grant.live_at(now) for group in grant.groups)
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
        self._had = {ref.content: ref for ref in had.manifest.chunks} if had else {}
        self._present = had
        self._refs: dict[str, ChunkRef] = {}

    def wants(self, ref: ChunkRef) -> bool:
        """Whether a chunk of the owner belongs into this compartment."""
        return ref.group in self.groups and ref.assigned in {None, self.vendor.id}

    def take(self, ref: ChunkRef, source: Callable[[], Source]) -> None:
        """Copy a chunk if it is wanted and not there; may run in several threads."""
        if not self.wants(ref) or ref.content in self._refs:
            return
        held = self._had.get(ref.content)
        with naming(self._parts, self.vendor):
            self._refs[ref.content] = replace(held, shard=ref.shard) if held is not None else self.writer.copy(source())

    def manifest(self, owners: Manifest) -> Manifest:
        """What the vendor's manifest of this version is to say."""
        refs = sorted(
            (ref for ref in self._refs.values() if ref.group in self.groups),
            key=lambda ref: (ref.shard, ref.group),
        )
        return owners.narrowed(self.row.id, self.groups, tuple(refs))

    def is_current(self, owners: Manifest) -> bool:
        """Whether the compartment already says just this."""
        return self._present is not None and self._present.manifest == self.manifest(owners)

    def stage(self, owners: Manifest, publisher: Signer) -> None:
        """Write the vendor's manifest. Only the newest version is served, so the earlier ones are withdrawn: rows
        and columns that a vendor is not to have any more do not stay under its keys.
        """
        manifest = self.manifest(owners)
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
    parts: OwnerParts, job: Job, copy: VendorCopy, refs: Iterable[ChunkRef], keys: Mapping[str, WrappedKey]
) -> None:
    """Copy every wanted chunk of the owner's from the store; ``keys`` are the owner's, by group."""

    def task(ref: ChunkRef) -> None:
        copy.take(ref, lambda: source_of(parts, ref, keys[ref.group]))

    for _ in parts.engine.map(task, (ref for ref in refs if copy.wants(ref))):
        job.beat()
