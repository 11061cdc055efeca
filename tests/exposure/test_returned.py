"""What a vendor sent back, as an exposure tells it: no entry that somebody appends hides what was accepted."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.exposure.test_odd_entries import VENDOR, WHO, told
from vault.exposure import Gathering, Returned, settle

SENT: Mapping[str, Any] = {
    **WHO, "delegates": [{"id": "e", "to": "ann"}], "submission": "s", "rows": 2, "bytes": 700, "sha256": "0" * 64, "object": "submissions/x", "envelope": "x",
    "received": "2026-01-01T00:00:03.000000Z",
}  # fmt: skip
ABOUT: Mapping[str, Any] = {
    "vendor": "acme", "vendor_id": VENDOR, "submission": "s", "grant": "g", "dataset": "evals", "dataset_id": "d",
}  # fmt: skip
ACCEPTED: Mapping[str, Any] = {**ABOUT, "version": 2, "columns": ["label"], "column_ids": ["l"], "rows": 2, "gone": 0}
REJECTED: Mapping[str, Any] = {**ABOUT, "reason": "no"}


def _published(number: int, *columns: str) -> Mapping[str, Any]:
    """A version with these columns, named and numbered by one letter each."""
    ids = [name[0] for name in columns]
    return {
        "dataset": "evals", "dataset_id": "d", "version": number, "rows": 20, "columns": list(columns),
        "column_ids": ids, "groups": ids, "layout": [[0, 1, 10, None]], "base": None,
    }  # fmt: skip


def test_what_was_sent_and_is_not_settled_waits() -> None:
    """With all that the entry says of it."""
    (found,) = told(("submission received", SENT)).returned
    assert found == Returned(
        number=3, submission="s", dataset="evals", dataset_id="d", grant="g", credential="c",
        delegates=(("e", "ann"),), address="192.0.2.1", rows=2, bytes=700, of_version=1, received=1_767_225_603_000_000, state="waiting", settled=None, version=None, columns=(),
        versions=(),
    )  # fmt: skip


def test_what_was_accepted_is_in_every_version_with_its_columns() -> None:
    """In the one that it became, and in those behind it that have them; not in one that the lab published without."""
    (found,) = told(
        ("submission received", SENT),
        ("version published", _published(2, "id", "label")),
        ("submission accepted", ACCEPTED),
        ("version published", _published(3, "id", "label", "other")),
        ("version published", _published(4, "id")),
    ).returned
    assert (found.state, found.version, found.versions) == ("accepted", 2, (2, 3))
    assert (found.columns, found.settled) == (("label",), 1_767_225_605_000_000)


def test_no_entry_makes_what_was_accepted_rejected() -> None:
    """Who has the log key may append that it was rejected, before or behind."""
    for order in ([ACCEPTED, REJECTED], [REJECTED, ACCEPTED]):
        entries = [("submission accepted" if each is ACCEPTED else "submission rejected", each) for each in order]
        (found,) = told(("submission received", SENT), *entries).returned
        assert (found.state, found.version) == ("accepted", 2)
    (found,) = told(("submission received", SENT), ("submission rejected", REJECTED)).returned
    assert (found.state, found.version) == ("rejected", None)


def test_what_was_accepted_is_told_without_its_receipt() -> None:
    """It is listed by the entry that there is; what only the other would have said is not known."""
    (found,) = told(("submission accepted", ACCEPTED)).returned
    assert (found.number, found.received, found.rows, found.state, found.versions) == (3, None, None, "accepted", (2,))


def test_another_vendors_are_not_told() -> None:
    """Whatever else of the entry is this vendor's."""
    assert told(("submission received", {**SENT, "vendor_id": "b" * 32})).returned == ()


@pytest.mark.parametrize(
    "altered",
    [
        {"submission": 7},
        {"rows": -1},
        {"rows": True},
        {"version": "1"},
        {"bytes": 2**60},
        {"dataset": None},
        {"delegates": [{"id": 1, "to": "x"}]},
        {"delegates": 7},
    ],
)
def test_entries_of_another_form_are_odd(altered: Mapping[str, Any]) -> None:
    """They are numbered, and the others told all the same."""
    found = told(("submission received", {**SENT, **altered}), ("submission received", {**SENT, "submission": "t"}))
    assert [each.submission for each in found.returned] == ["t"]
    assert found.odd == (3,)


@pytest.mark.parametrize("altered", [{"columns": "label"}, {"column_ids": [1]}, {"version": None}])
def test_ends_of_another_form_are_odd(altered: Mapping[str, Any]) -> None:
    """What was sent is told as waiting, and the entry by its number."""
    found = told(("submission received", SENT), ("submission accepted", {**ACCEPTED, **altered}))
    assert [each.state for each in found.returned] == ["waiting"]
    assert found.odd == (4,)


def test_a_period_is_of_receipts() -> None:
    """What came before or behind it is not told; what became of the others is, whenever that was."""
    gathered = Gathering(VENDOR, "2026-01-01T00:00:03.000000Z", "2026-01-01T00:00:04.000000Z")
    entries = [
        ("vendor added", {"vendor": "acme", "vendor_id": VENDOR}),
        ("submission received", {**SENT, "submission": "before"}),
        ("submission received", SENT),
        ("submission received", {**SENT, "submission": "behind"}),
        ("submission rejected", REJECTED),
    ]
    for number, (kind, fields) in enumerate(entries, 1):
        gathered.add(number, kind, f"2026-01-01T00:00:{number:02}.000000Z", fields)
    assert [(each.submission, each.state) for each in settle(gathered).returned] == [("s", "rejected")]
