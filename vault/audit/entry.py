"""What an entry says, and sealing it to the auditor.

An entry is canonical JSON sealed with HPKE (RFC 9180: DHKEM X25519, HKDF-SHA256, AES-256-GCM), its ``info``
bound to the vault. Whoever appends holds the public key only and cannot read back what it wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from vault.encoding import canonical, from_json, from_timestamp, json_bytes, timestamp
from vault.errors import IntegrityError

__all__ = ["Entry", "Kind", "open_entry", "seal_entry"]

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


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
    REFUSED = "request refused"
    OWNER_READ = "owner read"
    REKEYED = "compartment rekeyed"
    NARROWED = "compartment narrowed"
    COLLECTED = "garbage collected"
    KMS_KEY_MADE = "KMS key made"
    KMS_KEY_DISABLED = "KMS key disabled"
    KMS_KEY_ENABLED = "KMS key enabled"
    REWRAPPED = "data keys rewrapped"
    OFFBOARDING = "vendor offboarding begun"
    OFFBOARDED = "vendor offboarded"
    ROOT_CHANGED = "root document changed"
    DATASET_DELETED = "dataset deleted"
    VERSIONS_EXPIRED = "versions expired"
    ROWS_ERASED = "rows erased"


@dataclass(frozen=True, slots=True)
class Entry:
    """One act: its kind, its time, and the fields that say who, what and how much."""

    kind: Kind
    time: datetime
    fields: Mapping[str, Any]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return json_bytes({"kind": self.kind.value, "time": timestamp(self.time), **self.fields})


def _info(vault: str) -> bytes:
    return canonical("dsvault log entry", vault)


def seal_entry(entry: Entry, vault: str, auditor_public: bytes) -> bytes:
    """Seal an entry to the auditor's raw X25519 public key."""
    return _SUITE.encrypt(entry.encode(), X25519PublicKey.from_public_bytes(auditor_public), info=_info(vault))


def open_entry(sealed: bytes, vault: str, auditor_secret: bytes) -> Entry:
    """Open an entry with the auditor's raw private key; raises IntegrityError."""
    key = X25519PrivateKey.from_private_bytes(auditor_secret)
    try:
        document = from_json(_SUITE.decrypt(sealed, key, info=_info(vault)), "a log entry")
    except (InvalidTag, ValueError) as error:
        raise IntegrityError("a log entry does not open under the auditor's key") from error
    try:
        kind, time = Kind(document.pop("kind")), from_timestamp(document.pop("time"))
    except (KeyError, ValueError, AttributeError) as error:
        raise IntegrityError("a log entry lacks its kind or time") from error
    return Entry(kind, time, document)
