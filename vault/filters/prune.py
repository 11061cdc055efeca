"""What statistics leave possible: a sound over-estimate of what a filter can come to in a shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vault.filters.statistics import ColumnStats
from vault.filters.tree import And, Compare, In, IsNull, Like, Literal, Node, Not, Or, Path

__all__ = ["Possible", "possible"]

_MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Possible:
    """Whether some row may make a condition true, and whether some row may make it false."""

    true: bool
    false: bool


_ANYTHING = Possible(true=True, false=True)
_ONLY_NULL = Possible(true=False, false=False)


def possible(node: Node, statistics: Mapping[str, ColumnStats], values: Mapping[tuple[Path, Literal], Any]) -> Possible:
    """What a condition may come to over rows with these statistics; unknown means anything."""
    match node:
        case Not(item):
            inner = possible(item, statistics, values)
            return Possible(true=inner.false, false=inner.true)
        case And(items):
            each = [possible(item, statistics, values) for item in items]
            return Possible(all(one.true for one in each), any(one.false for one in each))
        case Or(items):
            each = [possible(item, statistics, values) for item in items]
            return Possible(any(one.true for one in each), all(one.false for one in each))
        case IsNull(path):
            stats = _of(path, statistics)
            return _ANYTHING if stats is None else Possible(stats.nulls > 0, stats.nulls < stats.rows)
        case Compare(operator, Path() as path, Literal() as literal):
            return _compare(operator, _of(path, statistics), values[path, literal])
        case Compare(operator, Literal() as literal, Path() as path):
            return _compare(_MIRRORED[operator], _of(path, statistics), values[path, literal])
        case In(path, listed, _):
            stats = _of(path, statistics)
            hits = [_compare("=", stats, values[path, literal]).true for literal in listed]
            return Possible(true=any(hits), false=not _all_null(stats))
        case Like(path, _):
            return _ONLY_NULL if _all_null(_of(path, statistics)) else _ANYTHING
        case Compare():
            return _ANYTHING


def _of(path: Path, statistics: Mapping[str, ColumnStats]) -> ColumnStats | None:
    return statistics.get(path.names[0]) if len(path.names) == 1 else None


def _all_null(stats: ColumnStats | None) -> bool:
    return stats is not None and stats.nulls == stats.rows


def _compare(operator: str, stats: ColumnStats | None, value: Any) -> Possible:
    if stats is None:
        return _ANYTHING
    if _all_null(stats):
        return _ONLY_NULL
    low: Any = stats.minimum
    high: Any = stats.maximum
    if low is None or high is None:
        return _ANYTHING
    match operator:
        case "=":
            return Possible(low <= value <= high, not (low == high == value))
        case "<>":
            return Possible(not (low == high == value), low <= value <= high)
        case "<":
            return Possible(low < value, high >= value)
        case "<=":
            return Possible(low <= value, high > value)
        case ">":
            return Possible(high > value, low <= value)
        case _:
            return Possible(high >= value, low < value)
