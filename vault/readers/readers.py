"""One set of readers for a vendor's slice and for the lab's own versions.

Whoever derives from `Readers` gives a schema and a scan; what a scan refuses, its readers refuse with the same words.
"""

from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa

__all__ = ["Readers"]


class Readers(ABC):
    """Rows that can be scanned, as what other libraries take.

    Works wherever Arrow's C stream interface does (`__arrow_c_stream__`): ``pl.DataFrame(it)``, ``duckdb.from_arrow``.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The Arrow schema of all columns."""

    @abstractmethod
    def scan(self, *args: Any, **options: Any) -> pa.RecordBatchReader:
        """Read rows: the options are at least ``columns``, ``where`` and ``limit``."""

    def to_arrow(self, **options: Any) -> pa.Table:
        """The rows as a table; takes the options of `scan`."""
        return self.scan(**options).read_all()

    def to_pandas(self, **options: Any) -> Any:
        """The rows as a pandas DataFrame; takes the options of `scan`. Needs pandas."""
        return self.to_arrow(**options).to_pandas()

    def to_polars(self, **options: Any) -> Any:
        """The rows as a polars DataFrame; takes the options of `scan`. Needs polars."""
        import polars as pl  # an optional extra

        return pl.DataFrame(self.to_arrow(**options))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """All rows through Arrow's C stream interface."""
        return self.scan().__arrow_c_stream__(requested_schema)
