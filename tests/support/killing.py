"""Processes that are killed at a random moment of their work.

Each is forked from one that has dsvault loaded and has opened nothing, so that hundreds of kills do not wait for
hundreds of imports. It opens the vault itself.
"""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import vault
from tests.support.tables import rows
from vault import datasets, grants, offboard, publish, rewrap, rotate
from vault.owner import Vault

__all__ = ["kill_once", "offboarding", "publishing", "rekeying", "rewrapping"]

#: Loaded before the fork, with all that they need.
_LOADED = (datasets, grants, offboard, publish, rewrap, rotate)


def rekeying(lab: Vault) -> None:
    """Rekey a vendor's compartments and the owner's, for ever."""
    while True:
        lab.rekey(vendor="acme")
        lab.rekey(vendor="owner")


def publishing(lab: Vault) -> None:
    """Publish version after version."""
    while True:
        lab.publish("evals", rows(100), key="id", shard_rows=10)


def rewrapping(lab: Vault) -> None:
    """Rewrap everything and disable the old KMS keys, for ever."""
    while True:
        lab.rewrap(disable_old=True)


def offboarding(lab: Vault) -> None:
    """Offboard every vendor whose name begins so, and wait."""
    for state in lab.vendors():
        if state.name.startswith("extra"):
            lab.offboard(state.name)
    time.sleep(60)


def _work(job: Callable[[Vault], None], folder: Path, ready: Connection) -> None:
    began = time.monotonic()
    lab = vault.open(folder)
    ready.send(time.monotonic() - began)
    job(lab)


def kill_once(job: Callable[[Vault], None], folder: Path, longest: float) -> None:
    """Start a job on a vault and kill its process with SIGKILL, some time after it is ready."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    here, there = forks.Pipe(duplex=False)
    process = forks.Process(target=_work, args=(job, folder, there))
    process.start()
    there.close()
    with here:
        opening = here.recv()
    # Where the machine is busy with other things, the moment falls into the work all the same.
    time.sleep(random.uniform(0, max(longest, 5 * opening)))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()
