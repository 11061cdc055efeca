"""Rekeying: the chunks of a compartment under the next epoch, page by page, without decoding them.

All versions of a compartment move together, manifests too, and the head that makes the new epoch live is the
last word. The old manifests stay listed as retired, and their objects in the store, until gc has waited the
grace time, so that streams that were opened before can end. A run that was killed is taken up where it was; one that
meets another change of the compartment copies what that added and no more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from vault.audit import Kind
from vault.catalog import CompartmentRow
from vault.errors import Conflict, InvalidInput, NotFound, PartlyDone, VaultError
from vault.manifest import ChunkRef, Manifest, Part, layout_of, shards_of
from vault.model import Cut
from vault.trust import CompartmentHead
from vault.workings.errands import Copying, CopyOrder, send_copies
from vault.workings.names import Holder, datasets, holders
from vault.workings.parts import OwnerParts
from vault.workings.putting import copies_of, source_of
from vault.workings.rotation import Rotation, begin_rotation
from vault.workings.telling import about_columns, about_compartment
from vault.workings.trouble import each_holder
from vault.workings.versions import OpenVersion, live_versions
from vault.workings.writing import Writer

__all__ = ["Planned", "Rekeyed", "plan", "rekey"]

_TRIES = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """A compartment that is under its next epoch: the chunks and bytes that were encrypted anew in this run, and the
    chunks that a run before it had done.
    """

    vendor: str
    dataset: str
    chunks: int
    bytes: int
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """What a rekey of one compartment has to encrypt anew."""

    vendor: str
    dataset: str
    chunks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Target:
    """A compartment, and the names of the columns that move; None for all of them."""

    holder: Holder
    dataset: str
    row: CompartmentRow
    columns: frozenset[str] | None


def plan(
    parts: OwnerParts, vendor: str | None = None, dataset: str | None = None, columns: Sequence[str] | None = None
) -> list[Planned]:
    """What `rekey` of the same would do; it raises the same, and changes nothing."""
    return each_holder(
        parts, _targets(parts, vendor, dataset, columns), lambda target: target.holder, lambda t: _planned(parts, t)
    )


def _planned(parts: OwnerParts, target: _Target) -> Planned | None:
    head, versions = live_versions(parts, target.row)
    if head is None or not head.live_groups:
        return None
    sizes = [ref.size for ref, _ in _chunks(versions, _groups(target, head, versions))]
    return Planned(target.holder.name, target.dataset, len(sizes), sum(sizes))


def rekey(
    parts: OwnerParts,
    vendor: str | None = None,
    dataset: str | None = None,
    columns: Sequence[str] | None = None,
    progress: Progress = lambda _done, _total: None,
) -> list[Rekeyed]:
    """Rekey the compartments of a vendor, or of everyone, on a dataset, or on all; by default every column.

    ``progress`` is told (bytes done, bytes in all). May be killed at any moment: the same call goes on from there.
    Raises NotFound for an unknown name, InvalidInput for an unknown column, Conflict when a compartment keeps
    changing, and PartlyDone where it failed for some of several compartments.
    """
    targets = _targets(parts, vendor, dataset, columns)
    counter = _Counter(progress, sum(each.bytes for each in _sizes(parts, targets)))

    def step(target: _Target) -> Rekeyed | None:
        return _rekey(parts, target, counter)

    try:
        done = each_holder(parts, targets, lambda target: target.holder, step)
    except PartlyDone:
        parts.journal.checkpoint()
        raise
    parts.journal.checkpoint()
    return done


class _Counter:
    """Progress over several compartments."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, size: int) -> None:
        """So many bytes more are done."""
        self._done += size
        self._total = max(self._total, self._done)
        self._progress(self._done, self._total)


def _sizes(parts: OwnerParts, targets: list[_Target]) -> list[Planned]:
    """What there is to do, as far as it can be seen; the run itself says what could not be."""
    try:
        return each_holder(parts, targets, lambda target: target.holder, lambda target: _planned(parts, target))
    except PartlyDone as error:
        return list(error.done)


def _targets(
    parts: OwnerParts, vendor: str | None, dataset: str | None, columns: Sequence[str] | None
) -> list[_Target]:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        people = {holder.id: holder for holder in holders(transaction, sealer)}
        sets = {entry.id: entry.name for entry in datasets(transaction, sealer)}
        rows = transaction.compartments()
    if vendor is not None and vendor not in {holder.name for holder in people.values()}:
        raise NotFound(f"there is no vendor named '{vendor[:80]}'")
    if dataset is not None and dataset not in sets.values():
        raise NotFound(f"there is no dataset named '{dataset[:80]}'")
    if columns is not None and dataset is None:
        raise InvalidInput("--columns: say with --dataset whose columns they are")
    if columns is not None and not columns:
        raise InvalidInput("--columns: name a column")
    wanted = None if columns is None else frozenset(columns)
    found = [
        _Target(people[row.holder], sets[row.dataset], row, wanted)
        for row in rows
        if row.dataset in sets and vendor in {None, people[row.holder].name} and dataset in {None, sets[row.dataset]}
    ]
    if wanted is not None:
        _check_columns(parts, dataset, wanted)
    return found


def _check_columns(parts: OwnerParts, dataset: str | None, wanted: frozenset[str]) -> None:
    """The owner's compartment has every column; a vendor's may lack some, which is no mistake."""
    with parts.catalog.read() as transaction:
        sets = {entry.name: entry.id for entry in datasets(transaction, parts.sealer())}
        row = transaction.compartment(parts.owner, sets[str(dataset)])
    _, versions = live_versions(parts, row) if row is not None else (None, [])
    known = {column.name for version in versions for column in version.manifest.columns}
    for name in sorted(wanted - known):
        raise InvalidInput(f"--columns: no version of the dataset '{dataset}' has a column {name!r}")


def _groups(target: _Target, head: CompartmentHead, versions: list[OpenVersion]) -> frozenset[str]:
    """The column groups that move: all that have a live key, the manifests' too, or those of the named columns."""
    if target.columns is None:
        return head.live_groups
    named = {c.group for version in versions for c in version.manifest.columns if c.name in target.columns}
    return frozenset(named) & head.live_groups


def _chunks(versions: list[OpenVersion], groups: frozenset[str]) -> Iterator[tuple[ChunkRef, OpenVersion]]:
    """The chunks that move; one that several versions share comes once."""
    seen: set[str] = set()
    for version in versions:
        for ref in version.refs(groups):
            if ref.chunk not in seen:
                seen.add(ref.chunk)
                yield ref, version


def _rekey(parts: OwnerParts, target: _Target, counter: _Counter) -> Rekeyed | None:
    head, versions = live_versions(parts, target.row)
    if head is None or not head.live_groups:
        return None
    wanted = None if target.columns is None else _groups(target, head, versions)
    if wanted is not None and not wanted:
        return None
    rotation = begin_rotation(parts, target.row.id, wanted)
    try:
        for _ in range(_TRIES):
            try:
                return _rekey_once(parts, target, rotation, counter)
            except Conflict:
                continue  # what was copied is kept; what is new is copied next
        raise Conflict("the dataset kept changing while it was rekeyed; try again")
    except BaseException:
        with suppress(VaultError):
            rotation.flush()
            rotation.job.pause()
        raise


def _rekey_once(parts: OwnerParts, target: _Target, rotation: Rotation, counter: _Counter) -> Rekeyed | None:
    head, versions = live_versions(parts, target.row)
    if head is None or not head.live_groups:
        rotation.job.abandon()
        return None
    groups = _groups(target, head, versions)
    writer = Writer(parts, rotation.job, target.row, target.holder.kms_key, head, rotate=groups, noted=rotation.keys)
    # Also those that nothing is under at present: a later grant must not write under a key that may be known.
    keys = {group: writer.key(group)[0] for group in groups}
    rotation.note_keys(keys.values())
    # Chunk ids are never used twice: one that was copied and is live still is under the epoch that it was copied from.
    before = dict(rotation.copied)
    sources = {group: version.keys[group] for version in versions for group in groups if group in version.keys}
    order = CopyOrder(sources, keys, [Cut(group) for group in sorted(groups)], {})
    copied = _copy(parts, rotation, writer, order, (ref for ref, _ in _chunks(versions, groups)), counter)
    publisher = parts.signers.publisher()
    moved: dict[str, Part] = {}
    for version in versions:
        writer.manifest(_moved(version, groups, copied, moved), publisher)
    rotation.flush()
    parts.store.settle(rotation.job.folder)
    size = sum(new.size for old, new in copied.items() if old not in before)
    about = about_compartment(
        target.holder,
        target.row,
        target.dataset,
        epochs=writer.epochs(groups),
        shards=shards_of([layout_of(version.manifest, version.load) for version in versions]),
        started=rotation.job.began,
    )
    with parts.catalog.write() as transaction:
        rotation.job.finish(transaction)
        transaction.delete_steps(rotation.job.id)
        row = writer.commit(transaction, publisher)
        parts.journal.record_in(
            transaction,
            Kind.REKEYED,
            **about,
            versions=[version.manifest.version for version in versions],
            **about_columns((version.manifest for version in versions), groups),
            chunks=len(copied),
            bytes=sum(new.size for new in copied.values()),
        )
    parts.heads.announce([row])
    parts.keyring.drop([target.row.id])
    resumed = len(copied.keys() & before.keys())
    return Rekeyed(target.holder.name, target.dataset, len(copied) - resumed, size, resumed)


def _copy(
    parts: OwnerParts,
    rotation: Rotation,
    writer: Writer,
    order: CopyOrder,
    chunks: Iterable[ChunkRef],
    counter: _Counter,
) -> dict[str, ChunkRef]:
    """New references by old chunk id, each written down soon after its object is in the store.

    What an earlier run wrote down is not copied again.
    """
    before, copied = dict(rotation.copied), {}

    def waiting() -> Iterator[Copying]:
        for ref in chunks:
            if ref.chunk in before:
                copied[ref.chunk] = before[ref.chunk]
            else:
                yield Copying(ref, (Cut(ref.group),))

    def task(each: Copying) -> tuple[Copying, list[tuple[str, ChunkRef]]]:
        return each, copies_of(writer, source_of(parts, each.ref, order.sources[each.ref.group]), each.cuts, None)

    if parts.workers is not None:
        done = send_copies(parts, rotation.job, order, waiting())
    else:
        done = parts.engine.map(task, waiting())
    for each, ((_, new),) in done:
        copied[each.ref.chunk] = new
        rotation.note(each.ref.chunk, new)
        counter.add(new.size)
    return copied


def _moved(
    version: OpenVersion, groups: frozenset[str], copied: Mapping[str, ChunkRef], moved: dict[str, Part]
) -> Manifest:
    """A version whose chunks of these groups are the new ones; parts that versions share are made once."""
    for part in version.manifest.parts:
        if part.group in groups and part.content not in moved:
            listing = version.load(part)
            moved[part.content] = part.holding(listing.moved([copied[ref.chunk] for ref in listing.refs()]))
    return replace(version.manifest, parts=tuple(moved.get(part.content, part) for part in version.manifest.parts))
