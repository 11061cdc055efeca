"""How the rows of a version are cut into shards, in few words: what the log says of it.

A run of neighbouring shards that have as many rows each, and are the same vendor's or nobody's, is one item, so that a
version of a million shards that are alike takes a line.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vault.manifest.listing import Listing
from vault.manifest.parts import Part
from vault.manifest.sealed import Manifest

__all__ = ["Layout", "layout_of", "open_to", "shards_of"]

#: ``[first shard, last shard, rows of each, id of the holder that they are assigned to or None]``, ascending.
Layout = list[list[Any]]


def layout_of(
    manifest: Manifest,
    load: Callable[[Part], Listing],
    over: Callable[[Callable[[Part], Listing], Iterable[Part]], Iterable[Listing]] = map,
) -> Layout:
    """The layout of a version; ``load`` opens its parts, those of one column group, and ``over`` maps it over them."""
    parts = manifest.parts_of(manifest.parts[0].group) if manifest.parts else []
    return _layout(list(over(load, parts)))


def _layout(listings: Sequence[Listing]) -> Layout:
    """The shards of one group's listings, in order."""
    if not listings:
        return []
    table = pa.concat_tables([each.table.select(["shard", "rows", "assigned"]) for each in listings])
    shards, rows = (table.column(name).to_numpy() for name in ("shard", "rows"))
    holders = table.column("assigned").combine_chunks().dictionary_encode()
    numbers = holders.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    breaks = np.flatnonzero((np.diff(shards) != 1) | (np.diff(rows) != 0) | (np.diff(numbers) != 0))
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(shards) - 1]])
    names = [*holders.dictionary.to_pylist(), None]
    return [
        [int(shards[first]), int(shards[last]), int(rows[first]), names[numbers[first]]]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        if last >= 0
    ]


def open_to(layout: Layout, holder: str) -> list[list[int]]:
    """The shards that are assigned to nobody else, as runs: the first and the last of each."""
    found: list[list[int]] = []
    for first, last, _, assigned in layout:
        if assigned not in {None, holder}:
            continue
        if found and found[-1][1] + 1 == first:
            found[-1][1] = last
        else:
            found.append([first, last])
    return found


def shards_of(runs: Iterable[Sequence[Sequence[Any]]]) -> list[list[int]]:
    """The shards that are in any of several layouts or lists of runs, as runs."""
    found: list[list[int]] = []
    for first, last in sorted((run[0], run[1]) for each in runs for run in each):
        if found and found[-1][1] + 1 >= first:
            found[-1][1] = max(found[-1][1], last)
        else:
            found.append([first, last])
    return found
