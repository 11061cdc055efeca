"""One publish: the rows that are staged so far, their copies for vendors, and the loop that ends in a commit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.chunks import EncodeOptions
from vault.encoding import timestamp
from vault.errors import Conflict, InvalidInput
from vault.manifest import Entry, Gathering, Layout, Listing, Manifest, Part, Shard, arrange, layout_of
from vault.model import DEFAULT_SHARD_ROWS, OWNER, Column
from vault.sources import Run, rows_of
from vault.sources import Source as RowSource
from vault.trust import Signer
from vault.workings.carrying import Carried
from vault.workings.cutting import Chunk, Cutter, RowShape
from vault.workings.errands import RowsOrder, send_rows
from vault.workings.fanout import Needs, VendorCopy, begin_copy, fill, needs_of
from vault.workings.jobs import Job
from vault.workings.names import Dataset, Holder, holder_by_id, insert_dataset, update_dataset
from vault.workings.parts import OwnerParts
from vault.workings.reading import read_column
from vault.workings.rows import RowKeys
from vault.workings.staging import StagedRows
from vault.workings.versions import OpenVersion
from vault.workings.writing import Writer

__all__ = ["Committed", "Plan", "Publication", "PublishOptions", "Published"]

_COMMIT_TRIES = 5
Committed = Callable[[Transaction, int, tuple[Column, ...]], None]


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is published to, as it was found; ``present`` is the newest version, if there is one."""

    dataset: Dataset
    is_new: bool
    compartment: CompartmentRow
    owner: Holder
    vendors: Mapping[str, Holder]
    present: OpenVersion | None

    @property
    def previous(self) -> OpenVersion:
        """The version that is appended to; raises InvalidInput where there is none."""
        if self.present is None:
            raise InvalidInput("--append: the dataset has no version to append to")
        return self.present


class Publication:
    """One publish: what is staged so far, and the loop that ends in a commit."""

    def __init__(
        self,
        parts: OwnerParts,
        plan: Plan,
        job: Job,
        columns: tuple[Column, ...],
        schema: pa.Schema,
        options: PublishOptions,
        carried: Carried | None,
        committed: Committed | None = None,
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
        """All of it, with the rows of a source if there is one."""
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
