"""What an entry says: canonical JSON with a kind, a time, and the fields of its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from vault.encoding import from_json, from_timestamp, json_bytes, timestamp
from vault.errors import IntegrityError

__all__ = ["DELIVERIES", "Entry", "Kind"]


class Kind(StrEnum):
    """What an entry is about."""

    INIT = "init"
    VENDOR_ADDED = "vendor added"
    FROZEN = "vendor frozen"
    THAWED = "vendor thawed"
    PUBLISHED = "version published"
    FANNED_OUT = "compartment filled"
    GRANT_WAITS = "grant waits for approval"
    GRANTED = "grant made"
    APPROVED = "grant approved"
    REVOKED = "grant revoked"
    CREDENTIAL_ISSUED = "credential issued"
    CREDENTIAL_REVOKED = "credential revoked"
    DELEGATION_ENDED = "delegation ended"
    READ_BEGUN = "read begun"
    READ_WENT_ON = "read went on"
    READ_ENDED = "read ended"
    LEASED = "lease page handed out"
    FILES_ASKED = "shared files asked for"
    FILE_HANDED_OUT = "shared file handed out"
    FILE_READ = "shared file read"
    FILE_DAMAGED = "spooled file damaged"
    REFUSED = "request refused"
    OWNER_READ = "owner read"
    KEYS_OPENED = "data keys opened"
    REKEYED = "compartment rekeyed"
    NARROWED = "compartment narrowed"
    COLLECTED = "garbage collected"
    KMS_KEY_MADE = "KMS key made"
    KMS_KEY_DISABLED = "KMS key disabled"
    KMS_KEY_ENABLED = "KMS key enabled"
    SUBMITTED = "submission received"
    SUBMISSION_ACCEPTED = "submission accepted"
    SUBMISSION_REJECTED = "submission rejected"
    SUBMISSION_KEY_MADE = "submission key made"
    REWRAPPED = "data keys rewrapped"
    OFFBOARDING = "vendor offboarding begun"
    OFFBOARDED = "vendor offboarded"
    ROOT_CHANGED = "root document changed"
    DATASET_DELETED = "dataset deleted"
    VERSIONS_EXPIRED = "versions expired"
    ROWS_ERASED = "rows erased"
    REPORTED = "report made"
    CONTAINING = "containment step"
    CONTAINED = "vendor contained"
    DISCLOSED = "evidence bundle made"
    CATALOG_UPGRADED = "catalog upgraded"
    RESTORED = "vault restored"
    #: No process of dsvault's writes it: it stands for what cannot be opened or read.
    UNREADABLE = "unreadable entry"


#: What is written of deliveries: each of these names the vendor that it is of by its id.
DELIVERIES: Final = frozenset(
    {
        Kind.READ_BEGUN,
        Kind.READ_WENT_ON,
        Kind.READ_ENDED,
        Kind.LEASED,
        Kind.FILES_ASKED,
        Kind.FILE_HANDED_OUT,
        Kind.FILE_READ,
        Kind.REFUSED,
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One act: its kind, its time, and the fields that say who, what and how much."""

    kind: Kind
    time: datetime
    fields: Mapping[str, Any]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return json_bytes({"kind": self.kind.value, "time": timestamp(self.time), **self.fields})

    @classmethod
    def decode(cls, data: bytes) -> "Entry":
        """Inverse of `encode`; raises IntegrityError."""
        document = from_json(data, "a log entry")
        try:
            kind, time = Kind(document.pop("kind")), from_timestamp(document.pop("time"))
        except (KeyError, ValueError, AttributeError) as error:
            raise IntegrityError("a log entry lacks its kind or time") from error
        return cls(kind, time, document)
