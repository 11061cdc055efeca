"""Nested columns in part: some fields of structs only, at any depth, also within lists. Pure functions over Arrow.

A path goes through a list into its values. What is left out is not in the result in any form: a struct is made anew
from the fields that stay, with its own nulls.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from vault.fields import Fields, Path

__all__ = ["changed", "field_at", "has_field", "narrowed", "narrowed_field", "with_field"]

#: What is left of a struct, by field: None for all of it.
_Tree = Mapping[str, Any]


def narrowed_field(field: pa.Field, fields: Fields | None) -> pa.Field:
    """The field of a column of which only these fields are left; raises LookupError where it has no such field."""
    return field if fields is None else _altered(field, _type(field.type, _tree(fields)))


def narrowed(column: pa.ChunkedArray, fields: Fields | None) -> pa.ChunkedArray:
    """A column with these of its fields; the same column where that is all that it has."""
    if fields is None:
        return column
    tree = _tree(fields)
    kind = _type(column.type, tree)
    if kind == column.type:
        return column
    return pa.chunked_array([_array(chunk, tree, kind) for chunk in column.chunks], type=kind)


def field_at(field: pa.Field, path: Path) -> pa.Field:
    """The field that a path below a column leads to; raises LookupError."""
    if not path:
        return field
    if _is_list(field.type):
        return field_at(field.type.value_field, path)
    return field_at(_child(field.type, path[0]), path[1:])


def has_field(field: pa.Field, path: Path) -> bool:
    """Whether a path below a column leads to a field."""
    try:
        field_at(field, path)
    except LookupError:
        return False
    return True


def with_field(field: pa.Field, path: Path, other: pa.Field) -> pa.Field:
    """A column's field with another one at a path; raises LookupError."""
    if not path:
        return other
    kind = field.type
    if _is_list(kind):
        return _altered(field, _list_of(kind, with_field(kind.value_field, path, other)))
    _child(kind, path[0])
    children = [with_field(each, path[1:], other) if each.name == path[0] else each for each in kind]
    return _altered(field, pa.struct(children))


def changed(
    column: pa.ChunkedArray, path: Path, kind: pa.DataType, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> pa.ChunkedArray:
    """A column with other values at a path: ``change`` is given those that are there, and ``kind`` is its new type."""
    return pa.chunked_array([_changed(chunk, path, kind, change) for chunk in column.chunks], type=kind)


def _tree(fields: Fields) -> _Tree:
    tree: dict[str, Any] = {}
    for path in fields:
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = None
    return tree


def _altered(field: pa.Field, kind: pa.DataType) -> pa.Field:
    """A field of which not all is there, or not as it was: its own metadata may speak of the rest."""
    return field.with_type(kind).remove_metadata()


def _child(kind: pa.DataType, name: str) -> pa.Field:
    # Of two fields of one name none is meant.
    index = kind.get_field_index(name) if pt.is_struct(kind) else -1
    if index < 0:
        raise LookupError(name)
    return kind.field(index)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _list_of(kind: pa.DataType, values: pa.Field) -> pa.DataType:
    if pt.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    return pa.large_list(values) if pt.is_large_list(kind) else pa.list_(values)


def _type(kind: pa.DataType, tree: _Tree) -> pa.DataType:
    if _is_list(kind):
        return _list_of(kind, _altered(kind.value_field, _type(kind.value_field.type, tree)))
    for name in tree:
        _child(kind, name)
    kept = [(each, tree[each.name]) for each in kind if each.name in tree]
    return pa.struct([each if rest is None else _altered(each, _type(each.type, rest)) for each, rest in kept])


def _array(array: pa.Array, tree: _Tree, kind: pa.DataType) -> pa.Array:
    if _is_list(array.type):
        return _relisted(array, lambda values: _array(values, tree, kind.value_field.type), kind)
    children = []
    for each in kind:
        child, rest = array.field(each.name), tree[each.name]
        children.append(child if rest is None else _array(child, rest, each.type))
    return _struct(array, children, list(kind))


def _changed(
    array: pa.Array, path: Path, kind: pa.DataType, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> pa.Array:
    if not path:
        return change(pa.chunked_array([array])).combine_chunks()
    if _is_list(array.type):
        return _relisted(array, lambda values: _changed(values, path, kind.value_field.type, change), kind)
    children = [
        _changed(array.field(index), path[1:], each.type, change) if each.name == path[0] else array.field(index)
        for index, each in enumerate(kind)
    ]
    return _struct(array, children, list(kind))


def _struct(array: pa.Array, children: list[pa.Array], fields: list[pa.Field]) -> pa.Array:
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, fields=fields, mask=mask)


def _relisted(array: pa.Array, change: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> pa.Array:
    """A list array of another type over other values; also of one that is a slice of a longer one."""
    mask = array.is_null() if array.null_count else None
    if pt.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = change(array.values.slice(array.offset * size, len(array) * size))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)
    # Offsets of their own: a mask is not taken with those of a slice.
    offsets = pa.array(array.offsets.to_numpy(), array.offsets.type)
    made = pa.LargeListArray if pt.is_large_list(array.type) else pa.ListArray
    return made.from_arrays(offsets, change(array.values), type=kind, mask=mask)
