"""Paths into nested columns, and which fields of a column there are.

A path is a sequence of names and never a dotted string, since a column or a field may be called ``a.b``. Its text is
that of a row filter: names with dots between them, a name in double quotes where it is not plain. ``Fields`` are the
paths below a column, sorted, none of them beginning with another; None in their place means the whole column.
"""

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["Fields", "Path", "below", "covers", "is_fields", "parse_path", "path_text", "shown", "union"]

Path = tuple[str, ...]
Fields = tuple[Path, ...]

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME: Final = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


def parse_path(text: str) -> Path:
    """The path that a text is; raises ValueError for one that is none."""
    names: list[str] = []
    at = 0
    while True:
        match = _NAME.match(text, at)
        if match is None:
            raise ValueError("not a path")
        names.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        at = match.end()
        if at == len(text):
            return tuple(names)
        if text[at] != ".":
            raise ValueError("not a path")
        at += 1


def path_text(path: Path) -> str:
    """The text of a path: `parse_path` gives it back."""
    return ".".join(name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"' for name in path)


def shown(path: Path) -> str:
    """A path for people: of a whole column its name as it is."""
    return path[0] if len(path) == 1 else path_text(path)


def union(paths: Iterable[Path]) -> Fields:
    """Paths as fields: what another covers is left out."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not kept or path[: len(kept[-1])] != kept[-1]:
            kept.append(path)
    return tuple(kept)


def is_fields(value: Fields) -> bool:
    """Whether these paths are fields of a column in their one written form."""
    return bool(value) and all(path and all(path) for path in value) and value == union(value)


def covers(fields: Fields | None, path: Path) -> bool:
    """Whether all that is at a path is among the fields."""
    return fields is None or any(path[: len(each)] == each for each in fields)


def below(fields: Fields | None, path: Path) -> Fields | None:
    """What of the fields is at a path or below it, none where the result is empty; None for the whole column."""
    if not path:
        return fields
    if covers(fields, path):
        return (path,)
    return tuple(each for each in fields or () if each[: len(path)] == path)
