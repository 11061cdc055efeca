"""What statistics leave possible: a sound over-estimate of what a filter can come to, for many shards at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from vault.filters.statistics import ShardStatistics
from vault.filters.tree import And, Compare, In, IsNull, Like, Literal, Node, Not, Or, Path

__all__ = ["Possible", "possible"]

_MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
#: A literal as the value that its column is compared with.
ValueOf = Callable[[Path, Literal], pa.Scalar]
_Mask = Any


@dataclass(frozen=True, slots=True)
class Possible:
    """For each shard whether some row may make a condition true, and whether some row may make it false; never null."""

    true: _Mask
    false: _Mask


@dataclass(frozen=True, slots=True)
class _Bounds:
    low: pa.Array
    high: pa.Array
    nulls: pa.Array
    rows: pa.Array

    @property
    def some(self) -> _Mask:
        """Where not every value is null."""
        return pc.less(self.nulls, self.rows)


def possible(node: Node, statistics: ShardStatistics, value_of: ValueOf) -> Possible:
    """What a condition may come to over rows with these statistics; unknown means anything."""
    match node:
        case Not(item):
            inner = possible(item, statistics, value_of)
            return Possible(true=inner.false, false=inner.true)
        case And(items):
            each = [possible(item, statistics, value_of) for item in items]
            return Possible(reduce(pc.and_, [one.true for one in each]), reduce(pc.or_, [one.false for one in each]))
        case Or(items):
            each = [possible(item, statistics, value_of) for item in items]
            return Possible(reduce(pc.or_, [one.true for one in each]), reduce(pc.and_, [one.false for one in each]))
        case IsNull(path):
            stats = _of(path, statistics)
            return _anything(statistics) if stats is None else Possible(pc.greater(stats.nulls, 0), stats.some)
        case Compare(operator, Path() as path, Literal() as literal):
            return _compare(operator, path, literal, statistics, value_of)
        case Compare(operator, Literal() as literal, Path() as path):
            return _compare(_MIRRORED[operator], path, literal, statistics, value_of)
        case In(path, listed, _):
            stats = _of(path, statistics)
            some = _all(statistics, value=True) if stats is None else stats.some
            hits = [_compare("=", path, literal, statistics, value_of) for literal in listed]
            return Possible(
                true=reduce(pc.or_, [hit.true for hit in hits], _all(statistics, value=False)),
                false=reduce(pc.and_, [hit.false for hit in hits], some),
            )
        case Like(path, _):
            stats = _of(path, statistics)
            return _anything(statistics) if stats is None else Possible(stats.some, stats.some)
        case Compare():
            return _anything(statistics)


def _all(statistics: ShardStatistics, *, value: bool) -> _Mask:
    return pa.repeat(pa.scalar(value), len(statistics.rows))


def _anything(statistics: ShardStatistics) -> Possible:
    mask = _all(statistics, value=True)
    return Possible(mask, mask)


def _of(path: Path, statistics: ShardStatistics) -> _Bounds | None:
    found = statistics.columns.get(path.names[0]) if len(path.names) == 1 else None
    if found is None:
        return None
    low, high, nulls = (pc.struct_field(found, name) for name in ("min", "max", "nulls"))
    return _Bounds(low, high, nulls, statistics.rows)


def _within(low: pa.Array, high: pa.Array, value: pa.Scalar) -> _Mask:
    return pc.and_(pc.less_equal(low, value), pc.greater_equal(high, value))


def _differs(low: pa.Array, high: pa.Array, value: pa.Scalar) -> _Mask:
    return pc.or_(pc.not_equal(low, value), pc.not_equal(high, value))


#: For each operator whether some value between the bounds may satisfy it, and whether some may not.
_RANGES: Final[Mapping[str, tuple[Callable[..., _Mask], Callable[..., _Mask]]]] = {
    "=": (_within, _differs),
    "<>": (_differs, _within),
    "<": (lambda low, _, value: pc.less(low, value), lambda _, high, value: pc.greater_equal(high, value)),
    "<=": (lambda low, _, value: pc.less_equal(low, value), lambda _, high, value: pc.greater(high, value)),
    ">": (lambda _, high, value: pc.greater(high, value), lambda low, _, value: pc.less_equal(low, value)),
    ">=": (lambda _, high, value: pc.greater_equal(high, value), lambda low, _, value: pc.less(low, value)),
}


def _compare(operator: str, path: Path, literal: Literal, statistics: ShardStatistics, value_of: ValueOf) -> Possible:
    stats = _of(path, statistics)
    if stats is None:
        return _anything(statistics)
    value = value_of(path, literal)
    if value.type != stats.low.type:
        return Possible(stats.some, stats.some)
    # A bound that is null is not known, so anything may be; where every value is null, nothing is true or false.
    true, false = (
        pc.and_(stats.some, pc.fill_null(test(stats.low, stats.high, value), True)) for test in _RANGES[operator]
    )
    return Possible(true, false)
