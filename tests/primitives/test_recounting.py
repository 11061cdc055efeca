"""What was used of limits, counted from a log that others have written in, too."""

from datetime import UTC, datetime
from typing import Any

import pytest

from vault.audit import Entry, Kind
from vault.workings.recounting import recount

WHEN = datetime(2026, 12, 1, tzinfo=UTC)


def _counted(*told: tuple[Kind, dict[str, Any]]) -> dict[str, int]:
    entries = ((number, Entry(kind, WHEN, fields)) for number, (kind, fields) in enumerate(told, 1))
    return dict(recount(entries, {"g"}).get(("g", "2026-12-01"), {}))


@pytest.mark.parametrize("grant", [[], {}, ["g"], None, 7])
def test_an_entry_that_names_no_grant_counts_for_none(grant: object) -> None:
    """Whoever has the log key keeps no vault from being restored by what stands for a grant."""
    page = {"grant": "g", "rows": 3, "bytes": 5}
    assert _counted((Kind.READ_BEGUN, {"grant": grant}), (Kind.LEASED, page)) == {"requests": 1, "rows": 3, "bytes": 5}


def test_no_number_is_larger_than_a_catalog_has_room_for() -> None:
    """What somebody wrote that is more uses a limit up, by itself and with what others wrote."""
    page = {"grant": "g", "rows": 10**30, "bytes": -(10**30)}
    found = _counted(*[(Kind.LEASED, page)] * 3000)
    assert (found["requests"], found["bytes"]) == (3000, 0)
    assert 2**50 < found["rows"] < 2**63


def test_a_shared_file_counts_when_it_is_handed_out() -> None:
    """The request by itself, each file whole, and reading it costs nothing more."""
    file = {"grant": "g", "rows": 3, "bytes": 5}
    told = [(Kind.FILES_ASKED, {"grant": "g"}), (Kind.FILE_HANDED_OUT, file), (Kind.FILE_HANDED_OUT, file)]
    assert _counted(*told, (Kind.FILE_READ, {**file, "bytes": 1})) == {"requests": 1, "rows": 6, "bytes": 10}
