"""Reads that end badly at a real broker: what the client has is never outside of what the log says."""

import os
import signal
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import counters, running_broker
from tests.support.evidence import Row, Told, told
from vault.owner import Vault

_ROWS, _SHARD = 40_000, 1000
_SHARDS = dict.fromkeys(range(_ROWS // _SHARD), _SHARD)


@pytest.fixture
def large(cast: Callable[..., Lab]) -> Lab:
    """40 MB that does not compress in 40 shards, of which acme may read two rows in three."""
    return cast(_large)


def _large(opened: Vault) -> None:
    data = pa.array([os.urandom(1000) for _ in range(_ROWS)], pa.binary(1000))
    table = pa.table({"id": range(_ROWS), "third": [row % 3 for row in range(_ROWS)], "data": data})
    opened.publish("evals", table, shard_rows=_SHARD)
    opened.grant("acme", "evals", ["id", "data"], where="third > 0")


class _Reader:
    """A client that takes batches when it is told to; its end holds little, so that the broker has to wait."""

    def __init__(self, lab: Lab, endpoint: str) -> None:
        token = lab.vault.issue_credential("acme", bearer=True).profile.token.header()
        self._response = urllib3.PoolManager().request(
            "POST",
            endpoint + "/v1/datasets/evals/read",
            json={},
            headers={"Authorization": token},
            preload_content=False,
        )
        assert self._response.status == 200
        self._stream = pa.ipc.open_stream(pa.PythonFile(self._response, mode="r"))
        self.rows: list[Row] = []

    def take(self, batches: int) -> int:
        """Take so many batches, or as many as come; returns how many."""
        for number in range(batches):
            try:
                batch = self._stream.read_next_batch()
            except (StopIteration, pa.ArrowException, OSError, urllib3.exceptions.HTTPError):
                return number
            self.rows += [divmod(each, _SHARD) for each in batch.column("id").to_pylist()]
        return batches

    def go_away(self) -> None:
        """End the connection."""
        self._response.close()


def _await(true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _only(lab: Lab) -> Told:
    (said,) = told(lab.vault)
    return said


def test_of_a_client_that_goes_away_no_row_is_outside_the_log(large: Lab) -> None:
    """The read is broken off; what was handed to the wire is listed, and by far not everything."""
    with running_broker(large.folder) as (endpoint, _):
        reader = _Reader(large, endpoint)
        assert reader.take(3) == 3
        reader.go_away()
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0)
        said = _only(large)
    listed = set(said.listed(_SHARDS))
    assert said.outcome == "broken off"
    assert set(reader.rows) <= listed
    assert len(listed) < _ROWS * 2 / 3
    assert all(row % 3 != (-_SHARD * shard) % 3 for shard, row in listed), "a row that the filter hides is listed"


def test_of_a_broker_that_is_killed_no_row_is_outside_the_log(large: Lab) -> None:
    """The read has no end: all that it could open counts."""
    with running_broker(large.folder) as (endpoint, process):
        reader = _Reader(large, endpoint)
        assert reader.take(3) == 3
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        reader.take(_ROWS)
    said = _only(large)
    assert said.outcome is None
    assert 0 < len(reader.rows) < _ROWS * 2 / 3
    assert set(reader.rows) <= said.bound(_SHARDS)


def test_of_a_vendor_frozen_in_mid_stream_the_log_lists_what_it_got(large: Lab) -> None:
    """The freeze ends the read between two batches; the reader has what was sent before, from the first listed row on."""
    with running_broker(large.folder) as (endpoint, _):
        reader = _Reader(large, endpoint)
        assert reader.take(3) == 3
        large.vault.freeze("acme")
        time.sleep(1.2)
        while reader.take(1):
            pass
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0)
        said = _only(large)
    # A reader that is too slow to take what was on its way is cut off.
    assert said.outcome in {"Frozen", "broken off"}
    listed = said.listed(_SHARDS)
    assert reader.rows == listed[: len(reader.rows)]
    assert said.outcome == "broken off" or reader.rows == listed
    assert len(listed) < _ROWS * 2 / 3


def test_a_read_that_comes_to_its_end_is_listed_row_for_row(large: Lab) -> None:
    """Complete and exact: a bitmap for each shard, since two rows in three are too many runs."""
    with running_broker(large.folder) as (endpoint, _):
        reader = _Reader(large, endpoint)
        reader.take(_ROWS)
        _await(lambda: counters(endpoint)["dsvault_streams_open"] == 0)
        said = _only(large)
    assert said.outcome == "complete"
    assert said.ended is not None
    assert said.ended["rows"] == len(reader.rows) == sum(row % 3 > 0 for row in range(_ROWS))
    assert reader.rows == said.listed(_SHARDS)
    assert {tuple(sorted(item)) for item in said.ended["served"]} == {("bits", "of", "shard")}
    assert all(len(item["bits"]) < 100 for item in said.ended["served"])
