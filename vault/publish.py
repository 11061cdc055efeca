"""Publishing: a stream of record batches becomes an immutable version.

Rows are encoded once, into the owner's compartment, and each chunk is copied from memory into the
compartments of the vendors whose live grants need it. Objects come first, then the manifests, then one
catalog transaction; until that commits nobody can see anything of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import pyarrow as pa

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.chunks import EncodeOptions, unsupported
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, InvalidInput, NotFound
from vault.manifest import Entry, Gathering, Layout, Listing, Manifest, Part, Shard, arrange, layout_of
from vault.model import DEFAULT_SHARD_ROWS, OWNER, Column, check_column_names, check_name
from vault.sources import Run, open_source, rows_of
from vault.sources import Source as RowSource
from vault.trust import Signer
from vault.workings.carrying import Carried, Replacement, carried_columns, renamed_columns
from vault.workings.columns import plan_columns
from vault.workings.cutting import Chunk, Cutter, RowShape
from vault.workings.errands import RowsOrder, read_encoded, send_rows
from vault.workings.fanout import Needs, VendorCopy, begin_copy, fill, needs_of
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Dataset, Holder, find_dataset, holder_by_id, holders, insert_dataset, update_dataset
from vault.workings.parcels import Parcels, outcome
from vault.workings.parts import OwnerParts
from vault.workings.reading import read_column
from vault.workings.rows import RowKeys
from vault.workings.staging import StagedRows
from vault.workings.versions import OpenVersion, open_version
from vault.workings.writing import Writer

__all__ = [
    "Joined",
    "OpenPublication",
    "PublishOptions",
    "Published",
    "begin_publication",
    "join_columns",
    "publish",
    "rename",
]

_COMMIT_TRIES = 5
_Committed = Callable[[Transaction, int, tuple[Column, ...]], None]


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


@dataclass(frozen=True, slots=True)
class Joined:
    """Columns to be joined to the newest version by its row key; rows that they say nothing of are null there.

    Of those in ``fill``, which are there already, only nulls get values. ``committed`` is called in the transaction
    that makes the version, with its number and all its columns: what it raises undoes both.
    """

    table: pa.Table
    fill: frozenset[str]
    committed: _Committed


def join_columns(parts: OwnerParts, name: str, version: int, joined: Joined) -> Published:
    """A version with the rows of the newest one, which has to be ``version``, and columns joined to it.

    Raises InvalidInput, Conflict also where there is a newer version by now, and what `publish` does; then nothing was
    published.
    """
    options = PublishOptions(columns_only=True)
    plan = _plan(parts, name, options)
    present, key = plan.previous, plan.dataset.key
    if present.manifest.version != version or key is None:
        raise Conflict("the dataset was changed by somebody else in the meantime; try again")
    replacement = Replacement(parts, present, key, joined.table, joined.fill)
    _check_replaceable(plan, replacement)
    schema = _with_columns(present.manifest.schema, replacement.schema)
    check_column_names(schema.names, "the version")
    unsupported(schema)
    columns = carried_columns(present.manifest, schema)
    carried = Carried(present, columns, schema, replacement)
    return _run(parts, plan, columns, schema, options, carried, None, lambda _done, _total: None, joined.committed)


def _run(
    parts: OwnerParts,
    plan: "_Plan",
    columns: tuple[Column, ...],
    schema: pa.Schema,
    options: PublishOptions,
    carried: Carried | None,
    rows: RowSource | None,
    progress: Callable[[int, int | None], None],
    committed: _Committed | None = None,
) -> Published:
    job = begin_job(parts.catalog, "publish", parts.clock)
    try:
        publication = _Publication(parts, plan, job, columns, schema, options, carried, committed)
        return publication.run(rows, progress)
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


@final
class OpenPublication:
    """A publish whose rows others bring, in any number of runs: `begin_publication` opens it, and `commit` or `abandon`
    ends it. ``job`` and ``step`` are what those need to know (`vault.workings.errands.Errands.rows`).
    """

    def __init__(self, parts: OwnerParts, publication: "_Publication", job: Job) -> None:
        self._parts = parts
        self._publication = publication
        self._job = job
        self._staged = publication.staged()
        self.job = job.id
        self.step = job.write_down(parts.sealer(), publication.order().document())

    def beat(self) -> None:
        """Say that it lives; called now and then, or gc ends it. Raises Conflict once that has happened."""
        self._job.beat()

    def take(self, number: int, reply: bytes) -> None:
        """What became of the next run, as it was sealed under its number; raises IntegrityError and InvalidInput."""
        document = outcome(Parcels(self._parts, self.job, self.step).open_result(number, reply))
        self._staged.take(read_encoded(document))

    def commit(self) -> Published:
        """Make it one version. Raises what a publish does, and then nothing was published."""
        try:
            return self._publication.finish(self._staged.end())
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave nothing of it but garbage."""
        self._job.abandon()


def begin_publication(parts: OwnerParts, name: str, schema: pa.Schema, options: PublishOptions) -> OpenPublication:
    """Begin a publish of rows of a schema that others will bring. Raises what `publish` does of names and columns."""
    if options.columns_only:
        raise InvalidInput("--columns-only: rows that come in runs cannot be put beside those that are there")
    check_name(name, "dataset")
    plan = _plan(parts, name, options)
    before = plan.previous.manifest.schema if options.append else None
    with open_source(schema.empty_table(), schema=before, evolve=options.evolve) as rows:
        columns = _columns(plan, rows.schema, options)
        carried = Carried(plan.previous, columns, rows.schema) if options.append else None
        job = begin_job(parts.catalog, "publish", parts.clock)
        try:
            publication = _Publication(parts, plan, job, columns, rows.schema, options, carried)
            publication.begin()
            return OpenPublication(parts, publication, job)
        except BaseException:
            job.abandon()
            raise


class _Publication:
    """One publish: what is staged so far, and the loop that ends in a commit."""

    def __init__(
        self,
        parts: OwnerParts,
        plan: _Plan,
        job: Job,
        columns: tuple[Column, ...],
        schema: pa.Schema,
        options: PublishOptions,
        carried: Carried | None,
        committed: _Committed | None = None,
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._job = job
        self._sealer = parts.sealer()
        self._columns = columns
        self._options = options
        self._committed = committed
        present = plan.present
        self._schema = schema
        head = present.head if present else None
        self._writer = Writer(parts, job, plan.compartment, plan.owner.kms_key, head)
        self._carried = carried
        self._kept: list[Part] = carried.kept if carried is not None else []
        self._fresh = Gathering()
        self._version = (head.newest or 0) + 1 if head else 1
        self._copies: dict[str, VendorCopy] = {}
        assign_by = plan.dataset.assign_by
        names = {holder.name: holder.id for holder in plan.vendors.values()} | {OWNER: parts.owner}
        self._shape = RowShape(
            columns, schema, options.shard_rows, options.encoding, assign_by, names if assign_by is not None else {}
        )
        self._shapes = self._shape.groups
        # Whatever the copies are when a chunk is written: they are begun anew when grants change.
        self._cutter = Cutter(self._writer, self._shape, lambda: list(self._copies.values()))

    def run(self, rows: RowSource | None, progress: Callable[[int, int | None], None]) -> Published:
        self.begin()
        added = self._write_shards(rows, progress) if rows is not None else 0
        return self.finish(added)

    def begin(self) -> None:
        """What of it there is before any row of the source."""
        self._begin_copies()
        self._carry_over()

    def finish(self, added: int) -> Published:
        """Make all that was written one version."""
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

        Memory is bounded by about two shards: no third one is cut before the first is in the store. Where there are
        workers, and the source can be divided, they read and encode it.
        """
        runs = self._runs(rows)
        if runs is not None:
            return self._write_runs(runs, progress)
        keys = self._row_keys()
        tasks = self._cutter.chunks(rows.batches(), lambda table: self._seen(keys, table), self._next_shard)
        ahead = len(self._shapes) + self._parts.engine.workers
        added, first = 0, next(iter(self._shapes))
        for entry in self._parts.engine.map(self._cutter.put, tasks, ahead=ahead):
            self._fresh.add(entry)
            added += entry.ref.rows if entry.ref.group == first else 0
            self._job.beat()
            progress(rows.position(), rows.total_bytes)
        keys.check()
        return added

    def _runs(self, rows: RowSource) -> list[Run] | None:
        """The runs that workers are to read; None where this process reads the source."""
        if self._parts.workers is None:
            return None
        runs = rows.divided(self._options.shard_rows)
        # Whose row it is that names no vendor can be said of rows that are counted only.
        if runs is not None and self._shape.assign_by is not None and rows_of(runs) is None:
            return None
        return runs

    def _write_runs(self, runs: list[Run], progress: Callable[[int, int | None], None]) -> int:
        staged = self.staged()
        done, total = 0, sum(run.bytes for run in runs)
        for run, encoded in send_rows(self._parts, self._job, self.order(), runs, rows_of(runs)):
            staged.take(encoded)
            done += run.bytes
            progress(done, total)
        return staged.end()

    def staged(self) -> StagedRows:
        """Where rows go that others encode."""
        return StagedRows(self._row_keys(), self._fresh, self._copies, self._next_shard)

    def order(self) -> RowsOrder:
        """What those are told who encode rows elsewhere: every key that they need is made by now."""
        keys = {group: self._writer.key(group)[0] for group in self._shapes}
        vendors = {vendor: (copy.cuts, copy.keys()) for vendor, copy in self._copies.items()}
        return RowsOrder(self._shape, self._plan.dataset.key, keys, vendors)

    @property
    def _next_shard(self) -> int:
        """The number of the first shard that is added."""
        earlier = self._carried.version.manifest.parts if self._carried is not None else ()
        return max((part.last for part in earlier), default=-1) + 1

    def _seen(self, keys: RowKeys, table: pa.Table) -> None:
        if keys.column is not None:
            keys.add(table.column(keys.column))

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
                return self._cutter.put(Chunk(rows, columns, shard.index, shard.assigned, self._options.encoding))

            for entry in self._parts.engine.map(task, tables):
                self._fresh.add(entry)
            self._job.beat()

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
            key=next((column.id for column in self._columns if column.name == self._plan.dataset.key), None),
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
        transaction.delete_steps(self._job.id)
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
            epochs=self._writer.epochs(sorted(self._shapes)),
            started=self._job.began,
        )
        for copy in self._copies.values():
            parts.journal.record_in(transaction, Kind.FANNED_OUT, **copy.told(plan.dataset.name, layout, self._job))
        if self._committed is not None:
            self._committed(transaction, self._version, self._columns)
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
