"""Entries as OCSF events, held to the schema of OCSF 1.5 with py-ocsf-models' objects.

The package has the findings' event classes only. The four classes that are used here are written down from the schema
(https://schema.ocsf.io/1.5.0), on its base event and objects, and take nothing that the class does not have.
"""

import json
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import pytest
from py_ocsf_models import OCSF_VERSION
from py_ocsf_models.events.base_event import BaseEvent
from py_ocsf_models.objects.api import API
from py_ocsf_models.objects.metadata import Metadata
from py_ocsf_models.objects.product import Product
from py_ocsf_models.objects.resource_details import ResourceDetails
from py_ocsf_models.objects.service import Service
from py_ocsf_models.objects.user import User
from pydantic import BaseModel, ConfigDict, model_validator

from vault.audit import Entry, Kind
from vault.siem import _ACTS, Format, document, line, ocsf, sequence_of

VAULT = "0" * 32
TIME = datetime(2026, 12, 1, 8, 0, 0, 250000, tzinfo=UTC)
WHO = {
    "vendor_id": "a" * 32,
    "vendor": "acme",
    "credential": "c" * 32,
    "delegates": [{"id": "d" * 32, "to": "subcontractor"}],
    "subject": "somebody",
    "address": "192.0.2.7",
    "grant": "e" * 32,
    "purpose": "annotation",
    "dataset": "evals",
    "dataset_id": "f" * 32,
    "version": 3,
}
VENDOR = {"vendor": "acme", "vendor_id": "a" * 32}
DATASET = {"dataset": "evals", "dataset_id": "f" * 32}
#: Fields as entries of each kind have them, beside none at all, which every kind must bear too.
FIELDS: dict[str, dict[str, Any]] = {
    "init": {"vault": VAULT},
    "read begun": {**WHO, "columns": ["id", "prompt"], "where": "lang = 'en'", "delivery": "stream", "limit": None},
    "read went on": {**WHO, "read": 7, "served": [{"shards": [0, 2]}], "rows": 90, "bytes": 1000},
    "read ended": {**WHO, "read": 7, "served": [{"shard": 3, "rows": [[0, 4]]}], "rows": 5, "outcome": "complete"},
    "lease page handed out": {**WHO, "chunks": {"1" * 32: "AAAA"}, "rows": 90},
    "shared files asked for": {**WHO, "columns": ["id"], "delivery": "sharing", "shards": [[0, 3]]},
    "shared file handed out": {**WHO, "asked": 7, "shard": 2, "rows": 90, "bytes": 1000},
    "shared file read": {**WHO, "columns": ["id"], "served": [{"shards": [2, 2]}], "rows": 90, "bytes": 1000},
    "request refused": {**WHO, "vendor": None, "columns": ["answer"], "reason": "NotGranted"},
    "grant made": {**VENDOR, **DATASET, "grant": "e" * 32, "columns": ["id"], "where": None, "delivery": "lease"},
    "grant revoked": {**VENDOR, "grant": "e" * 32, "dataset": "evals"},
    "data keys opened": {
        "keys": [["1" * 32, "2" * 32, 1]],
        "since": "2026-12-01T08:00:00.000000Z",
        "process": "3" * 32,
    },
    "KMS key disabled": {**VENDOR, "key": "transit:dsvault-x:1", "failed": True},
    "version published": {**DATASET, "version": 1, "rows": 100, "columns": ["id"], "layout": [[0, 3, 30, None]]},
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Process(_Strict):
    name: str
    uid: str


class _Actor(_Strict):
    user: User | None = None
    process: _Process | None = None

    @model_validator(mode="after")
    def _somebody(self) -> "_Actor":
        assert (self.user is None) != (self.process is None)
        return self


class _Endpoint(_Strict):
    ip: str | None = None
    name: str | None = None
    svc_name: str | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> "_Endpoint":
        assert self.ip or self.name or self.svc_name
        return self


class _Store(_Strict):
    name: str
    uid: str | None = None
    type: str | None = None


class _Query(_Strict):
    query_string: str


class _Entity(_Strict):
    name: str | None = None
    uid: str | None = None
    type: str


class _Metadata(Metadata):
    model_config = ConfigDict(extra="forbid")


class _Event(BaseEvent):
    """What the base event requires beside what py-ocsf-models has of it."""

    model_config = ConfigDict(extra="forbid")

    metadata: _Metadata
    activity_id: int
    activity_name: str
    category_uid: int
    category_name: str
    class_uid: int
    class_name: str
    type_uid: int
    type_name: str
    time: int
    actor: _Actor
    src_endpoint: _Endpoint
    count: int | None = None
    start_time: int | None = None
    end_time: int | None = None

    @model_validator(mode="after")
    def _sums(self) -> "_Event":
        assert self.type_uid == self.class_uid * 100 + self.activity_id
        assert self.type_name == f"{self.class_name}: {self.activity_name}"
        assert self.category_uid == self.class_uid // 1000
        assert self.status_id in {1, 2}
        assert self.status == {1: "Success", 2: "Failure"}[self.status_id]
        assert self.severity == self.severity_id.name
        return self


class _Datastore(_Event):
    class_uid: Literal[6005]
    activity_id: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    database: _Store
    table: _Store | None = None
    query_info: _Query | None = None
    type_id: Literal[1, 3]
    type: Literal["Database", "Table"]

    NAMES: ClassVar = {1: "Read", 4: "Query", 5: "Write", 7: "Delete", 9: "Encrypt", 10: "Decrypt"}


class _Call(_Event):
    class_uid: Literal[6003]
    activity_id: Literal[1, 2, 3, 4]
    api: API
    resources: list[ResourceDetails] | None = None

    NAMES: ClassVar = {1: "Create", 2: "Read", 3: "Update", 4: "Delete"}


class _Access(_Event):
    class_uid: Literal[3005]
    activity_id: Literal[1, 2, 3, 4]
    user: User
    privileges: list[str]
    resources: list[ResourceDetails] | None = None

    NAMES: ClassVar = {1: "Assign Privileges", 2: "Revoke Privileges"}


class _Management(_Event):
    class_uid: Literal[3004]
    activity_id: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    entity: _Entity

    NAMES: ClassVar = {
        1: "Create",
        3: "Update",
        4: "Delete",
        8: "Enable",
        9: "Disable",
        12: "Suspend",
        13: "Resume",
    }


CLASSES: dict[int, type[_Datastore] | type[_Call] | type[_Access] | type[_Management]] = {
    6005: _Datastore,
    6003: _Call,
    3005: _Access,
    3004: _Management,
}


def _valid(event: dict[str, Any]) -> _Event:
    """The event as its class, after a way through JSON."""
    model = CLASSES[event["class_uid"]]
    found = model.model_validate(json.loads(json.dumps(event)))
    assert model.NAMES[found.activity_id] == found.activity_name
    return found


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_every_kind_of_entry_is_a_valid_event(kind: Kind) -> None:
    """A kind without a place in OCSF fails here; with few fields or many the event is whole."""
    assert kind.value in _ACTS
    for fields in (FIELDS.get(kind.value, {**VENDOR, **DATASET}), {}):
        event = ocsf(VAULT, 12, Entry(kind, TIME, fields), {"a" * 32: "acme"})
        found = _valid(event)
        assert found.metadata.version == OCSF_VERSION == "1.5.0"
        assert (found.metadata.sequence, found.metadata.uid) == (12, f"{VAULT}:12")
        assert found.metadata.event_code == kind.value
        assert found.time == 1796112000250
        assert "\n" not in line(Format.OCSF, VAULT, 12, Entry(kind, TIME, fields), {})


def test_the_models_have_what_the_schema_requires() -> None:
    """The check would see a missing field: of the objects, the package's own, and of the classes, the ones here."""
    event = ocsf(VAULT, 12, Entry(Kind.REFUSED, TIME, FIELDS["request refused"]), {})
    assert {Product, Service, User} <= {type(each) for each in _objects(_valid(event))}
    for name in ("metadata", "severity_id", "time", "actor", "src_endpoint", "api", "type_uid"):
        with pytest.raises(ValueError, match=name):
            _valid({key: value for key, value in event.items() if key != name})
    with pytest.raises(ValueError, match="Extra inputs"):
        _valid({**event, "vendor": "acme"})


def _objects(model: BaseModel) -> list[BaseModel]:
    found = [model]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                found += _objects(each)
    return found


def _event(kind: Kind, **more: Any) -> dict[str, Any]:
    return ocsf(VAULT, 12, Entry(kind, TIME, {**FIELDS.get(kind.value, {}), **more}), {"a" * 32: "acme"})


def test_a_read_says_who_had_what_from_where() -> None:
    """Vendor, credential, subject, address, dataset and predicate are where a SIEM looks for them."""
    begun = _event(Kind.READ_BEGUN)
    user = begun["actor"]["user"]
    assert (user["name"], user["uid"], user["credential_uid"], user["uid_alt"]) == (
        "acme", "a" * 32, "c" * 32, "somebody",
    )  # fmt: skip
    assert begun["src_endpoint"] == {"ip": "192.0.2.7"}
    assert begun["table"] == {"name": "evals", "uid": "f" * 32}
    assert (begun["activity_name"], begun["query_info"]["query_string"]) == ("Query", "lang = 'en'")
    assert _event(Kind.READ_BEGUN, where=None)["activity_name"] == "Read"
    assert begun["unmapped"]["columns"] == ["id", "prompt"]
    assert begun["unmapped"]["delegates"] == [{"id": "d" * 32, "to": "subcontractor"}]


def test_the_entries_of_one_read_go_together() -> None:
    """What begins, goes on and ends a read has one correlation id."""
    begun = ocsf(VAULT, 7, Entry(Kind.READ_BEGUN, TIME, FIELDS["read begun"]), {})
    assert begun["metadata"]["correlation_uid"] == f"{VAULT}:7"
    assert _event(Kind.READ_ENDED)["metadata"]["correlation_uid"] == f"{VAULT}:7"


def test_what_failed_is_a_failure() -> None:
    """A refused request, a broken read and a KMS key that could not be disabled are failures with their reason."""
    refused = _event(Kind.REFUSED)
    assert (refused["class_uid"], refused["status"], refused["status_detail"]) == (6003, "Failure", "NotGranted")
    assert refused["actor"]["user"]["name"] == "acme"
    broken = _event(Kind.READ_ENDED, outcome="broken off")
    assert (broken["status"], broken["status_detail"]) == ("Failure", "broken off")
    assert _event(Kind.READ_ENDED)["status"] == "Success"
    assert _event(Kind.KMS_KEY_DISABLED)["status"] == "Failure"
    assert _event(Kind.FROZEN)["status"] == "Success"


def test_what_was_counted_has_a_count() -> None:
    """An entry for several requests says how many and from when to when; what broker's processes make up is no end of it."""
    event = _event(Kind.REFUSED, times=399, since="2026-12-01T07:59:50.000000Z", address=None)
    found = _valid(event)
    assert (found.count, found.start_time, found.end_time) == (399, 1796111990000, 1796112000250)
    assert event["src_endpoint"] == {"name": "several"}
    assert "start_time" not in _event(Kind.REFUSED, times=2, since="then")
    assert "count" not in _event(Kind.REFUSED, times="many")
    assert "count" not in _event(Kind.REFUSED)
    assert "count" not in _event(Kind.KEYS_OPENED)


def test_lists_of_rows_and_chunks_stay_in_the_log() -> None:
    """A line holds no more than a SIEM takes; the plain line holds everything."""
    assert "served" not in _event(Kind.READ_ENDED)["unmapped"]
    assert "chunks" not in _event(Kind.LEASED)["unmapped"]
    assert "layout" not in _event(Kind.PUBLISHED)["unmapped"]
    entry = Entry(Kind.READ_ENDED, TIME, FIELDS["read ended"])
    assert document(3, entry, {})["served"] == FIELDS["read ended"]["served"]


@pytest.mark.parametrize("form", list(Format))
def test_a_line_says_its_number(form: Format) -> None:
    """Whoever keeps lines can tell where to go on."""
    entry = Entry(Kind.REFUSED, TIME, {**FIELDS["request refused"], "dataset": "  \x85\n"})
    text = line(form, VAULT, 99, entry, {})
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert sequence_of(form, text) == 99
    for wrong in ("", "{}", "[]", '{"sequence": {}}', '{"metadata": {"sequence": "x"}}', "null"):
        with pytest.raises(ValueError):  # noqa: PT011
            sequence_of(form, wrong)


@pytest.mark.parametrize("form", list(Format))
def test_no_field_takes_the_place_of_the_number(form: Format) -> None:
    """An entry that dsvault did not write moves nobody's place in the log, and has no other kind or time."""
    false = {"sequence": 10**9, "kind": "init", "time": "x", "metadata": {"sequence": 10**9}}
    text = line(form, VAULT, 99, Entry(Kind.REFUSED, TIME, false), {})
    assert sequence_of(form, text) == 99
    found = document(99, Entry(Kind.REFUSED, TIME, false), {})
    assert (found["sequence"], found["kind"], found["time"]) == (99, "request refused", TIME.isoformat())
