"""JSON: one object a line, or an array of objects, in two passes with bounded memory.

The first pass finds one type for every column over the whole input; the second reads under that schema. Both cut
the input into blocks of whole rows. A JSON string stays a string even when it looks like a time. A number is
int64 where every one is a whole number in its range, and double otherwise. When a block does not parse, it is
read again row by row, to name the line.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.sources.files import SourceFile
from vault.sources.merging import Contradiction, merge_types

__all__ = ["infer_json", "read_json"]

_BLOCK: Final = 8 * 1024 * 1024
_THREADS: Final = 2
#: An empty name, or a number that JSON does not have; inside of a text these are found and let go again.
_ODD: Final = re.compile(rb'""\s*:|[:,\[]\s*-?(NaN|Inf)')
_BOM: Final = b"\xef\xbb\xbf"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole rows, one a line; ``first`` is the number of the first line (or row of an array), from 1."""

    data: bytes
    first: int


def infer_json(file: SourceFile, on_bytes: Callable[[int], None]) -> pa.Schema:
    """The schema of a whole file; raises InvalidInput naming the line at fault."""
    merged: pa.DataType = pa.struct([])
    with file.opened(on_bytes) as stream:
        for block, kind in _in_order(lambda block: _block_type(file, block), _blocks(file, stream)):
            try:
                merged = merge_types(merged, kind, "", widen=True)
            except Contradiction:
                _explain(file, block, merged)
                raise
    names = [merged.field(index).name for index in range(merged.num_fields)]
    if not names:
        raise InvalidInput(f"{file.shown}: there are no rows, or none with a column")
    return pa.schema([merged.field(index) for index in range(merged.num_fields)])


def read_json(file: SourceFile, schema: pa.Schema, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The rows under a schema; raises InvalidInput for a field that it does not have, or another type."""
    with file.opened(on_bytes) as stream:
        for _, table in _in_order(lambda block: _parse(file, block, schema), _blocks(file, stream)):
            yield from table.to_batches()


def _in_order(function: Callable[[_Block], _Result], blocks: Iterator[_Block]) -> Iterator[tuple[_Block, _Result]]:
    waiting: deque[tuple[_Block, Future[_Result]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dsvault-json") as pool:
        try:
            for block in blocks:
                waiting.append((block, pool.submit(function, block)))
                if len(waiting) > _THREADS:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


# Blocks


def _blocks(file: SourceFile, stream: Any) -> Iterator[_Block]:
    return _array_blocks(file, stream) if file.format == "json" else _line_blocks(stream)


def _line_blocks(stream: Any) -> Iterator[_Block]:
    rest, line, fresh = b"", 1, True
    while True:
        data = stream.read(_BLOCK)
        if fresh:
            data, fresh = data.removeprefix(_BOM), False
        if not data:
            break
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            rest += data
            continue
        block = rest + data[:cut]
        rest = data[cut:]
        yield _Block(block, line)
        line += block.count(b"\n")
    if rest.strip():
        yield _Block(rest, line)


def _array_blocks(file: SourceFile, stream: Any) -> Iterator[_Block]:
    rows, size, first = [], 0, 1
    for count, row in enumerate(_array_items(file, stream), 1):
        rows.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())
        size += len(rows[-1])
        if size >= _BLOCK:
            yield _Block(b"\n".join(rows), first)
            rows, size, first = [], 0, count + 1
    if rows:
        yield _Block(b"\n".join(rows), first)


def _array_items(file: SourceFile, stream: Any) -> Iterator[Any]:
    """The items of an array through a window that grows to the longest of them."""
    text = _Text(file, stream)
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
    if text.next_character() != "[":
        raise InvalidInput(f"{file.shown}: a .json file holds an array of objects; one object a line is .jsonl")
    text.skip(1)
    row = 1
    while (character := text.next_character()) != "]":
        if row > 1:
            if character != ",":
                raise InvalidInput(f"{file.shown}: row {row}: this is not valid JSON")
            text.skip(1)
            text.next_character()
        yield text.value(decoder, row)
        row += 1
    text.skip(1)
    if text.next_character():
        raise InvalidInput(f"{file.shown}: something follows the array")


class _Text:
    """A sliding window over the UTF-8 text of a stream."""

    def __init__(self, file: SourceFile, stream: Any) -> None:
        self._file = file
        self._stream = stream
        self._window = ""
        self._at = 0
        self._bytes = b""
        self._ended = False
        self._fill()
        self._window = self._window.removeprefix("\ufeff")

    def _fill(self) -> bool:
        data = self._stream.read(max(_BLOCK, len(self._window)))
        self._ended = not data
        self._bytes += data
        try:
            text = self._bytes.decode("utf-8")
            self._bytes = b""
        except UnicodeDecodeError as error:
            if self._ended or len(self._bytes) - error.start >= 4:
                raise InvalidInput(f"{self._file.shown}: the text is not valid UTF-8") from error
            text, self._bytes = self._bytes[: error.start].decode("utf-8"), self._bytes[error.start :]
        self._window = self._window[self._at :] + text
        self._at = 0
        return not self._ended

    def next_character(self) -> str:
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._fill():
                return ""

    def skip(self, count: int) -> None:
        self._at += count

    def value(self, decoder: json.JSONDecoder, row: int) -> Any:
        while True:
            try:
                found, end = decoder.raw_decode(self._window, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, _BadRow):
                    raise InvalidInput(f"{self._file.shown}: row {row}: {error}") from error
                if isinstance(error, RecursionError) or not self._fill():
                    raise InvalidInput(f"{self._file.shown}: row {row}: this is not valid JSON") from error
                continue
            if end == len(self._window) and self._fill():
                continue  # a number might go on behind the window
            self._at = end
            if not isinstance(found, dict):
                raise InvalidInput(f"{self._file.shown}: row {row}: this is not an object")
            return found


class _BadRow(ValueError):
    """A row that is JSON and yet none that can be published."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BadRow("a column stands twice in the row")
    if "" in found:
        raise _BadRow("a column has an empty name")
    return found


def _no_constant(_name: str) -> Any:
    raise _BadRow("NaN and Infinity are not JSON")


# Types


def _block_type(file: SourceFile, block: _Block) -> pa.DataType:
    table = _parse(file, block, None)
    return pa.struct([(field.name, _without_times(field.type)) for field in table.schema])


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pt.is_timestamp(kind):
        return pa.string()
    if pt.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pt.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([(field.name, _without_times(field.type)) for field in fields])
    return kind


def _parse(file: SourceFile, block: _Block, schema: pa.Schema | None) -> pa.Table:
    """Parse a block; whatever pyarrow refuses is explained by reading it row by row."""
    if _is_suspect(block.data):
        _explain(file, block, pa.struct([]))
    try:
        if not block.data.strip():
            return pa.table({}) if schema is None else schema.empty_table()
        return pj.read_json(
            pa.BufferReader(block.data),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=schema,
                unexpected_field_behavior="infer" if schema is None else "error",
            ),
        )
    except (pa.ArrowException, ValueError, OSError) as error:
        _explain(file, block, pa.struct(list(schema)) if schema is not None else pa.struct([]), schema)
        raise InvalidInput(f"{file.shown}: lines {block.first} and on cannot be read as JSON rows") from error


def _is_suspect(data: bytes) -> bool:
    """Whether a block may hold what pyarrow lets through and JSON does not: it is then read row by row."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return _ODD.search(data) is not None


def _explain(file: SourceFile, block: _Block, known: pa.DataType, schema: pa.Schema | None = None) -> None:
    """Raise InvalidInput for the first row of a block that is at fault; returns where none is."""
    word = "row" if file.format == "json" else "line"
    seen = _kinds_of(known)
    for number, line in enumerate(block.data.split(b"\n"), block.first):
        if not line.strip():
            continue
        place = f"{file.shown}: {word} {number}"
        row = _row(place, line)
        if schema is not None:
            for name in row:
                if name not in schema.names:
                    raise InvalidInput(f"{place}: the dataset has no column {name!r}")
        _observe(place, "", row, seen)


def _row(place: str, line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{place}: the text is not valid UTF-8") from error
    try:
        row = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except _BadRow as error:
        raise InvalidInput(f"{place}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{place}: this is not valid JSON") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"{place}: this is not an object")
    return row


def _kinds_of(kind: pa.DataType, path: str = "") -> dict[str, str]:
    """The JSON kind at every path of a type."""
    if pt.is_null(kind):
        return {}
    if pt.is_struct(kind):
        found = {path: "an object"}
        for index in range(kind.num_fields):
            field = kind.field(index)
            found |= _kinds_of(field.type, f"{path}.{field.name}" if path else field.name)
        return found
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return {path: "a list"} | _kinds_of(kind.value_type, f"{path}[]")
    if pt.is_boolean(kind):
        return {path: "true or false"}
    if pt.is_integer(kind) or pt.is_floating(kind):
        return {path: "a number"}
    return {path: "a text"}


def _observe(place: str, path: str, value: Any, seen: dict[str, str]) -> None:
    if value is None:
        return
    kind = _kind(value)
    if seen.setdefault(path, kind) != kind:
        raise InvalidInput(f"{place}: {path!r} is {kind} here and {seen[path]} in earlier rows")
    if isinstance(value, dict):
        for name, item in value.items():
            _observe(place, f"{path}.{name}" if path else name, item, seen)
    elif isinstance(value, list):
        for item in value:
            _observe(place, f"{path}[]", item, seen)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"
