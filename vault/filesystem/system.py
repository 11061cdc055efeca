"""The file system itself, as fsspec has it.

    dsvault://evals/latest.parquet          the newest version
    dsvault://evals/v3.parquet              the same, as long as 3 is the newest
    dsvault://evals@<grant id>/latest.csv   under one of several grants

A directory lists ``latest.parquet`` alone, so that whoever reads a directory reads its rows once; the other names and
endings are there for who asks for them.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from fsspec import AbstractFileSystem
from fsspec.config import apply_config

from vault.filesystem.asking import Access, Options, Place, Source, absolute_paths, source_of
from vault.filesystem.made import Handle
from vault.filesystem.refusals import NoFile, ReadOnly, as_a_file_system_says
from vault.wire import OfferedGrant

__all__ = ["DsvaultFileSystem"]

_LISTED: Final = "latest.parquet"
_NEVER: Final = datetime.fromtimestamp(0, UTC)
#: What fsspec itself takes beside a file system's own options.
_FSSPECS: Final = frozenset(
    {"asynchronous", "batch_size", "listings_expiry_time", "loop", "max_paths", "skip_instance_cache"}
    | {"use_listings_cache"}
)


class _WithPaths(type(AbstractFileSystem)):  # type: ignore[misc]
    """fsspec caches instances by their options: here with absolute paths, and the profile of the environment.

    Else a process that went to another directory, or was given another profile, would go on under the first one.
    """

    def __call__(cls, profile: Any = None, **options: Any) -> Any:
        given = options if profile is None else {"profile": profile, **options}
        with as_a_file_system_says():
            return super().__call__(**absolute_paths(apply_config(cls, given)))


class DsvaultFileSystem(AbstractFileSystem, metaclass=_WithPaths):  # type: ignore[misc]
    """What a profile is granted, as files that can be read.

    ``profile`` is the path of the vendor's profile, by default ``DSVAULT_PROFILE``; ``key``, ``ca``, ``client_cert``
    and ``client_key`` are those of `vault.connect`, and ``columns``, ``where``, ``limit`` and ``delivery`` those of
    `vault.Dataset.scan`, of every file that is read. A made file is given out for ``keep_seconds`` and beyond
    ``keep_bytes`` of them the oldest go. Nothing is sent before a path is asked for. Raises InvalidInput.
    """

    protocol = "dsvault"
    root_marker = ""

    def __init__(self, profile: str, **options: Any) -> None:
        more = {name: value for name, value in options.items() if name in _FSSPECS}
        own = {name: value for name, value in options.items() if name not in _FSSPECS}
        with as_a_file_system_says():
            self._options = Options.read({"profile": profile, **own})
        super().__init__(**more)
        self._held: tuple[int, Source] | None = None

    @property
    def _source(self) -> Source:
        # An instance that lives on in a forked process does not share the connections of its parent.
        held = self._held
        if held is None or held[0] != os.getpid():
            self._held = held = (os.getpid(), source_of(self._options))
        return held[1]

    @property
    def _access(self) -> Access:
        return self._source.access()

    def __repr__(self) -> str:
        return f"DsvaultFileSystem({self._options.profile})"

    # Looking

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory, or the file itself; raises FileNotFoundError, and others."""
        with as_a_file_system_says():
            found = self._listed(self._strip_protocol(path))
        return found if detail else [each["name"] for each in found]

    def _listed(self, path: str) -> list[dict[str, Any]]:
        if not path:
            return self._datasets()
        place = Place.read(path)
        if place.file is not None:
            self._access.offered(place)
            return [self._file(path)]
        self._access.grant(place)
        return [self._file(f"{path}/{_LISTED}")]

    def _datasets(self) -> list[dict[str, Any]]:
        """A directory for each dataset, and for each grant on it where there are several."""
        grants = self._access.grants()
        names = [grant.dataset for grant in grants]

        def shown(grant: OfferedGrant) -> str:
            return grant.dataset if names.count(grant.dataset) == 1 else f"{grant.dataset}@{grant.grant}"

        return [_directory(name) for name in sorted(map(shown, grants))]

    def _file(self, path: str) -> dict[str, Any]:
        """A file in a list. It is not made for that, so its size is told where it has been made already."""
        access = self._access
        kept = access.kept.found(access.key(access.offered(Place.read(path))))
        return {"name": path, "type": "file", "size": kept.data.size if kept is not None else None}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """A path with its exact size, for which the file is made; raises FileNotFoundError, and others."""
        path = self._strip_protocol(path)
        with as_a_file_system_says():
            if not path:
                return _directory("")
            place = Place.read(path)
            if place.file is None:
                self._access.grant(place)
                return _directory(path)
            offered, made = self._access.made(place)
        grant = offered.grant
        return {
            "name": path,
            "type": "file",
            "size": made.data.size,
            "mtime": made.made,
            "dataset": grant.dataset,
            "grant": grant.grant,
            "version": grant.version,
        }

    def modified(self, path: str) -> datetime:
        """When a file was made."""
        return self.info(path).get("mtime", _NEVER)  # type: ignore[no-any-return]

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a path; what else the broker says no with is raised, and not taken for a no."""
        return self._kind(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether it is a file; raises as `exists` does."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether it is a dataset, or all of them; raises as `exists` does."""
        return self._kind(path) == "directory"

    def _kind(self, path: str) -> str | None:
        path = self._strip_protocol(path)
        if not path:
            return "directory"
        try:
            with as_a_file_system_says():
                place = Place.read(path)
                if place.file is None:
                    self._access.grant(place)
                    return "directory"
                self._access.offered(place)
                return "file"
        except FileNotFoundError:
            return None

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **options: Any
    ) -> Iterator[Any]:
        """As fsspec has it, but that a refusal is raised: it would look as if there were no files."""
        with as_a_file_system_says():
            self._access.grants()
        return super().walk(path, maxdepth, topdown, on_error, **options)  # type: ignore[no-any-return]

    # Reading

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Handle:
        if mode != "rb":
            self._refuse()
        with as_a_file_system_says():
            place = Place.read(path)
            if place.file is None:
                self._access.grant(place)
                raise NoFile(f"{path} is a dataset; open its file {_LISTED}")
            return Handle(path, self._access.made(place)[1].data)

    # Writing

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse what would write; raises PermissionError."""
        raise ReadOnly("dsvault:// is read-only: nothing can be written, moved or removed there")

    mkdir = makedirs = makedir = mkdirs = rmdir = touch = truncate = _refuse
    put = put_file = upload = pipe = pipe_file = write_bytes = write_text = _refuse
    rm = rm_file = _rm = delete = cp = cp_file = copy = mv = move = rename = start_transaction = _refuse


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "type": "directory", "size": 0}
