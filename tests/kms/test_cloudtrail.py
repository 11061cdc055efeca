"""CloudTrail's records of a vault in AWS KMS, as the AWS KMS developer guide has them.

moto keeps no trail. The records here are written for the calls that dsvault makes to moto, which boto3's own events give
with all their parameters; what a record has of a call is in the guide's pages on Decrypt, ReEncrypt and GenerateDataKey.
"""

import gzip
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.support.tables import rows
from vault.encoding import new_id
from vault.errors import InvalidInput, KmsError
from vault.kms.aws import AwsKms
from vault.kms.logs import read_logs
from vault.owner import Vault
from vault.workings.parts import wrapped_key


class Trail:
    """What CloudTrail would write of the calls of every client made meanwhile."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.arn = "arn:aws:sts::123456789012:assumed-role/dsvault-broker/broker"

    def watch(self, client: Any) -> None:
        """Write a record for each call of this client's."""
        calls: list[tuple[str, dict[str, Any]]] = []
        client.meta.events.register(
            "provide-client-params.kms", lambda params, model, **_: calls.append((model.name, params))
        )
        client.meta.events.register("after-call.kms", lambda parsed, **_: self._record(*calls.pop(), parsed))

    def _record(self, name: str, parameters: dict[str, Any], answer: dict[str, Any]) -> None:
        shown = {
            key[:1].lower() + key[1:]: value
            for key, value in parameters.items()
            if key not in {"CiphertextBlob", "Plaintext"}  # which the log omits, the guide says
        }
        keys = [parameters.get(key) for key in ("SourceKeyId", "KeyId", "DestinationKeyId") if parameters.get(key)]
        error = answer.get("Error")
        self.records.append(
            {
                "eventVersion": "1.11",
                "userIdentity": {"type": "AssumedRole", "principalId": "EXAMPLE", "arn": self.arn},
                "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "eventSource": "kms.amazonaws.com",
                "eventName": name,
                "awsRegion": "eu-central-1",
                "sourceIPAddress": "192.0.2.10",
                "userAgent": "Boto3",
                **({"errorCode": error["Code"], "errorMessage": error.get("Message")} if error else {}),
                "requestParameters": {"encryptionAlgorithm": "SYMMETRIC_DEFAULT", **shown},
                "responseElements": None,
                "requestID": new_id(),
                "eventID": new_id(),
                "readOnly": True,
                "resources": [{"accountId": "123456789012", "type": "AWS::KMS::Key", "ARN": key} for key in keys],
                "eventType": "AwsApiCall",
                "managementEvent": True,
                "recipientAccountId": "123456789012",
            }
        )


@pytest.fixture
def trail(monkeypatch: pytest.MonkeyPatch) -> Trail:
    """The trail of every `AwsKms` that the test opens."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    found = Trail()
    made = AwsKms.__init__

    def init(self: AwsKms, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        found.watch(self._client)

    monkeypatch.setattr(AwsKms, "__init__", init)
    return found


@pytest.fixture
def opened(trail: Trail, moto: str, tmp_path: Path) -> Vault:
    """A vault that has worked with AWS KMS: published, granted, checked by a fresh process, rekeyed, rewrapped."""
    made = vault.init(tmp_path / "lab", kms=f"awskms://{moto.removeprefix('http://')}/?region=eu-central-1")
    made.add_vendor("acme")
    made.publish("evals", rows(40))
    made.grant("acme", "evals", ["id", "prompt"])
    made = vault.open(tmp_path / "lab")
    made.check()
    made.rekey(vendor="acme")
    made.rewrap(vendor="acme")
    made.parts.journal.settle()
    return made


def _written(path: Path, records: list[dict[str, Any]]) -> Path:
    """A file as CloudTrail delivers it."""
    path.write_bytes(gzip.compress(json.dumps({"Records": records}).encode()))
    return path


def _stolen(opened: Vault, trail: Trail, moto: str) -> tuple[AwsKms, Any]:
    """Another identity's client, and a data key of a column of acme's."""
    time.sleep(2.1)  # a trail has whole seconds: of two calls within one, nobody can tell which is whose
    trail.arn = "arn:aws:iam::123456789012:user/thief"
    parts = opened.parts
    with parts.catalog.read() as transaction:
        (acme,) = [row for row in transaction.holders() if row.id != parts.owner]
        keys = [wrapped_key(parts.vault, row) for row in transaction.keys_of_holder(acme.id) if len(row.group) == 32]
    return AwsKms("eu-central-1", endpoint=moto), keys[0]


def test_ordinary_work_is_explained(opened: Vault, trail: Trail, tmp_path: Path) -> None:
    """Decrypt and ReEncrypt are all announced, whole seconds and all; GenerateDataKey opens nothing."""
    names = {record["eventName"] for record in trail.records}
    assert {"Decrypt", "ReEncrypt", "GenerateDataKey"} <= names
    found = opened.reconcile(_written(tmp_path / "trail.json.gz", trail.records))
    assert found.ok, found
    opening = [record for record in trail.records if record["eventName"] in {"Decrypt", "ReEncrypt"}]
    assert found.matched == len(opening) > 10


@pytest.mark.parametrize("operation", ["unwrap", "rewrap"])
def test_a_call_by_another_identity_is_named(
    opened: Vault, trail: Trail, moto: str, tmp_path: Path, operation: str
) -> None:
    """A Decrypt, or a ReEncrypt to a key of the thief's own, is one that no entry explains."""
    kms, key = _stolen(opened, trail, moto)
    if operation == "unwrap":
        kms.unwrap(key.kms_key, key.wrapped, key.scope.context())
    else:
        kms.rewrap(key.kms_key, key.wrapped, key.scope.context(), kms.create_key(new_id()))
    found = opened.reconcile(_written(tmp_path / "trail.json.gz", trail.records))
    (named,) = found.unexplained
    assert named.call.scope == key.scope
    assert named.call.who["arn"] == "arn:aws:iam::123456789012:user/thief"
    assert named.call.who["address"] == "192.0.2.10"
    assert named.call.id == trail.records[-1]["requestID"]
    assert named.whose is not None
    assert (named.whose.holder, named.whose.dataset) == ("acme", "evals")
    assert not found.missing


def test_what_aws_refused_opened_nothing(opened: Vault, trail: Trail, moto: str, tmp_path: Path) -> None:
    """A Decrypt with an errorCode is counted as refused."""
    kms, key = _stolen(opened, trail, moto)
    with pytest.raises(KmsError):
        kms.unwrap(key.kms_key, key.wrapped[:-1] + b"\0", key.scope.context())
    assert trail.records[-1]["errorCode"]
    found = opened.reconcile(_written(tmp_path / "trail.json.gz", trail.records))
    assert found.ok
    assert found.refused == 1


def test_records_that_were_left_out_show_as_entries_without_an_unwrap(
    opened: Vault, trail: Trail, tmp_path: Path
) -> None:
    """A trail that was edited lacks what the log announces."""
    last = max(index for index, record in enumerate(trail.records) if record["eventName"] == "ReEncrypt")
    records = trail.records[:last] + trail.records[last + 1 :]
    # Whole seconds: what came in the last one is as late as the end of the trail.
    records.append({**records[-1], "eventName": "ListKeys", "eventTime": "2100-01-01T00:00:00Z", "eventID": new_id()})
    found = opened.reconcile(_written(tmp_path / "trail.json.gz", records))
    (missing,) = found.missing
    context = trail.records[last]["requestParameters"]["sourceEncryptionContext"]
    assert missing.scope.context() == context


@pytest.mark.parametrize("form", ["lines", "document", "directory", "twice"])
def test_the_forms_of_a_trail(opened: Vault, trail: Trail, tmp_path: Path, form: str) -> None:
    """A file of Records, lines of records or of such files, a directory of files, and one file twice, say the same."""
    whole = _written(tmp_path / "trail.json.gz", trail.records)
    count = len(read_logs([whole]).calls)
    path = tmp_path / form
    if form == "lines":
        path.write_text("".join(json.dumps(record) + "\n" for record in trail.records))
    elif form == "document":
        path.write_text(json.dumps({"Records": trail.records}, indent=2))
    elif form == "directory":
        (path / "2026" / "12").mkdir(parents=True)
        half = len(trail.records) // 2
        _written(path / "2026" / "12" / "a.json.gz", trail.records[:half])
        _written(path / "2026" / "b.json.gz", trail.records[half:])
    paths = [whole, whole] if form == "twice" else [path]
    assert len(read_logs(paths).calls) == count
    assert opened.reconcile(*paths).ok


def _of_another_account(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "eventID": new_id(), "recipientAccountId": "210987654321"}


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        (lambda record: [record], 1),
        (lambda record: [{**record, "eventSource": "s3.amazonaws.com"}], 0),
        (lambda record: [{**record, "requestParameters": None}], 1),
        (lambda record: [{**record, "resources": None}], 1),
        (lambda record: [{**record, "sharedEventID": "s"}, {**_of_another_account(record), "sharedEventID": "s"}], 1),
        (lambda record: [record, _of_another_account(record)], 2),
    ],
)
def test_a_record_is_one_call_at_most(
    tmp_path: Path, change: Callable[[dict[str, Any]], list[dict[str, Any]]], calls: int
) -> None:
    """What is not AWS KMS's is none, what lacks a context has no scope, and two accounts' records of one call are one."""
    record = {
        "eventTime": "2020-07-27T22:58:24Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "requestParameters": {"encryptionAlgorithm": "SYMMETRIC_DEFAULT", "encryptionContext": {"Department": "x"}},
        "requestID": "r",
        "eventID": "e",
        "resources": [{"ARN": "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}],
    }
    told = read_logs([_written(tmp_path / "t.gz", change(record))])
    assert len(told.calls) == calls
    assert all(call.scope is None and call.opened for call in told.calls)


def test_a_file_that_is_cut_short_is_not_read(tmp_path: Path) -> None:
    """Half of a compressed file is no trail without unwraps."""
    whole = _written(tmp_path / "t.gz", [{"eventSource": "x", "eventName": "y", "eventTime": "2020-07-27T22:58:24Z"}])
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match="--kms-log"):
        read_logs([whole])
