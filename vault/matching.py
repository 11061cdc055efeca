"""Matching moments with the spans of time that explain them, each span one moment, as many as can be.

By counting: three moments in reach of two spans leave one over, whoever they were. Which one is left over is decided by
nearness, where that costs no match: the nearest go together first.
"""

import heapq
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

__all__ = ["DEFAULT_SKEW", "unmatched"]

#: How far the clocks of the KMS and of dsvault's machines may be apart, and how long an item may take to be written.
DEFAULT_SKEW: Final = timedelta(minutes=2)

Span = tuple[float, float]


def unmatched(moments: Sequence[float], spans: Sequence[Span], slack: float) -> tuple[list[int], list[int]]:
    """The indices of the moments and of the spans that are left over, in seconds and ascending.

    A moment and a span go together where the moment is within ``slack`` of it. No way of matching leaves fewer over.
    """
    fewest = _round(moments, spans, range(len(moments)), range(len(spans)), slack)
    left: tuple[list[int], list[int]] = list(range(len(moments))), list(range(len(spans)))
    for near in [each for each in (0.0, 0.1, 1.0, 5.0, 30.0) if each < slack]:
        left = _round(moments, spans, left[0], left[1], near)
    nearest = _round(moments, spans, left[0], left[1], slack)
    return nearest if len(nearest[0]) == len(fewest[0]) else fewest


def _round(
    moments: Sequence[float], spans: Sequence[Span], which: Sequence[int], whose: Sequence[int], slack: float
) -> tuple[list[int], list[int]]:
    """Each moment in turn takes the span in reach that ends first: none that comes later could need it more."""
    ordered = sorted(whose, key=lambda index: spans[index][0])
    reach: list[tuple[float, int]] = []
    over: list[int] = []
    spare: list[int] = []
    upto = 0
    for index in sorted(which, key=lambda index: moments[index]):
        moment = moments[index]
        while upto < len(ordered) and spans[ordered[upto]][0] - slack <= moment:
            heapq.heappush(reach, (spans[ordered[upto]][1] + slack, ordered[upto]))
            upto += 1
        while reach and reach[0][0] < moment:
            spare.append(heapq.heappop(reach)[1])
        if reach:
            heapq.heappop(reach)
        else:
            over.append(index)
    spare += [index for _, index in reach] + ordered[upto:]
    return sorted(over), sorted(spare)
