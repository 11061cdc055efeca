"""``dsvault serve`` in a process that is forked from one that has it loaded and has opened nothing.

Much of a short test would be a broker's imports. What runs is the very command, with its own arguments, environment and
log; a test that is about the process itself starts a real one (`tests.support.brokers.running_broker`).
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import IO, Any

import vault_cli.main
import vault_cli.serving
from vault import access, broker, deployment  # noqa: F401

__all__ = ["serve"]


def serve(arguments: list[str], environment: Mapping[str, str], log: IO[bytes]) -> tuple[str, BaseProcess]:
    """Start it; returns its first line, and the process. Where there is no line, the log says why."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
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
