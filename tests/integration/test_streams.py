"""Running streams: stopped when the vendor is, and never taken for whole when they were cut."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.broker.stream import ipc_stream
from vault.errors import Abandoned, Frozen, InvalidInput, NotGranted, Refused, Unavailable, VaultError
from vault.policy import Request
from vault.wire import ARROW_TYPE, Profile, Token


def _forgetting(parts: object, caller: access.Caller) -> None:
    parts.heads.forget(caller.vendor)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("act", "error"), [("freeze", Frozen), ("revoke", NotGranted), ("credential", NotGranted)])
def test_a_running_stream_ends_when_the_vendor_is_stopped(granted: Lab, act: str, error: type[Refused]) -> None:
    """Freeze, revoke and the end of the credential stop a stream before its next batch."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    delivery = access.open_delivery(parts, caller, Request("evals"))
    assert next(delivery.batches).num_rows > 0
    if act == "freeze":
        granted.vault.freeze("acme")
    elif act == "revoke":
        granted.vault.revoke(granted.vault.grants()[0].grant.id)
    else:
        granted.vault.revoke_credential(caller.credential)
    # A head may be one second old; forgetting it stands for that second.
    _forgetting(parts, caller)
    with pytest.raises(error):
        list(delivery.batches)
    kinds = [(entry.kind.value, entry.fields.get("outcome")) for _, entry in granted.vault.audit_entries()]
    assert ("read ended", error.__name__) in kinds


def test_a_read_that_nobody_waits_for_any_more_opens_no_further_chunk(published: Lab) -> None:
    """Also where no row was found yet, so that nothing was sent and nobody noticed that the client is gone."""
    published.vault.grant("acme", "evals", ["id", "prompt"])
    parts = published.broker_parts()
    asked: list[bool] = []

    def gone() -> bool:
        asked.append(len(asked) >= 2)
        return asked[-1]

    delivery = access.open_delivery(
        parts, published.caller(parts, "acme"), Request("evals"), where="prompt LIKE '%nowhere%'", gone=gone
    )
    assert asked == []
    with pytest.raises(Abandoned):
        next(delivery.batches)
    # Of four shards two.
    assert asked == [False, False, True]
    ended = [entry.fields for _, entry in published.vault.audit_entries() if entry.kind.value == "read ended"]
    assert [(fields["rows"], fields["outcome"]) for fields in ended] == [(0, "broken off")]


def test_a_frozen_vendor_reads_nothing_until_it_is_thawed(granted: Lab) -> None:
    """Frozen over HTTP within a second, with an error that says so; thawed, it has the newest version."""
    import time

    with broker(granted.folder) as endpoint:
        client = vault.connect(granted.profile("acme", endpoint))
        assert client.dataset("evals").to_arrow().num_rows == 50
        granted.vault.freeze("acme")
        time.sleep(1.1)
        with pytest.raises(Frozen):
            client.datasets()
        with pytest.raises(Frozen):
            client.open("evals").scan(delivery="stream")
        granted.vault.publish("evals", rows(20), key="id")
        granted.vault.thaw("acme")
        time.sleep(1.1)
        assert client.dataset("evals").to_arrow().num_rows == 10


def test_an_error_after_the_first_byte_reaches_the_client(granted: Lab) -> None:
    """What goes wrong in the middle of a stream is raised by the client as what it was."""
    schema = pa.schema([("n", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([[1, 2]], schema=schema)
        raise Frozen("access was suspended while the data was being read")

    with _serving(b"".join(ipc_stream(schema, batches()))) as client, pytest.raises(Frozen, match="suspended"):
        client.open("evals").to_arrow(delivery="stream")


def test_a_cut_stream_is_never_a_shorter_table() -> None:
    """Cut at any byte, a stream gives an error, even where Arrow alone would see a good end."""
    schema = pa.schema([("n", pa.int64()), ("s", pa.string())])
    batches = [pa.record_batch([[number] * 3, ["x"] * 3], schema=schema) for number in range(3)]
    whole = b"".join(ipc_stream(schema, iter(batches)))
    with _serving(whole) as client:
        assert client.open("evals").to_arrow(delivery="stream").num_rows == 9
    plain = pa.BufferOutputStream()
    with pa.ipc.new_stream(plain, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    cuts = [whole[:length] for length in range(0, len(whole) - 8, 16)]
    for data in [*cuts, plain.getvalue().to_pybytes()]:
        with _serving(data) as client, pytest.raises(Unavailable, match="cut off"):
            client.open("evals").to_arrow(delivery="stream")


class _serving:  # noqa: N801
    """A server on a free port that answers every read with the same bytes."""

    def __init__(self, data: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("Content-Type", ARROW_TYPE)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> vault.Client:
        self._thread.start()
        token = Token("0" * 32, b"\x00" * 32)
        endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return vault.Client(Profile(endpoint, "v", "acme", token, "", ""), patience=timedelta(0))

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_the_client_sends_no_secret_over_plain_http(tmp_path: Path) -> None:
    """A profile whose endpoint is http on anything but loopback is refused before anything is sent."""
    token = Token("0" * 32, b"\x00" * 32)
    for endpoint in ("http://example.test:1", "ftp://127.0.0.1", "http://127.0.0.1.example.test", "10.0.0.1:80"):
        with pytest.raises(InvalidInput):
            vault.Client(Profile(endpoint, "v", "acme", token, "", ""))
    assert "AAAA" not in repr(token) + repr(Profile("http://localhost:1", "v", "acme", token, "", ""))


def test_a_broker_that_cannot_write_its_log_serves_nothing(granted: Lab) -> None:
    """With the catalog read-only, an authenticated read ends in an error and no row leaves."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    with sql(granted) as connection:
        connection.execute("alter table log rename to full_log")
    with pytest.raises(VaultError):
        read(parts, caller)
