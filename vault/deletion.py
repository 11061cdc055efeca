"""Taking data away: a whole dataset, or old versions.

Each ends in one catalog transaction, before which nothing has changed, and may be killed and run again. What is taken
away is named by nothing live from then on; its objects and keys are there for streams that were opened before, until
gc's grace time is over. See `vault.erasure` for rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vault.audit import Kind
from vault.catalog import Transaction
from vault.encoding import timestamp
from vault.errors import Conflict, InvalidInput, NotFound
from vault.model import MANIFEST_GROUP
from vault.submissions import reject_all
from vault.trust import Grant, VendorHead
from vault.workings.fanout import needs_of
from vault.workings.jobs import begin_job
from vault.workings.names import Dataset, dataset_named, end_dataset, holder_by_id, holders
from vault.workings.parts import OwnerParts
from vault.workings.permissions import listed_for_vendor
from vault.workings.steps import emptied_head, removal
from vault.workings.versions import live_versions
from vault.workings.writing import Writer

__all__ = ["SURVIVES", "Deleted", "Expired", "delete", "expire"]

_TRIES = 5
#: What no command of ours reaches, in one sentence for the person who deletes.
SURVIVES = (
    "what vendors were served; object versions that the store keeps; backups of the store and the catalog; and until "
    "gc has run after its grace time, the superseded objects themselves"
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """A dataset that is gone: the versions it had, the grants that ended, and the vendors who had a copy.

    ``submissions`` waited for it in quarantine, and were rejected with it.
    """

    dataset: str
    versions: tuple[int, ...]
    grants: int
    vendors: tuple[str, ...]
    submissions: int = 0


@dataclass(frozen=True, slots=True)
class Expired:
    """The versions that were taken away, and those that are left, ``pinned`` of them because a grant is about them."""

    dataset: str
    expired: tuple[int, ...]
    left: tuple[int, ...]
    pinned: tuple[int, ...] = ()


def _dataset(parts: OwnerParts, name: str) -> Dataset:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        return dataset_named(transaction, sealer, name)


def delete(parts: OwnerParts, name: str) -> Deleted:
    """End every grant on a dataset, then the dataset in every compartment; its name is free again.

    Raises NotFound, and Conflict where somebody keeps granting it meanwhile.
    """
    dataset = _dataset(parts, name)
    ended = 0
    for _ in range(_TRIES):
        ended += _end_grants(parts, dataset)
        done = _end(parts, dataset)
        if done is not None:
            versions, vendors, refused = done
            return Deleted(name, versions, ended, vendors, refused)
    raise Conflict(f"the dataset '{name}' kept being granted while it was deleted; try again")


def _on(parts: OwnerParts, transaction: Transaction, dataset: str, head: VendorHead) -> list[Grant]:
    rows = transaction.grants(vendor=head.vendor, dataset=dataset)
    return [grant for grant, _ in listed_for_vendor(parts.root, rows, head, parts.sealer(), own=False)]


def _end_grants(parts: OwnerParts, dataset: Dataset) -> int:
    """Sign, vendor by vendor, that its grants on the dataset are over; how many there were."""
    with parts.catalog.read() as transaction:
        people = [holder for holder in holders(transaction, parts.sealer()) if holder.id != parts.owner]
        listed = {
            holder.name: {grant.id for grant in _on(parts, transaction, dataset.id, head)}
            for holder in people
            if (head := parts.heads.vendor_in(transaction, holder.id)).grants
        }
    for vendor, gone in listed.items():
        if gone:
            removal(
                parts,
                vendor,
                Kind.REVOKED,
                _without(gone),
                grants=sorted(gone),
                dataset=dataset.name,
                dataset_id=dataset.id,
            )
    return sum(map(len, listed.values()))


def _without(gone: set[str]) -> Callable[[VendorHead], dict[str, object] | None]:
    def change(head: VendorHead) -> dict[str, object] | None:
        left = {key: digest for key, digest in head.grants.items() if key not in gone}
        return {"grants": left} if left.keys() != head.grants.keys() else None

    return change


def _end(parts: OwnerParts, dataset: Dataset) -> tuple[tuple[int, ...], tuple[str, ...], int] | None:
    """Empty every compartment and end the name; None where a grant has come in the meantime."""
    sealer = parts.sealer()
    with parts.catalog.write() as transaction:
        people = {holder.id: holder for holder in holders(transaction, sealer)}
        vendors = [parts.heads.vendor_in(transaction, vendor) for vendor in people if vendor != parts.owner]
        if any(_on(parts, transaction, dataset.id, head) for head in vendors):
            return None
        places = transaction.compartments(dataset=dataset.id)
        heads = [(place, parts.heads.compartment_in(transaction, place)) for place in places]
        rows = [emptied_head(parts, place, head) for place, head in heads if head is not None]
        now = timestamp(parts.clock())
        for place, head in heads:
            transaction.retire_versions(place.id, head.versions if head is not None else (), now)
        for row in rows:
            transaction.add_head(row)
        end_dataset(transaction, dataset, sealer)
        refused = reject_all(parts, transaction, dataset, {holder.id: holder.name for holder in people.values()})
        versions = sorted({n for place, head in heads if head and place.holder == parts.owner for n in head.versions})
        copies = sorted(people[place.holder].name for place in places if place.holder != parts.owner)
        parts.journal.record_in(
            transaction,
            Kind.DATASET_DELETED,
            dataset=dataset.name,
            dataset_id=dataset.id,
            versions=versions,
            # Whose they are by id alone: an entry about a dataset may be shown to any vendor who had a copy.
            compartments={place.holder: place.id for place in places},
        )
    parts.heads.announce(rows)
    parts.keyring.drop(place.id for place in places)
    parts.journal.checkpoint()
    return tuple(versions), tuple(copies), refused


def expire(parts: OwnerParts, name: str, keep: int) -> Expired:
    """Take away all versions but the newest ``keep`` and those that a live grant is pinned to; vendors notice nothing.

    Raises NotFound, InvalidInput, and Conflict where the dataset keeps changing.
    """
    if keep < 1:
        raise InvalidInput("--keep: keep 1 version or more; 'dsvault dataset delete' takes away all")
    dataset = _dataset(parts, name)
    for _ in range(_TRIES):
        try:
            return _expire_once(parts, dataset, keep)
        except Conflict:
            continue
    raise Conflict(f"the dataset '{name}' kept changing while versions were taken away; try again")


def _expire_once(parts: OwnerParts, dataset: Dataset, keep: int) -> Expired:
    with parts.catalog.read() as transaction:
        place = transaction.compartment(parts.owner, dataset.id)
        owner = holder_by_id(transaction, parts.sealer(), parts.owner)
    if place is None:
        raise NotFound(f"the dataset '{dataset.name}' has no version")
    head, versions = live_versions(parts, place)
    if head is None:
        raise NotFound(f"the dataset '{dataset.name}' has no version")
    numbers = [version.manifest.version for version in versions]
    with parts.catalog.read() as transaction:
        pinned = _pinned(parts, transaction, dataset)
    gone = [number for number in numbers[:-keep] if number not in pinned]
    left = [number for number in numbers if number not in gone]
    held = tuple(number for number in numbers[:-keep] if number in pinned)
    if not gone:
        return Expired(dataset.name, (), tuple(left), held)
    needed = {group for version in versions if version.manifest.version in left for group in version.manifest.groups}
    job = begin_job(parts.catalog, "expire", parts.clock)
    try:
        writer = Writer(parts, job, place, owner.kms_key, head)
        for number in gone:
            writer.withdraw(number)
        writer.retire(head.live_groups - needed - {MANIFEST_GROUP})
        with parts.catalog.write() as transaction:
            job.finish(transaction)
            if not pinned >= _pinned(parts, transaction, dataset):
                raise Conflict("a grant on one of the versions came in the meantime")
            row = writer.commit(transaction, parts.signers.publisher())
            parts.journal.record_in(
                transaction,
                Kind.VERSIONS_EXPIRED,
                dataset=dataset.name,
                dataset_id=dataset.id,
                compartment=place.id,
                versions=gone,
                left=left,
                removed=sorted(head.live_groups - needed - {MANIFEST_GROUP}),
            )
    except BaseException:
        job.abandon()
        raise
    parts.heads.announce([row])
    parts.journal.checkpoint()
    return Expired(dataset.name, tuple(gone), tuple(left), held)


def _pinned(parts: OwnerParts, transaction: Transaction, dataset: Dataset) -> set[int]:
    """The versions that live grants are pinned to, a frozen vendor's too."""
    needed = needs_of(parts, transaction, parts.sealer(), dataset.id, parts.clock(), frozen_too=True)
    return {number for each in needed.values() for number in each.pinned}
