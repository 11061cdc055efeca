"""Processes that are forked from one that has dsvault loaded and has opened nothing.

Much of a short test would be a process's imports. `serve` runs the very command ``dsvault serve``, with its own
arguments, environment and log; a test that is about the process itself starts a real one
(`tests.support.brokers.running_broker`). `outcome` runs a function.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

import vault_cli.main
import vault_cli.serving
from vault import access, broker, deployment  # noqa: F401

__all__ = ["context", "outcome", "serve"]

_ROOT = Path(__file__).parents[2]
#: What is loaded before the first fork, with all that it needs: each process would load by itself what is not.
_LOADED = (__name__, "tests.support.killing", "tests.support.crowd", "tests.support.late")


def context() -> ForkServerContext:
    """What starts such processes, all of one test process from the same one."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(_LOADED))
    # That one finds the tests' own modules where it is started.
    with contextlib.chdir(_ROOT):
        forkserver.ensure_running()
    return forks


def outcome(job: Callable[..., Any], *arguments: object) -> tuple[int, Any]:
    """How a process ended that did this, a signal as a negative number; and what it returned, or None."""
    forks = context()
    here, there = forks.Pipe(duplex=False)
    process = forks.Process(target=_tell, args=(there, job, arguments))
    process.start()
    there.close()
    with here, contextlib.suppress(EOFError):
        told = here.recv()
        process.join()
        return process.exitcode or 0, told
    process.join()
    return process.exitcode or 0, None


def _tell(told: Connection, job: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    told.send(job(*arguments))


def serve(arguments: list[str], environment: Mapping[str, str], log: IO[bytes]) -> tuple[str, BaseProcess]:
    """Start it; returns its first line, and the process. Where there is no line, the log says why."""
    forks = context()
    here, there = os.pipe()
    process = forks.Process(target=_Serving(arguments, environment, there, log.fileno()))
    try:
        process.start()
    finally:
        os.close(there)
    with os.fdopen(here, encoding="utf-8") as told:
        return told.readline(), process


class _Serving:
    """What the process does; its output goes to these files."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], out: int, log: int) -> None:
        self._arguments = arguments
        self._environment = dict(environment)
        self._files = (out, log)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": tuple(DupFd(each) for each in self._files)}

    def __call__(self) -> None:
        """Become the command."""
        for target, file in zip((1, 2), self._files, strict=True):
            descriptor = file.detach()  # type: ignore[attr-defined]
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(self._environment)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["dsvault", *self._arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        vault_cli.main.run()
