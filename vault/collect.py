"""Removing what nothing needs any more.

First vendors' compartments are narrowed to what their live grants need; then what retired manifests and dead jobs
left behind is deleted, objects before the rows that name them, and shared files that are over, or of before. The store
is listed before the catalog is read: an object that is seen there was put by a job that the catalog already knew.
Nothing is deleted while anything about what is in use is in doubt, nor before the log, which a rolled-back catalog
contradicts, was verified.

Where the KMS refuses a vendor's key on purpose, nobody can tell which objects that vendor's manifests name. Only those
are deleted then that another compartment's forgotten manifests name, since no two compartments share an object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError
from vault.manifest import layout_of, shards_of
from vault.model import DEFAULT_GRACE, MANIFEST_GROUP
from vault.trust import Label, ManifestStatement, Signed
from vault.workings.containment import KIND as CONTAINMENT
from vault.workings.fanout import Needs, needs_of
from vault.workings.jobs import ACTIVE, DONE, Job, begin_job, is_dead
from vault.workings.names import Holder, datasets, holders
from vault.workings.parts import OwnerParts
from vault.workings.quarantine import kept
from vault.workings.rotation import KIND, compartment_of
from vault.workings.spoolend import spent_files
from vault.workings.telling import about_columns, about_compartment
from vault.workings.trouble import naming
from vault.workings.usage import Usage, objects_named, survey
from vault.workings.versions import OpenVersion, open_version
from vault.workings.writing import Writer

__all__ = ["Collected", "collect"]

#: No put of one object takes as long as this.
_UNFINISHED: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc removed, and what it left because a job that wrote it may still live.

    ``left`` says why objects were left that may be in use by a vendor whose KMS key is refused.
    """

    objects: int
    bytes: int
    manifests: int
    keys: int
    busy: int
    left: tuple[str, ...] = ()


def collect(parts: OwnerParts, grace: timedelta = DEFAULT_GRACE, *, at_once: str | None = None) -> Collected:
    """Remove what was retired for longer than ``grace``, and what jobs wrote that are over.

    There is no grace for what was retired in the compartments of the holder ``at_once``. May be killed and run again at
    any moment. Raises IntegrityError, and removes nothing, when what is in use is not certain.
    """
    parts.journal.verify()
    before = _survey(parts)
    _narrow(parts, before)
    listed = list(parts.store.list("objects"))
    with parts.catalog.read() as transaction:
        hurried = frozenset(row.id for row in transaction.compartments(holder=at_once)) if at_once else frozenset()
    _end_dead_jobs(parts, grace, hurried)
    manifests, condemned = _forget_manifests(parts, grace, before, hurried)
    usage = _survey(parts)
    unused = [info for info in listed if info.name not in usage.objects]
    garbage = [info for info in unused if info.name.split("/")[1] not in usage.busy]
    unsettled = len(unused) - len(garbage)
    if usage.closed:
        garbage = [info for info in garbage if info.name in condemned]
    garbage += spent_files(parts, grace, at_once)
    quarantine = kept(parts, grace)
    garbage += quarantine.garbage
    unsettled += quarantine.recent
    dropped = _drop_keys(parts)
    size = sum(info.size for info in garbage)
    # The entry comes first: a run that is killed among its deletions is in the log.
    parts.journal.record(
        Kind.COLLECTED, objects=len(garbage), bytes=size, manifests=manifests, keys=len(dropped), dropped=dropped
    )
    parts.store.delete_all([info.name for info in garbage])
    parts.store.discard_unfinished(parts.clock() - _UNFINISHED)
    parts.journal.checkpoint()
    parts.journal.prune_checkpoints()
    parts.journal.merge_segments()
    parts.backups.prune()
    left = tuple(sorted(set(usage.closed.values())))
    return Collected(len(garbage), size, manifests, len(dropped), unsettled, left)


def _survey(parts: OwnerParts) -> Usage:
    """What is in use; raises IntegrityError where it is not certain."""
    usage = survey(parts)
    if usage.faults:
        raise IntegrityError(f"nothing was removed, since what is in use is not certain: {usage.faults[0]}")
    return usage


def _end_dead_jobs(parts: OwnerParts, grace: timedelta, hurried: frozenset[str]) -> None:
    """Declare jobs over whose process is gone; a job that runs is never ended, whatever the grace.

    A rekey that was stopped can be taken up again for as long as the grace time, unless it is of a ``hurried``
    compartment. A containment can always be: it has no objects, and what it notes is needed by who takes it up.
    """
    now = parts.clock()
    with parts.catalog.write() as transaction:
        for job in transaction.jobs():
            if job.state != ACTIVE or job.kind == CONTAINMENT or not is_dead(job, now):
                continue
            recent = job.kind == KIND and now - from_timestamp(job.beat) < grace
            if recent and compartment_of(parts, transaction, job) not in hurried:
                continue
            transaction.set_job(job.id, before=ACTIVE, state=DONE, beat=timestamp(now))
            transaction.delete_steps(job.id)


def _forget_manifests(
    parts: OwnerParts, grace: timedelta, usage: Usage, hurried: frozenset[str]
) -> tuple[int, set[str]]:
    """Forget manifests that were retired long enough ago; how many, and the objects that they name.

    Those of closed compartments stay: what they name could not be told from what is in use.
    """
    now = parts.clock()
    with parts.catalog.read() as transaction:
        old = [
            (compartment, row)
            for compartment in transaction.compartments()
            if compartment.id not in usage.closed
            for row in transaction.versions(compartment.id)
            if row.retired is not None and (compartment.id in hurried or from_timestamp(row.retired) <= now - grace)
        ]
    condemned: set[str] = set()
    for compartment, row in old if usage.closed else ():
        statement = ManifestStatement.parse(Signed.decode(row.statement, Label.MANIFEST))
        condemned |= {statement.object, *objects_named(parts, compartment, statement)}
    with parts.catalog.write() as transaction:
        for _, row in old:
            transaction.delete_version(row.compartment, row.version, row.generation)
    return len(old), condemned


def _drop_keys(parts: OwnerParts) -> list[tuple[str, str, int]]:
    """Forget wrapped keys that neither a head nor a retired manifest needs; returns compartment, group and epoch."""
    dropped = []
    with parts.catalog.write() as transaction:
        for compartment in transaction.compartments():
            head = parts.heads.compartment_in(transaction, compartment)
            if head is None or any(row.retired for row in transaction.versions(compartment.id)):
                continue
            for row in transaction.keys(compartment.id):
                if row.group in head.epochs and row.epoch <= head.epochs[row.group][0]:
                    if row.group in head.live_groups and row.epoch == head.epochs[row.group][0]:
                        continue
                    transaction.delete_key(row.compartment, row.group, row.epoch)
                    dropped.append((row.compartment, row.group, row.epoch))
    return dropped


def _narrow(parts: OwnerParts, usage: Usage) -> None:
    """Take out of vendors' compartments what no live grant needs any more."""
    with parts.catalog.read() as transaction:
        people = {holder.id: holder for holder in holders(transaction, parts.sealer())}
        names = {entry.id: entry.name for entry in datasets(transaction, parts.sealer())}
        rows = [row for row in transaction.compartments() if row.holder != parts.owner]
    for row in (row for row in rows if row.id not in usage.closed):
        with naming(parts, people[row.holder]):
            head = _narrow_one(parts, row, people[row.holder], names.get(row.dataset))
        if head is not None:
            parts.heads.announce([head])


def _needed(parts: OwnerParts, transaction: Transaction, row: CompartmentRow) -> Needs:
    needed = needs_of(parts, transaction, parts.sealer(), row.dataset, parts.clock(), frozen_too=True)
    return needed.get(row.holder, Needs())


def _narrow_one(parts: OwnerParts, row: CompartmentRow, vendor: Holder, dataset: str | None) -> HeadRow | None:
    with parts.catalog.read() as transaction:
        needed = _needed(parts, transaction, row)
        head = parts.heads.compartment_in(transaction, row)
    if head is None:
        return None
    wanted = {number: {cut.group for cut in cuts} for number, cuts in needed.of(head.versions).items()}
    versions = [open_version(parts, parts.keyring, row, number) for number in sorted(head.versions)]
    surplus = [
        version
        for version in versions
        if version.manifest.version not in wanted or not version.manifest.groups <= wanted[version.manifest.version]
    ]
    unused = head.live_groups - {MANIFEST_GROUP} - {cut.group for cut in needed.cuts}
    if not surplus and not unused:
        return None
    job = begin_job(parts.catalog, "narrow", parts.clock)
    try:
        writer = Writer(parts, job, row, vendor.kms_key, head)
        _stage(parts, writer, surplus, wanted)
        writer.retire(unused)
        told = _told(writer, vendor, row, dataset, versions, wanted, job)
        parts.store.settle(job.folder)
        with parts.catalog.write() as transaction:
            job.finish(transaction)
            if _needed(parts, transaction, row) != needed:
                return None  # a grant came in the meantime; the next gc looks again
            committed = writer.commit(transaction, parts.signers.publisher())
            parts.journal.record_in(transaction, Kind.NARROWED, **told)
            return committed
    except BaseException:
        job.abandon()
        raise


def _stage(parts: OwnerParts, writer: Writer, surplus: list[OpenVersion], wanted: Mapping[int, set[str]]) -> None:
    """Narrow each version to the groups that are wanted of it, and withdraw those that nothing is wanted of.

    Where a grant of the newest version is left, that one is only narrowed, so that no older one comes up instead.
    """
    publisher = parts.signers.publisher()
    for version in surplus:
        number = version.manifest.version
        if number in wanted:
            writer.manifest(version.manifest.narrowed(wanted[number]), publisher)
        else:
            writer.withdraw(number)


def _told(
    writer: Writer,
    vendor: Holder,
    row: CompartmentRow,
    dataset: str | None,
    versions: list[OpenVersion],
    wanted: Mapping[int, set[str]],
    job: Job,
) -> dict[str, object]:
    """What the log says of a compartment that is narrowed: what is left of it, and what is not."""
    kept = [version for version in versions if version.manifest.version in wanted]
    left = [(each.manifest.narrowed(wanted[each.manifest.version]), each.load) for each in kept]
    groups = {group for manifest, _ in left for group in manifest.groups}
    about = about_compartment(
        vendor,
        row,
        dataset,
        epochs=writer.epochs(groups),
        shards=shards_of([layout_of(manifest, load) for manifest, load in left]),
        started=job.began,
    )
    return {
        **about,
        "versions": [manifest.version for manifest, _ in left],
        "withdrawn": sorted({version.manifest.version for version in versions} - wanted.keys()),
        "removed": sorted({group for version in versions for group in version.manifest.groups} - groups),
        **about_columns(manifest for manifest, _ in left),
    }
