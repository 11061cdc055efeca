"""A filter bound to a schema: every path found, every literal a value of its column's type, ready to run.

NULL behaves as in SQL: a comparison with NULL is NULL, AND and OR follow Kleene's logic, and only a row whose
filter is TRUE passes. NaN follows IEEE 754: it equals nothing, itself among it. A field of a struct that is NULL
is NULL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vault.compact import chosen
from vault.errors import InvalidInput
from vault.filters.literals import comparable, normal_type, value_of
from vault.filters.prune import possible
from vault.filters.statistics import ShardStatistics
from vault.filters.tree import And, Compare, Filter, In, IsNull, Like, Literal, Node, Not, Or, Path
from vault.filters.views import decoded

__all__ = ["BoundFilter", "bind"]

_KERNELS = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path leads: names from the column down, and the type in which it is compared.

    Names and not indexes: the column that it is run over may have more fields than the one that it was bound to.
    """

    column: str
    fields: tuple[str, ...]
    kind: pa.DataType


@dataclass(frozen=True, slots=True)
class BoundFilter:
    """A filter that runs over tables holding the columns of the schema that it was bound to."""

    filter: Filter
    places: Mapping[Path, _Place]
    values: Mapping[tuple[Path, Literal], Any]

    def apply(self, table: pa.Table) -> pa.Table:
        """The rows for which the filter is TRUE, in order."""
        return chosen(table, self._mask(self.filter.root, table))

    def true_of(self, table: pa.Table) -> pa.ChunkedArray:
        """For each row whether the filter is TRUE; never null."""
        mask = pc.fill_null(self._mask(self.filter.root, table), False)
        return mask if isinstance(mask, pa.ChunkedArray) else pa.chunked_array([mask])

    def may_match(self, statistics: ShardStatistics) -> pa.BooleanArray:
        """For each shard: false only if no row of one with these statistics (by column name) can pass; never null."""
        return possible(self.filter.root, statistics, self._value).true

    def _value(self, path: Path, literal: Literal) -> pa.Scalar:
        return _scalar(self.values[path, literal], self.places[path].kind)

    def _mask(self, node: Node, table: pa.Table) -> Any:
        match node:
            case Compare(operator, left, right):
                return _KERNELS[operator](self._operand(left, right, table), self._operand(right, left, table))
            case In():
                return self._in(node, table)
            case IsNull(path):
                return pc.is_null(self._column(path, table))
            case Like(path, pattern):
                return pc.match_substring_regex(self._compared(path, table), _regex(pattern))
            case Not(item):
                return pc.invert(self._mask(item, table))
            case And(items):
                return reduce(pc.and_kleene, (self._mask(item, table) for item in items))
            case Or(items):
                return reduce(pc.or_kleene, (self._mask(item, table) for item in items))

    def _in(self, node: In, table: pa.Table) -> Any:
        column, kind = self._compared(node.path, table), self.places[node.path].kind
        values = [_scalar(self.values[node.path, literal], kind) for literal in node.values]
        if pt.is_floating(kind) or not values:
            # By value and not by bits: 0.0 is in a list that holds -0.0.
            hits = [pc.equal(column, value) for value in values]
            found = reduce(pc.or_kleene, hits) if hits else pc.and_kleene(pc.is_null(column), False)
        else:
            found = pc.is_in(column, value_set=_array(values, kind))
        # is_in answers false for NULL where SQL says NULL, and NOT would turn that into a row let through.
        unknown = pa.scalar(None, pa.bool_())
        found = pc.if_else(pc.is_null(column), unknown, found)
        return pc.if_else(pc.equal(found, False), unknown, found) if node.with_null else found

    def _operand(self, side: Path | Literal, other: Path | Literal, table: pa.Table) -> Any:
        if isinstance(side, Path):
            return self._compared(side, table)
        assert isinstance(other, Path)
        return _scalar(self.values[other, side], self.places[other].kind)

    def _column(self, path: Path, table: pa.Table) -> Any:
        place = self.places[path]
        column = table.column(place.column)
        return pc.struct_field(column, _indexes(column.type, place.fields)) if place.fields else column

    def _compared(self, path: Path, table: pa.Table) -> Any:
        column, kind = self._column(path, table), self.places[path].kind
        if pt.is_dictionary(column.type):
            column = decoded(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))
        return column if column.type == kind else column.cast(kind)


def _indexes(kind: pa.DataType, names: tuple[str, ...]) -> list[int]:
    """Where the fields of these names are. Arrow would take a name that begins with a dot for a path of its own."""
    indexes = []
    for name in names:
        indexes.append(kind.get_field_index(name))
        kind = kind.field(indexes[-1]).type
    return indexes


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    if pt.is_timestamp(kind) or pt.is_time64(kind):
        return pa.scalar(value, pa.int64()).cast(kind)
    if pt.is_date32(kind) or pt.is_time32(kind):
        return pa.scalar(value, pa.int32()).cast(kind)
    return pa.scalar(value, kind)


def _array(values: list[pa.Scalar], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


def _regex(pattern: str) -> str:
    """A LIKE pattern as an RE2 expression over the whole text, newlines included."""
    pieces, escaped = [], False
    for character in pattern:
        if escaped or character not in "%_\\":
            pieces.append(re.escape(character))
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            pieces.append(".*" if character == "%" else ".")
    return r"(?s)\A" + "".join(pieces) + r"\z"


def bind(condition: Filter, schema: pa.Schema, option: str = "--where") -> BoundFilter:
    """Bind a filter to a schema; raises InvalidInput, naming column and type, where it does not fit."""
    binder = _Binder(schema, option)
    binder.visit(condition.root)
    return BoundFilter(condition, binder.places, binder.values)


class _Binder:
    def __init__(self, schema: pa.Schema, option: str) -> None:
        self._schema = schema
        self._option = option
        self.places: dict[Path, _Place] = {}
        self.values: dict[tuple[Path, Literal], Any] = {}

    def visit(self, node: Node) -> None:
        match node:
            case Compare(operator, left, right):
                self._compare(operator, left, right)
            case In(path, values, _):
                self._comparable(path)
                for value in values:
                    self._value(path, value)
            case IsNull(path):
                self._place(path)
            case Like(path, _):
                if not pt.is_large_string(self._comparable(path).kind):
                    raise InvalidInput(f"{self._option}: LIKE needs a text column, which {_shown(path)} is not")
            case Not(item):
                self.visit(item)
            case And(items) | Or(items):
                for item in items:
                    self.visit(item)

    def _compare(self, operator: str, left: Path | Literal, right: Path | Literal) -> None:
        sides = [self._comparable(side) for side in (left, right) if isinstance(side, Path)]
        if len(sides) == 2 and sides[0].kind != sides[1].kind:
            raise InvalidInput(
                f"{self._option}: {sides[0].kind} and {sides[1].kind} columns do not compare with each other"
            )
        if pt.is_boolean(sides[0].kind) and operator not in {"=", "<>"}:
            raise InvalidInput(f"{self._option}: a bool column compares with = and <> only")
        for side, other in ((left, right), (right, left)):
            if isinstance(side, Path) and isinstance(other, Literal):
                self._value(side, other)

    def _value(self, path: Path, literal: Literal) -> None:
        place = self.places[path]
        self.values[path, literal] = value_of(literal, place.kind, f"{self._option}: {_shown(path)}")

    def _comparable(self, path: Path) -> _Place:
        place = self._place(path)
        if not comparable(place.kind):
            raise InvalidInput(f"{self._option}: {_shown(path)} is {place.kind}, which only IS NULL takes")
        return place

    def _place(self, path: Path) -> _Place:
        if path not in self.places:
            self.places[path] = self._find(path)
        return self.places[path]

    def _find(self, path: Path) -> _Place:
        if path.names[0] not in self._schema.names:
            raise InvalidInput(f"{self._option}: there is no column {path.names[0]!r}")
        kind = self._schema.field(path.names[0]).type
        for name in path.names[1:]:
            index = kind.get_field_index(name) if pt.is_struct(kind) else -1
            if index < 0:
                raise InvalidInput(f"{self._option}: there is no field {_shown(path)}")
            kind = kind.field(index).type
        return _Place(path.names[0], path.names[1:], normal_type(kind))


def _shown(path: Path) -> str:
    return repr(".".join(path.names))
