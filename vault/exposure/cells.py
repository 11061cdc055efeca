"""Cells, each counted once: where a struct was served and a field of it too, the struct includes the field."""

from collections.abc import Iterable, Sequence
from typing import Any

from vault.exposure.exposure import Cells, Mask, Part
from vault.exposure.rows import RowSet, either

__all__ = ["counted", "shows"]

#: What a column left as: its shown name and masks.
_Shown = tuple[str, tuple[Mask, ...]]


def shows(seen: _Shown, other: _Shown) -> bool:
    """Whether who had a column as the one has had what is in the other, of the same column, too."""
    wider = other[0] == seen[0] or other[0].startswith(f"{seen[0]}.")
    return wider and (not seen[1] or seen[1] == other[1])


def counted(parts: Iterable[Part]) -> dict[str, Cells]:
    """The cells of all parts, by dataset id.

    What another part shows is counted there; and a cell of which a field was served exactly is among the exact ones.
    """
    places: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        # Without an id nothing but the name tells what the column is.
        column = part.column_id or part.column
        places.setdefault((part.dataset_id, part.version, part.state, column), []).append(part)
    found: dict[str, Cells] = {}
    for members in places.values():
        for part in members:
            before, more = found.get(part.dataset_id, Cells()), _own(part, members)
            found[part.dataset_id] = Cells(
                before.exact + more.exact, before.at_most + more.at_most, before.not_read + more.not_read
            )
    return found


def _own(part: Part, members: Sequence[Part]) -> Cells:
    """The cells of a part that are counted for it, among all parts of its column."""
    if len(members) == 1:
        return Cells(part.exact.count, part.bound.count, part.could.count)
    mine = part.column, part.masks
    others = [(each, (each.column, each.masks)) for each in members if each is not part]
    wider = [each for each, place in others if shows(place, mine)]
    fields = [each for each, place in others if shows(mine, place)]
    exact = _union(part, [each.exact for each in wider])
    had = either(exact, _union(part, [*(each.bound for each in wider), *(each.exact for each in fields)]))
    left = _union(part, [each.could for each in wider])
    return Cells((part.exact - exact).count, (part.bound - had).count, (part.could - left).count)


def _union(part: Part, sets: Iterable[RowSet]) -> RowSet:
    found = RowSet.of(part.layout)
    for each in sets:
        found = either(found, each)
    return found
