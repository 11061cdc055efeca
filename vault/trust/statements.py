"""The statements that the vault's people sign: grants, credentials and manifest statements.

A statement names things by id; the names that stand beside the ids in a grant are for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vault.encoding import from_timestamp, timestamp
from vault.errors import IntegrityError
from vault.fields import Fields, Path, is_fields, parse_path, path_text, shown, union
from vault.model import FORMAT, Cut
from vault.trust.signed import Signed

__all__ = ["BackupPiece", "BackupStatement", "Credential", "Grant", "GrantedColumn", "ManifestStatement"]


@dataclass(frozen=True, slots=True)
class GrantedColumn:
    """A column that a grant lets the vendor see, the owner's group of it, and which of its fields (None: all)."""

    id: str
    name: str
    group: str
    fields: Fields | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it says, for people: the column's name, or the paths of the fields."""
        return tuple(shown((self.name, *path)) for path in (self.fields or ((),)))


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission for one vendor to read columns of one dataset, signed by the authority.

    ``where`` is the row filter's tree in JSON with column *ids* in the place of top-level names, and
    ``filter_columns`` are those columns with their groups; ``where_text`` is for people.
    ``versions`` is ``latest``, the newest version that the vendor's compartment holds, or a version's number. ``masks``
    are the written forms of `vault.masks` by column id, for a field followed by a dot and the text of its path;
    ``limits`` are numbers by `vault.limits.NAMES`. It counts from ``starts``, or at once.
    """

    id: str
    vault: str
    vendor: str
    vendor_name: str
    dataset: str
    dataset_name: str
    columns: tuple[GrantedColumn, ...]
    where: Mapping[str, Any] | None
    where_text: str | None
    filter_columns: tuple[GrantedColumn, ...]
    versions: str
    delivery: str
    purpose: str | None
    issued: datetime
    expires: datetime | None
    starts: datetime | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def cuts(self) -> frozenset[Cut]:
        """The column groups that the grant needs, those of its row filter among them, and in which cut."""
        needed: dict[str, dict[str, Fields | None]] = {}
        for column in (*self.columns, *self.filter_columns):
            group = needed.setdefault(column.group, {})
            before = group.get(column.id, ())
            whole = before is None or column.fields is None
            group[column.id] = None if whole else union((*(before or ()), *(column.fields or ())))
        return frozenset(
            Cut(group, tuple(sorted((column, fields) for column, fields in columns.items() if fields is not None)))
            for group, columns in needed.items()
        )

    @property
    def column_names(self) -> list[str]:
        """What it grants, for people: names of columns and paths of fields."""
        return [name for column in self.columns for name in column.names]

    def masked(self, column: str) -> dict[Path, str]:
        """The written forms of the masks on a column, by its id, and on fields of it: by the path below it."""
        found: dict[Path, str] = {}
        for place, text in self.masks.items():
            identity, dot, path = place.partition(".")
            if identity == column:
                found[parse_path(path) if dot else ()] = text
        return found

    @property
    def shown_masks(self) -> dict[str, str]:
        """The masks by what they are on, for people."""
        return {
            shown((column.name, *path)): text
            for column in self.columns
            for path, text in self.masked(column.id).items()
        }

    @property
    def pinned(self) -> int | None:
        """The one version that it is about; None for the newest at any time."""
        return None if self.versions == "latest" else int(self.versions)

    def live_at(self, now: datetime) -> bool:
        """Whether the grant counts: it has begun, and has not expired."""
        return (self.starts is None or self.starts <= now) and not self.expired_at(now)

    def expired_at(self, now: datetime) -> bool:
        """Whether the grant is over for good."""
        return self.expires is not None and self.expires <= now

    def payload(self) -> dict[str, Any]:
        """What the authority signs."""
        return {
            "format": list(FORMAT),
            "type": "grant",
            "id": self.id,
            "vault": self.vault,
            "vendor": self.vendor,
            "vendor_name": self.vendor_name,
            "dataset": self.dataset,
            "dataset_name": self.dataset_name,
            "columns": _columns(self.columns),
            "where": self.where,
            "where_text": self.where_text,
            "filter_columns": _columns(self.filter_columns),
            "versions": self.versions,
            "delivery": self.delivery,
            "purpose": self.purpose,
            "issued": timestamp(self.issued),
            "expires": timestamp(self.expires) if self.expires else None,
            "starts": timestamp(self.starts) if self.starts else None,
            "masks": dict(self.masks),
            "limits": dict(self.limits),
        }

    @classmethod
    def parse(cls, signed: Signed) -> "Grant":
        """Read a grant whose signature has been verified; raises IntegrityError."""
        document = _checked(signed, "grant")
        try:
            return cls(
                id=document["id"],
                vault=document["vault"],
                vendor=document["vendor"],
                vendor_name=document["vendor_name"],
                dataset=document["dataset"],
                dataset_name=document["dataset_name"],
                columns=_parse_columns(document["columns"]),
                where=document["where"],
                where_text=document["where_text"],
                filter_columns=_parse_columns(document["filter_columns"]),
                versions=_parse_versions(document["versions"]),
                delivery=document["delivery"],
                purpose=document["purpose"],
                issued=from_timestamp(document["issued"]),
                expires=from_timestamp(document["expires"]) if document["expires"] else None,
                starts=from_timestamp(document["starts"]) if document["starts"] else None,
                masks=_parse_masks(document["masks"]),
                limits={str(name): int(most) for name, most in document["limits"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError("a grant lacks a field") from error


def _columns(columns: tuple[GrantedColumn, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": column.id,
            "name": column.name,
            "group": column.group,
            "fields": [list(path) for path in column.fields] if column.fields is not None else None,
        }
        for column in columns
    ]


def _parse_columns(entries: list[dict[str, Any]]) -> tuple[GrantedColumn, ...]:
    # Who signed before there were fields granted whole columns.
    return tuple(
        GrantedColumn(entry["id"], entry["name"], entry["group"], _parse_fields(entry.get("fields")))
        for entry in entries
    )


def _parse_fields(paths: list[list[str]] | None) -> Fields | None:
    if paths is None:
        return None
    fields = tuple(tuple(path) for path in paths)
    if not is_fields(fields):
        raise ValueError("the fields of a column are not in their one written form")
    return fields


def _parse_masks(masks: dict[str, str]) -> dict[str, str]:
    for place in masks:
        _, dot, path = place.partition(".")
        if dot and path_text(parse_path(path)) != path:
            raise ValueError("the place of a mask is not in its one written form")
    return dict(masks)


def _parse_versions(versions: str) -> str:
    if versions != "latest" and not (versions.isdecimal() and versions == str(int(versions)) and int(versions)):
        raise ValueError("a grant is about no version")
    return versions


@dataclass(frozen=True, slots=True)
class Credential:
    """A vendor's right to authenticate: the SHA-256 of a 256-bit random secret, and an end.

    ``key`` is the thumbprint (RFC 7638) of the key that must sign each request; None for a bearer credential, which its
    secret alone is enough for. ``networks`` are the CIDR ranges that it may be used from; none means anywhere.
    ``provider`` says whose tokens are accepted in its place (`vault.federation`); such a one has no secret at all.
    """

    id: str
    vault: str
    vendor: str
    secret_sha256: str
    issued: datetime
    expires: datetime
    key: str | None = None
    networks: tuple[str, ...] = ()
    provider: Mapping[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        """What the authority signs."""
        return {
            "format": list(FORMAT),
            "type": "credential",
            "id": self.id,
            "vault": self.vault,
            "vendor": self.vendor,
            "secret_sha256": self.secret_sha256,
            "issued": timestamp(self.issued),
            "expires": timestamp(self.expires),
            "key": self.key,
            "networks": list(self.networks),
            "provider": dict(self.provider) if self.provider is not None else None,
        }

    @classmethod
    def parse(cls, signed: Signed) -> "Credential":
        """Read a credential whose signature has been verified; raises IntegrityError."""
        document = _checked(signed, "credential")
        try:
            return cls(
                document["id"],
                document["vault"],
                document["vendor"],
                document["secret_sha256"],
                from_timestamp(document["issued"]),
                from_timestamp(document["expires"]),
                document["key"],
                tuple(document["networks"]),
                dict(document["provider"]) if document["provider"] is not None else None,
            )
        except (KeyError, TypeError) as error:
            raise IntegrityError("a credential lacks a field") from error


@dataclass(frozen=True, slots=True)
class ManifestStatement:
    """Which object is the manifest of one version of one compartment, signed by the publisher.

    ``sha256`` is over the object as stored (ciphertext); ``size`` is in bytes.
    """

    vault: str
    compartment: str
    version: int
    chunk: str
    epoch: int
    object: str
    size: int
    sha256: str
    rows: int
    created: datetime

    def payload(self) -> dict[str, Any]:
        """What the publisher signs."""
        return {
            "format": list(FORMAT),
            "type": "manifest",
            "vault": self.vault,
            "compartment": self.compartment,
            "version": self.version,
            "chunk": self.chunk,
            "epoch": self.epoch,
            "object": self.object,
            "size": self.size,
            "sha256": self.sha256,
            "rows": self.rows,
            "created": timestamp(self.created),
        }

    @classmethod
    def parse(cls, signed: Signed) -> "ManifestStatement":
        """Read a manifest statement whose signature has been verified; raises IntegrityError."""
        document = _checked(signed, "manifest")
        try:
            return cls(
                document["vault"],
                document["compartment"],
                int(document["version"]),
                document["chunk"],
                int(document["epoch"]),
                document["object"],
                int(document["size"]),
                document["sha256"],
                int(document["rows"]),
                from_timestamp(document["created"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("a manifest statement lacks a field") from error


@dataclass(frozen=True, slots=True)
class BackupPiece:
    """A sealed piece of a backup: its object, empty where it lies beside the statement; SHA-256 and size as stored."""

    object: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class BackupStatement:
    """That sealed pieces are a change of the catalog, or a snapshot of it behind that change.

    ``number`` and ``digest`` are the change's in the chain of changes; ``kind`` is ``change`` or ``snapshot``.
    """

    vault: str
    kind: str
    number: int
    digest: str
    pieces: tuple[BackupPiece, ...]
    created: datetime

    def payload(self) -> dict[str, Any]:
        """What the authority, the publisher or the responder signs."""
        return {
            "format": list(FORMAT),
            "type": "backup",
            "vault": self.vault,
            "kind": self.kind,
            "number": self.number,
            "digest": self.digest,
            "pieces": [{"object": each.object, "sha256": each.sha256, "size": each.size} for each in self.pieces],
            "created": timestamp(self.created),
        }

    @classmethod
    def parse(cls, signed: Signed) -> "BackupStatement":
        """Read a backup statement whose signature has been verified; raises IntegrityError."""
        document = _checked(signed, "backup")
        try:
            pieces = [
                BackupPiece(str(each["object"]), str(each["sha256"]), int(each["size"])) for each in document["pieces"]
            ]
            return cls(
                str(document["vault"]),
                str(document["kind"]),
                int(document["number"]),
                str(document["digest"]),
                tuple(pieces),
                from_timestamp(document["created"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("a backup statement lacks a field") from error


def _checked(signed: Signed, kind: str) -> dict[str, Any]:
    document = signed.document()
    if document.get("type") != kind:
        raise IntegrityError(f"a statement is not a {kind}")
    version = document.get("format")
    if not isinstance(version, list) or not version or version[0] != FORMAT[0]:
        raise IntegrityError(f"a {kind} has a format that this release does not know")
    return document
