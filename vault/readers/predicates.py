"""A predicate of polars as a condition that a broker evaluates before anything is sent.

Only what both sides answer alike for every row is translated, TRUE, FALSE and NULL each: comparisons of a column or of
a field with a constant of the very same type, and what joins them. Of conditions that all have to hold the others stay
behind, and polars filters what comes by all of them in any case, so what stays behind costs time and never a row.

The one difference between the two is NaN, which is above every number to polars and beside all of them to a broker: a
number above or at a bound is asked for as one that is not below it.
"""

import math
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["Pushed", "pushed"]

_MIRRORED: Final = {"Eq": "Eq", "NotEq": "NotEq", "Lt": "Gt", "Gt": "Lt", "LtEq": "GtEq", "GtEq": "LtEq"}
_SIGNS: Final = {"Eq": "=", "NotEq": "<>", "Lt": "<", "LtEq": "<=", "Gt": ">", "GtEq": ">="}
#: How an order is asked for so that NaN is above every number, as it is to polars.
_NAN_ABOVE: Final = {"Gt": "<=", "GtEq": "<"}
_ENDS: Final = {"Both": ("GtEq", "LtEq"), "Left": ("GtEq", "Lt"), "Right": ("Gt", "LtEq"), "None": ("Gt", "Lt")}
_UNITS: Final = {"Milliseconds": ("ms", 1_000), "Microseconds": ("us", 1_000_000), "Nanoseconds": ("ns", 1_000_000_000)}
_MOST_VALUES: Final = 500
_DEEPEST: Final = 20
_LONGEST_NUMBER: Final = 60
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS: Final = (date(1, 1, 1).toordinal(), date(9999, 12, 31).toordinal())


class Pushed(NamedTuple):
    """What was translated, all of which has to hold, and whether that is the whole predicate."""

    conditions: tuple[str, ...]
    whole: bool


class _Apart(Exception):
    """Stays with polars."""


class _Column(NamedTuple):
    """A column or a field as a condition names it, and its type."""

    text: str
    kind: pa.DataType


def pushed(tree: Any, schema: pa.Schema, room: int, unsearchable: Collection[str] = ()) -> Pushed:
    """Of a serialised predicate what can be pushed down, in at most so many characters.

    ``unsearchable`` are columns that no condition may be about, since what is shown of them is not what is stored.
    """
    reader, whole = _Reader(schema, unsearchable), True
    found: list[str] = []
    for each in _conjuncts(tree):
        try:
            text = reader.condition(each, 0)
        except (_Apart, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, struct.error):
            whole = False  # not what it looked like: polars knows
            continue
        if (room := room - len(text) - len(" AND ()")) < 0:
            return Pushed(tuple(found), whole=False)
        found.append(text)
    return Pushed(tuple(found), whole)


def _conjuncts(tree: Any) -> Iterator[Any]:
    """What all has to hold, in order, of a serialised predicate."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        inner = node.get("BinaryExpr") if isinstance(node, dict) else None
        if isinstance(inner, dict) and inner.get("op") in {"And", "LogicalAnd"}:
            waiting += [inner["right"], inner["left"]]
        else:
            yield node


class _Reader:
    def __init__(self, schema: pa.Schema, unsearchable: Collection[str]) -> None:
        self._schema = schema
        self._unsearchable = frozenset(unsearchable)

    def condition(self, node: Mapping[str, Any], depth: int) -> str:
        """A node as a condition; raises _Apart, and others for what has another form than is known here."""
        if depth > _DEEPEST:
            raise _Apart
        ((name, inner),) = node.items()
        if name == "BinaryExpr":
            return self._binary(inner, depth)
        if name == "Function":
            return self._function(inner, depth)
        column = self._column(node)
        if not pt.is_boolean(column.kind):
            raise _Apart
        return f"{column.text} = TRUE"

    def _binary(self, inner: Mapping[str, Any], depth: int) -> str:
        operator, left, right = inner["op"], inner["left"], inner["right"]
        if operator in {"And", "Or", "LogicalAnd", "LogicalOr"}:
            # Bitwise on numbers: but only a condition comes out of what is translated here.
            word = "AND" if operator.endswith("And") else "OR"
            return f"({self.condition(left, depth + 1)}) {word} ({self.condition(right, depth + 1)})"
        if "Literal" in left:
            left, right, operator = right, left, _MIRRORED.get(operator, operator)
        column = self._column(left)
        value = _constant(column.kind, right)
        if operator == "EqValidity":
            return f"({column.text} IS NOT NULL) AND ({_compared('Eq', column, value)})"
        if operator == "NotEqValidity":
            return f"({column.text} IS NULL) OR ({_compared('NotEq', column, value)})"
        return _compared(operator, column, value)

    def _function(self, inner: Mapping[str, Any], depth: int) -> str:
        ((family, function),) = inner["function"].items()
        first, *rest = inner["input"]
        if family == "Boolean":
            if function == "Not":
                return f"NOT ({self.condition(first, depth + 1)})"
            column = self._column(first)
            if function == "IsNull":
                return f"{column.text} IS NULL"
            if function == "IsNotNull":
                return f"{column.text} IS NOT NULL"
            ((which, options),) = function.items()
            if which == "IsBetween":
                low, high = _ENDS[options["closed"]]
                ends = [
                    _compared(way, column, _constant(column.kind, end))
                    for way, end in zip((low, high), rest, strict=True)
                ]
                return f"({ends[0]}) AND ({ends[1]})"
            if which == "IsIn" and options["nulls_equal"] is False:
                return _listed(column, rest[0])
        if family == "StringExpr" and function in {"StartsWith", "EndsWith"}:
            return _affix(self._column(first), rest[0], end=function == "EndsWith")
        raise _Apart

    def _column(self, node: Mapping[str, Any]) -> _Column:
        """A column, or a field of one, by name; raises _Apart for anything else."""
        fields: list[str] = []
        while "Function" in node:
            fields.append(node["Function"]["function"]["StructExpr"]["FieldByName"])
            (node,) = node["Function"]["input"]
        if node.keys() != {"Column"} or node["Column"] in self._unsearchable:
            raise _Apart
        names = [node["Column"], *reversed(fields)]
        kind = self._schema.field(names[0]).type
        for name in names[1:]:
            if not pt.is_struct(kind) or kind.get_field_index(name) < 0:
                raise _Apart
            kind = kind.field(kind.get_field_index(name)).type
        if not all(names):
            raise _Apart
        return _Column(".".join('"' + name.replace('"', '""') + '"' for name in names), kind)


def _compared(operator: str, column: _Column, value: str) -> str:
    if pt.is_floating(column.kind) and operator in _NAN_ABOVE:
        return f"NOT ({column.text} {_NAN_ABOVE[operator]} {value})"
    if (pt.is_boolean(column.kind) or pt.is_dictionary(column.kind)) and operator not in {"Eq", "NotEq"}:
        raise _Apart
    return f"{column.text} {_SIGNS[operator]} {value}"


def _constant(kind: pa.DataType, node: Mapping[str, Any]) -> str:
    """A literal as the text of a value that a column of this type can hold; raises _Apart, and others."""
    ((name, value),) = node["Literal"]["Scalar"].items()
    for fits, read in _READERS:
        if fits(kind):
            return read(kind, name, value)
    raise _Apart


def _integer(kind: pa.DataType, name: str, value: Any) -> str:
    signed = pt.is_signed_integer(kind)
    low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1) if signed else (0, 2**kind.bit_width - 1)
    if name != f"{'' if signed else 'U'}Int{kind.bit_width}" or type(value) is not int or not low <= value <= high:
        raise _Apart
    return str(value)


def _double(kind: pa.DataType, name: str, value: Any) -> str:
    if name != f"Float{kind.bit_width}" or type(value) not in {int, float} or not math.isfinite(value):
        raise _Apart
    number = float(value)
    if pt.is_float32(kind):
        # What is written is the shortest text that stands for it among floats of 32 bits.
        (number,) = struct.unpack("<f", struct.pack("<f", number))
    exact = Decimal(number) if number.is_integer() else Decimal(repr(number))
    text = format(exact, "f") if number else "0"
    if len(text) > _LONGEST_NUMBER:
        raise _Apart
    return text


def _decimal(kind: pa.DataType, name: str, value: Any) -> str:
    digits, _, scale = value
    number = Decimal(digits).scaleb(-scale)
    held = (
        Decimal(digits) * 10 ** (kind.scale - scale)
        if scale <= kind.scale
        else Decimal(digits) / 10 ** (scale - kind.scale)
    )
    if name != "Decimal" or held != held.to_integral_value() or abs(held) >= 10**kind.precision:
        raise _Apart
    return format(number, "f")


def _text(_kind: pa.DataType, name: str, value: Any) -> str:
    if name != "String" or not isinstance(value, str) or "\0" in value:
        raise _Apart
    return "'" + value.replace("'", "''") + "'"


def _truth(_kind: pa.DataType, name: str, value: Any) -> str:
    if name != "Boolean" or not isinstance(value, bool):
        raise _Apart
    return "TRUE" if value else "FALSE"


def _day(_kind: pa.DataType, name: str, value: Any) -> str:
    if name != "Date":
        raise _Apart
    return f"'{_date(value)}'"


def _date(days: int) -> str:
    number = days + date(1970, 1, 1).toordinal()
    if not _YEARS[0] <= number <= _YEARS[1]:
        raise _Apart
    return date.fromordinal(number).isoformat()


def _instant(kind: pa.DataType, name: str, value: Any) -> str:
    units, unit, zone = value
    short, second = _UNITS[unit]
    # polars has no seconds: their column is one of milliseconds there.
    if name != "Datetime" or short != {"s": "ms"}.get(kind.unit, kind.unit) or (zone is None) != (kind.tz is None):
        raise _Apart
    seconds, rest = divmod(units, second)
    if kind.unit == "s" and rest:
        raise _Apart
    day, clock = divmod(seconds, 86_400)
    hours = _EPOCH + timedelta(seconds=clock)
    fraction = f".{rest:0{len(str(second)) - 1}}" if rest else ""
    return f"'{_date(day)} {hours:%H:%M:%S}{fraction}{'Z' if zone is not None else ''}'"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_text_dictionary(kind: pa.DataType) -> bool:
    return bool(pt.is_dictionary(kind) and _is_text(kind.value_type))


_READERS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, str, Any], str]], ...]] = (
    (pt.is_integer, _integer),
    (lambda kind: bool(pt.is_float32(kind) or pt.is_float64(kind)), _double),
    (pt.is_decimal128, _decimal),
    (lambda kind: _is_text(kind) or _is_text_dictionary(kind), _text),
    (pt.is_boolean, _truth),
    (pt.is_date32, _day),
    (pt.is_timestamp, _instant),
)


def _listed(column: _Column, node: Mapping[str, Any]) -> str:
    """``column IN (...)``; the list is a column in Arrow's own form, each value of which is one of the list's."""
    data = bytes(node["Literal"]["Scalar"]["List"])
    with pa.ipc.open_stream(data) as stream:
        (values,) = stream.read_all().columns
    if pt.is_list(values.type) or pt.is_large_list(values.type):
        values = pa.chunked_array([chunk.flatten() for chunk in values.chunks])
    of_text = _is_text(column.kind) and _is_text(values.type)
    exact = of_text or (pt.is_integer(column.kind) and values.type == column.kind)
    if not exact or values.null_count or not 0 < len(values) <= _MOST_VALUES:
        raise _Apart
    texts = [
        _text(values.type, "String", value) if isinstance(value, str) else str(value) for value in values.to_pylist()
    ]
    return f"{column.text} IN ({', '.join(texts)})"


def _affix(column: _Column, node: Mapping[str, Any], *, end: bool) -> str:
    if not _is_text(column.kind):
        raise _Apart
    ((name, value),) = node["Literal"]["Scalar"].items()
    wanted = "".join("\\" + character if character in "\\%_" else character for character in value)
    return f"{column.text} LIKE {_text(column.kind, name, '%' + wanted if end else wanted + '%')}"
