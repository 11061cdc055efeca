"""What operators see of a broker: counters and a log, with nothing secret in either."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from vault.errors import InvalidInput, LimitReached, NotGranted, Unauthenticated

_PLANTED = "planted-plaintext-value"


@pytest.fixture
def planted(lab: Lab) -> Lab:
    """A dataset, column and value whose names nobody is to see, and a grant with a limit."""
    lab.vault.publish("hush-dataset", pa.table({"hush-column": [_PLANTED] * 50, "n": range(50)}))
    lab.vault.grant("acme", "hush-dataset", ["hush-column", "n"], limits={"rows": 60})
    return lab


def _metrics(endpoint: str) -> dict[str, float]:
    text = urllib3.request("GET", endpoint + "/metrics").data.decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}


def test_requests_streams_refusals_and_keys_are_counted(planted: Lab) -> None:
    """By route and status; what ends a stream counts as a refusal too."""
    profile = planted.vault.issue_credential("acme").profile
    with broker(planted.folder) as endpoint:
        client = vault.Client(replace(profile, endpoint=endpoint))
        client.datasets()
        assert client.open("hush-dataset").to_arrow(delivery="stream").num_rows == 50
        with pytest.raises(LimitReached):
            client.open("hush-dataset").to_arrow(delivery="stream")
        with pytest.raises(NotGranted):
            client.open("nowhere").to_arrow(delivery="stream")
        with pytest.raises(InvalidInput):
            client.open("hush-dataset").to_arrow(where="n = ")
        with pytest.raises(Unauthenticated):
            vault.Client(replace(profile, endpoint=endpoint, token=replace(profile.token, secret=b"x" * 32))).datasets()
        urllib3.request("GET", endpoint + "/nowhere/hush-dataset")
        found = _metrics(endpoint)
        assert found['dsvault_requests_total{route="/v1/datasets",status="200"}'] == 1
        assert found['dsvault_requests_total{route="/v1/datasets",status="401"}'] == 1
        assert found['dsvault_requests_total{route="/v1/datasets/{name}/read",status="200"}'] == 2
        assert found['dsvault_requests_total{route="/v1/datasets/{name}/read",status="404"}'] == 1
        assert found['dsvault_requests_total{route="other",status="404"}'] == 1
        for kind in ("limit-reached", "not-granted", "invalid", "unauthenticated"):
            assert found[f'dsvault_refusals_total{{kind="{kind}"}}'] == 1
        assert found["dsvault_decision_seconds_count"] == 2
        assert found["dsvault_streams_open"] == 0
        assert found["dsvault_stream_bytes_total"] > 1000
        assert found["dsvault_kms_unwraps_total"] >= 4
        assert found["dsvault_key_cache_hits_total"] > 0
        assert found["dsvault_kms_failures_total"] == 0
        assert found['dsvault_first_byte_seconds_count{route="/v1/datasets"}'] == 2
        assert "hush" not in "".join(found)


def test_the_counters_are_for_some_networks_only(planted: Lab) -> None:
    """Elsewhere there is no such page; the networks are checked when the broker starts."""
    for networks in ("192.0.2.0/24", "none"):
        with broker(planted.folder, "--metrics-to", networks) as endpoint:
            refused = urllib3.request("GET", endpoint + "/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
            unknown = urllib3.request("GET", endpoint + "/nowhere")
            assert (refused.status, refused.data) == (unknown.status, unknown.data)
            assert "metrics" not in urllib3.request("GET", endpoint + "/openapi.json").data.decode()
    for option, value in (("--metrics-to", "nonsense"), ("--log-level", "loud")):
        command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(planted.folder)]
        done = subprocess.run([*command, option, value], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(f"dsvault: {option}: ")


def test_each_request_has_an_id_and_a_line_without_secrets(planted: Lab, tmp_path: Path) -> None:
    """JSON lines with the route, never the path, the names, the token, the proof or a value; ids are the broker's own."""
    profile = planted.vault.issue_credential("acme").profile
    bearer = planted.vault.issue_credential("acme", bearer=True).profile
    log = tmp_path / "log"
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--log-level", "info"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--vault", str(planted.folder)], stdout=subprocess.PIPE, stderr=file, text=True
        )
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().removeprefix("serving on ").strip()
            client = vault.Client(replace(profile, endpoint=endpoint))
            assert client.open("hush-dataset").to_arrow(where=f"\"hush-column\" = '{_PLANTED}'").num_rows == 50
            with pytest.raises(NotGranted):
                client.open("hush-dataset").to_arrow(columns=["hush-other"], delivery="stream")
            headers = {"Authorization": bearer.token.header(), "X-Request-Id": "client-made"}
            answer = urllib3.request("GET", endpoint + "/v1/datasets?secret=hush", headers=headers)
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        finally:
            process.terminate()
            process.communicate(timeout=30)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answered = [line for line in lines if line["message"] == "answered"]
    assert [(line["route"], line["status"]) for line in answered] == [
        ("/v1/datasets/{name}/read", 200),
        ("/v1/datasets/{name}/read", 404),
        ("/v1/datasets", 200),
    ]
    assert answered[2]["request"] == answer.headers["x-request-id"]
    assert {line["vendor"] for line in answered} == {next(v.id for v in planted.vault.vendors() if v.name == "acme")}
    assert {line["credential"] for line in answered} == {profile.token.credential, bearer.token.credential}
    assert profile.key is not None
    secrets = [
        "hush",
        _PLANTED,
        profile.token.text,
        bearer.token.text,
        str(profile.key["d"]),
        "client-made",
        "acme",
        "eyJ",
    ]
    assert not [secret for secret in secrets if secret in log.read_text()]


def test_what_goes_wrong_is_told_without_its_text() -> None:
    """Of an exception the log has the type and nothing else."""
    import logging

    from vault.broker.logs import JsonFormatter

    try:
        raise ValueError(_PLANTED)
    except ValueError:
        record = logging.getLogger("test").makeRecord("test", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    document = json.loads(JsonFormatter().format(record))
    assert (document["message"], document["exception"]) == ("failed", "ValueError")
    assert _PLANTED not in json.dumps(document)
