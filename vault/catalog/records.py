"""The catalog's rows as frozen values. A row is a claim; its reader checks what it claims."""

from dataclasses import dataclass

from vault.catalog.sealed import SealedBlob

__all__ = [
    "BackupRow",
    "ChangeRow",
    "CompartmentRow",
    "CredentialRow",
    "DatasetRow",
    "GrantRow",
    "HeadRow",
    "HolderRow",
    "JobRow",
    "KeyRow",
    "LogRow",
    "LogTailRow",
    "RootRow",
    "SubmissionRow",
    "VersionRow",
]


@dataclass(frozen=True, slots=True)
class RootRow:
    """One version of the root document."""

    version: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class HolderRow:
    """The owner or a vendor; ``own_name`` is sealed under the holder's own metadata key."""

    id: str
    kms_key: str
    name: SealedBlob
    own_name: SealedBlob | None
    created: str


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset; ``settings`` (key column, assignment) is sealed JSON."""

    id: str
    name: SealedBlob
    settings: SealedBlob
    created: str


@dataclass(frozen=True, slots=True)
class CompartmentRow:
    """One holder's encrypted copy of one dataset."""

    id: str
    holder: str
    dataset: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A wrapped data key; ``key_id`` is the commitment to the key inside."""

    compartment: str
    group: str
    epoch: int
    key_id: str
    kms_key: str
    wrapped: bytes
    created: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A signed manifest statement; ``retired`` is when a newer generation took its place."""

    compartment: str
    version: int
    generation: int
    statement: bytes
    retired: str | None


@dataclass(frozen=True, slots=True)
class HeadRow:
    """A signed head and its listing."""

    subject: str
    sequence: int
    kind: str
    by_authority: bool
    statement: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A grant, sealed once for the owner and once for its vendor."""

    id: str
    vendor: str
    dataset: str
    statement: SealedBlob
    vendor_statement: SealedBlob
    created: str
    settled: str | None


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A signed credential; the secret itself is nowhere but in the vendor's profile."""

    id: str
    vendor: str
    statement: bytes
    created: str


@dataclass(frozen=True, slots=True)
class SubmissionRow:
    """What a vendor sent back: ``waiting`` in quarantine, ``accepted`` or ``rejected``, and what was noted of that.

    All but the envelope is a broker's word, and the envelope is whoever's who signed it.
    """

    vendor: str
    id: str
    grant: str
    dataset: str
    object: str
    size: int
    envelope: bytes
    received: str
    state: str
    settled: str | None = None
    note: SealedBlob | None = None


@dataclass(frozen=True, slots=True)
class JobRow:
    """Something that is writing objects: in which process, and when it last said that it lives."""

    id: str
    kind: str
    state: str
    process: str
    started: str
    beat: str


@dataclass(frozen=True, slots=True)
class LogRow:
    """A sealed audit entry in its place, and its hash as a leaf of the log's tree."""

    sequence: int
    time: str
    sealed: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class LogTailRow:
    """The signed note of where the log ends, and the edge of its tree there, hash after hash."""

    note: bytes
    edge: bytes


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """What an administrative transaction changed, as it goes into the store."""

    number: int
    document: bytes


@dataclass(frozen=True, slots=True)
class BackupRow:
    """Where the chain of changes ends, and the newest snapshot in the store, if there is one.

    ``snapshot_root`` is the version of the root document that it was made under; ``later_bytes`` are those of the
    changes that were put into the store since.
    """

    number: int = 0
    digest: bytes = bytes(32)
    snapshot: int | None = None
    snapshot_digest: str | None = None
    snapshot_root: int | None = None
    snapshot_bytes: int = 0
    later_bytes: int = 0
