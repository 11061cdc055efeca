"""Rows for Hugging Face's datasets, as a stream that is written nowhere.

The library's way is to prepare a dataset in its cache on disk and to map that into memory. Here it would be the rows in
plaintext, outside of every control: past a revocation and an expiry, in whatever backs that disk up.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from vault.errors import InvalidInput
from vault.readers.parts import usual_parts
from vault.readers.readers import Readers
from vault.readers.workers import own, told

__all__ = ["in_memory", "streaming"]


class _Rows(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """A builder that is asked for its stream and never to prepare anything: Arrow tables go through it as they are."""

    source: Readers
    options: Mapping[str, Any]
    parts: list[tuple[int, int]]
    version: int
    schema: pa.Schema

    def _info(self) -> Any:
        return datasets.DatasetInfo()

    def _split_generators(self, _manager: Any) -> list[Any]:
        return [datasets.SplitGenerator(datasets.Split.TRAIN, {"parts": self.parts})]

    def _generate_tables(self, parts: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        with told():
            source = own(self.source)
            for part in parts:
                batches = source.scan(**self.options, part=part, version=self.version)
                for number, batch in enumerate(batches):
                    yield Key(part[0], number), pa.Table.from_batches([batch]).cast(self.schema)


def streaming(source: Readers, options: Mapping[str, Any], parts: int | None) -> Any:
    """An iterable dataset of the version that is read now, whose shards are the parts."""
    extent = source.extent(**{name: options[name] for name in ("grant",) if name in options})
    number = usual_parts(parts, extent)
    # No row is read for it; the broker says what comes of these columns.
    schema = _taken(source.scan(**options, limit=0).schema)
    builder = _Rows()
    builder.source, builder.options, builder.schema = source, dict(options), schema
    builder.version, builder.parts = extent.version, [(index, number) for index in range(number)]
    builder.info.features = _features(schema)
    return builder.as_streaming_dataset(datasets.Split.TRAIN)


def in_memory(table: pa.Table) -> Any:
    """A dataset of a table in memory."""
    schema = _taken(table.schema)
    _features(schema)
    return datasets.Dataset(datasets.table.InMemoryTable(table.cast(schema)))


def _features(schema: pa.Schema) -> Any:
    """What the library calls a schema; raises InvalidInput where it has no word for a column's type."""
    for field in schema:
        try:
            datasets.Features.from_arrow_schema(pa.schema([field]))
        except (ValueError, NotImplementedError, TypeError, KeyError) as error:
            raise InvalidInput(
                f"column {field.name}: datasets has nothing for {field.type}; choose other columns"
            ) from error
    return datasets.Features.from_arrow_schema(schema)


def _taken(schema: pa.Schema) -> pa.Schema:
    """A schema whose dictionaries and views are what they stand for, since the library knows neither."""
    return pa.schema([field.with_type(_type(field.type)) for field in schema])


def _type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_type(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_type(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_type(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_type(kind.value_type)))
    return kind
