"""Publishing: a stream of record batches becomes an immutable version.

Rows are encoded once, into the owner's compartment, and each chunk is copied from memory into the
compartments of the vendors whose live grants need it. Objects come first, then the manifests, then one
catalog transaction; until that commits nobody can see anything of it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pyarrow as pa

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.chunks import EncodeOptions, unsupported
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, InvalidInput, NotFound
from vault.manifest import Entry, Gathering, Layout, Listing, Manifest, Part, Shard, arrange, layout_of
from vault.model import DEFAULT_SHARD_ROWS, OWNER, Column, check_column_names, check_name
from vault.sources import Source as RowSource
from vault.sources import open_source
from vault.trust import Signer
from vault.workings.carrying import Carried, Replacement, carried_columns, renamed_columns
from vault.workings.fanout import Needs, VendorCopy, begin_copy, fill, needs_of
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Dataset, Holder, find_dataset, holder_by_id, holders, insert_dataset, update_dataset
from vault.workings.parts import OwnerParts
from vault.workings.reading import GroupShape, read_column
from vault.workings.rows import RowKeys, cut_shards
from vault.workings.versions import OpenVersion, open_version
from vault.workings.writing import Writer

__all__ = ["PublishOptions", "Published", "publish", "rename"]

_COMMIT_TRIES = 5


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How a version is cut. ``groups`` maps a group's name to the columns that share a key and a file.

    ``key`` and ``assign_by`` stay what they were for the dataset where they are None; the empty text ends them.
    ``evolve`` lets an append bring new columns and wider types. ``columns_only`` gives the rows of the newest version
    new or other columns, and changes nothing else.
    """

    key: str | None = None
    assign_by: str | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shard_rows: int = DEFAULT_SHARD_ROWS
    append: bool = False
    evolve: bool = False
    columns_only: bool = False
    compression: str = "zstd"
    compression_level: int | None = None

    encoding: EncodeOptions = field(init=False)

    def __post_init__(self) -> None:
        # What is wrong with the codec is told before anything is read.
        object.__setattr__(self, "encoding", EncodeOptions(self.compression, self.compression_level))


@dataclass(frozen=True, slots=True)
class Published:
    """A version that is live: its number, the rows it holds, those added, and whom it was fanned out to."""

    dataset: str
    version: int
    rows: int
    added: int
    columns: tuple[str, ...]
    vendors: tuple[str, ...]


def publish(
    parts: OwnerParts,
    name: str,
    source: object,
    options: PublishOptions,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Published:
    """Publish a new version of a dataset, which is made where there is none of that name.

    ``progress`` is called with (bytes or rows read, total if known). Raises InvalidInput, Conflict,
    Unavailable or KmsError; then nothing was published.
    """
    check_name(name, "dataset")
    if options.evolve and not options.append:
        raise InvalidInput(
            "--evolve: it goes with --append; without that a version has just the columns that it is given"
        )
    if options.columns_only:
        return _publish_columns(parts, name, source, options, progress)
    plan = _plan(parts, name, options)
    schema = plan.previous.manifest.schema if options.append else None
    with open_source(source, schema=schema, evolve=options.evolve) as rows:
        columns = _columns(plan, rows.schema, options)
        carried = Carried(plan.previous, columns, rows.schema) if options.append else None
        return _run(parts, plan, columns, rows.schema, options, carried, rows, progress)


def _run(
    parts: OwnerParts,
    plan: "_Plan",
    columns: tuple[Column, ...],
    schema: pa.Schema,
    options: PublishOptions,
    carried: Carried | None,
    rows: RowSource | None,
    progress: Callable[[int, int | None], None],
) -> Published:
    job = begin_job(parts.catalog, "publish", parts.clock)
    try:
        return _Publication(parts, plan, job, columns, schema, options, carried).run(rows, progress)
    except BaseException:
        job.abandon()
        raise


def _publish_columns(
    parts: OwnerParts,
    name: str,
    source: object,
    options: PublishOptions,
    progress: Callable[[int, int | None], None],
) -> Published:
    """A version with the rows of the newest one, and the source's columns added or put in the place of theirs."""
    allowed = PublishOptions(
        shard_rows=options.shard_rows,
        columns_only=True,
        compression=options.compression,
        compression_level=options.compression_level,
    )
    if options != allowed:
        raise InvalidInput("--columns-only: the rows stay as they are, so no other option goes with it")
    plan = _plan(parts, name, options)
    if plan.present is None:
        raise InvalidInput("--columns-only: the dataset has no version whose rows could get columns")
    with open_source(source) as rows:
        check_column_names(rows.schema.names, "the source")
        table = pa.Table.from_batches(list(rows.batches()), rows.schema)
    key = plan.dataset.key
    if key is not None and key not in table.column_names:
        raise InvalidInput(f"--columns-only: the source lacks the column {key!r}, which identifies rows")
    if key is None and plan.dataset.assign_by is not None:
        raise InvalidInput("--columns-only: rows that are assigned to vendors have no order; publish with --key first")
    replacement = Replacement(parts, plan.present, key, table)
    _check_replaceable(plan, replacement)
    schema = _with_columns(plan.present.manifest.schema, replacement.schema)
    check_column_names(schema.names, "the version")
    unsupported(schema)
    columns = carried_columns(plan.present.manifest, schema)
    carried = Carried(plan.present, columns, schema, replacement)
    return _run(parts, plan, columns, schema, options, carried, None, progress)


def _check_replaceable(plan: "_Plan", replacement: Replacement) -> None:
    if not replacement.names:
        raise InvalidInput("--columns-only: the source has no column beside the row key")
    if plan.dataset.assign_by in replacement.names:
        raise InvalidInput(f"--columns-only: the column {plan.dataset.assign_by!r} says whose rows they are")


def _with_columns(schema: pa.Schema, fresh: pa.Schema) -> pa.Schema:
    fields = [fresh.field(each.name) if each.name in fresh.names else each for each in schema]
    return pa.schema([*fields, *(each for each in fresh if each.name not in schema.names)], metadata=schema.metadata)


def rename(parts: OwnerParts, name: str, old: str, new: str) -> Published:
    """A version in which a column has another name; its id stays, so grants, chunks and filters hold on.

    Raises NotFound, InvalidInput and Conflict.
    """
    plan = _plan(parts, name, PublishOptions())
    if plan.present is None:
        raise NotFound(f"there is no dataset named '{name[:80]}'")
    if plan.present.manifest.column(old) is None:
        raise InvalidInput(f"the dataset has no column {old!r}")
    columns, schema = renamed_columns(plan.present.manifest, old, new, parts.clock())
    check_column_names(schema.names, "the version")
    key, assign_by = (new if each == old else each for each in (plan.dataset.key, plan.dataset.assign_by))
    plan = replace(plan, dataset=replace(plan.dataset, key=key, assign_by=assign_by))
    carried = Carried(plan.previous, columns, schema)
    return _run(parts, plan, columns, schema, PublishOptions(), carried, None, lambda _done, _total: None)


@dataclass(frozen=True, slots=True)
class _Plan:
    dataset: Dataset
    is_new: bool
    compartment: CompartmentRow
    owner: Holder
    vendors: Mapping[str, Holder]
    present: OpenVersion | None

    @property
    def previous(self) -> OpenVersion:
        if self.present is None:
            raise InvalidInput("--append: the dataset has no version to append to")
        return self.present


def _plan(parts: OwnerParts, name: str, options: PublishOptions) -> _Plan:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        found = find_dataset(transaction, sealer, name)
        row = transaction.compartment(parts.owner, found.id) if found else None
        people = {holder.id: holder for holder in holders(transaction, sealer)}
    present = open_version(parts, parts.keyring, row) if row else None
    dataset = _settings(found, options, name)
    compartment = row or CompartmentRow(new_id(), parts.owner, dataset.id)
    owner = people.pop(parts.owner)
    return _Plan(dataset, found is None, compartment, owner, people, present)


def _settings(found: Dataset | None, options: PublishOptions, name: str) -> Dataset:
    if not options.append or found is None:
        # A forgotten option must not give every row to every vendor: what was said once holds until it is ended.
        key = options.key if options.key is not None else (found.key if found else None)
        assign_by = options.assign_by if options.assign_by is not None else (found.assign_by if found else None)
        return Dataset(found.id if found else new_id(), name, key or None, assign_by or None)
    for option, wanted, present in (
        ("--key", options.key, found.key),
        ("--assign-by", options.assign_by, found.assign_by),
    ):
        if wanted is not None and wanted != present:
            raise InvalidInput(f"{option}: an append keeps what the dataset was published with")
    if options.groups:
        raise InvalidInput("--group: an append keeps the column groups that the dataset was published with")
    return found


def _columns(plan: _Plan, schema: pa.Schema, options: PublishOptions) -> tuple[Column, ...]:
    if options.append:
        check_column_names(schema.names, "the source")
        unsupported(schema)
        return carried_columns(plan.previous.manifest, schema)
    if not schema.names:
        raise InvalidInput("the source has no columns")
    check_column_names(schema.names, "the source")
    unsupported(schema)
    if options.shard_rows < 1:
        raise InvalidInput("--shard-rows: give at least 1")
    for option, name in (("--key", plan.dataset.key), ("--assign-by", plan.dataset.assign_by)):
        if name is not None and name not in schema.names:
            raise InvalidInput(
                f"{option}: the source has no column {name!r}, which the dataset is published by; "
                f"--no-{option[2:]} ends that"
            )
    return plan_columns(schema, options.groups, plan.present.manifest if plan.present else None)


def plan_columns(
    schema: pa.Schema, groups: Mapping[str, Sequence[str]], previous: Manifest | None
) -> tuple[Column, ...]:
    """Give every column its id and group.

    A column keeps its id and group from the version before as long as its name, its type and the company
    in its group stay the same. Anything else gets fresh ids, which no grant names: a grant covers what its
    signer saw, never what took its place or moved in with it.
    """
    members = _group_members(schema, groups)
    known = _known_groups(previous) if previous else {}
    columns: dict[str, Column] = {}
    for names in members:
        shape = frozenset((name, schema.field(name).type) for name in names)
        kept = known.get(shape)
        group = new_id()
        for name in names:
            columns[name] = kept[name] if kept else Column(new_id(), name, group)
    return tuple(columns[name] for name in schema.names)


def _group_members(schema: pa.Schema, groups: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    taken: set[str] = set()
    members = []
    for label, names in groups.items():
        for name in names:
            if name not in schema.names:
                raise InvalidInput(f"--group {label}: the source has no column {name!r}")
            if name in taken:
                raise InvalidInput(f"--group {label}: the column {name!r} is in a group already")
            taken.add(name)
        if names:
            members.append(tuple(names))
    return members + [(name,) for name in schema.names if name not in taken]


def _known_groups(previous: Manifest) -> dict[frozenset[tuple[str, pa.DataType]], dict[str, Column]]:
    by_group: dict[str, list[Column]] = {}
    for column in previous.columns:
        by_group.setdefault(column.group, []).append(column)
    return {
        frozenset((column.name, previous.schema.field(column.name).type) for column in columns): {
            column.name: column for column in columns
        }
        for columns in by_group.values()
    }


class _Chunk(NamedTuple):
    """What one chunk is written from."""

    table: pa.Table
    columns: list[Column]
    shard: int
    assigned: str | None
    encoding: EncodeOptions


class _Publication:
    """One publish: what is staged so far, and the loop that ends in a commit."""

    # A row group is read as a whole: of wide rows it has fewer.
    _GROUP_BYTES = 64 << 20

    def __init__(
        self,
        parts: OwnerParts,
        plan: _Plan,
        job: Job,
        columns: tuple[Column, ...],
        schema: pa.Schema,
        options: PublishOptions,
        carried: Carried | None,
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._job = job
        self._sealer = parts.sealer()
        self._columns = columns
        self._options = options
        self._encoding = options.encoding
        present = plan.present
        self._schema = schema
        head = present.head if present else None
        self._writer = Writer(parts, job, plan.compartment, plan.owner.kms_key, head)
        self._carried = carried
        self._kept: list[Part] = carried.kept if carried is not None else []
        self._fresh = Gathering()
        self._version = (head.newest or 0) + 1 if head else 1
        self._copies: dict[str, VendorCopy] = {}
        self._by_group: dict[str, list[Column]] = {}
        for column in columns:
            self._by_group.setdefault(column.group, []).append(column)
        self._shapes = {
            group: GroupShape(tuple(members), pa.schema([schema.field(each.name) for each in members]))
            for group, members in self._by_group.items()
        }

    def run(self, rows: RowSource | None, progress: Callable[[int, int | None], None]) -> Published:
        self._begin_copies()
        self._carry_over()
        added = self._write_shards(rows, progress) if rows is not None else 0
        publisher = self._parts.signers.publisher()
        manifest = self._manifest()
        self._writer.manifest(manifest, publisher)
        vendors = self._commit(manifest, publisher)
        self._parts.journal.checkpoint()
        return Published(
            self._plan.dataset.name,
            self._version,
            manifest.rows,
            added,
            tuple(column.name for column in self._columns),
            vendors,
        )

    def _begin_copies(self) -> None:
        if self._plan.is_new:
            return
        needed = self._parts.heads.reading(self._needed)
        for vendor in needed:
            self._copy(vendor, needed[vendor], self._kept)

    def _copy(self, vendor: str, needed: Needs, written: Sequence[Part]) -> None:
        """Begin a vendor's next state from what its compartment holds now, and fill it with what is written so far."""
        with self._parts.catalog.read() as transaction:
            holder = holder_by_id(transaction, self._sealer, vendor)
        copy = begin_copy(self._parts, self._job, holder, self._plan.dataset.id, needed, self._version)
        keys = {group: self._writer.key(group)[0] for group in {part.group for part in written}}
        fill(self._parts, self._job, copy, self._shapes, written, self._load, keys)
        self._copies[vendor] = copy

    def _load(self, part: Part) -> Listing:
        """A part of the owner's: one that is new has its listing, any other is the earlier version's."""
        if part.listing is not None:
            return part.listing
        assert self._plan.present is not None
        return self._plan.present.load(part)

    def _needed(self, transaction: Transaction) -> dict[str, Needs]:
        now = self._parts.clock()
        needed = needs_of(self._parts, transaction, self._sealer, self._plan.dataset.id, now)
        # Also where nothing is left of a grant: its vendor's newest version must not stay an older one. Who has only
        # grants of versions that stay what they are gets nothing new.
        return {vendor: each for vendor, each in needed.items() if each.latest is not None}

    def _write_shards(self, rows: RowSource, progress: Callable[[int, int | None], None]) -> int:
        """Every chunk of the source's rows; the next shard is read while the columns of this one are written.

        Memory is bounded by about two shards: no third one is cut before the first is in the store.
        """
        keys = self._row_keys()
        tasks = self._tasks(rows, keys)
        ahead = len(self._by_group) + self._parts.engine.workers
        added, first = 0, next(iter(self._by_group))
        for entry in self._parts.engine.map(lambda task: self._put(*task), tasks, ahead=ahead):
            self._fresh.add(entry)
            added += entry.ref.rows if entry.ref.group == first else 0
            self._job.beat()
            progress(rows.position(), rows.total_bytes)
        keys.check()
        return added

    def _tasks(self, rows: RowSource, keys: RowKeys) -> Iterator["_Chunk"]:
        earlier = self._carried.version.manifest.parts if self._carried is not None else ()
        shard = max((part.last for part in earlier), default=-1)
        names = {holder.name: holder.id for holder in self._plan.vendors.values()}
        if self._plan.dataset.assign_by is not None:
            names[OWNER] = self._parts.owner
        pieces = cut_shards(rows.batches(), self._schema, self._options.shard_rows, self._plan.dataset.assign_by, names)
        for piece in pieces:
            shard += 1
            if keys.column is not None:
                keys.add(piece.table.column(keys.column))
            encoding = self._encoding_of(piece.table)
            # Each with its own columns only, so that what is written is let go of.
            waiting = deque(
                _Chunk(piece.table.select([each.name for each in columns]), columns, shard, piece.assigned, encoding)
                for columns in self._by_group.values()
            )
            del piece  # or it would be held while the next shard's rows pile up
            while waiting:
                yield waiting.popleft()
            pa.default_memory_pool().release_unused()

    def _encoding_of(self, table: pa.Table) -> EncodeOptions:
        """The same row-group borders for all columns of a shard."""
        size = max(1, table.nbytes // max(1, table.num_rows))
        return replace(
            self._encoding, row_group_rows=max(1, min(self._encoding.row_group_rows, self._GROUP_BYTES // size))
        )

    def _carry_over(self) -> None:
        """Write the earlier shards' part of column groups that the earlier version did not have."""
        carried = self._carried
        if carried is None or not carried.fresh:
            return
        for shard in carried.version.shards():
            tables = ((columns, shard) for columns in carried.fresh.values())

            def task(place: tuple[list[Column], Shard]) -> Entry:
                columns, shard = place
                rows = carried.rows(self._parts, shard, columns)
                return self._put(rows, columns, shard.index, shard.assigned, self._encoding)

            for entry in self._parts.engine.map(task, tables):
                self._fresh.add(entry)
            self._job.beat()

    def _put(
        self, table: pa.Table, columns: list[Column], shard: int, assigned: str | None, encoding: EncodeOptions
    ) -> Entry:
        """One chunk, for the owner and for every vendor who needs it."""
        written = self._writer.chunk(table, columns, shard, assigned, encoding)
        for copy in self._copies.values():
            copy.take(written.source.ref, lambda: written.source, self._shapes[written.source.ref.group])
        return written.entry

    def _row_keys(self) -> RowKeys:
        keys = RowKeys(self._plan.dataset.key)
        present = self._plan.present
        if self._options.append and present is not None and self._plan.dataset.key is not None:
            kind = self._schema.field(self._plan.dataset.key).type
            for column in read_column(self._parts, present, self._plan.dataset.key):
                keys.add(column.cast(kind))
        return keys

    def _manifest(self) -> Manifest:
        return Manifest(
            vault=self._parts.vault,
            compartment=self._plan.compartment.id,
            dataset=self._plan.dataset.id,
            version=self._version,
            created=self._parts.clock(),
            columns=self._columns,
            schema=self._schema,
            parts=arrange(self._kept, self._fresh.listings(), self._load),
        )

    def _commit(self, manifest: Manifest, publisher: Signer) -> tuple[str, ...]:
        self._parts.store.settle(self._job.folder)
        layout = layout_of(manifest, self._load, self._parts.engine.map)
        for _ in range(_COMMIT_TRIES):
            for copy in self._copies.values():
                copy.stage(manifest, self._load, publisher)
            self._parts.store.settle(self._job.folder)
            with self._parts.catalog.write() as transaction:
                needed = self._needed(transaction)
                if needed == {vendor: copy.needs for vendor, copy in self._copies.items()}:
                    heads = self._commit_in(transaction, publisher, manifest, layout)
                    vendors = tuple(sorted(copy.vendor.name for copy in self._copies.values()))
                    break
            self._follow(needed, manifest)
        else:
            raise Conflict("grants on the dataset kept changing while it was published; try again")
        self._parts.heads.announce(heads)
        return vendors

    def _follow(self, needed: dict[str, Needs], manifest: Manifest) -> None:
        """Grants changed while the rows were written: begin the copies anew that are not what is needed."""
        self._copies = {vendor: copy for vendor, copy in self._copies.items() if copy.needs == needed.get(vendor)}
        for vendor in needed.keys() - self._copies.keys():
            self._copy(vendor, needed[vendor], manifest.parts)

    def _commit_in(
        self, transaction: Transaction, publisher: Signer, manifest: Manifest, layout: Layout
    ) -> list[HeadRow]:
        plan, parts = self._plan, self._parts
        self._job.finish(transaction)
        if plan.is_new:
            insert_dataset(transaction, plan.dataset, self._sealer, timestamp(parts.clock()))
            transaction.add_compartment(plan.compartment)
        else:
            update_dataset(transaction, plan.dataset, self._sealer)
        heads = [self._writer.commit(transaction, publisher)]
        heads += [copy.commit(transaction, publisher) for copy in self._copies.values()]
        parts.journal.record_in(
            transaction,
            Kind.PUBLISHED,
            dataset=plan.dataset.name,
            dataset_id=plan.dataset.id,
            version=self._version,
            rows=manifest.rows,
            columns=[column.name for column in self._columns],
            column_ids=[column.id for column in self._columns],
            groups=[column.group for column in self._columns],
            layout=layout,
            base=self._base(),
            renamed=self._renamed(),
            compartment=plan.compartment.id,
            epochs=self._writer.epochs(sorted(self._by_group)),
            started=self._job.began,
        )
        for copy in self._copies.values():
            parts.journal.record_in(transaction, Kind.FANNED_OUT, **copy.told(plan.dataset.name, layout, self._job))
        return heads

    def _renamed(self) -> dict[str, str]:
        """The columns that have another name than in the version before, by that."""
        present = self._plan.present
        before = {column.id: column.name for column in present.manifest.columns} if present is not None else {}
        both = ((before.get(column.id, column.name), column.name) for column in self._columns)
        return {old: new for old, new in both if old != new}

    def _base(self) -> dict[str, int] | None:
        """The version whose rows this one begins with, and the number behind that of its last shard."""
        if self._carried is None:
            return None
        earlier = self._carried.version.manifest
        return {"version": earlier.version, "shards": max((part.last for part in earlier.parts), default=-1) + 1}
