"""Worker processes: what they run, and how the driver sends them its tasks.

A worker is given the vault's directory, ids, and a sealed parcel. It opens the vault by the configuration that it
finds on its own machine, and asks the KMS under its own identity; no key and no row reaches it in an argument. The
signing keys need not be there: a worker signs nothing, and commits nothing.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, final

from vault.deployment import open_owner
from vault.engines import RayEngine
from vault.errors import NotFound, Unavailable, VaultError
from vault.workings.errands import Errands
from vault.workings.parcels import unsealed
from vault.workings.parts import OwnerParts

__all__ = ["RayWorkers", "errands_of", "work"]

#: Vaults that a worker process keeps open, and how often it lets go of keys that are too old.
_OPEN: Final = 4
_SWEEP_SECONDS: Final = 5.0
#: Before a task that could not reach something is tried again, maybe elsewhere.
_PAUSE_SECONDS: Final = 1.0


@final
class RayWorkers:
    """The workers of a Ray cluster for one vault."""

    def __init__(self, folder: Path, vault: str, engine: RayEngine) -> None:
        self._place = (str(folder), vault)
        self.engine = engine

    def map(self, job: str, step: int, parcels: Iterable[bytes], idle: Callable[[], object]) -> Iterator[bytes]:
        """The reply to each task, in their order; raises Unavailable where one could not be done."""
        tasks = ((*self._place, job, step, number, parcel) for number, parcel in enumerate(parcels))
        return self.engine.map(work, tasks, idle)

    def __repr__(self) -> str:
        return f"RayWorkers({self.engine.workers})"


def work(folder: str, vault: str, job: str, step: int, number: int, parcel: bytes) -> bytes:
    """Do one task; the reply is sealed as the task was.

    Raises Unavailable, without saying more, for what may be tried again, and nothing else.
    """
    try:
        errands = errands_of(folder, vault)
        reply = errands.perform(job, step, number, parcel)
        # What the KMS was asked is in the log before anybody hears what came of it.
        errands.parts.catalog.settle()
    except Unavailable:
        time.sleep(_PAUSE_SECONDS)
        raise Unavailable("the store, the catalog or the KMS could not be reached") from None
    except Exception as error:  # noqa: BLE001 - Ray would send it on as it is
        return unsealed(error)
    return reply


_open: OrderedDict[tuple[str, str], Errands] = OrderedDict()
_lock = threading.Lock()
_sweeping = False


def errands_of(folder: str, vault: str) -> Errands:
    """The vault of this id, opened once for each process: at that place, else where ``$DSVAULT`` says.

    Raises NotFound where neither has it.
    """
    global _sweeping  # noqa: PLW0603 - one thread for each process
    with _lock:
        place = (folder, vault)
        found = _open.get(place)
        if found is None:
            found = _open[place] = Errands(_opened(folder, vault))
            while len(_open) > _OPEN:
                _open.popitem(last=False)[1].parts.catalog.close()
        _open.move_to_end(place)
        if not _sweeping:
            threading.Thread(target=_sweep, name="dsvault-sweep", daemon=True).start()
            _sweeping = True
        return found


def _opened(folder: str, vault: str) -> OwnerParts:
    refused: VaultError | None = None
    for place in (folder, os.environ.get("DSVAULT")):
        if not place:
            continue
        try:
            parts = open_owner(Path(place))
        except NotFound as error:
            refused = error
            continue
        if parts.vault == vault:
            return parts
        parts.catalog.close()
    raise NotFound(
        "a worker finds no such vault on its machine: it needs the vault's directory at the same place, or where its "
        "DSVAULT says"
    ) from refused


def _sweep() -> None:
    """An idle worker holds no key beyond its age either."""
    while True:
        time.sleep(_SWEEP_SECONDS)
        with _lock:
            opened = [errands.parts for errands in _open.values()]
        for parts in opened:
            parts.keyring.sweep()
            parts.lately.sweep()
