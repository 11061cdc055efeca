"""The object store: immutable objects, written once, over any fsspec file system.

Obligations of the store beneath: a put either makes the whole object under a name that did not exist or
fails; what was put reads back unchanged; a listing shows what was put before it began. Names are paths
below the vault's prefix, made of ids only, so a listing tells nobody what anything is called.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from vault.errors import Conflict, IntegrityError, NotFound, Unavailable
from vault.objects.files import Files, LocalFiles, Produce
from vault.objects.reading import RANGE, StoredObject, whole
from vault.objects.s3 import S3Files
from vault.objects.troubles import PATIENCE_SECONDS, Trouble, patiently
from vault.objects.writing import parts_refused, put_pieces

__all__ = ["ObjectInfo", "ObjectStore"]

#: Requests of one store that are under way at once for what is read or written in ranges.
_THREADS: Final = 16
_NAME: Final = re.compile(r"[a-z0-9]+(/[a-z0-9]+)*")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A listed object: its name, size in bytes, and when it was last written if the store says."""

    name: str
    size: int
    written: datetime | None


class ObjectStore:
    """Objects below one prefix. Safe for use from several threads.

    A request that fails is made again for ``patience`` seconds where that may help; then one sentence says what it was.
    """

    def __init__(self, files: Files, prefix: str, patience: float = PATIENCE_SECONDS) -> None:
        self._files = files
        self._prefix = prefix.rstrip("/")
        self._patience = patience
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine, and no requests have to be waited for."""
        return self._files.local

    def within(self, seconds: float) -> "ObjectStore":
        """The same store for whoever cannot wait longer than that while it is not well."""
        return ObjectStore(self._files, self._prefix, seconds)

    def _threads(self) -> Executor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, "dsvault-store")
            return self._pool

    def _path(self, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise IntegrityError("an object name is not one that dsvault makes")
        return f"{self._prefix}/{name}"

    def put(self, name: str, data: Any) -> None:
        """Write a new object durably; ``data`` is any contiguous buffer of bytes.

        Raises Conflict when the name exists, Unavailable when the store fails. A process that is killed meanwhile
        leaves the whole object or none: heads, checkpoints and root documents have names that cannot be had again.
        """
        self.put_pieces(name, lambda write: write(memoryview(data).cast("B")))

    def put_pieces(self, name: str, produce: Produce) -> None:
        """`put` of what ``produce`` hands, piece by piece, to the function that it is given.

        What it raises is raised here, and no object is left. A local store writes each piece as it comes, S3 sends them
        in parts where there are many; elsewhere they are gathered in memory first.
        """
        path = self._path(name)
        try:
            if isinstance(self._files, LocalFiles):
                self._files.put_pieces(path, self._prefix, produce)
            else:
                put_pieces(self._files, path, produce, self._threads, self._patience)
        except FileExistsError as error:
            raise Conflict("an object of that name exists already") from error
        except (Trouble, OSError) as error:
            raise _unavailable("written", error) from error

    def discard_unfinished(self, before: datetime) -> None:
        """Remove what puts left that were killed before then."""
        self._files.discard_unfinished(self._prefix, before)

    def settle(self, folder: str) -> None:
        """Make the names of a folder's new objects durable; called before the catalog refers to them."""
        self._files.settle(self._path(folder), self._prefix)

    def get(self, name: str) -> bytes:
        """A whole object; raises NotFound or Unavailable."""
        path = self._path(name)
        return self._asked(name, "read", lambda: self._files.read(path))

    def get_large(self, name: str, size: int) -> "bytes | bytearray":
        """A whole object of that size, where it is large in parallel ranges; raises as `get` and `get_range` do."""
        if self._files.local or size <= RANGE:
            return self.get(name)
        return whole(self, self._threads(), name, size)

    def open(self, name: str, size: int, *, ends: bool = False) -> StoredObject:
        """An object of that size, to be read in pieces, or with ``ends`` only at its ends.

        One that is missing, or not as long, raises NotFound or IntegrityError here or at the first piece; where the
        store is not local, one that is longer is read as if it were not.
        """
        if not self._files.local:
            return StoredObject(self, name, size, self._threads, ends=ends)
        if (found := self.size(name)) not in {None, size}:
            raise IntegrityError(f"the object {name} has {found} bytes instead of {size}")
        return StoredObject(self, name, size)

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of an object; raises NotFound, Unavailable, or IntegrityError where it is shorter."""
        path = self._path(name)
        found = self._asked(name, "read", lambda: self._files.read(path, start, stop))
        if len(found) != stop - start:
            raise IntegrityError(f"the object {name} is shorter than it was")
        return found

    def link(self, name: str, seconds: int) -> str | None:
        """An address that anybody may read the object at for that long, or None where the store has no such thing.

        Raises Unavailable where it cannot be signed at present.
        """
        path = self._path(name)
        try:
            return self._files.link(path, seconds)
        except Trouble as trouble:
            raise Unavailable(f"an address for an object could not be signed ({trouble})") from trouble

    def size(self, name: str) -> int | None:
        """An object's size in bytes, or None where there is none."""
        path = self._path(name)
        try:
            return self._asked(name, "looked at", lambda: self._files.size(path))
        except NotFound:
            return None

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Every object below a folder, by name; an absent folder is empty."""
        root = self._path(folder)
        try:
            found = self._asked(folder, "listed", lambda: sorted(self._files.list(root)))
        except NotFound:
            return
        for path, size, written in found:
            yield ObjectInfo(folder + path[path.rindex(f"/{folder}/") + len(folder) + 1 :], size, written)

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        self.delete_all([name])

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove objects, with one request for many where the store has that; those that are gone are no error."""
        paths = [self._path(name) for name in names]
        if paths:
            self._asked("", "deleted", lambda: self._files.delete(paths))

    def refuses_parts(self, name: str) -> bool:
        """Whether an object in parts is refused too under a name that is taken; true where none goes in parts."""
        path, files = self._path(name), self._files
        try:
            return not isinstance(files, S3Files) or parts_refused(files, path, self._patience)
        except (Trouble, FileNotFoundError) as error:
            raise _unavailable("written in parts", error) from error

    @contextmanager
    def traceless(self) -> Iterator[None]:
        """What is put within is deleted within: of a directory that was not there nothing is left either."""
        with self._files.traceless(self._prefix):
            yield

    def _asked(self, name: str, verb: str, request: Callable[[], _Result]) -> _Result:
        try:
            return patiently(request, self._patience)
        except FileNotFoundError as error:
            raise NotFound(f"the object {name} is missing from the store") from error
        except (Trouble, FileExistsError) as error:
            raise _unavailable(verb, error) from error


def _unavailable(verb: str, error: Exception) -> Unavailable:
    reason = str(error) if isinstance(error, Trouble) else type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason = os.strerror(error.errno)
    return Unavailable(f"an object could not be {verb} in the store ({reason})")
