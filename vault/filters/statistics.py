"""Statistics of a column in a shard, and what they rule out.

Kept in the sealed manifest only. They may only ever say less than is true: bounds are exact or absent, and a
column whose values do not order plainly (NaN, long text, nested types) has none.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vault.errors import IntegrityError
from vault.filters.literals import comparable, normal_type
from vault.filters.views import decoded

__all__ = ["ColumnStats", "collect_stats", "stats_from_json", "stats_to_json"]

_MAX_TEXT: Final = 64
_Bound = bool | int | float | Decimal | str


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """Bounds (None where unknown) in the values that `vault.filters.literals.value_of` gives, and counts."""

    minimum: _Bound | None
    maximum: _Bound | None
    nulls: int
    rows: int


def collect_stats(column: pa.ChunkedArray) -> ColumnStats | None:
    """The statistics of a top-level column, or None for a type that is not compared."""
    kind = normal_type(column.type)
    if not comparable(kind) or pt.is_time(kind):
        return None
    nulls, rows = column.null_count, len(column)
    if pt.is_dictionary(column.type):
        column = decoded(column)
        nulls = column.null_count
    if nulls == rows:
        return ColumnStats(None, None, nulls, rows)
    if column.type != kind and not (pt.is_string(column.type) or pt.is_date64(column.type)):
        column = column.cast(kind)
    if pt.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
        return ColumnStats(None, None, nulls, rows)
    bounds = pc.min_max(column)
    low, high = (_plain(bounds[name], kind) for name in ("min", "max"))
    if isinstance(low, str) and isinstance(high, str) and max(len(low), len(high)) > _MAX_TEXT:
        low = high = None
    return ColumnStats(low, high, nulls, rows)


def _plain(bound: pa.Scalar, kind: pa.DataType) -> Any:
    if pt.is_date32(kind):
        return bound.cast(pa.date32()).value
    if pt.is_timestamp(kind):
        return bound.value
    return bound.as_py()


def stats_to_json(stats: ColumnStats) -> dict[str, Any]:
    """As JSON: floats in hexadecimal, decimals as text, each with its kind."""
    return {
        "min": _bound_json(stats.minimum),
        "max": _bound_json(stats.maximum),
        "nulls": stats.nulls,
        "rows": stats.rows,
    }


def _bound_json(bound: _Bound | None) -> Any:
    if isinstance(bound, float):
        return {"float": bound.hex()}
    if isinstance(bound, Decimal):
        return {"decimal": str(bound)}
    return bound


def stats_from_json(document: Any) -> ColumnStats:
    """Inverse of `stats_to_json`; raises IntegrityError."""
    try:
        return ColumnStats(
            _bound(document["min"]), _bound(document["max"]), int(document["nulls"]), int(document["rows"])
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise IntegrityError("a chunk's statistics lack a field") from error


def _bound(value: Any) -> _Bound | None:
    if isinstance(value, dict):
        return float.fromhex(value["float"]) if "float" in value else Decimal(value["decimal"])
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError("not a bound")
