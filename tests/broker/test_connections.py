"""Connections that say too little, take too little, or are too many."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pyarrow as pa
import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker, counters, running_broker
from tests.support.raw import answer, ask, connect, ends_within
from vault.owner import Vault

_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
_READ = b"POST /v1/datasets/evals/read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def _await(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.05)


def test_dripping_connections_shut_out_nobody_and_end_in_time(lab: Lab) -> None:
    """200 connections that drip their head or body, or say nothing: others are served at once, and they are ended."""
    starts = (_HEAD, _READ + b"Content-Length: 1000\r\n\r\n{", b"", b"G")
    with broker(lab.folder, "--request-timeout", "5s") as endpoint, ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(connect(endpoint)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(starts[number % 4])
        for _ in range(4):
            asked = time.monotonic()
            assert ask(endpoint, _HEAD + b"\r\n").status == 200
            assert time.monotonic() - asked < 2
            for number, connection in enumerate(slow):
                if number % 4 < 2:
                    with suppress(ConnectionError):
                        connection.sendall(b"a" if number % 4 else b"X-a: b\r\n")
            time.sleep(0.2)
        for number, connection in enumerate(slow):
            # A byte now and then puts nothing off.
            found = answer(connection)
            assert (found.status, found.problem["type"]) == (408, "urn:dsvault:timeout"), number
            assert connection.recv(1) == b""
        assert 4.5 <= time.monotonic() - began < 30
        assert counters(endpoint)['dsvault_requests_total{route="other",status="408"}'] == 200


def test_a_connection_may_idle_between_requests_but_not_within_one(lab: Lab) -> None:
    """The deadline is for a request that was begun; an idle connection is good for the next one."""
    with broker(lab.folder, "--request-timeout", "1s") as endpoint, connect(endpoint) as connection:
        for _ in range(2):
            connection.sendall(_HEAD + b"\r\n")
            assert answer(connection).status == 200
            time.sleep(1.5)
        connection.sendall(_HEAD[:30])
        assert answer(connection).status == 408


def test_a_body_that_is_refused_is_not_swallowed_for_ever(lab: Lab) -> None:
    """Who goes on sending a body that was refused for its length is cut off at the deadline."""
    with broker(lab.folder, "--request-timeout", "1s") as endpoint, connect(endpoint) as connection:
        connection.sendall(_READ + b"Content-Length: 999999999999\r\n\r\n")
        assert answer(connection).status == 413
        assert ends_within(connection, 3)


def test_waiting_connections_make_room(lab: Lab) -> None:
    """Beyond the most there may be, the oldest one that waits goes for a new one, which is served."""
    with broker(lab.folder, "--connections", "20", "--request-timeout", "60s") as endpoint, ExitStack() as stack:
        slow = [stack.enter_context(connect(endpoint)) for _ in range(20)]
        for connection in slow:
            connection.sendall(_HEAD)
        _await(lambda: ask(endpoint, _HEAD + b"\r\n").status == 200)
        assert ends_within(slow[0], 2)
        assert not ends_within(slow[-1], 0.2)
        for _ in range(60):
            stack.enter_context(connect(endpoint)).sendall(_HEAD)
        assert ask(endpoint, _HEAD + b"\r\n").status == 200


@pytest.fixture
def large(cast: Callable[..., Lab]) -> Lab:
    """A dataset of 60 MB that does not compress, in 60 shards, which acme may read."""
    return cast(_large)


def _large(opened: Vault) -> None:
    size = 1000
    table = pa.table({"data": pa.array([os.urandom(size) for _ in range(60_000)], pa.binary(size))})
    opened.publish("evals", table, shard_rows=1000)
    opened.grant("acme", "evals", ["data"])


def _small(endpoint: str) -> socket.socket:
    """A connection whose end here can hold little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, _, port = endpoint.removeprefix("http://").partition(":")
    connection.settimeout(20)
    connection.connect((host, int(port)))
    return connection


def _begin(lab: Lab, endpoint: str) -> socket.socket:
    """A connection on which a read was asked for, and its head was read, but not more; it can hold little."""
    token = lab.vault.issue_credential("acme", bearer=True).profile.token.header().encode()
    connection = _small(endpoint)
    connection.sendall(_READ + b"Authorization: " + token + b"\r\nContent-Length: 2\r\n\r\n{}")
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def _outcomes(lab: Lab) -> list[object]:
    """How the reads that ended did, by the log."""
    return [entry.fields["outcome"] for _, entry in lab.vault.audit_entries() if entry.kind.value == "read ended"]


def _resident(pid: int) -> int:
    """Bytes of memory of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_who_reads_slowly_holds_little_and_who_goes_away_nothing(large: Lab) -> None:
    """While 8 readers sleep no more than a few batches are taken for each; when they go, all of it ends, and is logged."""
    with running_broker(large.folder) as (endpoint, process):
        with _begin(large, endpoint):
            _await(lambda: counters(endpoint)["dsvault_streams_open"] == 1)
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0)
        before, done = _resident(process.pid), counters(endpoint)["dsvault_stream_bytes_total"]
        readers = [_begin(large, endpoint) for _ in range(8)]
        taken = [0.0, 1.0]

        def level() -> bool:
            time.sleep(1)
            taken.append(counters(endpoint)["dsvault_stream_bytes_total"] - done)
            return taken[-1] == taken[-2]

        _await(level)
        # The kernel holds some of it; of 480 MB that there are.
        assert 0 < taken[-1] < 8 * 10e6
        assert _resident(process.pid) - before < 150e6
        assert counters(endpoint)["dsvault_streams_open"] == 8
        assert ask(endpoint, _HEAD + b"\r\n").status == 200
        for reader in readers:
            reader.close()
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0)
        assert _outcomes(large) == ["broken off"] * 9


def test_who_asks_and_does_not_read_shuts_out_nobody(lab: Lab) -> None:
    """Connections whose answers nobody takes make room for new ones, long before their time is over."""
    with broker(lab.folder, "--connections", "5", "--send-timeout", "1h") as endpoint, ExitStack() as stack:
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400
        for connection in [stack.enter_context(_small(endpoint)) for _ in range(5)]:
            connection.sendall(asked)
        _await(lambda: ask(endpoint, _HEAD + b"\r\n").status == 200, 30)
        assert ask(endpoint, _HEAD + b"\r\n").status == 200


def test_an_answer_that_nobody_reads_is_ended_at_the_deadline(large: Lab) -> None:
    """And what was held for it is let go, and the end is in the log."""
    with broker(large.folder, "--send-timeout", "2s") as endpoint, _begin(large, endpoint):
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0, 15)
        assert _outcomes(large) == ["broken off"]


def test_who_reads_slowly_but_reads_is_not_cut_off(large: Lab) -> None:
    """Neither at the deadline, nor for a new connection where no other is left."""
    options = ("--send-timeout", "2s", "--connections", "1")
    with broker(large.folder, *options) as endpoint, _begin(large, endpoint) as slow:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            for _ in range(10):
                assert slow.recv(4096)
                time.sleep(0.05)
            assert ask(endpoint, _HEAD + b"\r\n").status == 503
        assert slow.recv(4096)


def _ends_unread(lab: Lab, endpoint: str) -> None:
    """What is sent to acme, and not read, ends within 5 seconds of a freeze; a second here is the machine's."""
    _await(lambda: counters(endpoint)["dsvault_streams_open"] == 1)
    time.sleep(1)
    lab.vault.freeze("acme")
    _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0, 6)


def test_a_stream_that_nobody_reads_ends_with_a_freeze(large: Lab) -> None:
    """It comes to no border between batches, and is ended all the same, and the end is in the log."""
    with broker(large.folder) as endpoint, _begin(large, endpoint):
        _ends_unread(large, endpoint)
        assert _outcomes(large) == ["broken off"]


def test_a_leased_object_that_nobody_reads_ends_with_a_freeze(lab: Lab) -> None:
    """As a stream does."""
    table = pa.table({"data": pa.array([os.urandom(1000) for _ in range(20_000)], pa.binary(1000))})
    lab.vault.publish("evals", table)
    lab.vault.grant("acme", "evals", ["data"], delivery="lease")
    token = lab.vault.issue_credential("acme", bearer=True).profile.token.header()
    with broker(lab.folder) as endpoint, _small(endpoint) as connection:
        headers = {"Authorization": token, "Content-Type": "application/json"}
        page = urllib3.request("POST", endpoint + "/v1/datasets/evals/lease", body=b"{}", headers=headers).json()
        path = page["shards"][0]["chunks"][0]["url"]
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        _ends_unread(lab, endpoint)


def test_the_broker_is_not_stopped_by_a_client_that_closes_at_once(lab: Lab) -> None:
    """Connections that come and go, with and without a reset, leave nothing behind."""
    with broker(lab.folder) as endpoint:
        for number in range(50):
            connection = connect(endpoint)
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            connection.sendall(_HEAD[: number % len(_HEAD)] or b"G")
            connection.close()
        assert urllib3.request("GET", endpoint + "/healthz").status == 200


def test_a_process_may_open_as_many_files_as_it_takes_connections(lab: Lab) -> None:
    """A low limit is raised; where that may not be, the option is refused with what would do."""
    import resource
    import subprocess
    import sys

    def limited(soft: int, hard: int) -> list[str]:
        limit = f'ulimit -S -n {soft} && ulimit -H -n {hard} && exec "$@"'
        command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(lab.folder)]
        return ["sh", "-c", limit, "sh", *command]

    refused = subprocess.run(limited(600, 600), capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "dsvault: --connections: a process may have 600 open files here; give 344\n"
    process = subprocess.Popen(limited(300, 4000), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving on ")
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (1256, 4000)
    finally:
        process.terminate()
        process.communicate(timeout=30)
