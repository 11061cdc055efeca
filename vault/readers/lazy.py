"""What is to be read, put together step by step; nothing is read before it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from vault.errors import InvalidInput
from vault.readers.conditions import all_of
from vault.readers.parts import Extent
from vault.readers.readers import Readers

__all__ = ["Lazy"]


@dataclass(frozen=True, slots=True, repr=False)
class Lazy(Readers):
    """A scan to be: ``of.lazy().select("id").where("lang = 'en'").limit(10).to_pandas()``.

    Each step gives a new one. Conditions are of the rows before a limit, as in a scan. ``columns`` are those that are
    read, None for all; ``conditions`` all hold; ``count`` is how many rows at the most.
    """

    of: Readers
    columns: tuple[str, ...] | None = None
    conditions: tuple[str, ...] = ()
    count: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of what comes, whose fields of nested columns are only known when it is read."""
        whole = self.of.schema
        if self.columns is None:
            return whole
        if any(name not in whole.names for name in self.columns):
            return self.scan(limit=0).schema
        return pa.schema([whole.field(name) for name in self.columns])

    def extent(self, **options: Any) -> Extent:
        """That of what it is of; raises InvalidInput where there is a limit, which is not one of each part."""
        if self.count is not None:
            raise InvalidInput("parts: what has a limit is not read in parts")
        return self.of.extent(**options)

    def unsearchable(self, **options: Any) -> frozenset[str]:
        """Those of what it is of."""
        return self.of.unsearchable(**options)

    def filters_first(self) -> bool:
        """Not once there is a limit."""
        return self.count is None

    def condition_length(self) -> int:
        """That of its own conditions, joined."""
        return sum(len(each) + len(" AND ()") for each in self.conditions)

    def lazy(self) -> "Lazy":
        """Itself."""
        return self

    def select(self, *columns: str) -> "Lazy":
        """These columns, or fields of them such as ``meta.source``, in this order; of a selection again, some of it."""
        if not columns or len(set(columns)) != len(columns) or not all(isinstance(name, str) for name in columns):
            raise InvalidInput("columns: name at least one column, and none twice")
        self._check_selected(columns)
        return replace(self, columns=columns)

    def where(self, condition: str) -> "Lazy":
        """Only rows for which this is true, and what was said before; raises InvalidInput for text that is none."""
        if self.count is not None:
            raise InvalidInput("where: a condition goes before the limit")
        conditions = (*self.conditions, condition)
        all_of(conditions)
        return replace(self, conditions=conditions)

    def limit(self, count: int) -> "Lazy":
        """At most so many rows."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidInput("limit: give a whole number of rows")
        return replace(self, count=count if self.count is None else min(count, self.count))

    def collect(self) -> pa.Table:
        """The rows as a table, as `to_arrow` has them."""
        return self.to_arrow()

    def scan(
        self, columns: Sequence[str] | None = None, where: str | None = None, limit: int | None = None, **options: Any
    ) -> pa.RecordBatchReader:
        """Read it, or of it what the options narrow it to; the others are those of the scan that it is of."""
        asked = self if columns is None else self.select(*columns)
        asked = asked if where is None else asked.where(where)
        asked = asked if limit is None else asked.limit(limit)
        return self.of.scan(
            columns=list(asked.columns) if asked.columns is not None else None,
            where=all_of(asked.conditions),
            limit=asked.count,
            **options,
        )

    def _check_selected(self, columns: Sequence[str]) -> None:
        if self.columns is not None and not set(columns) <= set(self.columns):
            raise InvalidInput("columns: what was selected before does not have all of them")

    def __repr__(self) -> str:
        return f"Lazy({self.of!r})"
