"""Changing the root document: what the next version says, and whose signatures it still lacks.

A proposal is the next version with as many administrators' signatures as it has so far. Making one, signing it and
judging it need the document before it and nothing else, so an administrator can sign on a machine of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vault.encoding import is_id, json_bytes
from vault.errors import IntegrityError, InvalidInput
from vault.trust.root import Role, RoleKeys, Root, follow, read_proposal, root_payload, root_statement
from vault.trust.signed import Label, Signed, Signer, public_key_id

__all__ = [
    "Change",
    "accept",
    "add_signature",
    "changed_keys",
    "changed_protection",
    "check_form",
    "check_next",
    "propose",
    "signers_of",
]


@dataclass(frozen=True, slots=True)
class Change:
    """Public keys to add, key ids (or their beginnings) to remove, and how many of a role must sign.

    ``protect`` says how many must sign a grant, by the id of the dataset; 1 ends its protection.
    """

    add: tuple[tuple[Role, bytes], ...] = ()
    remove: tuple[tuple[Role, str], ...] = ()
    signers: Mapping[Role, int] = field(default_factory=dict)
    protect: Mapping[str, int] = field(default_factory=dict)


def propose(root: Root, change: Change) -> Signed:
    """The next version, unsigned; raises InvalidInput when it changes nothing or cannot be worked with."""
    roles = {role: _changed(role, root.roles[role], change) for role in Role}
    if any(signers < 1 for signers in change.protect.values()):
        raise InvalidInput("--signers: give 1 or more")
    protected = {dataset: most for dataset, most in {**root.protected, **change.protect}.items() if most > 1}
    if all(roles[role] == root.roles[role] for role in Role) and protected == root.protected:
        raise InvalidInput("the proposal changes nothing; say what to --add, --remove, or how many --signers")
    _check_usable(roles, protected)
    return root_statement(root.vault, root.version + 1, roles, (), protected)


def _changed(role: Role, entry: RoleKeys, change: Change) -> RoleKeys:
    keys = dict(entry.keys)
    for public in (public for added, public in change.add if added is role):
        if public_key_id(public) in keys:
            raise InvalidInput(f"--add: {role.value} key {public_key_id(public)} is in the root document already")
        keys[public_key_id(public)] = public
    for given in (given for removed, given in change.remove if removed is role):
        del keys[_matching(role, keys, given)]
    return RoleKeys(keys, change.signers.get(role, entry.threshold))


def _matching(role: Role, keys: Mapping[str, bytes], given: str) -> str:
    found = [key for key in keys if given and key.startswith(given)]
    if len(found) != 1:
        many = "more than one" if found else "no"
        raise InvalidInput(f"--remove: there is {many} {role.value} key whose id begins with '{given[:40]}'")
    return found[0]


def _check_usable(roles: Mapping[Role, RoleKeys], protected: Mapping[str, int]) -> None:
    needed, approvers = max(protected.values(), default=1), len(roles[Role.APPROVER].keys)
    if needed > approvers + 1:
        raise InvalidInput(
            f"a protected dataset would need {needed} signers, and with the authority there would be {approvers + 1}; "
            "add an approver first ('dsvault root propose --add approver=FILE'), or lower --signers"
        )
    seen: dict[str, Role] = {}
    for role, entry in roles.items():
        if not entry.keys and role is not Role.APPROVER:
            raise InvalidInput(f"the root document would have no {role.value} key left; add one in the same proposal")
        if entry.threshold < 1:
            raise InvalidInput("--signers: give 1 or more")
        if entry.threshold > 1 and role is Role.APPROVER:
            raise InvalidInput("--signers: how many approve is said for each dataset ('dsvault dataset protect')")
        if entry.threshold > 1 and role is not Role.ADMINISTRATOR:
            raise InvalidInput(f"--signers: statements of the {role.value} carry one signature, so one must suffice")
        if entry.threshold > max(1, len(entry.keys)):
            raise InvalidInput(
                f"the root document would need {entry.threshold} {role.value}s and have {len(entry.keys)}; "
                "add one, or lower --signers in the same proposal"
            )
        for key in entry.keys:
            if seen.setdefault(key, role) is not role:
                raise InvalidInput(f"key {key} would be both {seen[key].value} and {role.value}; each role has its own")


def check_form(proposal: Signed) -> Root:
    """What a proposal says; raises InvalidInput unless it says just that, in the form that dsvault writes.

    Whoever signs sees every field that is signed then, and nothing beside them.
    """
    try:
        claimed = read_proposal(proposal)
    except IntegrityError as error:
        raise InvalidInput(f"this is not a proposal that 'dsvault root propose' makes: {error}") from error
    if proposal.payload != json_bytes(root_payload(claimed.vault, claimed.version, claimed.roles, claimed.protected)):
        raise InvalidInput("the proposal is not in the form that 'dsvault root propose' writes")
    if not is_id(claimed.vault):
        raise InvalidInput("the proposal names no vault")
    if claimed.version < 2:
        raise InvalidInput("the proposal would be the first version of the root document, which none can follow")
    _check_usable(claimed.roles, claimed.protected)
    return claimed


def add_signature(proposal: Signed, signer: Signer) -> Signed:
    """The proposal with one signature more; one that is there already is replaced by itself. Raises as `check_form`."""
    check_form(proposal)
    signed = signer.sign(Label.ROOT, proposal.document())
    others = tuple(entry for entry in proposal.signatures if entry[0] != signer.key_id)
    return Signed(Label.ROOT, proposal.payload, (*others, *signed.signatures))


def signers_of(root: Root, proposal: Signed) -> frozenset[str]:
    """The key ids of the administrators in ``root`` whose signatures on the proposal hold."""
    return root.signers(proposal, Role.ADMINISTRATOR)


def accept(root: Root, proposal: Signed) -> Root:
    """The root document that a proposal makes; raises InvalidInput with what it lacks."""
    check_next(root, proposal)
    have, need = len(signers_of(root, proposal)), root.roles[Role.ADMINISTRATOR].threshold
    if have < need:
        raise InvalidInput(f"the proposal has {have} of the {need} administrators' signatures that it needs")
    try:
        return follow(root, proposal, root.fingerprint)
    except IntegrityError as error:
        raise InvalidInput(f"the proposal cannot be applied: {error}") from error


def check_next(root: Root, proposal: Signed) -> Root:
    """What a proposal says; raises InvalidInput unless it is about the next version of ``root``."""
    claimed = check_form(proposal)
    if claimed.vault != root.vault:
        raise InvalidInput("the proposal is about another vault")
    if claimed.version != root.version + 1:
        raise InvalidInput(
            f"the proposal would be version {claimed.version} of the root document, which is at version "
            f"{root.version}; make it anew"
        )
    return claimed


def changed_keys(before: Root, after: Root) -> tuple[list[str], list[str]]:
    """What was added and removed, each as ``role:key id``."""
    old = {f"{role.value}:{key}" for role in Role for key in before.roles[role].keys}
    new = {f"{role.value}:{key}" for role in Role for key in after.roles[role].keys}
    return sorted(new - old), sorted(old - new)


def changed_protection(before: Root, after: Root) -> dict[str, int]:
    """How many must sign grants from now on, by the ids of the datasets of which it changes; 1: the authority alone."""
    either = sorted(before.protected.keys() | after.protected.keys())
    changed = {dataset: (before.protected.get(dataset, 1), after.protected.get(dataset, 1)) for dataset in either}
    return {dataset: now for dataset, (was, now) in changed.items() if was != now}
