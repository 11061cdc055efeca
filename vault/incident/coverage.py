"""The coverage proof: what a vendor has left is under keys of after the incident, and of before nothing is left.

`cover` runs behind the rekey: every chunk that is live in the compartments opens under its new key and under no
earlier one, by the footers alone. `left_behind` runs behind gc: no wrapped key, no manifest and no object of before is
there. Both raise where it is not so; what they return is what the log and the evidence say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vault.catalog import CompartmentRow, Transaction
from vault.errors import IntegrityError, NotFound
from vault.manifest import ChunkRef
from vault.scrub import try_keys
from vault.workings.containment import Before
from vault.workings.names import Dataset, Holder
from vault.workings.parts import OwnerParts
from vault.workings.usage import survey
from vault.workings.versions import OpenVersion, live_versions

__all__ = ["Place", "cover", "has_moved", "left_behind"]


@dataclass(frozen=True, slots=True)
class Place:
    """A compartment of the vendor's, and the dataset that it is a copy of."""

    row: CompartmentRow
    dataset: Dataset


def has_moved(parts: OwnerParts, place: Place, before: Before) -> bool:
    """Whether all that is live in a compartment is under a key of after the incident."""
    with parts.catalog.read() as transaction:
        head = parts.heads.compartment_in(transaction, place.row)
    then = before.epochs.get(place.row.id, {})
    return head is None or all(head.epochs[group][0] > then.get(group, 0) for group in head.live_groups)


def cover(parts: OwnerParts, places: Sequence[Place], before: Before) -> dict[str, Any]:
    """Open the end of every live chunk of these compartments; returns the figures.

    Raises IntegrityError for a chunk that is under an earlier key, or opens under one, or is not there.
    """
    parts.manifests.clear()  # what this process has in memory says nothing about the store
    return {"compartments": [_cover_one(parts, place, before) for place in places]}


def _cover_one(parts: OwnerParts, place: Place, before: Before) -> dict[str, Any]:
    then = before.epochs.get(place.row.id, {})
    head, versions = live_versions(parts, place.row)
    live = {group: head.epochs[group][0] for group in head.live_groups} if head is not None else {}
    stale = sorted(group for group, epoch in live.items() if epoch <= then.get(group, 0))
    if stale:
        raise IntegrityError(
            f"the key of column group {stale[0]} of '{place.dataset.name}' is one of before the incident"
        )
    chunks = size = tries = 0

    def task(found: tuple[ChunkRef, OpenVersion]) -> tuple[int, int]:
        ref, version = found
        try:
            return ref.size, try_keys(parts, ref, version, epochs=True)
        except (IntegrityError, NotFound) as error:
            raise IntegrityError(f"chunk {ref.chunk} (shard {ref.shard} of '{place.dataset.name}'): {error}") from error

    for found, tried in parts.engine.map(task, _chunks(versions)):
        chunks, size, tries = chunks + 1, size + found, tries + tried
    return {
        "compartment": place.row.id,
        "dataset": place.dataset.name,
        "dataset_id": place.dataset.id,
        "head": head.sequence if head is not None else 0,
        "versions": sorted(version.manifest.version for version in versions),
        "before": dict(then),
        "now": live,
        "chunks": chunks,
        "bytes": size,
        "earlier_keys_tried": tries,
    }


def _chunks(versions: Sequence[OpenVersion]) -> Iterator[tuple[ChunkRef, OpenVersion]]:
    """Every live chunk once, though versions share some."""
    seen: set[str] = set()
    for version in versions:
        for ref in version.refs():
            if ref.chunk not in seen:
                seen.add(ref.chunk)
                yield ref, version


def left_behind(parts: OwnerParts, vendor: Holder, places: Sequence[Place], before: Before) -> dict[str, Any]:
    """What is left of before the incident; raises IntegrityError where anything is.

    ``in_doubt`` counts objects that may be in use by somebody whose KMS key is refused, with the reasons.
    """
    with parts.catalog.read() as transaction:
        _refuse_old_rows(transaction, vendor, places, before)
    listed = list(parts.store.list("objects"))
    usage = survey(parts)
    if usage.faults:
        raise IntegrityError(f"what is in use is not certain: {usage.faults[0]}")
    unnamed = [info for info in listed if info.name not in usage.objects and info.name.split("/")[1] not in usage.busy]
    if unnamed and not usage.closed:
        raise IntegrityError(f"{len(unnamed)} objects are left in the store that nothing names")
    return {
        "objects": 0,
        "manifests": 0,
        "wrapped_keys": 0,
        "in_doubt": len(unnamed),
        "why": sorted(set(usage.closed.values())) if unnamed else [],
    }


def _refuse_old_rows(transaction: Transaction, vendor: Holder, places: Sequence[Place], before: Before) -> None:
    for place in places:
        then: Mapping[str, int] = before.epochs.get(place.row.id, {})
        if any(row.retired is not None for row in transaction.versions(place.row.id)):
            raise IntegrityError(f"a superseded manifest of '{place.dataset.name}' is left in the catalog")
        if any(row.epoch <= then.get(row.group, 0) for row in transaction.keys(place.row.id)):
            raise IntegrityError(f"a wrapped key of '{place.dataset.name}' of before the incident is in the catalog")
    if any(row.kms_key == before.kms_key for row in transaction.keys_of_holder(vendor.id)):
        raise IntegrityError(f"a data key of '{vendor.name}' is under the KMS key of before the incident")
