"""`dsvault audit export` and `audit show`: whole, in order, resumable, and without a secret."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.postgres import postgres
from tests.support.program import dsvault
from tests.support.reading import read
from vault import deployment
from vault.audit import Kind
from vault.errors import IntegrityError, InvalidInput
from vault.siem import Format


def _documents(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


@contextmanager
def _following(lab: Lab, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "vault_cli.main", "audit", "export", "--follow", "--vault", str(lab.folder)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_there_is_a_line_for_each_entry(granted: Lab) -> None:
    """In the order of the log and with its numbers, in both forms; no token and no key is in either."""
    parts = granted.broker_parts()
    profile = granted.vault.issue_credential("acme", bearer=True)
    read(parts, granted.caller(parts, "acme"))
    parts.journal.settle()
    granted.vault.parts.journal.settle()
    count = granted.vault.audit_verify()
    plain = _documents(dsvault("audit", "export", "--vault", str(granted.folder)).stdout)
    events = _documents(dsvault("audit", "export", "--format", "ocsf", "--vault", str(granted.folder)).stdout)
    assert [each["sequence"] for each in plain] == list(range(1, len(plain) + 1))
    assert [each["metadata"]["sequence"] for each in events] == list(range(1, len(events) + 1))
    assert len(plain) >= count
    assert [each["kind"] for each in plain] == [each["metadata"]["event_code"] for each in events][: len(plain)]
    shown = json.loads(dsvault("audit", "show", "--json", "--vault", str(granted.folder)).stdout)["entries"]
    assert shown[: len(plain)] == plain
    token = profile.profile.token
    assert token is not None
    for secret in (token.secret, token.secret.hex() if isinstance(token.secret, bytes) else ""):
        assert not secret or str(secret) not in json.dumps([plain, events])
    assert not re.search(r"dsv1\.|PRIVATE KEY", json.dumps([plain, events]))


def test_it_goes_on_behind_a_number_or_from_a_time_on(granted: Lab) -> None:
    """Behind the number that one has, nothing is missing and nothing comes twice; a time takes what came from then on."""
    # The names take a key of the owner's, of which the log says a moment later that it was opened.
    list(granted.vault.audit_export(Format.JSONL))
    granted.vault.parts.catalog.settle()
    every = list(granted.vault.audit_export(Format.JSONL))
    assert list(granted.vault.audit_export(Format.JSONL, since=3)) == every[3:]
    assert list(granted.vault.audit_export(Format.JSONL, since=len(every))) == []
    with pytest.raises(InvalidInput, match="--since: the log ends at entry"):
        list(granted.vault.audit_export(Format.JSONL, since=len(every) + 1))
    for number in (1, 3, len(every)):
        moment = datetime.fromisoformat(granted.vault.parts.journal.leaf(number).time)
        (first, *_) = granted.vault.audit_export(Format.JSONL, since=moment)
        assert first == every[number - 1]
    assert list(granted.vault.audit_export(Format.JSONL, since=datetime.now(UTC) + timedelta(hours=1))) == []
    assert list(granted.vault.audit_export(Format.JSONL, since=datetime(2020, 1, 1, tzinfo=UTC))) == every


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_following_a_log_that_many_write_skips_and_repeats_nothing(tmp_path: Path, database: str) -> None:
    """While two brokers' group commits and an owner's acts come in it is followed: each number once, in order."""
    catalog = postgres().database() if database == "postgresql" else None
    opened = vault.init(tmp_path / "lab", catalog=catalog)
    brokers = [deployment.open_broker(tmp_path / "lab")[0] for _ in range(2)]
    found: list[int] = []
    written: list[int] = []

    def follow() -> None:
        def again() -> bool:
            time.sleep(0.005)
            return not written or found[-1] < written[0]

        for number, _ in opened.audit_export(Format.OCSF, again=again):
            found.append(number)

    def append(number: int) -> None:
        for each in range(15):
            parts = brokers[number % 2]
            parts.journal.record(Kind.REFUSED, reason=f"{number}-{each}")
            parts.journal.record_soon(Kind.REFUSED, reason="soon")

    reader = threading.Thread(target=follow)
    reader.start()
    writers = [threading.Thread(target=append, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    opened.add_vendor("acme")
    for writer in writers:
        writer.join(60)
    for parts in (*brokers, opened.parts):
        parts.journal.settle()
    written.append(opened.audit_verify())
    reader.join(60)
    assert not reader.is_alive()
    assert found == list(range(1, written[0] + 1))
    assert len(found) >= 6 * 2 * 15
    for parts in (*brokers, opened.parts):
        parts.catalog.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_following_behind_a_whole_line(granted: Lab, number: int) -> None:
    """What comes is there within a second or so, and the end is clean: 0, nothing on stderr, no line cut."""
    with _following(granted, "--since", "2") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["sequence"] == 3
        granted.vault.freeze("acme")
        for line in process.stdout:
            entry = json.loads(line)
            if entry["kind"] == "vendor frozen":
                break
        began = time.monotonic()
        process.send_signal(number)
        rest, said = process.communicate(timeout=20)
        assert time.monotonic() - began < 10
        assert (process.returncode, said) == (0, "")
        _documents(rest)


def test_a_file_is_gone_on_with_behind_its_last_whole_line(granted: Lab, tmp_path: Path) -> None:
    """Killed at any moment, and followed again, the file has every entry once."""
    target = tmp_path / "log.jsonl"
    options = ("-o", str(target), "--format", "ocsf", "--vault", str(granted.folder))
    first = dsvault("audit", "export", *options, "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["last"] == len(_documents(target.read_text()))
    assert target.stat().st_mode & 0o077 == 0
    whole = target.read_bytes()
    for cut in (1, 100, len(whole.splitlines()[-1]) + 1):
        target.write_bytes(whole[:-cut])
        done = dsvault("audit", "export", *options)
        assert done.returncode == 0, done.stderr
        assert target.read_bytes().startswith(whole)
    numbers = [each["metadata"]["sequence"] for each in _documents(target.read_text())]
    assert numbers == list(range(1, len(numbers) + 1))
    refused = dsvault("audit", "export", *options, "--since", "3")
    assert refused.returncode == 1
    assert "--since" in refused.stderr


@pytest.mark.parametrize(
    "text", ["a letter to somebody\n", "a letter without an end", '{"id": 1}\n', '{"id": 1}\n{"se']
)
def test_a_file_that_is_no_export_is_left_as_it_is(granted: Lab, tmp_path: Path, text: str) -> None:
    """Nothing is appended to, or cut off, what something else has written."""
    target = tmp_path / "letter.txt"
    target.write_text(text)
    done = dsvault("audit", "export", "-o", str(target), "--vault", str(granted.folder))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "-o" in done.stderr
    assert target.read_text() == text


def test_two_exports_do_not_write_one_file(granted: Lab, tmp_path: Path) -> None:
    """The second one is refused in one sentence."""
    target = tmp_path / "log.jsonl"
    with _following(granted, "-o", str(target)) as process:
        ends = time.monotonic() + 30
        while not (target.exists() and target.stat().st_size) and time.monotonic() < ends:
            time.sleep(0.05)
        done = dsvault("audit", "export", "-o", str(target), "--vault", str(granted.folder))
        assert done.returncode == 1
        assert "another export" in done.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_following_a_log_that_was_rolled_back_ends_with_an_error(granted: Lab) -> None:
    """A log that is shorter than what was read of it is not gone on with in silence."""
    granted.vault.parts.journal.settle()
    lines = granted.vault.audit_export(Format.JSONL, again=lambda: True)
    size = granted.vault.audit_verify()
    for number, _ in lines:
        if number == size:
            break
    with sql(granted) as connection:
        connection.execute("delete from log")
        connection.execute("delete from log_tail")
    with pytest.raises(IntegrityError, match="rolled back"):
        next(lines)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--format", "csv"), "--format"),
        (("--since", "yesterday"), "--since"),
        (("--since", "0001-01-01T00:00:00+14:00"), "--since"),
        (("--since", "99999999"), "--since"),
        (("--json",), "--json"),
        (("-o", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_a_mistake_is_one_sentence(granted: Lab, options: tuple[str, ...], named: str) -> None:
    """The option at fault is named, nothing is written to stdout, and the exit code is 1."""
    done = dsvault("audit", "export", *options, "--vault", str(granted.folder))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert named in done.stderr


def test_reads_through_a_broker_are_events(granted: Lab) -> None:
    """A read over HTTP, and one that was refused, come out with their address and outcome."""
    with broker(granted.folder) as endpoint:
        client = vault.connect(granted.profile("acme", endpoint))
        assert client.dataset("evals").to_arrow().num_rows == 50
        with pytest.raises(vault.errors.VaultError):
            client.dataset("evals").to_arrow(columns=["answer"])
    events = [json.loads(line) for _, line in granted.vault.audit_export(Format.OCSF)]
    (begun,) = [each for each in events if each["metadata"]["event_code"] == "read begun"]
    (ended,) = [each for each in events if each["metadata"]["event_code"] == "read ended"]
    assert begun["src_endpoint"] == {"ip": "127.0.0.1"}
    assert begun["metadata"]["correlation_uid"] == ended["metadata"]["correlation_uid"]
    assert ended["status"] == "Success"
    refused = [each for each in events if each["class_uid"] == 6003]
    assert {each["status"] for each in refused} == {"Failure"}
    assert {each["actor"]["user"]["name"] for each in refused} == {"acme"}
    assert os.environ.get("DSVAULT") is None
