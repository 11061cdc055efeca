"""Fetches that go on where they were cut off: no row lost, none doubled, whatever ended the run before."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.relay import Relay
from tests.support.tables import rows
from vault.audit import Kind
from vault.client import Dataset, Progress, fetch
from vault.errors import Conflict, Frozen, NotGranted, Unavailable, VaultError
from vault.owner import Vault
from vault.sinks import write_table_as

_COLUMNS = ["id", "prompt", "lang", "score"]
_ROWS, _SHARD = 6000, 250


class _Stop(Exception):
    """The run ends here."""


@contextmanager
def _relayed(lab: Lab, relay: Relay) -> Iterator[Path]:
    """The profile of acme, whose broker is behind the relay."""
    with relay, broker(lab.folder, "--endpoint", relay.url) as endpoint:
        relay.target = endpoint
        yield lab.profile("acme", relay.url)


@pytest.fixture
def large(cast: Callable[..., Lab]) -> Lab:
    """6,000 rows in 24 shards, of which acme may read four columns."""
    return cast(_large)


def _large(opened: Vault) -> None:
    opened.publish("evals", rows(_ROWS), key="id", shard_rows=_SHARD)
    opened.grant("acme", "evals", _COLUMNS)


@pytest.fixture
def dataset(large: Lab) -> Iterator[Dataset]:
    """The same at a broker."""
    with broker(large.folder) as endpoint:
        yield vault.connect(large.profile("acme", endpoint)).open("evals")


def _truth() -> pa.Table:
    return rows(_ROWS).select(_COLUMNS)


def _folder(target: Path) -> Path:
    return target.parent / f".{target.name}.dsvault-partial"


def _assert_holds(path: Path, table: pa.Table) -> None:
    """The file has exactly the rows of the table, in order."""
    if path.suffix == ".parquet":
        assert pq.read_table(path).equals(table)
    elif path.suffix == ".arrow":
        assert pa.ipc.open_stream(path).read_all().equals(table)
    else:
        other = path.with_name(f"truth{path.suffix}")
        write_table_as(table.to_reader(), other)
        assert path.read_bytes() == other.read_bytes()


def _kill_until_done(words: list[str], target: Path, kills: int) -> int:
    """Kill the command so many times in the midst of it, each time with more rows kept, and then let it end."""
    done = 0
    journal, kept = _folder(target) / "journal", 0
    for _ in range(kills):
        with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            while process.poll() is None:
                with suppress(FileNotFoundError):
                    if journal.stat().st_size > kept:
                        break
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                return done
        done += 1
        assert not target.exists()
        kept = journal.stat().st_size
        assert {path.name for path in target.parent.iterdir() if path.name.startswith(f".{target.name}")} == {
            _folder(target).name
        }
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "going on behind the" in ended.stderr
    assert json.loads(ended.stdout)["resumed"] >= _SHARD
    assert json.loads(ended.stdout)["rows"] == _ROWS
    return done


def _words(profile: Path, target: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "vault_cli.main", "fetch", "evals", "--profile", str(profile)]
    return [*program, "-o", str(target), "--json", *more]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "csv"])
def test_killed_fetches_lose_and_double_nothing(large: Lab, tmp_path: Path, ending: str) -> None:
    """Killed at random moments and run again, the file is the truth, and nothing is left beside it."""
    target = tmp_path / "out" / f"out.{ending}"
    target.parent.mkdir()
    with _relayed(large, Relay(pause=0.04)) as profile:
        assert _kill_until_done(_words(profile, target), target, 3) >= 2
    assert os.listdir(target.parent) == [target.name]
    _assert_holds(target, _truth())


def test_killed_leases_lose_and_double_nothing(large: Lab, tmp_path: Path) -> None:
    """A lease goes on at the border of a shard."""
    large.vault.revoke(large.vault.grants("acme")[0].grant.id)
    large.vault.grant("acme", "evals", _COLUMNS, delivery="lease")
    target = tmp_path / "out.parquet"
    with _relayed(large, Relay(pause=0.04)) as profile:
        assert _kill_until_done(_words(profile, target), target, 3) >= 2
    _assert_holds(target, _truth())
    leased = [entry.fields["rows"] for _, entry in large.vault.audit_entries() if entry.kind is Kind.LEASED]
    assert leased[0] == _ROWS
    assert 0 < leased[-1] < _ROWS


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "csv"])
def test_fetches_killed_twenty_times(large: Lab, tmp_path: Path, ending: str) -> None:
    """The same with more kills over a slower line."""
    target = tmp_path / f"out.{ending}"
    with _relayed(large, Relay(pause=0.3)) as profile:
        assert _kill_until_done(_words(profile, target), target, 20) >= 10
    _assert_holds(target, _truth())


def _stopped(dataset: Dataset, target: Path, after: int, **options: object) -> None:
    """Fetch, and stop once so many rows are there."""

    def stop(now: Progress) -> None:
        if now.rows >= after:
            raise _Stop

    with pytest.raises(_Stop):
        fetch(dataset, target, on_progress=stop, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("delivery", ["stream", "lease"])
def test_what_is_taken_up_is_charged_and_logged_from_there(
    large: Lab, dataset: Dataset, tmp_path: Path, delivery: str
) -> None:
    """The second run is charged for the rows that the first did not keep, and for no other."""
    large.vault.revoke(large.vault.grants("acme")[0].grant.id)
    grant = large.vault.grant("acme", "evals", _COLUMNS, limits={"rows": 100_000}, delivery=delivery)
    target = tmp_path / "out.arrow"
    _stopped(dataset, target, 1000)
    # What was on its way is charged as it leaves; here the whole lease is one page.
    deadline = time.monotonic() + 20
    while not any(entry.kind in {Kind.READ_ENDED, Kind.LEASED} for _, entry in large.vault.audit_entries()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (before,) = [state.used.total["rows"] for state in large.vault.grants("acme") if state.grant.id == grant.id]
    done = fetch(dataset, target)
    # The batch during which the run was stopped is kept: it came.
    assert (done.rows, done.resumed) == (_ROWS, 1000)
    (after,) = [state.used.total["rows"] for state in large.vault.grants("acme") if state.grant.id == grant.id]
    assert after - before == _ROWS - 1000
    _assert_holds(target, _truth())
    kind = Kind.READ_BEGUN if delivery == "stream" else Kind.LEASED
    entries = [entry.fields for _, entry in large.vault.audit_entries() if entry.kind is kind]
    assert [fields["shards"] for fields in entries] == [[[0, 23]], [[3 if delivery == "stream" else 4, 23]]]


def test_a_damaged_partial_gives_the_truth(dataset: Dataset, tmp_path: Path) -> None:
    """Rows or journal, cut or changed, or all of them gone: the fetch begins behind what is whole, or anew."""
    chance = random.Random(2)
    for round_ in range(12):
        target = tmp_path / ("out.csv" if round_ % 4 == 1 else "out.arrow")
        _stopped(dataset, target, 2000)
        path = _folder(target) / ["rows.arrow", "journal", "read.json"][round_ % 3]
        data = bytearray(path.read_bytes())
        at = chance.randrange(len(data))
        if round_ < 6:
            del data[at:]
        else:
            data[at] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        done = fetch(dataset, target)
        assert done.resumed < 2000
        _assert_holds(target, _truth())
        assert not _folder(target).exists()
        target.unlink()


def test_another_version_is_fetched_anew(large: Lab, dataset: Dataset, tmp_path: Path) -> None:
    """Rows of two versions never come together; that it begins anew is said in a sentence."""
    target, said = tmp_path / "out.jsonl", list[str]()
    _stopped(dataset, target, 2000)
    large.vault.publish("evals", rows(300, start=7), key="id")
    time.sleep(1.1)
    assert fetch(dataset, target, on_note=said.append).rows == 300
    assert said == ["what is read has changed since the fetch was broken off; beginning anew"]
    _assert_holds(target, rows(300, start=7).select(_COLUMNS))


@pytest.mark.parametrize(
    "options", [{"columns": ["id"]}, {"where": "id < 4000"}, {"limit": 5000}, {"grant": "?"}, {"delivery": "stream"}]
)
def test_other_options_are_another_fetch(
    large: Lab, dataset: Dataset, tmp_path: Path, options: dict[str, object]
) -> None:
    """What was kept under other options is not gone on from, and nothing of it is in the file."""
    if "grant" in options:
        options = {"grant": large.vault.grants("acme")[0].grant.id}
    target, said = tmp_path / "out.arrow", list[str]()
    _stopped(dataset, target, 2000)
    assert fetch(dataset, target, on_note=said.append, **options).resumed == 0  # type: ignore[arg-type]
    assert said == ["what was kept is of a fetch with other options; beginning anew"]
    expected = dataset.to_arrow(**options)  # type: ignore[arg-type]
    _assert_holds(target, expected)


def test_options_that_are_refused_cost_nothing_that_was_kept(dataset: Dataset, tmp_path: Path) -> None:
    """A mistake in a column's name does not throw away hours of another fetch."""
    target = tmp_path / "out.arrow"
    _stopped(dataset, target, 2000)
    with pytest.raises(NotGranted) as refused:
        fetch(dataset, target, ["no such column"])
    assert not getattr(refused.value, "__notes__", ())
    assert fetch(dataset, target).resumed == 2000


def test_a_fetch_begins_anew_where_it_is_told_to(dataset: Dataset, tmp_path: Path) -> None:
    """Without resume what was kept is thrown away, and the file is the same."""
    target, said = tmp_path / "out.parquet", list[str]()
    _stopped(dataset, target, 2000)
    assert fetch(dataset, target, resume=False, on_note=said.append).resumed == 0
    assert said == []
    _assert_holds(target, _truth())
    assert not _folder(target).exists()


def test_a_predicate_and_a_limit_are_taken_up(dataset: Dataset, tmp_path: Path) -> None:
    """The limit counts the rows of both runs together."""
    target = tmp_path / "out.arrow"
    options = {"where": "lang = 'en'", "limit": 2100}
    _stopped(dataset, target, 1000, **options)
    done = fetch(dataset, target, **options)  # type: ignore[arg-type]
    assert (done.rows, done.resumed) == (2100, 1000)
    _assert_holds(target, dataset.to_arrow(**options))  # type: ignore[arg-type]


def test_a_fetch_of_nothing_is_a_file_with_no_rows(dataset: Dataset, tmp_path: Path) -> None:
    """Zero rows are a whole file of each format."""
    for ending in ("arrow", "parquet", "csv", "jsonl"):
        target = tmp_path / f"out.{ending}"
        assert fetch(dataset, target, where="id < 0").rows == 0
        _assert_holds(target, _truth().slice(0, 0))
        assert not _folder(target).exists()


def test_two_fetches_to_one_file(dataset: Dataset, tmp_path: Path) -> None:
    """The second is refused while the first is under way, and leaves it alone."""
    target = tmp_path / "out.arrow"

    def other(now: Progress) -> None:
        if now.rows == 1000:
            with pytest.raises(Conflict, match="-o: .*: another fetch is writing this file"):
                fetch(dataset, target)

    assert fetch(dataset, target, on_progress=other).rows == _ROWS
    _assert_holds(target, _truth())


@pytest.mark.parametrize("act", ["freeze", "revoke"])
def test_a_stopped_vendor_is_told_what_becomes_of_its_rows(large: Lab, tmp_path: Path, act: str) -> None:
    """Ended in the midst: one sentence and exit code 1. A freeze keeps the rows for a thaw, a revocation removes them."""
    target = tmp_path / "out" / "out.parquet"
    target.parent.mkdir()
    target.write_text("before")
    large.vault.publish("evals", _wide(), key="id", shard_rows=_SHARD)
    relay = Relay(most=1_000_000)
    with _relayed(large, relay) as profile:
        words = _words(profile, target)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert relay.silent.wait(30)
            if act == "freeze":
                large.vault.freeze("acme")
            else:
                large.vault.revoke(large.vault.grants("acme")[0].grant.id)
            time.sleep(1.5)
            relay.most = None
            relay.going.set()
            out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert said.startswith("dsvault: ")
        assert said.count("\n") == 1
        assert target.read_text() == "before"
        if act == "revoke":
            assert "ended while the data was being read; the rows that had come were removed" in said
            assert os.listdir(target.parent) == [target.name]
            return
        assert "suspended while the data was being read; " in said
        assert "rows are kept, and the same fetch goes on from there" in said
        refused = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert "rows are kept" in refused.stderr
        large.vault.thaw("acme")
        time.sleep(1.1)
        ended = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert ended["rows"] == _ROWS
    assert ended["resumed"] > 0
    _assert_holds(target, _wide().select(_COLUMNS))


def _wide() -> pa.Table:
    """Rows that fill the buffers of any connection."""
    table = rows(_ROWS)
    return table.set_column(1, "prompt", pa.array([f"{number:04}" * 500 for number in range(_ROWS)]))


def test_a_grant_that_ended_meanwhile_leaves_nothing_behind(large: Lab, dataset: Dataset, tmp_path: Path) -> None:
    """Taken up after a revocation, what was kept is removed with the refusal, in any case."""
    for resume in (True, False):
        target = tmp_path / f"{resume}.arrow"
        _stopped(dataset, target, 2000)
    large.vault.revoke(large.vault.grants("acme")[0].grant.id)
    time.sleep(1.1)
    for resume in (True, False):
        target = tmp_path / f"{resume}.arrow"
        with pytest.raises(NotGranted) as refused:
            fetch(dataset, target, resume=resume)
        assert refused.value.__notes__ == ["the rows that had come were removed"]
        assert not _folder(target).exists()


def test_a_frozen_vendors_rows_wait(large: Lab, dataset: Dataset, tmp_path: Path) -> None:
    """A refusal that may pass takes nothing away."""
    target = tmp_path / "out.arrow"
    _stopped(dataset, target, 2000)
    large.vault.freeze("acme")
    time.sleep(1.1)
    with pytest.raises(Frozen) as refused:
        fetch(dataset, target)
    assert refused.value.__notes__ == ["2,000 rows are kept, and the same fetch goes on from there"]
    large.vault.thaw("acme")
    time.sleep(1.1)
    assert fetch(dataset, target).resumed == 2000


def test_a_mistake_leaves_nothing_behind(dataset: Dataset, tmp_path: Path) -> None:
    """A fetch that is refused before its first row leaves no file and no directory."""
    (tmp_path / "out").mkdir()
    for options in ({"columns": ["nope"]}, {"where": "(("}):
        with pytest.raises(VaultError):
            fetch(dataset, tmp_path / "out" / "x.arrow", **options)  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "out") == []


def test_no_secret_is_kept(large: Lab, tmp_path: Path) -> None:
    """Beside the rows themselves there is what was asked for, and neither token, secret nor key."""
    with broker(large.folder) as endpoint:
        profile = large.profile("acme", endpoint)
        client = vault.connect(profile)
        _stopped(client.open("evals"), tmp_path / "out.arrow", 1000)
        kept = b"".join(path.read_bytes() for path in _folder(tmp_path / "out.arrow").iterdir())
    document = json.loads(profile.read_text())
    for secret in (client.profile.token.text, document["secret"], document["key"]["d"]):
        assert len(secret) > 20
        assert secret.encode() not in kept


def test_a_line_that_is_gone_keeps_the_rows(large: Lab, tmp_path: Path) -> None:
    """Where no connection can be had any more the error says what is kept, and once there is one it goes on."""
    profile = large.vault.issue_credential("acme").profile
    with Relay(most=150_000) as relay, broker(large.folder, "--endpoint", relay.url) as endpoint:
        relay.target = endpoint
        client = vault.Client(replace(profile, endpoint=relay.url), patience=timedelta(0))

        def cut(now: Progress) -> None:
            if now.rows >= 500:
                relay.target = ""
                relay.going.set()

        with pytest.raises(Unavailable, match="cut off") as failed:
            fetch(client.open("evals"), tmp_path / "out.arrow", on_progress=cut)
        assert "rows are kept" in failed.value.__notes__[0]
        relay.target, relay.most = endpoint, None
        assert fetch(client.open("evals"), tmp_path / "out.arrow").resumed >= 500
    _assert_holds(tmp_path / "out.arrow", _truth())


def _on_a_terminal(words: list[str]) -> str:
    """What a command writes to a terminal that is its stderr."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=its, env=environment) as process:
        os.close(its)
        said = b""
        with suppress(OSError):
            while data := os.read(ours, 4096):
                said += data
        os.close(ours)
        assert process.wait(30) == 0
    return said.decode()


def test_the_bar_shows_the_time_left_only_where_nothing_is_hidden(large: Lab, tmp_path: Path) -> None:
    """Rows of all rows, bytes, rate and time left for a whole grant; under a row filter no total and no time left."""
    with _relayed(large, Relay(pause=0.03)) as profile:
        words = [word for word in _words(profile, tmp_path / "a.arrow") if word != "--json"]
        said = _on_a_terminal(words)
        assert f" of {_ROWS:,} rows, " in said
        assert "kB" in said
        assert "/s" in said
        assert " left" in said
        assert " gone by" not in said
        large.vault.revoke(large.vault.grants("acme")[0].grant.id)
        large.vault.grant("acme", "evals", _COLUMNS, where="lang = 'en'")
        time.sleep(1.1)
        said = _on_a_terminal([word.replace("a.arrow", "b.arrow") for word in words])
        assert " rows, " in said
        assert " gone by" in said
        assert " of " not in said
        assert " left" not in said
        quiet = subprocess.run(words, capture_output=True, text=True, check=True)
        assert quiet.stderr == ""
        assert _on_a_terminal([*words, "--json"]) == ""
