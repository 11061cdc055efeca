"""Limits and times of grants: charged before anything leaves, exact over brokers, and told when they are reached."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.reading import later, read
from tests.support.tables import rows
from vault import access
from vault.client import Client
from vault.errors import InvalidInput, LimitReached, NotGranted, Unavailable, VaultError
from vault.policy import Request
from vault.workings.parts import Parts

pytestmark = pytest.mark.both_catalogs


def _batches(parts: Parts, caller: access.Caller, **request: Any) -> tuple[int, VaultError | None]:
    """Rows that came, and the error that ended it."""
    total = 0
    try:
        for batch in access.open_delivery(parts, caller, Request("evals", **request)).batches:
            total += batch.num_rows
    except VaultError as error:
        return total, error
    return total, None


def test_rows_are_served_up_to_the_limit_and_not_one_more(published: Lab) -> None:
    """The stream ends with an error after just as many rows; the next request is refused."""
    grant = published.vault.grant("acme", "evals", ["id", "prompt"], limits={"rows": 130})
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    assert _batches(parts, caller) == (100, None)
    count, error = _batches(parts, caller)
    assert count == 30
    assert isinstance(error, LimitReached)
    assert "is used up after 30 rows of this read" in str(error)
    with pytest.raises(LimitReached, match="limit of rows in all is used up"):
        read(parts, caller)
    (state,) = published.vault.grants()
    assert state.used.total == {"requests": 2, "rows": 130, "bytes": state.used.total["bytes"]}
    published.vault.revoke(grant.id)
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 10})
    assert _batches(published.broker_parts(), caller)[0] == 10, "another grant counts for itself"


def test_requests_and_bytes_are_limited_too(published: Lab) -> None:
    """A request that is refused for another reason is not charged; bytes are those of the columns served."""
    published.vault.grant("acme", "evals", ["id"], limits={"requests": 2})
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    for _ in range(3):
        with pytest.raises(NotGranted):
            read(parts, caller, columns=("answer",))
    assert [_batches(parts, caller, limit=1)[0] for _ in range(2)] == [1, 1]
    with pytest.raises(LimitReached, match="limit of requests in all"):
        read(parts, caller)
    published.vault.grant("globex", "evals", ["id"], limits={"bytes": 8 * 55 + 7})
    caller = published.caller(parts, "globex")
    assert _batches(parts, caller)[0] in {54, 55}, "each batch has some bits beside its numbers"
    (state,) = published.vault.grants("globex")
    assert state.used.total["bytes"] <= 8 * 55 + 7


def test_a_day_begins_anew(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a day allows is there again on the next; what is allowed in all is not."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows_per_day": 40, "rows": 70})
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    assert _batches(parts, caller)[0] == 40
    with pytest.raises(LimitReached, match="limit of rows for today"):
        read(parts, caller)
    later(monkeypatch, timedelta(days=1))
    caller = replace(caller, expires=caller.expires + timedelta(days=2))
    assert _batches(parts, caller)[0] == 30
    with pytest.raises(LimitReached, match="limit of rows in all"):
        read(parts, caller)


def test_limits_are_exact_over_several_brokers(published: Lab) -> None:
    """Eight clients at three brokers together get exactly what one would."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 730, "requests": 20})
    profile = published.vault.issue_credential("acme").profile

    def fetch(endpoint: str) -> tuple[int, int]:
        got = asked = 0
        client = Client(replace(profile, endpoint=endpoint))
        for _ in range(4):
            try:
                reader = client.open("evals").scan()
                asked += 1
                for batch in reader:
                    got += batch.num_rows
            except LimitReached:
                continue
        return got, asked

    with (
        broker(published.folder) as one,
        broker(published.folder) as two,
        broker(published.folder) as three,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(fetch, [one, two, three] * 3))
    (state,) = published.vault.grants()
    assert sum(got for got, _ in found) == state.used.total["rows"] == 730
    # One that met the limit with its first batch was charged as a request, and answered with nothing but the error.
    assert sum(asked for _, asked in found) <= state.used.total["requests"] <= 20


def test_what_cannot_be_charged_is_not_served(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the catalog cannot be written after the stream has begun, no further row leaves."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 1000})
    parts = published.broker_parts()
    delivery = access.open_delivery(parts, published.caller(parts, "acme"), Request("evals"))
    assert next(delivery.batches).num_rows == 30

    def fail(*_arguments: object) -> None:
        raise Unavailable("the catalog is gone")

    monkeypatch.setattr("vault.catalog.Transaction.add_usage", fail)
    with pytest.raises(Unavailable):
        next(delivery.batches)
    (state,) = published.vault.grants()
    assert state.used.total["rows"] == 30


@pytest.mark.parametrize(
    "limits",
    [{"rows": 0}, {"rows": -1}, {"rows": True}, {"rows": 2**60}, {"rows": 1.5}, {"cells": 1}, {"rows_per_week": 1}],
)
def test_a_limit_that_is_none_is_refused(published: Lab, limits: dict[str, Any]) -> None:
    """With its option's name; no grant is made."""
    with pytest.raises(InvalidInput, match="--max-(rows|cells|rows-per-week): "):
        published.vault.grant("acme", "evals", ["id"], limits=limits)
    assert published.vault.grants() == []


def test_a_grant_counts_from_its_beginning_to_its_end(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after, it looks like no grant at all; its columns are there when it begins."""
    begin = datetime.now(UTC) + timedelta(hours=1)
    published.vault.grant("acme", "evals", ["id"], starts=begin, expires=timedelta(hours=1))
    assert [state.state for state in published.vault.grants()] == ["scheduled"]
    published.vault.gc(timedelta(0))
    published.vault.publish("evals", rows(10, start=100), append=True)
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    assert access.offerings(parts, caller) == []

    with pytest.raises(NotGranted):
        read(parts, caller)
    later(monkeypatch, timedelta(minutes=61))
    assert read(parts, caller).num_rows == 110
    later(monkeypatch, timedelta(minutes=121))
    with pytest.raises(NotGranted):
        read(parts, caller)
    for wrong in (datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(days=40_000)):
        with pytest.raises(InvalidInput, match="--from: give a time in the future"):
            published.vault.grant("acme", "evals", ["id"], starts=wrong)


def test_the_client_shows_that_the_limit_is_reached(published: Lab) -> None:
    """Over HTTP: an error of its own kind, in the stream and before it, and never a shorter table."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 50})
    profile = published.vault.issue_credential("acme").profile
    with broker(published.folder) as endpoint:
        client = Client(replace(profile, endpoint=endpoint))
        assert client.grants()[0].limits == {"rows": 50}
        with pytest.raises(LimitReached, match="used up after 50 rows"):
            client.dataset("evals").to_arrow()
        with pytest.raises(LimitReached, match="limit of rows in all is used up"):
            client.dataset("evals").to_arrow()


def test_a_batch_is_cut_to_the_bytes_that_are_left(lab: Lab) -> None:
    """Rows of very different sizes: never more bytes than the limit, and at least one row where one fits."""
    texts = ["x" * (10 if n % 7 else 1000) for n in range(200)]
    lab.vault.publish("evals", pa.table({"t": texts}))
    for most in (5_000, 12_345, 20_001):
        grant = lab.vault.grant("acme", "evals", ["t"], limits={"bytes": most})
        parts = lab.broker_parts()
        count, error = _batches(parts, lab.caller(parts, "acme"), grant=grant.id)
        state = next(state for state in lab.vault.grants() if state.grant.id == grant.id)
        assert isinstance(error, LimitReached)
        assert 0 < count < 200
        assert 0 < state.used.total["bytes"] <= most
        for _ in range(20):
            assert _batches(parts, lab.caller(parts, "acme"), grant=grant.id)[0] <= count
        state = next(state for state in lab.vault.grants() if state.grant.id == grant.id)
        assert state.used.total["bytes"] <= most
        lab.vault.revoke(grant.id)
