"""Sets of whole numbers as runs: arrays of shape (n, 2), each run from its first number up to its stop, exclusive.

Runs are ascending and apart from each other. Pure functions, vectorised: none loops over runs or numbers.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["NONE", "Numbers", "Runs", "common", "holds", "joined", "length", "minus", "of_pairs"]

Runs = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]

NONE: Final[Runs] = np.empty((0, 2), dtype=np.int64)


def of_pairs(pairs: npt.ArrayLike) -> Runs:
    """Any pairs of a first number and a stop, in any order and overlapping, as runs."""
    found = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    full = found[:, 1] > found[:, 0]
    if not full.all():
        found = found[full]
    if len(found) < 2:
        return found.copy()
    # Sorted apart from each other: where as many have stopped as begun there is a gap, whichever belong together.
    firsts, stops = np.sort(found[:, 0]), np.sort(found[:, 1])
    gaps = firsts[1:] > stops[:-1]
    begins, ends = np.concatenate([[True], gaps]), np.concatenate([gaps, [True]])
    return np.stack([firsts[begins], stops[ends]], axis=1)


def holds(runs: Runs, numbers: Numbers) -> _Flags:
    """For each number whether it is in the set."""
    begun = np.searchsorted(runs[:, 0], numbers, side="right")
    over = np.searchsorted(runs[:, 1], numbers, side="right")
    return begun > over


def _combined(one: Runs, other: Runs, rule: Callable[[_Flags, _Flags], _Flags]) -> Runs:
    edges = np.unique(np.concatenate([one.ravel(), other.ravel()]))
    if not len(edges):
        return NONE
    kept = rule(holds(one, edges), holds(other, edges))[:-1]
    return of_pairs(np.stack([edges[:-1][kept], edges[1:][kept]], axis=1))


def joined(one: Runs, other: Runs) -> Runs:
    """The numbers of either."""
    if not len(one) or not len(other):
        return one if len(one) else other
    return of_pairs(np.concatenate([one, other]))


def common(one: Runs, other: Runs) -> Runs:
    """The numbers of both."""
    if len(one) == 1:
        one, other = other, one
    if len(other) == 1:
        # Mostly there is one run of all that there is.
        cut = np.clip(one, other[0, 0], other[0, 1])
        return cut[cut[:, 1] > cut[:, 0]]
    return _combined(one, other, np.logical_and)


def minus(one: Runs, other: Runs) -> Runs:
    """The numbers of the one that the other lacks."""
    if not len(one) or not len(other):
        return one
    return _combined(one, other, lambda mine, theirs: mine & ~theirs)


def length(runs: Runs) -> int:
    """How many numbers there are."""
    return int((runs[:, 1] - runs[:, 0]).sum())
