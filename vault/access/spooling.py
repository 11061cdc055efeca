"""Shared files: one plain Parquet file for each shard of a permit, built once, and spooled sealed in the object store.

A file holds the granted columns and the rows that leave, as a stream would deliver them, and nothing that knows of
others: it is written anew from those rows. What seals it follows from the data keys of every column group that is
read, the filter's among them: who may not unwrap all of them does not have it, and a rekey leaves it to nobody. Its
name follows from the vendor's metadata key and from all that decides what is in it, so that the next request, and
another broker, find it. No row is ever on a disk, or in the store, in the clear.
"""

import hmac
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import xxhash

from vault import delta, spool
from vault.access.permits import Permitted, mask_key, masks_of
from vault.access.plainfile import ENCODER, PlainFile
from vault.audit import Kind
from vault.delta import Shape
from vault.derivation import spool_facts_key, spool_key, spool_name
from vault.encoding import canonical
from vault.errors import Conflict, IntegrityError, NotFound
from vault.fields import shown
from vault.keyring import KeySource, WrappedKey
from vault.rowsets import Gathered
from vault.trust import Grant
from vault.workings.parts import Parts, own_metadata_key, trusted_now
from vault.workings.reading import ReadPlan, leaving_schema, read_batches

__all__ = [
    "Damaged",
    "Spool",
    "Spooled",
    "damaged",
    "data_keys",
    "discard",
    "facts_of",
    "segments_of",
    "shape_of",
    "spool_bound",
]

_LOG = logging.getLogger("dsvault.spool")
#: What is read of an object at first: prefix and facts, in nearly every case.
_AT_FIRST: Final = 4096


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file in the spool, or with no rows the note that a shard has none for this permit.

    ``head`` bytes of its object come before its segments; ``charged`` is what its rows come to as a stream.
    ``checksum`` is of its bytes: ranges that were read before it was built anew go with those behind.
    """

    object: str
    binding: str
    checksum: str
    head: int
    size: int
    rows: int
    charged: int
    shard: int


def shape_of(allowed: Permitted) -> Shape:
    """How the files of a permit look."""
    manifest, permit = allowed.version.manifest, allowed.permit
    return delta.shape_of(leaving_schema(manifest.schema, permit.columns, masks_of(permit.grant, permit.columns)))


def spool_bound(parts: Parts, vendor: str, name: str, binding: str) -> bytes:
    """What every sealed piece of an object is bound to."""
    return spool.bound_to(parts.vault, vendor, name, binding)


def facts_of(parts: Parts, vendor: str, name: str, binding: str, head: int | None = None) -> tuple[Any, bytes, int]:
    """What is said of a spooled file, its salt, and where its segments begin; ``head`` is that, where it is known.

    Raises NotFound, and Damaged for an object that is not what was put under that name.
    """
    metadata = own_metadata_key(parts, vendor)
    if head is None:
        size = parts.store.size(name)
        if size is None:
            raise NotFound("nothing is spooled under that name")
        head = min(size, _AT_FIRST)
    with _looked_into():
        data = parts.store.get_range(name, 0, head)
        prefix = spool.Prefix.parse(data)
        if prefix.head > len(data):
            data = parts.store.get_range(name, 0, prefix.head)
        key = spool_facts_key(metadata, prefix.salt)
        facts = spool.open_facts(data[: prefix.head], key, spool_bound(parts, vendor, name, binding))
    return facts, prefix.salt, prefix.head


def segments_of(parts: Parts, name: str, head: int, found: spool.Window, key: bytes, bound: bytes) -> bytes:
    """The plain bytes of some segments behind an object's head; raises as `facts_of` does."""
    with _looked_into():
        return found.open(parts.store.get_range(name, head + found.start, head + found.end), key, bound)


class Damaged(IntegrityError):
    """An object of the spool is not as it was put."""


@contextmanager
def _looked_into() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Damaged(str(error)) from error


def discard(parts: Parts, grant: Grant, vendor: str, name: str) -> None:
    """Remove an object that is not as it was put, once that is written down; raises AuditError and Unavailable."""
    damaged(parts, grant, vendor, name, "changed")
    parts.store.delete(name)


def damaged(parts: Parts, grant: Grant, vendor: str, name: str, found: str) -> None:
    """Write down that an object was found ``changed`` or ``missing``, where it is built anew or removed for that."""
    told = {"vendor": grant.vendor_name, "vendor_id": vendor, "grant": grant.id, "dataset": grant.dataset_name}
    parts.journal.record(Kind.FILE_DAMAGED, **told, dataset_id=grant.dataset, object=name, found=found)
    parts.spools.happened("damaged")
    _LOG.warning("the spooled file %s was found %s, and is built anew for whoever asks for it", name, found)


def data_keys(keys: Mapping[str, WrappedKey], groups: Any, hashing: WrappedKey | None) -> list[WrappedKey]:
    """The keys that a file's follows from, in their fixed order: by group, and behind them the mask key."""
    return [*(keys[group] for group in sorted(groups)), *([hashing] if hashing is not None else [])]


class Spool:
    """The files of one permit, each found or built when it is asked for; ``go_on`` raises what ends a wait for one."""

    def __init__(
        self,
        parts: Parts,
        allowed: Permitted,
        plan: ReadPlan,
        keys: KeySource,
        end: int,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        permit = allowed.permit
        self._parts, self._vendor, self._plan, self._keys = parts, permit.vendor, plan, keys
        self._shape, self._end, self._go_on = shape_of(allowed), end, go_on
        self._grant = permit.grant
        hashing = mask_key(parts, permit.vendor) if any(mask.keyed for mask in plan.masks.values()) else None
        self._wrapped = data_keys(plan.version.keys, plan.groups, hashing)
        self._hashing = hashing
        self._about = spool.About(
            parts.vault,
            permit.vendor,
            permit.grant_digest,
            permit.version,
            plan.content,
            [(column.id, _fields(column.fields)) for column in permit.columns],
            [(key.scope.group, key.scope.epoch, key.key_id) for key in self._wrapped],
            permit.delegations,
            self._shape.text,
            ENCODER,
            end,
        )

    def shard_of(self, binding: str) -> int | None:
        """The shard whose file a binding is of; None where it is none of these files."""
        shards = (shard for first, last in self._plan.shards for shard in range(first, last + 1))
        return next((shard for shard in shards if hmac.compare_digest(self._about.binding(shard), binding)), None)

    def file(self, shard: int) -> Spooled:
        """The file of a shard's rows; raises what reading it does, and LimitReached where the spool is full.

        One that is not as it was put is built anew, by one request, for which others wait.
        """
        binding = self._about.binding(shard)
        key = own_metadata_key(self._parts, self._vendor)
        name = spool.object_name(self._end, self._vendor, spool_name(key, bytes.fromhex(binding)))
        try:
            return self._found(name, binding)
        except (NotFound, Damaged):
            pass
        with self._parts.spools.turn(name, self._go_on):
            try:
                return self._found(name, binding)
            except NotFound:
                pass
            except Damaged:
                discard(self._parts, self._grant, self._vendor, name)
            return self.build(shard, name, binding)

    def build(self, shard: int, name: str, binding: str) -> Spooled:
        """Put the file of a shard's rows, for whoever has the turn; raises as `file` does."""
        # Where another process was first, it sealed the same rows under a key of its own.
        with suppress(Conflict):
            self._build(shard, name, binding)
        return self._found(name, binding)

    def _found(self, name: str, binding: str) -> Spooled:
        facts, _, head = facts_of(self._parts, self._vendor, name, binding)
        size, rows, charged, shard = (facts[each] for each in ("size", "rows", "charged", "shard"))
        return Spooled(name, binding, facts["checksum"], head, size, rows, charged, shard)

    def _build(self, shard: int, name: str, binding: str) -> None:
        parts, gathered, file = self._parts, Gathered(), PlainFile(self._shape)
        for placed in read_batches(parts, self._keys, replace(self._plan, among=pa.array([shard], pa.int32()))):
            first = placed.first
            gathered.add(shard, first, first + placed.batch.num_rows, placed.of, placed.keep)
            file.add(placed.batch)
        data = file.end()
        facts = {**self._said(), "shard": shard, "size": len(data), "rows": file.rows}
        facts |= {"charged": file.charged, "served": gathered.take()}
        facts["checksum"] = xxhash.xxh3_128_hexdigest(data)
        salt, bound = spool.new_salt(), spool_bound(parts, self._vendor, name, binding)
        key = spool_key([self._keys.open(each) for each in self._wrapped], salt, bound) if data else None
        facts_key = spool_facts_key(own_metadata_key(parts, self._vendor), salt)

        def produce(write: Callable[[Any], object]) -> None:
            for piece in spool.sealed(facts, facts_key, data, key, salt, bound):
                write(memoryview(piece))

        with parts.spools.room(parts.spool, name, spool.sealed_size(facts, len(data)), trusted_now(parts)):
            parts.store.put_pieces(name, produce)

    def _said(self) -> dict[str, Any]:
        """What an entry of the log will say of each read of a file, and what has to hold for it still."""
        plan, grant = self._plan, self._grant
        return {
            "vendor": grant.vendor_name,
            "grant": grant.id,
            "purpose": grant.purpose,
            "dataset": grant.dataset_name,
            "dataset_id": grant.dataset,
            "version": plan.version.manifest.version,
            "columns": [name for column in plan.columns for name in column.shown],
            "column_ids": [column.id for column in plan.columns],
            "masks": {shown(path): mask.text for path, mask in plan.masks.items()},
            "held": dict(plan.held),
            "filtered": bool(plan.filters),
            "keys": [key.key_id for key in self._wrapped],
            "hashed": self._hashing is not None,
        }


def _fields(paths: Any) -> bytes:
    return b"" if paths is None else canonical(*(canonical(*path) for path in paths))
