"""Literals as values of a column's type, exactly or not at all.

A literal that the type cannot hold is refused, never rounded: ``n = 3.5`` on an integer column is a mistake, not
``n = 4``. Decimal text on a double column is the one exception that SQL makes too: it means the nearest double.
"""

import math
import re
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.filters.tree import Literal

__all__ = ["comparable", "normal_type", "value_of"]

_MAX_EXPONENT: Final = 400
_UNITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_DATE: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_CLOCK: Final = re.compile(r"(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?")
_OFFSET: Final = re.compile(r"(Z|[+-]\d{2}:\d{2})$")
_EPOCH: Final = date(1970, 1, 1)


def normal_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of ``kind`` is compared in; widening to it loses nothing."""
    if pt.is_dictionary(kind):
        return normal_type(kind.value_type)
    if pt.is_float16(kind) or pt.is_float32(kind):
        return pa.float64()
    if pt.is_string_view(kind) or pt.is_large_string(kind) or pt.is_string(kind):
        return pa.large_string()
    if pt.is_date64(kind):
        return pa.date32()
    if pt.is_decimal32(kind) or pt.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def comparable(kind: pa.DataType) -> bool:
    """Whether values of a normal type can be compared with literals."""
    return bool(
        pt.is_boolean(kind)
        or pt.is_integer(kind)
        or pt.is_floating(kind)
        or pt.is_decimal(kind)
        or pt.is_large_string(kind)
        or pt.is_date32(kind)
        or pt.is_timestamp(kind)
        or pt.is_time(kind)
    )


def value_of(literal: Literal, kind: pa.DataType, place: str) -> Any:
    """The literal as a plain value of a normal type: bool, int, float, Decimal or str.

    Times are integers of the type's unit, dates days since 1970. ``place`` names option and column in the
    InvalidInput that is raised where the type cannot hold the literal.
    """
    if pt.is_boolean(kind):
        return _truth(literal, place)
    if pt.is_large_string(kind):
        return _text(literal, kind, place)
    if pt.is_date32(kind):
        return _days(_text(literal, kind, place), place)
    if pt.is_timestamp(kind):
        return _instant(_text(literal, kind, place), kind, place)
    if pt.is_time(kind):
        return _clock(_text(literal, kind, place), kind.unit, place)
    return _number(literal, kind, place)


def _mismatch(place: str, kind: pa.DataType, why: str) -> InvalidInput:
    return InvalidInput(f"{place} is {kind}, {why}")


def _truth(literal: Literal, place: str) -> bool:
    if literal.kind != "truth":
        raise InvalidInput(f"{place} is bool, which compares with TRUE or FALSE only")
    return literal.text == "TRUE"


def _text(literal: Literal, kind: pa.DataType, place: str) -> str:
    if literal.kind != "text":
        raise _mismatch(place, kind, "which compares with a text in quotes")
    return literal.text


def _number(literal: Literal, kind: pa.DataType, place: str) -> int | float | Decimal:
    if literal.kind != "number":
        raise _mismatch(place, kind, "which compares with a number")
    try:
        number = Decimal(literal.text)
    except InvalidOperation as error:
        raise _mismatch(place, kind, "and the number beside it cannot be read") from error
    if not number.is_finite() or abs(number.adjusted()) > _MAX_EXPONENT:
        raise _mismatch(place, kind, "which cannot hold that number")
    if pt.is_integer(kind):
        return _integer(number, kind, place)
    if pt.is_decimal(kind):
        return _decimal(number, kind, place)
    return _double(number, kind, place)


def _integer(number: Decimal, kind: pa.DataType, place: str) -> int:
    if number != number.to_integral_value():
        raise _mismatch(place, kind, "which cannot hold a fraction")
    value = int(number)
    low = 0 if pt.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
    high = 2**kind.bit_width - 1 if pt.is_unsigned_integer(kind) else 2 ** (kind.bit_width - 1) - 1
    if not low <= value <= high:
        raise _mismatch(place, kind, "which cannot hold that number")
    return value


def _decimal(number: Decimal, kind: pa.DataType, place: str) -> Decimal:
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    stripped = "".join(map(str, digits)).rstrip("0") or "0"
    exponent += len(digits) - len(stripped) if any(digits) else -exponent
    whole = len(stripped) + exponent
    if -exponent > kind.scale or whole > kind.precision - kind.scale:
        raise _mismatch(place, kind, "which cannot hold that number")
    return Decimal((sign, tuple(map(int, stripped)), exponent))


def _double(number: Decimal, kind: pa.DataType, place: str) -> float:
    value = float(number)
    if not math.isfinite(value) or (number == number.to_integral_value() and Decimal(value) != number):
        raise _mismatch(place, kind, "which cannot hold that number exactly")
    return value


def _days(text: str, place: str) -> int:
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return (date(int(match[1]), int(match[2]), int(match[3])) - _EPOCH) // timedelta(days=1)
    except ValueError as error:
        raise InvalidInput(f"{place} is a date, which compares with a text such as '2026-01-31'") from error


def _clock(text: str, unit: str, place: str) -> int:
    match = _CLOCK.fullmatch(text)
    if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3] or 0) > 59:
        raise InvalidInput(f"{place} holds times, which compare with a text such as '12:30:00'")
    digits, fraction = _UNITS[unit], (match[4] or "").rstrip("0")
    if len(fraction) > digits:
        raise InvalidInput(f"{place} holds times in {unit}, which cannot hold a time that fine")
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return seconds * int(10**digits) + int(fraction.ljust(digits, "0") or 0)


def _instant(text: str, kind: pa.DataType, place: str) -> int:
    offset = _OFFSET.search(text)
    if (offset is not None) != (kind.tz is not None):
        wanted = "an offset such as Z or +02:00" if kind.tz is not None else "no offset"
        raise _mismatch(place, kind, f"so the time beside it must have {wanted}")
    local = text[: offset.start()] if offset else text
    day, _, clock = local.replace("T", " ", 1).partition(" ")
    units = _clock(clock, kind.unit, place) if clock else 0
    seconds = _days(day, place) * 86_400 - (_offset_seconds(offset[1], place) if offset else 0)
    value = seconds * int(10 ** _UNITS[kind.unit]) + units
    if not -(2**63) <= value < 2**63:
        raise _mismatch(place, kind, "which cannot hold a time that far away")
    return value


def _offset_seconds(offset: str, place: str) -> int:
    if offset == "Z":
        return 0
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 23 or minutes > 59:
        raise InvalidInput(f"{place} is compared with a time whose offset cannot be read")
    seconds = hours * 3600 + minutes * 60
    return -seconds if offset[0] == "-" else seconds
