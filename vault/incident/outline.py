"""What a containment would do, and about how long it would take. Nothing is changed.

The time is an estimate from a sample: some of the chunks that there are to rekey are read, encrypted anew under a key
that is thrown away, and written to a temporary file that is never more than ciphertext.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vault.chunks import rekey_into
from vault.derivation import chunk_key
from vault.encoding import new_id
from vault.incident.containing import places_of
from vault.incident.coverage import Place, has_moved
from vault.manifest import ChunkRef
from vault.model import ChunkIdentity
from vault.rotate import Planned, plan
from vault.workings.containment import known_case
from vault.workings.parts import OwnerParts
from vault.workings.putting import source_of
from vault.workings.reading import identity_of
from vault.workings.steps import present_vendor
from vault.workings.versions import OpenVersion, live_versions

__all__ = ["Outline", "outline"]

#: How much is rekeyed for the sample, in bytes.
_SAMPLE: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Outline:
    """What is to be done about a vendor: what would end, what would be rekeyed, and what would be rewrapped.

    ``rate`` is in bytes a second as they were measured on ``sampled`` bytes, and ``seconds`` what follows for the rekey
    alone; both are None where there is nothing to rekey.
    """

    vendor: str
    frozen: bool
    grants: int
    credentials: int
    compartments: tuple[Planned, ...]
    data_keys: int
    kms_key: str
    sampled: int
    rate: int | None
    seconds: int | None

    @property
    def chunks(self) -> int:
        """The chunks to rekey."""
        return sum(each.chunks for each in self.compartments)

    @property
    def bytes(self) -> int:
        """The bytes to rekey."""
        return sum(each.bytes for each in self.compartments)


def outline(parts: OwnerParts, vendor_name: str, names: Sequence[str] | None = None) -> Outline:
    """What `contain` of the same would do from here; raises what it does where the vendor or a dataset is unknown."""
    vendor = present_vendor(parts, vendor_name)
    places = places_of(parts, vendor, names)
    with parts.catalog.read() as transaction:
        head = parts.heads.vendor_in(transaction, vendor.id)
        pending = [
            row for row in transaction.grants(vendor=vendor.id) if row.settled is None and row.id not in head.grants
        ]
        keys = transaction.keys_of_holder(vendor.id)
    before = known_case(parts, vendor) if head.frozen else None
    waiting = [place for place in places if before is None or not has_moved(parts, place, before)]
    planned = tuple(
        each for place in waiting if not place.dataset.deleted for each in plan(parts, vendor.name, place.dataset.name)
    )
    sampled, taken = _sample(parts, waiting)
    rate = max(1, int(sampled / taken)) if sampled else None
    size = sum(each.bytes for each in planned)
    return Outline(
        vendor.name,
        head.frozen,
        len(head.grants) + len(pending),
        len(head.credentials),
        planned,
        len(keys) if before is None or before.kms_key == vendor.kms_key else 0,
        vendor.kms_key,
        sampled,
        rate,
        math.ceil(size / rate) if rate is not None else None,
    )


def _sample(parts: OwnerParts, places: Sequence[Place]) -> tuple[int, float]:
    """How many bytes were rekeyed in how many seconds, on as many threads as a rekey has."""

    def task(found: tuple[ChunkRef, OpenVersion]) -> int:
        ref, version = found
        source = source_of(parts, ref, version.keys[ref.group])
        old, new = identity_of(source.key, ref), ChunkIdentity(source.key.scope, new_id())
        with tempfile.TemporaryFile(buffering=0) as file:
            rekey_into(source.data, chunk_key(source.data_key, old), old, os.urandom(32), new, file.write)
            os.fsync(file.fileno())
        return ref.size

    chunks = list(_first_chunks(parts, places))
    for version in {id(version): version for _, version in chunks}.values():
        for key in version.keys.values():
            parts.keyring.open(key)  # asking the KMS is not what is measured
    began = time.perf_counter()
    size = sum(parts.engine.map(task, chunks))
    return size, time.perf_counter() - began


def _first_chunks(parts: OwnerParts, places: Sequence[Place]) -> Iterator[tuple[ChunkRef, OpenVersion]]:
    size = 0
    for place in places:
        for version in live_versions(parts, place.row)[1][-1:]:
            for ref in version.refs():
                if size >= _SAMPLE:
                    return
                size += ref.size
                yield ref, version
