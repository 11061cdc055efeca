"""What of its grants a file system reads, and the client that reads it.

Whoever opens or looks at a file is answered after the broker was asked whether the grant still stands and of which
version its rows are. So a revoked grant is refused at once, however lately its file was made.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from vault.client import Client, connect
from vault.errors import Conflict, InvalidInput, NotGranted, Unavailable, VaultError
from vault.fields import parse_path
from vault.filesystem.made import Kept, Made
from vault.projection import has_field
from vault.sinks import ENDINGS, write_reader
from vault.wire import OfferedGrant

__all__ = ["Access", "Options", "Place", "Source", "absolute_paths", "source_of"]

_NOTHING: Final = "no dataset or column of that name is granted to you"
_NO_FILE: Final = "there is no such file; a dataset has latest.parquet and that of its newest version"
_PATHS: Final = ("profile", "key", "ca", "client_cert", "client_key")
_DELIVERIES: Final = (None, "stream", "lease")
KEEP_SECONDS: Final = 60.0
KEEP_BYTES: Final = 1 << 30
_LONGEST_KEPT: Final = 3600.0
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Options:
    """The storage options, as values: equal ones are of one and the same access and slice."""

    profile: str
    key: str | None = None
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    columns: tuple[str, ...] | None = None
    where: str | None = None
    limit: int | None = None
    delivery: str | None = None
    keep_seconds: float = KEEP_SECONDS
    keep_bytes: int = KEEP_BYTES

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Options":
        """From storage options with absolute paths; raises InvalidInput naming the one at fault."""
        for name in given:
            if name == "grant":
                raise InvalidInput("grant: name it in the path, as in dsvault://evals@<grant id>/latest.parquet")
            if name not in cls.__slots__:
                raise InvalidInput(
                    f"{name[:80]}: there is no such storage option; there are {', '.join(cls.__slots__)}"
                )
        found = dict(given)
        if found.get("columns") is not None:
            found["columns"] = _columns(found["columns"])
        if not isinstance(found.get("where"), str | None):
            raise InvalidInput("where: give a condition as text")
        if found.get("delivery") not in _DELIVERIES:
            raise InvalidInput("delivery: use stream or lease")
        _check_number(found, "limit", 2**62)
        _check_number(found, "keep_bytes", 2**62)
        seconds = found.get("keep_seconds", KEEP_SECONDS)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_KEPT:
            raise InvalidInput("keep_seconds: give seconds, 0 to 3600")
        return cls(**found)


def absolute_paths(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every path absolute: instances are told apart by it, wherever the process goes.

    The profile is by default that of the variable ``DSVAULT_PROFILE``. Raises InvalidInput without one.
    """
    found = dict(given)
    if found.get("profile") is None:
        found["profile"] = os.environ.get("DSVAULT_PROFILE", "").strip() or None
    if found["profile"] is None:
        raise InvalidInput("profile: name the profile's file in storage_options, or in DSVAULT_PROFILE")
    for name in _PATHS:
        if (path := found.get(name)) is not None:
            found[name] = _absolute(name, path)
    return found


def _absolute(name: str, path: Any) -> str:
    # Whoever gives what is in the file and not its name finds no word of it in the sentence.
    if not isinstance(path, str | os.PathLike) or not (text := os.fspath(path)) or "{" in text or "\n" in text:
        raise InvalidInput(f"{name}: give the path of a file, and not what is in it")
    return os.path.abspath(os.fsdecode(text))


def _columns(columns: Any) -> tuple[str, ...]:
    names = columns.split(",") if isinstance(columns, str) else columns
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput("columns: give a list of names, or one text with commas between them")
    if not names or len(set(names)) != len(names):
        raise InvalidInput("columns: name at least one column, and none twice")
    return tuple(names)


def _check_number(found: Mapping[str, Any], name: str, most: int) -> None:
    number = found.get(name)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most):
        raise InvalidInput(f"{name}: give a whole number, 0 to 2**62")


@dataclass(frozen=True, slots=True)
class Place:
    """A path in parts: the dataset, which grant on it where it is named, and the file where it is one."""

    dataset: str
    grant: str | None
    file: str | None

    @classmethod
    def read(cls, path: str) -> "Place":
        """From a path without protocol; raises NotGranted for what can be none."""
        folder, _, file = path.partition("/")
        dataset, at, grant = folder.partition("@")
        if not dataset or (at and not grant) or "/" in file:
            raise NotGranted(_NOTHING)
        return cls(dataset, grant or None, file or None)


@dataclass(frozen=True, slots=True)
class Offered:
    """A file of a grant as the broker told of it just now; ``ending`` is the form that it has."""

    grant: OfferedGrant
    ending: str


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """A profile as it was read, and the files that were made under it. Safe for use from several threads.

    Files are never given out under another one: a profile that was narrowed may be of the same grants.
    """

    options: Options
    state: tuple[int, ...]
    client: Client
    kept: Kept

    def grants(self) -> list[OfferedGrant]:
        """Every live grant, as the broker says now."""
        return self.client.grants()

    def grant(self, place: Place) -> OfferedGrant:
        """The one grant that a place is of; raises NotGranted, and Conflict where it could be several."""
        found = [each for each in self.grants() if each.dataset == place.dataset and place.grant in {None, each.grant}]
        if not found:
            raise NotGranted(_NOTHING)
        if len(found) > 1:
            names = ", ".join(f"{place.dataset}@{each.grant}" for each in found)
            raise Conflict(f"several grants are on {place.dataset}; name one of them in the path: {names}")
        return found[0]

    def offered(self, place: Place) -> Offered:
        """The file at a place; raises NotGranted where there is none, and what `grant` does."""
        grant = self.grant(place)
        stem, dot, ending = (place.file or "").rpartition(".")
        if not dot or dot + ending not in ENDINGS or stem not in {"latest", f"v{grant.version}"}:
            raise NotGranted(_NO_FILE)
        return Offered(grant, dot + ending)

    def made(self, place: Place) -> tuple[Offered, Made]:
        """The file at a place; raises what the broker refuses the read with.

        The version is asked for before and after the read: what was made is of that version and under that grant.
        """
        for _ in range(_TRIES):
            offered = self.offered(place)
            key = self.key(offered)
            made = self.kept.found(key)
            if made is not None:
                return offered, made
            try:
                made = self.kept.get(key, lambda offered=offered: self._make(offered))  # type: ignore[misc]
            except NotGranted as error:
                # Where the file is still offered, it is what the options ask of it that is not granted.
                raise self._not_granted(self.offered(place).grant, error) from error
            if self.key(self.offered(place)) == key:
                return offered, made
        raise Unavailable("new versions came while the file was being read; open it again")

    def _not_granted(self, grant: OfferedGrant, error: NotGranted) -> VaultError:
        """The refusal of a read under a grant that stands, by the option at fault where one is."""
        options = self.options
        missing = next((name for name in options.columns or () if not _has(grant.schema, name)), None)
        if missing is not None:
            return InvalidInput(f"columns: {missing[:80]!r} is no column, or field of one, that is granted to you")
        if options.delivery == "lease":
            return InvalidInput("delivery: the grant allows no lease of these columns; use stream")
        if options.where is not None:
            return InvalidInput("where: it names a column that is not granted to you, or that is masked")
        return error

    def key(self, offered: Offered) -> tuple[str, str, int, str]:
        """What a made file is of."""
        return offered.grant.dataset, offered.grant.grant, offered.grant.version, offered.ending

    def _make(self, offered: Offered) -> pa.Buffer:
        options, grant = self.options, offered.grant
        reader = self.client.open(grant.dataset).scan(
            options.columns, options.where, options.limit, grant.grant, options.delivery
        )
        file = pa.BufferOutputStream()
        write_reader(reader, offered.ending, file)
        return file.getvalue()


def _has(schema: pa.Schema, name: str) -> bool:
    """Whether a column, or a field by its path, is in what a grant offers."""
    if name in schema.names:
        return True
    try:
        column, *fields = parse_path(name)
    except ValueError:
        return False
    return column in schema.names and has_field(schema.field(column), tuple(fields))


class Source:
    """One access and slice for all file systems of the process that ask for it. Safe for use from several threads."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._access: Access | None = None
        self._lock = threading.Lock()

    def access(self) -> Access:
        """The profile's file as it is now; raises InvalidInput where it cannot be read or used."""
        options = self.options
        try:
            found = os.stat(options.profile)
        except OSError as error:
            raise InvalidInput(f"{options.profile}: the profile cannot be read ({error.strerror})") from error
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            held = self._access
            if held is None or held.state != state:
                client = connect(
                    options.profile,
                    options.key,
                    ca=options.ca,
                    client_cert=options.client_cert,
                    client_key=options.client_key,
                )
                self._access = held = Access(options, state, client, Kept(options.keep_seconds, options.keep_bytes))
        return held


_SOURCES: Final[dict[Options, Source]] = {}
if hasattr(os, "register_at_fork"):
    # A forked process has connections of its own, and does not keep what was made before.
    os.register_at_fork(after_in_child=_SOURCES.clear)


def source_of(options: Options) -> Source:
    """The source of these options in this process."""
    return _SOURCES.setdefault(options, Source(options))
