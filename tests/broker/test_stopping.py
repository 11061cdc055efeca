"""A broker that is stopped: streams end in order, and reads go on at the next one."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import running_broker
from tests.support.raw import connect
from tests.support.servers import free_port
from vault.broker.closing import Closing
from vault.broker.stream import ipc_stream
from vault.errors import Unavailable
from vault.owner import Vault
from vault.wire import End

_ROWS = 120_000


@pytest.fixture
def large(cast: Callable[..., Lab]) -> Lab:
    """A dataset of 60 MB in 60 shards, which acme may read."""
    return cast(_large)


def _large(opened: Vault) -> None:
    data = pa.array([os.urandom(500) for _ in range(_ROWS)], pa.binary(500))
    opened.publish("evals", pa.table({"id": range(_ROWS), "data": data}), shard_rows=2000)
    opened.grant("acme", "evals", ["id", "data"])


def _client(lab: Lab, endpoint: str) -> vault.Client:
    profile = lab.vault.issue_credential("acme").profile
    return vault.Client(replace(profile, endpoint=endpoint), patience=timedelta(seconds=60))


def test_a_running_stream_ends_as_it_should_within_the_grace(large: Lab) -> None:
    """Told to stop, the broker takes nothing new and lets a reader that is quick enough have all of it."""
    with running_broker(large.folder, "--grace", "30s") as (endpoint, process):
        reader = _client(large, endpoint).open("evals").scan(delivery="stream")
        rows = reader.read_next_batch().num_rows
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(ConnectionError):
            connect(endpoint)
        rows += sum(batch.num_rows for batch in reader)
        assert rows == _ROWS
        process.wait(timeout=10)
    (ended,) = [entry.fields for _, entry in large.vault.audit_entries() if entry.kind.value == "read ended"]
    assert ended["outcome"] == "complete"


def test_a_read_survives_a_rolling_restart(large: Lab) -> None:
    """Stopped twice in the midst of a read and started anew at the same port: no row is lost or doubled."""
    port, found = free_port(), []
    with ExitStack() as stack:
        endpoint, process = stack.enter_context(running_broker(large.folder, "--grace", "0s", port=port))

        def restart() -> None:
            nonlocal process
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
            _, process = stack.enter_context(running_broker(large.folder, "--grace", "0s", port=port))

        reader, restarting = _client(large, endpoint).open("evals").scan(delivery="stream"), threading.Thread()
        for number, batch in enumerate(reader):
            found += batch.column("id").to_pylist()
            if number in {2, 20}:
                # The reader goes on meanwhile: it meets the end of its stream, and then nobody for a while.
                restarting = threading.Thread(target=restart)
                restarting.start()
            if number == 19:
                restarting.join()
            time.sleep(0.05)
        restarting.join()
    assert found == list(range(_ROWS))
    begun = [entry.fields for _, entry in large.vault.audit_entries() if entry.kind.value == "read begun"]
    assert len(begun) >= 2
    assert all(fields["resumed"] for fields in begun[1:])


def test_a_stream_that_is_ended_early_says_where_and_why(large: Lab) -> None:
    """At a border between batches: what came has its cursor, and the end is a problem that says to go on elsewhere."""
    schema, closing, ended = pa.schema([("n", pa.int64())]), Closing(), []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for number in range(5):
                yield pa.record_batch([[number]], schema=schema)
        finally:
            ended.append(True)

    pieces = ipc_stream(schema, closing.until(batches()), lambda: b"place")
    data = next(pieces)
    closing.now()
    data += b"".join(pieces)
    with pa.ipc.open_stream(data) as stream:
        first, place = stream.read_next_batch_with_custom_metadata()
        last, end = stream.read_next_batch_with_custom_metadata()
    assert (first.num_rows, last.num_rows) == (1, 0)
    assert place is not None
    said = End.from_metadata(end)
    assert said is not None
    assert said.problem is not None
    assert said.rows == 1
    assert said.problem["type"] == "urn:dsvault:restarting"
    assert ended == [True]


def test_a_client_that_does_not_come_back_is_told_why(large: Lab) -> None:
    """Where no other broker comes in time, the read ends with what the broker said last."""
    with running_broker(large.folder, "--grace", "0s") as (endpoint, process):
        profile = large.vault.issue_credential("acme").profile
        client = vault.Client(replace(profile, endpoint=endpoint), patience=timedelta(seconds=1))
        reader = client.open("evals").scan(delivery="stream")
        reader.read_next_batch()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable):
            reader.read_all()


def test_idle_and_dripping_connections_do_not_hold_a_stop_up(lab: Lab) -> None:
    """They are closed at once, whatever the grace; only answers that run are waited for."""
    with (
        running_broker(lab.folder, "--grace", "60s", "--request-timeout", "60s") as (endpoint, process),
        _held(endpoint),
    ):
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


@contextmanager
def _held(endpoint: str) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(endpoint)) for _ in range(3)]
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        held[1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        body = b"POST /v1/datasets/x/read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        held.append(stack.enter_context(connect(endpoint)))
        held[3].sendall(body)
        time.sleep(0.5)
        yield held
