"""Shared files: one plain Parquet file for each shard of a permit, built once, and spooled sealed in the object store.

A file holds the granted columns and the rows that leave, as a stream would deliver them, and nothing that knows of
others: it is written anew from those rows. What seals it follows from the data keys of every column group that is
read, the filter's among them: who may not unwrap all of them does not have it, and a rekey leaves it to nobody. Its
name follows from the vendor's metadata key and from all that decides what is in it, so that the next request, and
another broker, find it. No row is ever on a disk, or in the store, in the clear.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from vault import spool
from vault.access.permits import Permitted, mask_key
from vault.access.plainfile import PlainFile
from vault.delta import Shape
from vault.derivation import spool_facts_key, spool_key, spool_name
from vault.encoding import canonical
from vault.errors import Conflict, LimitReached, NotFound
from vault.fields import shown
from vault.keyring import KeySource, WrappedKey
from vault.model import FORMAT
from vault.rowsets import Gathered
from vault.workings.parts import Parts, own_metadata_key
from vault.workings.reading import ReadPlan, read_batches

__all__ = ["Spool", "Spooled", "data_keys", "facts_of", "spool_bound"]

#: What is read of an object at first: prefix and facts, in nearly every case.
_AT_FIRST: Final = 4096


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file in the spool, or with no rows the note that a shard has none for this permit.

    ``head`` bytes of its object come before its segments; ``charged`` is what its rows come to as a stream.
    """

    object: str
    binding: str
    head: int
    size: int
    rows: int
    charged: int
    shard: int


def spool_bound(parts: Parts, vendor: str, name: str, binding: str) -> bytes:
    """What every sealed piece of an object is bound to."""
    return canonical("dsvault spool", FORMAT[0], parts.vault, vendor, name, binding)


def facts_of(parts: Parts, vendor: str, name: str, binding: str, head: int | None = None) -> tuple[Any, bytes, int]:
    """What is said of a spooled file, its salt, and where its segments begin; ``head`` is that, where it is known.

    Raises NotFound, and IntegrityError for an object that is not what was put under that name.
    """
    if head is None:
        size = parts.store.size(name)
        if size is None:
            raise NotFound("nothing is spooled under that name")
        head = min(size, _AT_FIRST)
    data = parts.store.get_range(name, 0, head)
    prefix = spool.Prefix.parse(data)
    if prefix.head > len(data):
        data = parts.store.get_range(name, 0, prefix.head)
    key = spool_facts_key(own_metadata_key(parts, vendor), prefix.salt)
    facts = spool.open_facts(data[: prefix.head], key, spool_bound(parts, vendor, name, binding))
    return facts, prefix.salt, prefix.head


def data_keys(keys: Mapping[str, WrappedKey], groups: Any, hashing: WrappedKey | None) -> list[WrappedKey]:
    """The keys that a file's follows from, in their fixed order: by group, and behind them the mask key."""
    return [*(keys[group] for group in sorted(groups)), *([hashing] if hashing is not None else [])]


class Spool:
    """The files of one permit, each found or built when it is asked for."""

    def __init__(
        self, parts: Parts, allowed: Permitted, plan: ReadPlan, keys: KeySource, shape: Shape, end: int
    ) -> None:
        permit = allowed.permit
        self._parts, self._vendor, self._plan, self._keys = parts, permit.vendor, plan, keys
        self._shape, self._end = shape, end
        self._grant = permit.grant
        hashing = mask_key(parts, permit.vendor) if any(mask.keyed for mask in plan.masks.values()) else None
        self._wrapped = data_keys(plan.version.keys, plan.groups, hashing)
        self._hashing = hashing
        self._about = (
            parts.vault,
            permit.vendor,
            permit.grant_digest,
            permit.version,
            plan.content,
            canonical(*(text for column in permit.columns for text in (column.id, _fields(column.fields)))),
            canonical(*(text for key in self._wrapped for text in (key.scope.group, key.scope.epoch, key.key_id))),
            canonical(*permit.delegations),
            shape.text,
            end,
        )
        self._room: _Room | None = None

    def file(self, shard: int) -> Spooled:
        """The file of a shard's rows; raises what reading it does, and LimitReached where the spool is full."""
        binding = hashlib.sha256(canonical("dsvault spool binding", FORMAT[0], *self._about, shard)).hexdigest()
        key = own_metadata_key(self._parts, self._vendor)
        name = spool.object_name(self._end, self._vendor, spool_name(key, bytes.fromhex(binding)))
        try:
            return self._found(name, binding)
        except NotFound:
            pass
        # Where another process was first, it sealed the same rows under a key of its own.
        with suppress(Conflict):
            self._build(shard, name, binding)
        return self._found(name, binding)

    def _found(self, name: str, binding: str) -> Spooled:
        facts, _, head = facts_of(self._parts, self._vendor, name, binding)
        return Spooled(name, binding, head, facts["size"], facts["rows"], facts["charged"], facts["shard"])

    def _build(self, shard: int, name: str, binding: str) -> None:
        gathered, file = Gathered(), PlainFile(self._shape)
        for placed in read_batches(self._parts, self._keys, replace(self._plan, among=pa.array([shard], pa.int32()))):
            first = placed.first
            gathered.add(shard, first, first + placed.batch.num_rows, placed.of, placed.keep)
            file.add(placed.batch)
        data = file.end()
        facts = {**self._said(), "shard": shard, "size": len(data), "rows": file.rows}
        facts |= {"charged": file.charged, "served": gathered.take()}
        salt, bound = spool.new_salt(), spool_bound(self._parts, self._vendor, name, binding)
        key = spool_key([self._keys.open(each) for each in self._wrapped], salt, bound) if data else None
        facts_key = spool_facts_key(own_metadata_key(self._parts, self._vendor), salt)
        if self._room is None:
            self._room = _Room(self._parts, self._vendor)
        self._room.take(len(data))

        def produce(write: Callable[[Any], object]) -> None:
            for piece in spool.sealed(facts, facts_key, data, key, salt, bound):
                write(memoryview(piece))

        self._parts.store.put_pieces(name, produce)

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


class _Room:
    """How much of the spool is left to one vendor, by what there is; counted once for each request that builds."""

    def __init__(self, parts: Parts, vendor: str) -> None:
        now, mine, total = parts.clock(), 0, 0
        for info in parts.store.list(spool.FOLDER):
            total += info.size
            if spool.vendor_of(info.name) == vendor and spool.ends(info.name) > now:
                mine += info.size
        self._mine, self._total = parts.spool.vendor_bytes - mine, parts.spool.total_bytes - total

    def take(self, size: int) -> None:
        """Take room for a file; raises LimitReached where there is none."""
        self._mine, self._total = self._mine - size, self._total - size
        if self._mine < 0:
            raise LimitReached("the files that are spooled for you are as many as may be; fetch some less, or later")
        if self._total < 0:
            raise LimitReached("the vault's spool of shared files is full; ask the lab")


def _fields(paths: Any) -> bytes:
    return b"" if paths is None else canonical(*(canonical(*path) for path in paths))
