"""Announcing in the log which data keys this process asks its KMS for, so that its calls can be told from others'.

The KMS keeps a log of its own of everything that it opened. Comparing the two finds whoever asked it behind dsvault's
back (`vault.reconcile`). For that each call has to be an item in an entry, and it is noted before the call is made: a
process that is killed in between leaves a call that looks like somebody else's, never one that nobody looks for.

Noting never waits and never fails: a key is opened within transactions too, and SQLite has one writer. What is noted
is written with the next change that this process commits, or some milliseconds later by itself, or at the latest
when the process ends.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Final, final

from vault.audit import Kind
from vault.catalog import Catalog, Transaction
from vault.encoding import new_id, timestamp
from vault.model import KeyScope
from vault.workings.journal import Journal

__all__ = ["OpenedKeys"]

_LOG = logging.getLogger("dsvault.log")
#: How many keys one entry names at the most.
_KEYS_OF_ENTRY: Final = 1000


@cache
def _process(_pid: int) -> str:
    """A random id of this process: those of the system are given out again."""
    return new_id()


@final
class OpenedKeys:
    """The data keys that are asked for through one opening of a vault. Safe for use from several threads."""

    def __init__(self, catalog: Catalog, journal: Journal, clock: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        #: What is noted and not yet taken into an entry, each with its time.
        self._noted: list[tuple[datetime, KeyScope]] = []
        self._asked = False

    def note(self, context: Mapping[str, str]) -> None:
        """Note that the KMS is about to be asked to open what has this context."""
        with self._lock:
            self._noted.append((self._clock(), KeyScope.of(context)))
            if self._asked:
                return
            self._asked = True
        taken: list[tuple[datetime, KeyScope]] = []

        def write(transaction: Transaction) -> None:
            # It may be run twice, of which one counts: what the first run took is kept for the second.
            with self._lock:
                taken.extend(self._noted)
                self._noted, self._asked = [], False
            self._write(transaction, taken)

        def failed(error: BaseException) -> None:
            # It goes with the next that is noted; whether that was asked for already makes no difference.
            with self._lock:
                self._noted, self._asked = taken + self._noted, False
            _LOG.warning("the log could not say which data keys were asked for: %s", type(error).__name__)

        self._catalog.submit_aside(write, failed)

    def _write(self, transaction: Transaction, taken: list[tuple[datetime, KeyScope]]) -> None:
        for start in range(0, len(taken), _KEYS_OF_ENTRY):
            part = taken[start : start + _KEYS_OF_ENTRY]
            self._journal.record_in(
                transaction,
                Kind.KEYS_OPENED,
                keys=[[scope.compartment, scope.group, scope.epoch] for _, scope in part],
                since=timestamp(min(time for time, _ in part)),
                process=_process(os.getpid()),
            )
