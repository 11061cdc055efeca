"""Statistics of a column in a shard, and how many shards' are held side by side.

Kept in the sealed manifest only. They may only ever say less than is true: bounds are exact or absent, and a
column whose values do not order plainly (NaN, long text, nested types) has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vault.filters.literals import comparable, normal_type
from vault.filters.views import decoded

__all__ = ["ShardStatistics", "collect_stats"]

_MAX_TEXT: Final = 64


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """The statistics of a run of shards, one element each: their rows, and by column name what
    `collect_stats` gave. A column that is not there has none.
    """

    rows: pa.Array
    columns: Mapping[str, pa.StructArray]


def collect_stats(column: pa.ChunkedArray) -> pa.StructArray | None:
    """The statistics of a top-level column, or None for a type that is not compared.

    One element of ``struct<min, max, nulls: int64>``; the bounds are of the type that the column is compared in, and
    null where they are not known.
    """
    kind = normal_type(column.type)
    if not comparable(kind) or pt.is_time(kind):
        return None
    if pt.is_dictionary(column.type):
        column = decoded(column)
    nulls = column.null_count
    if nulls == len(column):
        return _stats(None, None, kind, nulls)
    if column.type != kind and not (pt.is_string(column.type) or pt.is_date64(column.type)):
        column = column.cast(kind)
    if pt.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
        return _stats(None, None, kind, nulls)
    bounds = pc.min_max(column)
    low, high = bounds["min"].cast(kind), bounds["max"].cast(kind)
    if pt.is_large_string(kind) and max(len(low.as_py()), len(high.as_py())) > _MAX_TEXT:
        return _stats(None, None, kind, nulls)
    return _stats(low, high, kind, nulls)


def _stats(low: pa.Scalar | None, high: pa.Scalar | None, kind: pa.DataType, nulls: int) -> pa.StructArray:
    bounds = [pa.nulls(1, kind) if bound is None else pa.array([bound], kind) for bound in (low, high)]
    return pa.StructArray.from_arrays([*bounds, pa.array([nulls], pa.int64())], ["min", "max", "nulls"])
