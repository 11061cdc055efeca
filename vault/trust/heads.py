"""Heads: the signed, numbered statements of what is live.

A *vendor head* covers a vendor's unrevoked grants and credentials and whether it is frozen; a
*compartment head* covers the versions of one compartment and the live epoch of each of its keys. The
signed payload holds a digest; the listing itself, the *body*, stands beside it.

Each head is one step in a sequence that never goes back. The authority may sign any step of a vendor;
the responder only a step that takes something away, so the steps since the authority's last one are
checked one by one. A *frontier* is the highest step seen anywhere: a head behind it is a rollback, and
one beside it with another digest is a fork. Both are refused.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vault.encoding import canonical, from_json, json_bytes, timestamp
from vault.errors import IntegrityError
from vault.model import FORMAT
from vault.trust.root import Role, Root
from vault.trust.signed import Label, Signed, Signer

__all__ = [
    "CompartmentHead",
    "Frontier",
    "VendorHead",
    "compartment_body",
    "emptied_body",
    "head_statement",
    "trusted_compartment_head",
    "trusted_vendor_head",
    "vendor_body",
]


@dataclass(frozen=True, slots=True)
class Frontier:
    """The highest head of a subject seen so far; sequence 0 stands for none."""

    sequence: int = 0
    digest: str = ""

    def checked(self, sequence: int, digest: str) -> "Frontier":
        """The frontier after seeing a verified head; raises IntegrityError on rollback or fork."""
        if sequence < self.sequence:
            raise IntegrityError("the catalog is behind the newest signed head: it was rolled back")
        if sequence == self.sequence and digest != self.digest:
            raise IntegrityError("two different heads carry one number: the history was forked")
        return Frontier(sequence, digest)


@dataclass(frozen=True, slots=True)
class VendorHead:
    """What is live for a vendor: digests of its grants and credentials by id, and the delegations that were ended."""

    vendor: str
    sequence: int
    digest: str
    frozen: bool
    grants: Mapping[str, str]
    credentials: Mapping[str, str]
    signed_at: str
    ended: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CompartmentHead:
    """What is live in a compartment: manifest-statement digests by version, live key by group.

    ``holder`` and ``dataset`` are whose copy of what it is: a catalog that says otherwise is lying.

    ``epochs`` maps a column group to (epoch, key id): the key id pins the data key's commitment, so that
    no other key can be slipped under the number. An empty key id says that the group's key is retired: nothing
    live is under it, and the next chunk of the group takes the epoch after it.
    """

    compartment: str
    holder: str
    dataset: str
    sequence: int
    digest: str
    versions: Mapping[int, str]
    epochs: Mapping[str, tuple[int, str]]

    @property
    def live_groups(self) -> frozenset[str]:
        """The column groups that have a live key."""
        return frozenset(group for group, (_, key_id) in self.epochs.items() if key_id)

    @property
    def newest(self) -> int | None:
        """The highest live version, if there is any."""
        return max(self.versions, default=None)


def vendor_body(
    grants: Mapping[str, str], credentials: Mapping[str, str], ended: Collection[str] = frozenset()
) -> bytes:
    """The listing that a vendor head covers."""
    more = {"ended": sorted(ended)} if ended else {}
    return json_bytes({"grants": dict(grants), "credentials": dict(credentials), **more})


def compartment_body(
    holder: str, dataset: str, versions: Mapping[int, str], epochs: Mapping[str, tuple[int, str]]
) -> bytes:
    """The listing that a compartment head covers."""
    return json_bytes(
        {
            "holder": holder,
            "dataset": dataset,
            "versions": {str(version): digest for version, digest in versions.items()},
            "epochs": {group: list(entry) for group, entry in epochs.items()},
        }
    )


def emptied_body(head: CompartmentHead) -> bytes:
    """The listing of a compartment that has no version and no live key any more; the epochs' numbers stay taken."""
    epochs = {group: (epoch, "") for group, (epoch, _) in head.epochs.items()}
    return compartment_body(head.holder, head.dataset, {}, epochs)


def _body_digest(body: bytes) -> str:
    return hashlib.sha256(canonical("dsvault head body", body)).hexdigest()


def head_statement(
    signer: Signer,
    *,
    vault: str,
    kind: str,
    subject: str,
    sequence: int,
    body: bytes,
    frozen: bool,
    now: datetime,
) -> Signed:
    """Sign one step: ``kind`` is ``vendor`` or ``compartment``, ``subject`` its id."""
    payload = {
        "format": list(FORMAT),
        "type": "head",
        "vault": vault,
        "kind": kind,
        "subject": subject,
        "sequence": sequence,
        "digest": _body_digest(body),
        "frozen": frozen,
        "signed_at": timestamp(now),
    }
    return signer.sign(Label.HEAD, payload)


def checked_payload(root: Root, signed: Signed, kind: str, subject: str, *roles: Role) -> dict[str, Any]:
    """The payload of a head after checking signature, vault, kind and subject; raises IntegrityError."""
    root.verify(signed, *roles)
    document = signed.document()
    expected = {"type": "head", "vault": root.vault, "kind": kind, "subject": subject}
    if any(document.get(field) != value for field, value in expected.items()):
        raise IntegrityError("a head is about something else than the place that it was found in")
    if document.get("format", [0])[0] != FORMAT[0]:
        raise IntegrityError("a head has a format that this release does not know")
    if not isinstance(document.get("sequence"), int) or not isinstance(document.get("frozen"), bool):
        raise IntegrityError("a head lacks a field")
    return document


def checked_listing(
    root: Root, signed: Signed, body: bytes, kind: str, subject: str, *roles: Role
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The payload of a head and the listing beside it, after checking both; raises IntegrityError.

    It does not tell that the step was one that its signer may take, nor that it counts.
    """
    return _checked_step(root, signed, body, kind, subject, *roles)


def _checked_step(
    root: Root, signed: Signed, body: bytes, kind: str, subject: str, *roles: Role
) -> tuple[dict[str, Any], dict[str, Any]]:
    document = checked_payload(root, signed, kind, subject, *roles)
    if document["digest"] != _body_digest(body):
        raise IntegrityError("the listing beside a head is not the one that was signed")
    return document, from_json(body, "a head's listing")


def trusted_vendor_head(
    root: Root, vendor: str, steps: Sequence[tuple[Signed, bytes]], frontier: Frontier
) -> tuple[VendorHead, Frontier]:
    """Verify the steps since (and with) the authority's last one, oldest first.

    Raises IntegrityError when the first step is not the authority's, when a responder's step adds
    anything or thaws, when a number is skipped, or when the last step is behind the frontier.
    """
    head: VendorHead | None = None
    for signed, body in steps:
        roles = (Role.AUTHORITY,) if head is None else (Role.AUTHORITY, Role.RESPONDER)
        document, listing = _checked_step(root, signed, body, "vendor", vendor, *roles)
        step = VendorHead(
            vendor,
            document["sequence"],
            signed.digest,
            document["frozen"],
            dict(listing["grants"]),
            dict(listing["credentials"]),
            document["signed_at"],
            frozenset(listing.get("ended", ())),
        )
        if head is not None:
            if step.sequence != head.sequence + 1:
                raise IntegrityError("a step in the sequence of a vendor's heads is missing")
            if not _threshold_is_authority(root, signed) and not _only_removes(head, step):
                raise IntegrityError("a head signed by the responder adds something")
        head = step
    if head is None:
        raise IntegrityError("a vendor has no head signed by the authority")
    return head, frontier.checked(head.sequence, head.digest)


def _threshold_is_authority(root: Root, signed: Signed) -> bool:
    return root.verify(signed, Role.AUTHORITY, Role.RESPONDER) is Role.AUTHORITY


def _only_removes(before: VendorHead, after: VendorHead) -> bool:
    return (
        (after.frozen or not before.frozen)
        and after.grants.items() <= before.grants.items()
        and after.credentials.items() <= before.credentials.items()
        and after.ended >= before.ended
    )


def trusted_compartment_head(
    root: Root, compartment: str, signed: Signed, body: bytes, frontier: Frontier
) -> tuple[CompartmentHead, Frontier]:
    """Verify a compartment's newest head, signed by the publisher or the authority."""
    document, listing = _checked_step(root, signed, body, "compartment", compartment, Role.PUBLISHER, Role.AUTHORITY)
    try:
        versions = {int(version): str(digest) for version, digest in listing["versions"].items()}
        epochs = {group: (int(entry[0]), str(entry[1])) for group, entry in listing["epochs"].items()}
        holder, dataset = str(listing["holder"]), str(listing["dataset"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise IntegrityError("a compartment head's listing lacks a field") from error
    head = CompartmentHead(compartment, holder, dataset, document["sequence"], signed.digest, versions, epochs)
    return head, frontier.checked(head.sequence, head.digest)
