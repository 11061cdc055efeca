"""A lazy frame of polars over whatever can be scanned: only the columns and rows that a query needs are asked for.

polars says of a query which columns it reads, which rows it keeps, or how many it wants at the most. Columns and that
number are asked for as they are; of the rows what `vault.readers.predicates` can say. Every row that comes is filtered
here again, so that what a query gives is the same whatever was pushed down.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from vault.errors import InvalidInput
from vault.readers.conditions import LONGEST_CONDITION
from vault.readers.predicates import pushed
from vault.readers.readers import Readers

__all__ = ["lazy_frame"]

#: Of a condition's length what is kept for what stands around it.
_RESERVE: Final = 64


def lazy_frame(source: Readers, options: dict[str, Any]) -> pl.LazyFrame:
    """A lazy frame whose rows are read when it is collected, under the options of the source's `scan`.

    Each time it is collected it reads anew. Raises what the source's schema does, and InvalidInput.
    """
    taken = options.keys() & {"columns", "where", "limit"}
    if taken:
        raise InvalidInput(f"{sorted(taken)[0]}: say it in the query, or in lazy() before")
    whole = source.schema
    # Arrow's own empty table is made of lists, for each of which it asks pandas first, and loads it for that.
    empty = pl.DataFrame(pa.Table.from_batches([], whole))
    room = LONGEST_CONDITION - _RESERVE - source.condition_length()
    masked = source.unsearchable(**options)

    def frames(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        tree = _tree(predicate)
        names = None if with_columns is None else list(with_columns)
        if names is not None and predicate is not None:
            names += [name for name in predicate.meta.root_names() if name not in names]
        # No column at all is a count of rows, for which one has to be read.
        names = names if names != [] else [whole.names[0]]
        asked = dict(options)
        if n_rows is not None:
            # So many rows are what the predicate is asked of: it cannot come first.
            asked["limit"] = n_rows
        elif tree is not None and source.filters_first():
            conditions = pushed(tree, whole, room, masked).conditions
            if conditions:
                asked["where"] = " AND ".join(f"({each})" for each in conditions)
        with source.scan(columns=names, **asked) as reader:
            came = False
            for batch in reader:
                frame = pl.DataFrame(batch)
                frame = frame if predicate is None else frame.filter(predicate)
                came = True
                yield frame if with_columns is None else frame.select(with_columns)
            if not came:
                yield empty if with_columns is None else empty.select(with_columns)

    return register_io_source(frames, schema=empty.schema, validate_schema=False, is_pure=False)


def _tree(predicate: pl.Expr | None) -> Any:
    """A predicate's tree; None for none, and for one that nobody but polars can read, such as a function of Python."""
    try:
        return None if predicate is None else json.loads(predicate.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError):
        return None
