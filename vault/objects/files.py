"""File systems beneath the store: what each can do, and how each puts an object that must not exist yet.

A `Files` takes whole paths and makes one attempt at a time. It raises FileNotFoundError, FileExistsError or `Trouble`,
and nothing else. Obligations: a put either makes the whole object under a path that did not exist or fails; what was
put reads back unchanged; a listing shows what was put before it began.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from vault.encoding import new_id
from vault.objects.troubles import Trouble, told

__all__ = ["UNFINISHED", "Files", "Found", "LocalFiles", "MemoryFiles", "Produce", "UnknownFiles", "telling"]

#: Hands a new object's pieces, in order, to the function that it is given.
Produce: TypeAlias = Callable[[Callable[[memoryview], object]], object]

#: Where a local store's objects are written before they get their names; no object's name begins so.
UNFINISHED: Final = ".unfinished"
#: One put at a time of this process's memory: it looks whether a path is there and writes it in two steps.
_MEMORY: Final = threading.Lock()
_FSSPEC: Final = frozenset({AbstractFileSystem, AsyncFileSystem})


class Found(NamedTuple):
    """A listed object: its path, its size in bytes, and when it was written if the store says."""

    path: str
    size: int
    written: datetime | None


class Files:
    """A file system of fsspec's.

    An object that must not exist is put with ``pipe_file`` in mode ``create``, or where ``way`` is ``open`` as a file
    that is opened with ``xb``: of some packages only one of them refuses.
    """

    #: Whether reads and writes are calls of this machine's and not requests.
    local = False

    def __init__(self, filesystem: Any, way: str = "pipe") -> None:
        self._fs = filesystem
        self._way = way

    def put(self, path: str, data: bytes, mark: str) -> None:  # noqa: ARG002 - fsspec has no place for it
        """Write an object, with a word of the writer's own where the store keeps such a thing beside its objects.

        Raises FileExistsError where there is one. That may be the very object: packages, and HTTP libraries beneath
        them, send a request again by themselves where a connection was cut, and tell of it only the second answer.
        """
        with telling():
            if self._way == "open":
                with self._fs.open(path, "xb") as file:
                    file.write(data)
            else:
                self._fs.pipe_file(path, data, mode="create")

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Some bytes of an object, fewer where it ends before, or all of it."""
        with telling():
            if stop is None:
                return bytes(self._fs.cat_file(path))
        return self._range(path, start, stop)

    def _range(self, path: str, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""
        try:
            with telling():
                return bytes(self._fs.cat_file(path, start=start, end=stop))
        except EOFError:
            return b""

    def looked_at(self, path: str) -> tuple[int, str | None]:
        """An object's size, and its writer's word where there is one."""
        return self.size(path), None

    def size(self, path: str) -> int:
        """An object's size."""
        with telling():
            return int(self._fs.info(path)["size"])

    def list(self, path: str) -> Iterator[Found]:
        """Every object below a folder."""
        with telling():
            self._fs.invalidate_cache()
            found = self._fs.find(path, detail=True)
        for each, info in found.items():
            yield Found(str(each), int(info["size"]), _written(info))

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        for path in paths:
            try:
                with telling():
                    self._fs.rm_file(path)
            except FileNotFoundError:
                continue

    def link(self, path: str, seconds: int) -> str | None:
        """An address that anybody may read an object at for that long, or None where there is none to be had.

        Not every credential of a cloud's can sign; the broker then sends the object itself.
        """
        try:
            return str(self._fs.sign(path, expiration=seconds))
        except Exception:  # noqa: BLE001 - whatever it is, the object can be had without
            return None

    def discard_unfinished(self, prefix: str, before: datetime) -> None:
        """Remove what puts left that were killed before then; here a put leaves nothing."""

    def settle(self, path: str, prefix: str) -> None:
        """Make the names of a folder's new objects durable; here each put has done so."""

    @contextmanager
    def traceless(self, _prefix: str) -> Iterator[None]:
        """Leave no directory that was not there; here there are none."""
        yield


class MemoryFiles(Files):
    """fsspec's memory, for tests: its own put-if-absent is no single step."""

    def put(self, path: str, data: bytes, mark: str) -> None:
        """Write an object; raises FileExistsError where there is one."""
        with _MEMORY:
            super().put(path, data, mark)


class UnknownFiles(Files):
    """A file system of which nobody has told how it puts if absent: at the first put the way is found that refuses."""

    def __init__(self, filesystem: Any, prefix: str) -> None:
        super().__init__(filesystem)
        self._folder = f"{prefix}/probe"
        self._lock = threading.Lock()
        self._found = False

    def put(self, path: str, data: bytes, mark: str) -> None:
        """Write an object; raises FileExistsError where there is one, and `Trouble` where none would be."""
        with self._lock:
            if not self._found:
                self._way = next((way for way in self._ways() if self._refuses(way)), "")
                self._found = bool(self._way)
        if not self._found:
            raise Trouble("it overwrites what is there", again=False)
        super().put(path, data, mark)

    def _ways(self) -> Sequence[str]:
        # What fsspec itself has for mode ``create`` looks first and then overwrites.
        own = {"pipe_file", "_pipe_file"} & {
            name for each in type(self._fs).__mro__ for name in vars(each) if each not in _FSSPEC
        }
        return ("pipe", "open") if own else ("open",)

    def _refuses(self, way: str) -> bool:
        tried, path = Files(self._fs, way), f"{self._folder}/{new_id()}"
        try:
            tried.put(path, b"first", "")
            try:
                tried.put(path, b"second", "")
            except FileExistsError:
                return True
        except (Trouble, FileExistsError, FileNotFoundError):
            return False
        finally:
            with suppress(Trouble):
                tried.delete([path])
        return False


class LocalFiles(Files):
    """A directory of this machine."""

    local = True

    def put_pieces(self, path: str, prefix: str, produce: Produce) -> None:
        """Write an object durably, and give it its name when the whole of it is there."""
        unfinished = f"{prefix}/{UNFINISHED}"
        for folder in (os.path.dirname(path), unfinished):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        aside = f"{unfinished}/{new_id()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                produce(lambda piece: _write_all(file, piece))
                # The catalog will say that this object exists: it must outlive a power cut.
                os.fsync(descriptor)
            # One step, and it fails where the name is taken.
            os.link(aside, path)
        finally:
            os.unlink(aside)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Some bytes of an object, fewer where it ends before, or all of it."""
        with telling():
            if stop is None:
                with open(path, "rb") as file:
                    return file.read()
            return _read_range(path, start, stop)

    def discard_unfinished(self, prefix: str, before: datetime) -> None:
        """Remove what puts left that were killed before then."""
        folder = f"{prefix}/{UNFINISHED}"
        if not os.path.isdir(folder):
            return
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            try:
                if os.stat(path).st_mtime < before.timestamp():
                    os.unlink(path)
            except FileNotFoundError:
                continue

    @contextmanager
    def traceless(self, prefix: str) -> Iterator[None]:
        """Leave no directory that was not there."""
        made = [prefix]
        while made[-1] != os.path.dirname(made[-1]):
            made.append(os.path.dirname(made[-1]))
        made = [folder for folder in (f"{prefix}/probe", f"{prefix}/{UNFINISHED}", *made) if not os.path.exists(folder)]
        try:
            yield
        finally:
            for folder in made:
                with suppress(OSError):
                    os.rmdir(folder)

    def settle(self, path: str, prefix: str) -> None:
        """Make the names of a folder's new objects durable."""
        while path.startswith(prefix):
            if os.path.isdir(path):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            path = os.path.dirname(path)


@contextmanager
def telling() -> Iterator[None]:
    """Raise FileNotFoundError, FileExistsError or `Trouble` for whatever is raised within."""
    try:
        yield
    except Exception as error:
        raise told(error) from error


def _write_all(file: Any, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _read_range(path: str, start: int, stop: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = os.pread(descriptor, stop - start, start)
        while more := os.pread(descriptor, stop - start - len(found), start + len(found)):
            found += more
        return found
    finally:
        os.close(descriptor)


def _written(info: dict[str, Any]) -> datetime | None:
    for field in ("mtime", "LastModified", "last_modified", "created", "updated"):
        value = info.get(field)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return None
