"""Letting a dataset's schema grow when rows are added: new columns, and types that hold what both sides have.

A type is wider than another when it holds every value of it; which of two types is the wider one, or the one that holds
both, is decided here and nowhere else. Whether values of an integer column fit a floating one is for the values to say:
the cast that follows refuses those that would be rounded.
"""

from typing import Final

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import InvalidInput

__all__ = ["evolved", "wider"]

_SIGNED: Final = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_UNSIGNED: Final = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
_FLOATING: Final = (pa.float16(), pa.float32(), pa.float64())
_UNITS: Final = ("s", "ms", "us", "ns")
_LARGE: Final = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def wider(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds every value of both; None where there is none."""
    if first.equals(second) or pt.is_null(second):
        return first
    if pt.is_null(first):
        return second
    return _numbers(first, second) or _others(first, second) or _others(second, first) or _nested(first, second)


def _numbers(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    for family in (_SIGNED, _UNSIGNED, _FLOATING):
        if first in family and second in family:
            return max(first, second, key=family.index)
    for one, other in ((first, second), (second, first)):
        if one in _UNSIGNED and other in _SIGNED:
            room = _UNSIGNED.index(one) + 1
            return max(_SIGNED[room], other, key=_SIGNED.index) if room < len(_SIGNED) else None
        if pt.is_integer(one) and other in _FLOATING:
            # Integers of 32 and 64 bits need a double, and those beyond 2**53 none holds.
            needed = _FLOATING[min(one.bit_width // 8, 4) // 2 if one.bit_width > 8 else 0]
            return max(needed, other, key=_FLOATING.index)
    if pt.is_decimal(first) and pt.is_decimal(second):
        return _decimal(first, second)
    return None


def _decimal(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    scale = max(first.scale, second.scale)
    digits = max(first.precision - first.scale, second.precision - second.scale) + scale
    if digits > 76:
        return None
    small = digits <= 38 and pt.is_decimal128(first) and pt.is_decimal128(second)
    return pa.decimal128(digits, scale) if small else pa.decimal256(digits, scale)


def _others(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    if first in _LARGE and second == _LARGE[first]:
        return second
    if pt.is_timestamp(first) and pt.is_timestamp(second) and first.tz == second.tz:
        return pa.timestamp(max(first.unit, second.unit, key=_UNITS.index), first.tz)
    if pt.is_duration(first) and pt.is_duration(second):
        return pa.duration(max(first.unit, second.unit, key=_UNITS.index))
    if pt.is_time(first) and pt.is_time(second):
        unit = max(first.unit, second.unit, key=_UNITS.index)
        return pa.time32(unit) if unit in {"s", "ms"} else pa.time64(unit)
    if pt.is_dictionary(first):
        values = second.value_type if pt.is_dictionary(second) else second
        return wider(first.value_type, values)
    return None


def _nested(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    if pt.is_struct(first) and pt.is_struct(second):
        return _struct(first, second)
    for check, make in ((pt.is_list, pa.list_), (pt.is_large_list, pa.large_list)):
        if check(first) and check(second):
            item = wider(first.value_type, second.value_type)
            return make(first.value_field.with_type(item).with_nullable(True)) if item is not None else None
    return None


def _struct(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    fields = {first.field(index).name: first.field(index) for index in range(first.num_fields)}
    for index in range(second.num_fields):
        field = second.field(index)
        known = fields.get(field.name)
        kind = field.type if known is None else wider(known.type, field.type)
        if kind is None:
            return None
        fields[field.name] = pa.field(field.name, kind)
    return pa.struct(list(fields.values()))


def evolved(where: str, dataset: pa.Schema, given: pa.Schema, *, text: bool) -> pa.Schema:
    """The dataset's schema, grown so that it holds the rows that are given; its own columns come first.

    ``text`` says that the given types were found by reading text: there a column keeps the dataset's type, whose values
    are read from it, unless it holds numbers with a fraction. Raises InvalidInput naming two types that nothing holds.
    """
    fields = []
    for field in dataset:
        index = given.get_field_index(field.name)
        if index < 0:
            fields.append(field)
            continue
        offered = given.field(index).type
        if text and not (pt.is_null(field.type) or (pt.is_integer(field.type) and pt.is_floating(offered))):
            offered = field.type
        kind = wider(field.type, offered)
        if kind is None:
            raise InvalidInput(
                f"{where}: the column {field.name!r} is {offered}, and {field.type} in the dataset: no type holds both"
            )
        fields.append(field.with_type(kind))
    # Earlier rows have no value there.
    fresh = [field.with_nullable(True) for field in given if field.name not in dataset.names]
    return pa.schema([*fields, *fresh], metadata=dataset.metadata)
