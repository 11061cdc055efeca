"""One set of readers for a vendor's slice and for the lab's own versions.

Whoever derives from `Readers` gives a schema and a scan; what a scan refuses, its readers refuse with the same words.
One that can be read in parts says so by its extent, and takes ``part`` and ``version`` in its scan. One that workers of
a loader may read pickles to what it is opened by, and to nothing secret.
"""

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vault.errors import InvalidInput
from vault.readers.parts import Extent, usual_parts

if TYPE_CHECKING:
    from vault.readers.lazy import Lazy

__all__ = ["PartReaders", "Readers"]


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

    def extent(self, *_args: Any, **_options: Any) -> Extent:
        """The version that would be read now, and its shards; raises InvalidInput where there are no parts to read."""
        raise InvalidInput("parts: this cannot be read in parts")

    def parts(self, of: int | None = None, **options: Any) -> "list[PartReaders]":
        """All parts of the version that is read now, by default as many as it has shards; each is read by itself.

        Together they have every row once. The options are those of `extent`. Once there is a newer version, reading one
        raises Conflict: then ask for the parts of that.
        """
        extent = self.extent(**options)
        number = usual_parts(of, extent)
        return [PartReaders(self, (index, number), extent.version, options) for index in range(number)]

    def to_arrow(self, **options: Any) -> pa.Table:
        """The rows as a table; takes the options of `scan`."""
        return self.scan(**options).read_all()

    def to_pandas(self, *, dtype_backend: str | None = None, **options: Any) -> Any:
        """The rows as a pandas DataFrame; takes the options of `scan`. Needs pandas.

        ``dtype_backend="pyarrow"`` keeps Arrow's types; else pandas has its own: whole numbers beside nulls are floats,
        and those of more than 53 bits are not exact then.
        """
        if dtype_backend not in {None, "pyarrow"}:
            raise InvalidInput("dtype_backend: use pyarrow, or leave it out")
        _needs("pandas")
        table = self.to_arrow(**options)
        if dtype_backend is None:
            return table.to_pandas()
        import pandas as pd  # an optional extra

        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def to_polars(self, **options: Any) -> Any:
        """The rows as a polars DataFrame; takes the options of `scan`. Needs polars."""
        _needs("polars")
        import polars as pl  # an optional extra

        return pl.DataFrame(self.to_arrow(**options))

    def to_torch(
        self,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        parts: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> Any:
        """The rows as a `torch.utils.data.IterableDataset` (`vault.readers.torch.Rows`); also takes `scan`'s options.

        It is read in ``parts``, by default as many as there are shards, which a loader's workers share. Needs torch.
        """
        _needs("torch")
        from vault.readers.torch import Rows  # an optional extra

        return Rows(
            self,
            _without_limit(options),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            parts=parts,
            rank=rank,
            world_size=world_size,
        )

    def to_datasets(self, *, parts: int | None = None, in_memory: bool = False, **options: Any) -> Any:
        """The rows as a `datasets.IterableDataset` of Hugging Face, with as many shards as ``parts``; needs datasets.

        It reads as it is iterated over, and writes nothing: the library's cache would be rows in plaintext on disk.
        With ``in_memory`` it is a `datasets.Dataset` of all rows in memory, which `save_to_disk` writes for who asks.
        """
        _needs("datasets")
        from vault.readers import huggingface  # an optional extra

        if in_memory:
            return huggingface.in_memory(self.to_arrow(**options))
        return huggingface.streaming(self, _without_limit(options), parts)

    def lazy(self) -> "Lazy":
        """What is to be read, put together step by step: ``.select(...)``, ``.where(...)``, ``.limit(...)``."""
        from vault.readers.lazy import Lazy  # which derives from this

        return Lazy(self)

    def scan_polars(self, **options: Any) -> Any:
        """The rows as a polars LazyFrame, which asks for the columns and rows that a query needs; needs polars.

        The options are those of `scan` beside ``columns``, ``where`` and ``limit``, which are the query's.
        """
        _needs("polars")
        from vault.readers.polars import lazy_frame  # with an optional extra

        return lazy_frame(self, options)

    def unsearchable(self, **_options: Any) -> frozenset[str]:
        """The columns that no condition may be about, such as masked ones."""
        return frozenset()

    def filters_first(self) -> bool:
        """Whether a condition can still be added."""
        return True

    def condition_length(self) -> int:
        """The length of the condition that a further one would be added to."""
        return 0

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """All rows through Arrow's C stream interface."""
        return self.scan().__arrow_c_stream__(requested_schema)


def _needs(package: str) -> None:
    """Raise InvalidInput where an extra's package is not there: before anything is read, and so counted, for it."""
    if importlib.util.find_spec(package) is None:
        raise InvalidInput(f"{package} is not installed: pip install 'dsvault[{package}]'")


def _without_limit(options: dict[str, Any]) -> dict[str, Any]:
    """What is read in parts has no limit in all; the rest as it is, without what says nothing."""
    given = {name: value for name, value in options.items() if value is not None}
    if given.keys() & {"limit", "part", "version"}:
        raise InvalidInput("limit, part, version: what is read in parts takes none of them")
    return given


@dataclass(frozen=True, slots=True)
class PartReaders(Readers):
    """One part of a version of ``whole``; ``options`` are added to those of each scan."""

    whole: Readers
    part: tuple[int, int]
    version: int
    options: dict[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """That of the whole."""
        return self.whole.schema

    def unsearchable(self, **options: Any) -> frozenset[str]:
        """Those of the whole."""
        return self.whole.unsearchable(**options)

    def scan(self, *args: Any, **options: Any) -> pa.RecordBatchReader:
        """Read the part as the whole would be read; raises Conflict where another version is read now."""
        return self.whole.scan(*args, **{**self.options, **options}, part=self.part, version=self.version)
