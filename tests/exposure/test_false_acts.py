"""Acts that somebody appended to a log, read without anything that the lab signed: what is not sure takes nothing away."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.exposure.test_ground_truth import rows
from tests.exposure.test_odd_entries import BEGUN, ENDED, VENDOR, WHO, bound, exact
from vault.exposure import Exposure, Gathering, settle

OWN: Mapping[str, Any] = {"vendor": "acme", "vendor_id": VENDOR}
#: A version of two shards of ten rows.
VERSION: Mapping[str, Any] = {
    "dataset": "evals", "dataset_id": "d", "version": 1, "rows": 20, "columns": ["id"], "column_ids": ["i"],
    "groups": ["x"], "layout": [[0, 1, 10, None]], "base": None,
}  # fmt: skip
#: The same as somebody would rather have it.
FALSE: Mapping[str, Any] = {**VERSION, "rows": 1, "layout": [[0, 0, 1, None]]}
GRANT: Mapping[str, Any] = {**WHO, "columns": ["id"], "column_ids": ["i"], "expires": None, "starts": None}
CREDENTIAL: Mapping[str, Any] = {**OWN, "credential": "c", "expires": None}
ALL = set(range(20))

#: An entry: the day of its place, its own day, kind and fields.
Said = tuple[int | str, int, str, Mapping[str, Any]]
LIVE: tuple[Said, ...] = (
    (1, 1, "vendor added", OWN),
    (1, 1, "version published", VERSION),
    (2, 2, "grant made", GRANT),
    (2, 2, "credential issued", CREDENTIAL),
)


def day(of: int) -> str:
    """A time on a day of 2026, or behind that year."""
    return f"2026-01-{of:02}T00:00:00.000000Z" if of < 30 else f"{2000 + of}-01-01T00:00:00.000000Z"


def told(*entries: Said, since: int | None = None, until: int | None = None) -> Exposure:
    """The exposure from these entries."""
    gathered = Gathering(VENDOR, day(since) if since else None, day(until) if until else None)
    for number, (placed, own, kind, fields) in enumerate(entries, 1):
        gathered.add(number, kind, day(own), fields, placed if isinstance(placed, str) else day(placed))
    gathered.last_time = day(29)
    return settle(gathered)


def could(found: Exposure) -> set[int]:
    """The rows that could have been read and were not."""
    return set().union(*(rows(part.could) for part in found.parts))


def opened(found: Exposure) -> list[tuple[int, int | None]]:
    """When the first grant was open, in days."""
    first = 1_767_225_600_000_000
    days = [
        ((span.first - first), (span.last - first if span.last is not None else None)) for span in found.windows[0].open
    ]
    return [
        (begun // 86_400_000_000 + 1, end // 86_400_000_000 + 1 if end is not None else None) for begun, end in days
    ]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vendor frozen", OWN),
        ("grant revoked", {**OWN, "grant": "g"}),
        ("credential revoked", {**OWN, "credential": "c"}),
        ("vendor offboarding begun", OWN),
        ("vendor offboarded", OWN),
        ("root document changed", {"left_out": ["acme"]}),
        ("dataset deleted", {"dataset": "evals", "dataset_id": "d"}),
        ("versions expired", {"dataset": "evals", "dataset_id": "d", "versions": [1]}),
    ],
)
def test_an_end_is_not_dated_back(kind: str, fields: Mapping[str, Any]) -> None:
    """What ended is open until the place of the entry that says so, whatever its own time; that the two differ is told."""
    found = told(*LIVE, (20, 3, kind, fields), since=10)
    assert could(found) == ALL
    if kind not in ("dataset deleted", "versions expired"):
        assert opened(found) == [(10, 20)]
    assert any("entry 5 of the log is far from that of its place" in doubt for doubt in found.doubts)
    assert could(told(*LIVE, (20, 20, kind, fields), since=21)) == set()


def test_an_end_is_not_put_behind_what_came_before_it() -> None:
    """Without its place, an entry is taken to be no earlier than any before it."""
    gathered = Gathering(VENDOR, day(10), None)
    for number, (_, own, kind, fields) in enumerate(
        (*LIVE, (0, 15, "report made", OWN), (0, 3, "vendor frozen", OWN)), 1
    ):
        gathered.add(number, kind, day(own), fields)
    assert could(settle(gathered)) == ALL


@pytest.mark.parametrize("placed", [90, "z" * 27])
def test_a_place_that_runs_ahead_hides_nothing(placed: int | str) -> None:
    """Behind a time that was run ahead, or is none, what is given counts as it says, and ends count late or never."""
    found = told(
        (1, 1, "vendor added", OWN), (placed, 1, "version published", VERSION), (placed, 2, "grant made", GRANT),
        (placed, 2, "credential issued", CREDENTIAL), (placed, 3, "read begun", {**BEGUN, "limit": 5}),
        (placed, 4, "vendor frozen", OWN), since=2,
    )  # fmt: skip
    assert (could(found), bound(found)) == (ALL - set(range(5)), set(range(5)))
    assert not found.frozen


def test_a_read_counts_by_its_own_time_and_by_its_place() -> None:
    """Neither hides it from a period that the other one is in, or that lies between them."""
    read = ((10, 3, "read begun", BEGUN), (10, 10, "read ended", {**ENDED, "read": 5}))
    for since, until in ((9, None), (None, 4), (5, 6)):
        assert exact(told(*LIVE, *read, since=since, until=until)) == set(range(10))
    assert exact(told(*LIVE, *read, since=11)) == set()
    assert exact(told(*LIVE, *read, until=3)) == set()


def test_a_thaw_dated_ahead_thaws_at_its_place() -> None:
    """What gives something counts from the earlier of both times."""
    assert opened(told(*LIVE, (5, 5, "vendor frozen", OWN), (7, 25, "vendor thawed", OWN))) == [(2, 5), (7, 29)]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vendor frozen", OWN),
        ("vendor offboarded", OWN),
        ("grant revoked", {**OWN, "grant": "g"}),
        ("credential revoked", {**OWN, "credential": "c"}),
    ],
)
def test_an_end_that_deliveries_went_on_after_is_doubted(kind: str, fields: Mapping[str, Any]) -> None:
    """Who was stopped reads nothing a day later: nothing is taken away by what says so, and it is told."""
    read = ((6, 6, "read begun", {**BEGUN, "limit": 1}), (6, 6, "read ended", {**ENDED, "read": 6, "served": []}))
    found = told(*LIVE, (5, 5, kind, fields), *read, since=6)
    assert could(found) == ALL
    assert any("one of them is false" in doubt for doubt in found.doubts)
    assert could(told(*LIVE, (5, 5, kind, fields), since=6)) == set()


@pytest.mark.parametrize("base", [None, {"version": 7, "shards": 2}])
@pytest.mark.parametrize("change", [{}, {"columns": ["other"], "column_ids": ["o"]}])
def test_a_version_that_was_published_falsely_first_hides_nothing(change: Mapping[str, Any], base: Any) -> None:
    """Neither what was read of the true one nor what could have been; it is exact only where both agree."""
    false = (1, 1, "version published", {**FALSE, **change, "base": base})
    read = ((5, 5, "read begun", BEGUN), (5, 5, "read ended", {**ENDED, "read": 6, "served": [{"shards": [0, 0]}]}))
    found = told(LIVE[0], false, *LIVE[1:], *read)
    assert exact(found) | bound(found) == set(range(10))
    assert exact(found) == set()
    assert could(found) >= set(range(10, 20))
    assert any("two things of version 1 of evals" in doubt for doubt in found.doubts)
    assert found.odd == (3,)
    same = (1, 1, "version published", {**VERSION, "layout": [[0, 0, 10, None], [1, 1, 3, None]]})
    assert exact(told(LIVE[0], same, *LIVE[1:], *read)) == set(range(10))


def test_a_false_publication_does_not_move_what_was_read_before_it() -> None:
    """What was read before a second publication was read of the first: exact stays exact."""
    read = ((5, 5, "read begun", BEGUN), (5, 5, "read ended", {**ENDED, "read": 5}))
    found = told(*LIVE, *read, (6, 6, "version published", FALSE))
    assert (exact(found), bound(found)) == (set(range(10)), set())


def test_a_false_base_counts_nothing_as_read() -> None:
    """Rows of a version are not taken for those of another one that only one of two publications says it begins with."""
    read = ((5, 5, "read begun", BEGUN), (5, 5, "read ended", {**ENDED, "read": 5}))
    second = {**VERSION, "version": 2}
    false = {**second, "base": {"version": 1, "shards": 2}}
    found = told(*LIVE, *read, (6, 6, "version published", false), (7, 7, "version published", second))
    assert [rows(part.could) for part in found.parts if part.version == 2][-1] == ALL


def test_an_erasure_before_its_version_moves_nothing() -> None:
    """Rows that were erased of a version which was not there yet: it is odd, and reads of the version are exact."""
    erased = {"dataset": "evals", "dataset_id": "d", "rows": {"1": 19}, "layouts": {"1": [[0, 0, 1, None]]}}
    read = ((5, 5, "read begun", BEGUN), (5, 5, "read ended", {**ENDED, "read": 6}))
    found = told(LIVE[0], (1, 1, "rows erased", erased), *LIVE[1:], *read)
    assert (exact(found), found.odd, found.doubts) == (set(range(10)), (2,), ())
    assert {part.state for part in found.parts} == {0}


def test_a_newer_version_dated_back_ends_none() -> None:
    """The newest version is that until the place of the next one."""
    found = told(*LIVE, (20, 1, "version published", {**VERSION, "version": 2}), since=10)
    assert set().union(*(rows(part.could) for part in found.parts if part.version == 1)) == ALL


@pytest.mark.parametrize("kind", ["grant made", "credential issued"])
def test_a_grant_or_credential_that_was_made_falsely_first_hides_nothing(kind: str) -> None:
    """Two of one id both count, as far as each goes."""
    true = LIVE[2 if kind == "grant made" else 3]
    false = (2, 2, kind, {**true[3], "expires": day(1)})
    found = told(*LIVE[:2], false, *LIVE[2:])
    assert could(found) == ALL
    assert len(found.odd) == 1
    assert any("more than once" in doubt for doubt in found.doubts)


def test_an_act_at_no_time_is_odd() -> None:
    """It is named, and the rest is told."""
    gathered = Gathering(VENDOR)
    for number, (_, own, kind, fields) in enumerate(LIVE, 1):
        gathered.add(number, kind, day(own), fields)
    gathered.add(5, "vendor frozen", "soon", OWN, day(4))
    gathered.add(6, "report made", "soon", OWN, day(4))
    found = settle(gathered)
    assert found.odd == (5,)
    assert [event.number for event in found.events] == [1, 3, 4]


STRUCT: Mapping[str, Any] = {**VERSION, "columns": ["meta"], "column_ids": ["m"]}
FIELD: Mapping[str, Any] = {**BEGUN, "columns": ["meta.source"], "column_ids": ["m"]}
WHOLE: Mapping[str, Any] = {
    **BEGUN,
    "columns": ["meta"],
    "column_ids": ["m"],
    "delivery": "lease",
    "rows": 10,
    "bytes": 1,
}


def test_a_struct_has_its_fields_cells() -> None:
    """A lease of a struct beside a read of one of its fields: each cell counts once, and as exact where it was."""
    start = (LIVE[0], (1, 1, "version published", STRUCT))
    lease = (2, 2, "lease page handed out", {**WHOLE, "shards": [[0, 1]], "chunks": {}})
    read = ((3, 3, "read begun", FIELD), (3, 3, "read ended", {**ENDED, "read": 4}))
    found = told(*start, lease, *read)
    assert (found.cells, found.cells_at_most) == (10, 10)
    assert sum(each.exact + each.at_most for each in found.counted.values()) == 20
    other = {**FIELD, "columns": ["meta.author"]}
    both = told(*start, lease, *read, (4, 4, "read begun", other), (4, 4, "read ended", {**ENDED, "read": 6}))
    assert (both.cells, both.cells_at_most) == (20, 10)
    whole = told(
        *start, *((3, 3, "read begun", {**FIELD, "columns": ["meta"]}), (3, 3, "read ended", {**ENDED, "read": 3})),
        (4, 4, "read begun", FIELD), (4, 4, "read ended", {**ENDED, "read": 5}),
    )  # fmt: skip
    assert (whole.cells, whole.cells_at_most) == (10, 0)


def test_a_masked_field_is_not_in_its_unmasked_struct_alone() -> None:
    """A struct that left under a mask shows nothing of the field that left without it: both count."""
    masked = {**FIELD, "columns": ["meta"], "masks": {"meta.source": "hash"}}
    found = told(
        LIVE[0], (1, 1, "version published", STRUCT), (3, 3, "read begun", masked),
        (3, 3, "read ended", {**ENDED, "read": 3}), (4, 4, "read begun", FIELD), (4, 4, "read ended", {**ENDED, "read": 5}),
    )  # fmt: skip
    assert found.cells == 20


def test_what_could_be_read_counts_once() -> None:
    """Under a grant of a struct and one of a field of it."""
    fields = {**GRANT, "grant": "h", "columns": ["meta.source"], "column_ids": ["m"], "cuts": {"m": [["source"]]}}
    whole = {**GRANT, "columns": ["meta"], "column_ids": ["m"]}
    found = told(
        LIVE[0], (1, 1, "version published", STRUCT), (2, 2, "grant made", whole), (2, 2, "grant made", fields), LIVE[3]
    )
    assert found.cells_not_read == 20


def test_a_version_that_was_published_falsely_ends_the_one_before_no_earlier_than_the_true_one() -> None:
    """Of two publications the later one tells until when the version before was the newest."""
    false, true = {**FALSE, "version": 2}, {**VERSION, "version": 2}
    found = told(*LIVE, (6, 6, "version published", false), (20, 20, "version published", true), since=10)
    assert set().union(*(rows(part.could) for part in found.parts if part.version == 1)) == ALL
