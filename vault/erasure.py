"""Erasing rows: out of every version, every compartment and every statistic, under fresh chunks and a next epoch.

Versions keep their numbers, and the owner's manifests say when how many rows were erased from them. Shards that hold
such rows are decoded, filtered and encoded anew; all the others are only encrypted anew, so that the old keys open
nothing live, and gc can forget them. Vendors' compartments follow from the owner's in the same transaction. May be
killed and run again: before that transaction nothing has changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow
from vault.compact import chosen
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, InvalidInput, NotFound
from vault.filters import BoundFilter, bind, parse
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
from vault.model import MANIFEST_GROUP, Column, Cut
from vault.trust import CompartmentHead, Signer
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Dataset, Holder, dataset_named, holders
from vault.workings.parts import OwnerParts
from vault.workings.putting import Source, source_of
from vault.workings.reading import group_shape, open_chunk
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


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which rows: those whose key is among these values; and of a version without keys those that a predicate finds."""

    values: pa.Array | None = None
    where: str | None = None


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


@dataclass(slots=True)
class _Plan:
    """One version of the owner's: which rows of each shard stay; shards that lose none are not listed."""

    version: OpenVersion
    keep: dict[int, pa.ChunkedArray] = field(default_factory=dict)
    erased: int = 0


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
        self._names = _key_names(dataset, versions)
        # By version and old chunk: the owner's new chunk, or None where no row of it is left. One that lost no row is
        # without statistics here: it has those that it had.
        self._new: dict[tuple[int, str], Entry | None] = {}
        self._done = 0
        self._total = 0

    def run(self, keys: Sequence[object] | None, where: str | None) -> Erased:
        """Find the rows, stage, commit."""
        choice, unknown = self._choice(keys, where)
        plans = [self._plan(version, choice) for version in self._versions]
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

    # Which rows

    def _choice(self, keys: Sequence[object] | None, where: str | None) -> tuple[_Choice, int]:
        newest = self._versions[-1].manifest
        kind = newest.schema.field(self._dataset.key).type if self._dataset.key is not None else None
        if keys is not None:
            values = _values(keys, kind)
            found = self._keys_among(values)
            return _Choice(found), len(pc.unique(values)) - len(found)
        assert where is not None
        parse(where)
        fitting = [version for version in self._versions if self._fits(where, version)]
        for version in self._versions:
            if version not in fitting and (kind is None or not fitting):
                self._condition(where, version)  # says which column is wrong
        pieces = [piece for version in fitting for piece in self._matching_keys(version, where, kind)]
        return _Choice(pc.unique(pa.chunked_array(pieces)) if pieces else None, where), 0

    def _condition(self, where: str, version: OpenVersion) -> BoundFilter:
        """The predicate over a version, where a column may have another name than by now; raises InvalidInput."""
        ids = {column.name: column.id for column in self._versions[-1].manifest.columns}
        names = {column.id: column.name for column in version.manifest.columns}
        condition = parse(where)
        then = {name: names.get(ids.get(name, ""), name) for name in condition.columns()}
        return bind(condition.rename(then), version.manifest.schema)

    def _fits(self, where: str, version: OpenVersion) -> bool:
        try:
            self._condition(where, version)
        except InvalidInput:
            return False
        return True

    def _keys_among(self, values: pa.Array) -> pa.Array:
        """Of these keys those that some version has; raises InvalidInput for a version that has none to look at."""
        known = pa.array([False] * len(values), pa.bool_())
        for version in self._versions:
            name = self._names[version.manifest.version]
            if name is None:
                raise InvalidInput(
                    f"--keys: version {version.manifest.version} has no column of row keys, so that nobody can tell "
                    "which of its rows are meant: expire it, or erase with --where"
                )
            for shard in version.shards():
                column = self._columns(version, shard, [name]).column(0)
                known = pc.or_(known, _among(values, pc.unique(column)))
        return values.filter(known)

    def _matching_keys(self, version: OpenVersion, where: str, kind: pa.DataType | None) -> Iterable[pa.Array]:
        condition, name = self._condition(where, version), self._names[version.manifest.version]
        if name is None or kind is None:
            return
        names = sorted({*condition.filter.columns(), name})
        for shard in version.shards():
            table = self._columns(version, shard, names)
            found = table.column(name).filter(condition.true_of(table))
            try:
                yield from found.cast(kind).chunks
            except pa.ArrowInvalid as error:
                raise InvalidInput(
                    f"--where: it finds rows of version {version.manifest.version}, whose row keys are of another "
                    "type: expire that version, or erase with --keys"
                ) from error

    def _columns(self, version: OpenVersion, shard: Shard, names: Sequence[str]) -> pa.Table:
        found: dict[str, pa.ChunkedArray] = {}
        for group in sorted({_column(version, name).group for name in names}):
            shape = group_shape(version.manifest, group)
            key = version.keys[group]
            table = open_chunk(self._parts, self._parts.keyring, key, shard.chunks[group], shape)
            found |= {name: table.column(name) for name in table.column_names}
        return pa.table({name: found[name] for name in names})

    def _plan(self, version: OpenVersion, choice: _Choice) -> _Plan:
        plan = _Plan(version)
        for shard in version.shards():
            keep = self._keep(version, shard, choice)
            gone = shard.rows - (pc.sum(keep).as_py() or 0) if keep is not None else 0
            if keep is not None and gone:
                plan.keep[shard.index] = keep
                plan.erased += gone
        return plan

    def _keep(self, version: OpenVersion, shard: Shard, choice: _Choice) -> pa.ChunkedArray | None:
        """True for each row that stays; None where all do."""
        name = self._names[version.manifest.version]
        if name is not None:
            if choice.values is None:
                return None
            return pc.invert(_among(self._columns(version, shard, [name]).column(0), choice.values))
        if choice.where is None or not self._fits(choice.where, version):
            return None
        condition = self._condition(choice.where, version)
        return pc.invert(condition.true_of(self._columns(version, shard, sorted(condition.filter.columns()))))

    # Staging

    def _source_of_new(self, ref: ChunkRef) -> Source:
        """One of the owner's new chunks, whose key the catalog does not know yet."""
        key, plaintext = self._writer.key(ref.group)
        return Source(ref, self._parts.store.open(ref.object, ref.size), key, plaintext)

    def _stage_and_commit(self, job: Job, plans: list[_Plan]) -> tuple[list[HeadRow], tuple[str, ...]]:
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

    def _write_owners(self, job: Job, writer: Writer, plans: list[_Plan]) -> None:
        """Every chunk of the owner's under the next epoch; one that versions share, and lose the same rows of, once."""
        tasks: dict[tuple[str, bytes], tuple[_Plan, Shard, str]] = {}
        for plan in plans:
            for shard in plan.version.shards():
                for group, ref in shard.chunks.items():
                    tasks.setdefault((ref.chunk, self._fate(plan, shard.index)), (plan, shard, group))

        def task(found: tuple[_Plan, Shard, str]) -> tuple[int, Entry | None]:
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
    def _fate(plan: _Plan, shard: int) -> bytes:
        """Which rows of a shard stay, as bytes that are equal for equal sets of rows."""
        keep = plan.keep.get(shard)
        return b"" if keep is None else repr(pc.indices_nonzero(pc.invert(keep)).to_pylist()).encode()

    def _rewritten(self, writer: Writer, plan: _Plan, shard: Shard, group: str) -> Entry | None:
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

    def _owners_manifest(self, plan: _Plan) -> Manifest:
        manifest = plan.version.manifest
        parts = _following(plan.version, plan, lambda ref: self._new[manifest.version, ref.chunk])
        erased = (Erasure(timestamp(self._parts.clock()), plan.erased),) if plan.erased else ()
        return replace(manifest, parts=parts, erased=manifest.erased + erased)

    def _stage_vendor(self, job: Job, place: CompartmentRow, plans: list[_Plan], publisher: Signer) -> _Staged | None:
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

    def _vendors_manifest(self, writer: Writer, version: OpenVersion, plan: _Plan | None) -> Manifest | None:
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


def _following(version: OpenVersion, plan: _Plan, new: Callable[[ChunkRef], Entry | None]) -> tuple[Part, ...]:
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


def _column(version: OpenVersion, name: str) -> Column:
    column = version.manifest.column(name)
    if column is None:
        raise NotFound(f"there is no column {name!r}")
    return column


def _key_names(dataset: Dataset, versions: Sequence[OpenVersion]) -> dict[int, str | None]:
    """What the column that identifies rows is called in each version, by its number; None where it has none.

    A column that was renamed has its id still, and one of another type its name: so it is followed from the newest
    version back.
    """
    ids: set[str] = set()
    names = {dataset.key}
    found: dict[int, str | None] = {}
    for version in reversed(versions):
        columns = version.manifest.columns
        column = next((each for each in columns if each.id in ids), None)
        column = column or next((each for each in columns if each.name in names), None)
        found[version.manifest.version] = column.name if column is not None else None
        if column is not None:
            ids.add(column.id)
            names.add(column.name)
        elif version is versions[-1] and dataset.key is not None:
            raise Conflict("the dataset was changed in the meantime")  # its key was renamed between two looks at it
    return found


def _among(column: pa.ChunkedArray | pa.Array, values: pa.Array) -> pa.ChunkedArray | pa.Array:
    """Which elements are among some values; as texts, where their types have nothing else in common."""
    if column.type != values.type:
        try:
            column = column.cast(values.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            column, values = column.cast(pa.large_string()), values.cast(pa.large_string())
    return pc.is_in(column, value_set=values)


def _values(keys: Sequence[object], kind: pa.DataType) -> pa.Array:
    """Keys as the key column's type; raises InvalidInput with the place of one that cannot be."""
    whole = pa.types.is_integer(kind)
    values: list[object] = []
    for number, key in enumerate(keys, 1):
        if whole and isinstance(key, str):
            try:
                values.append(int(key.strip()))
                continue
            except ValueError as error:
                raise InvalidInput(f"--keys: the key in line {number} is not a whole number") from error
        if isinstance(key, bool) or not isinstance(key, int if whole else str):
            raise InvalidInput(f"--keys: the key in line {number} is not {'a whole number' if whole else 'text'}")
        values.append(key)
    if not values:
        raise InvalidInput("--keys: there is no key")
    try:
        return pc.unique(pa.array(values, kind))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise InvalidInput(f"--keys: a key is not of the column's type, {kind}") from error
