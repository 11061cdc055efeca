"""Protected datasets: which signatures make a grant count, what is approved, and what a root document may protect."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vault.errors import IntegrityError, InvalidInput
from vault.trust import Grant, GrantedColumn, Label, Role, RoleKeys, Root, Signed, Signer, root_statement
from vault.trust.approvals import add_approval, joined, read_request
from vault.trust.proposals import Change, accept, add_signature, changed_protection, check_form, propose
from vault.trust.root import follow, read_proposal

_ALICE, _AUTHORITY, _SECOND, _BOB, _CAROL, _MALLORY = (Signer(bytes([number]) * 32) for number in range(40, 46))
_OTHERS = {role: Signer(bytes([number]) * 32) for number, role in enumerate(Role, 1)}
_VAULT, _DATASET, _OTHER = "0a" * 16, "0b" * 16, "0c" * 16
_GRANT = Grant(
    id="0d" * 16,
    vault=_VAULT,
    vendor="0e" * 16,
    vendor_name="acme",
    dataset=_DATASET,
    dataset_name="evals",
    columns=(GrantedColumn("0f" * 16, "prompt", "1a" * 16),),
    where=None,
    where_text=None,
    filter_columns=(),
    versions="latest",
    delivery="stream",
    purpose=None,
    issued=datetime(2026, 11, 26, tzinfo=UTC),
    expires=None,
)


def _keys(*signers: Signer) -> RoleKeys:
    return RoleKeys({signer.key_id: signer.public for signer in signers}, 1)


def _roles(**changes: RoleKeys) -> dict[Role, RoleKeys]:
    roles = {role: _keys(signer) for role, signer in _OTHERS.items()}
    fixed = {Role.ADMINISTRATOR: _keys(_ALICE), Role.AUTHORITY: _keys(_AUTHORITY), Role.APPROVER: _keys(_BOB, _CAROL)}
    return {**roles, **fixed, **{Role(role): keys for role, keys in changes.items()}}


def _root(protected: Mapping[str, int] | None = None, **changes: RoleKeys) -> Root:
    return Root(_VAULT, 2, "", "", _roles(**changes), {_DATASET: 2} if protected is None else protected)


def _signed(*signers: Signer) -> Signed:
    parts = [signer.sign(Label.GRANT, _GRANT.payload()) for signer in signers]
    return Signed(Label.GRANT, parts[0].payload, tuple(each for part in parts for each in part.signatures))


@pytest.mark.parametrize(
    ("signers", "needed", "missing"),
    [
        ((_AUTHORITY,), 1, 0),
        ((_AUTHORITY,), 2, 1),
        ((_AUTHORITY, _BOB), 2, 0),
        ((_BOB, _AUTHORITY), 2, 0),
        ((_AUTHORITY, _BOB), 3, 1),
        ((_AUTHORITY, _BOB, _CAROL), 3, 0),
        ((_AUTHORITY, _BOB, _BOB), 3, 1),
        ((_AUTHORITY, _AUTHORITY), 2, 1),
        ((_AUTHORITY, _MALLORY), 2, 1),
        ((_BOB, _CAROL), 2, 2),
        ((_BOB, _CAROL), 1, 1),
        ((_MALLORY,), 2, 2),
    ],
)
def test_a_grant_counts_with_the_authority_and_enough_approvers(
    signers: tuple[Signer, ...], needed: int, missing: int
) -> None:
    """The authority is one of the signers, the rest are distinct approvers, and nobody else counts."""
    root = _root({_DATASET: needed} if needed > 1 else {})
    assert root.missing(_signed(*signers), _DATASET) == missing


def test_two_keys_of_the_authority_are_one_signer() -> None:
    """Whoever holds the authority's keys is one person, however many there are."""
    root = _root(authority=_keys(_AUTHORITY, _SECOND))
    assert root.missing(_signed(_AUTHORITY, _SECOND), _DATASET) == 1
    assert root.missing(_signed(_SECOND, _BOB), _DATASET) == 0


def test_a_key_in_both_roles_counts_once() -> None:
    """A root document that names one key twice makes no two signers of it."""
    root = _root(approver=_keys(_AUTHORITY, _BOB))
    assert root.missing(_signed(_AUTHORITY), _DATASET) == 1
    assert root.missing(_signed(_AUTHORITY, _BOB), _DATASET) == 0
    both = _root(authority=_keys(_AUTHORITY, _SECOND), approver=_keys(_AUTHORITY, _BOB))
    assert both.missing(_signed(_AUTHORITY, _SECOND), _DATASET) == 0  # two keys, of which one is an approver's


def test_another_dataset_needs_the_authority_alone() -> None:
    """Protection is by the id of the dataset, and of no other."""
    assert _root().missing(_signed(_AUTHORITY), _OTHER) == 0


def test_signatures_of_another_payload_or_label_count_nothing() -> None:
    """Bob's signature on another grant, or on a root document of the same bytes, is no approval of this one."""
    wider = replace(_GRANT, columns=(*_GRANT.columns, GrantedColumn("2a" * 16, "ssn", "2b" * 16)))
    lifted = _BOB.sign(Label.GRANT, wider.payload()).signatures
    mislabelled = _BOB.sign(Label.ROOT, _GRANT.payload()).signatures
    for signatures in (lifted, mislabelled):
        forged = replace(_signed(_AUTHORITY), signatures=(*_signed(_AUTHORITY).signatures, *signatures))
        assert _root().missing(forged, _DATASET) == 1


def test_approving_adds_one_signature_and_changes_nothing() -> None:
    """The payload and so the digest stay; a second approval by one key replaces its first."""
    signed = _signed(_AUTHORITY)
    once = add_approval(signed, _BOB)
    assert (once.digest, once.payload) == (signed.digest, signed.payload)
    assert add_approval(once, _BOB) == once
    assert _root().missing(once, _DATASET) == 0
    assert read_request(once) == _GRANT


def test_only_approvals_that_hold_are_taken_over() -> None:
    """Of a file that comes back nothing counts but new signatures of approvers over the stored payload."""
    stored, root = _signed(_AUTHORITY), _root({_DATASET: 3})
    junk = ((_CAROL.key_id, b"\0" * 64), ("f" * 32, b""))
    offered = replace(_signed(_MALLORY, _BOB, _AUTHORITY), signatures=(*junk, *_signed(_MALLORY, _BOB).signatures))
    found = joined(root, stored, offered)
    assert found.signatures == _signed(_AUTHORITY, _BOB).signatures
    assert joined(root, found, offered) == found
    assert joined(root, found, _signed(_CAROL)).signatures == _signed(_AUTHORITY, _BOB, _CAROL).signatures
    # A spoiled signature under an approver's id, put there beforehand, keeps no good one out.
    spoiled = replace(stored, signatures=(*stored.signatures, *junk))
    assert root.missing(joined(root, spoiled, _signed(_BOB, _CAROL)), _DATASET) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"note": "beside what is shown"},
        {"format": [2, 0]},
        {"format": [1, 9]},
        {"type": "credential"},
        {"id": "../elsewhere"},
        {"vendor": "\x1b[2J"},
        {"limits": {"rows": "5"}},
        {"limits": {"rows": 5.0}},
        {"expires": "2026-11-26"},
        {"masks": []},
        {"columns": [{"id": "0f" * 16, "name": "prompt", "group": "1a" * 16, "also": "ssn"}]},
        {"columns": 7},
    ],
)
def test_a_grant_that_says_something_else_is_not_approved(changes: dict[str, Any]) -> None:
    """A field that is not shown, or not in canonical form, is one sentence, and nobody's signature comes under it."""
    payload = json.dumps(_GRANT.payload() | changes, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(InvalidInput):
        add_approval(Signed(Label.GRANT, payload, ()), _BOB)
    with pytest.raises(InvalidInput):
        add_approval(Signed(Label.GRANT, b" " + _signed(_AUTHORITY).payload, ()), _BOB)
    nested = b"[" * 100_000
    with pytest.raises(InvalidInput):
        add_approval(Signed(Label.GRANT, nested, ()), _BOB)


def test_a_grant_of_an_earlier_release_may_be_approved() -> None:
    """Grants that were signed before there were fields are approved as the bytes that they are."""
    document = _GRANT.payload()
    for column in document["columns"]:
        del column["fields"]
    old = _AUTHORITY.sign(Label.GRANT, document)
    assert b"fields" not in old.payload
    assert _root().missing(add_approval(old, _BOB), _DATASET) == 0


# The root document

_FIRST = root_statement(_VAULT, 1, _roles(), [_ALICE])
_ONE = follow(None, _FIRST, _FIRST.digest)


def _next(root: Root, change: Change) -> Root:
    return accept(root, add_signature(propose(root, change), _ALICE))


def test_protecting_and_ending_it_are_versions_of_the_root_document() -> None:
    """Each change is signed by the administrators, and says what changed; what is not protected is not named."""
    two = _next(_ONE, Change(protect={_DATASET: 2}))
    assert (two.protected, changed_protection(_ONE, two)) == ({_DATASET: 2}, {_DATASET: 2})
    three = _next(two, Change(protect={_OTHER: 3}))
    assert three.protected == {_DATASET: 2, _OTHER: 3}
    four = _next(three, Change(protect={_DATASET: 1}))
    assert (four.protected, changed_protection(three, four)) == ({_OTHER: 3}, {_DATASET: 1})
    # Another change leaves protection as it is.
    assert _next(four, Change(add=((Role.APPROVER, _MALLORY.public),))).protected == four.protected


def test_a_document_without_protection_is_what_it_always_was() -> None:
    """The payload of a vault that protects nothing and has no approver names neither, byte for byte as before."""
    roles = _roles(approver=RoleKeys({}, 1))
    document = root_statement(_VAULT, 1, roles, [_ALICE]).document()
    assert document["format"] == [1, 0]
    assert "protected" not in document
    assert sorted(document["roles"]) == sorted(role.value for role in Role if role is not Role.APPROVER)
    assert follow(None, root_statement(_VAULT, 1, roles, [_ALICE]), root_statement(_VAULT, 1, roles, []).digest)


def test_a_reader_that_knows_no_protection_refuses_the_document() -> None:
    """What protects has a major format of its own, and one that claims the other format is refused either way."""
    proposal = propose(_ONE, Change(protect={_DATASET: 2}))
    document = proposal.document()
    assert document["format"] == [2, 0]
    for changes in ({"format": [1, 0]}, {"protected": {}}, {"format": [3, 0]}):
        payload = json.dumps(document | changes, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(IntegrityError, match="format"):
            read_proposal(Signed(Label.ROOT, payload, ()))


@pytest.mark.parametrize(
    "protected",
    [{_DATASET: 1}, {_DATASET: 0}, {_DATASET: True}, {_DATASET: 2.0}, {_DATASET: "2"}, {"evals": 2}, [], 7, [_DATASET]],
)
def test_a_malformed_protection_is_refused(protected: Any) -> None:
    """Nothing about protection is guessed: the whole document is refused, by who follows and by who would sign it."""
    document = propose(_ONE, Change(protect={_DATASET: 2})).document() | {"protected": protected}
    payload = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    signed = Signed(Label.ROOT, payload, _ALICE.sign(Label.ROOT, {}).signatures)
    with pytest.raises(IntegrityError):
        read_proposal(signed)
    with pytest.raises(InvalidInput):
        check_form(signed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(protect={_DATASET: 4}), "would need 4 signers, and with the authority there would be 3"),
        (Change(protect={_DATASET: 0}), "--signers"),
        (Change(protect={_DATASET: 1}), "changes nothing"),
        (Change(add=((Role.APPROVER, _AUTHORITY.public),)), "each role has its own"),
        (Change(signers={Role.APPROVER: 2}), "dsvault dataset protect"),
    ],
)
def test_a_protection_that_cannot_be_met_is_refused(change: Change, words: str) -> None:
    """Each is a user's mistake, told in one sentence."""
    with pytest.raises(InvalidInput, match=words) as caught:
        propose(_ONE, change)
    assert "\n" not in str(caught.value)


def test_approvers_may_not_become_too_few() -> None:
    """An approver goes only while a protected dataset has enough left, or with its protection in one version."""
    three = _next(_ONE, Change(protect={_DATASET: 3}))
    gone = ((Role.APPROVER, _BOB.key_id),)
    with pytest.raises(InvalidInput, match="would need 3 signers"):
        propose(three, Change(remove=gone))
    assert list(_next(three, Change(remove=gone, protect={_DATASET: 2})).roles[Role.APPROVER].keys) == [_CAROL.key_id]
    both = (*gone, (Role.APPROVER, _CAROL.key_id))
    assert _next(_ONE, Change(remove=both)).roles[Role.APPROVER].keys == {}


def test_the_authority_cannot_sign_a_root_document() -> None:
    """An unprotecting version signed by the authority and an approver, and not by an administrator, is no version."""
    two = _next(_ONE, Change(protect={_DATASET: 2}))
    proposal = propose(two, Change(protect={_DATASET: 1}))
    signed = add_signature(add_signature(proposal, _AUTHORITY), _BOB)
    with pytest.raises(IntegrityError):
        follow(two, signed, two.fingerprint)
