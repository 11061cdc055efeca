"""Errands: parts of a publish, a fan-out or a rekey that other processes do.

A job writes down an *order*, what all of its tasks share: shapes, and the wrapped keys in play. It stands in the
catalog, sealed for the owner, as a step of the job. A task names the step and says what is to be done: which chunks to
copy, or which rows of the source to encode. Whoever does it opens the order and the keys by its own
configuration and under its own KMS identity, puts chunks under fresh ids into the job's folder, and says what it put.
That counts once the driver commits it: a task may be done twice, or half, and what nobody lists is garbage that gc
removes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa

from vault.chunks import EncodeOptions
from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError, InvalidInput, Unavailable
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef, Entry, Listing
from vault.model import Cut
from vault.sources import Run, Stretch, open_source, read_stretches
from vault.workings.cutting import Cutter, RowShape
from vault.workings.documents import (
    cut_document,
    key_document,
    read_cut,
    read_key,
    read_shape,
    shape_document,
)
from vault.workings.jobs import Job, folder_of, read_step
from vault.workings.names import holder_by_id
from vault.workings.parcels import Parcels, failure, outcome
from vault.workings.parts import OwnerParts
from vault.workings.putting import ChunkWriter, Source, copies_of, source_of
from vault.workings.reading import GroupShape
from vault.workings.trouble import naming

__all__ = [
    "CopyOrder",
    "Copying",
    "Encoded",
    "Errands",
    "RowsOrder",
    "read_encoded",
    "send_copies",
    "send_rows",
]

#: A task copies at most so many bytes and chunks.
_COPY_BYTES: Final = 64 << 20
_COPY_CHUNKS: Final = 256
Keys = Mapping[str, WrappedKey]
"""Wrapped keys by column group."""


class _KeyedWriter(ChunkWriter):
    """Puts chunks under keys that others made."""

    def __init__(self, parts: OwnerParts, job: str, keys: Keys) -> None:
        super().__init__(parts, folder_of(job))
        self._keyring = parts.keyring
        self._keys = keys

    def key(self, group: str) -> tuple[WrappedKey, bytes]:
        """The key that the order names; opened for each use, so that it is held no longer than any."""
        if group not in self._keys:
            raise IntegrityError("a task is about a column group that its order does not have")
        return self._keys[group], self._keyring.open(self._keys[group])


@dataclass(frozen=True, slots=True)
class RowsOrder:
    """What tasks that encode rows share: the shape of the rows, the column that is to be unique, and whom it is for.

    ``vendors`` are, by holder id, the cuts that each takes of the owner's groups, and the keys that they go under.
    """

    shape: RowShape
    key: str | None
    keys: Keys
    vendors: Mapping[str, tuple[Sequence[Cut], Keys]]

    def document(self) -> dict[str, Any]:
        """As a step of a job."""
        shape = self.shape
        rows = {
            "shape": shape_document(GroupShape(shape.columns, shape.schema)),
            "shard_rows": shape.shard_rows,
            "encoding": asdict(shape.encoding),
            "assign_by": shape.assign_by,
            "names": dict(shape.names),
            "key": self.key,
            "keys": _keys_document(self.keys),
            "vendors": {
                holder: {"cuts": [cut_document(cut) for cut in cuts], "keys": _keys_document(keys)}
                for holder, (cuts, keys) in self.vendors.items()
            },
        }
        return {"rows": rows}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "RowsOrder":
        """Inverse of `document`."""
        rows = document["rows"]
        whole, encoding = read_shape(rows["shape"]), EncodeOptions(**rows["encoding"])
        shape = RowShape(
            whole.columns, whole.schema, rows["shard_rows"], encoding, rows["assign_by"], dict(rows["names"])
        )
        vendors = {
            holder: ([read_cut(cut) for cut in each["cuts"]], _read_keys(each["keys"]))
            for holder, each in rows["vendors"].items()
        }
        return cls(shape, rows["key"], _read_keys(rows["keys"]), vendors)


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """What tasks that copy chunks share: the keys that they are under and go under, by group, the cuts, and what the
    chunks hold where a cut leaves fields out.
    """

    sources: Keys
    targets: Keys
    cuts: Sequence[Cut]
    shapes: Mapping[str, GroupShape]

    def document(self) -> dict[str, Any]:
        """As a step of a job."""
        partial = {cut.source for cut in self.cuts if cut.fields}
        copy = {
            "sources": _keys_document(self.sources),
            "targets": _keys_document(self.targets),
            "cuts": [cut_document(cut) for cut in self.cuts],
            "shapes": {group: shape_document(shape) for group, shape in self.shapes.items() if group in partial},
        }
        return {"copy": copy}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "CopyOrder":
        """Inverse of `document`."""
        copy = document["copy"]
        shapes = {group: read_shape(each) for group, each in copy["shapes"].items()}
        cuts = [read_cut(each) for each in copy["cuts"]]
        return cls(_read_keys(copy["sources"]), _read_keys(copy["targets"]), cuts, shapes)


class Copying(NamedTuple):
    """A chunk, and the cuts of it that are to be put."""

    ref: ChunkRef
    cuts: Sequence[Cut]


class Encoded(NamedTuple):
    """What became of a run of rows: its chunks, with shards numbered from 0, what each vendor got of them by content,
    and the values of the row key.
    """

    entries: Sequence[Entry]
    copies: Mapping[str, Sequence[tuple[str, ChunkRef]]]
    keys: pa.ChunkedArray | None


def _keys_document(keys: Keys) -> dict[str, Any]:
    return {group: key_document(key) for group, key in keys.items()}


def _read_keys(document: Mapping[str, Any]) -> dict[str, WrappedKey]:
    return {group: read_key(each) for group, each in document.items()}


# The driver's side


def send_copies(
    parts: OwnerParts, job: Job, order: CopyOrder, wanted: Iterable[Copying]
) -> Iterator[tuple[Copying, list[tuple[str, ChunkRef]]]]:
    """Have chunks copied; with each what was put of it, by content. Raises what a worker's errand raised."""
    numbers = {cut: number for number, cut in enumerate(order.cuts)}
    step = job.write_down(parts.sealer(), order.document())
    batches: list[list[Copying]] = []

    def tasks() -> Iterator[Any]:
        for batch in _batches(wanted):
            batches.append(batch)
            yield [[asdict(each.ref), [numbers[cut] for cut in each.cuts]] for each in batch]

    for number, done in enumerate(_send(parts, job, step, tasks())):
        batch, batches[number] = batches[number], []
        for copying, found in zip(batch, done, strict=True):
            yield copying, [(content, ChunkRef(**ref)) for content, ref in found]


def _batches(wanted: Iterable[Copying]) -> Iterator[list[Copying]]:
    batch: list[Copying] = []
    size = 0
    for each in wanted:
        batch.append(each)
        size += each.ref.size
        if size >= _COPY_BYTES or len(batch) >= _COPY_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def send_rows(
    parts: OwnerParts, job: Job, order: RowsOrder, runs: Sequence[Run], before: Sequence[int] | None
) -> Iterator[tuple[Run, Encoded]]:
    """Have runs of a source encoded, in their order; ``before`` are the rows before each, where they are known."""
    step = job.write_down(parts.sealer(), order.document())
    firsts = before if before is not None else [0] * len(runs)
    tasks = (
        {"stretches": [asdict(each) for each in run.stretches], "first_row": first}
        for run, first in zip(runs, firsts, strict=True)
    )
    for run, done in zip(runs, _send(parts, job, step, tasks), strict=True):
        yield run, read_encoded(done)


def _send(parts: OwnerParts, job: Job, step: int, tasks: Iterable[Any]) -> Iterator[Any]:
    assert parts.workers is not None
    parcels = Parcels(parts, job.id, step)
    sealed = (parcels.seal("task", number, task) for number, task in enumerate(tasks))
    for number, reply in enumerate(parts.workers.map(job.id, step, sealed, job.beat)):
        yield outcome(parcels.open_result(number, reply))
        job.beat()


def read_encoded(document: Mapping[str, Any]) -> Encoded:
    """What a result says of a run of rows; raises IntegrityError."""
    entries = [
        entry
        for group, data in document["listings"].items()
        for entry in Listing.from_bytes(group, from_base64(data, "a result")).entries()
    ]
    copies = {
        holder: [(content, ChunkRef(**ref)) for content, ref in found] for holder, found in document["copies"].items()
    }
    keys = document["keys"]
    return Encoded(entries, copies, None if keys is None else _read_column(keys))


# The worker's side


class Errands:
    """What a process does for others' jobs on one vault."""

    #: Orders that are held opened; they hold no key that is not wrapped.
    _MOST = 4

    def __init__(self, parts: OwnerParts) -> None:
        self.parts = parts
        self._orders: dict[tuple[str, int], RowsOrder | CopyOrder] = {}

    def perform(self, job: str, step: int, number: int, parcel: bytes) -> bytes:
        """Do a task and say what became of it. Raises Unavailable, after which it may be tried again, and nothing
        else once the parcel is open.
        """
        parcels = Parcels(self.parts, job, step)
        task = parcels.open("task", number, parcel)
        try:
            result = {"done": self._done(job, step, task)}
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not cross as it is
            result = failure(error)
        return parcels.seal("result", number, result)

    def _done(self, job: str, step: int, task: Any) -> Any:
        order = self._order(job, step)
        if isinstance(order, CopyOrder):
            return _copy(self.parts, job, order, task)
        stretches = [Stretch(**each) for each in task["stretches"]]
        batches = read_stretches(stretches, order.shape.schema)
        return encode_rows(self.parts, job, order, batches, task["first_row"])

    def rows(self, job: str, step: int, number: int, tables: Iterable[pa.Table]) -> bytes:
        """Encode rows that are here already under a job's order; what became of them is sealed as ever.

        Raises InvalidInput for rows of another schema.
        """
        order = self._order(job, step)
        if not isinstance(order, RowsOrder):
            raise IntegrityError("the order of a job is about something else")
        batches = (batch for table in tables for batch in _fitting(table, order.shape.schema))
        done = encode_rows(self.parts, job, order, batches, 0)
        return Parcels(self.parts, job, step).seal("result", number, {"done": done})

    def _order(self, job: str, step: int) -> "RowsOrder | CopyOrder":
        found = self._orders.get((job, step))
        if found is None:
            with self.parts.catalog.read() as transaction:
                document = read_step(transaction, self.parts.sealer(), job, step)
            found = RowsOrder.read(document) if "rows" in document else CopyOrder.read(document)
            self._orders[job, step] = found
            while len(self._orders) > self._MOST:
                del self._orders[next(iter(self._orders))]
        return found


def _fitting(table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A table's rows under the schema of a version, whose columns it may lack and whose types may be wider."""
    with open_source(table, schema=schema, evolve=True) as rows:
        if not rows.schema.equals(schema):
            raise InvalidInput("a block of rows has other columns or types than those that are published")
        yield from rows.batches()


def _copy(parts: OwnerParts, job: str, order: CopyOrder, task: Any) -> Any:
    writer = _KeyedWriter(parts, job, order.targets)
    done = []
    for document, numbers in task:
        ref = ChunkRef(**document)
        source = source_of(parts, ref, order.sources[ref.group])
        cuts = [order.cuts[number] for number in numbers]
        found = copies_of(writer, source, cuts, order.shapes.get(ref.group))
        done.append([[content, asdict(new)] for content, new in found])
    return done


def encode_rows(
    parts: OwnerParts, job: str, order: RowsOrder, batches: Iterable[pa.RecordBatch], first_row: int
) -> dict[str, Any]:
    """Encode rows, put their chunks and every vendor's copies, and say what was put (`read_encoded`)."""
    recipients = [_Taker(parts, job, holder, cuts, keys) for holder, (cuts, keys) in order.vendors.items()]
    cutter = Cutter(_KeyedWriter(parts, job, order.keys), order.shape, lambda: recipients)
    keys: list[pa.ChunkedArray] = []

    def seen(table: pa.Table) -> None:
        if order.key is not None:
            keys.append(table.column(order.key))

    entries: dict[str, list[Entry]] = {}
    for chunk in cutter.chunks(batches, seen, first_row=first_row):
        entry = cutter.put(chunk)
        entries.setdefault(entry.ref.group, []).append(entry)
    return {
        "listings": {
            group: to_base64(Listing.of(group, found).to_bytes().to_pybytes()) for group, found in entries.items()
        },
        "copies": {
            each.holder: [[content, asdict(ref)] for content, ref in each.taken] for each in recipients if each.taken
        },
        "keys": _column_document(keys) if keys else None,
    }


class _Taker:
    """A vendor's compartment, as far as the order says what of the rows belongs there."""

    def __init__(self, parts: OwnerParts, job: str, holder: str, cuts: Sequence[Cut], keys: Keys) -> None:
        self._parts = parts
        with parts.catalog.read() as transaction:
            self._vendor = holder_by_id(transaction, parts.sealer(), holder)
        self._writer = _KeyedWriter(parts, job, keys)
        self._cuts = cuts
        self.holder = holder
        self.taken: list[tuple[str, ChunkRef]] = []

    def take(self, ref: ChunkRef, source: Callable[[], Source], shape: GroupShape) -> None:
        """Copy a chunk that was just written, if it belongs to this vendor."""
        cuts = [cut for cut in self._cuts if cut.source == ref.group]
        if ref.assigned in {None, self.holder} and cuts:
            with naming(self._parts, self._vendor):
                self.taken += copies_of(self._writer, source(), cuts, shape)


def _column_document(pieces: Sequence[pa.ChunkedArray]) -> str:
    column = pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pieces[0].type)
    sink = pa.BufferOutputStream()
    table = pa.table({"key": column})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return to_base64(sink.getvalue().to_pybytes())


def _read_column(document: str) -> pa.ChunkedArray:
    try:
        return pa.ipc.open_stream(from_base64(document, "a result")).read_all().column("key")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise IntegrityError("what came from the cluster holds no row keys") from error
