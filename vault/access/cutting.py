"""Parts of a read: so many readers have each some shards of a version, and all of them together the whole.

Which part a shard is in must not tell how many shards there are where that is not to be told: a vendor would see, from
which of many parts have rows, how much of the dataset it does not see. There each shard's part is drawn by lot, under a
key that the vendor does not have, whatever other shards there are.
"""

from bisect import bisect_left
from itertools import accumulate

import numpy as np
import pyarrow as pa

from vault.access.permits import Permitted
from vault.derivation import lot_key, lots
from vault.manifest import Listing
from vault.workings.parts import Parts, own_metadata_key

__all__ = ["drawn", "shards_of_part"]


def shards_of_part(parts: Parts, allowed: Permitted) -> pa.Array | None:
    """The numbers of the shards that a permit's part is of, ascending; None where it is of all.

    Raises what opening a manifest's parts does.
    """
    permit = allowed.permit
    if permit.part is None:
        return None
    index, of = permit.part
    # All column groups have the same shards, which the plan checks of those that it reads.
    group = min(column.group for column in permit.columns)
    if not allowed.closed:
        return _neighbours(allowed, group, index, of)
    listing = allowed.version.listing(group)
    if listing is None:
        return pa.array([], pa.int32())
    numbers = _numbers(listing)
    key = lot_key(own_metadata_key(parts, permit.vendor), permit.compartment)
    return pa.array(numbers[drawn(key, int(numbers.max(initial=-1)) + 1, of)[numbers] == index], pa.int32())


def drawn(key: bytes, shards: int, of: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """For each of so many shards one of ``of`` parts: its lot, modulo ``of``."""
    return np.frombuffer(lots(key, shards), "<u8") % np.uint64(of)


def _neighbours(allowed: Permitted, group: str, index: int, of: int) -> pa.Array:
    """The shards from ``index * S // of`` to ``(index + 1) * S // of``, out of what lists those alone."""
    version = allowed.version
    runs = version.manifest.parts_of(group)
    behind = list(accumulate(run.chunks for run in runs))
    total = behind[-1] if behind else 0
    first, end = index * total // of, (index + 1) * total // of
    if first == end:
        return pa.array([], pa.int32())
    wanted = slice(bisect_left(behind, first + 1), bisect_left(behind, end) + 1)
    numbers = np.concatenate([_numbers(listing) for listing in version.load.all(runs[wanted])])
    start = first - (behind[wanted.start] - runs[wanted.start].chunks)
    return pa.array(numbers[start : start + end - first], pa.int32())


def _numbers(listing: Listing) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.asarray(listing.shards.combine_chunks(), np.int32)
