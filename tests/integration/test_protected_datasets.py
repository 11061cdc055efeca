"""Protected datasets in a vault in use: grants that wait for approval, and what becomes of those that lean on it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.approving import Approvers, protect
from tests.support.log import written_beside
from tests.support.reading import read
from tests.support.tables import rows
from vault import access, approvals
from vault.catalog import Transaction
from vault.errors import Conflict, Frozen, InvalidInput, NotFound, NotGranted, Refused
from vault.objects import ObjectStore
from vault.roots import Applied
from vault.trust import Role, Signed
from vault.trust.proposals import Change, add_signature
from vault.wire import Token
from vault.workings.journal import Journal
from vault.workings.keyfolder import make_key
from vault.workings.roots import Roots


def _token(lab: Lab) -> Token:
    return lab.vault.issue_credential("acme", bearer=True).profile.token


def _served(lab: Lab, token: Token, **request: object) -> int:
    parts = lab.broker_parts()
    return read(parts, access.authenticate(parts, token, "test"), **request).num_rows


def _states(lab: Lab) -> list[tuple[str, int]]:
    return [(state.state, state.missing) for state in lab.vault.grants()]


def test_a_grant_waits_for_its_approval(published: Lab) -> None:
    """It is pending and gives nothing, also by resuming it; with the approver's signature it is live, and logged."""
    approvers = protect(published, "evals")
    granted = published.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    assert _states(published) == [("pending", 1)]
    token = _token(published)
    with pytest.raises(NotGranted):
        _served(published, token)
    with pytest.raises(Refused, match="waits for 1 more signature"):
        published.vault.resume_grant(granted.id)
    # No column of it is in the vendor's compartment yet.
    with published.vault.parts.catalog.read() as transaction:
        assert [row.holder for row in transaction.compartments()] == [published.vault.parts.owner]
    found = published.vault.approve(approvers.sign(published.vault.approval(granted.id).signed))
    assert (found.missing, len(found.signers)) == (0, 2)
    assert _states(published) == [("live", 0)]
    assert _served(published, token) == 50
    entries = {entry.kind.value: entry.fields for _, entry in published.vault.audit_entries()}
    waits = entries["grant waits for approval"]
    assert (waits["grant"], waits["missing"], waits["columns"]) == (granted.id, 1, granted.column_names)
    assert "statement" not in waits, "it would make a grant known that a thief listed"
    assert entries["grant approved"]["approvers"] == [approvers.ids[0]]
    assert entries["grant made"]["signers"] == list(found.signers)
    assert list(entries["root document changed"]["protected"].values()) == [2]
    assert published.vault.unrecorded() == []
    assert published.vault.check().faults == []
    assert published.vault.approve(published.vault.approval(granted.id).signed).missing == 0


def test_freezing_and_revoking_need_no_approver(published: Lab) -> None:
    """What takes away is one person's act, and a grant that was revoked is not brought back by its approval."""
    approvers = protect(published, "evals")
    granted = published.vault.grant("acme", "evals", ["id"])
    signed = approvers.sign(published.vault.approval(granted.id).signed)
    published.vault.freeze("acme")
    with pytest.raises(Frozen):
        published.vault.approve(signed)
    published.vault.thaw("acme")
    assert _states(published) == [("pending", 0)]
    published.vault.resume_grant(granted.id)
    token = _token(published)
    assert _served(published, token) == 100
    published.vault.revoke(granted.id)
    with pytest.raises(NotGranted):
        _served(published, token)
    with pytest.raises(Conflict, match="revoked"):
        published.vault.approve(signed)


def test_a_grant_that_waits_can_be_withdrawn(published: Lab) -> None:
    """Once revoked it is not finished by an approval that comes back late, and the log says who ended it."""
    approvers = protect(published, "evals")
    granted = published.vault.grant("acme", "evals", ["id"])
    signed = approvers.sign(published.vault.approval(granted.id).signed)
    published.vault.revoke(granted.id)
    published.vault.revoke(granted.id)
    assert _states(published) == [("revoked", 0)]
    with pytest.raises(Conflict, match="revoked"):
        published.vault.approve(signed)
    with pytest.raises(NotGranted):
        _served(published, _token(published))
    kinds = [entry.kind.value for _, entry in published.vault.audit_entries()]
    assert kinds.count("grant revoked") == 1


def test_three_signers_one_after_the_other(published: Lab) -> None:
    """Each approver signs a copy of the file of its own, and they may come back in any order."""
    approvers = protect(published, "evals", signers=3, approvers=3)
    granted = published.vault.grant("acme", "evals", ["id"])
    copies = [approvers.sign(published.vault.approval(granted.id).signed, by=number) for number in (2, 0)]
    assert published.vault.approve(copies[0]).missing == 1
    assert _states(published) == [("pending", 1)]
    with pytest.raises(InvalidInput, match="no signature of an approver"):
        published.vault.approve(copies[0])
    assert published.vault.approve(copies[1]).missing == 0
    assert _states(published) == [("live", 0)]


def test_fields_masks_and_single_versions_are_approved_as_they_are(lab: Lab, tmp_path: Path) -> None:
    """Whatever a grant may say goes to the approver and back, and is shown field by field."""
    from vault_cli.approval import _lines

    table = pa.table({"id": [1, 2], "meta": [{"source": "a", "notes": "b"}] * 2, "mail": ["x@example.org"] * 2})
    lab.vault.publish("evals", table, key="id")
    approvers = protect(lab, "evals")
    granted = lab.vault.grant(
        "acme",
        "evals",
        ["id", "meta.source", "mail"],
        where="meta.notes = 'b'",
        masks={"mail": "domain"},
        version=1,
        limits={"rows": 10},
        expires=timedelta(days=1),
    )
    path = tmp_path / "grant.json"
    path.write_bytes(lab.vault.approval(granted.id).signed.encode())
    signed, said = approvals.read(path)
    approvals.check_names(lab.vault.parts, said)
    lines = _lines(signed.document())
    assert {line.split(":")[0] for line in lines} == set(said.payload())
    assert any('fields [["source"]]' in line and "name meta" in line for line in lines)
    path.write_bytes(approvers.sign(signed).encode())
    assert lab.vault.approve(path).missing == 0
    assert _served(lab, _token(lab)) == 2


def test_new_versions_go_to_approved_grants_only(published: Lab) -> None:
    """Publishing fans out for the grant that counts; gc and the broker's privileges go by it as well."""
    approvers = protect(published, "evals")
    pending = published.vault.grant("globex", "evals", ["id"])
    approvers.approve(published, published.vault.grant("acme", "evals", ["id", "prompt"]).id)
    done = published.vault.publish("evals", rows(60), key="id", shard_rows=30)
    assert list(done.vendors) == ["acme"]
    assert _served(published, _token(published)) == 60
    assert len(published.vault.privileges("globex").scopes) == 1
    assert len(published.vault.privileges("acme").scopes) == 4
    approvers.approve(published, pending.id)
    assert published.vault.gc(timedelta(0)).objects >= 0
    assert published.vault.check().faults == []


# Protecting a dataset that has grants


def test_protecting_a_dataset_with_live_grants_names_them_and_refuses(granted: Lab) -> None:
    """Nothing is changed until the owner says what becomes of them."""
    approvers = Approvers.added(granted)
    (state,) = granted.vault.grants()
    version = granted.vault.parts.root.refresh().version
    with pytest.raises(Conflict, match=f"lack signatures.*{state.grant.id} of 'acme' on 'evals'.*--end-grants"):
        granted.vault.protect("evals", 2)
    assert granted.vault.parts.root.refresh().version == version
    assert _served(granted, _token(granted)) == 50
    # They are approved first, and then the dataset is protected without ending anything.
    assert approvers.approve(granted, state.grant.id).missing == 0
    applied = granted.vault.protect("evals", 2).applied
    assert applied is not None
    assert applied.ended == ()
    assert _served(granted, _token(granted)) == 50


def test_ended_grants_stop_at_once_under_a_running_stream(granted: Lab) -> None:
    """With --end-grants what lacks signatures ends: for new reads, for running brokers and for running streams."""
    from vault.policy import Request

    Approvers.added(granted)
    token, (state,) = _token(granted), granted.vault.grants()
    parts = granted.broker_parts()
    caller = access.authenticate(parts, token, "test")
    batches = iter(access.open_delivery(parts, caller, Request("evals")).batches)
    next(batches)
    applied = granted.vault.protect("evals", 2, end_grants=True).applied
    assert applied is not None
    assert applied.ended == (state.grant.id,)
    parts.root._read_at = None
    parts.heads._vendors.clear()
    with pytest.raises(NotGranted):
        list(batches)
    with pytest.raises(NotGranted):
        read(parts, caller)
    assert _states(granted) == [("revoked", 0)]
    assert granted.vault.check().faults == []
    assert granted.vault.scan("evals").read_all().num_rows == 100
    (*_, changed) = (entry for _, entry in granted.vault.audit_entries() if entry.kind.value == "root document changed")
    assert changed.fields["ended_grants"] == [state.grant.id]


def test_an_expired_grant_stands_in_nobodys_way(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gives nothing any more is taken out of the head without being asked about."""
    Approvers.added(published)
    granted = published.vault.grant("acme", "evals", ["id"], expires=timedelta(seconds=1))
    clock = published.vault.parts.clock
    object.__setattr__(published.vault.parts, "clock", lambda: clock() + timedelta(minutes=1))
    applied = published.vault.protect("evals", 2).applied
    assert applied is not None
    assert applied.ended == (granted.id,)


def test_unprotecting_brings_nothing_back(granted: Lab) -> None:
    """A grant that was ended stays ended, one that waits goes on waiting until somebody resumes it."""
    Approvers.added(granted)
    token = _token(granted)
    granted.vault.protect("evals", 2, end_grants=True)
    waiting = granted.vault.grant("acme", "evals", ["id"])
    granted.vault.protect("evals", 1)
    assert _states(granted) == [("revoked", 0), ("pending", 0)]
    with pytest.raises(NotGranted):
        _served(granted, token)
    granted.vault.resume_grant(waiting.id)
    assert _served(granted, token) == 100
    assert granted.vault.protect("evals", 1).applied is None


def test_protecting_needs_approvers_and_a_dataset(published: Lab) -> None:
    """More signers than there are, none at all, and no dataset: one sentence each, and nothing is changed."""
    with pytest.raises(InvalidInput, match="would need 2 signers, and with the authority there would be 1"):
        published.vault.protect("evals", 2)
    with pytest.raises(InvalidInput, match="--signers"):
        published.vault.protect("evals", 0)
    with pytest.raises(NotFound):
        published.vault.protect("nothing", 2)
    assert published.vault.parts.root.refresh().version == 1


def test_a_dataset_of_the_same_name_is_another(published: Lab) -> None:
    """Protection goes with the id: one that is published anew under the name is protected only when somebody says so."""
    approvers = protect(published, "evals")
    approvers.approve(published, published.vault.grant("acme", "evals", ["id"]).id)
    before = published.vault.show("evals")
    assert (before.signers, published.vault.datasets()[0].signers) == (2, 2)
    published.vault.delete("evals")
    published.vault.publish("evals", rows(30), key="id")
    after = published.vault.show("evals")
    assert (after.id == before.id, after.signers) == (False, 1)
    with pytest.raises(NotGranted):
        _served(published, _token(published))
    assert published.vault.parts.root.refresh().protected == {before.id: 2}


def test_two_administrators_protect_together(published: Lab, tmp_path: Path) -> None:
    """Where others must sign, protecting gives a proposal, and `apply` asks for the live grants again."""
    approvers = Approvers.added(published)
    public = make_key(Role.ADMINISTRATOR, tmp_path / "bob.json", None)
    from vault.workings.keyfolder import open_signer

    bob = open_signer(tmp_path / "bob.json", Role.ADMINISTRATOR, None)
    change = Change(add=((Role.ADMINISTRATOR, public),), signers={Role.ADMINISTRATOR: 2})
    published.vault.apply_root(published.vault.propose_root(change))
    found = published.vault.protect("evals", 2)
    assert (found.applied, len(found.signed_by), found.needed) == (None, 1, 2)
    granted = published.vault.grant("acme", "evals", ["id"])
    assert found.proposal is not None
    signed = add_signature(found.proposal, bob)
    with pytest.raises(Conflict, match="--end-grants"):
        published.vault.apply_root(signed)
    approvers.approve(published, granted.id)
    assert published.vault.apply_root(signed).ended == ()


# Changing keys


@pytest.mark.parametrize("role", [Role.AUTHORITY, Role.PUBLISHER, Role.RESPONDER])
def test_approvals_survive_a_rotation(published: Lab, role: Role) -> None:
    """The payload is what it was, so the approver's signature stays beside the authority's new one."""
    approvers = protect(published, "evals")
    approvers.approve(published, published.vault.grant("acme", "evals", ["id"]).id)
    waiting = published.vault.grant("acme", "evals", ["prompt"])
    before = approvers.sign(published.vault.approval(waiting.id).signed)
    token = _token(published)
    published.vault.rotate_key(role)
    assert _served(published, token) == 100
    assert published.vault.check().faults == []
    # A file that was signed before the rotation carries the old authority's signature, which is not what is wanted of it.
    assert published.vault.approve(before).missing == 0
    assert _states(published) == [("live", 0), ("live", 0)]


def _without(lab: Lab, approvers: Approvers, number: int, **options: bool) -> Applied:
    change = Change(remove=((Role.APPROVER, approvers.ids[number]),))
    return lab.vault.apply_root(lab.vault.propose_root(change), **options)


def test_removing_an_approver_ends_what_leans_on_it(published: Lab) -> None:
    """Grants that the others approved too hold on; the rest is named first, and ended or approved anew."""
    approvers = protect(published, "evals", approvers=2)
    first = published.vault.grant("acme", "evals", ["id"])
    approvers.approve(published, first.id, by=0)
    second = published.vault.grant("globex", "evals", ["id"])
    approvers.approve(published, second.id, by=1)
    with pytest.raises(Conflict, match=first.id) as caught:
        _without(published, approvers, 0)
    assert second.id not in str(caught.value)
    approvers.approve(published, first.id, by=1)
    assert _without(published, approvers, 0).ended == ()
    assert _states(published) == [("live", 0), ("live", 0)]
    published.vault.protect("evals", 1)
    assert _without(published, approvers, 1).ended == ()
    assert published.vault.check().faults == []


def test_removing_an_approver_with_end_grants(published: Lab) -> None:
    """What leaned on the removed key alone is out of the head in the same transaction."""
    approvers = protect(published, "evals", approvers=2)
    token = _token(published)
    first = published.vault.grant("acme", "evals", ["id"])
    approvers.approve(published, first.id, by=0)
    assert _without(published, approvers, 0, end_grants=True).ended == (first.id,)
    with pytest.raises(NotGranted):
        _served(published, token)
    assert published.vault.check().faults == []


def test_an_approvers_key_is_not_rotated_here(published: Lab) -> None:
    """Its private half is somebody else's: the owner's machine makes none."""
    protect(published, "evals")
    with pytest.raises(InvalidInput, match="made where the approver is"):
        published.vault.rotate_key(Role.APPROVER)
    assert list((published.folder / "owner" / "keys").glob("approver*")) == []


# Killed


class _Killed(BaseException):
    """Stands for kill -9: nothing in the program handles it."""


def _once(owner: type, name: str, when: Callable[..., bool], *, after: bool = False) -> Callable[..., None]:
    def arrange(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def killed(*words: object, **options: object) -> object:
            if written_beside() or not when(*words):
                return original(*words, **options)
            if after:
                original(*words, **options)
            raise _Killed

        patch.setattr(owner, name, killed)

    return arrange


_KILLS = {
    "before the approval is stored": _once(Transaction, "set_grant_statements", lambda *_: True),
    "in the transaction that stores it": _once(Transaction, "set_grant_statements", lambda *_: True, after=True),
    "before the first object": _once(ObjectStore, "put", lambda _, name, __: name.startswith("objects/")),
    "in the transaction that settles it": _once(Transaction, "settle_grant", lambda *_: True, after=True),
    "before the head is in the store": _once(ObjectStore, "put", lambda _, name, __: name.startswith("heads/")),
    "before the checkpoint": _once(Journal, "checkpoint", lambda *_: True),
}


@pytest.mark.parametrize("step", _KILLS)
def test_a_killed_approval_is_taken_up(published: Lab, step: str) -> None:
    """Killed at any step the grant gives all or nothing, and the same file, given again, ends it."""
    approvers = protect(published, "evals")
    granted = published.vault.grant("acme", "evals", ["id"])
    token, signed = _token(published), approvers.sign(published.vault.approval(granted.id).signed)
    with pytest.MonkeyPatch.context() as patch:
        _KILLS[step](patch)
        with pytest.raises(_Killed):
            published.vault.approve(signed)
    published.vault = vault.open(published.folder)
    live = _states(published) == [("live", 0)]
    assert live is (step in {"before the head is in the store", "before the checkpoint"})
    if not live:
        with pytest.raises(NotGranted):
            _served(published, token)
    assert published.vault.approve(signed).missing == 0
    assert _states(published) == [("live", 0)]
    assert _served(published, token) == 100
    published.vault.gc(timedelta(0))
    assert published.vault.check().faults == []
    assert published.vault.unrecorded() == []


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Transaction, "add_head", False),
        (Transaction, "add_root", True),
        (Journal, "record_change", True),
        (ObjectStore, "put", False),
        (ObjectStore, "put", True),
    ],
)
def test_a_killed_protection_is_whole_or_nothing(granted: Lab, owner: type, name: str, after: bool) -> None:
    """The new document and the ended grants are one transaction: no reader sees the one without the other."""
    Approvers.added(granted)
    token = _token(granted)
    with pytest.MonkeyPatch.context() as patch:
        _once(owner, name, lambda *_: True, after=after)(patch)
        with pytest.raises(_Killed):
            granted.vault.protect("evals", 2, end_grants=True)
    granted.vault = vault.open(granted.folder)
    if granted.vault.parts.root.refresh().protected:
        assert _states(granted) == [("revoked", 0)]
        with pytest.raises(NotGranted):
            _served(granted, token)
    else:
        assert _served(granted, token) == 50
        assert granted.vault.protect("evals", 2, end_grants=True).applied is not None
    assert granted.vault.show("evals").signers == 2
    assert granted.vault.check().faults == []


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Transaction, "set_grant_statements", False),
        (Transaction, "set_grant_statements", True),
        (Transaction, "add_root", True),
        (ObjectStore, "put", False),
        (Roots, "save", False),
    ],
)
def test_a_killed_rotation_keeps_approvals(published: Lab, owner: type, name: str, after: bool) -> None:
    """At every step the approved grant is served, under the old key or the new one, and the next opening ends it."""
    approvers = protect(published, "evals")
    approvers.approve(published, published.vault.grant("acme", "evals", ["id"]).id)
    token = _token(published)
    with pytest.MonkeyPatch.context() as patch:
        _once(owner, name, lambda *_: True, after=after)(patch)
        with pytest.raises(_Killed):
            published.vault.rotate_key(Role.AUTHORITY)
    assert _served(published, token) == 100
    published.vault = vault.open(published.folder)
    published.vault.rotate_key(Role.AUTHORITY)
    assert _served(published, token) == 100
    assert _states(published) == [("live", 0)]
    assert published.vault.check().faults == []


def test_a_grant_that_is_being_made_while_the_dataset_is_protected(
    published: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was signed when one signature was enough, and waits for another when it would take effect."""
    import vault.grants as module

    Approvers.added(published)
    other = vault.open(published.folder)
    original = module.fill_compartment

    def slowly(*words: object) -> None:
        other.protect("evals", 2)
        original(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fill_compartment", slowly)
    with pytest.raises(Refused, match="waits for 1 more signature"):
        published.vault.grant("acme", "evals", ["id"])
    assert _states(published) == [("pending", 1)]
    with pytest.raises(NotGranted):
        _served(published, _token(published))


def test_a_signed_statement_is_all_that_a_file_is_good_for(published: Lab) -> None:
    """A grant of another vault, an unknown one, and one whose payload was changed after it was made are refused."""
    approvers = protect(published, "evals")
    granted = published.vault.grant("acme", "evals", ["id"])
    signed = published.vault.approval(granted.id).signed
    from dataclasses import replace

    from vault.encoding import json_bytes

    for changes, error, words in (
        ({"id": "f" * 32}, NotFound, "no grant"),
        ({"vault": "f" * 32}, NotFound, "no grant"),
        ({"purpose": "another"}, InvalidInput, "not the grant that is stored here"),
    ):
        payload = json_bytes(signed.document() | changes)
        offered = approvers.sign(Signed(signed.label, payload, signed.signatures))
        with pytest.raises(error, match=words):
            published.vault.approve(offered)
    assert _states(published) == [("pending", 1)]
    assert published.vault.approve(approvers.sign(replace(signed, signatures=()))).missing == 0
