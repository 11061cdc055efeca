"""Several processes on one socket: they serve as one, and neither a worker nor the parent leaves anything behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import counters, running_broker
from vault.broker.metrics import added, lasting
from vault.encoding import utcnow
from vault.proof import ProofKey


def _await(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.1)


def _workers(parent: "subprocess.Popen[str]") -> set[int]:
    """The process ids of a broker's workers."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return {int(child) for child in children if "spawn_main" in _command(int(child))}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _served_by(log: Path) -> dict[int, int]:
    """How many requests each process answered."""
    found: dict[int, int] = {}
    for line in log.read_text().splitlines():
        said = json.loads(line)
        if said["message"] == "answered":
            found[said["process"]] = found.get(said["process"], 0) + 1
    return found


def _ask(endpoint: str, headers: dict[str, str]) -> int:
    """The status of a request on a connection of its own."""
    with urllib3.PoolManager(headers={"Connection": "close"}) as pool:
        return int(pool.request("GET", f"{endpoint}/v1/datasets", headers=headers).status)


def test_workers_serve_as_one(granted: Lab, tmp_path: Path) -> None:
    """Reads are right; counters are the sum; used proofs are refused by both; a killed worker is replaced; all end."""
    log, key = tmp_path / "log", ProofKey.create()
    request = tmp_path / "request.json"
    request.write_text(json.dumps(key.request("test", utcnow())))
    profile = granted.vault.issue_credential("acme", request=request).profile
    bearer = granted.vault.issue_credential("acme", bearer=True).profile
    options = ("--workers", "2", "--vendors", "acme", "--log-level", "info")
    with running_broker(granted.folder, *options, log=log) as (endpoint, parent):
        first = _workers(parent)
        assert len(first) == 2

        client = vault.Client(replace(profile, endpoint=endpoint), key)
        expected = client.open("evals").to_arrow(delivery="stream")
        assert expected.num_rows == 50
        good, asked = {"Authorization": bearer.token.header()}, 1  # the signed request below is the first

        def both_served() -> bool:
            nonlocal asked
            assert _ask(endpoint, good) == 200
            asked += 1
            return set(_served_by(log)) == first

        _await(both_served)

        # A proof counts once, whichever worker sees it again.
        proof = key.prove("GET", f"{endpoint}/v1/datasets", profile.token.text, utcnow())
        signed = {"Authorization": profile.token.header(), "DPoP": proof}
        before = _served_by(log)
        assert _ask(endpoint, signed) == 200
        refused = 0

        def refused_by_both() -> bool:
            nonlocal refused
            assert _ask(endpoint, signed) == 401
            refused += 1
            return all(_served_by(log)[pid] > before[pid] + 1 for pid in first)

        _await(refused_by_both, 20)

        def counted() -> tuple[float, float]:
            found = counters(endpoint)
            route = 'dsvault_requests_total{route="/v1/datasets",status="%d"}'
            return found[route % 200], found[route % 401]

        # The stream's own request is of another route.
        assert counted() == (asked, refused)
        assert counters(endpoint)['dsvault_requests_total{route="/v1/datasets/{name}/read",status="200"}'] == 1

        # What a killed worker had counted a second before still counts.
        time.sleep(1.5)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        _await(lambda: victim not in _workers(parent) and len(_workers(parent)) == 2)
        assert client.open("evals").to_arrow(delivery="stream").equals(expected)
        _await(lambda: "worker" in log.read_text() and _ask(endpoint, good) == 200)
        assert counted()[0] > asked
        assert counted()[1] == refused
        last = _workers(parent)

        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=30) == 0
        _await(lambda: not any(_alive(pid) for pid in first | last), 5)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line.get("request") for line in lines if line["logger"] != "dsvault.workers")
    secrets = [profile.token.text, bearer.token.text, proof, "acme", "evals", "prompt"]
    assert not [secret for secret in secrets if secret in log.read_text()]


def test_workers_end_with_their_parent(granted: Lab) -> None:
    """Killed without a chance to say anything, the parent leaves no process and no listening socket."""
    with running_broker(granted.folder, "--workers", "2") as (endpoint, parent):
        workers = _workers(parent)
        parent.kill()
        parent.wait(timeout=10)
        _await(lambda: not any(_alive(pid) for pid in workers), 20)
        with pytest.raises(urllib3.exceptions.HTTPError):
            urllib3.request("GET", f"{endpoint}/healthz", retries=False, timeout=2)


def test_what_keeps_a_worker_from_starting_is_said_once(granted: Lab) -> None:
    """In one sentence, as with one process; nothing is left running."""
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(granted.folder)]
    done = subprocess.run(
        [*command, "--workers", "2", "--vendors", "nobody"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dsvault: --vendors: no vendor named 'nobody' can be opened with the keys held here\n"


def test_counts_add_up_and_outlast_who_counted() -> None:
    """By name and labels; of a process that ended what happened stays, and what it was doing does not."""
    one = [("a", "", "counter", [("a_total", {"x": "1"}, 2.0)]), ("open", "", "gauge", [("open", {}, 3.0)])]
    two = [("a", "", "counter", [("a_total", {"x": "1"}, 5.0), ("a_total", {"x": "2"}, 1.0)])]
    (family, gauge) = added([one, two])
    assert family[3] == [("a_total", {"x": "1"}, 7.0), ("a_total", {"x": "2"}, 1.0)]
    assert gauge[3] == [("open", {}, 3.0)]
    assert lasting(one) == one[:1]
