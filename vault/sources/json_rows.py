"""JSON: one object a line, or an array of objects, in two passes with bounded memory.

The first pass finds one type for every column over the whole input; the second reads under that schema. Both cut
the input into blocks of whole rows. A JSON string stays a string even when it looks like a time. A number is
int64 where every one is a whole number in its range, and double otherwise; a whole number that a double would
round is refused. When a block does not parse, it is read again row by row, to name the line.

Under a dataset's schema (an append) dates and times are read from ISO 8601 text, decimals from numbers or text, and
any list or dictionary from its values; binary values, maps and durations have no one form in JSON and are refused.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.sources.files import SourceFile
from vault.sources.json_blocks import Block, blocks
from vault.sources.json_faults import DEPTH, explain, explain_under, is_list, refuse_rounding
from vault.sources.merging import Contradiction, merge_types

__all__ = ["infer_json", "read_json"]

_THREADS: Final = 2
#: An empty name, or a number that JSON does not have; inside of a text these are found and let go again.
_ODD: Final = re.compile(rb'""\s*:|[:,\[]\s*-?(NaN|Inf)')
#: A number that may be whole and beyond 2**53, which has 16 digits.
_LONG: Final = re.compile(rb"[:,\[]\s*-?[0-9]{16}")
_TEXTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_EXACT: Final = 2.0**53
_Result = TypeVar("_Result")


def infer_json(file: SourceFile, on_bytes: Callable[[int], None]) -> pa.Schema:
    """The schema of a whole file; raises InvalidInput naming the line at fault."""
    merged: pa.DataType = pa.struct([])
    with file.opened(on_bytes) as stream:
        for block, kind in _in_order(lambda block: _block_type(file, block), blocks(file, stream)):
            try:
                merged = merge_types(merged, kind, "", widen=True)
            except Contradiction as error:
                explain(file, block, merged)
                raise _unreadable(file, block) from error
    fields = [merged.field(index) for index in range(merged.num_fields)]
    if not fields:
        raise InvalidInput(f"{file.shown}: there are no rows, or none with a column")
    return pa.schema(fields)


def read_json(file: SourceFile, schema: pa.Schema, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The rows under a schema; raises InvalidInput for a field that it does not have, or another type."""
    with file.opened(on_bytes) as stream:
        for _, table in _in_order(lambda block: _typed(file, block, schema), blocks(file, stream)):
            yield from table.to_batches()


def _in_order(function: Callable[[Block], _Result], found: Iterator[Block]) -> Iterator[tuple[Block, _Result]]:
    waiting: deque[tuple[Block, Future[_Result]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dsvault-json") as pool:
        try:
            for block in found:
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


def _unreadable(file: SourceFile, block: Block) -> InvalidInput:
    word = "row" if file.format == "json" else "line"
    return InvalidInput(f"{file.shown}: from {word} {block.first} on there is what cannot be read as JSON rows")


def _block_type(file: SourceFile, block: Block) -> pa.DataType:
    _check(file, block)
    try:
        table = _parse(block, None)
    except (pa.ArrowException, ValueError, OSError) as error:
        explain(file, block, pa.struct([]))
        raise _unreadable(file, block) from error
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


def _typed(file: SourceFile, block: Block, schema: pa.Schema) -> pa.Table:
    _check(file, block)
    forms = {field.name: _form(field.type) for field in schema}
    readable = pa.schema([(name, form) for name, form in forms.items() if form is not None])
    try:
        table = _parse(block, readable)
        if _LONG.search(block.data) and any(_has_large(column) for column in table.columns):
            refuse_rounding(file, block, schema)
        return pa.table({name: table.column(name).cast(schema.field(name).type) for name in readable.names})
    except (pa.ArrowException, ValueError, OSError) as error:
        explain_under(file, block, schema, readable)
        raise _unreadable(file, block) from error


def _form(kind: pa.DataType) -> pa.DataType | None:
    """The type as which pyarrow reads JSON for ``kind``, from which it is cast; None where JSON has no form for it."""
    if isinstance(kind, pa.BaseExtensionType) or pt.is_duration(kind) or pt.is_map(kind):
        return None
    if pt.is_dictionary(kind):
        return _form(kind.value_type)
    if is_list(kind):
        inner = _form(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pt.is_struct(kind):
        fields = [(kind.field(index).name, _form(kind.field(index).type)) for index in range(kind.num_fields)]
        return None if any(form is None for _, form in fields) else pa.struct(fields)
    if pt.is_date(kind) or pt.is_time(kind):
        return pa.string()
    if pt.is_float16(kind):
        return pa.float32()
    known = pt.is_null, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_timestamp
    texts = pt.is_string, pt.is_large_string, pt.is_string_view
    return kind if any(fits(kind) for fits in known + texts) else None


def _has_large(column: pa.ChunkedArray) -> bool:
    """Whether a double in the column, at any depth, is of a size at which whole numbers are rounded."""
    kind = column.type
    if pt.is_float64(kind):
        return pc.any(pc.greater_equal(pc.abs(column), _EXACT)).as_py() is True
    if pt.is_list(kind):
        return any(_has_large(pa.chunked_array([chunk.flatten()])) for chunk in column.chunks)
    if pt.is_struct(kind):
        return any(_has_large(field) for field in column.flatten())
    return False


def _parse(block: Block, schema: pa.Schema | None) -> pa.Table:
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


def _check(file: SourceFile, block: Block) -> None:
    """Refuse what pyarrow lets through and JSON does not have, and nesting that overflows its parser's stack."""
    if _is_deep(block.data):
        explain(file, block, pa.struct([]))
        raise _unreadable(file, block)
    if not _is_text(block.data) or _ODD.search(block.data):
        explain(file, block, pa.struct([]))


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_deep(data: bytes) -> bool:
    """Whether brackets nest deeper than `DEPTH`.

    Pairs are struck out level by level. Brackets inside of texts seldom pair up, so texts are taken out where some
    are left over; doing without that first is what makes the check cheap on most data.
    """
    return _left_over(data) and _left_over(_TEXTS.sub(b"", data))


def _left_over(data: bytes) -> bool:
    brackets = data.translate(None, _NO_BRACKETS)
    for _ in range(DEPTH):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not fewer or len(fewer) == len(brackets):
            # Nothing pairs up any more: what is left is not nested but broken, unless there is much of it.
            return len(fewer) > DEPTH
        brackets = fewer
    return bool(brackets)
