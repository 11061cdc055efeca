"""Writing a stream of rows to a file, whole or not at all.

The format follows the ending. JSON has no NaN and no infinity: there they are text, as ProtoJSON has them. Rows go to a
temporary file beside the target, readable for its owner only, which is moved into place when the last row is in it and
removed when anything fails.
"""

import base64
import csv
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID

import pyarrow as pa

from vault.encoding import new_id
from vault.errors import InvalidInput
from vault.incoming import values_within

__all__ = [
    "ENDINGS",
    "check_ending",
    "plain_rows",
    "python_rows",
    "replacing",
    "representable",
    "write_reader",
    "write_table_as",
]

#: Values within a column of what is only looked at.
_MOST_SHOWN: Final = 100_000
ENDINGS: Final = (".arrow", ".csv", ".jsonl", ".parquet")


def check_ending(path: "str | os.PathLike[str]") -> str:
    """The ending of a file that can be written; raises InvalidInput naming those that can, and for a directory."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise InvalidInput(f"-o: {path}: the ending must be one of {', '.join(ENDINGS)}")
    if Path(path).is_dir():
        raise InvalidInput(f"-o: {path}: this is a directory; name a file")
    return ending


def write_table_as(
    reader: pa.RecordBatchReader,
    path: "str | os.PathLike[str]",
    on_rows: Callable[[int], None] = lambda _rows: None,
    folder: Path | None = None,
) -> int:
    """Write every row; returns their number. Raises InvalidInput, and what the reader raises.

    ``folder`` is where the temporary file is, by default beside the target; it is to be on the same file system.
    """
    ending, target, rows = check_ending(path), Path(path), 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in reader:
            yield batch
            rows += batch.num_rows
            on_rows(rows)

    with replacing(target, folder or target.parent) as file:
        _WRITERS[ending](reader.schema, counted(), file)
    return rows


def write_reader(reader: pa.RecordBatchReader, ending: str, file: Any) -> None:
    """Write every row to an open file in the form of an ending, to be read soon and not to be kept.

    Raises InvalidInput, and what the reader raises.
    """
    if ending == ".parquet":
        # Four times as fast as what is made for a disk; what repeats is still short.
        _parquet(reader.schema, iter(reader), file, compression="snappy", use_dictionary=False)
    else:
        _WRITERS[ending](reader.schema, iter(reader), file)


@contextmanager
def replacing(target: Path, folder: Path) -> Iterator[IO[bytes]]:
    """A file that takes the target's place when the block ends and is gone when it raises; InvalidInput names -o."""
    temporary = folder / f".{target.name}.{new_id()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidInput(f"-o: {target}: cannot be written ({error.strerror})") from error
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _parquet(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    file: IO[bytes],
    *,
    compression: str = "zstd",
    use_dictionary: bool = True,
) -> None:
    import pyarrow.parquet as pq  # the other forms do without

    with pq.ParquetWriter(file, schema, compression=compression, use_dictionary=use_dictionary) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _arrow(schema: pa.Schema, batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> None:
    # A stream inside of a file's frame cannot replace dictionaries between batches; a stream can.
    with pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _jsonl(_schema: pa.Schema, batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> None:
    for batch in batches:
        for row in python_rows(batch):
            file.write(_json(row).encode("utf-8") + b"\n")


def _csv(schema: pa.Schema, batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> None:
    class _Text:
        def write(self, text: str) -> int:
            return file.write(text.encode("utf-8"))

    writer = csv.writer(_Text(), lineterminator="\n")
    writer.writerow(schema.names)
    for batch in batches:
        with _nanoseconds(batch.schema):
            columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            writer.writerow([_cell(value) for value in row])


def python_rows(rows: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Rows as Python's values; raises InvalidInput where it has none for one."""
    with _nanoseconds(rows.schema):
        found: list[dict[str, Any]] = rows.to_pylist()
    return found


@contextmanager
def _nanoseconds(schema: pa.Schema) -> Iterator[None]:
    """Say what Arrow says of a time that is finer than a microsecond, for which it uses what pandas has."""
    try:
        yield
    except ValueError as error:
        if importlib.util.find_spec("pandas") is not None:
            raise
        names = [field.name for field in schema if "ns" in str(field.type)]
        raise InvalidInput(
            f"column {names[0] if names else schema.names[0]!r} has times finer than a microsecond, which pandas is "
            "needed for: pip install 'dsvault[pandas]', or have it written as Parquet or Arrow"
        ) from error


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of values that JSON holds, as a .jsonl file would have them."""
    return [json.loads(_json(row)) for row in python_rows(table)]


def representable(table: pa.Table) -> pa.Table:
    """The table, with a text instead of each column of which Python has no form for a value, or not for so many.

    Such are days after the year 9999, time stamps in a zone that there is not, and a list of a million nulls.
    """
    for place, name in enumerate(table.column_names):
        try:
            if values_within(table.column(place)) > _MOST_SHOWN:
                raise ValueError("too many to be shown")
            table.column(place).to_pylist()
        except (ArithmeticError, LookupError, ValueError, pa.ArrowException):
            instead = f"a value of {table.schema.field(place).type} that cannot be shown"
            table = table.set_column(place, name, pa.array([instead] * table.num_rows, pa.string()))
    return table


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, bool | list | dict):
        return _json(value, (", ", ": "))
    return _plain(value)


def _json(value: Any, separators: tuple[str, str] = (",", ":")) -> str:
    encoder = json.JSONEncoder(ensure_ascii=False, default=_plain, separators=separators, allow_nan=False)
    try:
        return encoder.encode(value)
    except ValueError:
        return encoder.encode(_named(value))


def _named(value: Any) -> Any:
    """The same with a text in the place of every number that JSON has no form for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> str:
    """A value that JSON has no form for, as text: times in ISO 8601, bytes in base64."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, timedelta | Decimal | UUID):
        return str(value)
    raise InvalidInput(f"-o: values of the type {type(value).__name__} cannot be written in this format")


_WRITERS: Final = {".arrow": _arrow, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
