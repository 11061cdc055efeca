"""What of an earlier version a new one carries over: whole column groups as they are, and others written anew.

A column keeps its id and group while its type and the company in its group stay; then the chunks of earlier shards are
shared. Otherwise they are decoded, brought to the new type, filled with nulls or given other values, and encoded under
the new group's key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from vault.compact import selected
from vault.encoding import new_id
from vault.errors import InvalidInput
from vault.manifest import Manifest, Part, Shard
from vault.model import Column
from vault.workings.parts import Parts
from vault.workings.reading import group_shape, open_chunk, read_column
from vault.workings.rows import RowKeys
from vault.workings.versions import OpenVersion

__all__ = ["Carried", "Replacement", "carried_columns", "renamed_columns"]


def carried_columns(previous: Manifest, schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a schema that grew out of an earlier version's: unchanged groups keep their ids."""
    before = {column.name: column for column in previous.columns}
    changed = {
        column.group
        for column in previous.columns
        if column.name not in schema.names or schema.field(column.name).type != previous.schema.field(column.name).type
    }
    groups = {group: new_id() for group in changed}
    found = []
    for name in schema.names:
        column = before.get(name)
        if column is None:
            found.append(Column(new_id(), name, new_id()))
        elif column.group in changed:
            found.append(Column(new_id(), name, groups[column.group]))
        else:
            found.append(column)
    return tuple(found)


def renamed_columns(previous: Manifest, old: str, new: str, now: datetime) -> tuple[tuple[Column, ...], pa.Schema]:
    """The columns and schema with one name changed; ids and groups stay, so grants do."""
    columns = tuple(
        replace(column, name=new, formerly=(*column.formerly, old), since=now) if column.name == old else column
        for column in previous.columns
    )
    fields = [each.with_name(new) if each.name == old else each for each in previous.schema]
    return columns, pa.schema(fields, metadata=previous.schema.metadata)


class Replacement:
    """New values for columns of a version: by its row key, or in its order where it has none.

    Of the columns in ``fill`` only nulls get values. The values are held in memory. Raises InvalidInput for rows that
    the version does not have.
    """

    def __init__(
        self,
        parts: Parts,
        version: OpenVersion,
        key: str | None,
        table: pa.Table,
        fill: frozenset[str] = frozenset(),
    ) -> None:
        self._parts = parts
        self._version = version
        self._key = key
        self._table = table
        self._fill = fill
        self._first = {shard.index: shard.rows for shard in version.shards((version.manifest.columns[0].group,))}
        offset = 0
        for index, rows in self._first.items():
            self._first[index], offset = offset, offset + rows
        if key is None:
            if table.num_rows != offset:
                raise InvalidInput(
                    f"--columns-only: the source has {table.num_rows} rows and the version {offset}; without a row key "
                    "(--key) they have to be as many"
                )
            return
        self._keys = self._checked_keys(key)

    @property
    def names(self) -> list[str]:
        """The columns that get values."""
        return [name for name in self._table.column_names if name != self._key]

    @property
    def schema(self) -> pa.Schema:
        """Their types; what was not given is null."""
        return pa.schema([self._table.schema.field(name).with_nullable(True) for name in self.names])

    def _checked_keys(self, key: str) -> pa.Array:
        kind = self._version.manifest.schema.field(key).type
        given = RowKeys(key)
        given.add(self._table.column(key))
        given.check()
        try:
            keys = self._table.column(key).cast(kind).combine_chunks()
        except (pa.ArrowException, ValueError) as error:
            raise InvalidInput(f"--columns-only: the key column {key!r} is not {kind} in the source") from error
        pieces = [chunk for column in read_column(self._parts, self._version, key) for chunk in column.chunks]
        known = pc.is_in(keys, value_set=pa.chunked_array(pieces, kind).combine_chunks())
        if not pc.all(known, min_count=0).as_py():
            row = pc.index(known, False).as_py() + 1
            raise InvalidInput(f"--columns-only: row {row} of the source has a key that the version does not have")
        return keys

    def values(self, shard: Shard, name: str, before: pa.ChunkedArray) -> pa.ChunkedArray:
        """A shard's values: the new one where the source has the row, else what stood there before."""
        column = self._table.column(name)
        first = self._first[shard.index]
        if self._key is None:
            return column.slice(first, shard.rows)
        group = self._version.manifest.column(self._key)
        assert group is not None
        shape = group_shape(self._version.manifest, group.group)
        wrapped, ref = self._version.keys[group.group], shard.chunks[group.group]
        own = open_chunk(self._parts, self._parts.keyring, wrapped, ref, shape).column(self._key)
        found = pc.index_in(own, value_set=self._keys)
        stays = pc.is_null(found)
        if name in self._fill:
            stays = pc.or_(stays, pc.is_valid(before))
        places = pc.if_else(stays, pa.array(range(shard.rows), pa.int64()), pc.add(found, shard.rows))
        both = pa.concat_arrays([*before.chunks, *column.chunks])
        return pa.chunked_array([selected(both, places.combine_chunks())], column.type)


@dataclass(frozen=True, slots=True)
class Carried:
    """An earlier version, the columns and schema of the new one, and new values for some of its columns."""

    version: OpenVersion
    columns: tuple[Column, ...]
    schema: pa.Schema
    replacement: Replacement | None = None
    _touched: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = self.replacement.names if self.replacement is not None else ()
        object.__setattr__(self, "_touched", frozenset(c.group for c in self.columns if c.name in names))

    @property
    def kept(self) -> list[Part]:
        """The parts of the earlier manifest whose chunks are shared."""
        groups = {column.group for column in self.columns} - self._touched
        return [part for part in self.version.manifest.parts if part.group in groups]

    @property
    def fresh(self) -> Mapping[str, list[Column]]:
        """The columns of the groups whose chunks are written anew, by group."""
        shared = self.version.manifest.groups - self._touched
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            if column.group not in shared:
                found.setdefault(column.group, []).append(column)
        return found

    def rows(self, parts: Parts, shard: Shard, columns: list[Column]) -> pa.Table:
        """A fresh group's columns of an earlier shard, in the new types; raises InvalidInput where a value is lost."""
        return pa.table(
            [self._column(parts, shard, column.name) for column in columns],
            schema=pa.schema([self.schema.field(column.name) for column in columns]),
        )

    def _column(self, parts: Parts, shard: Shard, name: str) -> pa.ChunkedArray:
        before = self._before(parts, shard, name)
        if self.replacement is not None and name in self.replacement.names:
            return self.replacement.values(shard, name, before)
        return before

    def _before(self, parts: Parts, shard: Shard, name: str) -> pa.ChunkedArray:
        kind = self.schema.field(name).type
        old = self.version.manifest.column(name)
        if old is None:
            return pa.chunked_array([pa.nulls(shard.rows, kind)])
        shape = group_shape(self.version.manifest, old.group)
        table = open_chunk(parts, parts.keyring, self.version.keys[old.group], shard.chunks[old.group], shape)
        column = table.column(name)
        try:
            return column if column.type == kind else column.cast(kind)
        except (pa.ArrowException, ValueError) as error:
            raise InvalidInput(
                f"the column {name!r} is {column.type} in the dataset and would become {kind}, which does not hold "
                "every value that it has"
            ) from error
