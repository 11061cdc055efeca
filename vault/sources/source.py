"""Opening whatever a publisher gives as one stream of batches under one schema."""

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.sources.columnar import columnar_schema, read_columnar
from vault.sources.csv_rows import infer_csv, read_csv
from vault.sources.evolving import evolved
from vault.sources.files import SourceFile, expand
from vault.sources.json_rows import infer_json, read_json
from vault.sources.merging import conform, merge_schemas
from vault.sources.stretches import Run, divide

__all__ = ["Source", "open_source"]

_JSON = {"jsonl", "json"}


class Source:
    """Rows of one schema, read once. Memory stays bounded however many there are."""

    schema: pa.Schema
    #: Bytes to be read in all, both passes counted, where that is known.
    total_bytes: int | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; every batch has exactly ``schema``."""
        raise NotImplementedError

    def position(self) -> int:
        """Bytes read so far."""
        return 0

    def divided(self, rows: int) -> list[Run] | None:  # noqa: ARG002
        """Runs of about so many rows that other processes can read; None where only this one can."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open between batches."""


def open_source(source: Any, *, schema: pa.Schema | None = None, evolve: bool = False) -> Source:
    """Open paths, URLs, an Arrow table, batch or reader, or anything with ``__arrow_c_stream__``.

    With ``schema`` (an append) the rows must fit it: columns that are missing become nulls, others are refused. With
    ``evolve`` the schema grows instead by new columns and wider types. Raises InvalidInput with one sentence that names
    the file, and the line where it is known.
    """
    if isinstance(source, str | os.PathLike):
        return _Files(expand([os.fspath(source)]), schema, evolve=evolve)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | os.PathLike) for item in source):
        return _Files(expand([os.fspath(item) for item in source]), schema, evolve=evolve)
    return _Arrow(_reader(source), schema, evolve=evolve)


def _reader(source: Any) -> Any:
    if isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        return source
    if hasattr(source, "__arrow_c_stream__"):
        try:
            return pa.RecordBatchReader.from_stream(source)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidInput("the source cannot be read as a stream of Arrow rows") from error
    raise InvalidInput("the source is neither a path nor a table that Arrow can read")


class _Arrow(Source):
    """A table or stream in memory, passed on without copying."""

    def __init__(self, rows: Any, schema: pa.Schema | None, *, evolve: bool) -> None:
        self._rows = rows
        if schema is not None and evolve:
            schema = evolved("the source", schema, rows.schema, text=False)
        elif schema is not None:
            _check_fits("the source", rows.schema, schema)
        if schema is not None:
            _check_there("the source", rows.schema, schema)
        self.schema = schema if schema is not None else rows.schema
        self.total_bytes = rows.nbytes if isinstance(rows, pa.Table) else None
        self._read = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as they are."""
        batches = self._rows.to_batches() if isinstance(self._rows, pa.Table) else self._rows
        try:
            for batch in batches:
                self._read += batch.nbytes
                yield conform(batch, self.schema)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput("the source failed while it was read") from error

    def position(self) -> int:
        """Bytes of Arrow memory handed out."""
        return self._read


def _check_fits(where: str, given: pa.Schema, schema: pa.Schema) -> None:
    for field in given:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise InvalidInput(f"{where}: the dataset has no column {field.name!r}")
        wanted = schema.field(index).type
        if field.type != wanted and not pt.is_null(field.type):
            raise InvalidInput(f"{where}: the column {field.name!r} is {field.type}, and {wanted} in the dataset")


def _check_there(where: str, given: pa.Schema, schema: pa.Schema) -> None:
    """A column may be missing only where nulls may stand for it."""
    for field in schema:
        if not field.nullable and field.name not in given.names:
            raise InvalidInput(f"{where}: the column {field.name!r} is missing, and may hold no nulls in the dataset")


class _Files(Source):
    """Files of any known formats, one behind the other."""

    def __init__(self, files: Sequence[SourceFile], schema: pa.Schema | None, *, evolve: bool) -> None:
        self._files = files
        self._read = 0
        passes = {"jsonl": 2, "json": 2, "csv": 2}
        sizes = [file.size for file in files]
        if all(size is not None for size in sizes):
            self.total_bytes = sum(
                (file.size or 0) * (passes.get(file.format, 1) if schema is None or evolve else 1) for file in files
            )
        if schema is not None and evolve:
            for file in files:
                given = self._infer(file)
                schema = evolved(file.shown, schema, given, text=file.format in _JSON | {"csv"})
        self._schemas = [schema if schema is not None else self._infer(file) for file in files]
        if schema is not None:
            for file in files:
                if file.format in {"parquet", "arrow"}:
                    given = columnar_schema(file)
                    if not evolve:
                        _check_fits(file.shown, given, schema)
                    _check_there(file.shown, given, schema)
            self.schema = schema
        else:
            named = [(file.shown, each) for file, each in zip(files, self._schemas, strict=True)]
            widen = all(file.format in _JSON | {"csv"} for file in files)
            self.schema = merge_schemas(named, widen=widen)

    def _count(self, count: int) -> None:
        self._read += count

    def _infer(self, file: SourceFile) -> pa.Schema:
        if file.format in _JSON:
            return infer_json(file, self._count)
        if file.format == "csv":
            return infer_csv(file, self._count)
        return columnar_schema(file)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of every file, in order."""
        for file in self._files:
            for batch in self._rows(file):
                yield conform(batch, self.schema)

    def _rows(self, file: SourceFile) -> Iterator[pa.RecordBatch]:
        if file.format in _JSON:
            return read_json(file, self.schema, self._count)
        if file.format == "csv":
            return read_csv(file, self.schema, self._count)
        return read_columnar(file, self._count)

    def divided(self, rows: int) -> list[Run] | None:
        """Parquet files by row groups, and several files by file."""
        return divide(self._files, rows)

    def position(self) -> int:
        """Bytes read from storage."""
        return self._read
