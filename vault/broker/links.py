"""A worker's line to the process that started it, over which counters are added up.

It is a pair of sockets that no other process holds, and carries JSON: counts, whose labels name nobody, and why a
worker could not start. It ends with either side, which is how each learns that the other is gone.
"""

import json
import os
import signal
import threading
from datetime import timedelta
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Final, final

from vault.broker.metrics import Counts, Metrics
from vault.errors import Unavailable

__all__ = ["Link", "receive", "send"]

_PUSH_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 5.0


def send(line: "Connection[Any, Any]", **message: Any) -> None:
    """Put a message on a line."""
    line.send_bytes(json.dumps(message).encode())


def receive(line: "Connection[Any, Any]") -> dict[str, Any]:
    """The next message on a line; raises EOFError or OSError at its end."""
    message: dict[str, Any] = json.loads(line.recv_bytes())
    return message


@final
class Link:
    """A worker's end. Safe for use from several threads."""

    def __init__(self, line: "Connection[Any, Any]", grace: timedelta) -> None:
        self._line = line
        self._grace = grace
        self._sending = threading.Lock()
        self._asking = threading.Lock()
        self._sums: SimpleQueue[Counts] = SimpleQueue()
        self._metrics: Metrics | None = None
        threading.Thread(target=self._listen, name="dsvault-link", daemon=True).start()

    def join(self, metrics: Metrics) -> None:
        """Count together with the other workers from here on."""
        self._metrics = metrics
        metrics.everyone = self._everyone
        threading.Thread(target=self._push, name="dsvault-counts", daemon=True).start()

    def ready(self) -> None:
        """Say that this worker answers requests."""
        self._send(kind="ready")

    def failed(self, sentence: str) -> None:
        """Say why this worker cannot start."""
        self._send(kind="failed", text=sentence)

    def _send(self, **message: Any) -> None:
        with self._sending:
            send(self._line, **message)

    def _everyone(self) -> Counts:
        """What all workers counted; raises Unavailable when it cannot be had in time."""
        with self._asking:
            while not self._sums.empty():
                self._sums.get()  # came too late for whoever asked
            try:
                self._send(kind="sum")
                return self._sums.get(timeout=_ANSWER_SECONDS)
            except (Empty, OSError) as error:
                raise Unavailable("the other workers' counters cannot be had") from error

    def _counted(self, **more: Any) -> None:
        if self._metrics is not None:
            self._send(kind="counts", counts=self._metrics.counts(), **more)

    def _push(self) -> None:
        """Hand the counts over again and again: if this worker is killed, what it did still counts."""
        pause = threading.Event()
        while not pause.wait(_PUSH_SECONDS):
            try:
                self._counted()
            except OSError:
                return

    def _listen(self) -> None:
        try:
            while True:
                message = receive(self._line)
                if message["kind"] == "count":
                    self._counted(round=message["round"])
                else:
                    self._sums.put(message["counts"])
        except (EOFError, OSError):
            # The parent is gone, and nobody would stop this worker or start it anew: it ends as if it were told to.
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait((self._grace + timedelta(seconds=15)).total_seconds())
            os._exit(1)
