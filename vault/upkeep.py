"""Upkeep: checking that everything is there and opens as it should, and removing what nothing needs.

`check` reads every object that a live manifest names. `collect` first narrows vendors' compartments to what their
live grants need, then drops what retired manifests and dead jobs left behind. It lists the store before it
reads the catalog: an object that is seen there was put by a job that the catalog already knew.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from vault.audit import Kind
from vault.catalog import Transaction
from vault.chunks import verify
from vault.derivation import chunk_key
from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError, NotFound, VaultError
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef
from vault.model import MANIFEST_GROUP, ChunkIdentity
from vault.objects import ObjectInfo
from vault.trust import CompartmentHead, Label, ManifestStatement, Role, Signed
from vault.workings.fanout import needed_groups
from vault.workings.jobs import ACTIVE, DONE, begin_job
from vault.workings.names import holders
from vault.workings.parts import OwnerParts, wrapped_key
from vault.workings.reading import OpenVersion, identity_of, open_manifest, open_version
from vault.workings.writing import Writer, checksum

__all__ = ["CheckReport", "Collected", "check", "collect"]

DEFAULT_GRACE = timedelta(hours=1)


@dataclass(slots=True)
class CheckReport:
    """What a check saw: counts, every fault in a sentence, and what gc may remove."""

    chunks: int = 0
    bytes: int = 0
    retired_tries: int = 0
    log_entries: int = 0
    faults: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    garbage_bytes: int = 0
    busy: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; garbage is not."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc removed, and what it left because a job that wrote it may still live."""

    objects: int
    bytes: int
    manifests: int
    keys: int
    busy: int


def check(parts: OwnerParts, progress: Callable[[int], None] = lambda _done: None) -> CheckReport:
    """Check the log, every head, manifest and chunk; nothing is changed."""
    report = CheckReport()
    listed = list(parts.store.list("objects"))
    _noting(report, lambda: _check_log(parts, report))
    live, kept, busy = _in_use(parts, report)
    for ref, version in live.values():
        _noting(report, lambda ref=ref, version=version: _check_chunk(parts, report, ref, version))  # type: ignore[misc]
        report.chunks += 1
        report.bytes += ref.size
        progress(report.bytes)
    for info in listed:
        if info.name not in kept:
            if _job_of(info) in busy:
                report.busy += 1
            else:
                report.garbage.append(info.name)
                report.garbage_bytes += info.size
    return report


def _noting(report: CheckReport, step: Callable[[], None]) -> None:
    try:
        step()
    except VaultError as error:
        report.faults.append(str(error))


def _check_log(parts: OwnerParts, report: CheckReport) -> None:
    report.log_entries = parts.journal.verify()


def _in_use(
    parts: OwnerParts, report: CheckReport
) -> tuple[dict[str, tuple[ChunkRef, OpenVersion]], set[str], set[str]]:
    """The live chunks by object, every object in use, and the jobs that may still write."""
    with parts.catalog.read() as transaction:
        rows = transaction.compartments()
        busy = {job.id for job in transaction.jobs() if job.state == ACTIVE}
        retired = [(row.id, statement) for row in rows for statement in _retired_statements(parts, transaction, row.id)]
        heads: dict[str, CompartmentHead] = {}
        for row in rows:
            try:
                head = parts.heads.compartment_in(transaction, row.id)
            except VaultError as error:
                report.faults.append(f"compartment {row.id}: {error}")
                continue
            if head is not None:
                heads[row.id] = head
    live: dict[str, tuple[ChunkRef, OpenVersion]] = {}
    kept: set[str] = set()
    for compartment, head in heads.items():
        for number in head.versions:
            try:
                version = open_version(parts, parts.keyring, compartment, number)
            except VaultError as error:
                report.faults.append(f"version {number} of compartment {compartment}: {error}")
                continue
            live |= {ref.object: (ref, version) for ref in version.manifest.chunks}
    kept |= live.keys()
    kept |= _manifest_objects(parts, heads)
    for compartment, statement in retired:
        kept |= _objects_of(parts, compartment, statement)
    return live, kept, busy


def _manifest_objects(parts: OwnerParts, heads: dict[str, CompartmentHead]) -> set[str]:
    found = set()
    with parts.catalog.read() as transaction:
        for compartment in heads:
            for row in transaction.versions(compartment):
                signed = Signed.decode(row.statement, Label.MANIFEST)
                found.add(ManifestStatement.parse(signed).object)
    return found


def _retired_statements(parts: OwnerParts, transaction: Transaction, compartment: str) -> Iterable[ManifestStatement]:
    for row in transaction.versions(compartment):
        if row.retired is not None:
            signed = Signed.decode(row.statement, Label.MANIFEST)
            parts.root.verify(signed, Role.PUBLISHER)
            yield ManifestStatement.parse(signed)


def _objects_of(parts: OwnerParts, compartment: str, statement: ManifestStatement) -> set[str]:
    """The objects of a retired manifest, its own among them."""
    with parts.catalog.read() as transaction:
        row = transaction.key(compartment, MANIFEST_GROUP, statement.epoch)
    if row is None:
        return {statement.object}
    try:
        manifest = open_manifest(parts, parts.keyring, wrapped_key(parts.vault, row), statement)
    except NotFound:
        return {statement.object}
    return {statement.object} | {ref.object for ref in manifest.chunks}


def _check_chunk(parts: OwnerParts, report: CheckReport, ref: ChunkRef, version: OpenVersion) -> None:
    place = f"chunk {ref.chunk} (shard {ref.shard} of version {version.manifest.version})"
    try:
        data = parts.store.get(ref.object)
    except NotFound as error:
        raise IntegrityError(f"{place}: its object is missing from the store") from error
    if len(data) != ref.size or checksum(data) != ref.checksum:
        raise IntegrityError(f"{place}: its object is not the one that was written")
    key = version.keys[ref.group]
    try:
        identity = identity_of(key, ref)
        verify(data, chunk_key(parts.keyring.open(key), identity), identity)
    except VaultError as error:
        raise IntegrityError(f"{place}: {error}") from error
    for old in _retired_keys(parts, key):
        identity = ChunkIdentity(old.scope, ref.chunk)
        report.retired_tries += 1
        try:
            verify(data, chunk_key(parts.keyring.open(old), identity), identity)
        except IntegrityError:
            continue
        raise IntegrityError(f"{place}: it opens under the retired epoch {old.scope.epoch}")


def _retired_keys(parts: OwnerParts, live: WrappedKey) -> list[WrappedKey]:
    with parts.catalog.read() as transaction:
        rows = transaction.keys(live.scope.compartment)
    return [
        wrapped_key(parts.vault, row) for row in rows if row.group == live.scope.group and row.epoch != live.scope.epoch
    ]


def _job_of(info: ObjectInfo) -> str:
    return info.name.split("/")[1]


def collect(parts: OwnerParts, grace: timedelta = DEFAULT_GRACE) -> Collected:
    """Remove what nothing needs: retired for longer than ``grace``, or written by a job that is over.

    May be killed and run again at any moment. Raises VaultError, and removes nothing, when something that
    is in use cannot be read: what it refers to would be unknown.
    """
    _narrow(parts)
    listed = list(parts.store.list("objects"))
    manifests = _retire(parts, grace)
    report = CheckReport()
    _, kept, busy = _in_use(parts, report)
    if report.faults:
        raise IntegrityError(f"nothing was removed, since what is in use is not certain: {report.faults[0]}")
    garbage = [info for info in listed if info.name not in kept and _job_of(info) not in busy]
    left = sum(1 for info in listed if info.name not in kept and _job_of(info) in busy)
    keys = _drop_keys(parts)
    for info in garbage:
        parts.store.delete(info.name)
    size = sum(info.size for info in garbage)
    parts.journal.record(Kind.COLLECTED, objects=len(garbage), bytes=size, manifests=manifests, keys=keys)
    parts.journal.checkpoint()
    return Collected(len(garbage), size, manifests, keys, left)


def _retire(parts: OwnerParts, grace: timedelta) -> int:
    """Declare silent jobs dead and forget manifests that were retired long enough ago."""
    limit = parts.clock() - grace
    forgotten = 0
    with parts.catalog.write() as transaction:
        for job in transaction.jobs():
            if job.state == ACTIVE and from_timestamp(job.beat) <= limit:
                transaction.set_job(job.id, before=ACTIVE, state=DONE, beat=timestamp(parts.clock()))
        for compartment in transaction.compartments():
            for row in transaction.versions(compartment.id):
                if row.retired is not None and from_timestamp(row.retired) <= limit:
                    transaction.delete_version(row.compartment, row.version, row.generation)
                    forgotten += 1
    return forgotten


def _drop_keys(parts: OwnerParts) -> int:
    """Forget wrapped keys of epochs that neither a head nor a retired manifest needs."""
    dropped = 0
    with parts.catalog.write() as transaction:
        for compartment in transaction.compartments():
            head = parts.heads.compartment_in(transaction, compartment.id)
            if head is None or any(row.retired for row in transaction.versions(compartment.id)):
                continue
            for row in transaction.keys(compartment.id):
                if row.epoch < head.epochs.get(row.group, (0, ""))[0]:
                    transaction.delete_key(row.compartment, row.group, row.epoch)
                    dropped += 1
    return dropped


def _narrow(parts: OwnerParts) -> None:
    """Take out of vendors' compartments what no live grant needs any more."""
    sealer, now = parts.sealer(), parts.clock()
    with parts.catalog.read() as transaction:
        people = {holder.id: holder for holder in holders(transaction, sealer)}
        rows = [row for row in transaction.compartments() if row.holder != parts.owner]
    for row in rows:
        with parts.catalog.read() as transaction:
            needed = needed_groups(parts, transaction, sealer, row.dataset, now, frozen_too=True)
            head = parts.heads.compartment_in(transaction, row.id)
        groups = needed.get(row.holder, frozenset())
        if head is None or not head.versions:
            continue
        versions = [open_version(parts, parts.keyring, row.id, number) for number in head.versions]
        extra = [version for version in versions if not version.manifest.groups <= groups]
        if not extra:
            continue
        job = begin_job(parts.catalog, "narrow", parts.clock)
        publisher = parts.signers.publisher()
        try:
            writer = Writer(parts, job, row.id, people[row.holder].kms_key, head)
            for version in extra:
                manifest = version.manifest
                chunks = tuple(ref for ref in manifest.chunks if ref.group in groups)
                if groups:
                    writer.manifest(manifest.narrowed(row.id, groups, chunks), publisher)
                else:
                    writer.withdraw(manifest.version)
            parts.store.settle(job.folder)
            with parts.catalog.write() as transaction:
                current = needed_groups(parts, transaction, sealer, row.dataset, now, frozen_too=True)
                if current.get(row.holder, frozenset()) != groups:
                    job.finish(transaction)
                    continue
                job.finish(transaction)
                committed = writer.commit(transaction, publisher)
        except BaseException:
            job.abandon()
            raise
        parts.heads.announce([committed])
