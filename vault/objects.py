"""The object store: immutable objects, written once, over any fsspec file system.

Obligations of the store beneath: a put either makes the whole object under a name that did not exist or
fails; what was put reads back unchanged; a listing shows what was put before it began. Names are paths
below the vault's prefix, made of ids only, so a listing tells nobody what anything is called.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, final

import fsspec

from vault.encoding import new_id
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound, Unavailable

__all__ = ["ObjectInfo", "ObjectStore", "StoredObject", "open_store"]

#: Hands a new object's pieces, in order, to the function that it is given.
Produce: TypeAlias = Callable[[Callable[[memoryview], object]], object]

#: Where a local store's objects are written before they get their names; no object's name begins so.
_UNFINISHED = ".unfinished"
#: The end of an object that is read at once when a part of it is asked for; most footers lie within.
_TAIL = 16 << 10
_NAME = re.compile(r"[a-z0-9]+(/[a-z0-9]+)*")
#: What a second put of one name raises, by file system (some S3 servers answer 412 as EINVAL).
_EXISTS_ERRNO = {errno.EEXIST, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A listed object: its name, size in bytes, and when it was last written if the store says."""

    name: str
    size: int
    written: datetime | None


class ObjectStore:
    """Objects below one prefix. Safe for use from several threads."""

    def __init__(self, filesystem: Any, prefix: str) -> None:
        self._fs = filesystem
        self._prefix = prefix.rstrip("/")
        protocol = filesystem.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

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

    def put_pieces(self, name: str, produce: "Produce") -> None:
        """`put` of what ``produce`` hands, piece by piece, to the function that it is given.

        What it raises is raised here, and no object is left. An S3 store takes whole objects only: there the pieces are
        gathered in memory first.
        """
        path = self._path(name)
        try:
            if self._local:
                self._put_local(path, produce)
            elif hasattr(self._fs, "s3"):
                gathered = bytearray()
                produce(gathered.extend)
                self._fs.pipe_file(path, bytes(gathered), mode="create")
            else:
                with self._fs.open(path, "xb") as file:
                    produce(file.write)
        except FileExistsError as error:
            raise Conflict("an object of that name exists already") from error
        except OSError as error:
            if error.errno in _EXISTS_ERRNO and self.size(name) is not None:
                raise Conflict("an object of that name exists already") from error
            raise _unavailable("written", error) from error

    def _put_local(self, path: str, produce: "Produce") -> None:
        unfinished = f"{self._prefix}/{_UNFINISHED}"
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

    def discard_unfinished(self, before: datetime) -> None:
        """Remove what puts left that were killed before then."""
        folder = f"{self._prefix}/{_UNFINISHED}"
        if not self._local or not os.path.isdir(folder):
            return
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            try:
                if os.stat(path).st_mtime < before.timestamp():
                    os.unlink(path)
            except FileNotFoundError:
                continue

    def settle(self, folder: str) -> None:
        """Make the names of a folder's new objects durable; called before the catalog refers to them."""
        if not self._local:
            return
        path = self._path(folder)
        while path.startswith(self._prefix):
            if os.path.isdir(path):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            path = os.path.dirname(path)

    def get(self, name: str) -> bytes:
        """A whole object; raises NotFound or Unavailable."""
        path = self._path(name)
        try:
            if self._local:
                with open(path, "rb") as file:
                    return file.read()
            return bytes(self._fs.cat_file(path))
        except FileNotFoundError as error:
            raise NotFound(f"the object {name} is missing from the store") from error
        except OSError as error:
            raise _unavailable("read", error) from error

    def open(self, name: str, size: int) -> "StoredObject":
        """An object of that size, to be read in pieces.

        One that is missing, or not as long, raises NotFound or IntegrityError here or at the first piece; where the
        store is not local, one that is longer is read as if it were not.
        """
        if self._local and (found := self.size(name)) not in {None, size}:
            raise IntegrityError(f"the object {name} has {found} bytes instead of {size}")
        return StoredObject(self, name, size)

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of an object; raises NotFound, Unavailable, or IntegrityError where it is shorter."""
        path = self._path(name)
        try:
            if self._local:
                found = _read_range(path, start, stop)
            else:
                found = bytes(self._fs.cat_file(path, start=start, end=stop))
        except FileNotFoundError as error:
            raise NotFound(f"the object {name} is missing from the store") from error
        except OSError as error:
            raise _unavailable("read", error) from error
        if len(found) != stop - start:
            raise IntegrityError(f"the object {name} is shorter than it was")
        return found

    def link(self, name: str, seconds: int) -> str | None:
        """An address that anybody may read the object at for that long, or None where the store has no such thing.

        Raises Unavailable where it cannot be signed at present.
        """
        path = self._path(name)
        try:
            return str(self._fs.sign(path, expiration=seconds))
        except NotImplementedError:
            return None
        except (OSError, ValueError) as error:
            raise Unavailable(f"an address for an object could not be signed ({type(error).__name__})") from error

    def size(self, name: str) -> int | None:
        """An object's size in bytes, or None where there is none."""
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable("looked at", error) from error

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Every object below a folder; an absent folder is empty."""
        root = self._path(folder)
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(root, detail=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unavailable("listed", error) from error
        for path, info in sorted(found.items()):
            name = folder + str(path)[str(path).rindex(f"/{folder}/") + len(folder) + 1 :]
            yield ObjectInfo(name, int(info["size"]), _written(info))

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unavailable("deleted", error) from error


@final
class StoredObject:
    """An object of a known size by ranges (a `vault.chunks.Readable`)."""

    #: Few requests, and little memory.
    step = 8 << 20

    def __init__(self, store: ObjectStore, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._tail: memoryview | None = None
        self.size = size

    def read(self, start: int, stop: int) -> memoryview:
        """Exactly these bytes."""
        # A chunk's frame and footer are several small reads at its end: one request serves them.
        last = self.size - min(self.size, _TAIL)
        if last <= start and stop - start < _TAIL:
            if self._tail is None:
                self._tail = memoryview(self._store.get_range(self._name, last, self.size))
            return self._tail[start - last : stop - last]
        return memoryview(self._store.get_range(self._name, start, stop))

    def __repr__(self) -> str:
        return f"StoredObject({self._name})"


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


def _unavailable(verb: str, error: OSError) -> Unavailable:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return Unavailable(f"an object could not be {verb} in the store ({reason})")


def _written(info: dict[str, Any]) -> datetime | None:
    for field in ("mtime", "LastModified", "created"):
        value = info.get(field)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return None


def open_store(url: str, option: str = "--store") -> ObjectStore:
    """Open a store by fsspec URL or plain path; raises InvalidInput, naming the option, for one that cannot be used."""
    try:
        filesystem, prefix = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidInput(
            f"{option}: the URL cannot be used, or the package for its scheme is not installed"
        ) from error
    return ObjectStore(filesystem, prefix)
