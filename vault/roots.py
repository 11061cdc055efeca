"""Changing the root document: proposing, signing, applying, and rotating one role's key.

`apply` signs anew everything live that a replaced key had signed, in the one transaction that makes the new version
count. What follows the commit (the store, the file that brokers start from, the old private keys, in this order) is
put right by `reconcile` at the owner's next opening when a run is killed. A new private key is durable before the root
document names it, and an old one is removed only when nothing needs it any more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vault import keyfile
from vault.audit import Entry, Kind
from vault.catalog import RootRow
from vault.encoding import new_id
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable
from vault.trust import Label, Role, Root, Signed, public_key_id
from vault.trust.proposals import (
    Change,
    accept,
    add_signature,
    changed_keys,
    changed_protection,
    check_form,
    check_next,
    propose,
    signers_of,
)
from vault.workings.files import put_file, put_new_file
from vault.workings.keyfolder import make_key, open_signer, public_file
from vault.workings.names import dataset_named, holders
from vault.workings.parts import OwnerParts
from vault.workings.resigning import Resigner
from vault.workings.steps import vendor_named

__all__ = [
    "Applied",
    "KeyState",
    "Protection",
    "Rotated",
    "Unrecorded",
    "apply",
    "key_states",
    "new_key",
    "propose_change",
    "protect",
    "read",
    "reconcile",
    "rotate",
    "sign",
    "signed_by",
    "unrecorded",
    "write",
]


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key that the root document names, and whether its private half is in this vault's directory."""

    role: Role
    id: str
    here: bool
    threshold: int


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A live ``grant`` or ``credential`` of a vendor that the log does not know."""

    vendor: str
    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change did; ``changed`` is False where it had been applied before.

    ``left_out`` are the vendors of whom nothing was signed anew: they are frozen and have nothing. ``protected`` says
    how many must sign a grant from now on, by the ids of the datasets of which that changed, and ``ended`` names the
    grants that lacked signatures.
    """

    version: int
    changed: bool
    added: list[str]
    removed: list[str]
    grants: int = 0
    credentials: int = 0
    manifests: int = 0
    heads: int = 0
    left_out: tuple[str, ...] = ()
    protected: Mapping[str, int] = field(default_factory=dict)
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation: what was applied, or the proposal that others must sign first."""

    key: str
    applied: Applied | None
    proposal: Signed
    signed_by: frozenset[str]
    needed: int


@dataclass(frozen=True, slots=True)
class Protection:
    """How many must sign grants on a dataset: what was applied, or the proposal that others must sign first.

    Both are None where it was so before.
    """

    dataset: str
    id: str
    signers: int
    applied: Applied | None = None
    proposal: Signed | None = None
    signed_by: frozenset[str] = frozenset()
    needed: int = 0


# Files: these need no vault


def new_key(role: Role, path: Path, passphrase: str | None, kms: str | None = None) -> str:
    """Make a private key file, and the public key beside it in ``<path>.pub``; returns the key's id.

    Raises InvalidInput where a file is in the way, and KmsError.
    """
    beside = path.with_name(path.name + ".pub")
    if beside.exists():
        raise InvalidInput(f"{beside}: the file exists already; a key is never overwritten")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent}: there is no such directory")
    try:
        public = make_key(role, path, passphrase, kms)
    except Conflict as error:
        raise InvalidInput(f"{path}: the file exists already; a key is never overwritten") from error
    put_file(beside, public_file(role, public).encode())
    return public_key_id(public)


def read(path: Path) -> Signed:
    """A proposal from its file; raises InvalidInput."""
    try:
        signed = Signed.decode(path.read_bytes(), Label.ROOT)
        check_form(signed)
    except OSError as error:
        raise InvalidInput(f"{path}: the proposal cannot be read ({error.strerror})") from error
    except IntegrityError as error:
        raise InvalidInput(f"{path}: this is not a proposal that 'dsvault root propose' makes") from error
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    return signed


def write(path: Path, proposal: Signed) -> None:
    """Put a proposal into a file that must not exist; raises InvalidInput."""
    put_new_file(path, proposal.encode() + b"\n")


def sign(path: Path, key: Path, passphrase: str | None, root: Root | None = None) -> tuple[Signed, str]:
    """Add the signature of an administrator's key file to a proposal's file; returns it and the key's id.

    With the vault's ``root`` at hand a proposal that is not its next version is refused.
    """
    proposal = read(path)
    if root is not None:
        check_next(root, proposal)
    signer = open_signer(key, Role.ADMINISTRATOR, passphrase)
    signed = add_signature(proposal, signer)
    put_file(path, signed.encode() + b"\n")
    return signed, signer.key_id


# The vault


def key_states(parts: OwnerParts) -> list[KeyState]:
    """Every key that the newest root document names."""
    root, files = parts.root.refresh(), parts.signers.keys
    return [
        KeyState(role, key, key in files.files(role), root.roles[role].threshold)
        for role in Role
        for key in root.roles[role].keys
    ]


def propose_change(parts: OwnerParts, change: Change) -> Signed:
    """The next version, signed by the administrators whose keys are here; raises InvalidInput."""
    root = parts.root.refresh()
    return _signed_here(parts, root, propose(root, change))


def _signed_here(parts: OwnerParts, root: Root, proposal: Signed) -> Signed:
    try:
        signer = parts.signers.keys.signer(Role.ADMINISTRATOR, root)
    except KeyUnavailable:
        return proposal  # an administrator's key may well be kept elsewhere
    return add_signature(proposal, signer)


def signed_by(parts: OwnerParts, proposal: Signed) -> tuple[frozenset[str], int]:
    """The administrators whose signatures on a proposal hold, and how many are needed."""
    root = parts.root.refresh()
    return signers_of(root, proposal), root.roles[Role.ADMINISTRATOR].threshold


def apply(parts: OwnerParts, proposal: Signed, leave_out: Sequence[str] = (), *, end_grants: bool = False) -> Applied:
    """Make a proposal the newest root document, with everything live under keys that count.

    Vendors named in ``leave_out`` need not be in order; they end up frozen, without grants and credentials.
    ``end_grants`` lets grants end that lack signatures on a protected dataset; without it they are a Conflict. May be
    killed and run again at any moment. Raises InvalidInput for what the proposal lacks, NotFound for a vendor's name,
    KeyUnavailable when a new private key that must sign is not here or the KMS refuses a vendor's key, Conflict when
    another change came first, and IntegrityError when something live does not verify even under the present root
    document: then nothing is changed.
    """
    old = parts.root.refresh()
    if proposal.digest == old.digest:
        reconcile(parts)
        return Applied(old.version, False, [], [])
    new = accept(old, proposal)
    added, removed = changed_keys(old, new)
    without = frozenset(vendor_named(parts, name).id for name in leave_out)
    protected = changed_protection(old, new)
    resigner = Resigner(parts, old, new, without, end_grants=end_grants)
    with parts.catalog.read() as transaction:
        resigner.run(transaction, write=False)
    with parts.catalog.write() as transaction:
        if parts.root.seen_by(transaction).digest != old.digest:
            raise Conflict("another change of the root document came first; make the proposal anew")
        done = resigner.run(transaction, write=True)
        transaction.add_root(RootRow(new.version, proposal.encode()))
        parts.journal.record_change(
            transaction,
            old,
            new,
            Kind.ROOT_CHANGED,
            {
                "version": new.version,
                "added": added,
                "removed": removed,
                "administrators": sorted(signers_of(old, proposal)),
                "signers": new.roles[Role.ADMINISTRATOR].threshold,
                "left_out": done.left_out,
                "protected": protected,
                "ended_grants": done.ended,
            },
        )
    reconcile(parts)
    heads = len(done.heads)
    return Applied(
        new.version,
        True,
        added,
        removed,
        done.grants,
        done.credentials,
        done.manifests,
        heads,
        tuple(done.left_out),
        protected,
        tuple(done.ended),
    )


def reconcile(parts: OwnerParts) -> None:
    """Finish a change that was committed: the rest of a killed `apply`, and nothing where there is none."""
    parts.root.refresh()
    parts.root.announce()
    parts.heads.reconcile()
    if not parts.root.is_saved:
        parts.journal.checkpoint()
        parts.journal.drop_replaced_checkpoints()
        parts.root.save()
    _retire_keys(parts)


def _retire_keys(parts: OwnerParts) -> None:
    files = parts.signers.keys
    for role in Role:
        for key, path in files.files(role).items():
            if parts.root.ever_held(role, key) and not parts.root.known.holds(role, key):
                files.retire(role, key, path)


def unrecorded(parts: OwnerParts) -> list[Unrecorded]:
    """The live grants and credentials that no log entry is about: what a thief of the authority's key listed.

    Needs the auditor's key. A thief who had the log key too may have written entries; those are for people to judge.
    """
    said = (entry.fields.get("statement") for _, entry in _entries(parts))
    recorded = {each for each in said if isinstance(each, str)}
    found = []
    with parts.catalog.read() as transaction:
        for holder in holders(transaction, parts.sealer()):
            if holder.id == parts.owner:
                continue
            head = parts.heads.vendor_in(transaction, holder.id)
            for kind, listing in (("grant", head.grants), ("credential", head.credentials)):
                found += [
                    Unrecorded(holder.name, kind, key) for key, digest in listing.items() if digest not in recorded
                ]
    return found


def _entries(parts: OwnerParts) -> Iterator[tuple[int, Entry]]:
    return parts.journal.entries(parts.signers.keys.auditor_secrets())


def rotate(
    parts: OwnerParts,
    role: Role,
    kms: str | None = None,
    leave_out: Sequence[str] = (),
    *,
    end_grants: bool = False,
) -> Rotated:
    """Replace the role's key that is here (or its only one) by a new one, and apply it where that may be done alone.

    The new private key is in the vault's directory, or in the KMS of a URI, when this returns, also where others must
    sign first. ``leave_out`` and ``end_grants`` are those of `apply`.
    """
    if role is Role.APPROVER:
        raise InvalidInput(
            "an approver's key is made where the approver is: 'dsvault root new-key approver', then 'root propose' here"
        )
    root = parts.root.refresh()
    old = _replaced(parts, root, role)
    public = _pending_key(parts, role, kms)
    change = Change(add=((role, public),), remove=((role, old),))
    proposal = _signed_here(parts, root, propose(root, change))
    signatures, needed = signers_of(root, proposal), root.roles[Role.ADMINISTRATOR].threshold
    enough = len(signatures) >= needed
    applied = apply(parts, proposal, leave_out, end_grants=end_grants) if enough else None
    return Rotated(public_key_id(public), applied, proposal, signatures, needed)


def protect(parts: OwnerParts, name: str, signers: int, *, end_grants: bool = False) -> Protection:
    """Let a grant on a dataset count only with the signatures of ``signers`` people; 1 is the authority alone.

    Live grants that lack signatures are a Conflict, unless ``end_grants`` lets them end. Raises NotFound, InvalidInput
    for more signers than there are, and what `apply` does.
    """
    if signers < 1:
        raise InvalidInput("--signers: give 1 or more")
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        dataset = dataset_named(transaction, sealer, name)
        root = parts.root.seen_by(transaction)
    if root.protected.get(dataset.id, 1) == signers:
        reconcile(parts)
        return Protection(name, dataset.id, signers)
    proposal = _signed_here(parts, root, propose(root, Change(protect={dataset.id: signers})))
    signatures, needed = signers_of(root, proposal), root.roles[Role.ADMINISTRATOR].threshold
    applied = apply(parts, proposal, end_grants=end_grants) if len(signatures) >= needed else None
    return Protection(name, dataset.id, signers, applied, proposal, signatures, needed)


def _replaced(parts: OwnerParts, root: Root, role: Role) -> str:
    named = list(root.roles[role].keys)
    here = [key for key in named if key in parts.signers.keys.files(role)]
    if len(named) == 1:
        return named[0]
    if len(here) != 1:
        raise InvalidInput(
            f"there are {len(named)} {role.value} keys; say which to replace with 'dsvault root propose'"
        )
    return here[0]


def _pending_key(parts: OwnerParts, role: Role, kms: str | None) -> bytes:
    """A new key's public half; a key that an earlier run made, and no root document named yet, is taken up."""
    files = parts.signers.keys
    for key, path in files.files(role).items():
        place = keyfile.load(path).elsewhere
        if not parts.root.ever_held(role, key) and (place.kms if place is not None else None) == kms:
            return files.public(role, path)
    return make_key(role, files.new_path(role, new_id()[:8]), files.passphrase, kms)
