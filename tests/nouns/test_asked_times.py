"""Times as somebody asks for them: every option reads them alike."""

from datetime import UTC, datetime, timedelta

import pytest

from vault.encoding import asked_time
from vault.errors import InvalidInput

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-31T12:30:00Z", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T12:30:00+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        (" 2026-01-31 ", datetime(2026, 1, 31, tzinfo=UTC)),
        (datetime(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        ("2h", NOW - timedelta(hours=2)),
        (timedelta(days=3), NOW - timedelta(days=3)),
    ],
)
def test_a_time_without_an_offset_is_in_utc(given: str | datetime | timedelta, expected: datetime) -> None:
    """And one with an offset is where it says; a duration is counted back."""
    found = asked_time(given, "--since", NOW)
    assert (found, found.utcoffset()) == (expected, timedelta())


def test_a_duration_ahead_is_counted_from_now() -> None:
    """For what begins later."""
    assert asked_time("12h", "--from", NOW, ahead=True) == NOW + timedelta(hours=12)


@pytest.mark.parametrize(
    "given", ["yesterday", "31.1.2026", "", "2h30m", "-2h", "9999-12-31T23:59:59-14:00", "99999999w"]
)
def test_what_is_no_time_names_the_option(given: str) -> None:
    """In one sentence."""
    with pytest.raises(InvalidInput, match="^--since: "):
        asked_time(given, "--since", NOW)
