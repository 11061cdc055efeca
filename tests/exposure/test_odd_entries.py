"""Entries that dsvault does not write, as who took a broker over may append them: they hide nothing that was served."""

import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.exposure.test_ground_truth import rows
from vault.encoding import to_base64
from vault.errors import NotFound
from vault.exposure import Exposure, Gathering, settle

VENDOR, OTHER = "a" * 32, "b" * 32
WHO: Mapping[str, Any] = {
    "vendor": "acme", "vendor_id": VENDOR, "credential": "c", "delegates": [], "subject": None, "address": "192.0.2.1",
    "grant": "g", "purpose": None, "dataset": "evals", "dataset_id": "d", "version": 1,
}  # fmt: skip
BEGUN: Mapping[str, Any] = {
    **WHO, "delivery": "stream", "columns": ["id"], "column_ids": ["i"], "groups": ["x"], "epochs": {"x": 1},
    "compartment": "k", "shards": [[0, 1]], "where": None, "filtered": False, "limit": None, "masks": {}, "resumed": None,
}  # fmt: skip
ENDED: Mapping[str, Any] = {
    **WHO, "read": 3, "served": [{"shards": [0, 0]}], "rows": 10, "bytes": 100, "outcome": "complete",
}  # fmt: skip


def told(*entries: tuple[str, Mapping[str, Any]]) -> Exposure:
    """An exposure from a vendor, a version of two shards of ten rows, and these entries from number 3 on."""
    gathered = Gathering(VENDOR)
    published = {
        "dataset": "evals", "dataset_id": "d", "version": 1, "rows": 20, "columns": ["id"], "column_ids": ["i"],
        "groups": ["x"], "layout": [[0, 1, 10, None]], "base": None,
    }  # fmt: skip
    first = [("vendor added", {"vendor": "acme", "vendor_id": VENDOR}), ("version published", published)]
    for number, (kind, fields) in enumerate([*first, *entries], 1):
        gathered.add(number, kind, f"2026-01-01T00:00:{number:02}.000000Z", fields)
    return settle(gathered)


def exact(found: Exposure) -> set[int]:
    """The rows that were served exactly."""
    return set().union(*(rows(part.exact) for part in found.parts))


def bound(found: Exposure) -> set[int]:
    """The rows that may have been served beside those."""
    return set().union(*(rows(part.bound) for part in found.parts))


ALL = set(range(20))


def test_a_read_that_is_whole() -> None:
    """What the entries below are altered from."""
    found = told(("read begun", BEGUN), ("read ended", ENDED))
    assert (exact(found), bound(found), found.odd) == (set(range(10)), set(), ())


_BITS = to_base64(zlib.compress(b"\xff\x03"))


@pytest.mark.parametrize(
    "served",
    [
        None,
        "all",
        {"shards": [0, 0]},
        [7],
        [{"shards": [0]}],
        [{"shards": [1, 0]}],
        [{"shards": [0, 2**40]}],
        [{"shards": [0, True]}],
        [{"shards": [0, 0], "rows": []}],
        [{"shard": 0, "rows": [[3, 2]]}],
        [{"shard": 0, "rows": [[-1, 2]]}],
        [{"shard": 0, "rows": [[0, 2**62]]}],
        [{"shard": 0, "rows": {}}],
        [{"shard": 0, "rows": [[0, 0]] * 9 + [[1]]}],
        [{"shard": 0, "rows": [[0, 0]] * 9 + [[3, 2]]}],
        [{"shard": 0, "rows": [[0, 0]] * 9 + [[0, 2**62]]}],
        [{"shard": 0, "rows": [[0, 0]] * 9 + [[0, 2**70]]}],
        [{"shard": 0, "rows": [[0, 0]] * 9 + [[0, "1"]]}],
        [{"shard": 0, "rows": [[0, 0.5]] * 9}],
        [{"shard": 0, "of": 10, "bits": "%%%"}],
        [{"shard": 0, "of": 10, "bits": to_base64(b"no stream")}],
        [{"shard": 0, "of": 9, "bits": _BITS}],
        [{"shard": 0, "of": 80, "bits": _BITS}],
        [{"shard": 0, "of": 2**60, "bits": to_base64(zlib.compress(bytes(1 << 20)))}],
        [{"shard": 0, "of": 10, "bits": to_base64(zlib.compress(bytes(1 << 24)))}],
    ],
)
def test_rows_in_another_form_make_a_bound_of_the_read(served: object) -> None:
    """Whatever cannot be read counts as a read without an end: all that it may have had, and none of it exact."""
    found = told(("read begun", BEGUN), ("read ended", {**ENDED, "served": served}))
    assert (exact(found), bound(found)) == (set(), ALL)
    assert 4 in found.odd
    before = told(
        ("read begun", BEGUN), ("read went on", {**ENDED, "served": served}), ("read ended", {**ENDED, "served": []})
    )
    assert (exact(before), bound(before)) == (set(), ALL)


@pytest.mark.parametrize(
    "change",
    [{"rows": -1}, {"rows": "10"}, {"rows": True}, {"bytes": None}, {"bytes": 2**70}, {"outcome": None}, {"read": "3"}],
)
def test_an_end_in_another_form_is_no_end(change: Mapping[str, Any]) -> None:
    """Numbers that are none end nothing."""
    found = told(("read begun", BEGUN), ("read ended", {**ENDED, **change}))
    assert (exact(found), bound(found), found.odd) == (set(), ALL, (4,))


@pytest.mark.parametrize("name", ["served", "rows", "bytes", "outcome", "read"])
def test_an_end_that_lacks_a_field_is_no_end(name: str) -> None:
    """Nor do entries that say less."""
    found = told(("read begun", BEGUN), ("read ended", {key: ENDED[key] for key in ENDED if key != name}))
    assert (exact(found), bound(found)) == (set(), ALL)


def test_another_vendors_entry_ends_nothing() -> None:
    """A read is ended by entries of its own vendor only."""
    found = told(("read begun", BEGUN), ("read ended", {**ENDED, "vendor_id": OTHER, "vendor": "globex"}))
    assert (exact(found), bound(found)) == (set(), ALL)


REFUSED: Mapping[str, Any] = {"vendor_id": VENDOR, "credential": "c", "address": "192.0.2.1", "reason": "wrong secret"}
COUNTED: Mapping[str, Any] = {**REFUSED, "times": 399, "since": "2026-01-01T00:00:03.500000Z"}


def test_a_count_of_refused_requests_is_added() -> None:
    """An entry for many counts as many, since the first of them; one that is of several addresses stands apart."""
    found = told(
        ("request refused", REFUSED), ("request refused", COUNTED), ("request refused", {**COUNTED, "address": None})
    )
    assert [(each.request.address, each.count) for each in found.refused] == [("192.0.2.1", 400), (None, 399)]
    first = found.refused[0].first
    assert [each.first - first for each in found.refused] == [0, 500_000]
    assert found.odd == ()


@pytest.mark.parametrize(
    "change", [{"times": 0}, {"times": -1}, {"times": "9"}, {"times": 2**70}, {"since": 5}, {"since": "then"}]
)
def test_a_count_in_another_form_is_odd(change: Mapping[str, Any]) -> None:
    """It adds nothing."""
    found = told(("request refused", {**COUNTED, **change}))
    assert (found.refused, found.odd) == ((), (3,))


def test_an_end_counts_once() -> None:
    """A second end, and one of a read that never began, are odd and change nothing."""
    found = told(
        ("read begun", BEGUN),
        ("read ended", ENDED),
        ("read ended", {**ENDED, "served": [{"shards": [1, 1]}]}),
        ("read ended", {**ENDED, "read": 77}),
    )
    assert (exact(found), bound(found), found.odd) == (set(range(10)), set(), (5, 6))


@pytest.mark.parametrize(
    "change",
    [{"columns": "id"}, {"columns": [["id"]]}, {"version": "1"}, {"dataset_id": None}, {"masks": {"id": 5}},
     {"delegates": [{}]}, {"address": 7}, {"limit": -1}, {"resumed": [0]}, {"epochs": {"x": "1"}}],
)  # fmt: skip
def test_a_read_that_cannot_be_followed_is_odd(change: Mapping[str, Any]) -> None:
    """A first entry that makes no sense is named, and so is what refers to it."""
    found = told(("read begun", {**BEGUN, **change}), ("read ended", ENDED))
    assert found.odd == (3, 4)


@pytest.mark.parametrize("shards", [None, "all", [[1]], [[1, 0]], [[0, 2**40]]])
def test_shards_in_another_form_are_all_shards(shards: object) -> None:
    """Where it is not known which shards a read without an end could open, it is taken for all that it might."""
    found = told(("read begun", {**BEGUN, "shards": shards}))
    assert (bound(found), found.odd) == (ALL, (3,))


def test_what_was_never_published_is_in_doubt() -> None:
    """Reads of a version that the log does not know are said to be, and their rows are not made up."""
    found = told(("read begun", {**BEGUN, "version": 9}), ("read ended", {**ENDED, "version": 9}))
    assert (exact(found), bound(found)) == (set(), set())
    assert len(found.doubts) == 1
    assert found.total.reads == 1


def test_rows_that_a_version_does_not_have_are_in_doubt() -> None:
    """Rows beyond a shard, and shards beyond the last one, are said to be named, and are not counted."""
    for item in ({"shards": [0, 5]}, {"shard": 0, "rows": [[5, 10]]}, {"shard": 3, "rows": [[0, 1]]},
                 {"shard": 0, "of": 80, "bits": to_base64(zlib.compress(b"\xff" * 10))}):  # fmt: skip
        found = told(("read begun", BEGUN), ("read ended", {**ENDED, "served": [item]}))
        assert exact(found) <= ALL
        assert len(found.doubts) == 1


def test_a_vendor_that_was_never_added_is_not_found() -> None:
    """Entries that speak of a vendor do not make one."""
    gathered = Gathering(OTHER)
    gathered.add(1, "read begun", "2026-01-01T00:00:00.000000Z", {**BEGUN, "vendor_id": OTHER})
    with pytest.raises(NotFound):
        settle(gathered)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ALL),
        ({"limit": 3}, {0, 1, 2}),
        ({"limit": 0}, set()),
        ({"limit": 3, "filtered": True}, ALL),
        ({"limit": 3, "where": "id > 1"}, ALL),
        ({"resumed": [0, 4]}, set(range(4, 20))),
        ({"resumed": [1, 4]}, set(range(14, 20))),
        ({"resumed": [1, 4], "filtered": True}, set(range(10, 20))),
        ({"resumed": [0, 8], "limit": 4}, {8, 9, 10, 11}),
        ({"shards": [[1, 1]], "limit": 2}, {10, 11}),
        ({"shards": []}, set()),
    ],
)
def test_a_read_without_an_end_may_have_had_just_this(change: Mapping[str, Any], expected: set[int]) -> None:
    """All rows of its shards from where it was resumed, up to its limit; with a filter it is not known which."""
    assert bound(told(("read begun", {**BEGUN, **change}))) == expected


@pytest.mark.parametrize("kind", ["read went on", "read ended"])
def test_another_process_ends_no_read(kind: str) -> None:
    """Without the nonce that a read began with, nothing narrows it: neither an end nor a part, from whomever."""
    begun = {**BEGUN, "nonce": "1" * 32}
    false = {**ENDED, "served": [{"shards": [1, 1]}], "rows": 0}
    for added in ({}, {"nonce": None}, {"nonce": "2" * 32}):
        found = told(("read begun", begun), (kind, {**false, **added}))
        assert (exact(found), bound(found), found.odd) == (set(), ALL, (4,))
    own = {"nonce": "1" * 32}
    found = told(("read begun", begun), (kind, false), ("read ended", {**ENDED, **own}))
    assert (exact(found), bound(found), found.odd) == (set(range(10)), set(), (4,))


@pytest.mark.parametrize(
    "change", [{"layout": [[0, 0, 1, None]]}, {"layout": []}, {"columns": ["other"]}, {"column_ids": ["other"]}]
)
def test_a_version_is_published_once(change: Mapping[str, Any]) -> None:
    """A second publication of a version is odd, and moves none of the rows that were served of the first."""
    again = {
        "dataset": "evals", "dataset_id": "d", "version": 1, "rows": 20, "columns": ["id"], "column_ids": ["i"],
        "groups": ["x"], "layout": [[0, 1, 10, None]], "base": None, **change,
    }  # fmt: skip
    found = told(("read begun", BEGUN), ("read ended", ENDED), ("version published", again))
    assert (exact(found), bound(found), found.odd) == (set(range(10)), set(), (5,))
    assert [part.column for part in found.parts] == ["id"]


def test_a_vendor_keeps_its_name_in_the_report() -> None:
    """A second entry that adds it is odd, whatever it calls it."""
    found = told(("vendor added", {"vendor": "globex", "vendor_id": VENDOR}))
    assert (found.vendor, found.odd) == ("acme", (3,))


def test_a_grant_and_a_credential_are_made_once() -> None:
    """What could have been read is not made less by a grant or a credential of the same id with other terms."""
    grant = {
        **WHO, "columns": ["id"], "column_ids": ["i"], "expires": "2027-01-01T00:00:00.000000Z", "starts": None,
    }  # fmt: skip
    credential = {"vendor": "acme", "vendor_id": VENDOR, "credential": "c", "expires": "2027-01-01T00:00:00.000000Z"}
    ended = {"expires": "2026-01-01T00:00:00.000000Z"}
    could = [
        set().union(*(rows(part.could) for part in found.parts))
        for found in (
            told(("grant made", grant), ("credential issued", credential)),
            told(
                ("grant made", grant), ("credential issued", credential),
                ("grant made", {**grant, **ended}), ("credential issued", {**credential, **ended}),
            ),
        )
    ]  # fmt: skip
    assert could == [ALL, ALL]


FILE: Mapping[str, Any] = {
    **{name: value for name, value in BEGUN.items() if name not in ("limit", "resumed", "where")},
    "delivery": "sharing",
    "shards": [[0, 0]],
    "rows": 10,
    "bytes": 5,
    "range": [0, 5],
    "size": 500,
}


def test_a_read_of_a_file_like_an_earlier_one_adds_to_the_amounts_alone() -> None:
    """The earlier one says which rows the file has; both are deliveries."""
    found = told(
        ("shared file read", {**FILE, "served": [{"shards": [0, 0]}]}), ("shared file read", {**FILE, "again": 3})
    )
    assert (bound(found), found.odd) == (set(range(10)), ())
    assert (found.total.bound_reads, found.total.bound_bytes) == (2, 10)


@pytest.mark.parametrize("again", [4, 2, 99, -1, "3", None, True, [3]])
def test_a_read_of_a_file_like_none_is_named(again: Any) -> None:
    """One that refers to itself, to what is no such read, or to nothing, cannot say what was read."""
    found = told(("read begun", BEGUN), ("shared file read", {**FILE, "again": again}))
    assert found.odd == (4,)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_read_of_a_file_is_of_the_rows_of_one_before_the_period(size: int) -> None:
    """What the earlier one was of counts with the later, also where they are gathered apart."""
    published = {
        "dataset": "evals", "dataset_id": "d", "version": 1, "rows": 20, "columns": ["id"], "column_ids": ["i"],
        "groups": ["x"], "layout": [[0, 1, 10, None]], "base": None,
    }  # fmt: skip
    entries = [
        ("vendor added", {"vendor": "acme", "vendor_id": VENDOR}),
        ("version published", published),
        ("shared file read", {**FILE, "served": [{"shard": 0, "rows": [[2, 4]]}]}),
        ("shared file read", {**FILE, "again": 3}),
    ]
    whole: Gathering | None = None
    for start in range(0, len(entries), size):
        each = Gathering(VENDOR, "2026-01-01T00:00:03.500000Z")
        for number, (kind, fields) in enumerate(entries[start : start + size], start + 1):
            each.add(number, kind, f"2026-01-01T00:00:{number:02}.000000Z", fields)
        whole = each if whole is None else (whole.take(each), whole)[1]
    assert whole is not None
    found = settle(whole)
    assert (bound(found), found.odd, found.total.bound_reads) == ({2, 3, 4}, (), 1)
