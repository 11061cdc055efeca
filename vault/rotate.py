"""Rekeying: the chunks of a compartment under the next epoch, page by page, without decoding them.

All versions of a compartment move together, manifests too, and the head that makes the new epoch live is the
last word. The old manifests stay listed as retired, and their objects in the store, until gc has waited the
grace time, so that streams that were opened before can end.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vault.audit import Kind
from vault.catalog import CompartmentRow
from vault.errors import Conflict, NotFound, PartlyDone
from vault.manifest import ChunkRef, Manifest
from vault.trust import CompartmentHead
from vault.workings.fanout import source_of
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Holder, datasets, holders
from vault.workings.parts import OwnerParts
from vault.workings.reading import OpenVersion, open_version
from vault.workings.trouble import each_holder
from vault.workings.writing import Writer

__all__ = ["Rekeyed", "rekey"]

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """A compartment that is under its next epoch: the chunks and bytes that were encrypted anew."""

    vendor: str
    dataset: str
    chunks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Target:
    holder: Holder
    dataset: str
    row: CompartmentRow


def rekey(
    parts: OwnerParts,
    vendor: str | None = None,
    dataset: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Rekeyed]:
    """Rekey the compartments of a vendor, or of everyone, on a dataset, or on all.

    ``progress`` is told (bytes done, bytes in all). Raises NotFound for an unknown name, Conflict when a compartment
    keeps changing, and PartlyDone where it failed for some of several compartments.
    """
    targets = _targets(parts, vendor, dataset)
    try:
        done = each_holder(parts, targets, lambda target: target.holder, lambda target: _rekey(parts, target, progress))
    except PartlyDone:
        parts.journal.checkpoint()
        raise
    parts.journal.checkpoint()
    return done


def _targets(parts: OwnerParts, vendor: str | None, dataset: str | None) -> list[_Target]:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        people = {holder.id: holder for holder in holders(transaction, sealer)}
        sets = {entry.id: entry.name for entry in datasets(transaction, sealer)}
        rows = transaction.compartments()
    if vendor is not None and vendor not in {holder.name for holder in people.values()}:
        raise NotFound(f"there is no vendor named '{vendor[:80]}'")
    if dataset is not None and dataset not in sets.values():
        raise NotFound(f"there is no dataset named '{dataset[:80]}'")
    return [
        _Target(people[row.holder], sets[row.dataset], row)
        for row in rows
        if vendor in {None, people[row.holder].name} and dataset in {None, sets[row.dataset]}
    ]


def _rekey(parts: OwnerParts, target: _Target, progress: Callable[[int, int], None]) -> Rekeyed | None:
    for _ in range(_TRIES):
        try:
            return _rekey_once(parts, target, progress)
        except Conflict:
            continue
    raise Conflict("the dataset kept changing while it was rekeyed; try again")


def _rekey_once(parts: OwnerParts, target: _Target, progress: Callable[[int, int], None]) -> Rekeyed | None:
    head, versions = _versions(parts, target.row)
    if head is None or not head.live_groups:
        return None
    job = begin_job(parts.catalog, "rekey", parts.clock)
    try:
        writer = Writer(parts, job, target.row, target.holder.kms_key, head, rotate=True)
        copied = _copy_all(parts, job, writer, versions, progress)
        # Also those that nothing is under at present: a later grant must not write under a key that may be known.
        for group in head.live_groups:
            writer.key(group)
        publisher = parts.signers.publisher()
        for version in versions:
            writer.manifest(_moved(version.manifest, copied), publisher)
        parts.store.settle(job.folder)
        with parts.catalog.write() as transaction:
            job.finish(transaction)
            row = writer.commit(transaction, publisher)
            size = sum(ref.size for ref in copied.values())
            parts.journal.record_in(
                transaction,
                Kind.REKEYED,
                vendor=target.holder.name,
                vendor_id=target.holder.id,
                dataset=target.dataset,
                versions=[version.manifest.version for version in versions],
                chunks=len(copied),
                bytes=size,
            )
    except BaseException:
        job.abandon()
        raise
    parts.heads.announce([row])
    parts.keyring.drop([target.row.id])
    return Rekeyed(target.holder.name, target.dataset, len(copied), size)


def _versions(parts: OwnerParts, compartment: CompartmentRow) -> tuple[CompartmentHead | None, list[OpenVersion]]:
    """A compartment's head and every live version under it; raises Conflict when it moves meanwhile."""
    with parts.catalog.read() as transaction:
        head = parts.heads.compartment_in(transaction, compartment)
    if head is None:
        return None, []
    found = [open_version(parts, parts.keyring, compartment, number) for number in sorted(head.versions)]
    if any(version.head.digest != head.digest for version in found):
        raise Conflict("the compartment changed in the meantime")
    return head, found


def _copy_all(
    parts: OwnerParts,
    job: Job,
    writer: Writer,
    versions: list[OpenVersion],
    progress: Callable[[int, int], None],
) -> dict[str, ChunkRef]:
    """New references by old chunk id; a chunk that several versions share is encrypted once."""
    chunks = {ref.chunk: (ref, version) for version in versions for ref in version.manifest.chunks}
    total, done = sum(ref.size for ref, _ in chunks.values()), 0

    def task(place: tuple[ChunkRef, OpenVersion]) -> tuple[str, ChunkRef]:
        ref, version = place
        return ref.chunk, writer.copy(source_of(parts, ref, version.keys[ref.group]))

    copied = {}
    for old, new in parts.engine.map(task, chunks.values()):
        copied[old] = new
        done += new.size
        job.beat()
        progress(done, total)
    return copied


def _moved(manifest: Manifest, copied: dict[str, ChunkRef]) -> Manifest:
    return replace(
        manifest,
        chunks=tuple(replace(copied[ref.chunk], shard=ref.shard) for ref in manifest.chunks),
    )
