"""CSV with a header row, in two passes with bounded memory.

Everything in a CSV file is text, so a column's type is found over all of its rows: int64 where every value is a
whole number as one would write it (no leading zeros, which would be lost), else double, else bool, else text. An
empty field is null in a column of numbers or truth values, and the empty text in a text column.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from vault.errors import InvalidInput
from vault.model import check_column_names
from vault.sources.files import SourceFile

__all__ = ["infer_csv", "read_csv"]

_BLOCK: Final = 4 * 1024 * 1024
_PATTERNS: Final = (
    (pa.int64(), r"^-?(0|[1-9][0-9]{0,17})$"),
    (pa.float64(), r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"),
    (pa.bool_(), r"^(true|false|True|False|TRUE|FALSE)$"),
)
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]


def infer_csv(file: SourceFile, on_bytes: Callable[[int], None]) -> pa.Schema:
    """The schema of a whole file; raises InvalidInput."""
    names = _header(file)
    fitting = {name: [kind for kind, _ in _PATTERNS] for name in names}
    filled: set[str] = set()
    for batch in _batches(file, None, on_bytes):
        for name in names:
            values = batch.column(names.index(name))
            values = values.filter(pc.greater(pc.binary_length(values), 0))
            if len(values):
                filled.add(name)
            fitting[name] = [
                kind
                for kind, pattern in _PATTERNS
                if kind in fitting[name] and pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False
            ]
    return pa.schema([(name, _type(fitting[name], name in filled)) for name in names])


def _type(fitting: list[pa.DataType], has_values: bool) -> pa.DataType:
    return fitting[0] if fitting and has_values else pa.string()


def read_csv(file: SourceFile, schema: pa.Schema, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The rows under a schema; raises InvalidInput for a value that a column's type cannot hold."""
    return _batches(file, schema, on_bytes)


def _batches(file: SourceFile, schema: pa.Schema | None, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    ragged: list[Any] = []

    def on_ragged(row: Any) -> str:
        ragged.append(row)
        return "error"

    names = _header(file)
    if schema is not None:
        for name in names:
            if name not in schema.names:
                raise InvalidInput(f"{file.shown}: the dataset has no column {name!r}")
    types = {name: schema.field(name).type if schema else pa.string() for name in names}
    try:
        with file.opened(on_bytes) as stream:
            reader = pcsv.open_csv(
                stream,
                read_options=pcsv.ReadOptions(use_threads=False, block_size=_BLOCK),
                parse_options=pcsv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_ragged),
                convert_options=pcsv.ConvertOptions(
                    column_types=types,
                    null_values=[""],
                    strings_can_be_null=False,
                    true_values=_TRUE,
                    false_values=_FALSE,
                ),
            )
            yield from reader
    except (pa.ArrowException, ValueError) as error:
        if ragged:
            row = ragged[0]
            raise InvalidInput(
                f"{file.shown}: row {row.number}: there are {row.actual_columns} fields and not {row.expected_columns}"
            ) from error
        raise InvalidInput(_reason(file, str(error))) from error


def _reason(file: SourceFile, message: str) -> str:
    # pyarrow's sentence quotes the value, which stays out of ours.
    if "UTF8" in message or "UTF-8" in message:
        return f"{file.shown}: {_bad_line(file)}the text is not valid UTF-8"
    if "conversion error to" in message:
        kind = message.split("conversion error to ", 1)[1].split(":", 1)[0]
        column = message.split("In CSV column #", 1)[-1].split(":", 1)[0] if "In CSV column #" in message else "?"
        return f"{file.shown}: column {column} (from 0) has a value that is not {kind}"
    return f"{file.shown}: this is not valid CSV"


def _bad_line(file: SourceFile) -> str:
    with file.opened() as stream:
        rest, line = b"", 1
        while data := stream.read(_BLOCK):
            *lines, rest = (rest + data).split(b"\n")
            for each in lines:
                try:
                    each.decode("utf-8")
                except UnicodeDecodeError:
                    return f"line {line}: "
                line += 1
    return f"line {line}: " if rest else ""


def _header(file: SourceFile) -> list[str]:
    """The names in the first row, checked before anything is read under them."""
    try:
        with file.opened() as stream:
            reader = pcsv.open_csv(
                stream,
                read_options=pcsv.ReadOptions(use_threads=False, block_size=_BLOCK),
                parse_options=pcsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _row: "skip"),
                convert_options=pcsv.ConvertOptions(check_utf8=False),
            )
            names = list(reader.schema.names)
    except (pa.ArrowException, ValueError) as error:
        if "UTF" in str(error):
            raise InvalidInput(_reason(file, "UTF8")) from error
        raise InvalidInput(f"{file.shown}: there is no header row, or this is not CSV") from error
    check_column_names(names, f"{file.shown}: the header")
    return names
