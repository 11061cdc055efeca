"""Erasing rows: out of every version, every compartment and every statistic, under fresh chunks and a next epoch.

Versions keep their numbers, and the owner's manifests say when how many rows were erased from them. Shards that hold
such rows are decoded, filtered and encoded anew; all the others are only encrypted anew, so that the old keys open
nothing live, and gc can forget them. Vendors' compartments follow from the owner's in the same transaction. May be
killed and run again: before that transaction nothing has changed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow
from vault.compact import chosen
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, InvalidInput, NotFound
from vault.manifest import (
    ChunkRef,
    Entry,
    Erasure,
    Layout,
    Listing,
    Manifest,
    Part,
    Shard,
    layout_of,
    open_to,
    shards_of,
)
from vault.model import MANIFEST_GROUP, Cut
from vault.trust import CompartmentHead, Signer
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Dataset, Holder, dataset_named, holders
from vault.workings.parts import OwnerParts
from vault.workings.putting import Source, source_of
from vault.workings.reading import group_shape, open_chunk
from vault.workings.sought import Leaving, Sought
from vault.workings.telling import about_columns, about_compartment
from vault.workings.trouble import naming
from vault.workings.versions import OpenVersion, live_versions
from vault.workings.writing import Writer

__all__ = ["Erased", "erase"]

_TRIES = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased: rows by version, the vendors whose copies followed, and how many keys no version had."""

    dataset: str
    rows: dict[int, int]
    vendors: tuple[str, ...]
    unknown_keys: int


def erase(
    parts: OwnerParts,
    name: str,
    *,
    keys: Sequence[object] | None = None,
    where: str | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Erased:
    """Erase the rows with these keys, or that a predicate is true of, from every version and compartment.

    ``keys`` are values of the dataset's key column. With a key column, a row that the predicate finds in one version is
    erased from all. ``progress`` is told (bytes done, bytes in all). Raises InvalidInput, NotFound, Conflict, and
    KeyUnavailable where the KMS refuses a vendor's key; then nothing was changed.
    """
    if (keys is None) == (where is None):
        raise InvalidInput("say which rows: with --keys or with --where, not both")
    sealer = parts.sealer()
    for _ in range(_TRIES):
        with parts.catalog.read() as transaction:
            dataset = dataset_named(transaction, sealer, name)
            place = transaction.compartment(parts.owner, dataset.id)
            people = {holder.id: holder for holder in holders(transaction, sealer)}
        if keys is not None and dataset.key is None:
            raise InvalidInput(f"--keys: the dataset '{name}' was published without --key; say which rows with --where")
        if place is None:
            raise NotFound(f"the dataset '{name}' has no version")
        with suppress(Conflict):
            return _Run(parts, dataset, place, people, progress).run(keys, where)
    raise Conflict(f"the dataset '{name}' kept changing while rows were erased; try again")


@dataclass(frozen=True, slots=True)
class _Staged:
    """The next state of a vendor's compartment, and the versions in it."""

    writer: Writer
    manifests: Sequence[Manifest]


class _Run:
    """One try: everything is staged from the heads as they are found, and committed if they still are."""

    def __init__(
        self,
        parts: OwnerParts,
        dataset: Dataset,
        place: CompartmentRow,
        people: dict[str, Holder],
        progress: Progress,
    ) -> None:
        self._parts = parts
        self._dataset = dataset
        self._place = place
        self._people = people
        self._progress = progress
        head, versions = live_versions(parts, place)
        if head is None or not versions:
            raise NotFound(f"the dataset '{dataset.name}' has no version")
        self._head: CompartmentHead = head
        self._versions = versions
        self._sought = Sought(parts, dataset, versions)
        # By version and old chunk: the owner's new chunk, or None where no row of it is left. One that lost no row is
        # without statistics here: it has those that it had.
        self._new: dict[tuple[int, str], Entry | None] = {}
        self._done = 0
        self._total = 0

    def run(self, keys: Sequence[object] | None, where: str | None) -> Erased:
        """Find the rows, stage, commit."""
        unknown = self._sought.choose(keys, where)
        plans = [self._sought.leaving(version) for version in self._versions]
        if not any(plan.erased for plan in plans):
            return Erased(self._dataset.name, {}, (), unknown)
        job = begin_job(self._parts.catalog, "erase", self._parts.clock)
        try:
            heads, vendors = self._stage_and_commit(job, plans)
        except BaseException:
            job.abandon()
            raise
        self._parts.heads.announce(heads)
        self._parts.keyring.drop(head.subject for head in heads)
        self._parts.journal.checkpoint()
        rows = {plan.version.manifest.version: plan.erased for plan in plans if plan.erased}
        return Erased(self._dataset.name, rows, vendors, unknown)

    # Staging

    def _source_of_new(self, ref: ChunkRef) -> Source:
        """One of the owner's new chunks, whose key the catalog does not know yet."""
        key, plaintext = self._writer.key(ref.group)
        return Source(ref, self._parts.store.open(ref.object, ref.size), key, plaintext)

    def _stage_and_commit(self, job: Job, plans: list[Leaving]) -> tuple[list[HeadRow], tuple[str, ...]]:
        parts, publisher = self._parts, self._parts.signers.publisher()
        places = self._vendors_places()
        chunks = {ref.chunk: ref.size for plan in plans for ref in plan.version.refs()}
        self._total = sum(chunks.values())
        owner = self._people[parts.owner]
        writer = Writer(parts, job, self._place, owner.kms_key, self._head, rotate=self._head.live_groups)
        self._writer = writer
        for group in self._head.live_groups:
            writer.key(group)
        self._write_owners(job, writer, plans)
        after = [self._owners_manifest(plan) for plan in plans]
        for manifest in after:
            writer.manifest(manifest, publisher)
        staged = [(self._people[place.holder], self._stage_vendor(job, place, plans, publisher)) for place in places]
        layouts = {each.version: layout_of(each, plan.version.load) for each, plan in zip(after, plans, strict=True)}
        told = [self._told(job, owner, self._place, writer, after, layouts)]
        told += [
            self._told(job, self._people[place.holder], place, each.writer, each.manifests, layouts)
            for place, (_, each) in zip(places, staged, strict=True)
            if each is not None
        ]
        parts.store.settle(job.folder)
        with parts.catalog.write() as transaction:
            job.finish(transaction)
            heads = [writer.commit(transaction, publisher)]
            heads += [each.writer.commit(transaction, publisher) for _, each in staged if each is not None]
            # A compartment that came in the meantime was filled from what is no longer live.
            if {row.id for row in transaction.compartments(dataset=self._dataset.id)} - {self._place.id} != {
                place.id for place in places
            }:
                raise Conflict("the dataset was given to another vendor in the meantime")
            parts.journal.record_in(
                transaction,
                Kind.ROWS_ERASED,
                dataset=self._dataset.name,
                dataset_id=self._dataset.id,
                rows={str(plan.version.manifest.version): plan.erased for plan in plans if plan.erased},
                layouts={str(number): layout for number, layout in layouts.items()},
                started=job.began,
            )
            for fields in told:
                parts.journal.record_in(transaction, Kind.REKEYED, **fields)
        return heads, tuple(sorted(vendor.name for vendor, each in staged if each is not None))

    def _told(
        self,
        job: Job,
        holder: Holder,
        place: CompartmentRow,
        writer: Writer,
        manifests: Sequence[Manifest],
        layouts: Mapping[int, Layout],
    ) -> dict[str, object]:
        """What the log says of a compartment whose every key is another now, and what is in it."""
        groups = {group for each in manifests for group in each.groups} | {MANIFEST_GROUP}
        about = about_compartment(
            holder,
            place,
            self._dataset.name,
            epochs=writer.epochs(groups),
            shards=shards_of([open_to(layouts[each.version], holder.id) for each in manifests]),
            started=job.began,
        )
        return {**about, "versions": [each.version for each in manifests], **about_columns(manifests)}

    def _vendors_places(self) -> list[CompartmentRow]:
        with self._parts.catalog.read() as transaction:
            found = transaction.compartments(dataset=self._dataset.id)
        return [place for place in found if place.id != self._place.id and not self._people[place.holder].ended]

    def _write_owners(self, job: Job, writer: Writer, plans: list[Leaving]) -> None:
        """Every chunk of the owner's under the next epoch; one that versions share, and lose the same rows of, once."""
        tasks: dict[tuple[str, bytes], tuple[Leaving, Shard, str]] = {}
        for plan in plans:
            for shard in plan.version.shards():
                for group, ref in shard.chunks.items():
                    tasks.setdefault((ref.chunk, self._fate(plan, shard.index)), (plan, shard, group))

        def task(found: tuple[Leaving, Shard, str]) -> tuple[int, Entry | None]:
            plan, shard, group = found
            return shard.chunks[group].size, self._rewritten(writer, plan, shard, group)

        made: dict[tuple[str, bytes], Entry | None] = {}
        for place, (size, new) in zip(tasks, self._parts.engine.map(task, tasks.values()), strict=True):
            made[place] = new
            job.beat()
            self._done += size
            self._progress(min(self._done, self._total), self._total)
        for plan in plans:
            number = plan.version.manifest.version
            for ref in plan.version.refs():
                self._new[number, ref.chunk] = made[ref.chunk, self._fate(plan, ref.shard)]

    @staticmethod
    def _fate(plan: Leaving, shard: int) -> bytes:
        """Which rows of a shard stay, as bytes that are equal for equal sets of rows."""
        keep = plan.keep.get(shard)
        return b"" if keep is None else repr(pc.indices_nonzero(pc.invert(keep)).to_pylist()).encode()

    def _rewritten(self, writer: Writer, plan: Leaving, shard: Shard, group: str) -> Entry | None:
        ref, key, keep = shard.chunks[group], plan.version.keys[group], plan.keep.get(shard.index)
        if keep is None:
            return Entry(writer.copy(source_of(self._parts, ref, key)), {})
        manifest = plan.version.manifest
        table = open_chunk(self._parts, self._parts.keyring, key, ref, group_shape(manifest, group))
        table = chosen(table, keep)
        if not table.num_rows:
            return None
        members = [column for column in manifest.columns if column.group == group]
        return writer.chunk(table, members, shard.index, shard.assigned).entry

    def _owners_manifest(self, plan: Leaving) -> Manifest:
        manifest = plan.version.manifest
        parts = _following(plan.version, plan, lambda ref: self._new[manifest.version, ref.chunk])
        erased = (Erasure(timestamp(self._parts.clock()), plan.erased),) if plan.erased else ()
        return replace(manifest, parts=parts, erased=manifest.erased + erased)

    def _stage_vendor(self, job: Job, place: CompartmentRow, plans: list[Leaving], publisher: Signer) -> _Staged | None:
        """A vendor's compartment without the rows; None where it holds nothing."""
        parts, vendor = self._parts, self._people[place.holder]
        with naming(parts, vendor):
            head, versions = live_versions(parts, place)
            if head is None or not head.live_groups:
                return None
            writer = Writer(parts, job, place, vendor.kms_key, head, rotate=head.live_groups)
            for group in head.live_groups:
                writer.key(group)
            by_number = {plan.version.manifest.version: plan for plan in plans}
            manifests = []
            for version in versions:
                manifest = self._vendors_manifest(writer, version, by_number.get(version.manifest.version))
                if manifest is None:
                    # It stems from a version that the owner has no more: what is in it cannot be told any longer.
                    writer.withdraw(version.manifest.version)
                else:
                    writer.manifest(manifest, publisher)
                    manifests.append(manifest)
            if all(version.manifest.version not in by_number for version in versions):
                writer.retire(head.live_groups - {MANIFEST_GROUP})
            return _Staged(writer, manifests)

    def _vendors_manifest(self, writer: Writer, version: OpenVersion, plan: Leaving | None) -> Manifest | None:
        if plan is None:
            return None
        cuts = _cuts(version.manifest, plan.version.manifest)
        if cuts is None:
            return None
        owners = {
            (cut.group, cut.content(ref.content)): ref
            for cut in cuts.values()
            for ref in plan.version.refs((cut.source,))
        }
        number = version.manifest.version
        if any((ref.group, ref.content) not in owners for ref in version.refs()):
            return None
        shapes = {cut.source: group_shape(plan.version.manifest, cut.source) for cut in cuts.values()}

        def task(ref: ChunkRef) -> tuple[str, Entry | None]:
            old, cut = owners[ref.group, ref.content], cuts[ref.group]
            if old.shard not in plan.keep:
                copied = writer.copy(source_of(self._parts, ref, version.keys[ref.group]))
                return ref.chunk, Entry(copied, {})
            new = self._new[number, old.chunk]
            if new is None:
                return ref.chunk, None
            made = writer.cut(self._source_of_new(new.ref), cut, shapes[cut.source])
            return ref.chunk, Entry(made, new.statistics)

        done = dict(self._parts.engine.map(task, version.refs()))
        return replace(version.manifest, parts=_following(version, plan, lambda ref: done[ref.chunk]))


def _cuts(vendors: Manifest, owners: Manifest) -> dict[str, Cut] | None:
    """How a vendor's column groups were cut from the owner's, by the vendor's; None where one was not."""
    sources = {column.id: column.group for column in owners.columns}
    found: dict[str, Cut] = {}
    for group in vendors.groups:
        members = [column for column, _ in vendors.members(group)]
        fields = tuple(sorted((each.id, each.fields) for each in members if each.fields is not None))
        cut = Cut(sources.get(members[0].id, ""), fields)
        if cut.group != group:
            return None
        found[group] = cut
    return found


def _following(version: OpenVersion, plan: Leaving, new: Callable[[ChunkRef], Entry | None]) -> tuple[Part, ...]:
    """A version's parts with the new chunks. One that has lost rows is another part; one that lost all is gone."""
    found = []
    for part in version.manifest.parts:
        listing = version.load(part)
        if not any(shard in plan.keep for shard in listing.shards.to_pylist()):
            found.append(part.holding(listing.moved([entry.ref for ref in listing.refs() if (entry := new(ref))])))
            continue
        entries = [
            Entry(replace(entry.ref, shard=old.ref.shard), entry.statistics or old.statistics)
            for old in listing.entries()
            if (entry := new(old.ref)) is not None
        ]
        if entries:
            found.append(part.holding(Listing.of(part.group, entries), new_id()))
    return tuple(found)
