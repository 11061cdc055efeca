"""What worker processes of tests run instead of the plain task: they die, raise or lie at a certain moment.

A worker imports this by name, so that a fault happens in the very process that does the work.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vault.engines import RayEngine
from vault.errors import Unavailable
from vault.objects import ObjectStore
from vault.worker import work

#: How a fault is told from others.
DIE, FAIL, LOSE, ALWAYS_LOSE = "die", "fail", "lose", "always lose"
SAID = "planted answer"


class Faulty:
    """The workers of a cluster, with a fault, and what crossed on the way there and back."""

    def __init__(self, engine: RayEngine, folder: Path, vault: str, fault: str = "", marker: Path = Path()) -> None:
        self._engine = engine
        self._arguments = (fault, str(marker), str(folder), vault)
        self.sent: list[bytes] = []
        self.came: list[bytes] = []
        self.change: Callable[[list[bytes], bytes], bytes] = lambda _before, reply: reply
        self.change_task: Callable[[bytes], bytes] = lambda parcel: parcel

    def map(self, job: str, step: int, parcels: Iterable[bytes], idle: Callable[[], object]) -> Iterator[bytes]:
        """As `vault.worker.RayWorkers` does it."""

        def tasks() -> Iterator[tuple[Any, ...]]:
            for number, parcel in enumerate(parcels):
                self.sent.append(parcel)
                yield (*self._arguments, job, step, number, self.change_task(parcel))

        for reply in self._engine.map(faulty, tasks(), idle):
            changed = self.change(self.came, reply)
            self.came.append(reply)
            yield changed


def faulty(fault: str, marker: str, *arguments: Any) -> bytes:
    """Do a task; in the midst of the second object, and once only, what ``fault`` says happens."""
    with pytest.MonkeyPatch.context() as patch:
        if fault:
            real, count = ObjectStore.put_pieces, [0]

            def put_pieces(self: ObjectStore, name: str, produce: Any) -> None:
                count[0] += 1
                if count[0] == 2 and (fault == ALWAYS_LOSE or _first(Path(marker))):
                    produce = _stopped(fault, produce)
                real(self, name, produce)

            patch.setattr(ObjectStore, "put_pieces", put_pieces)
            patch.setattr("vault.worker._PAUSE_SECONDS", 0.05)
        return work(*arguments)


def _stopped(fault: str, produce: Any) -> Any:
    def half(write: Callable[[memoryview], object]) -> None:
        write(memoryview(b"half of it"))
        if fault == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == FAIL:
            raise ValueError(f"the value is {SAID}")
        raise Unavailable("the store is away")

    del produce
    return half


def _first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
