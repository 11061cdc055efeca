"""What a fetch has got so far, kept beside the file that it is for, so that another run goes on from there.

Beside ``FILE`` it is the directory ``.FILE.dsvault-partial``, for its owner only, and in it, each of mode 0600:

    read.json    what is read: where, of what, and by which options; no secret
    rows.arrow   the rows, as an Arrow IPC stream that has no end yet
    journal      a line for each batch: ``checksum {"end": bytes, "rows": rows, "place": text or null}``
    lock         held by the one fetch that is under way

``end`` and ``rows`` count from the beginning; a ``place`` is a text of the broker's, sealed by it, that a read goes on
from. The checksum is XXH3-128 over the batch's bytes and the line's JSON: a batch that was cut, or lost with the power,
does not fit its line, and what is kept ends before it. That guards against bad luck and not against whoever may write
here, who could as well change the finished file. Nothing is here that the finished file will not have.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import pyarrow as pa
import xxhash

from vault.errors import Conflict, IntegrityError, InvalidInput

__all__ = ["Kept", "Partial"]

_FORMAT: Final = [1, 0]
#: What a power cut may take away: so many seconds of a fetch.
_SYNC_SECONDS: Final = 10.0
_PIECE: Final = 1 << 20
#: The end of an Arrow IPC stream is so long.
_END_BYTES: Final = 8
#: How often the directory may be gone again that was made just before.
_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of an earlier fetch that are whole: ``size`` bytes of them, and the place that the read goes on from."""

    schema: pa.Schema
    rows: int
    size: int
    place: str
    journal: int


@final
class Partial:
    """The rows beside one file, under a lock; close it when done with it.

    Raises Conflict where another fetch to the same file is under way, and InvalidInput where nothing can be kept.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.folder = target.parent / f".{target.name}.dsvault-partial"
        self._lock = self._locked()
        self._sink: _Sink | None = None
        self._writer: Any = None
        self._journal: IO[bytes] | None = None
        self._synced = time.monotonic()
        self.begun = False
        #: How many rows are kept up to the last place that a read can go on from.
        self.rows = 0
        self._all_rows = 0

    def _locked(self) -> int:
        # Whoever had it may remove it as it is opened, which cannot go on; a directory that was deleted under us, or
        # one of the kernel's, lets nothing be made in it, and that goes on for ever.
        for _ in range(_TRIES):
            try:
                self._make_folder()
                descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise InvalidInput(f"-o: {self._target}: cannot be written ({error.strerror})") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A lock on a file that was removed meanwhile keeps nobody out.
                if os.path.samestat(os.fstat(descriptor), os.stat(self.folder / "lock")):
                    return descriptor
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(descriptor)
                raise Conflict(f"-o: {self._target}: another fetch is writing this file") from None
            except OSError as error:
                os.close(descriptor)
                raise InvalidInput(f"-o: {self._target}: files cannot be locked there ({error.strerror})") from error
            os.close(descriptor)
        raise InvalidInput(f"-o: {self._target}: cannot be written: no file can be made in that directory")

    def _make_folder(self) -> None:
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        found = os.lstat(self.folder)
        # Whoever else could write here would choose the rows, and whoever else could read would have them.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise InvalidInput(f"{self.folder}: this is not a directory of yours alone; remove it")

    def kept(self, read: Mapping[str, Any]) -> tuple[Kept | None, str | None]:
        """What is here of this read, and why nothing is where something was: of another read, or damaged."""
        if self.empty:
            return None, None
        try:
            document = json.loads((self.folder / "read.json").read_bytes())
            if document != _document(read):
                return None, "what was kept is of a fetch with other options"
            found = self._verified()
        except (OSError, ValueError, pa.ArrowException):
            found = None
        if found is None:
            self._clear()
            return None, "what was kept of an earlier fetch is damaged"
        return found, None

    def _verified(self) -> Kept | None:
        """Up to the last batch that is whole and that a read can go on from."""
        best, end, rows, at = None, 0, 0, 0
        with open(self.folder / "journal", "rb") as journal, open(self.folder / "rows.arrow", "rb") as file:
            for line in journal:
                entry = _entry(line)
                if entry is None or entry["end"] <= end or entry["rows"] < rows:
                    break
                digest = _digest(file, entry["end"] - end)
                digest.update(line[33:].rstrip(b"\n"))
                if digest.hexdigest().encode() != line[:32]:
                    break
                end, rows, at = entry["end"], entry["rows"], at + len(line)
                if entry["place"] is not None:
                    best = (rows, end, entry["place"], at)
        if best is None:
            return None
        with pa.memory_map(str(self.folder / "rows.arrow")) as source, pa.ipc.open_stream(source) as stream:
            return Kept(stream.schema, *best)

    def replay(self, kept: Kept) -> Iterator[pa.RecordBatch]:
        """The batches that are kept; raises IntegrityError where they are not what was verified."""
        rows = 0
        with pa.memory_map(str(self.folder / "rows.arrow")) as source, pa.ipc.open_stream(source) as stream:
            while rows < kept.rows:
                try:
                    batch = stream.read_next_batch()
                except (StopIteration, OSError, pa.ArrowException) as error:
                    raise IntegrityError(f"{self.folder}: what was kept is damaged; remove it") from error
                rows += batch.num_rows
                yield batch

    def begin(self, read: Mapping[str, Any], schema: pa.Schema) -> None:
        """Keep the rows of a read from its beginning; what was here before is gone."""
        self._clear()
        with _new(self.folder / "read.json") as file:
            file.write(json.dumps(_document(read)).encode())
        self._write(schema, 0, 0)

    def go_on(self, kept: Kept) -> None:
        """Keep more rows behind those that are kept; what was behind them is gone."""
        self._clear("read.json", "rows.arrow", "journal")
        os.truncate(self.folder / "journal", kept.journal)
        os.truncate(self.folder / "rows.arrow", kept.size)
        self.rows = self._all_rows = kept.rows
        self._write(kept.schema, kept.size, _head_bytes(kept.schema))

    def _write(self, schema: pa.Schema, size: int, skip: int) -> None:
        self.begun = True
        # A writer of its own writes all dictionaries anew, which a stream allows at any place; the schema is there.
        self._sink = _Sink(_new(self.folder / "rows.arrow"), size, skip)
        self._journal = _new(self.folder / "journal")
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), schema)

    def add(self, batch: pa.RecordBatch, place: str | None) -> None:
        """Keep a batch; a read may go on behind it by the place, if there is one."""
        assert self._sink is not None
        assert self._journal is not None
        self._writer.write_batch(batch)
        self._sink.flush()
        self._all_rows += batch.num_rows
        text = json.dumps({"end": self._sink.size, "rows": self._all_rows, "place": place}).encode()
        self._journal.write(self._sink.checksum(text) + b" " + text + b"\n")
        self._journal.flush()
        if place is not None:
            self.rows = self._all_rows
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        for name in ("rows.arrow", "journal", "read.json", "."):
            _sync(self.folder / name)
        self._synced = time.monotonic()

    def become(self, target: Path) -> None:
        """End the stream of rows and move it to where it is to be."""
        assert self._sink is not None
        self._writer.close()
        self._sink.flush()
        _sync(self.folder / "rows.arrow")
        os.replace(self.folder / "rows.arrow", target)

    def close(self, *, remove: bool) -> None:
        """Let go of it; what nobody could go on from is removed in any case."""
        for file in (self._sink, self._journal):
            if file is not None:
                file.close()
        if remove:
            # The finished file is where it is to be, whatever happens to the power, before the rows are gone.
            _sync(self._target.parent)
            self._clear()
            with suppress(OSError):
                (self.folder / "lock").unlink()
                self.folder.rmdir()
        os.close(self._lock)

    @property
    def empty(self) -> bool:
        """Whether nothing is kept, of any read."""
        try:
            return not os.path.getsize(self.folder / "journal")
        except FileNotFoundError:
            return True

    def _clear(self, *but: str) -> None:
        for path in self.folder.iterdir():
            if path.name not in {"lock", *but}:
                path.unlink()


class _Sink:
    """Writes to the end of a file, and checks up what it writes; the first ``skip`` bytes are there already."""

    def __init__(self, file: IO[bytes], size: int, skip: int) -> None:
        self._file = file
        self._skip = skip
        self._digest = xxhash.xxh3_128()
        self.size = size
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        piece = view[min(self._skip, len(view)) :]
        self._skip -= len(view) - len(piece)
        # Arrow's writer may be closed by the collector, after the file was.
        if not self.closed:
            self._file.write(piece)
            self._digest.update(piece)
            self.size += len(piece)
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def checksum(self, text: bytes) -> bytes:
        """Of what was written since the last time, and of a text behind it."""
        self._digest.update(text)
        found = self._digest.hexdigest().encode()
        self._digest.reset()
        return found

    def close(self) -> None:
        self.closed = True
        self._file.close()


def _document(read: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, **read}


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line[33:])
        ends = line.endswith(b"\n") and isinstance(found["end"], int) and isinstance(found["rows"], int)
        return found if ends and isinstance(found["place"], str | None) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _digest(file: IO[bytes], count: int) -> "xxhash.xxh3_128":
    digest = xxhash.xxh3_128()
    while count and (data := file.read(min(count, _PIECE))):
        digest.update(data)
        count -= len(data)
    return digest


def _head_bytes(schema: pa.Schema) -> int:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return int(sink.getvalue().size) - _END_BYTES


def _new(path: Path) -> IO[bytes]:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "ab")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
