"""A plain row-by-row evaluator of filters with SQL's three-valued logic: the oracle of the differential test."""

import math
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from vault.filters.literals import normal_type, value_of
from vault.filters.tree import And, Compare, In, IsNull, Like, Literal, Node, Not, Or, Path


def passes(node: Node, row: dict[str, Any], schema: pa.Schema) -> bool | None:
    """TRUE, FALSE or NULL (None) for one row of Python values."""
    match node:
        case Not(item):
            inner = passes(item, row, schema)
            return None if inner is None else not inner
        case And(items):
            found = [passes(item, row, schema) for item in items]
            return False if False in found else None if None in found else True
        case Or(items):
            found = [passes(item, row, schema) for item in items]
            return True if True in found else None if None in found else False
        case IsNull(path):
            return _get(path, row) is None
        case Like(path, pattern):
            value = _get(path, row)
            return None if value is None else re.fullmatch(_like(pattern), value, re.DOTALL) is not None
        case In(path, literals, with_null):
            value = _get(path, row)
            if value is None:
                return None
            if any(_equal(value, _literal(literal, path, schema)) for literal in literals):
                return True
            return None if with_null else False
        case Compare(operator, left, right):
            sides = [
                _get(side, row) if isinstance(side, Path) else _literal(side, _path(left, right), schema)
                for side in (left, right)
            ]
            return None if None in sides else _compare(operator, sides[0], sides[1])


def _path(left: Path | Literal, right: Path | Literal) -> Path:
    path = left if isinstance(left, Path) else right
    assert isinstance(path, Path)
    return path


def _get(path: Path, row: dict[str, Any]) -> Any:
    value: Any = row
    for name in path.names:
        if value is None:
            return None
        value = value[name]
    return value


def _literal(literal: Literal, path: Path, schema: pa.Schema) -> Any:
    kind = schema.field(path.names[0]).type
    for name in path.names[1:]:
        kind = kind.field(kind.get_field_index(name)).type
    kind = normal_type(kind)
    value = value_of(literal, kind, "test")
    if pt.is_date32(kind):
        return pa.scalar(value, pa.int32()).cast(kind).as_py()
    return pa.scalar(value, pa.int64()).cast(kind).as_py() if pt.is_timestamp(kind) else value


def _equal(left: Any, right: Any) -> bool:
    return _compare("=", left, right)


def _compare(operator: str, left: Any, right: Any) -> bool:
    if (isinstance(left, float) and math.isnan(left)) or (isinstance(right, float) and math.isnan(right)):
        return operator == "<>"
    if isinstance(left, Decimal) or isinstance(right, Decimal):
        left, right = Decimal(left), Decimal(right)
    if isinstance(left, str):
        left, right = left.encode(), right.encode()
    return {
        "=": left == right,
        "<>": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[operator]


def _like(pattern: str) -> str:
    pieces, escaped = [], False
    for character in pattern:
        if escaped:
            pieces.append(re.escape(character))
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            pieces.append({"%": ".*", "_": "."}.get(character, re.escape(character)))
    return "".join(pieces)
