"""What the log says of the rows that a read handed out: just those where it ended well, and never fewer."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Lab
from tests.support.evidence import Row, Told, told
from tests.support.tables import rows
from vault import access
from vault.access import accounts
from vault.audit import Kind
from vault.encoding import json_bytes
from vault.errors import AuditError, LimitReached, VaultError
from vault.policy import Request
from vault.workings import reading
from vault.workings.journal import Journal
from vault.workings.parts import Parts

_ROWS, _SHARD, _BATCH = 200, 30, 7
#: How many rows each shard has.
_SHARDS = {shard: min(_SHARD, _ROWS - shard * _SHARD) for shard in range(-(-_ROWS // _SHARD))}


def _places(ids: list[int]) -> list[Row]:
    """Where the rows with these keys are."""
    return [divmod(each, _SHARD) for each in ids]


@dataclass
class Place:
    """A broker over a dataset whose keys count its rows, and one who reads there."""

    lab: Lab
    parts: Parts
    caller: access.Caller

    def ask(self, most: int | None = None, where: str | None = None, **asked: Any) -> tuple[list[Row], bytes, Told]:
        """The rows that came in so many batches, the place behind them, and what the log says of it."""
        cursor = asked.pop("cursor", None)
        delivery = access.open_delivery(self.parts, self.caller, Request("evals", **asked), where, cursor)
        found: list[int] = []
        place = b""
        try:
            for number, batch in enumerate(delivery.batches, 1):
                found += batch.column("id").to_pylist()
                place = delivery.cursor()
                if number == most:
                    break
        except VaultError:
            pass
        delivery.batches.close()  # type: ignore[attr-defined]
        self.parts.journal.settle()
        return _places(found), place, told(self.lab.vault)[-1]

    def grant(self, **terms: Any) -> str:
        """The one grant that acme has from here on."""
        for state in self.lab.vault.grants("acme"):
            self.lab.vault.revoke(state.grant.id)
        grant = self.lab.vault.grant("acme", "evals", ["id", "prompt", "lang"], **terms)
        self.parts.heads.forget(self.caller.vendor)
        return grant.id


@pytest.fixture
def place(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Place:
    """200 rows in shards of 30, which leave in batches of 7."""
    monkeypatch.setattr(reading, "_BATCH_ROWS", _BATCH)
    lab.vault.publish("evals", rows(_ROWS), key="id", shard_rows=_SHARD)
    parts = lab.broker_parts()
    found = Place(lab, parts, lab.caller(parts, "acme"))
    found.grant()
    return found


def test_a_whole_read_is_one_run_of_shards(place: Place) -> None:
    """As short as can be, with its amounts."""
    found, _, said = place.ask()
    assert said.ended is not None
    assert said.ended["served"] == [{"shards": [0, 6]}]
    assert (said.ended["rows"], said.outcome, said.went_on) == (_ROWS, "complete", [])
    assert said.ended["bytes"] > 0
    assert sorted(said.listed(_SHARDS)) == sorted(found)
    assert not said.begun["filtered"]


def test_the_first_entry_says_what_the_read_may_open(place: Place) -> None:
    """Who, what of it, under which keys, and by which filters."""
    place.ask(where="id >= 60 AND id < 90", columns=("id", "prompt"), limit=3)
    said = told(place.lab.vault)[-1].begun
    assert (said["delivery"], said["version"], said["vendor"], said["dataset"]) == ("stream", 1, "acme", "evals")
    assert said["columns"] == ["id", "prompt"]
    assert len(said["column_ids"]) == 2
    assert said["epochs"] == dict.fromkeys(said["groups"], 1)
    assert len(said["groups"]) == 2
    assert (said["shards"], said["limit"], said["filtered"], said["resumed"]) == ([[2, 2]], 3, True, None)
    with place.parts.catalog.read() as transaction:
        (row,) = transaction.compartments(holder=place.caller.vendor)
    assert said["compartment"] == row.id


_FILTERS = st.sampled_from([None, "lang = 'en'", "id >= 25 AND id < 130", "id > 500", "id = 31 OR id = 199"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_left_is_what_is_listed(place: Place, data: st.DataObject) -> None:
    """For any filter, predicate, limit and place to go on from, and wherever the reader stops: row for row."""
    own = data.draw(_FILTERS, "grant")
    place.grant(where=own)
    asked: dict[str, Any] = {
        "where": data.draw(_FILTERS, "predicate"),
        "limit": data.draw(st.one_of(st.none(), st.integers(0, _ROWS + 10)), "limit"),
    }
    most = data.draw(st.one_of(st.none(), st.integers(1, 8)), "batches")
    everything: list[Row] = []
    first, cursor, said = place.ask(most, **asked)
    for _ in range(2):
        assert said.listed(_SHARDS) == first
        assert said.ended is not None
        assert said.ended["rows"] == len(first)
        assert said.begun["filtered"] == (own is not None or asked["where"] is not None)
        everything += first
        if not cursor:
            break
        first, cursor, said = place.ask(None, cursor=cursor, **asked)
        assert said.begun["resumed"] is not None
    assert len(everything) == len(set(everything))


def test_a_grants_limit_ends_what_is_listed_where_it_ends_what_left(place: Place) -> None:
    """A batch of which a part may leave is listed in part; of one that leaves not at all nothing is."""
    place.grant(limits={"rows": 45})
    found, _, said = place.ask()
    assert said.listed(_SHARDS) == found == _places(list(range(45)))
    assert said.outcome == LimitReached.__name__
    place.grant(limits={"rows": 10}, where="lang = 'en'")
    found, _, said = place.ask()
    assert said.listed(_SHARDS) == found
    assert len(found) == 10


@pytest.mark.parametrize(("bound", "value"), [("MOST_ITEMS", 3), ("MOST_BYTES", 120), ("MOST_SECONDS", 0.0)])
@pytest.mark.parametrize("where", [None, "lang = 'en'", "id = 3 OR id = 5 OR id > 60"])
def test_a_long_read_is_told_of_in_parts(
    place: Place, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, where: str | None
) -> None:
    """By number, by length and by time: together the parts list every row once, and none lists many."""
    monkeypatch.setattr(accounts, bound, value)
    found, _, said = place.ask(where=where)
    assert said.listed(_SHARDS) == found
    assert said.ended is not None
    assert said.ended["rows"] == len(found)
    told_before = sum(part["rows"] for part in said.went_on)
    assert len(found) - told_before >= 0
    assert sum(part["bytes"] for part in said.went_on) <= said.ended["bytes"]
    # Of whole shards there is nothing to tell but how many.
    assert bool(said.went_on) == (bound == "MOST_SECONDS" or where == "lang = 'en'")
    if bound == "MOST_ITEMS":
        assert all(len(part["served"]) <= 4 for part in (*said.went_on, said.ended))
    for part in said.went_on:
        assert {name: part[name] for name in ("vendor_id", "credential", "grant", "version", "address")} == {
            name: said.begun[name] for name in ("vendor_id", "credential", "grant", "version", "address")
        }


def test_of_very_many_shards_little_is_held_and_no_entry_is_large(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30,000 shards with their own rows each: entries of 64 KiB, and nothing left over in between."""
    sizes: list[int] = []
    numbers = np.random.default_rng(1)

    def record(_journal: Journal, _kind: Kind, **fields: Any) -> int:
        sizes.append(len(json_bytes(fields["served"])))
        return len(sizes)

    monkeypatch.setattr(Journal, "record", record)
    permit = access.permits.permitted(place.parts, place.caller, Request("evals")).permit
    account = accounts.Account(place.parts, place.caller, permit, 1, "nonce")
    for shard in range(30_000):
        keep = numbers.random(40) < 0.5
        batch = pa.record_batch([pa.array(range(int(keep.sum())))], ["id"])
        position = reading.Position(shard, batch.num_rows)
        account.add(reading.Placed(batch, position, 40, pa.chunked_array([keep])), batch)
    account.close("complete", soon=False)
    assert len(sizes) > 10
    assert max(sizes) < (64 << 10) + 500
    assert sum(sizes) > 30_000 * 20


def test_where_it_cannot_be_told_the_read_ends_and_nothing_is_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that the log does not take stops the read before the next batch; what left before it is in the last entry."""
    monkeypatch.setattr(accounts, "MOST_ITEMS", 3)
    record = Journal.record

    def refusing(journal: Journal, kind: Kind, **fields: Any) -> int:
        if kind is Kind.READ_WENT_ON:
            raise AuditError("the disk is full")
        return record(journal, kind, **fields)

    monkeypatch.setattr(Journal, "record", refusing)
    found, _, said = place.ask(where="lang = 'en'")
    assert said.outcome == AuditError.__name__
    assert 0 < len(found) < _ROWS // 2
    # The batch that was about to leave is listed too.
    assert set(found) < set(said.listed(_SHARDS))
    assert len(said.listed(_SHARDS)) - len(found) <= _BATCH


def test_rows_of_others_are_not_listed(lab: Lab) -> None:
    """Of shards that are assigned to vendors each one's read lists its own."""
    table = rows(60).append_column("whose", pa.array([["acme", "globex"][row // 10 % 2] for row in range(60)]))
    lab.vault.publish("evals", table.to_reader(max_chunksize=20), shard_rows=10, assign_by="whose")
    lab.vault.grant("acme", "evals", ["id"])
    parts = lab.broker_parts()
    delivery = access.open_delivery(parts, lab.caller(parts, "acme"), Request("evals"))
    assert sum(batch.num_rows for batch in delivery.batches) == 30
    (said,) = told(lab.vault)
    assert said.begun["shards"] == [[0, 0], [2, 2], [4, 4]]
    assert said.ended is not None
    assert said.ended["served"] == [{"shards": [shard, shard]} for shard in (0, 2, 4)]


_READER = """
import sys
from pathlib import Path
from vault import access, deployment
from vault.access import accounts
from vault.policy import Request
from vault.wire import Token
from vault.workings import reading
reading._BATCH_ROWS, accounts.MOST_ITEMS = 7, int(sys.argv[3])
parts = deployment.open_broker(Path(sys.argv[1]))[0]
caller = access.authenticate(parts, Token.from_header(sys.argv[2]), "test")
for batch in access.open_delivery(parts, caller, Request("evals"), "lang = 'en'").batches:
    print(*batch.column("id").to_pylist(), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("most_items", "batches"), [(2, 8), (2, 11), (4096, 5)])
def test_a_broker_that_is_killed_leaves_a_bound(place: Place, most_items: int, batches: int) -> None:
    """What was told stands as it is; behind it, all that the read could have opened counts as served."""
    token = place.lab.vault.issue_credential("acme", bearer=True).profile.token.header()
    words = [sys.executable, "-c", _READER, str(place.lab.folder), token, str(most_items)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = _came(process, batches)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (said,) = told(place.lab.vault)
    assert said.outcome is None
    assert bool(said.went_on) == (most_items == 2)
    bound = said.bound(_SHARDS)
    assert set(found) <= bound
    everything = {(shard, row) for shard, count in _SHARDS.items() for row in range(count)}
    # What the filter hid before the last part is out of it.
    assert (bound == everything) == (most_items == 4096)


def _came(process: "subprocess.Popen[str]", batches: int) -> list[Row]:
    """The rows of so many batches; the process waits in the midst of the next one."""
    assert process.stdin is not None
    assert process.stdout is not None
    found: list[int] = []
    for number in range(batches):
        if number:
            process.stdin.write("\n")
            process.stdin.flush()
        found += map(int, process.stdout.readline().split())
    return _places(found)
