"""Fan-out: filling a vendor's compartment with exactly what its live grants need.

A vendor's compartment holds the newest version and those that its grants are pinned to; of each the column groups that
its unexpired grants name or filter by, in the shards that are not assigned to somebody else. Chunks are copied page by
page under the vendor's own keys; of a column that is granted in part they are encoded anew without the rest. What the
compartment has already, by content, is not made again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vault.catalog import CompartmentRow, FieldSealer, HeadRow, Transaction
from vault.encoding import new_id
from vault.errors import IntegrityError
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef, Layout, Listing, Manifest, Part, open_to
from vault.model import MANIFEST_GROUP, Cut
from vault.projection import narrowed_field
from vault.trust import CompartmentHead, Grant, Signer
from vault.workings.errands import Copying, CopyOrder, send_copies
from vault.workings.jobs import Job
from vault.workings.names import Holder
from vault.workings.parts import OwnerParts
from vault.workings.permissions import live_for_vendor
from vault.workings.putting import Source, copies_of, source_of
from vault.workings.reading import GroupShape
from vault.workings.telling import about_columns, about_compartment
from vault.workings.trouble import naming
from vault.workings.versions import OpenVersion, live_versions
from vault.workings.writing import Writer

__all__ = ["Needs", "VendorCopy", "begin_copy", "cut_manifest", "fill", "needs", "needs_of"]

_NOTHING: frozenset[Cut] = frozenset()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a vendor's grants on a dataset need: of the newest version (None: nothing is to be there) and of others."""

    latest: frozenset[Cut] | None = None
    pinned: Mapping[int, frozenset[Cut]] = field(default_factory=dict)

    @property
    def cuts(self) -> frozenset[Cut]:
        """What is needed of any version."""
        return frozenset().union(self.latest or _NOTHING, *self.pinned.values())

    def of(self, versions: Iterable[int]) -> dict[int, frozenset[Cut]]:
        """What is needed of each of these versions of a compartment, the highest of which is the newest there."""
        numbers = sorted(versions)
        found = {number: self.pinned[number] for number in numbers if number in self.pinned}
        if self.latest is not None and numbers:
            found[numbers[-1]] = found.get(numbers[-1], _NOTHING) | self.latest
        return found


def needs(grants: Iterable[Grant]) -> Needs:
    """What these grants of one vendor on one dataset need."""
    latest: frozenset[Cut] | None = None
    pinned: dict[int, frozenset[Cut]] = {}
    for grant in grants:
        if grant.pinned is None:
            latest = (latest or _NOTHING) | grant.cuts
        else:
            pinned[grant.pinned] = pinned.get(grant.pinned, _NOTHING) | grant.cuts
    return Needs(latest, pinned)


def needs_of(
    parts: OwnerParts,
    transaction: Transaction,
    sealer: FieldSealer,
    dataset: str,
    now: datetime,
    *,
    frozen_too: bool = False,
    extra: Grant | None = None,
) -> dict[str, Needs]:
    """What each vendor's live grants on a dataset need, by vendor id; ``extra`` is a grant that counts as live.

    A frozen vendor gets nothing new; what it missed is made up for when it is thawed.
    """
    rows = transaction.grants(dataset=dataset)
    found: dict[str, Needs] = {}
    for vendor in {row.vendor for row in rows}:
        head = parts.heads.vendor_in(transaction, vendor)
        if head.frozen and not frozen_too:
            continue
        grants = live_for_vendor(parts.root, rows, head, sealer, own=False)
        # One that has not begun yet finds its columns there when it does.
        live = [grant for grant in grants if not grant.expired_at(now)]
        live += [extra] if extra is not None and extra.vendor == vendor else []
        if live:
            found[vendor] = needs(live)
    return found


def cut_manifest(
    owners: Manifest, compartment: str, cuts: Iterable[Cut], part: Callable[[Part, Cut], Part]
) -> Manifest:
    """A version of the owner's as another compartment has it; ``part`` makes a part of it from one of the owner's."""
    by_source: dict[str, list[Cut]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.group):
        by_source.setdefault(cut.source, []).append(cut)
    columns = []
    for column, arrow in zip(owners.columns, owners.schema, strict=True):
        for cut in by_source.get(column.group, ()):
            own = cut.of(column)
            columns.append((own, narrowed_field(arrow, own.fields)))
    parts = [part(each, cut) for each in owners.parts for cut in by_source.get(each.group, ())]
    return owners.moved(compartment, columns, parts)


class VendorCopy:
    """The next state of one vendor's compartment, being filled for one version, the ``target``."""

    def __init__(
        self,
        parts: OwnerParts,
        vendor: Holder,
        row: CompartmentRow,
        writer: Writer,
        wanted: Needs,
        head: CompartmentHead | None,
        versions: Sequence[OpenVersion],
        target: int,
    ) -> None:
        self._parts = parts
        self.vendor = vendor
        self.row = row
        self.writer = writer
        self.needs = wanted
        self._head = head
        self._versions = {version.manifest.version: version for version in versions}
        self._target = target
        self._wanted = wanted.of({*self._versions, target})
        self._cuts: dict[str, list[Cut]] = {}
        for cut in self._wanted.get(target, ()):
            self._cuts.setdefault(cut.source, []).append(cut)
        groups = {cut.group for cut in self._wanted.get(target, ())}
        self._had = {
            part.content: part for version in versions for part in version.manifest.parts if part.group in groups
        }
        self._held: dict[str, dict[str, ChunkRef]] = {}
        self._copied: dict[str, ChunkRef] = {}
        self._staged: Manifest | None = None

    def take(self, ref: ChunkRef, source: Callable[[], Source], shape: GroupShape) -> None:
        """Copy a chunk of the owner's that is not there, if it belongs here; may run in several threads."""
        if ref.assigned not in {None, self.vendor.id}:
            return
        lacking = [
            cut
            for cut in self._cuts.get(ref.group, ())
            if cut.content(ref.content) not in self._held.get(cut.group, {})
        ]
        if lacking:
            with naming(self._parts, self.vendor):
                self.note(copies_of(self.writer, source(), lacking, shape))

    def note(self, copies: Iterable[tuple[str, ChunkRef]]) -> None:
        """Remember chunks that were put for this compartment, by content."""
        self._copied.update(copies)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What the compartment takes of the version that is filled in."""
        return tuple(cut for cuts in self._cuts.values() for cut in cuts)

    def keys(self) -> dict[str, WrappedKey]:
        """The keys that what it takes goes under; made where there are none."""
        with naming(self._parts, self.vendor):
            return {cut.group: self.writer.key(cut.group)[0] for cut in self.cuts}

    def missing(self, parts: Iterable[Part], load: Callable[[Part], Listing]) -> Iterator[ChunkRef]:
        """The chunks in these parts of the owner's that belong here and are not there yet."""
        for part in self._unknown(parts):
            for ref in load(part).open_to(self.vendor.id).refs():
                if self.lacking(ref):
                    yield ref

    def lacking(self, ref: ChunkRef) -> list[Cut]:
        """The cuts of a chunk of the owner's that are not there yet."""
        return [cut for cut in self._cuts[ref.group] if self._own(ref, cut) is None]

    def _unknown(self, parts: Iterable[Part]) -> list[Part]:
        """The owner's parts that belong here and that the compartment has no part of the same content of."""
        return [
            part
            for part in parts
            if any(cut.content(part.content) not in self._had for cut in self._cuts.get(part.group, ()))
        ]

    def _held_of(self, group: str) -> dict[str, ChunkRef]:
        """What the compartment has of a group, by content."""
        if group not in self._held:
            with naming(self._parts, self.vendor):
                refs = (ref for version in self._versions.values() for ref in version.refs((group,)))
                self._held[group] = {ref.content: ref for ref in refs}
        return self._held[group]

    def _own(self, ref: ChunkRef, cut: Cut) -> ChunkRef | None:
        content = cut.content(ref.content)
        return self._copied.get(content) or self._held_of(cut.group).get(content)

    def manifest(self, owners: Manifest, load: Callable[[Part], Listing]) -> Manifest:
        """What the vendor's manifest of this version is to say; ``load`` opens the owner's parts.

        Parts whose content the compartment has are what they were: their chunks, and their own objects.
        """
        cuts = self._wanted.get(self._target, _NOTHING)
        return cut_manifest(owners, self.row.id, cuts, lambda part, cut: self._part(part, cut, load))

    def _part(self, part: Part, cut: Cut, load: Callable[[Part], Listing]) -> Part:
        content = cut.content(part.content)
        if content in self._had:
            return self._had[content]
        listing = load(part).open_to(self.vendor.id)
        return part.holding(listing.moved([self._certain(ref, cut) for ref in listing.refs()], cut.group), content)

    def _certain(self, ref: ChunkRef, cut: Cut) -> ChunkRef:
        own = self._own(ref, cut)
        if own is None:
            raise IntegrityError("a chunk that a vendor needs was not copied")
        return own

    def is_current(self, owners: OpenVersion) -> bool:
        """Whether the compartment already says just this."""
        present = self._versions.get(self._target)
        if self._copied or self._unknown(owners.manifest.parts) or present is None:
            return False
        if present.manifest != self.manifest(owners.manifest, owners.load):
            return False
        return not any(self._surplus(number) for number in self._versions.keys() - {self._target})

    def _surplus(self, number: int) -> bool:
        """Whether a version has more than is needed of it."""
        if number not in self._wanted:
            return True
        return not self._versions[number].manifest.groups <= {cut.group for cut in self._wanted[number]}

    def stage(self, owners: Manifest, load: Callable[[Part], Listing], publisher: Signer) -> None:
        """Write the vendor's manifest. Of other versions only what is needed stays, and those that no grant is pinned
        to are withdrawn: rows and columns that a vendor is not to have any more do not stay under its keys.
        """
        manifest = self._staged = self.manifest(owners, load)
        with naming(self._parts, self.vendor):
            self.writer.manifest(manifest, publisher)
        left = set(manifest.groups)
        for number, version in self._versions.items():
            if number == self._target:
                continue
            if number not in self._wanted:
                self.writer.withdraw(number)
                continue
            kept = version.manifest.narrowed({cut.group for cut in self._wanted[number]})
            if self._surplus(number):
                with naming(self._parts, self.vendor):
                    self.writer.manifest(kept, publisher)
            left |= kept.groups
        if self._head is not None:
            self.writer.retire(self._head.live_groups - left - {MANIFEST_GROUP})

    def told(self, dataset: str, layout: Layout, job: Job) -> dict[str, object]:
        """What the log says of what was staged, of a version of the owner's with this layout."""
        assert self._staged is not None
        about = about_compartment(
            self.vendor,
            self.row,
            dataset,
            epochs=self.writer.epochs(self._staged.groups),
            shards=open_to(layout, self.vendor.id),
            started=job.began,
        )
        versions = sorted({*self._wanted, self._target})
        return {**about, "version": self._target, "versions": versions, **about_columns([self._staged])}

    def commit(self, transaction: Transaction, publisher: Signer) -> HeadRow:
        """Make the vendor's compartment live."""
        if transaction.compartment(self.vendor.id, self.row.dataset) is None:
            transaction.add_compartment(self.row)
        return self.writer.commit(transaction, publisher)


def begin_copy(parts: OwnerParts, job: Job, vendor: Holder, dataset: str, wanted: Needs, target: int) -> VendorCopy:
    """Look at what a vendor's compartment holds and begin its next state, in which it has the version ``target``."""
    with parts.catalog.read() as transaction:
        row = transaction.compartment(vendor.id, dataset)
    with naming(parts, vendor):
        head, versions = live_versions(parts, row) if row is not None else (None, [])
    place = row or CompartmentRow(new_id(), vendor.id, dataset)
    writer = Writer(parts, job, place, vendor.kms_key, head)
    return VendorCopy(parts, vendor, place, writer, wanted, head, versions, target)


def fill(
    parts: OwnerParts,
    job: Job,
    copy: VendorCopy,
    shapes: Mapping[str, GroupShape],
    wanted: Iterable[Part],
    load: Callable[[Part], Listing],
    keys: Mapping[str, WrappedKey],
) -> None:
    """Copy what a compartment lacks of some parts of the owner's from the store.

    ``shapes`` are what the owner's chunks hold and ``keys`` the keys that they are under, by group.
    """

    if parts.workers is not None:
        order = CopyOrder(keys, copy.keys(), copy.cuts, shapes)
        wants = (Copying(ref, copy.lacking(ref)) for ref in copy.missing(wanted, load))
        with naming(parts, copy.vendor):
            for _, found in send_copies(parts, job, order, wants):
                copy.note(found)
        return

    def task(ref: ChunkRef) -> None:
        copy.take(ref, lambda: source_of(parts, ref, keys[ref.group]), shapes[ref.group])

    for _ in parts.engine.map(task, copy.missing(wanted, load)):
        job.beat()
