"""Streams that go on after their connection broke: no row lost, none doubled, and nothing for anybody else."""

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.relay import Line
from tests.support.tables import rows
from vault import access
from vault.errors import Frozen, InvalidInput, LimitReached, NotGranted, Unavailable, VaultError
from vault.filters import parse
from vault.policy import Request
from vault.workings import reading


@pytest.fixture
def small(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """100 rows in shards of 30 and batches of 8, granted to acme and globex."""
    monkeypatch.setattr(reading, "_BATCH_ROWS", 8)
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    lab.vault.grant("acme", "evals", ["id", "prompt", "lang"])
    lab.vault.grant("globex", "evals", ["id", "prompt", "lang"])
    return lab


def _some(
    lab: Lab, batches: int, vendor: str = "acme", cursor: bytes | None = None, **request: Any
) -> tuple[list[int], bytes]:
    """The ids of so many batches, at a fresh broker, and the cursor behind them."""
    parts = lab.broker_parts()
    delivery = access.open_delivery(parts, lab.caller(parts, vendor), Request("evals", **request), cursor=cursor)
    ids: list[int] = []
    for _ in range(batches):
        batch = next(delivery.batches, None)
        if batch is None:
            break
        ids += batch.column("id").to_pylist()
    found = delivery.cursor()
    delivery.batches.close()  # type: ignore[attr-defined]
    return ids, found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(st.integers(0, 6), max_size=8),
    where=st.sampled_from([None, "lang = 'en'", "id >= 25 AND id < 95", "id > 1000"]),
    limit=st.none() | st.integers(0, 110),
)
def test_a_read_in_pieces_is_the_read(small: Lab, pieces: list[int], where: str | None, limit: int | None) -> None:
    """Broken off after any batches, and taken up at another broker each time, it gives the same rows in order."""
    request = {"where": parse(where) if where else None, "limit": limit}
    whole, _ = _some(small, 1000, **request)
    ids, cursor = [], None
    for count in [*pieces, 1000]:
        more, cursor = _some(small, count, cursor=cursor, **request)
        ids += more
    assert ids == whole


def test_a_cursor_holds_over_a_rekey_and_another_grant(small: Lab) -> None:
    """The place in the rows stays what it was, whatever keys and objects they are under."""
    ids, cursor = _some(small, 5)
    small.vault.rekey("acme")
    small.vault.publish("other", rows(10))
    small.vault.grant("acme", "other", ["id"])
    more, _ = _some(small, 100, cursor=cursor)
    assert ids + more == list(range(100))


def test_a_cursor_ends_with_what_it_was_made_for(small: Lab) -> None:
    """Another version, rows that were erased, another grant: the read has to begin anew, and says so."""
    _, cursor = _some(small, 5)
    small.vault.erase("evals", keys=[3])
    with pytest.raises(InvalidInput, match="cursor: .*begin the read anew"):
        _some(small, 1, cursor=cursor)
    _, cursor = _some(small, 5)
    small.vault.publish("evals", rows(10, start=100), append=True)
    with pytest.raises(InvalidInput, match="begin the read anew"):
        _some(small, 1, cursor=cursor)
    _, cursor = _some(small, 5)
    grant = next(state.grant.id for state in small.vault.grants("acme"))
    small.vault.revoke(grant)
    with pytest.raises(NotGranted):
        _some(small, 1, cursor=cursor)
    small.vault.grant("acme", "evals", ["id", "prompt", "lang"])
    with pytest.raises(InvalidInput, match="begin the read anew"):
        _some(small, 1, cursor=cursor)


@pytest.mark.parametrize(
    "request_",
    [
        {"columns": ("id", "prompt")},
        {"columns": ("id", "lang", "prompt")},
        {"where": parse("id >= 0")},
        {"limit": 99},
    ],
)
def test_a_cursor_is_of_one_request(small: Lab, request_: dict[str, Any]) -> None:
    """With other columns, another order of them, another predicate or limit it does not open."""
    _, cursor = _some(small, 3)
    with pytest.raises(InvalidInput, match="cursor"):
        _some(small, 1, cursor=cursor, **request_)


def test_a_cursor_of_another_vendor_or_altered_opens_nothing(small: Lab) -> None:
    """Each byte counts, and so does whose it is; two cursors of one place have nothing in common."""
    _, cursor = _some(small, 3)
    with pytest.raises(InvalidInput, match="cursor"):
        _some(small, 1, "globex", cursor=cursor)
    parts = small.broker_parts()
    caller = small.caller(parts, "acme")
    for at in range(len(cursor)):
        changed = bytes([*cursor[:at], cursor[at] ^ 1, *cursor[at + 1 :]])
        with pytest.raises(InvalidInput, match="cursor"):
            access.open_delivery(parts, caller, Request("evals"), cursor=changed)
    for odd in (b"", cursor[:-1], cursor + b"x", b"\x00" * len(cursor)):
        with pytest.raises(InvalidInput, match="cursor"):
            access.open_delivery(parts, caller, Request("evals"), cursor=odd)
    _, again = _some(small, 3)
    assert not {cursor[at : at + 8] for at in range(0, 64, 8)} & {again[at : at + 8] for at in range(0, 64, 8)}


def test_going_on_is_a_new_decision_that_is_logged_and_charged(small: Lab) -> None:
    """A frozen vendor's cursor opens nothing; the log says where a read went on; rows are charged once each."""
    small.vault.revoke(next(state.grant.id for state in small.vault.grants("acme")))
    small.vault.grant("acme", "evals", ["id"], limits={"rows": 60})
    ids, cursor = _some(small, 5)
    more, last = _some(small, 2, cursor=cursor)
    assert ids + more == list(range(54))
    (state,) = [state for state in small.vault.grants("acme") if state.state == "live"]
    assert state.used.total["rows"] == 54
    begun = [entry.fields for _, entry in small.vault.audit_entries() if entry.kind.value == "read begun"]
    assert [fields["resumed"] for fields in begun] == [None, [1, 8]]
    assert [fields["shards"] for fields in begun] == [[[0, 3]], [[1, 3]]]
    with pytest.raises(LimitReached):
        _some(small, 100, cursor=last)
    small.vault.freeze("acme")
    with pytest.raises(Frozen):
        _some(small, 1, cursor=cursor)


class _Cutting(Line):
    """A line that ends each connection after so many bytes of the answer; ``cuts`` are used up one by one."""

    def __init__(self, cuts: list[int | None]) -> None:
        super().__init__()
        self._cuts = cuts
        self.connections = 0

    def serve(self, incoming: socket.socket) -> None:
        self.connections += 1
        left = self._cuts.pop(0) if self._cuts else None
        host, port = self.target.removeprefix("http://").split(":")
        with incoming, socket.create_connection((host, int(port))) as outgoing:
            forward = threading.Thread(target=self.pump, args=(incoming, outgoing), daemon=True)
            forward.start()
            with suppress(OSError):
                while data := outgoing.recv(4096):
                    piece = data if left is None else data[:left]
                    incoming.sendall(piece)
                    left = None if left is None else left - len(piece)
                    if left == 0:
                        break
                incoming.shutdown(socket.SHUT_RDWR)


@contextmanager
def _client(lab: Lab, cuts: list[int | None], patience: float = 20) -> Iterator[tuple[vault.Client, _Cutting]]:
    """A client of a broker behind a line that breaks, which knows by what address it is reached."""
    profile = lab.vault.issue_credential("acme").profile
    with _Cutting(cuts) as proxy, broker(lab.folder, "--endpoint", proxy.url) as endpoint:
        proxy.target = endpoint
        yield vault.Client(replace(profile, endpoint=proxy.url), patience=timedelta(seconds=patience)), proxy


def test_a_client_gets_every_row_over_a_line_that_breaks(lab: Lab) -> None:
    """Cut at many places, in the head, in a batch and before the end: the table is whole, and nobody notices."""
    table = pa.table({"id": range(300_000), "text": [f"row {n}" for n in range(300_000)]})
    lab.vault.publish("evals", table, shard_rows=90_000)
    lab.vault.grant("acme", "evals", ["id", "text"])
    with _client(lab, [100, 500, 1_000_000, 2_000_000, 700, 3_000_000]) as (client, proxy):
        for _ in range(2):
            with suppress(Unavailable):
                client.datasets()
        assert client.open("evals").scan(delivery="stream").read_all().equals(table)
        assert proxy.connections >= 5
    used = [entry for _, entry in lab.vault.audit_entries() if entry.kind.value == "read begun"]
    assert any(entry.fields["resumed"] for entry in used)


def test_patience_ends(lab: Lab) -> None:
    """Where nothing comes any more the client says that the stream was cut off, and hands out no short table."""
    table = pa.table({"id": range(300_000)})
    lab.vault.publish("evals", table, shard_rows=60_000)
    lab.vault.grant("acme", "evals", ["id"])
    with _client(lab, [900_000, *[10] * 50], patience=1.5) as (client, _), pytest.raises(Unavailable, match="cut off"):
        client.open("evals").to_arrow(delivery="stream")


def test_a_refusal_is_not_waited_for(lab: Lab) -> None:
    """What the broker refuses while the client goes on is raised at once."""
    table = pa.table({"id": range(300_000)})
    lab.vault.publish("evals", table, shard_rows=60_000)
    lab.vault.grant("acme", "evals", ["id"])
    with _client(lab, [900_000]) as (client, _):
        reader = client.open("evals").scan(delivery="stream")
        reader.read_next_batch()
        lab.vault.freeze("acme")
        time.sleep(1.1)
        with pytest.raises(VaultError) as refused:
            reader.read_all()
        assert isinstance(refused.value, Frozen)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_streams_are_compressed_as_the_client_asks(lab: Lab, compression: str) -> None:
    """The rows are the same; what is not one of the three is refused on both sides."""
    table = pa.table({"text": ["the same words again and again"] * 50_000})
    lab.vault.publish("evals", table)
    lab.vault.grant("acme", "evals", ["text"])
    profile = lab.vault.issue_credential("acme").profile
    with broker(lab.folder) as endpoint:
        client = vault.Client(replace(profile, endpoint=endpoint), compression=compression)
        assert client.open("evals").to_arrow().equals(table)
        response = client.connection.send(
            "POST", "/v1/datasets/evals/read", f'{{"compression": "{compression}"}}'.encode()
        )
        size = len(response.read())
        assert size > 1_000_000 if compression == "none" else size < 300_000
        with pytest.raises(InvalidInput, match="compression"):
            client.connection.send("POST", "/v1/datasets/evals/read", b'{"compression": "brotli"}')
        with pytest.raises(InvalidInput, match="cursor"):
            client.connection.send("POST", "/v1/datasets/evals/read", b'{"cursor": "%%%"}')
        with pytest.raises(InvalidInput, match="cursor"):
            client.connection.send(
                "POST", "/v1/datasets/evals/read", b'{"cursor": "' + base64.b64encode(b"x" * 64) + b'"}'
            )
    with pytest.raises(InvalidInput, match="compression: use one of none, lz4, zstd"):
        vault.Client(profile, compression="gzip")
