"""Bringing a vendor's compartment up to date in a transaction of its own."""

from collections.abc import Callable

from vault.audit import Kind
from vault.catalog import CompartmentRow, HeadRow, Transaction
from vault.errors import Conflict, NotFound
from vault.manifest import layout_of
from vault.trust import Grant
from vault.workings.fanout import Needs, begin_copy, fill, needs_of
from vault.workings.jobs import begin_job
from vault.workings.names import Dataset, Holder
from vault.workings.parts import OwnerParts
from vault.workings.reading import group_shape
from vault.workings.versions import OpenVersion, open_version

__all__ = ["fill_compartment", "owners_version"]

_TRIES = 5


def owners_version(parts: OwnerParts, dataset: Dataset, number: int | None = None) -> OpenVersion:
    """A version in the owner's compartment, by default the newest; raises NotFound."""
    with parts.catalog.read() as transaction:
        row = transaction.compartment(parts.owner, dataset.id)
    try:
        if row is not None:
            return open_version(parts, parts.keyring, row, number)
    except NotFound as error:
        raise _no_version(dataset, number) from error
    raise _no_version(dataset, number)


def _no_version(dataset: Dataset, number: int | None) -> NotFound:
    return NotFound(f"the dataset '{dataset.name}' has no version{'' if number is None else f' {number}'}")


def fill_compartment(
    parts: OwnerParts,
    vendor: Holder,
    dataset: Dataset,
    extra: Grant | None,
    then: Callable[[Transaction], HeadRow] | None = None,
) -> None:
    """Bring a vendor's compartment to what its grants (and ``extra``) need of the newest version.

    Where ``extra`` is pinned to a version, of that one. ``then`` runs in the same transaction. When a newer version was
    committed in the meantime, or other grants were, the copy goes on from there: nothing is copied twice.
    """
    for _ in range(_TRIES):
        try:
            heads = _fill_once(parts, vendor, dataset, extra, then)
        except Conflict:
            continue
        parts.heads.announce(heads)
        return
    raise Conflict("the dataset kept changing while the grant was made; try again")


def _fill_once(
    parts: OwnerParts,
    vendor: Holder,
    dataset: Dataset,
    extra: Grant | None,
    then: Callable[[Transaction], HeadRow] | None,
) -> list[HeadRow]:
    sealer = parts.sealer()
    owners = owners_version(parts, dataset, extra.pinned if extra is not None else None)

    def needed(transaction: Transaction) -> Needs | None:
        live = needs_of(parts, transaction, sealer, dataset.id, parts.clock(), frozen_too=True, extra=extra)
        found = live.get(vendor.id, Needs())
        return found if extra is not None or found.latest is not None else None

    with parts.catalog.read() as transaction:
        wanted = needed(transaction)
    if wanted is None:
        return []
    job = begin_job(parts.catalog, "fan-out", parts.clock)
    publisher = parts.signers.publisher()
    try:
        copy = begin_copy(parts, job, vendor, dataset.id, wanted, owners.manifest.version)
        shapes = {group: group_shape(owners.manifest, group) for group in owners.manifest.groups}
        fill(parts, job, copy, shapes, owners.manifest.parts, owners.load, owners.keys)
        current = copy.is_current(owners)
        if not current:
            copy.stage(owners.manifest, owners.load, publisher)
        told = (
            {} if current else copy.told(dataset.name, layout_of(owners.manifest, owners.load, parts.engine.map), job)
        )
        parts.store.settle(job.folder)
        with parts.catalog.write() as transaction:
            place = CompartmentRow(owners.head.compartment, owners.head.holder, owners.head.dataset)
            head = parts.heads.compartment_in(transaction, place)
            if head is None or head.digest != owners.head.digest or needed(transaction) != wanted:
                raise Conflict("the dataset changed in the meantime")
            job.finish(transaction)
            transaction.delete_steps(job.id)
            heads = [] if current else [copy.commit(transaction, publisher)]
            if heads:
                parts.journal.record_in(transaction, Kind.FANNED_OUT, **told)
            if then is not None:
                heads.append(then(transaction))
    except BaseException:
        job.abandon()
        raise
    return heads
