"""Signed statements, the root document, and heads that never go back."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vault.encoding import json_bytes
from vault.errors import IntegrityError
from vault.trust import (
    Frontier,
    Label,
    Role,
    RoleKeys,
    Root,
    Signed,
    Signer,
    compartment_body,
    head_statement,
    open_root,
    root_statement,
    trusted_compartment_head,
    trusted_vendor_head,
    vendor_body,
)
from vault.trust.root import encode_chain

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_SIGNERS = {role: Signer(bytes([number]) * 32) for number, role in enumerate(Role, 1)}
_ROLES = {role: RoleKeys({signer.key_id: signer.public}, 1) for role, signer in _SIGNERS.items()}
_ROOT_STATEMENT = root_statement("v", 1, _ROLES, [_SIGNERS[Role.ADMINISTRATOR]])


def _root() -> Root:
    return open_root(encode_chain([_ROOT_STATEMENT]), _ROOT_STATEMENT.digest)


def _step(
    role: Role, sequence: int, grants: dict[str, str], *, frozen: bool = False, subject: str = "acme", vault: str = "v"
) -> tuple[Signed, bytes]:
    body = vendor_body(grants, {})
    return (
        head_statement(
            _SIGNERS[role],
            vault=vault,
            kind="vendor",
            subject=subject,
            sequence=sequence,
            body=body,
            frozen=frozen,
            now=_NOW,
        ),
        body,
    )


def _sequence_of(*steps: tuple[Signed, bytes], frontier: Frontier | None = None) -> int:
    head, _ = trusted_vendor_head(_root(), "acme", steps, frontier or Frontier())
    return head.sequence


def test_a_signature_holds_for_its_label_and_payload_only() -> None:
    """Another label, another payload, or another signature over the same bytes does not verify."""
    root, signer = _root(), _SIGNERS[Role.AUTHORITY]
    signed = signer.sign(Label.GRANT, {"type": "grant"})
    assert root.verify(signed, Role.AUTHORITY) is Role.AUTHORITY
    for forged in (
        replace(signed, label=Label.CREDENTIAL),
        replace(signed, payload=json_bytes({"type": "other"})),
        replace(signed, signatures=()),
        replace(signed, signatures=((signer.key_id, b"\x00" * 64),)),
        replace(signed, signatures=((_SIGNERS[Role.PUBLISHER].key_id, signed.signatures[0][1]),)),
    ):
        with pytest.raises(IntegrityError):
            root.verify(forged, Role.AUTHORITY)
    for other in (Role.PUBLISHER, Role.RESPONDER, Role.LOG):
        with pytest.raises(IntegrityError):
            root.verify(signed, other)
    assert signer.key_id in repr(signer)
    assert bytes([2] * 32).hex() not in repr(signer)


def test_the_root_document_is_pinned_and_chained() -> None:
    """Another root, a changed one, a skipped version and one signed by strangers are refused."""
    stranger = Signer(b"\x77" * 32)
    administrator = _SIGNERS[Role.ADMINISTRATOR]
    second = root_statement("v", 2, _ROLES, [administrator])
    assert open_root(encode_chain([_ROOT_STATEMENT, second]), _ROOT_STATEMENT.digest).version == 2
    with pytest.raises(IntegrityError):
        open_root(encode_chain([second]), _ROOT_STATEMENT.digest)
    for bad in (
        root_statement("v", 3, _ROLES, [administrator]),
        root_statement("w", 2, _ROLES, [administrator]),
        root_statement(
            "v", 2, {**_ROLES, Role.ADMINISTRATOR: RoleKeys({stranger.key_id: stranger.public}, 1)}, [stranger]
        ),
    ):
        with pytest.raises(IntegrityError):
            open_root(encode_chain([_ROOT_STATEMENT, bad]), _ROOT_STATEMENT.digest)
    with pytest.raises(IntegrityError):
        open_root(b"[]", _ROOT_STATEMENT.digest)


def test_a_threshold_needs_distinct_keys() -> None:
    """Two of two administrators must sign; one that signs twice is one."""
    second = Signer(b"\x55" * 32)
    first = _SIGNERS[Role.ADMINISTRATOR]
    both = {first.key_id: first.public, second.key_id: second.public}
    roles = {**_ROLES, Role.ADMINISTRATOR: RoleKeys(both, 2)}
    good = root_statement("v", 1, roles, [first, second])
    assert open_root(encode_chain([good]), good.digest).roles[Role.ADMINISTRATOR].threshold == 2
    lone = root_statement("v", 1, roles, [first, first])
    with pytest.raises(IntegrityError):
        open_root(encode_chain([lone]), lone.digest)


def test_the_responder_only_takes_away() -> None:
    """A responder may freeze and remove; it may not add, change, thaw, or begin."""
    start = _step(Role.AUTHORITY, 1, {"g": "1", "h": "2"})
    assert _sequence_of(start, _step(Role.RESPONDER, 2, {"g": "1"})) == 2
    assert _sequence_of(start, _step(Role.RESPONDER, 2, {"g": "1"}, frozen=True)) == 2
    frozen = _step(Role.RESPONDER, 2, {}, frozen=True)
    for steps in (
        (_step(Role.RESPONDER, 1, {}),),
        (start, _step(Role.RESPONDER, 2, {"g": "1", "h": "2", "i": "3"})),
        (start, _step(Role.RESPONDER, 2, {"g": "9"})),
        (start, frozen, _step(Role.RESPONDER, 3, {})),
        (start, frozen, _step(Role.RESPONDER, 3, {"g": "1"}, frozen=True)),
        (start, _step(Role.PUBLISHER, 2, {})),
        (start, _step(Role.RESPONDER, 3, {})),
        (),
    ):
        with pytest.raises(IntegrityError):
            _sequence_of(*steps)
    assert _sequence_of(start, frozen, _step(Role.AUTHORITY, 3, {"g": "1"})) == 3


def test_a_head_behind_or_beside_the_frontier_is_refused() -> None:
    """A lower number is a rollback; the same number with another digest is a fork."""
    one, two = _step(Role.AUTHORITY, 1, {}), _step(Role.AUTHORITY, 2, {"g": "1"})
    seen = Frontier(2, two[0].digest)
    assert _sequence_of(two, frontier=seen) == 2
    with pytest.raises(IntegrityError, match="rolled back"):
        _sequence_of(one, frontier=seen)
    with pytest.raises(IntegrityError, match="forked"):
        _sequence_of(_step(Role.AUTHORITY, 2, {"g": "2"}), frontier=seen)


def test_a_head_of_another_place_is_refused() -> None:
    """Another subject's, vault's or kind's head, and a listing that was not signed, are refused."""
    for step in (
        _step(Role.AUTHORITY, 1, {}, subject="globex"),
        _step(Role.AUTHORITY, 1, {}, vault="w"),
        (_step(Role.AUTHORITY, 1, {})[0], vendor_body({"g": "1"}, {})),
    ):
        with pytest.raises(IntegrityError):
            _sequence_of(step)
    body = compartment_body("h", "d", {1: "x"}, {"g": (1, "k")})
    signed = head_statement(
        _SIGNERS[Role.PUBLISHER],
        vault="v", kind="compartment", subject="c", sequence=1, body=body, frozen=False, now=_NOW,
    )  # fmt: skip
    head, _ = trusted_compartment_head(_root(), "c", signed, body, Frontier())
    assert (head.newest, head.epochs) == (1, {"g": (1, "k")})
    with pytest.raises(IntegrityError):
        trusted_vendor_head(_root(), "c", [(signed, body)], Frontier())
    with pytest.raises(IntegrityError):
        trusted_compartment_head(_root(), "d", signed, body, Frontier())
