"""The root document: which public keys may speak in which role, and how many of them must agree.

Version 1 is signed by its own administrators and pinned by its digest, the *fingerprint*, in every
broker, client and backup. Each later version is signed by the threshold of administrators of the
version before it, so that a reader who pinned version 1 follows any number of rotations.

It also says which datasets are *protected*, by id: a grant on one counts only with the signatures of so many
people, the authority and distinct approvers. A document that protects something has a major format of its own, so that
a reader who knows nothing of protection refuses it, instead of believing grants that lack signatures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from vault.encoding import from_base64, from_json, is_id, json_bytes, to_base64
from vault.errors import IntegrityError
from vault.model import FORMAT
from vault.trust.signed import Label, Signed, Signer, kind_of_statement, public_key_id, signature_holds

__all__ = [
    "Role",
    "RoleKeys",
    "Root",
    "decode_chain",
    "encode_chain",
    "follow",
    "open_root",
    "open_roots",
    "read_proposal",
    "root_payload",
    "root_statement",
]

#: The format of a document that protects datasets.
_PROTECTING: Final = (2, 0)


class Role(StrEnum):
    """Who may sign what."""

    ADMINISTRATOR = "administrator"
    AUTHORITY = "authority"
    RESPONDER = "responder"
    PUBLISHER = "publisher"
    LOG = "log"
    AUDITOR = "auditor"
    APPROVER = "approver"


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The raw public keys of a role, by key id, and how many distinct ones must sign."""

    keys: dict[str, bytes]
    threshold: int


@dataclass(frozen=True, slots=True)
class Root:
    """A verified root document; ``digest`` is its statement's, and version 1's is the fingerprint.

    ``protected`` says how many must sign a grant, by the id of the dataset; for one that it does not name the authority
    is enough.
    """

    vault: str
    version: int
    fingerprint: str
    digest: str
    roles: Mapping[Role, RoleKeys]
    protected: Mapping[str, int] = field(default_factory=dict)

    def holds(self, role: Role, key: str) -> bool:
        """Whether a key id is one of the role's."""
        return key in self.roles[role].keys

    def verify(self, signed: Signed, *allowed: Role) -> Role:
        """Return the first allowed role whose threshold of distinct keys signed; raises IntegrityError."""
        for role in allowed:
            if len(self.signers(signed, role)) >= self.roles[role].threshold:
                return role
        roles = " or ".join(role.value for role in allowed)
        raise IntegrityError(f"{kind_of_statement(signed.label)} is not signed by the {roles} key")

    def signers(self, signed: Signed, role: Role) -> frozenset[str]:
        """The ids of a role's keys whose signatures on a statement hold; each counts once."""
        keys = self.roles[role].keys
        return frozenset(
            key
            for key, signature in signed.signatures
            if key in keys and signature_holds(keys[key], signed.label, signed.payload, signature)
        )

    def missing(self, signed: Signed, dataset: str) -> int:
        """How many signatures a grant on a dataset lacks; 0 where it counts. Without the authority's none counts.

        Two keys of the authority are one signer, and a key that is an approver's too is no second one.
        """
        approvers = self.signers(signed, Role.APPROVER)
        have = max((len(approvers | {key}) for key in self.signers(signed, Role.AUTHORITY)), default=0)
        return max(0, self.protected.get(dataset, 1) - have)

    def public_key(self, role: Role) -> bytes:
        """The newest public key of a role that encrypts (the auditor's)."""
        return next(reversed(self.roles[role].keys.values()))


def root_payload(
    vault: str, version: int, roles: Mapping[Role, RoleKeys], protected: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What the administrators sign. What a vault does not use is not in it: no approver, nothing that is protected."""
    document: dict[str, Any] = {
        "format": list(_PROTECTING if protected else FORMAT),
        "type": "root",
        "vault": vault,
        "version": version,
        "roles": {
            role.value: {
                "threshold": entry.threshold,
                "keys": [{"id": key, "public": to_base64(public)} for key, public in entry.keys.items()],
            }
            for role, entry in roles.items()
            if entry.keys
        },
    }
    return document | ({"protected": dict(protected)} if protected else {})


def root_statement(
    vault: str,
    version: int,
    roles: Mapping[Role, RoleKeys],
    signers: Iterable[Signer],
    protected: Mapping[str, int] | None = None,
) -> Signed:
    """Make a root document and sign it with the administrators' signers; without any it is a mere proposal."""
    payload = root_payload(vault, version, roles, protected)
    parts = [signer.sign(Label.ROOT, payload) for signer in signers]
    return Signed(Label.ROOT, json_bytes(payload), tuple(sig for part in parts for sig in part.signatures))


def encode_chain(chain: Iterable[Signed]) -> bytes:
    """The file form of a chain of root versions, oldest first."""
    return json_bytes([from_json(entry.encode(), "root document") for entry in chain])


def decode_chain(data: bytes) -> list[Signed]:
    """Inverse of `encode_chain`; raises IntegrityError. Says nothing about validity."""
    entries = from_json(data, "the root document")
    if not isinstance(entries, list) or not entries:
        raise IntegrityError("the root document is empty")
    return [Signed.decode(json_bytes(entry), Label.ROOT) for entry in entries]


def open_root(data: bytes, fingerprint: str) -> Root:
    """Follow a chain of root versions from the pinned fingerprint to the newest; raises as `follow` does."""
    return open_roots(data, fingerprint)[-1]


def open_roots(data: bytes, fingerprint: str) -> list[Root]:
    """Every version of a chain, oldest first; raises as `follow` does."""
    roots: list[Root] = []
    for signed in decode_chain(data):
        roots.append(follow(roots[-1] if roots else None, signed, fingerprint))
    return roots


def follow(root: Root | None, signed: Signed, fingerprint: str) -> Root:
    """The version after ``root``, or version 1 where there is none yet.

    Raises IntegrityError when version 1 is not the pinned one, when a version is not signed by the threshold of
    administrators of the one before it, and when the numbering has a gap.
    """
    if root is None and signed.digest != fingerprint:
        raise IntegrityError("the root document is not the one whose fingerprint is pinned")
    claimed = read_proposal(signed, fingerprint)
    (root if root is not None else claimed).verify(signed, Role.ADMINISTRATOR)
    if claimed.version != (root.version if root else 0) + 1 or (root and claimed.vault != root.vault):
        raise IntegrityError("the versions of the root document do not follow one another")
    return claimed


def read_proposal(signed: Signed, fingerprint: str = "") -> Root:
    """What a root document says, whoever signed it; raises IntegrityError when it is malformed."""
    try:
        document = signed.document()
        protected = _protected(document.get("protected", {}))
        # The format says whether something is protected, so that no reader takes the one for the other.
        major = _PROTECTING[0] if protected else FORMAT[0]
        if document["format"][0] != major or document["type"] != "root":
            raise IntegrityError("the root document has a format that this release does not know")
        roles = {role: _role(role, document["roles"]) for role in Role}
        version = _number(document["version"])
        return Root(str(document["vault"]), version, fingerprint, signed.digest, roles, protected)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise IntegrityError("the root document lacks a field") from error


def _number(value: object) -> int:
    # JSON has other numbers that Python would round, and true is an int to it.
    if type(value) is not int or not 1 <= value < 2**31:
        raise IntegrityError("a number in the root document is none of its numbers")
    return value


def _protected(entry: dict[str, Any]) -> dict[str, int]:
    protected = {dataset: _number(signers) for dataset, signers in entry.items()}
    if not all(is_id(dataset) for dataset in protected) or any(signers < 2 for signers in protected.values()):
        raise IntegrityError("the root document protects a dataset in no way that this release knows")
    return protected


def _role(role: Role, entries: dict[str, Any]) -> RoleKeys:
    if role is Role.APPROVER and role.value not in entries:
        return RoleKeys({}, 1)
    entry = entries[role.value]
    keys = {str(key["id"]): from_base64(key["public"], "a public key") for key in entry["keys"]}
    if any(public_key_id(public) != key for key, public in keys.items()):
        raise IntegrityError("a key id in the root document is not that of its key")
    threshold = _number(entry["threshold"])
    if threshold > len(keys):
        raise IntegrityError("a threshold in the root document cannot be met")
    return RoleKeys(keys, threshold)
