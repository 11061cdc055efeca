"""Whoever knows a credential's id and no secret does not fill the log: what is refused alike is counted."""

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.log import counted
from vault import access
from vault.audit import Entry, Kind
from vault.catalog import Catalog
from vault.errors import AuditError, Unauthenticated, Unavailable
from vault.wire import Token
from vault.workings import repeats
from vault.workings.parts import Parts
from vault.workings.repeats import WINDOW_SECONDS, Alike, Repeats
from vault.workings.watch import Watch

pytestmark = pytest.mark.both_catalogs

_AT = datetime(2026, 12, 1, tzinfo=UTC)


def _entries(lab: Lab) -> list[Entry]:
    return [entry for _, entry in lab.vault.audit_entries()]


@dataclass
class Gate:
    """A broker in this process whose time stands still, and acme's credential there."""

    lab: Lab
    parts: Parts
    token: Token
    now: float = 0.0

    def knock(self, times: int = 1, *, address: str = "192.0.2.1", token: Token | None = None) -> None:
        """Try with another secret."""
        for _ in range(times):
            with pytest.raises(Unauthenticated, match="^the credential is not valid$"):
                access.arrive(self.parts, token or replace(self.token, secret=b"x" * 32), address)

    def told(self) -> list[tuple[Any, ...]]:
        """What the log says of it, read beside the broker: how often (None for a single one) and from where."""
        entries = [each for each in _entries(self.lab) if each.kind is Kind.REFUSED]
        assert all(("times" in each.fields) == ("since" in each.fields) for each in entries)
        return [(each.fields["reason"], each.fields["address"], each.fields.get("times")) for each in entries]


@pytest.fixture
def gate(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The gate, with a clock of its own for what is counted."""
    parts = granted.broker_parts()
    found = Gate(granted, parts, granted.vault.issue_credential("acme", bearer=True).profile.token)
    monkeypatch.setattr(parts.journal._repeats, "_now", lambda: found.now)
    return found


_WRONG, _HERE = "wrong secret", "192.0.2.1"


def test_four_hundred_tries_are_two_entries(gate: Gate) -> None:
    """The first is durable before its answer; the others are one entry once ten seconds are over, and none is lost."""
    gate.knock()
    assert gate.told() == [(_WRONG, _HERE, None)]
    gate.knock(399)
    gate.now = WINDOW_SECONDS - 0.1
    gate.knock()
    assert gate.told() == [(_WRONG, _HERE, None)]
    gate.now = WINDOW_SECONDS
    gate.knock()
    gate.parts.catalog.settle()
    assert sorted(gate.told(), key=str) == [(_WRONG, _HERE, 400), (_WRONG, _HERE, None), (_WRONG, _HERE, None)]
    entry = next(each for each in _entries(gate.lab) if counted(each))
    ids = {found.name: found.id for found in gate.lab.vault.vendors()}
    assert (entry.fields["vendor_id"], entry.fields["credential"]) == (ids["acme"], gate.token.credential)
    since = datetime.fromisoformat(entry.fields["since"])
    assert timedelta() <= entry.time - since < timedelta(minutes=2)


def test_a_look_of_the_watch_writes_what_is_due(gate: Gate) -> None:
    """Also where nobody else comes by."""
    gate.knock(3)
    watch = Watch(gate.parts)
    watch.look()
    gate.parts.catalog.settle()
    assert gate.told() == [(_WRONG, _HERE, None)]
    gate.now = WINDOW_SECONDS
    watch.look()
    gate.parts.catalog.settle()
    assert gate.told() == [(_WRONG, _HERE, None), (_WRONG, _HERE, 2)]


def test_what_is_counted_is_written_when_a_broker_stops(gate: Gate) -> None:
    """However much of the time is left; and nothing is written twice."""
    gate.knock(3)
    for _ in range(2):
        gate.parts.journal.settle()
        assert gate.told() == [(_WRONG, _HERE, None), (_WRONG, _HERE, 2)]


def test_what_is_not_alike_is_an_entry_at_once(gate: Gate) -> None:
    """Another address, credential or reason is another thing."""
    other = gate.lab.vault.issue_credential("acme", bearer=True).profile.token
    gate.knock(2)
    gate.knock(2, address="192.0.2.2")
    gate.knock(2, token=replace(other, secret=b"x" * 32))
    gate.knock(2, token=replace(gate.token, bound=True))
    kind = "presented as a credential of the other kind"
    assert gate.told() == [
        (_WRONG, _HERE, None),
        (_WRONG, "192.0.2.2", None),
        (_WRONG, _HERE, None),
        (kind, _HERE, None),
    ]


def test_many_addresses_are_folded_into_one(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a network of addresses makes so many entries and no more; each try is counted all the same."""
    monkeypatch.setattr(repeats, "_MOST_OF_ONE", 4)
    for number in range(40):
        gate.knock(2, address=f"2001:db8::{number:x}")
    gate.parts.journal.settle()
    found = gate.told()
    assert len(found) == 4 + 1 + 4 + 1
    assert (_WRONG, None, 71) in found
    assert sum(times or 1 for _, _, times in found) == 80


def test_memory_is_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is to be told at once; what is told and what is counted is all that there was."""
    monkeypatch.setattr(repeats, "_MOST", 16)
    monkeypatch.setattr(repeats, "_MOST_OF_ONE", 8)
    kept, at_once = Repeats(lambda: 0.0), 0
    for number in range(3000):
        at_once += kept.note(Alike("v", f"credential {number % 100}", f"address {number % 70}", "why"), _AT)
        assert len(kept._windows) <= 32
    counted = kept.due(all_=True)
    assert at_once + sum(each.times for each in counted) == 3000
    assert (len(kept._windows), len(kept._of_one), kept.due(all_=True)) == (0, 0, [])
    for _ in range(3):
        kept.put_back(counted)
        counted = kept.due(all_=True)
    assert at_once + sum(each.times for each in counted) == 3000


def test_a_first_one_that_could_not_be_written_is_not_counted_on(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as ever, and so does the next: nothing is counted behind an entry that is not there."""

    def failing(*_: object) -> None:
        raise Unavailable("the catalog is away")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "submit", failing)
        for _ in range(2):
            with pytest.raises(AuditError):
                access.arrive(gate.parts, replace(gate.token, secret=b"x" * 32), _HERE)
    gate.knock(2)
    assert gate.told() == [(_WRONG, _HERE, None)]


def test_a_count_that_could_not_be_written_is_kept(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written with what is counted next."""
    gate.knock(3)
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "submit_aside", lambda _self, _change, failed: failed(Unavailable("away")))
        gate.now = WINDOW_SECONDS
        gate.parts.journal.write_counted()
    gate.knock(2)
    gate.parts.journal.settle()
    assert gate.told() == [(_WRONG, _HERE, None), (_WRONG, _HERE, None), (_WRONG, _HERE, 3)]


def test_threads_count_together(gate: Gate) -> None:
    """One of them tells, and each try is there once."""
    threads = [threading.Thread(target=gate.knock, args=(25,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.parts.journal.settle()
    assert gate.told() == [(_WRONG, _HERE, None), (_WRONG, _HERE, 199)]


def test_a_flood_over_http_gets_one_answer(granted: Lab) -> None:
    """The first, a counted one and that of a credential that is not there are the same to the byte; the stop writes it."""
    token = granted.vault.issue_credential("acme", bearer=True).profile.token
    tries = [replace(token, secret=b"x" * 32)] * 12 + [replace(token, credential="0" * 32)]
    with broker(granted.folder) as endpoint:
        answers = [
            urllib3.request("GET", f"{endpoint}/v1/datasets", headers={"Authorization": each.header()}, retries=False)
            for each in tries
        ]
        assert {answer.status for answer in answers} == {401}
        assert len({answer.data for answer in answers}) == 1
    entries = [each.fields for each in _entries(granted) if each.kind is Kind.REFUSED]
    assert [each.get("times") for each in entries] == [None, 11]
