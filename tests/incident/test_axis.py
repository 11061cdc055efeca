"""Marks of a time axis: round, even, and as many as can be read."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from vault.exposure import Picture, Span
from vault.incident.axis import marks
from vault.incident.page import sketch

START = datetime(2026, 1, 30, 21, 17, 43, tzinfo=UTC)


def _micro(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("length", "texts"),
    [
        (timedelta(seconds=20), ["01-30 21:17:45", "01-30 21:17:50", "01-30 21:17:55", "01-30 21:18:00"]),
        (timedelta(minutes=6), [f"01-30 21:{minute}" for minute in (18, 19, 20, 21, 22, 23)]),
        (timedelta(hours=5), ["01-30 22:00", "01-30 23:00", "01-31 00:00", "01-31 01:00", "01-31 02:00"]),
        (timedelta(days=4), ["2026-01-31", "2026-02-01", "2026-02-02", "2026-02-03"]),
        (timedelta(days=30), ["2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23"]),
        (timedelta(days=150), ["2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01", "2026-06-01"]),
        (timedelta(days=2900), [f"{year}-01-01" for year in range(2027, 2035)]),
    ],
)
def test_marks_are_round(length: timedelta, texts: list[str]) -> None:
    """Whole seconds, minutes, hours, days, Mondays, months and years."""
    assert [text for _, text in marks(_micro(START), _micro(START + length))] == texts


@pytest.mark.parametrize("seconds", [1, 7, 59, 61, 3599, 86_400, 10**6, 10**7, 10**8, 2 * 10**9])
def test_marks_are_few_even_and_within(seconds: int) -> None:
    """From one to eight, in the axis, and as far apart as each other but for the calendar's months."""
    first, last = _micro(START), _micro(START + timedelta(seconds=seconds))
    found = [at for at, _ in marks(first, last)]
    assert 1 <= len(found) <= 8
    assert first <= found[0] <= found[-1] <= last
    apart = [later - earlier for earlier, later in pairwise(found)]
    assert not apart or max(apart) - min(apart) <= max(apart) / 9


def test_what_is_written_is_where_the_mark_is() -> None:
    """Nothing is cut off the time of a mark."""
    for at, text in marks(_micro(START), _micro(START + timedelta(hours=5))):
        assert f"{datetime.fromtimestamp(at / 1e6, UTC):%m-%d %H:%M:%S}" == f"{text}:00"


def test_labels_of_freezes_do_not_lie_on_each_other() -> None:
    """They go into lanes; where there is none left the older one has none, and the newest has one in any case."""
    day = 86_400_000_000
    spans = tuple(Span(at * day, (at + 1) * day) for at in range(10, 20, 2))
    drawn = sketch(Picture(0, 100 * day, (), (*spans, Span(90 * day, None))))
    labelled = [box for box in drawn["frozen"] if box.text]
    assert labelled[0].text == "frozen 1970-04-01 00:00:00"
    assert len(drawn["frozen"]) == 6
    assert len(labelled) == 4
    for one in labelled:
        for other in labelled:
            assert one is other or one.y != other.y or abs(one.x - other.x) > 190
        assert 0 < one.y < drawn["top"]
