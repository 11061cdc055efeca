"""Finding and opening source files: paths, directories, globs and fsspec URLs, plain or compressed."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import fsspec
import pyarrow as pa

from vault.errors import InvalidInput

__all__ = ["SourceFile", "expand"]

_FORMATS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
_TEXT: Final = {"jsonl", "json", "csv"}


def _format_of(path: str) -> tuple[str, str | None] | None:
    """Format and compression by the ending, or None for one that is not known."""
    stem, ending = os.path.splitext(path.lower())
    compression = _COMPRESSIONS.get(ending)
    if compression is not None:
        ending = os.path.splitext(stem)[1]
    kind = _FORMATS.get(ending)
    if kind is None or (compression is not None and kind not in _TEXT):
        return None
    return kind, compression


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: how a person calls it, its format, compression, and size in bytes if known."""

    filesystem: Any
    path: str
    shown: str
    format: str
    compression: str | None
    size: int | None

    @classmethod
    def at(cls, filesystem: Any, path: str, shown: str) -> "SourceFile":
        """The file at a path; raises InvalidInput where there is none of a known format."""
        try:
            found = _file(filesystem, path, shown)
        except FileNotFoundError as error:
            raise InvalidInput(f"{shown}: there is no such file where it is to be read") from error
        except OSError as error:
            raise InvalidInput(f"{shown}: the file cannot be read") from error
        if found is None:
            raise InvalidInput(f"{shown}: the ending is not known")
        return found

    @property
    def local(self) -> bool:
        """Whether it is a plain file of this machine."""
        protocol = self.filesystem.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @contextmanager
    def opened(self, on_bytes: Callable[[int], None] = lambda _count: None) -> Iterator[Any]:
        """The (decompressed) bytes as a pyarrow stream; ``on_bytes`` is told what was read from storage."""
        try:
            with self.filesystem.open(self.path, "rb") as raw:
                stream: Any = pa.PythonFile(_Counted(raw, on_bytes), mode="r")
                if self.compression is not None:
                    stream = pa.CompressedInputStream(stream, self.compression)
                yield stream
        except FileNotFoundError as error:
            raise InvalidInput(f"{self.shown}: there is no such file") from error
        except PermissionError as error:
            raise InvalidInput(f"{self.shown}: the file may not be read") from error
        except OSError as error:
            if self.compression is not None:
                raise InvalidInput(f"{self.shown}: the {self.compression} file is cut off or damaged") from error
            raise InvalidInput(f"{self.shown}: the file cannot be read") from error


class _Counted:
    """A binary file that tells how much was read from it."""

    def __init__(self, raw: Any, on_bytes: Callable[[int], None]) -> None:
        self._raw = raw
        self._on_bytes = on_bytes
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._raw.read(size)
        self._on_bytes(len(data))
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._raw.seekable())

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._raw.seek(position, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        """Nothing is written."""


def expand(sources: Sequence[str]) -> list[SourceFile]:
    """Every file that the sources name, in order; raises InvalidInput for one that names none.

    A directory stands for the files of known endings in it, a glob for those that match; hidden files are
    passed over. A file that is named must have a known ending.
    """
    return [found for source in sources for found in _expand(source)]


def _expand(source: str) -> list[SourceFile]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        if any(character in path for character in "*?[") and not filesystem.exists(path):
            paths = sorted(filesystem.glob(path))
        elif filesystem.isdir(path):
            paths = sorted(entry["name"] for entry in filesystem.ls(path, detail=True) if entry["type"] == "file")
        else:
            return [_named(filesystem, path, source)]
        files = [_file(filesystem, each, _shown(source, each)) for each in paths if not _hidden(each)]
    except (ImportError, ValueError) as error:
        raise InvalidInput(f"{source}: the URL cannot be used, or the package for its scheme is missing") from error
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be looked into") from error
    known = [file for file in files if file is not None]
    if not known:
        raise InvalidInput(f"{source}: there are no files of a known format ({', '.join(sorted(_FORMATS))})")
    return known


def _named(filesystem: Any, path: str, source: str) -> SourceFile:
    if not filesystem.exists(path):
        raise InvalidInput(f"{source}: there is no such file")
    file = _file(filesystem, path, source)
    if file is None:
        endings = ", ".join(sorted(_FORMATS))
        raise InvalidInput(f"{source}: the ending is not known; use {endings}, text formats also with .gz or .zst")
    return file


def _file(filesystem: Any, path: str, shown: str) -> SourceFile | None:
    kind = _format_of(path)
    if kind is None:
        return None
    size = filesystem.info(path).get("size")
    return SourceFile(filesystem, path, shown, kind[0], kind[1], int(size) if size is not None else None)


def _hidden(path: str) -> bool:
    return path.rstrip("/").rsplit("/", 1)[-1].startswith((".", "_"))


def _shown(source: str, path: str) -> str:
    scheme, separator, _ = source.partition("://")
    return scheme + separator + path if separator else path
