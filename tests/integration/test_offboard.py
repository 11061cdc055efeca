"""Offboarding a vendor leaves nothing that opens, and touches nobody else."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.log import acts
from tests.support.reading import read
from tests.support.tables import rows
from vault import offboard
from vault.encoding import duration
from vault.errors import Conflict, KeyUnavailable, KmsError, NotFound, PartlyDone, Refused, Unauthenticated
from vault.kms import KeyState
from vault.owner import Vault

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def both(cast: Callable[..., Lab]) -> Lab:
    """acme and globex each with a grant."""
    return cast(_both, "granted")


def _both(opened: Vault) -> None:
    opened.grant("globex", "evals", ["answer"])


def _objects(lab: Lab) -> set[str]:
    return {info.name for info in lab.vault.parts.store.list("objects")}


def test_nothing_of_the_vendor_opens_any_more(both: Lab) -> None:
    """Access, KMS key, wrapped keys and then objects are gone; the owner and other vendors read as before."""
    parts = both.broker_parts()
    caller = both.caller(parts, "acme")
    token = both.vault.issue_credential("acme", bearer=True).profile.token
    key = next(each.key for each in both.vault.kms_keys() if each.holder == "acme")
    with both.vault.parts.catalog.read() as transaction:
        kept = transaction.keys_of_holder(caller.vendor)
    done = both.vault.offboard("acme")
    assert (done.grants, done.changed) == (1, True)
    assert done.credentials == 2
    assert done.keys == len(kept)
    assert done.destruction == both.vault.parts.kms.destruction
    fresh = both.broker_parts()
    with pytest.raises(Refused):
        read(fresh, caller)
    from vault import access

    with pytest.raises(Unauthenticated):
        access.authenticate(fresh, token, "test")
    assert both.vault.parts.kms.state(key) is KeyState.DESTROYED
    from vault.workings.parts import wrapped_key

    # A catalog of before, put back, is worth nothing: what it holds opens under that KMS key only.
    for row in kept:
        with pytest.raises(KeyUnavailable):
            both.vault.parts.keyring.open(wrapped_key(both.vault.parts.vault, row))
    assert both.vault.check().ok
    before = _objects(both)
    assert both.vault.gc(duration("0s", "")).objects > 0
    assert len(_objects(both)) < len(before)
    assert both.vault.check().ok
    assert both.vault.scan("evals").read_all().num_rows == 100
    globex = both.caller(fresh, "globex")
    assert read(fresh, globex).num_rows == 100
    both.vault.publish("evals", rows(10, start=100), key="id", append=True)
    assert read(fresh, globex).num_rows == 110


def test_the_log_keeps_its_evidence(both: Lab) -> None:
    """What the vendor did and was granted is in the log afterwards as before."""
    parts = both.broker_parts()
    read(parts, both.caller(parts, "acme"))
    before = acts(both.vault)
    both.vault.offboard("acme")
    after = acts(both.vault)
    assert after[: len(before)] == before
    assert [entry.kind.value for entry in after[len(before) :]] == ["vendor offboarding begun", "vendor offboarded"]
    both.vault.audit_verify()
    assert [state.state for state in both.vault.grants("acme")] == ["revoked"]


def test_an_offboarded_vendor_stays_so(both: Lab) -> None:
    """Nothing can be granted or issued to it, thawing it is refused, its name stays taken, and a second time is harmless."""
    both.vault.offboard("acme")
    assert both.vault.offboard("acme").changed is False
    assert not both.vault.freeze("acme")
    acts: list[Any] = [
        lambda: both.vault.grant("acme", "evals", ["id"]),
        lambda: both.vault.issue_credential("acme"),
        lambda: both.vault.thaw("acme"),
        lambda: both.vault.add_vendor("acme"),
        lambda: both.vault.privileges("acme"),
    ]
    for act in acts:
        with pytest.raises(Conflict, match="offboarded"):
            act()
    with pytest.raises(NotFound):
        both.vault.rewrap("acme")
    assert both.vault.rekey("acme") == []
    assert [each.holder for each in both.vault.kms_keys()] == ["owner", "globex"]
    assert {state.name: state.ended for state in both.vault.vendors()} == {"acme": True, "globex": False}
    for name in ("owner", "nobody"):
        with pytest.raises(NotFound):
            both.vault.offboard(name)


@pytest.mark.parametrize("where", ["destroy", "forget"])
def test_cut_short_it_is_finished_by_running_it_again(both: Lab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Stopped before or after the KMS key's end, access has ended, and the same command finishes the rest."""
    parts = both.broker_parts()
    caller = both.caller(parts, "acme")

    def cut(*_arguments: object) -> int:
        raise KmsError("killed")

    with monkeypatch.context() as patch:
        if where == "destroy":
            patch.setattr(type(both.vault.parts.kms), "destroy_key", cut)
        else:
            patch.setattr(offboard, "_forget", cut)
        with pytest.raises(KmsError):
            both.vault.offboard("acme")
    with pytest.raises(Refused):
        read(both.broker_parts(), caller)
    done = both.vault.offboard("acme")
    assert done.changed
    assert done.keys > 0
    assert both.vault.check().ok
    both.vault.gc(duration("0s", ""))
    assert both.vault.check().ok


def test_a_key_that_is_made_meanwhile_goes_too(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrap that begins just before the mark leaves no key of its own behind, and after the mark none begins."""
    real = offboard._mark
    made: list[str] = []

    def mark(*arguments: Any) -> Any:
        made.append(both.vault.rewrap("globex", prepare=True)[0].new)
        marked = real(*arguments)
        with pytest.raises(Conflict, match="'dsvault vendor offboard globex' ends it"):
            both.vault.rewrap("globex", prepare=True)
        return marked

    with monkeypatch.context() as patch:
        patch.setattr(offboard, "_mark", mark)
        both.vault.offboard("globex")
    assert both.vault.parts.kms.state(made[0]) is KeyState.DESTROYED


def test_begun_and_not_ended_everyone_is_told_and_the_others_go_on(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the KMS key's end and the last transaction nothing new is given to the vendor, and every act on the whole
    vault does the others' part and says how to end it."""
    vault = both.vault

    def cut(*_arguments: object) -> int:
        raise KmsError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(offboard, "_forget", cut)
        with pytest.raises(KmsError):
            vault.offboard("acme")
    remedy = "'dsvault vendor offboard acme' ends it"
    with pytest.raises(Conflict, match=remedy):
        vault.issue_credential("acme")
    with pytest.raises(Conflict, match=remedy):
        vault.thaw("acme")
    with pytest.raises(Conflict, match=remedy):
        vault.grant("acme", "evals", ["id"])
    with pytest.raises(Conflict, match=remedy):
        vault.enable_kms_key("acme")
    with pytest.raises(Conflict, match=remedy):
        vault.rewrap("acme", prepare=True)
    for act in (vault.rekey, vault.rewrap):
        with pytest.raises(PartlyDone, match=remedy) as caught:
            act()
        assert {item.vendor for item in caught.value.done} == {"owner", "globex"}
        assert len(caught.value.failures) == 1
    assert [(state.name, state.ending) for state in vault.vendors()] == [("acme", True), ("globex", False)]
    report = vault.check()
    assert (report.faults, report.ok) == ([], False)
    assert [remedy in reason for reason in report.not_checked] == [True]
    vault.publish("evals", rows(10, start=100), key="id", append=True)
    kept = vault.gc(duration("0s", ""))
    assert [remedy in reason for reason in kept.left] == [True]
    assert vault.offboard("acme").changed
    assert vault.gc(duration("0s", "")).left == ()
    assert vault.check().ok
    assert vault.scan("evals").read_all().num_rows == 110


def test_a_publish_that_an_offboarding_overtakes_says_so(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that has a vendor's compartment before it when the vendor goes is told to try again, not of tampering."""
    from vault.workings import fanout

    real = fanout.VendorCopy.take
    done: list[bool] = []

    def take(self: Any, *arguments: Any) -> None:
        if not done:
            done.append(True)
            both.vault.offboard("acme")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fanout.VendorCopy, "take", take)
        with pytest.raises(Conflict, match="'acme' was offboarded in the meantime"):
            both.vault.publish("evals", rows(10, start=100), key="id", append=True)
    assert both.vault.check().ok
    assert both.vault.scan("evals").read_all().num_rows == 100


def test_the_key_that_was_being_moved_to_goes_too(both: Lab) -> None:
    """A vendor that is offboarded in the midst of a rewrap leaves neither KMS key."""
    (ready,) = both.vault.rewrap("acme", prepare=True)
    both.vault.offboard("acme")
    assert {both.vault.parts.kms.state(key) for key in (ready.old, ready.new)} == {KeyState.DESTROYED}


def test_the_keys_of_before_a_rewrap_go_too(both: Lab) -> None:
    """A copy of the catalog from before a rewrap is worth nothing either: every KMS key that the vendor had is destroyed."""
    old = [both.vault.rewrap("acme")[0].old for _ in range(2)]
    assert {both.vault.parts.kms.state(key) for key in old} == {KeyState.ENABLED}
    both.vault.offboard("acme")
    assert {both.vault.parts.kms.state(key) for key in old} == {KeyState.DESTROYED}


def test_a_vendor_that_is_thawed_meanwhile_is_offboarded_all_the_same(
    both: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thaw and a credential between the KMS key's end and the last transaction do not survive it."""
    real = offboard._forget
    done: list[bool] = []

    def forget(*arguments: Any) -> int:
        if not done:
            done.append(True)
            both.vault.issue_credential("acme")
        return real(*arguments)

    with monkeypatch.context() as patch:
        # A command that looked at the vendor before its offboarding was begun.
        patch.setattr("vault.workings.steps.refuse_gone", lambda _vendor: None)
        patch.setattr(offboard, "_forget", forget)
        both.vault.offboard("acme")
    assert both.vault.check().ok
    assert [state.credentials for state in both.vault.vendors() if state.name == "acme"] == [0]
