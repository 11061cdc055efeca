"""Rows in parts, each of which is read by itself: by one worker of many, or one after the other.

Parts of one version have no row in common, and all together every row.
"""

from typing import Final, NamedTuple

from vault.errors import InvalidInput

__all__ = ["MOST_PARTS", "Extent", "checked_part", "usual_parts"]

#: Into how many parts rows can be cut.
MOST_PARTS: Final = 65_536
#: Into how many they are cut where nothing is said: one for each shard up to so many, or where it is not told.
_MANY: Final = 1024
_UNTOLD: Final = 64


class Extent(NamedTuple):
    """What is read at present: a version, and how many shards it has, None where that is not told."""

    version: int
    shards: int | None


def checked_part(part: tuple[int, int]) -> tuple[int, int]:
    """A part of those that there can be: which, counted from 0, and of how many. Raises InvalidInput."""
    if not (isinstance(part, tuple) and len(part) == 2 and all(type(number) is int for number in part)):
        raise InvalidInput("part: give a number and of how many, such as (0, 8)")
    if not 0 <= part[0] < part[1] <= MOST_PARTS:
        raise InvalidInput(f"part: parts are counted from 0, and there are {MOST_PARTS:,} at the most")
    return part


def usual_parts(of: int | None, extent: Extent) -> int:
    """Into how many parts: ``of``, or as many as there are shards, within reason."""
    if of is None:
        return _UNTOLD if extent.shards is None else min(max(1, extent.shards), _MANY)
    if type(of) is not int or not 1 <= of <= MOST_PARTS:
        raise InvalidInput(f"parts: give a number from 1 to {MOST_PARTS:,}")
    return of
