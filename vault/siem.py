"""An entry as a SIEM takes it: as the line of JSON that `audit show` has, or as an event of OCSF 1.5.

The classes, and why: docs/explanation/decisions/0026-the-log-beside-others.md. What touches data is Datastore Activity
(6005), a request that was refused is API Activity (6003) that failed, what a vendor may do is User Access Management
(3005), and everything else that the lab does to what it manages is Entity Management (3004). Fields that have no place
in their class are in ``unmapped``, save lists of rows and chunks: those stay in the log, where one looks them up by
the entry's number.

Everything here is a pure function of an entry.
"""

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from vault._version import __version__
from vault.audit import Entry
from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError

__all__ = ["Format", "document", "line", "sequence_of"]

_VERSION: Final = "1.5.0"
_SUCCESS: Final = (1, "Success")
_FAILURE: Final = (2, "Failure")
_SEVERITIES: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_APPLICATION: Final = (6, "Application Activity")
_IAM: Final = (3, "Identity & Access Management")
#: Lists that say row by row, or chunk by chunk, what was had: too long for a line.
_LONG: Final = frozenset({"served", "chunks", "layout", "layouts", "dropped", "envelope"})
_OWNER: Final = "owner"

Fields = Mapping[str, Any]


class Format(StrEnum):
    """The forms of a line."""

    OCSF = "ocsf"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class _Act:
    """What a kind of entry is in OCSF: the class by its number, and the activity by its number and name in that class.

    ``entity`` is what Entity Management acts upon: its type, and the fields that have its name and its id.
    """

    kind: int
    activity: int
    name: str
    severity: int = 1
    entity: tuple[str, str, str] = ("", "", "")


_VENDOR: Final = ("vendor", "vendor", "vendor_id")
_KMS_KEY: Final = ("KMS key", "key", "key")
_DATA, _CALL, _ACCESS, _ENTITY = 6005, 6003, 3005, 3004
#: By the kinds' own words; `tests/nouns/test_siem.py` holds it complete.
_ACTS: Final[Mapping[str, _Act]] = {
    "init": _Act(_ENTITY, 1, "Create", entity=("vault", "vault", "vault")),
    "vendor added": _Act(_ENTITY, 1, "Create", entity=_VENDOR),
    "vendor frozen": _Act(_ENTITY, 12, "Suspend", 4, _VENDOR),
    "vendor thawed": _Act(_ENTITY, 13, "Resume", 3, _VENDOR),
    "version published": _Act(_DATA, 5, "Write"),
    "compartment filled": _Act(_DATA, 5, "Write"),
    "compartment rekeyed": _Act(_DATA, 9, "Encrypt"),
    "compartment narrowed": _Act(_DATA, 7, "Delete"),
    "grant made": _Act(_ACCESS, 1, "Assign Privileges"),
    "grant waits for approval": _Act(_ENTITY, 1, "Create", entity=("grant", "grant", "grant")),
    "grant approved": _Act(_ENTITY, 3, "Update", entity=("grant", "grant", "grant")),
    "grant revoked": _Act(_ACCESS, 2, "Revoke Privileges"),
    "credential issued": _Act(_ENTITY, 1, "Create", entity=("credential", "credential", "credential")),
    "credential revoked": _Act(_ENTITY, 4, "Delete", entity=("credential", "credential", "credential")),
    "delegation ended": _Act(_ENTITY, 4, "Delete", entity=("delegation", "delegation", "delegation")),
    "read begun": _Act(_DATA, 1, "Read"),
    "read went on": _Act(_DATA, 1, "Read"),
    "read ended": _Act(_DATA, 1, "Read"),
    "lease page handed out": _Act(_DATA, 1, "Read"),
    "shared files asked for": _Act(_DATA, 1, "Read"),
    "shared file handed out": _Act(_DATA, 1, "Read"),
    "shared file read": _Act(_DATA, 1, "Read"),
    "spooled file damaged": _Act(_DATA, 7, "Delete", 3),
    "request refused": _Act(_CALL, 2, "Read", 2),
    "owner read": _Act(_DATA, 1, "Read"),
    "data keys opened": _Act(_DATA, 10, "Decrypt"),
    "submission received": _Act(_DATA, 5, "Write"),
    "submission accepted": _Act(_DATA, 5, "Write"),
    "submission rejected": _Act(_DATA, 7, "Delete"),
    "submission key made": _Act(_ENTITY, 1, "Create", 3, ("submission key", "key", "key")),
    "garbage collected": _Act(_DATA, 7, "Delete"),
    "KMS key made": _Act(_ENTITY, 1, "Create", entity=_KMS_KEY),
    "KMS key disabled": _Act(_ENTITY, 9, "Disable", 3, _KMS_KEY),
    "KMS key enabled": _Act(_ENTITY, 8, "Enable", 3, _KMS_KEY),
    "data keys rewrapped": _Act(_ENTITY, 3, "Update", entity=("KMS key", "new", "new")),
    "vendor offboarding begun": _Act(_ENTITY, 9, "Disable", 3, _VENDOR),
    "vendor offboarded": _Act(_ENTITY, 4, "Delete", 3, _VENDOR),
    "root document changed": _Act(_ENTITY, 3, "Update", 3, ("root document", "version", "version")),
    "dataset deleted": _Act(_DATA, 7, "Delete", 2),
    "versions expired": _Act(_DATA, 7, "Delete", 2),
    "rows erased": _Act(_DATA, 7, "Delete", 2),
    "report made": _Act(_ENTITY, 1, "Create", 3, ("incident report", "vendor", "vendor_id")),
    "containment step": _Act(_ENTITY, 3, "Update", 4, _VENDOR),
    "vendor contained": _Act(_ENTITY, 12, "Suspend", 4, _VENDOR),
    "evidence bundle made": _Act(_ENTITY, 1, "Create", 3, ("evidence bundle", "vendor", "vendor_id")),
    "catalog upgraded": _Act(_ENTITY, 3, "Update", 2, ("catalog schema", "after", "after")),
    "vault restored": _Act(_ENTITY, 3, "Update", 4, ("catalog change", "change", "change")),
    "unreadable entry": _Act(_ENTITY, 1, "Create", 4, ("unreadable log entry", "why", "why")),
}
#: What vendors do; everything else is the lab's own act.
_BY_VENDORS: Final = frozenset(
    {
        "read begun",
        "read went on",
        "read ended",
        "lease page handed out",
        "shared files asked for",
        "shared file handed out",
        "shared file read",
        "submission received",
        "request refused",
    }
)
_CLASSES: Final = {
    _DATA: (_APPLICATION, "Datastore Activity"),
    _CALL: (_APPLICATION, "API Activity"),
    _ACCESS: (_IAM, "User Access Management"),
    _ENTITY: (_IAM, "Entity Management"),
}


def line(form: Format, vault: str, sequence: int, entry: Entry, names: Mapping[str, str]) -> str:
    """One line, without its end; ``names`` are vendors' names by id. In ASCII it is one line to everybody."""
    found = ocsf(vault, sequence, entry, names) if form is Format.OCSF else document(sequence, entry, names)
    return json.dumps(found, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def sequence_of(form: Format, text: str) -> int:
    """The number of the entry that a line is about; raises ValueError for what is no such line."""
    found = json.loads(text)
    try:
        return int(found["metadata"]["sequence"] if form is Format.OCSF else found["sequence"])
    except (KeyError, TypeError) as error:
        raise ValueError from error


def document(sequence: int, entry: Entry, names: Mapping[str, str]) -> dict[str, Any]:
    """An entry as it is, with the vendor's name: a refusal is written by who knows its id only."""
    vendor = _vendor(entry, names)
    named = {"vendor": vendor} if vendor is not None else {}
    found = {"sequence": sequence, "time": entry.time.isoformat(), "kind": entry.kind.value}
    # A field of the name of one of these is of an entry that dsvault did not write.
    return {**found, **entry.fields, **named, **found}


def _vendor(entry: Entry, names: Mapping[str, str]) -> str | None:
    return entry.fields.get("vendor") or names.get(str(entry.fields.get("vendor_id")))


def ocsf(vault: str, sequence: int, entry: Entry, names: Mapping[str, str]) -> dict[str, Any]:
    """An entry as an OCSF event."""
    fields = {**entry.fields, "vendor": _vendor(entry, names)}
    act = _ACTS[entry.kind.value]
    (category, category_name), class_name = _CLASSES[act.kind]
    activity, name = _activity(act, fields)
    (status, status_name), detail = _status(entry.kind.value, fields)
    event = {
        "activity_id": activity,
        "activity_name": name,
        "category_uid": category,
        "category_name": category_name,
        "class_uid": act.kind,
        "class_name": class_name,
        "type_uid": act.kind * 100 + activity,
        "type_name": f"{class_name}: {name}",
        "severity_id": act.severity,
        "severity": _SEVERITIES[act.severity],
        "status_id": status,
        "status": status_name,
        "status_detail": detail,
        "time": _milliseconds(entry.time),
        "message": _message(entry.kind.value, fields),
        "metadata": _metadata(vault, sequence, entry),
        "actor": _actor(vault, entry.kind.value, fields),
        "src_endpoint": _endpoint(fields),
        "unmapped": {key: value for key, value in fields.items() if _short(key, value)},
        **_repeated(entry),
        **_PARTS[act.kind](act, vault, sequence, fields),
    }
    return {key: value for key, value in event.items() if value is not None}


def _repeated(entry: Entry) -> dict[str, int]:
    """How many requests an entry stands for and when they came, where it counts them."""
    times, since = entry.fields.get("times"), entry.fields.get("since")
    if not isinstance(times, int):
        return {}
    try:
        began = {"start_time": _milliseconds(from_timestamp(str(since)))}
    except IntegrityError:
        began = {}
    return {"count": times, "end_time": _milliseconds(entry.time), **began}


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _short(name: str, value: object) -> bool:
    return value is not None and (name not in _LONG or isinstance(value, int))


def _activity(act: _Act, fields: Fields) -> tuple[int, str]:
    """A read with a condition is a query."""
    return (4, "Query") if (act.kind, act.activity) == (_DATA, 1) and fields.get("where") else (act.activity, act.name)


def _status(kind: str, fields: Fields) -> tuple[tuple[int, str], str | None]:
    if kind == "request refused":
        return _FAILURE, str(fields.get("reason"))
    if kind == "read ended":
        outcome = str(fields.get("outcome"))
        return (_SUCCESS if outcome == "complete" else _FAILURE), outcome
    return (_FAILURE if fields.get("failed") else _SUCCESS), None


def _message(kind: str, fields: Fields) -> str:
    named = [f"{name} {fields[name]}" for name in ("vendor", "dataset", "version", "purpose") if fields.get(name)]
    return f"{kind}: {', '.join(named)}" if named else kind


def _metadata(vault: str, sequence: int, entry: Entry) -> dict[str, Any]:
    found = {
        "version": _VERSION,
        "product": {"name": "dsvault", "vendor_name": "dsvault", "version": __version__},
        "log_name": "dsvault audit log",
        "event_code": entry.kind.value,
        "uid": f"{vault}:{sequence}",
        "sequence": sequence,
        "tenant_uid": vault,
        "original_time": timestamp(entry.time),
    }
    read = entry.fields.get("read") or (sequence if entry.kind.value == "read begun" else None)
    return found if read is None else {**found, "correlation_uid": f"{vault}:{read}"}


def _actor(vault: str, kind: str, fields: Fields) -> dict[str, Any]:
    if kind in {"data keys opened", "unreadable entry"}:  # whose that is, nobody can say
        return {"process": {"name": "dsvault", "uid": str(fields.get("process") or "unknown")}}
    if kind in _BY_VENDORS:
        return {"user": _user(fields)}
    return {"user": _person(_OWNER, vault, "lab")}


def _person(name: str, uid: str, kind: str) -> dict[str, Any]:
    account = {"name": name, "uid": uid, "type": f"dsvault {kind}", "type_id": 99}
    return {"name": name, "uid": uid, "type": "Other", "type_id": 99, "account": account}


def _user(fields: Fields) -> dict[str, Any]:
    """The vendor, with the credential and, where an identity provider vouches for one, the subject."""
    uid = str(fields.get("vendor_id") or "unknown")
    user = _person(str(fields.get("vendor") or uid), uid, "vendor")
    return {
        **user,
        **({"credential_uid": str(fields["credential"])} if fields.get("credential") else {}),
        **({"uid_alt": str(fields["subject"])} if fields.get("subject") else {}),
    }


def _endpoint(fields: Fields) -> dict[str, str]:
    address = fields.get("address")
    if not address:
        # What is counted without its address came from several; everything else without one is the program's own.
        return {"name": "several"} if fields.get("times") else {"svc_name": "dsvault"}
    try:
        return {"ip": str(ipaddress.ip_address(str(address)))}
    except ValueError:
        return {"name": str(address)}


def _table(fields: Fields) -> dict[str, str]:
    uid = {"uid": str(fields["dataset_id"])} if fields.get("dataset_id") else {}
    return {"name": str(fields["dataset"]), **uid}


def _data_parts(_act: _Act, vault: str, _sequence: int, fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {"database": {"name": "dsvault", "uid": vault, "type": "dsvault vault"}}
    if not fields.get("dataset"):
        return {**found, "type_id": 1, "type": "Database"}
    where = fields.get("where")
    query = {"query_info": {"query_string": str(where)}} if where else {}
    return {**found, "table": _table(fields), "type_id": 3, "type": "Table", **query}


def _call_parts(_act: _Act, vault: str, sequence: int, fields: Fields) -> dict[str, Any]:
    service = {"name": "dsvault broker", "uid": vault, "version": __version__}
    api = {
        "operation": "read",
        "service": service,
        "request": {"uid": f"{vault}:{sequence}"},
        "response": {"error": str(fields.get("reason"))},
    }
    return {"api": api, "resources": _resources(fields)}


def _access_parts(_act: _Act, _vault: str, _sequence: int, fields: Fields) -> dict[str, Any]:
    return {
        "user": _user(fields),
        "privileges": [str(fields.get("delivery") or "read")],
        "resources": _resources(fields),
    }


def _resources(fields: Fields) -> list[dict[str, Any]] | None:
    if not fields.get("dataset"):
        return None
    columns = {"data": {"columns": fields["columns"]}} if fields.get("columns") else {}
    return [{"type": "dataset", **_table(fields), **columns}]


def _entity_parts(act: _Act, _vault: str, _sequence: int, fields: Fields) -> dict[str, Any]:
    kind, name, uid = act.entity
    known = {"name": fields.get(name), "uid": fields.get(uid)}
    return {"entity": {"type": kind, **{key: str(value) for key, value in known.items() if value is not None}}}


_PARTS: Final[Mapping[int, Callable[[_Act, str, int, Fields], dict[str, Any]]]] = {
    _DATA: _data_parts,
    _CALL: _call_parts,
    _ACCESS: _access_parts,
    _ENTITY: _entity_parts,
}
