"""Processes that are killed at a random moment of their work, or at a step of it.

Each is forked from one that has dsvault loaded and has opened nothing (`tests.support.forked`), so that hundreds of
kills do not wait for hundreds of imports. It opens the vault itself.
"""

import importlib
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import vault
from tests.support.forked import context
from tests.support.restoring import PASSPHRASE
from tests.support.tables import rows
from vault import datasets, grants, incident, offboard, publish, restoring, rewrap, rotate, submissions
from vault.catalog import Catalog, Transaction
from vault.objects import ObjectStore
from vault.owner import Vault

__all__ = ["accept", "contain", "kill_once", "offboarding", "publishing", "rekeying", "restore", "rewrapping"]

#: Loaded before the fork, with all that they need.
_LOADED = (datasets, grants, incident, offboard, publish, restoring, rewrap, rotate, submissions)


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
    forks = context()
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


def accept(folder: Path, identity: str, steps: int) -> None:
    """Accept a submission, and die just before the store or the catalog is written to once more than so many times."""
    lab = vault.open(folder)
    put, finish = ObjectStore.put_pieces, Catalog.write
    step = _Steps(steps + 1)

    def put_pieces(self: ObjectStore, *request: Any) -> None:
        step.next()
        put(self, *request)

    def write(self: Catalog) -> Any:
        step.next()
        return finish(self)

    ObjectStore.put_pieces = put_pieces  # type: ignore[method-assign]
    Catalog.write = write  # type: ignore[method-assign]
    lab.accept_submission(identity)


def contain(folder: Path, module: str, name: str, when: str) -> None:
    """Contain acme, and die ``before`` or ``after`` a function of a module, or a method of a class there."""
    lab = vault.open(folder)
    owner, _, attribute = name.rpartition(".")
    place: Any = importlib.import_module(module)
    for part in owner.split(".") if owner else ():
        place = getattr(place, part)
    real = getattr(place, attribute)

    def killed(*arguments: Any, **named: Any) -> None:
        if when == "after":
            real(*arguments, **named)
        _die()

    setattr(place, attribute, killed)
    lab.contain("acme")


def restore(step: int, folder: Path, store: str, keys: Path) -> int:
    """Restore a vault, and die at this step of those that give a file its name or fill the catalog; how many were left."""
    left = _Steps(step)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left.next()
            return function(*arguments, **named)

        return call

    # Every file and object gets its name by one of these, and the catalog is filled by the last two.
    os.link, os.replace, os.unlink = counted(os.link), counted(os.replace), counted(os.unlink)
    for name in ("put_back", "append_log"):
        setattr(Transaction, name, counted(getattr(Transaction, name)))
    vault.restore(folder, store=store, kms="local:", keys=keys, passphrase=PASSPHRASE)
    return left.left


class _Steps:
    """Steps that are counted down, of which the last one kills the process."""

    def __init__(self, left: int) -> None:
        self.left = left

    def next(self) -> None:
        self.left -= 1
        if self.left == 0:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
