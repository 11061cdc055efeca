"""Finding what is wrong with a block of JSON rows, and where: row by row, once something is known to be wrong.

No sentence made here repeats a value: it names the line, the column's path and the kinds that disagree.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import InvalidInput
from vault.sources.files import SourceFile
from vault.sources.json_blocks import BadRow, Block, named_once, no_constant

__all__ = ["DEPTH", "explain", "explain_under", "is_list", "refuse_rounding"]

#: Levels of lists and objects inside of each other, the row among them.
DEPTH: Final = 100
_TEXT, _NUMBER, _LIST, _OBJECT, _TRUTH = "a text", "a number", "a list", "an object", "true or false"


def explain(file: SourceFile, block: Block, known: pa.DataType) -> None:
    """Raise InvalidInput for the first row at fault, by itself or against ``known``; return where none is."""
    seen = _kinds_of(known)
    for place, row in _rows(file, block):
        _observe(place, "", row, seen)


def explain_under(file: SourceFile, block: Block, schema: pa.Schema, readable: pa.Schema) -> None:
    """Raise InvalidInput for the first row that is at fault or does not fit ``schema``; return where none is.

    Columns of the schema that are not in ``readable`` have types that JSON has no form for.
    """
    for place, row in _rows(file, block):
        for name, value in row.items():
            if name not in schema.names:
                raise InvalidInput(f"{place}: the dataset has no column {name!r}")
            kind = schema.field(name).type
            if name not in readable.names:
                raise InvalidInput(f"{place}: the column {name!r} is {kind} in the dataset, which JSON cannot give")
            _refuse_misfit(place, name, value, kind)


def refuse_rounding(file: SourceFile, block: Block, schema: pa.Schema) -> None:
    """Raise InvalidInput for a whole number that the double in its place cannot hold exactly."""
    for place, row in _rows(file, block):
        for name, value in row.items():
            if name in schema.names and (path := _rounded(value, schema.field(name).type, name)):
                raise InvalidInput(
                    f"{place}: {path!r} is a whole number beyond 2**53 in a column of doubles, which would round it"
                )


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any layout."""
    return bool(
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
    )


def _rows(file: SourceFile, block: Block) -> Iterator[tuple[str, dict[str, Any]]]:
    word = "row" if file.format == "json" else "line"
    for number, line in enumerate(block.data.split(b"\n"), block.first):
        if line.strip():
            place = f"{file.shown}: {word} {number}"
            yield place, _row(place, line)


def _row(place: str, line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{place}: the text is not valid UTF-8") from error
    try:
        row = json.loads(text, object_pairs_hook=named_once, parse_constant=no_constant, parse_float=_finite)
        json.dumps(row, ensure_ascii=False).encode()
    except BadRow as error:
        raise InvalidInput(f"{place}: {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{place}: a text holds half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise InvalidInput(f"{place}: this is nested deeper than {DEPTH} levels") from error
    except ValueError as error:
        raise InvalidInput(f"{place}: this is not valid JSON") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"{place}: this is not an object")
    if _deeper(row, DEPTH):
        raise InvalidInput(f"{place}: this is nested deeper than {DEPTH} levels")
    return row


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadRow("a number is too large for a double")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)


def _kinds_of(kind: pa.DataType, path: str = "") -> dict[str, str]:
    """The JSON kind at every path of a type that was found in JSON."""
    if pt.is_null(kind):
        return {}
    if pt.is_struct(kind):
        found = {path: _OBJECT}
        for index in range(kind.num_fields):
            field = kind.field(index)
            found |= _kinds_of(field.type, f"{path}.{field.name}" if path else field.name)
        return found
    if pt.is_list(kind):
        return {path: _LIST} | _kinds_of(kind.value_type, f"{path}[]")
    return {path: _expected(kind)}


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
        return _TRUTH
    if isinstance(value, int | float):
        return _NUMBER
    if isinstance(value, str):
        return _TEXT
    return _OBJECT if isinstance(value, dict) else _LIST


def _expected(kind: pa.DataType) -> str:
    """What JSON must give for a type, in a word."""
    if pt.is_null(kind):
        return "null"
    if pt.is_boolean(kind):
        return _TRUTH
    if pt.is_integer(kind) or pt.is_floating(kind):
        return _NUMBER
    if pt.is_struct(kind):
        return _OBJECT
    return _LIST if is_list(kind) else _TEXT


def _refuse_misfit(place: str, path: str, value: Any, kind: pa.DataType) -> None:
    if value is None:
        return
    if pt.is_dictionary(kind):
        kind = kind.value_type
    found, expected = _kind(value), _expected(kind)
    if found != expected and not (pt.is_decimal(kind) and found == _NUMBER):
        raise InvalidInput(f"{place}: {path!r} is {found} here and {expected} in the dataset")
    if pt.is_integer(kind):
        _refuse_inexact(place, path, value, kind)
    elif isinstance(value, dict):
        fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
        for name, item in value.items():
            if name not in fields:
                raise InvalidInput(f"{place}: the dataset has no field {name!r} in {path!r}")
            _refuse_misfit(place, f"{path}.{name}", item, fields[name])
    elif isinstance(value, list):
        if pt.is_fixed_size_list(kind) and len(value) != kind.list_size:
            raise InvalidInput(f"{place}: {path!r} has {len(value)} items here and {kind.list_size} in the dataset")
        for item in value:
            _refuse_misfit(place, f"{path}[]", item, kind.value_type)


def _refuse_inexact(place: str, path: str, value: float, kind: pa.DataType) -> None:
    if isinstance(value, float):
        raise InvalidInput(f"{place}: {path!r} is a fraction here and {kind} in the dataset")
    lowest = 0 if pt.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
    if not lowest <= value < lowest + 2**kind.bit_width:
        raise InvalidInput(f"{place}: {path!r} is out of the range of {kind}")


def _rounded(value: Any, kind: pa.DataType, path: str) -> str | None:
    """The path of a whole number that a double would change, if there is one."""
    if pt.is_float64(kind) and isinstance(value, int) and not isinstance(value, bool):
        try:
            return None if int(float(value)) == value else path
        except OverflowError:
            return path
    if pt.is_struct(kind) and isinstance(value, dict):
        fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
        found = (_rounded(item, fields[name], f"{path}.{name}") for name, item in value.items() if name in fields)
        return next((each for each in found if each), None)
    if is_list(kind) and isinstance(value, list):
        return next((each for item in value if (each := _rounded(item, kind.value_type, f"{path}[]"))), None)
    return None
