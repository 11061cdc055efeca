"""A vendor's KMS key is disabled: nothing of that vendor opens, and everybody else's upkeep goes on."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault import rewrap
from vault.encoding import duration
from vault.errors import Conflict, KeyUnavailable, PartlyDone
from vault.kms import KeyState
from vault.owner import Vault
from vault.workings.parts import wrapped_key

REMEDY = "a KMS key of 'acme' is disabled; 'dsvault kms enable acme'"


@pytest.fixture
def both(cast: Callable[..., Lab]) -> Lab:
    """acme and globex each with a grant."""
    return cast(_both, "granted")


def _both(opened: Vault) -> None:
    opened.grant("globex", "evals", ["answer"])


def _openable(lab: Lab, name: str) -> list[bool]:
    """Of each data key of a vendor's whether the KMS opens it now."""
    parts = lab.vault.parts
    vendor = next(state.id for state in lab.vault.vendors() if state.name == name)
    with parts.catalog.read() as transaction:
        wrapped = [wrapped_key(parts.vault, row) for row in transaction.keys_of_holder(vendor)]
    found = []
    for key in wrapped:
        try:
            parts.kms.unwrap(key.kms_key, key.wrapped, key.scope.context())
        except KeyUnavailable:
            found.append(False)
        else:
            found.append(True)
    return found


def test_in_the_midst_of_a_rewrap_both_keys_are_disabled(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With some data keys under the old KMS key and some under the next, disabling the vendor closes all of them."""
    real = rewrap._move
    calls: list[int] = []

    def move(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rewrap, "_BATCH", 2)
        patch.setattr(rewrap, "_move", move)
        with pytest.raises(KeyboardInterrupt):
            both.vault.rewrap("acme")
    assert all(_openable(both, "acme"))
    assert len(both.vault.disable_kms_key("acme")) == 2
    assert not any(_openable(both, "acme"))
    assert len(both.vault.enable_kms_key("acme")) == 2
    assert all(_openable(both, "acme"))


def test_keys_of_before_a_rewrap_are_disabled_too(both: Lab) -> None:
    """A copy of the catalog from before a rewrap opens under the old KMS key, so that one is disabled with the new."""
    (moved,) = both.vault.rewrap("acme")
    (listed,) = [each for each in both.vault.kms_keys() if each.holder == "acme"]
    assert listed.earlier == ((moved.old, KeyState.ENABLED),)
    assert set(both.vault.disable_kms_key("acme")) == {moved.old, moved.new}
    assert both.vault.parts.kms.state(moved.old) is KeyState.DISABLED
    with pytest.raises(Conflict, match=f"enable {moved.new} first"):
        both.vault.enable_kms_key("acme", moved.old)
    assert both.vault.enable_kms_key("acme") == (moved.new,)
    assert both.vault.parts.kms.state(moved.old) is KeyState.DISABLED


def test_the_others_are_rekeyed_and_rewrapped(both: Lab) -> None:
    """What is done for everyone is done for all but the disabled vendor, who is named with what helps."""
    both.vault.freeze("acme")
    both.vault.disable_kms_key("acme")
    for act in (both.vault.rekey, both.vault.rewrap):
        with pytest.raises(PartlyDone, match=REMEDY) as caught:
            act()
        assert {item.vendor for item in caught.value.done} == {"owner", "globex"}
        with pytest.raises(KeyUnavailable, match=REMEDY):
            act("acme")
    before = {each.holder: each.successor for each in both.vault.kms_keys()}
    assert before["acme"] is None, "no KMS key is made for what cannot be moved to it"
    both.vault.enable_kms_key("acme")
    assert {item.vendor for item in both.vault.rekey("acme")} == {"acme"}
    assert {item.vendor for item in both.vault.rewrap("acme")} == {"acme"}


def test_a_grant_to_it_names_it(both: Lab) -> None:
    """Publishing to a vendor whose KMS key is disabled and that is not frozen says whose key it is."""
    both.vault.disable_kms_key("acme")
    with pytest.raises(KeyUnavailable, match=REMEDY):
        both.vault.publish("evals", rows(10, start=100), key="id", append=True)


def test_check_goes_on_and_says_what_it_did_not_see(both: Lab) -> None:
    """Everybody else's chunks are read; the result is neither a fault nor a clean bill."""
    everything = both.vault.check()
    both.vault.freeze("acme")
    both.vault.disable_kms_key("acme")
    report = both.vault.check()
    assert (report.ok, report.faults) == (False, [])
    assert [REMEDY in reason for reason in report.not_checked] == [True]
    assert 0 < report.chunks < everything.chunks
    assert report.in_doubt > 0
    assert report.garbage == []


def test_gc_removes_the_others_garbage_and_nothing_that_may_be_in_use(both: Lab) -> None:
    """Superseded chunks of the owner and of other vendors go; every object of the disabled vendor's stays."""
    both.vault.freeze("acme")
    both.vault.rekey("acme")  # so that it has retired manifests too
    both.vault.disable_kms_key("acme")
    with pytest.raises(PartlyDone):
        both.vault.rekey()
    done = both.vault.gc(duration("0s", ""))
    assert done.objects > 0
    assert done.manifests > 0
    assert [REMEDY in reason for reason in done.left] == [True]
    both.vault.enable_kms_key("acme")
    assert both.vault.check().ok
    assert both.vault.thaw("acme")
    last = both.vault.gc(duration("0s", ""))
    assert last.objects > 0
    assert last.left == ()
    report = both.vault.check()
    assert (report.ok, report.garbage) == (True, [])


def test_a_key_that_is_gone_without_an_offboarding_is_a_fault(both: Lab) -> None:
    """Only what was stopped on purpose is passed over: a destroyed KMS key is a fault, and gc removes nothing."""
    from vault.errors import IntegrityError

    (key,) = [each.key for each in both.vault.kms_keys() if each.holder == "acme"]
    both.vault.parts.kms.destroy_key(key)
    both.vault.parts.keyring.drop(both.vault.parts.keyring.compartments)
    report = both.vault.check()
    assert report.faults
    with pytest.raises(IntegrityError, match="nothing was removed"):
        both.vault.gc(duration("0s", ""))
