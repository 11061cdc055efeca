"""Selections and copies of Arrow values hold what their rows have, and nothing else."""

import re
from typing import Any

import pyarrow as pa
import pytest

from tests.support.tables import every_type, same
from vault.compact import chosen, compact, compact_batch, is_plain, selected

_TEXT = pa.string()
_COUNT = 24
_VALUES = [f"<value {number:02}> and twelve bytes more" for number in range(_COUNT)]

#: Every type that may hold text in buffers that rows share, with a value for each row.
SHARED: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (_TEXT, _VALUES),
    "view": (pa.string_view(), _VALUES),
    "binary view": (pa.binary_view(), [value.encode() for value in _VALUES]),
    "dictionary": (pa.dictionary(pa.int16(), _TEXT), _VALUES),
    "ordered dictionary of views": (pa.dictionary(pa.int8(), pa.string_view(), ordered=True), _VALUES),
    "list": (pa.list_(_TEXT), [[value] for value in _VALUES]),
    "list view": (pa.list_view(_TEXT), [[value] for value in _VALUES]),
    "large list view": (pa.large_list_view(pa.string_view()), [[value, None] for value in _VALUES]),
    "fixed list": (pa.list_(_TEXT, 1), [[value] for value in _VALUES]),
    "fixed list of views": (pa.list_(pa.string_view(), 2), [[value, None] for value in _VALUES]),
    "map": (pa.map_(_TEXT, pa.string_view()), [[("key", value)] for value in _VALUES]),
    "struct": (pa.struct([("inner", pa.string_view())]), [{"inner": value} for value in _VALUES]),
    "list of structs": (pa.list_(pa.struct([("inner", pa.string_view())])), [[{"inner": value}] for value in _VALUES]),
    "list of dictionaries": (pa.list_(pa.dictionary(pa.int8(), _TEXT)), [[value] for value in _VALUES]),
    "json": (pa.json_(), [f'"{value}"' for value in _VALUES]),
}


def array_of(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """An array of any of these types."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        plain = pa.array(values, kind.value_type)
        return pa.DictionaryArray.from_arrays(
            pa.array(range(len(values)), kind.index_type), plain, ordered=kind.ordered
        )
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        inner = array_of(kind.value_type, [value for row in values for value in row])
        return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), inner)
    return pa.array(values, kind)


def numbers_in(data: bytes) -> set[int]:
    """The rows whose values are in some bytes."""
    return {int(found) for found in re.findall(rb"<value (\d\d)>", data)}


def sent(batch: pa.RecordBatch) -> bytes:
    """A batch as it is sent."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", SHARED)
def test_nothing_but_the_rows_is_sent(name: str) -> None:
    """Of a selection, and of a copied slice, whatever the type: not a byte of another row's value."""
    kind, values = SHARED[name]
    table = pa.table({"c": pa.chunked_array([array_of(kind, values)])})
    mask = pa.array([number % 3 == 0 for number in range(_COUNT)])
    picked = chosen(table, mask).combine_chunks().to_batches()[0]
    picked.validate(full=True)
    assert numbers_in(sent(picked)) == set(range(0, _COUNT, 3))
    part = compact_batch(table.to_batches()[0].slice(5, 2))
    part.validate(full=True)
    assert numbers_in(sent(part)) == {5, 6}
    assert part.column(0).to_pylist() == table.column("c").to_pylist()[5:7]


def test_the_bits_of_neighbours_are_not_sent() -> None:
    """Of booleans and of nulls, one row is one bit."""
    bits = pa.array([True, False] * 500)
    nulls = pa.array([None if number % 2 else number for number in range(1000)], pa.int32())
    batch = compact_batch(pa.record_batch({"bits": bits, "nulls": nulls}).slice(2, 1))
    for column in batch.columns:
        assert all(buffer is None or buffer.size <= 4 for buffer in column.buffers())
    assert batch.to_pylist() == [{"bits": True, "nulls": 2}]


@pytest.mark.parametrize("mask", [[True, False, True], [False, None, True], [False] * 3, [True] * 3])
def test_every_type_is_selected_as_it_is(mask: list[bool | None]) -> None:
    """Values, nulls, types and order stay; a mask that is null selects nothing."""
    table = every_type()
    found = chosen(table, pa.array(mask, pa.bool_()))
    found.validate(full=True)
    assert found.schema.equals(table.schema)
    assert found.to_pylist() == [row for row, keep in zip(table.to_pylist(), mask, strict=True) if keep]
    chunked = chosen(pa.concat_tables([table, table.slice(1)]), pa.chunked_array([mask, mask[1:]], pa.bool_()))
    assert chunked.num_rows == sum(bool(keep) for keep in mask + mask[1:])


def test_every_type_is_copied_as_it_is() -> None:
    """A slice of any type is equal to its copy."""
    table = every_type()
    for start in range(3):
        part = table.slice(start)
        copy = pa.table([compact(column) for column in part.columns], schema=part.schema)
        copy.validate(full=True)
        assert same(copy, part)


def test_a_dictionary_keeps_the_order_of_what_is_left() -> None:
    """Ordered categories compare as they did, and values that no row has are gone."""
    kind = pa.dictionary(pa.int8(), pa.string(), ordered=True)
    array = pa.DictionaryArray.from_arrays(
        pa.array([2, None, 0, 2], pa.int8()), pa.array(["low", "hidden", "high"]), ordered=True
    )
    found = selected(array, pa.array([0, 1, 2], pa.int64()))
    assert found.type == kind
    assert found.dictionary.to_pylist() == ["low", "high"]
    assert found.to_pylist() == ["high", None, "low"]


def test_what_needs_no_care_is_known() -> None:
    """Types with views, dictionaries or list views at any depth are not plain."""
    assert is_plain(pa.list_(pa.struct([("a", pa.map_(pa.string(), pa.float16()))])))
    assert not any(
        is_plain(kind) for name, (kind, _) in SHARED.items() if name not in {"text", "list", "fixed list", "json"}
    )
