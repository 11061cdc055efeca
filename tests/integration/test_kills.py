"""kill -9 at random moments: nothing is lost, and check says what gc may remove."""

from datetime import timedelta

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.killing import kill_once, offboarding, publishing, rekeying, rewrapping
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.wire import Token

pytestmark = pytest.mark.both_catalogs


def _token(lab: Lab) -> Token:
    return lab.vault.issue_credential("acme", bearer=True).profile.token


def _read(lab: Lab, token: Token) -> pa.Table:
    """What acme reads at a broker that has just been started."""
    parts = lab.broker_parts()
    return read(parts, access.authenticate(parts, token, "test"))


def _kill_rekeys(lab: Lab, kills: int) -> None:
    table = rows(100)
    expected = table.filter(pa.compute.equal(table["lang"], "en")).select(["id", "prompt", "lang"])
    token = _token(lab)
    for _ in range(kills):
        kill_once(rekeying, lab.folder, 0.25)
        opened = vault.open(lab.folder)
        assert opened.scan("evals").read_all().equals(table)
        assert _read(lab, token).equals(expected)
    report = opened.check()
    assert report.faults == []
    # What a killed job wrote counts as busy until gc's grace time is over, and as garbage from then on.
    left = report.busy + len(report.garbage)
    removed = opened.gc(timedelta(0))
    assert removed.objects >= left > 0
    after = opened.check()
    assert (after.faults, after.garbage, after.busy) == ([], [], 0)
    assert opened.scan("evals").read_all().equals(table)
    assert opened.audit_verify() > kills


def test_killed_rekeys_lose_nothing(granted: Lab) -> None:
    """Thirty rekeys killed at random moments leave the dataset equal for the owner and the vendor."""
    _kill_rekeys(granted, 30)


@pytest.mark.soak
def test_two_hundred_killed_rekeys_lose_nothing(granted: Lab) -> None:
    """Two hundred rekeys killed at random moments leave the dataset equal for the owner and the vendor."""
    _kill_rekeys(granted, 200)


def test_killed_publishes_leave_whole_versions(granted: Lab) -> None:
    """A publish killed at a random moment leaves the version before it, or all of its own."""
    token = _token(granted)
    for _ in range(10):
        kill_once(publishing, granted.folder, 0.3)
        opened = vault.open(granted.folder)
        for state in opened.show("evals").versions:
            assert opened.scan("evals", version=state.version).read_all().equals(rows(100))
        assert _read(granted, token).num_rows == 50
    opened.gc(timedelta(0))
    assert opened.check().faults == []
    assert opened.check().garbage == []


def test_killed_rewraps_lose_nothing(granted: Lab) -> None:
    """Rewraps that disable the old KMS keys, killed at random moments, leave every data key opening."""
    table, token = rows(100), _token(granted)
    for _ in range(15):
        kill_once(rewrapping, granted.folder, 0.25)
        opened = vault.open(granted.folder)
        assert opened.scan("evals").read_all().equals(table)
        assert _read(granted, token).num_rows == 50
    opened.rewrap(disable_old=True)
    assert vault.open(granted.folder).check().faults == []
    assert all(each.successor is None for each in opened.kms_keys())


def test_killed_offboardings_are_finished_by_the_next(granted: Lab) -> None:
    """Killed at a random moment, an offboarding has touched nobody else, and running it again ends it."""
    token = _token(granted)
    for turn in range(6):
        names = [f"extra{turn}-{number}" for number in range(4)]
        for name in names:
            granted.vault.add_vendor(name)
            granted.vault.grant(name, "evals", ["id"])
        kill_once(offboarding, granted.folder, 0.4)
        opened = vault.open(granted.folder)
        assert opened.scan("evals").read_all().num_rows == 100
        assert _read(granted, token).num_rows == 50
        opened.publish("evals", rows(100), key="id", shard_rows=30)
        for name in names:
            opened.offboard(name)
        assert opened.check().faults == []
    opened.gc(timedelta(0))
    after = opened.check()
    assert (after.faults, after.garbage) == ([], [])
