"""Trying a store before anything relies on it.

Everything that dsvault keeps from being taken back, from revocations to the log's checkpoints, stands on one promise:
who puts under a name that is taken is refused. A store that breaks it does so without a word.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from vault.encoding import new_id
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound, Unavailable, VaultError
from vault.objects.store import ObjectStore

__all__ = ["probe"]

_WRITERS: Final = 8
_SIZE: Final = 10_000


def probe(store: ObjectStore, option: str = "--store", *, deletes: bool = True) -> None:
    """Raise InvalidInput, naming the option, for a store that does not keep the promises that it is used on.

    One object is put, read, listed and deleted again; of a store that need not delete (``deletes`` false) it may stay.
    """
    name = f"probe/{new_id()}"
    with store.traceless():
        try:
            _try(store, name, option)
            if deletes:
                _try_deleting(store, name, option)
        except Unavailable as error:
            raise InvalidInput(f"{option}: the store cannot be used: {error}") from error
        finally:
            with suppress(VaultError):
                store.delete(name)


def _try(store: ObjectStore, name: str, option: str) -> None:
    writers = 1 if store.is_local else _WRITERS
    contents = [bytes([number]) * (_SIZE + number) for number in range(writers + 1)]

    def put(data: bytes) -> bool:
        try:
            store.put(name, data)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(writers) as threads:
        won = list(threads.map(put, contents[:-1]))
    if sum(won) > 1 or put(contents[-1]) or not store.refuses_parts(name):
        raise InvalidInput(
            f"{option}: the store overwrites an object that is there instead of refusing a second one of its name; "
            "what was revoked could be brought back on it, so it is not used"
        )
    if not any(won):
        raise InvalidInput(f"{option}: the store refuses an object under a name that is free")
    there = contents[won.index(True)]
    try:
        whole = store.get(name)
        part, size = store.get_range(name, 100, _SIZE - 100), store.size(name)
    except (NotFound, IntegrityError) as error:
        raise InvalidInput(f"{option}: the store does not read back what was written") from error
    if (whole, part, size) != (there, there[100 : _SIZE - 100], len(there)):
        raise InvalidInput(f"{option}: the store does not read back what was written")
    if (name, len(there)) not in {(info.name, info.size) for info in store.list("probe")}:
        raise InvalidInput(f"{option}: the store does not list an object that was written just now")


def _try_deleting(store: ObjectStore, name: str, option: str) -> None:
    try:
        store.delete(name)
        gone = store.size(name) is None
    except Unavailable as error:
        raise InvalidInput(f"{option}: the store lets nothing be deleted; {name} stays in it ({error})") from error
    if not gone:
        raise InvalidInput(f"{option}: the store has an object still that was deleted")
