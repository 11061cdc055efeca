"""kill -9 at each step of an acceptance: it is accepted once or not at all, and the next try ends it."""

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.log import acts
from tests.support.submitting import Desk, labels
from vault import submissions
from vault.audit import Kind
from vault.catalog import Catalog
from vault.objects import ObjectStore

#: Loaded before the fork, with all that it needs.
_LOADED = (submissions,)


def _accept(folder: Path, identity: str, steps: int) -> None:
    """Accept a submission, and die by SIGKILL just before the store or the catalog is written to for that time."""
    lab = vault.open(folder)
    left = steps

    def step() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    put, finish = ObjectStore.put_pieces, Catalog.write

    def put_pieces(self: ObjectStore, *request: Any) -> None:
        step()
        put(self, *request)

    def write(self: Catalog) -> Any:
        step()
        return finish(self)

    ObjectStore.put_pieces = put_pieces  # type: ignore[method-assign]
    Catalog.write = write  # type: ignore[method-assign]
    lab.accept_submission(identity)
    os._exit(0)


@pytest.mark.both_catalogs
def test_an_acceptance_that_is_killed_is_whole_or_nothing(granted: Lab) -> None:
    """At every write of the store and of the catalog, from the first to the last."""
    identity = Desk(granted).submit(labels(0, 2))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    killed = 0
    while True:
        process = forks.Process(target=_accept, args=(granted.folder, identity, killed))
        process.start()
        process.join()
        opened = vault.open(granted.folder)
        (state,) = opened.submissions()
        versions = [each.version for each in opened.show("evals").versions]
        accepted = [entry for entry in acts(opened) if entry.kind is Kind.SUBMISSION_ACCEPTED]
        # One and the same answer, wherever it is looked for.
        done = state.state == "accepted"
        assert (versions, len(accepted)) == ([1, 2] if done else [1], int(done))
        if done:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    assert killed >= 4
    found = opened.scan("evals", columns=["id", "label"], where="id < 3").read_all().to_pylist()
    assert [row["label"] for row in found] == ["label of 0", None, "label of 2"]
    opened.gc(timedelta(0))
    report = opened.check()
    assert (report.faults, report.garbage) == ([], [])
    opened.audit_verify()
