"""Labels by somebody to whom a vendor handed its access on: signed by the delegate's own key, within what it was left."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import vault
from tests.conftest import Lab
from tests.support.submitting import Desk, labels
from vault import access
from vault.encoding import new_id
from vault.errors import IntegrityError, InvalidInput, NotGranted
from vault.wire import Profile


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _delegate(desk: Desk, folder: Path, **options: object) -> Desk:
    """Ann's desk, with a part of acme's access."""
    own, hers = folder / f"{new_id()}.json", folder / f"{new_id()}.json"
    vault.owner.IssuedProfile(desk.profile, "").save(own)
    vault.client.delegate(own, "ann", hers, expires=timedelta(hours=1), **options)  # type: ignore[arg-type]
    made = Desk(desk.lab)
    made.profile = Profile.parse(hers.read_bytes(), "hers")
    return made


def test_a_delegate_sends_under_its_own_key(desk: Desk, tmp_path: Path) -> None:
    """The owner sees through whose hands it came, and takes it over."""
    ann = _delegate(desk, tmp_path)
    identity = ann.submit(labels(0))
    detail = desk.lab.vault.submission(identity)
    assert (detail.delegates, detail.problem) == (("ann",), None)
    assert desk.lab.vault.accept_submission(identity).rows == 1


def test_rows_that_a_delegation_keeps_back_cannot_be_labelled(desk: Desk, tmp_path: Path) -> None:
    """A delegate was shown what its link leaves."""
    ann = _delegate(desk, tmp_path, where="id < 10")
    with pytest.raises(InvalidInput, match="^row 2 of the submission names a row that the grant did not show$"):
        desk.lab.vault.accept_submission(ann.submit(labels(0, 50)))
    assert desk.lab.vault.accept_submission(ann.submit(labels(0))).rows == 1


def test_without_the_key_column_a_delegate_names_no_rows(desk: Desk, tmp_path: Path) -> None:
    """What is not handed on is not shown."""
    ann = _delegate(desk, tmp_path, columns=["prompt", "lang"])
    with pytest.raises(InvalidInput, match="identifies rows"):
        ann.submit(labels(0))


def _sealed_with(desk: Desk, links: tuple[str, ...]) -> None:
    """From here on the particulars have other links than the requests."""
    shown = desk.profile

    def caller() -> access.Caller:
        sealed, desk.profile = desk.profile, shown
        found = Desk.caller(desk)
        desk.profile = sealed
        return found

    desk.profile = replace(shown, delegations=links)
    desk.caller = caller  # type: ignore[method-assign]


def test_a_delegate_cannot_leave_its_links_out(desk: Desk, tmp_path: Path) -> None:
    """Sealed without the links that narrow it, a submission is not signed by the credential's key."""
    ann = _delegate(desk, tmp_path, where="id < 10")
    _sealed_with(ann, ())
    with pytest.raises(IntegrityError, match="not signed by the credential's key"):
        desk.lab.vault.accept_submission(ann.submit(labels(0)))


def test_anothers_links_carry_nobody_elses_signature(desk: Desk, tmp_path: Path) -> None:
    """Links that lead to another key than the one that signed are refused, though each of them holds."""
    ann, ben = _delegate(desk, tmp_path), _delegate(desk, tmp_path, where="id < 10")
    _sealed_with(ben, ann.profile.delegations)
    with pytest.raises(IntegrityError, match="not signed by the credential's key"):
        desk.lab.vault.accept_submission(ben.submit(labels(0)))


def test_the_vendors_own_chain_does_not_carry_a_delegates_signature(desk: Desk, tmp_path: Path) -> None:
    """Signed by ann's key and sent as acme's own, it is refused at once."""
    ann = _delegate(desk, tmp_path)
    ann.submit(labels(0))
    with pytest.raises(InvalidInput, match="not signed by the key that proves the request"):
        desk.put(ann.bodies[-1])


def test_an_ended_delegation_sends_nothing(desk: Desk, tmp_path: Path) -> None:
    """What it sent before stays; nothing comes after."""
    ann = _delegate(desk, tmp_path)
    identity = ann.submit(labels(0))
    link = ann.caller().links[0].id
    desk.lab.vault.end_delegation("acme", link)
    ann.parts = desk.lab.broker_parts()
    with pytest.raises((NotGranted, vault.errors.Unauthenticated)):
        ann.submit(labels(2))
    assert desk.lab.vault.accept_submission(identity).rows == 1
