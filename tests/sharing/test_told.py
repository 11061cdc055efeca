"""What the log and a report say of shared files: what was fetched at most, under which keys, and what it cost."""

from pathlib import Path

import pytest

from tests.conftest import Lab
from tests.incident.test_reports import served
from tests.support.sharing import arrival, entries, fetched, listed
from vault import access
from vault.audit import Kind
from vault.incident.verifying import read_bundle
from vault.wire import FILES_PATH
from vault.workings.recounting import recount


def test_a_report_counts_what_was_fetched_as_at_most(granted: Lab) -> None:
    """Of two files that were read, one of them in part, every row may have been had; of two that were not, none."""
    parts = granted.broker_parts()
    first, second, *_rest = listed(parts, arrival(granted, parts))
    fetched(parts, first)
    found = access.shared_file(parts, second.path.removeprefix(FILES_PATH), "192.0.2.7")
    next(found.pieces(4, 12))
    made = granted.vault.incident_report("acme")
    rows = {number for number in range(60) if number % 2 == 0}
    assert served(made) == {}
    assert served(made, "bound") == {("evals", 1, name): rows for name in ("id", "prompt", "lang")}
    total = made.exposure.total
    assert (total.reads, total.bound_reads, total.bound_rows, total.bound_bytes) == (0, 2, 30, first.size + 8)
    assert {each.how for each in made.exposure.deliveries} == {"shared file"}
    assert {flow.who.address for flow in made.exposure.flows} == {"test", "192.0.2.7"}
    assert (made.exposure.odd, made.exposure.doubts) == ((), ())


def test_ranges_of_a_file_say_once_which_rows_it_has(granted: Lab) -> None:
    """Each is an entry of its own, and short: of a million ranges the log would else have the rows a million times."""
    parts = granted.broker_parts()
    (file, other, *_rest) = listed(parts, arrival(granted, parts))
    found = access.shared_file(parts, file.path.removeprefix(FILES_PATH), "192.0.2.7")
    for start in range(5):
        assert len(b"".join(found.pieces(start, start + 1))) == 1
    fetched(parts, other)
    read = list(entries(granted, Kind.FILE_READ.value))
    assert [set(each) & {"served", "again"} for each in read] == [{"served"}, *[{"again"}] * 4, {"served"}]
    assert len({each["again"] for each in read[1:5]}) == 1
    made = granted.vault.incident_report("acme")
    assert (made.exposure.total.bound_reads, made.exposure.total.bound_bytes) == (6, 5 + other.size)
    assert set(served(made, "bound")["evals", 1, "id"]) == {number for number in range(60) if number % 2 == 0}
    assert made.exposure.odd == ()


def test_after_a_minute_the_rows_of_a_file_are_said_again(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a report finds them without looking far back."""
    monkeypatch.setattr("vault.workings.spooled._READ_SECONDS", 0.0)
    parts = granted.broker_parts()
    (file, *_rest) = listed(parts, arrival(granted, parts))
    for _ in range(2):
        fetched(parts, file)
    assert all("served" in each for each in entries(granted, Kind.FILE_READ.value))


def test_a_listing_alone_is_no_exposure(granted: Lab) -> None:
    """Nobody had a row of what was handed out and not read: it is what could have been read."""
    parts = granted.broker_parts()
    assert len(listed(parts, arrival(granted, parts))) == 4
    made = granted.vault.incident_report("acme")
    assert served(made) == served(made, "bound") == {}
    assert made.exposure.total.bound_reads == 0
    assert len(served(made, "could")["evals", 1, "id"]) == 100


def test_data_keys_of_a_listing_and_a_read_are_announced(granted: Lab) -> None:
    """Each unwrap is in the log as that of any read, with the group and epoch of the file's keys."""
    parts = granted.broker_parts(key_age=0)
    (file, *_rest) = listed(parts, arrival(granted, parts))
    parts.journal.settle()
    before = len(list(entries(granted, "data keys opened")))
    fetched(parts, file)
    parts.journal.settle()
    (read,) = entries(granted, Kind.FILE_READ.value)
    opened = list(entries(granted, "data keys opened"))[before:]
    told = {(place, group, epoch) for each in opened for place, group, epoch in each["keys"]}
    assert {(read["compartment"], group, read["epochs"][group]) for group in read["groups"]} <= told


def test_what_was_used_is_counted_anew_from_the_log(published: Lab) -> None:
    """Requests, and each file whole each time that its address was handed out, as the catalog has them."""
    grant = published.vault.grant("acme", "evals", ["id"], limits={"rows": 500, "requests": 9})
    parts = published.broker_parts()
    who = arrival(published, parts)
    listed(parts, who)
    fetched(parts, listed(parts, who, limit=30)[0])
    (counts,) = recount(published.vault.audit_entries(), {grant.id}).values()
    assert (counts["requests"], counts["rows"]) == (2, 130)
    used = published.vault.grants()[0].used.total
    assert {name: used[name] for name in ("requests", "rows", "bytes")} == counts


def test_an_entry_names_what_the_file_was_read_with(granted: Lab) -> None:
    """The request's entry has the columns, keys and shards before anything is opened; each file's its rows and size."""
    parts = granted.broker_parts()
    files = listed(parts, arrival(granted, parts))
    (asked,) = entries(granted, Kind.FILES_ASKED.value)
    assert (asked["columns"], asked["shards"], asked["filtered"]) == (["id", "prompt", "lang"], [[0, 3]], True)
    handed = list(entries(granted, Kind.FILE_HANDED_OUT.value))
    assert [(each["shard"], each["rows"], each["size"]) for each in handed] == [
        (number, file.rows, file.size) for number, file in enumerate(files)
    ]
    assert {each["nonce"] for each in handed} == {asked["nonce"]}


def test_no_entry_of_the_log_has_an_address(granted: Lab) -> None:
    """Whoever reads the log, or is shown it, reads no file by it."""
    parts = granted.broker_parts()
    (file, *_rest) = listed(parts, arrival(granted, parts))
    fetched(parts, file)
    text = str([entry.fields for _, entry in granted.vault.audit_entries()])
    assert file.path[len(FILES_PATH) + 30 : len(FILES_PATH) + 60] not in text


def test_evidence_has_what_was_fetched(granted: Lab, tmp_path: Path) -> None:
    """A bundle's report follows from its entries, those of shared files among them, and verifies without the vault."""
    parts = granted.broker_parts()
    (file, *_rest) = listed(parts, arrival(granted, parts))
    fetched(parts, file)
    granted.vault.contain("acme", bundle=tmp_path / "acme.evidence.zip")
    _, told = read_bundle(tmp_path / "acme.evidence.zip")
    kinds = [entry.kind for _, entry in told]
    assert kinds.count(Kind.FILE_READ) == 1
    assert kinds.count(Kind.FILE_HANDED_OUT) == 4
