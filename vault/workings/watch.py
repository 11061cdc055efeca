"""Dropping data keys from a broker's memory within a second of what ends or moves them, and heads that are held.

A read looks at its vendor's head, a second old at the most, by itself before every batch. This is for the keys that a
process holds while nobody reads: a freeze, a revocation and a rekey change a head, and a rewrap the KMS key of a
holder. What may have changed is dropped; a key that is still needed is asked of the KMS again. It is dropped at the
next looks too, for as long as somebody may act on the head of before: a stream that was fetching ahead may have brought
it back.

The refusals that are counted are written at a look as well, once their time is over: nobody else may come by.
"""

import logging
import math
import threading
from types import TracebackType
from typing import final

from vault.workings.heads import HEAD_AGE_SECONDS
from vault.workings.parts import Parts

__all__ = ["WATCH_SECONDS", "Watch"]

_LOG = logging.getLogger("dsvault.keys")
#: How often the catalog is looked at; two looks fit into a second.
WATCH_SECONDS = 0.4
_LOOKS_AGAIN = math.ceil(HEAD_AGE_SECONDS / WATCH_SECONDS)


@final
class Watch:
    """A thread that watches the catalog for as long as the context lasts."""

    def __init__(self, parts: Parts, *, seconds: float = WATCH_SECONDS) -> None:
        self._parts = parts
        self._seconds = seconds
        self._seen: dict[str, str] = {}
        self._again: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dsvault-watch", daemon=True)

    def look(self) -> None:
        """Drop the keys of every holder and compartment that changed since the last look.

        A catalog that cannot be read may hide a change: then everything is dropped.
        """
        keyring = self._parts.keyring
        keyring.sweep()
        self._parts.lately.sweep()
        self._parts.journal.write_counted()
        try:
            with self._parts.catalog.read() as transaction:
                # It is read as this release takes it to be; after an upgrade nobody can tell what it says.
                self._parts.catalog.refuse_other_schema(transaction)
                marks = transaction.marks()
                changed = {subject for subject, mark in marks.items() if self._seen.get(subject, mark) != mark}
                changed |= self._seen.keys() - marks.keys()
                changed |= {row.id for row in transaction.compartments() if row.holder in changed} if changed else set()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody can see whether a vendor was stopped
            _LOG.warning("the catalog cannot be watched (%s), so no data key is held", type(error).__name__)
            keyring.drop(keyring.compartments)
            self._parts.lately.clear()
            return
        self._seen = marks
        if changed:
            self._parts.lately.clear()
        for subject in changed:
            # A vendor's head that is held is good for a second at the most; seen to be old, it is not good at all.
            self._parts.heads.forget(subject)
        keyring.drop(changed | self._again.keys())
        left = {subject: looks - 1 for subject, looks in self._again.items() if looks > 1}
        self._again = left | dict.fromkeys(changed, _LOOKS_AGAIN)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()

    def __enter__(self) -> "Watch":
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._parts.keyring.drop(self._parts.keyring.compartments)
