"""Which keys were in which hands: data keys that processes had unwrapped, and chunk keys that leases handed out."""

from collections.abc import Iterator, Mapping

import numpy as np

from vault.exposure.amounts import Column
from vault.exposure.exposure import Chunks, Unwrapped
from vault.exposure.gathering import Gathering
from vault.exposure.world import World

__all__ = ["chunk_keys", "data_keys"]


def data_keys(found: Gathering, world: World, numbers: Mapping[str, Column]) -> Iterator[Unwrapped]:
    """The data keys that were in use for the vendor."""
    counts = np.bincount(numbers["keys"], minlength=len(found.keys.values)).tolist()
    used: dict[tuple[str, str, int], int] = {}
    for keys, count in zip(found.keys.values, counts, strict=True):
        for group, epoch in keys.epochs:
            place = keys.compartment, group, epoch
            used[place] = used.get(place, 0) + count
    own = {found.vendor} | {keys.compartment for keys in found.keys.values}
    own |= {place for place, (vendor, _) in world.compartments.items() if vendor == found.vendor}
    rest = dict(used)
    for (compartment, group, epoch, process), tally in sorted(found.unwrapped.items()):
        if compartment in own:
            place = compartment, group, epoch
            rest.pop(place, None)
            yield Unwrapped(
                compartment, world.dataset_of(compartment), group, _named(world, group), epoch, process,
                tally.count, tally.first, tally.last, used.get(place, 0),
            )  # fmt: skip
    for (compartment, group, epoch), count in sorted(rest.items()):
        yield Unwrapped(
            compartment, world.dataset_of(compartment), group, _named(world, group), epoch, None, 0, None, None, count
        )


def chunk_keys(found: Gathering, world: World) -> Iterator[Chunks]:
    """The chunks whose keys were handed out."""
    for (compartment, group, epoch), data in sorted(found.leased.items()):
        ids = np.frombuffer(b"".join(data), dtype=np.uint8).reshape(-1, 16)
        yield Chunks(
            compartment, world.dataset_of(compartment), group, _named(world, group), epoch, np.unique(ids, axis=0)
        )


def _named(world: World, group: str) -> tuple[str, ...]:
    return tuple(sorted(world.groups.get(group, ())))
