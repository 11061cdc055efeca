"""Stretches of a source: what a process can read by itself, wherever it runs, given nothing but an address.

Parquet files divide by row groups, and several files of any format by file. What only this process can read (a table
in memory, a reader, one text file) does not divide.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fsspec
import pyarrow as pa

from vault.errors import InvalidInput
from vault.sources.columnar import read_columnar, row_groups
from vault.sources.csv_rows import read_csv
from vault.sources.files import SourceFile
from vault.sources.json_rows import read_json
from vault.sources.merging import conform

__all__ = ["Run", "Stretch", "divide", "read_stretches", "rows_of"]

#: Bytes of files of unknown length, or of Parquet columns, in one run.
_RUN_BYTES: Final = 64 << 20
_GROUP_BYTES: Final = 256 << 20
#: File systems that exist in one process only.
_OWN: Final = frozenset({"memory"})


@dataclass(frozen=True, slots=True)
class Stretch:
    """Row groups ``first`` to before ``stop`` of a Parquet file, or a whole file (``stop`` None).

    ``size`` is the file's in bytes, ``rows`` what the stretch has where that is known.
    """

    url: str
    shown: str
    size: int | None
    first: int = 0
    stop: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring stretches that are read together, about how many bytes of storage they are, and their rows."""

    stretches: tuple[Stretch, ...]
    bytes: int
    rows: int | None


def divide(files: Sequence[SourceFile], rows: int) -> list[Run] | None:
    """Runs of about ``rows`` rows that together are the files; None where they do not divide.

    A run ends at the border of a row group or of a file. Raises InvalidInput for a damaged file.
    """
    addresses = [_address(file) for file in files]
    if None in addresses or (len(files) == 1 and files[0].format != "parquet"):
        return None
    gathered = _Gathered(rows)
    for file, url in zip(files, addresses, strict=True):
        assert url is not None
        if file.format != "parquet":
            gathered.add(Stretch(url, file.shown, file.size), file.size or _RUN_BYTES, _RUN_BYTES)
            continue
        for number, (count, weight) in enumerate(row_groups(file)):
            gathered.add(Stretch(url, file.shown, file.size, number, number + 1, count), weight, _GROUP_BYTES)
    return gathered.end()


class _Gathered:
    """Runs as they are put together."""

    def __init__(self, rows: int) -> None:
        self._most = rows
        self._runs: list[Run] = []
        self._open: list[Stretch] = []
        self._bytes = 0

    def add(self, stretch: Stretch, weight: int, most: int) -> None:
        rows = sum(each.rows or 0 for each in self._open) + (stretch.rows or 0)
        if self._open and (rows > self._most or self._bytes + weight > most):
            self._close()
        last = self._open[-1] if self._open else None
        if last is not None and stretch.stop is not None and (last.url, last.stop) == (stretch.url, stretch.first):
            joined = (last.rows or 0) + (stretch.rows or 0)
            stretch = Stretch(last.url, last.shown, last.size, last.first, stretch.stop, joined)
            self._open.pop()
        self._open.append(stretch)
        self._bytes += weight

    def _close(self) -> None:
        known = [each.rows for each in self._open if each.rows is not None]
        rows = sum(known) if len(known) == len(self._open) else None
        self._runs.append(Run(tuple(self._open), self._bytes, rows))
        self._open, self._bytes = [], 0

    def end(self) -> list[Run]:
        if self._open:
            self._close()
        return self._runs


def rows_of(runs: Sequence[Run]) -> list[int] | None:
    """How many rows are before each run; None where that is not known."""
    before = [0]
    for run in runs:
        if run.rows is None:
            return None
        before.append(before[-1] + run.rows)
    return before[:-1]


def _address(file: SourceFile) -> str | None:
    """A URL under which any process finds the file, or None."""
    protocol = file.filesystem.protocol
    if not _OWN.isdisjoint((protocol,) if isinstance(protocol, str) else protocol):
        return None
    url = str(file.filesystem.unstrip_protocol(file.path))
    filesystem, path = _opened(url)
    return url if type(filesystem) is type(file.filesystem) and path == file.path else None


def _opened(url: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidInput("a source's URL cannot be used where it is to be read") from error
    return filesystem, path


def read_stretches(stretches: Sequence[Stretch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of some stretches, in order, under the schema of the whole source.

    Raises InvalidInput where a file is not what it was when the source was divided.
    """
    for stretch in stretches:
        rows = 0
        for batch in _rows(stretch, schema):
            rows += batch.num_rows
            yield conform(batch, schema)
        if stretch.rows is not None and rows != stretch.rows:
            raise _changed(stretch)


def _rows(stretch: Stretch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    file = SourceFile.at(*_opened(stretch.url), stretch.shown)
    if stretch.size is not None and file.size != stretch.size:
        raise _changed(stretch)
    if file.format in {"jsonl", "json"}:
        return read_json(file, schema, _uncounted)
    if file.format == "csv":
        return read_csv(file, schema, _uncounted)
    groups = range(stretch.first, stretch.stop) if stretch.stop is not None else None
    return read_columnar(file, _uncounted, groups)


def _changed(stretch: Stretch) -> InvalidInput:
    return InvalidInput(f"{stretch.shown}: the file was changed while it was published")


def _uncounted(_count: int) -> None:
    """Whoever divided the source counts by stretches."""
