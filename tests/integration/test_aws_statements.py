"""The IAM statements of ``deploy/aws/``, held against every request that each role's work makes of S3 and KMS.

moto does not judge by policies. So the requests themselves are recorded as they reach its server, and judged here by the
statements: what is not allowed would be refused by AWS, and what nothing asks for has no place in them.
"""

import fnmatch
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import boto3
import pyarrow as pa
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication

import vault
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.servers import aws
from tests.support.sharing import fetched, listed
from tests.support.submitting import Desk, labels
from tests.support.tables import rows
from vault import access
from vault.policy import Request

_FOLDER = Path(__file__).parents[2] / "deploy" / "aws"
_BUCKET, _PREFIX, _REGION, _ACCOUNT = "lab-bucket", "vault/one", "eu-central-1", "123456789012"


@dataclass(frozen=True)
class Asked:
    """One request in IAM's words; ``prefix`` is what a listing is of."""

    action: str
    resource: str
    prefix: str = ""


@dataclass
class Record:
    """What was asked for, by the role whose work it was."""

    role: str = "nobody"
    asked: dict[str, set[Asked]] = field(default_factory=dict)

    def take(self, environ: dict[str, Any]) -> None:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target.startswith("TrentService."):
            names = {"ReEncrypt": ("ReEncryptFrom", "ReEncryptTo")}
            called = target.removeprefix("TrentService.")
            found = [Asked(f"kms:{name}", "kms") for name in names.get(called, (called,))]
        else:
            found = [_asked_of_s3(environ)]
        self.asked.setdefault(self.role, set()).update(found)


def _asked_of_s3(environ: dict[str, Any]) -> Asked:
    bucket, _, key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")
    query, method = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True), environ["REQUEST_METHOD"]
    resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    if not key and method == "GET" and "list-type" in query:
        return Asked("s3:ListBucket", resource, query.get("prefix", [""])[0])
    if not key and method == "POST" and "delete" in query:
        return Asked("s3:DeleteObject", f"{resource}/{_PREFIX}/of-a-list")
    if not key and method == "GET" and "uploads" in query:
        return Asked("s3:ListBucketMultipartUploads", resource)
    actions = {
        "GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject",
        "DELETE": "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject",
    }  # fmt: skip
    return Asked(actions[method] if key else f"s3:{method} of the bucket", resource)


def _statements(role: str) -> list[dict[str, Any]]:
    text = (_FOLDER / f"{role}.json").read_text()
    for name, value in (("BUCKET", _BUCKET), ("PREFIX", _PREFIX), ("REGION", _REGION), ("ACCOUNT", _ACCOUNT)):
        text = text.replace(name, value)
    found: list[dict[str, Any]] = json.loads(text)["Statement"]
    return found


def _many(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _allowed(asked: Asked, statements: list[dict[str, Any]]) -> bool:
    """IAM's evaluation as far as these statements go: all allow, and any one that matches is enough."""
    for each in statements:
        assert each["Effect"] == "Allow"
        about_kms = asked.resource == "kms"
        resources = [name for name in _many(each["Resource"]) if not about_kms or ":kms:" in name or name == "*"]
        prefixes = _many(each.get("Condition", {}).get("StringLike", {}).get("s3:prefix", "*"))
        if (
            asked.action in _many(each["Action"])
            and (resources if about_kms else any(fnmatch.fnmatchcase(asked.resource, name) for name in resources))
            and any(fnmatch.fnmatchcase(asked.prefix, prefix) for prefix in prefixes)
        ):
            return True
    return False


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """What the whole life of a vault in S3 and KMS asks for: the lab's acts, a broker's and an auditor's."""
    found = Record()
    serve: Callable[..., Any] = DomainDispatcherApplication.__call__

    with pytest.MonkeyPatch.context() as patched, aws() as url:
        port = url.rpartition(":")[2]

        def recording(self: Any, environ: dict[str, Any], start: Any) -> Any:
            if environ.get("SERVER_PORT") == port:
                found.take(environ)
            return serve(self, environ, start)

        told = {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": _REGION,
        }  # fmt: skip
        for name, value in told.items():
            patched.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=_BUCKET, CreateBucketConfiguration={"LocationConstraint": _REGION})
        patched.setattr(DomainDispatcherApplication, "__call__", recording)
        _live(found, tmp_path_factory.mktemp("aws"), url)
        found.role = "nobody"
        yield found


def _live(record: Record, folder: Path, url: str) -> None:
    record.role = "lab"
    kms = f"awskms://{url.removeprefix('http://')}/?region={_REGION}"
    lab = vault.init(folder / "lab", store=f"s3://{_BUCKET}/{_PREFIX}", kms=kms)
    for name in ("acme", "globex"):
        lab.add_vendor(name)
    lab.publish("evals", rows(100), key="id", shard_rows=30)
    # Long enough to go up in parts.
    lab.publish("long", pa.table({"n": range(3_000_000)}), compression="none", shard_rows=3_000_000)
    lab.publish("evals", rows(100), key="id", shard_rows=30)
    lab.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    lab.grant("acme", "long", ["n"], delivery="lease")
    lab.grant("globex", "evals", ["id"])
    profile = lab.issue_credential("acme", bearer=True).profile
    desk = Desk(Lab(folder / "lab", lab))

    record.role = "broker"
    parts = Lab(folder / "lab", lab).broker_parts()
    assert access.missing(parts) == []
    caller = access.authenticate(parts, profile.token, "test")
    assert read(parts, caller).num_rows == 50
    page = access.lease_page(parts, access.arrive(parts, profile.token, "test"), Request("long", lease=True))
    assert page.shards
    desk.parts = parts
    desk.submit(labels(0))
    arrived = access.arrive(parts, profile.token, "test")
    good = [fetched(parts, file) for file in listed(parts, arrived)]
    record.role = "nobody"
    bucket = boto3.client("s3")
    for each in bucket.list_objects_v2(Bucket=_BUCKET, Prefix=f"{_PREFIX}/spool/")["Contents"]:
        bucket.put_object(Bucket=_BUCKET, Key=each["Key"], Body=b"damaged")
    record.role = "broker"
    assert [fetched(parts, file) for file in listed(parts, arrived)] == good
    access.settle(parts)

    record.role = "auditor"
    alone = folder / "auditor"
    for name in ("owner/config.toml", "broker/config.toml", "broker/root.json", "broker/log.json"):
        (alone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "lab" / name, alone / name)
    (alone / "owner" / "keys").mkdir()
    shutil.copy(folder / "lab" / "owner" / "keys" / "auditor.json", alone / "owner" / "keys")
    shutil.copy(folder / "lab" / "dsvault.toml", alone)
    for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
        if (folder / "lab" / name).exists():
            shutil.copy(folder / "lab" / name, alone / name)
    auditor = vault.open(alone)
    assert auditor.audit_verify() > 0
    auditor.incident_report("acme")

    record.role = "lab"
    lab = vault.open(folder / "lab")
    lab.rekey(vendor="acme")
    lab.rewrap("acme", disable_old=True)
    lab.disable_kms_key("globex")
    lab.enable_kms_key("globex")
    lab.contain("acme", bundle=folder / "bundle.zip")
    lab.offboard("globex")
    lab.gc(timedelta(0))
    assert lab.check().ok
    assert lab.accept_submission(lab.submissions()[0].id).rows == 1
    assert lab.audit_verify() > 0


@pytest.mark.parametrize("role", ["lab", "broker", "auditor"])
def test_each_request_of_a_role_is_allowed(record: Record, role: str) -> None:
    """Beside the unwraps of a broker, which the policy that is printed for its vendors allows, and a look at the KMS."""
    beside = {Asked("kms:Decrypt", "kms"), Asked("kms:DescribeKey", "kms")} if role == "broker" else set()
    statements = _statements(role)
    assert record.asked[role]
    assert {each for each in record.asked[role] - beside if not _allowed(each, statements)} == set()


@pytest.mark.parametrize("role", ["lab", "broker", "auditor"])
def test_nothing_is_allowed_that_nobody_asks_for(record: Record, role: str) -> None:
    """Each action of each statement is one that the role's work needs.

    But for the ending of an upload, which is for what failed, and tags, which are a part of the request for a key.
    """
    allowed = {action for each in _statements(role) for action in _many(each["Action"])}
    assert allowed - {each.action for each in record.asked[role]} <= {"s3:AbortMultipartUpload", "kms:TagResource"}


def test_a_broker_writes_the_ends_of_the_log_the_quarantine_and_the_spool_alone(record: Record) -> None:
    """Neither chunks nor heads nor root documents; and it deletes spooled files, which are built anew, and nothing else."""
    statements = _statements("broker")
    for name in ("chunks/x", "heads/x", "roots/x", "manifests/x", "backup/changes/x", "backup/snapshots/x"):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not _allowed(Asked(action, f"arn:aws:s3:::{_BUCKET}/{_PREFIX}/{name}"), statements)
    written = {each.resource for each in record.asked["broker"] if each.action == "s3:PutObject"}
    assert written
    places = [f"/{_PREFIX}/{folder}/" for folder in ("checkpoints", "log", "submissions", "spool")]
    assert all(any(place in name for place in places) for name in written)
    assert all(any(place in name for name in written) for place in places[2:])
    for name in ("checkpoints/x", "log/x", "submissions/x", "x"):
        assert not _allowed(Asked("s3:DeleteObject", f"arn:aws:s3:::{_BUCKET}/{_PREFIX}/{name}"), statements)


def test_nothing_outside_the_prefix_is_allowed() -> None:
    """Another vault in the same bucket, and the bucket itself, are nobody's here."""
    for role in ("lab", "broker", "auditor"):
        statements = _statements(role)
        for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
            assert not _allowed(Asked(action, f"arn:aws:s3:::{_BUCKET}/vault/two/x"), statements)
        assert not _allowed(Asked("s3:ListBucket", f"arn:aws:s3:::{_BUCKET}", "vault/two/"), statements)
        assert not re.search(r'"(s3|kms):\*"', json.dumps(statements))
