"""One schema out of several: null gives way to anything, integers to doubles, structs and lists field by field."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.types as pt

from vault.errors import InvalidInput

__all__ = ["Contradiction", "conform", "merge_schemas", "merge_types"]


class Contradiction(Exception):
    """Two types that no type reconciles, and the path at which they meet."""

    def __init__(self, path: str, first: pa.DataType, second: pa.DataType) -> None:
        super().__init__(path)
        self.path = path
        self.first = first
        self.second = second


def merge_types(first: pa.DataType, second: pa.DataType, path: str, *, widen: bool) -> pa.DataType:
    """The type that holds both; raises Contradiction. ``widen`` lets integers become doubles."""
    if first.equals(second) or pt.is_null(second):
        return first
    if pt.is_null(first):
        return second
    if widen and {str(first), str(second)} == {"int64", "double"}:
        return pa.float64()
    if widen and pt.is_struct(first) and pt.is_struct(second):
        return _merge_structs(first, second, path)
    if widen and pt.is_list(first) and pt.is_list(second):
        return pa.list_(merge_types(first.value_type, second.value_type, f"{path}[]", widen=True))
    raise Contradiction(path, first, second)


def _merge_structs(first: pa.DataType, second: pa.DataType, path: str) -> pa.DataType:
    fields = {first.field(index).name: first.field(index).type for index in range(first.num_fields)}
    for index in range(second.num_fields):
        field = second.field(index)
        known = fields.get(field.name, pa.null())
        fields[field.name] = merge_types(known, field.type, f"{path}.{field.name}", widen=True)
    return pa.struct(list(fields.items()))


def merge_schemas(schemas: Iterable[tuple[str, pa.Schema]], *, widen: bool) -> pa.Schema:
    """The columns of all files, in the order in which they first stand; raises InvalidInput naming both files.

    Field and schema metadata are those of the first file that has them.
    """
    fields: dict[str, tuple[str, pa.Field]] = {}
    metadata = None
    for shown, schema in schemas:
        metadata = metadata or schema.metadata
        for field in schema:
            where, known = fields.get(field.name, (shown, field))
            try:
                kind = merge_types(known.type, field.type, field.name, widen=widen)
            except Contradiction as error:
                raise InvalidInput(
                    f"{shown}: the column {error.path!r} is {error.second}, and {error.first} in {where}"
                ) from error
            fields[field.name] = (where, known.with_type(kind).with_nullable(known.nullable and field.nullable))
    return pa.schema([field for _, field in fields.values()], metadata=metadata)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch in exactly ``schema``; columns that it lacks, and those of type null, become nulls."""
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        column = batch.column(index) if index >= 0 else None
        if column is None or (pt.is_null(column.type) and not pt.is_null(field.type)):
            column = pa.nulls(batch.num_rows, field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
