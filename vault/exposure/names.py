"""Which column each name in an entry is of: names as they leave, such as ``meta.source``, beside ids of columns."""

from collections.abc import Mapping, Sequence

from vault.fields import parse_path

__all__ = ["column_of", "paired"]


def column_of(shown: str, names: Mapping[str, str]) -> str | None:
    """The name of the column that a shown name is of, or of whose field it is; ``names`` are the columns that exist."""
    if shown in names:
        return shown
    try:
        head = parse_path(shown)[0]
    except ValueError:
        return None
    return head if head in names else None


def paired(shown: Sequence[str], ids: Sequence[str], names: Mapping[str, str]) -> tuple[tuple[str, str], ...] | None:
    """The id of its column beside each shown name, or None where they cannot be told.

    ``ids`` has each column once, in the order of the names, of which a column has one for each of its fields that
    leaves; ``names`` are the columns' names by id. A column may be called ``a.b``, so that a name alone is not enough.
    """
    found: list[tuple[str, str]] = []
    at = 0
    for place, identity in enumerate(ids):
        name, left = names.get(identity), len(ids) - place - 1
        if at >= len(shown):
            return None
        if name is None or shown[at] == name:
            # A whole column, or one that nothing is known of, which is taken for whole.
            found.append((shown[at], identity))
            at += 1
            continue
        begun = at
        while at < len(shown) - left and _is_field(shown[at], name) and shown[at] not in shown[begun:at]:
            found.append((shown[at], identity))
            at += 1
        if at == begun:
            return None
    return tuple(found) if at == len(shown) else None


def _is_field(shown: str, name: str) -> bool:
    try:
        path = parse_path(shown)
    except ValueError:
        return False
    return len(path) > 1 and path[0] == name


def masks_on(shown: str, masks: Sequence[tuple[str, str]], names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of masks by the names of what they are on, those that are on a column or field, on a part of it, or above it.

    ``names`` are the names of the columns that exist.
    """
    place = _path(shown, names)
    found = []
    for masked, mask in masks:
        path = _path(masked, names)
        if path[: len(place)] == place or place[: len(path)] == path:
            found.append((masked, mask))
    return tuple(found)


def _path(shown: str, names: Mapping[str, str]) -> tuple[str, ...]:
    if shown in names:
        return (shown,)
    try:
        return parse_path(shown)
    except ValueError:
        return (shown,)
