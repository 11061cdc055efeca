"""Nested columns in part: compared with the same done in plain Python."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.fields import Path, covers, parse_path, path_text, union
from vault.projection import changed, field_at, has_field, narrowed, narrowed_field, with_field

_NAMES = ["a", "b", "a.b", '"', " c"]
_LEAVES = st.sampled_from([pa.int64(), pa.string(), pa.list_(pa.int8())])


def _structs(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3, unique=True).flatmap(
        lambda names: st.tuples(*(inner for _ in names)).map(
            lambda kinds: pa.struct(list(zip(names, kinds, strict=True)))
        )
    )


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    lists = inner.flatmap(lambda kind: st.sampled_from([pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2)]))
    return _structs(inner) | lists


_KINDS = _structs(st.recursive(_LEAVES, _nested, max_leaves=6))


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_struct(kind):
        found = st.fixed_dictionaries({each.name: _values(each.type) for each in kind})
    elif pa.types.is_fixed_size_list(kind):
        found = st.lists(_values(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        found = st.lists(_values(kind.value_type), max_size=3)
    elif pa.types.is_string(kind):
        found = st.text("xyz", max_size=2)
    else:
        found = st.integers(-100, 100)
    return st.none() | found


def _paths(kind: pa.DataType) -> list[Path]:
    if pa.types.is_struct(kind):
        return [(each.name, *rest) for each in kind for rest in [(), *_paths(each.type)]]
    return _paths(kind.value_type) if hasattr(kind, "value_type") else []


def _plain(value: Any, kind: pa.DataType, fields: tuple[Path, ...]) -> Any:
    """What is left of a Python value."""
    if value is None or () in fields:
        return value
    if not pa.types.is_struct(kind):
        return [_plain(each, kind.value_type, fields) for each in value]
    left = {}
    for each in kind:
        below = tuple(path[1:] for path in fields if path[0] == each.name)
        if below:
            left[each.name] = _plain(value[each.name], each.type, below)
    return left


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_just_the_fields_are_left_whatever_the_type(data: st.DataObject) -> None:
    """Values, nulls and order are what they were; of other fields nothing is in the type or the buffers."""
    kind = data.draw(_KINDS)
    rows = data.draw(st.lists(_values(kind), max_size=6))
    fields = union(data.draw(st.lists(st.sampled_from(_paths(kind)), min_size=1, max_size=3)))
    whole = pa.array(rows, kind)
    start = data.draw(st.integers(0, len(rows)))
    column = pa.chunked_array([whole, whole.slice(start), whole.slice(start, 2)], kind)
    found = narrowed(column, fields)
    found.validate(full=True)
    assert found.type == narrowed_field(pa.field("c", kind), fields).type
    expected = rows + rows[start:] + rows[start : start + 2]
    assert found.to_pylist() == [_plain(value, kind, fields) for value in expected]
    assert all(has_field(pa.field("c", found.type), path) == covers(fields, path) for path in fields)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_only_what_is_at_a_path_is_changed(data: st.DataObject) -> None:
    """Numbers put in the place of whatever is there leave everything beside as it was, and nulls above it null."""
    kind = data.draw(_KINDS)
    rows = data.draw(st.lists(_values(kind), min_size=1, max_size=5))
    path = data.draw(st.sampled_from(_paths(kind)))
    column = pa.chunked_array([pa.array(rows, kind).slice(1), pa.array(rows, kind)], kind)
    new = with_field(pa.field("c", kind), path, pa.field(path[-1], pa.int32()))
    found = changed(column, path, new.type, lambda values: pa.chunked_array([pa.array([7] * len(values), pa.int32())]))
    found.validate(full=True)
    assert found.type == new.type

    def put(value: Any, kind: pa.DataType, path: Path) -> Any:
        if value is None and path:
            return None
        if not path:
            return 7
        if not pa.types.is_struct(kind):
            return [put(each, kind.value_type, path) for each in value]
        inner = kind.field(kind.get_field_index(path[0])).type
        return {**value, path[0]: put(value[path[0]], inner, path[1:])}

    assert found.to_pylist() == [put(value, kind, path) for value in rows[1:] + rows]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (pa.struct([("a", pa.int8())]), ("b",)),
        (pa.struct([("a", pa.int8())]), ("a", "b")),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), ("a",)),
        (pa.map_(pa.string(), pa.struct([("a", pa.int8())])), ("value", "a")),
        (pa.map_(pa.string(), pa.struct([("a", pa.int8())])), ("a",)),
        (pa.string(), ("a",)),
    ],
)
def test_a_field_that_is_not_there_or_not_one_is_none(kind: pa.DataType, path: Path) -> None:
    """Unknown fields, fields of a name that stands twice, and those within a map."""
    assert not has_field(pa.field("c", kind), path)
    with pytest.raises(LookupError):
        field_at(pa.field("c", kind), path)
    with pytest.raises(LookupError):
        narrowed_field(pa.field("c", kind), (path,))


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=4).map(tuple))
def test_the_text_of_a_path_is_read_back(path: Path) -> None:
    """Whatever the names are: dots, quotes, spaces and line ends among them."""
    assert parse_path(path_text(path)) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", '"', '"a', 'a"b', '"a"b', '""', '"".a', 'a."b'])
def test_what_is_no_path_is_refused(text: str) -> None:
    """Empty names and quotes that do not close."""
    with pytest.raises(ValueError, match="not a path"):
        parse_path(text)


def test_fields_have_one_form() -> None:
    """Sorted, and without what another of them covers."""
    assert union([("b",), ("a", "c"), ("a", "b"), ("b", "x")]) == (("a", "b"), ("a", "c"), ("b",))
    assert union([("a", "b"), ("a",)]) == (("a",),)
