"""Putting an object into a store by requests, any of which may fail, or be done and have its answer lost.

A put that may have been done is made again, and then meets what it may have written itself. So whatever is met is
looked at: it is ours where it bears the mark of this very put, or where the store keeps no marks, every byte that was
to be written. What others wrote is theirs.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Final, final

from vault.encoding import new_id
from vault.objects.files import Files, Produce
from vault.objects.s3 import S3Files, Upload
from vault.objects.troubles import Trouble, patiently

__all__ = ["PART", "WHOLE", "parts_refused", "put_pieces"]

#: The largest object that is put with one request, in bytes; larger ones go in parts, a few of them at once.
WHOLE: Final = 32 << 20
PART: Final = 16 << 20
_AT_ONCE: Final = 3
#: Bytes read at once of an object that is looked at.
_STEP: Final = 8 << 20


def put_pieces(files: Files, path: str, produce: Produce, threads: Callable[[], Executor], seconds: float) -> None:
    """Write what is produced; raises FileExistsError, `Trouble`, and what the producer does, and leaves nothing then.

    Where the store takes no parts, and for an object that is not large, the pieces are gathered in memory first.
    """
    gathered = _Gathered(files, path, threads, seconds)
    try:
        produce(gathered.add)
        gathered.finish()
    except BaseException:
        gathered.abort()
        raise


def parts_refused(files: S3Files, path: str, seconds: float) -> bool:
    """Whether an object that goes in parts to a path that is taken is refused."""
    upload = patiently(lambda: files.upload(path, new_id()), seconds)
    try:
        part = patiently(lambda: upload.part(1, b"part"), seconds)
        upload.complete([part])
    except FileExistsError:
        return True
    finally:
        upload.abort()
    return False


@final
class _Gathered:
    """The pieces of one object."""

    def __init__(self, files: Files, path: str, threads: Callable[[], Executor], seconds: float) -> None:
        self._files = files
        self._path = path
        self._threads = threads
        self._seconds = seconds
        self._mark = new_id()
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._size = 0
        self._upload: Upload | None = None
        self._parts: list[dict[str, Any]] = []
        self._under_way: deque[Future[dict[str, Any]]] = deque()

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        self._buffer += piece
        if self._upload is None and isinstance(self._files, S3Files) and len(self._buffer) > WHOLE:
            files, path, mark = self._files, self._path, self._mark
            self._upload = patiently(lambda: files.upload(path, mark), self._seconds)
        while self._upload is not None and len(self._buffer) >= PART:
            self._send(bytes(self._buffer[:PART]))
            del self._buffer[:PART]

    def _send(self, data: bytes) -> None:
        upload = self._upload
        assert upload is not None
        self._count(data)
        number = len(self._parts) + len(self._under_way) + 1
        if len(self._under_way) >= _AT_ONCE:
            self._parts.append(self._under_way.popleft().result())
        self._under_way.append(self._threads().submit(patiently, lambda: upload.part(number, data), self._seconds))

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)

    def finish(self) -> None:
        """Make them the object."""
        if self._upload is None:
            data = bytes(self._buffer)
            self._settled(lambda: self._files.put(self._path, data, self._mark), data)
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        while self._under_way:
            self._parts.append(self._under_way.popleft().result())
        upload = self._upload
        self._settled(lambda: upload.complete(self._parts), None)
        self._upload = None

    def abort(self) -> None:
        """Leave nothing of them."""
        for future in self._under_way:
            future.cancel()
        for future in self._under_way:
            with suppress(BaseException):
                future.result()
        if self._upload is not None:
            self._upload.abort()

    def _settled(self, request: Callable[[], None], data: bytes | None) -> None:
        """Make the request that makes the object; ``data`` is all of it, None where it was counted already."""
        try:
            patiently(request, self._seconds)
        except (FileExistsError, FileNotFoundError) as error:
            # An upload that was completed is not found any more.
            if data is not None:
                self._count(data)
            if self._is_ours():
                return
            if isinstance(error, FileNotFoundError):
                raise Trouble("the place to write to was not found", again=False) from error
            raise

    def _is_ours(self) -> bool:
        """Whether what is at the path was written here: by its mark, or where it has none, by every byte of it."""
        found = hashlib.sha256()
        try:
            size, mark = patiently(lambda: self._files.looked_at(self._path), self._seconds)
            if mark is not None or size != self._size:
                return mark == self._mark and size == self._size
            for start in range(0, size, _STEP):
                found.update(self._there(start, min(start + _STEP, size)))
        except FileNotFoundError:
            return False
        return found.digest() == self._digest.digest()

    def _there(self, start: int, stop: int) -> bytes:
        return patiently(lambda: self._files.read(self._path, start, stop), self._seconds)
