"""The root document's chain, proposals, and signers that live elsewhere: decisions without a vault."""

import json
from dataclasses import replace
from typing import Any

import pytest

from vault.encoding import json_bytes
from vault.errors import IntegrityError, InvalidInput, KmsError
from vault.trust import Label, RemoteSigner, Role, RoleKeys, Root, Signed, Signer, open_root, root_statement
from vault.trust.proposals import Change, accept, add_signature, changed_keys, propose, signers_of
from vault.trust.root import encode_chain, follow, read_proposal

_SIGNERS = {role: Signer(bytes([number]) * 32) for number, role in enumerate(Role, 1)}
_ROLES = {role: RoleKeys({signer.key_id: signer.public}, 1) for role, signer in _SIGNERS.items()}
_ALICE, _BOB, _CAROL = _SIGNERS[Role.ADMINISTRATOR], Signer(b"\x21" * 32), Signer(b"\x22" * 32)
_VAULT = "0123456789abcdef" * 2
_FIRST = root_statement(_VAULT, 1, _ROLES, [_ALICE])


def _root(*later: Signed) -> Root:
    return open_root(encode_chain([_FIRST, *later]), _FIRST.digest)


def _three_of_which_two_sign() -> tuple[Root, Signed]:
    change = Change(
        add=((Role.ADMINISTRATOR, _BOB.public), (Role.ADMINISTRATOR, _CAROL.public)), signers={Role.ADMINISTRATOR: 2}
    )
    signed = add_signature(propose(_root(), change), _ALICE)
    return accept(_root(), signed), signed


def test_a_proposal_adds_and_removes_keys_and_sets_how_many_sign() -> None:
    """The next version has what was added and lacks what was removed; everything else stays."""
    root, _ = _three_of_which_two_sign()
    assert (root.version, root.vault, root.fingerprint) == (2, _VAULT, _FIRST.digest)
    assert root.roles[Role.ADMINISTRATOR].threshold == 2
    assert list(root.roles[Role.ADMINISTRATOR].keys) == [_ALICE.key_id, _BOB.key_id, _CAROL.key_id]
    assert root.roles[Role.AUTHORITY] == _ROLES[Role.AUTHORITY]
    second = propose(root, Change(remove=((Role.ADMINISTRATOR, _ALICE.key_id[:6]),)))
    third = accept(root, add_signature(add_signature(second, _BOB), _CAROL))
    assert changed_keys(root, third) == ([], [f"administrator:{_ALICE.key_id}"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(), "changes nothing"),
        (Change(add=((Role.ADMINISTRATOR, _ALICE.public),)), "already"),
        (Change(remove=((Role.ADMINISTRATOR, _ALICE.key_id),)), "no administrator key left"),
        (Change(remove=((Role.AUTHORITY, _SIGNERS[Role.AUTHORITY].key_id),)), "no authority key left"),
        (Change(remove=((Role.AUTHORITY, "ff00ff"),)), "--remove"),
        (Change(remove=((Role.AUTHORITY, ""),)), "--remove"),
        (Change(signers={Role.ADMINISTRATOR: 2}), "need 2 administrators and have 1"),
        (Change(signers={Role.ADMINISTRATOR: 0}), "--signers"),
        (Change(add=((Role.AUTHORITY, _BOB.public),), signers={Role.AUTHORITY: 2}), "--signers"),
        (Change(add=((Role.PUBLISHER, _SIGNERS[Role.AUTHORITY].public),)), "each role has its own"),
    ],
)
def test_a_proposal_that_cannot_be_worked_with_is_refused(change: Change, words: str) -> None:
    """Each is a user's mistake, told in one sentence."""
    with pytest.raises(InvalidInput, match=words) as caught:
        propose(_root(), change)
    assert "\n" not in str(caught.value)


def test_removing_an_administrator_below_the_threshold_is_refused() -> None:
    """Two of three must sign: one may go, the second may not unless the threshold goes down with it."""
    root, _ = _three_of_which_two_sign()
    two = ((Role.ADMINISTRATOR, _BOB.key_id), (Role.ADMINISTRATOR, _CAROL.key_id))
    with pytest.raises(InvalidInput, match="need 2 administrators and have 1"):
        propose(root, Change(remove=two))
    propose(root, Change(remove=two[:1]))
    propose(root, Change(remove=two, signers={Role.ADMINISTRATOR: 1}))


def test_one_thief_of_two_signers_can_do_nothing() -> None:
    """With two of three, one stolen administrator's key is refused by who applies and by who follows the chain."""
    root, second = _three_of_which_two_sign()
    thief = _BOB
    lone = add_signature(propose(root, Change(remove=((Role.ADMINISTRATOR, _ALICE.key_id),))), thief)
    assert signers_of(root, lone) == {thief.key_id}
    with pytest.raises(InvalidInput, match="1 of the 2"):
        accept(root, lone)
    twice = replace(lone, signatures=lone.signatures * 2)
    for forged in (lone, twice, replace(lone, signatures=((_CAROL.key_id, lone.signatures[0][1]), *lone.signatures))):
        with pytest.raises(IntegrityError):
            follow(root, forged, root.fingerprint)
        with pytest.raises(IntegrityError):
            _root(second, forged)
    assert follow(root, add_signature(lone, _CAROL), root.fingerprint).version == 3


def test_a_proposal_made_on_another_version_or_vault_is_refused() -> None:
    """A proposal is for the version after the present one, of this vault."""
    root, second = _three_of_which_two_sign()
    with pytest.raises(InvalidInput, match="make it anew"):
        accept(root, second)
    with pytest.raises(InvalidInput, match="another vault"):
        accept(_root(), root_statement(_VAULT[::-1], 2, _ROLES, [_ALICE]))


def test_the_signatures_of_removed_administrators_count_nothing() -> None:
    """Whoever was removed in one version cannot sign the version after it."""
    change = Change(add=((Role.ADMINISTRATOR, _BOB.public),), remove=((Role.ADMINISTRATOR, _ALICE.key_id),))
    second = add_signature(propose(_root(), change), _ALICE)
    root = accept(_root(), second)
    third = propose(root, Change(add=((Role.ADMINISTRATOR, _CAROL.public),)))
    with pytest.raises(InvalidInput, match="0 of the 1"):
        accept(root, add_signature(third, _ALICE))
    assert accept(root, add_signature(third, _BOB)).version == 3


def test_signing_never_changes_what_is_signed() -> None:
    """A proposal that is not in canonical form is refused, and a second signature by one key replaces its first."""
    proposal = propose(_root(), Change(add=((Role.ADMINISTRATOR, _BOB.public),)))
    once = add_signature(proposal, _ALICE)
    assert add_signature(once, _ALICE) == once
    assert once.digest == proposal.digest
    spaced = Signed(Label.ROOT, b" " + proposal.payload, ())
    with pytest.raises(InvalidInput):
        add_signature(spaced, _ALICE)
    with pytest.raises(InvalidInput):
        add_signature(Signed(Label.ROOT, json_bytes({"type": "grant"}), ()), _ALICE)


def test_a_removed_key_counts_nothing_any_more() -> None:
    """What an authority signed before it was replaced does not verify under the next version."""
    fresh = Signer(b"\x31" * 32)
    old = _SIGNERS[Role.AUTHORITY]
    signed = old.sign(Label.GRANT, {"type": "grant"})
    assert _root().verify(signed, Role.AUTHORITY) is Role.AUTHORITY
    change = Change(add=((Role.AUTHORITY, fresh.public),), remove=((Role.AUTHORITY, old.key_id),))
    root = accept(_root(), add_signature(propose(_root(), change), _ALICE))
    with pytest.raises(IntegrityError):
        root.verify(signed, Role.AUTHORITY)
    again = fresh.sign(Label.GRANT, {"type": "grant"})
    assert again.digest == signed.digest
    assert root.verify(again, Role.AUTHORITY) is Role.AUTHORITY


def test_a_proposal_says_what_it_would_do_before_anybody_signed() -> None:
    """An unsigned proposal can be read, and is no root document."""
    proposal = propose(_root(), Change(add=((Role.ADMINISTRATOR, _BOB.public),)))
    assert read_proposal(proposal).version == 2
    with pytest.raises(IntegrityError):
        follow(_root(), proposal, _FIRST.digest)


def test_a_remote_signer_signs_like_a_local_one() -> None:
    """What a key elsewhere signs is the same statement, and the signer needs its public half only."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    local, remote = Signer(b"\x07" * 32), RemoteSigner(key.public_key().public_bytes_raw(), key.sign)
    assert remote.key_id == local.key_id
    assert remote.sign(Label.GRANT, {"a": 1}) == local.sign(Label.GRANT, {"a": 1})
    assert local.sign_note("dsvault/log\n") == remote.sign_note("dsvault/log\n")
    assert repr(remote) == f"RemoteSigner({local.key_id})"


def test_a_remote_signers_answer_is_not_believed() -> None:
    """A signature of another key, of another message, or no signature at all is refused before anybody sees it."""
    other = Signer(b"\x08" * 32)
    public = Signer(b"\x07" * 32).public
    answers = (lambda message: other.sign(Label.GRANT, {"a": 1}).signatures[0][1], lambda message: b"", bytes)
    for answer in answers:
        with pytest.raises(KmsError):
            RemoteSigner(public, answer).sign(Label.GRANT, {"a": 1})
        with pytest.raises(KmsError):
            RemoteSigner(public, answer).sign_note("dsvault/log\n")


def _proposal(**changes: Any) -> Signed:
    """A proposal whose payload somebody wrote by hand."""
    document = propose(_root(), Change(add=((Role.ADMINISTRATOR, _BOB.public),))).document() | changes
    payload = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return Signed(Label.ROOT, payload, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2.0},
        {"version": True},
        {"version": -1},
        {"version": 1},
        {"version": 10**30},
        {"version": "2"},
        {"vault": 7},
        {"vault": "../elsewhere"},
        {"vault": "\x1b[2J"},
        {"note": 1.5},
        {"note": "beside what is shown"},
        {"roles": []},
        {"roles": 1.5},
        {"threshold": 1.5},
        {"threshold": 0},
    ],
)
def test_a_proposal_that_says_something_else_is_not_signed(changes: dict[str, Any]) -> None:
    """Whatever is odd about a proposal is one sentence, and nobody's signature comes under it."""
    if "threshold" in changes:
        roles = _proposal().document()["roles"]
        roles["administrator"]["threshold"] = changes["threshold"]
        changes = {"roles": roles}
    with pytest.raises(InvalidInput):
        add_signature(_proposal(**changes), _ALICE)
    add_signature(_proposal(), _ALICE)
