"""kill -9 at each step of an acceptance: it is accepted once or not at all, and the next try ends it."""

import signal
from datetime import timedelta

import pytest

import vault
from tests.conftest import Lab
from tests.support.forked import outcome
from tests.support.killing import accept
from tests.support.log import acts
from tests.support.submitting import Desk, labels
from vault.audit import Kind


@pytest.mark.both_catalogs
def test_an_acceptance_that_is_killed_is_whole_or_nothing(granted: Lab) -> None:
    """At every write of the store and of the catalog, from the first to the last."""
    identity = Desk(granted).submit(labels(0, 2))
    killed = 0
    while True:
        code, _ = outcome(accept, granted.folder, identity, killed)
        opened = vault.open(granted.folder)
        (state,) = opened.submissions()
        versions = [each.version for each in opened.show("evals").versions]
        accepted = [entry for entry in acts(opened) if entry.kind is Kind.SUBMISSION_ACCEPTED]
        # One and the same answer, wherever it is looked for.
        done = state.state == "accepted"
        assert (versions, len(accepted)) == ([1, 2] if done else [1], int(done))
        if done:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed >= 4
    found = opened.scan("evals", columns=["id", "label"], where="id < 3").read_all().to_pylist()
    assert [row["label"] for row in found] == ["label of 0", None, "label of 2"]
    opened.gc(timedelta(0))
    report = opened.check()
    assert (report.faults, report.garbage) == ([], [])
    opened.audit_verify()
