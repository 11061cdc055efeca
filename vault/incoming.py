"""What a table that comes back may hold: checked by a vendor's client before it sends, and by the owner again.

Arrow holds more than the tools that people read with. A day of the year 12000, a duration of a million years, a struct
with two fields of one name: one of them in one row, and Python, pandas, polars or DuckDB can read nothing of the whole
column any more. What the lab publishes is its own affair; what an outsider sends must stand in nobody's way. So only
the types that are named here come back, and of their values those that all of these readers have a form for. Found by
trying each with pandas 3, polars 2 and DuckDB 2. Pure functions over Arrow values, without a step for each value.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.model import check_column_names

__all__ = ["check_amount", "check_depth", "check_keys", "check_labels", "familiar", "keys_as", "plain", "values_within"]

#: Levels of lists, structs and maps in each other. Some readers count on their stack.
_MOST_LEVELS: Final = 20
_MOST_COLUMNS: Final = 1000
_LONGEST_NAME: Final = 1000
#: Values within lists, structs and maps: those of a list of nulls take no space in Arrow, and 8 bytes each in Python.
_MOST_VALUES: Final = 1 << 26
_WRONG: Final = (pa.ArrowException, ArithmeticError, LookupError, OSError, ValueError)
#: Units of a second; DuckDB has durations as so many microseconds in 64 bits.
_IN_A_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_MICROSECONDS: Final = 2**63 - 1

_Is = Callable[[Any], bool]
_TEXT: Final[tuple[_Is, ...]] = (pt.is_string, pt.is_large_string, pt.is_string_view)
_BYTES: Final[tuple[_Is, ...]] = (
    pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary,
)  # fmt: skip
_DECIMAL: Final[tuple[_Is, ...]] = (pt.is_decimal32, pt.is_decimal64, pt.is_decimal128)
#: What a dictionary may stand for, and what the keys of a map may be, but that neither has views.
_NAMING: Final = (pt.is_boolean, pt.is_integer, pt.is_date, *_TEXT, *_BYTES)
_SIMPLE: Final = (
    *_NAMING, *_DECIMAL, pt.is_null, pt.is_float32, pt.is_float64, pt.is_time, pt.is_timestamp, pt.is_duration,
)  # fmt: skip
_LISTS: Final[tuple[_Is, ...]] = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
#: What is the same thing, of whatever width.
_KINDS: Final[tuple[tuple[_Is, ...], ...]] = (
    (pt.is_boolean,), (pt.is_integer,), (pt.is_floating,), (pt.is_decimal,), _TEXT, _BYTES, (pt.is_date,),
    (pt.is_time,), (pt.is_timestamp,), (pt.is_duration,),
)  # fmt: skip


def check_labels(table: pa.Table) -> None:
    """Refuse columns behind the first one, which names rows, that some reader could not read.

    Raises InvalidInput naming the column, and the row where it is a value of one.
    """
    check_depth(table.schema)
    check_amount(table)
    for field in list(table.schema)[1:]:
        if len(field.name) > _LONGEST_NAME:
            raise InvalidInput(f"the column {field.name[:40]!r}… has a name of more than {_LONGEST_NAME:,} characters")
        _check_type(field.type, f"the column {field.name!r}")
    for field, column in list(zip(table.schema, table.columns, strict=True))[1:]:
        if _fault_of(column) is not None:
            row = _first(column)
            raise InvalidInput(f"row {row + 1}: the column {field.name!r} has {_fault_of(column.slice(row, 1))}")


def check_depth(schema: pa.Schema) -> None:
    """Refuse what is nested deeper than readers, and functions here, can follow; raises InvalidInput."""
    for field in schema:
        kinds, levels = [field.type], 0
        while kinds:
            levels += 1
            if levels > _MOST_LEVELS:
                raise InvalidInput(f"the column {field.name[:80]!r} is nested more than {_MOST_LEVELS} levels deep")
            kinds = [child.type for kind in kinds for child in _children(kind)]


def check_amount(table: pa.Table) -> None:
    """Refuse more columns, or more values within a column's rows, than anybody sends; raises InvalidInput."""
    if table.num_columns > _MOST_COLUMNS:
        raise InvalidInput(f"the table has {table.num_columns:,} columns; the lab takes {_MOST_COLUMNS:,} at once")
    for name, column in zip(table.column_names, table.columns, strict=True):
        if values_within(column) > _MOST_VALUES:
            raise InvalidInput(f"the column {name[:80]!r} has more than {_MOST_VALUES:,} values in its lists")


def values_within(column: pa.ChunkedArray) -> int:
    """How many values there are within a column's lists, structs and maps: none in one that has none of them."""
    return sum(map(_count, column.chunks))


def _children(kind: pa.DataType) -> list[pa.Field]:
    if pt.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.field(number) for number in range(kind.num_fields)]


def _check_type(kind: pa.DataType, place: str) -> None:
    if isinstance(kind, pa.BaseExtensionType):
        raise InvalidInput(
            f"{place} has the extension type {kind.extension_name}: send what it stands for as text, bytes or numbers"
        )
    if pt.is_dictionary(kind):
        # Their values are among the readers' own types: pandas has no category that is not a number, polars no view.
        if not _is_one_of(kind.value_type, (*_NAMING, *_DECIMAL, pt.is_timestamp)) or _is_view(kind.value_type):
            raise InvalidInput(f"{place} is a dictionary of {kind.value_type}, which some readers do not know")
        _check_type(kind.value_type, place)
        return
    if pt.is_map(kind) and (not _is_one_of(kind.key_type, _NAMING) or _is_view(kind.key_type)):
        raise InvalidInput(f"{place} has maps with keys of the type {kind.key_type}, which some readers do not know")
    if pt.is_struct(kind):
        names = [child.name for child in _children(kind)]
        check_column_names(names, f"{place}, its fields")
        if max(map(len, names), default=0) > _LONGEST_NAME:
            raise InvalidInput(f"{place} has a field with a name of more than {_LONGEST_NAME:,} characters")
    elif not _is_one_of(kind, (*_SIMPLE, *_LISTS, pt.is_map)):
        raise InvalidInput(f"{place} has the type {kind}, which some readers do not know")
    if pt.is_timestamp(kind) and kind.tz is not None:
        _check_zone(kind, place)
    for child in _children(kind):
        _check_type(child.type, place)


def _is_one_of(kind: pa.DataType, kinds: tuple[_Is, ...]) -> bool:
    return any(bool(is_kind(kind)) for is_kind in kinds)


def _is_view(kind: pa.DataType) -> bool:
    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))


def _check_zone(kind: pa.DataType, place: str) -> None:
    try:
        pa.scalar(0, kind).as_py()
    except _WRONG as error:
        raise InvalidInput(f"{place} has times in the zone {kind.tz[:80]!r}, which is none") from error


def _count(array: pa.Array) -> int:
    return sum(len(each) + _count(each) for each in _inner(array))


def _inner(array: Any) -> Iterator[pa.Array]:
    """The values within lists, structs and maps that some row has, in the order of the rows; none of others."""
    if isinstance(array, pa.ExtensionArray):
        yield from _inner(array.storage)
    elif pt.is_map(array.type):
        own = _own(array)
        yield own.keys
        yield own.items
    elif pt.is_struct(array.type):
        yield from array.flatten()
    elif pt.is_nested(array.type) and not pt.is_dictionary(array.type):
        yield array.flatten()


def _own(array: Any) -> Any:
    """Maps whose keys and items are those of their own rows, and of no row that is null."""
    return pa.concat_arrays([array.drop_null()])


def _first(column: pa.ChunkedArray) -> int:
    """The first row of a column with a fault that has one."""
    first, last = 0, len(column)
    while last - first > 1:
        middle = (first + last) // 2
        if _fault_of(column.slice(first, middle - first)) is not None:
            last = middle
        else:
            first = middle
    return first


def _fault_of(column: pa.ChunkedArray) -> str | None:
    return next((fault for chunk in column.chunks if (fault := _fault(chunk)) is not None), None)


def _fault(array: Any) -> str | None:
    """What of some values is in a reader's way, as a noun; None where nothing is."""
    if pt.is_dictionary(array.type):
        return _fault(array.dictionary.take(array.indices.drop_null().unique()))
    if pt.is_map(array.type) and _doubled(_own(array)):
        return "a map with one key twice"
    if pt.is_nested(array.type):
        return next((fault for each in _inner(array) if (fault := _fault(each)) is not None), None)
    return _simple_fault(array)


def _doubled(maps: Any) -> bool:
    rows = np.repeat(np.arange(len(maps)), np.diff(maps.offsets.to_numpy()))
    pairs = pa.table({"row": rows, "key": maps.keys})
    return bool(pairs.group_by(["row", "key"], use_threads=False).aggregate([]).num_rows < len(rows))


def _simple_fault(array: pa.Array) -> str | None:
    kind = array.type
    try:
        array.validate(full=True)
    except pa.ArrowException:
        if _is_one_of(kind, _TEXT):
            return "text that is not UTF-8"
        return f"a value that {kind} does not hold"
    if pt.is_duration(kind):
        most = _MOST_MICROSECONDS * _IN_A_SECOND[kind.unit] // _IN_A_SECOND["us"]
        return None if _within(array.cast(pa.int64()), most) else "a duration of more microseconds than 64 bits number"
    if pt.is_time64(kind) and kind.unit == "ns":
        numbers = array.cast(pa.int64())
        whole = pc.multiply(pc.divide(numbers, 1000), 1000)
        return "a time of day that is no whole microsecond" if pc.any(pc.not_equal(numbers, whole)).as_py() else None
    # Nanoseconds in 64 bits are of the years 1677 to 2262.
    if pt.is_date(kind) or (pt.is_timestamp(kind) and kind.unit != "ns"):
        return None if _in_calendar(array) else "a day before the year 1 or after 9999"
    return None


def _within(numbers: pa.Int64Array, most: int) -> bool:
    ends = pc.min_max(numbers).as_py()
    return ends["min"] is None or (-most <= ends["min"] and ends["max"] <= most)


def _in_calendar(array: pa.Array) -> bool:
    """Whether Python has a form for the first and the last one; in a zone, those are there and not in UTC."""
    ends = pc.min_max(array)
    try:
        for end in ("min", "max"):
            ends[end].as_py()
    except _WRONG:
        return False
    return True


def familiar(table: pa.Table) -> pa.Table:
    """The table with text in the place of views where these are a dictionary's, as polars has its categories."""
    for place, field in enumerate(table.schema):
        kind = field.type
        if pt.is_dictionary(kind) and _is_view(kind.value_type):
            values = pa.large_string() if pt.is_string_view(kind.value_type) else pa.large_binary()
            wanted = pa.dictionary(kind.index_type, values, kind.ordered)
            chunks = [
                pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(values), ordered=kind.ordered)
                for chunk in table.column(place).chunks
            ]
            table = table.set_column(place, field.with_type(wanted), pa.chunked_array(chunks, wanted))
    return table


def plain(table: pa.Table) -> pa.Table:
    """The table without what its fields say beside their names and types, within nested columns as well.

    Readers act on such notes: DuckDB takes a column for a shape, Arrow for a type of somebody's own. No value is
    copied.
    """
    schema = pa.schema([_plain_field(field) for field in table.schema])
    if table.schema.equals(schema, check_metadata=True):
        return table
    batches = [pa.record_batch(_As(batch, schema)) for batch in table.to_batches()]
    return pa.Table.from_batches(batches, schema)


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _plain_type(field.type), field.nullable)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pt.is_struct(kind):
        return pa.struct([_plain_field(child) for child in _children(kind)])
    if pt.is_map(kind):
        return pa.map_(*(_plain_field(child) for child in _children(kind)), keys_sorted=kind.keys_sorted)
    if pt.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pt.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return pa.list_(_plain_field(kind.value_field)) if pt.is_list(kind) else kind


class _As:
    """A batch that says another schema of itself, which differs in notes only (Arrow's PyCapsule interface)."""

    def __init__(self, batch: pa.RecordBatch, schema: pa.Schema) -> None:
        self._batch, self._schema = batch, schema

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        _, data = self._batch.__arrow_c_array__()
        return self._schema.__arrow_c_schema__(), data


def check_keys(keys: pa.ChunkedArray, name: str) -> None:
    """Refuse row keys of which one is null, or stands twice; raises InvalidInput naming the row."""
    kind = keys.type
    if isinstance(kind, pa.BaseExtensionType):
        keys = keys.cast(kind.storage_type)
    elif pt.is_dictionary(kind):
        keys = keys.cast(kind.value_type)
    if keys.null_count:
        row = pc.index(pc.is_null(keys), True).as_py() + 1
        raise InvalidInput(f"row {row}: the column {name!r} is null")
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in keys.dictionary_encode().chunks])
    again = np.ones(len(numbers), bool)
    again[np.unique(numbers, return_index=True)[1]] = False
    row = int(np.argmax(again)) + 1
    raise InvalidInput(f"row {row}: the column {name!r} has a value that stands in an earlier row")


def keys_as(keys: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """Row keys as the type that the dataset has them in, where that is the same kind of thing; raises InvalidInput.

    Integers of another width are, where they fit, and so are texts; a number is not the text that it is written as.
    """
    if keys.type == kind:
        return keys
    if not _alike(keys.type, kind):
        raise InvalidInput(f"the column {name!r} is {keys.type}, and {kind} in the dataset")
    try:
        return keys.cast(kind)
    except _WRONG as error:
        raise InvalidInput(
            f"the column {name!r} is {keys.type}, and {kind} in the dataset, which does not hold all of its values"
        ) from error


def _alike(one: pa.DataType, other: pa.DataType) -> bool:
    one, other = (kind.value_type if pt.is_dictionary(kind) else kind for kind in (one, other))
    if pt.is_timestamp(one) and pt.is_timestamp(other):
        return bool((one.tz is None) == (other.tz is None))
    return any(_is_one_of(one, kinds) and _is_one_of(other, kinds) for kinds in _KINDS)
