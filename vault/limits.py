"""Limits of a grant: how many rows, bytes and requests it is good for, in all and on one day (UTC).

What was used is counted in the catalog, by every broker of a vault together, and always before it leaves: a row that
was not charged is not served. Pure functions; the counting is the catalog's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vault.errors import InvalidInput, LimitReached

__all__ = ["NAMES", "Usage", "check_limits", "left", "refuse_used_up"]

_KINDS: Final = ("requests", "rows", "bytes")
#: What every reader of JSON takes for the number that it is ends before.
_BEYOND: Final = 2**53
#: What a grant may limit; bytes are those of the Arrow columns that are served, uncompressed.
NAMES: Final = tuple(f"{kind}{span}" for kind in _KINDS for span in ("", "_per_day"))


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of a grant: requests, rows and bytes, in all and on the present day."""

    total: Mapping[str, int]
    today: Mapping[str, int]


def check_limits(limits: Mapping[str, int]) -> dict[str, int]:
    """The limits as a grant signs them; raises InvalidInput naming the option."""
    for name, most in limits.items():
        option = f"--max-{name.replace('_', '-')}"
        if name not in NAMES:
            raise InvalidInput(f"{option}: there is no such limit; there are {', '.join(NAMES)}")
        if isinstance(most, bool) or not isinstance(most, int) or not 0 < most < _BEYOND:
            raise InvalidInput(f"{option}: give a whole number, 1 to {_BEYOND - 1}")
    return dict(limits)


def left(limits: Mapping[str, int], usage: Usage, kind: str) -> int | None:
    """How much of a kind may still be used; None where it is not limited."""
    rest = []
    if kind in limits:
        rest.append(limits[kind] - usage.total.get(kind, 0))
    if f"{kind}_per_day" in limits:
        rest.append(limits[f"{kind}_per_day"] - usage.today.get(kind, 0))
    return max(0, min(rest)) if rest else None


def refuse_used_up(limits: Mapping[str, int], usage: Usage) -> None:
    """Raises LimitReached where nothing more can be asked for under a grant, with what is used up."""
    for kind in _KINDS:
        if left(limits, usage, kind) == 0:
            day = kind not in limits or usage.total.get(kind, 0) < limits[kind]
            span = "for today (UTC)" if day else "in all"
            raise LimitReached(f"the grant's limit of {kind} {span} is used up")
