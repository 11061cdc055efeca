"""Readers that run in the workers of a PyTorch loader: what they read from, and their errors.

The loader makes an error of theirs anew in its own process, from its class and the text of a whole traceback. What is
raised here makes one sentence of that again, and is what it was: whoever catches NotGranted catches it.
"""

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from vault.errors import Conflict, Frozen, InvalidInput, LimitReached, NotGranted, Unavailable, VaultError
from vault.readers.readers import Readers

__all__ = ["own", "told"]


class _Told(VaultError):
    def __init__(self, text: str) -> None:
        kind = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(text.rpartition(kind)[2].partition("\n")[0])


def _kind(family: type[VaultError]) -> type[VaultError]:
    """A kind of its own of a family, by a name in this module, by which it is found in another process."""
    name = f"{family.__name__}InWorker"
    members = {"__module__": __name__, "__qualname__": name, "__doc__": f"{family.__name__}, raised in a worker."}
    found: type[VaultError] = type(name, (_Told, family), members)
    globals()[name] = found
    return found


_KINDS: Final[Mapping[type[VaultError], type[VaultError]]] = {
    family: _kind(family)
    for family in (LimitReached, NotGranted, Frozen, Conflict, InvalidInput, Unavailable, VaultError)
}


def _in_worker() -> bool:
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def own(source: Readers) -> Readers:
    """What a worker reads from: opened anew by it, also where it was forked and has its parent's in memory.

    Connections, pools and threads of a parent are not for its child. Raises InvalidInput where that cannot be.
    """
    if not _in_worker():
        return source
    try:
        found: Readers = pickle.loads(pickle.dumps(source))  # noqa: S301 - of this very process
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInput(
            "these rows cannot be read by another process; read them without workers (num_workers=0)"
        ) from error
    return found


@contextmanager
def told() -> Iterator[None]:
    """Raise what is raised within so that a loader's process has its sentence; elsewhere as it is."""
    try:
        yield
    except VaultError as error:
        if not _in_worker():
            raise
        family = next(family for family in _KINDS if isinstance(error, family))
        raise _KINDS[family](str(error)) from None
