"""Where a time axis has its marks: at round times, evenly, as a calendar has them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["marks"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: A Monday.
_WEEKS: Final = datetime(1970, 1, 5, tzinfo=UTC)
_MOST: Final = 8
_SECONDS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAYS: Final = (1, 2, 7, 14)
_MONTHS: Final = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600)
_DAY: Final = 86_400


def marks(first: int, last: int) -> list[tuple[int, str]]:
    """Times between two, both in microseconds since 1970, and how each is written; at most eight.

    They are so many seconds, minutes, hours, days, weeks, months or years apart. Where there is no round time between
    the two, the first one is the only mark.
    """
    begin, end = _EPOCH + timedelta(microseconds=first), _EPOCH + timedelta(microseconds=last)
    span = (last - first) / 1_000_000
    found, form = [begin], "%m-%d %H:%M:%S"
    for seconds in (*_SECONDS, *(days * _DAY for days in _DAYS)):
        if span / seconds <= _MOST - 1:
            found = list(_steps(begin, end, timedelta(seconds=seconds))) or found
            form = "%m-%d %H:%M:%S" if seconds < 60 else "%m-%d %H:%M" if seconds < _DAY else "%Y-%m-%d"
            break
    else:
        for months in _MONTHS:
            found = list(_months(begin, end, months))
            form = "%Y-%m-%d"
            if len(found) <= _MOST:
                break
    return [((at - _EPOCH) // timedelta(microseconds=1), f"{at:{form}}") for at in found]


def _steps(begin: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    at = begin + (_WEEKS - begin) % step
    while at <= end:
        yield at
        at += step


def _months(begin: datetime, end: datetime, step: int) -> Iterator[datetime]:
    month = begin.year * 12 + begin.month - 1
    month -= month % step
    while month // 12 <= end.year:
        at = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        if begin <= at <= end:
            yield at
        month += step
