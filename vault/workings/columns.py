"""The columns of a version: which keep their ids, and how they are grouped."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from vault.encoding import new_id
from vault.errors import InvalidInput
from vault.manifest import Manifest
from vault.model import Column

__all__ = ["plan_columns"]


def plan_columns(
    schema: pa.Schema, groups: Mapping[str, Sequence[str]], previous: Manifest | None
) -> tuple[Column, ...]:
    """Give every column its id and group.

    A column keeps its id and group from the version before as long as its name, its type and the company
    in its group stay the same. Anything else gets fresh ids, which no grant names: a grant covers what its
    signer saw, never what took its place or moved in with it.
    """
    members = _group_members(schema, groups)
    known = _known_groups(previous) if previous else {}
    columns: dict[str, Column] = {}
    for names in members:
        shape = frozenset((name, schema.field(name).type) for name in names)
        kept = known.get(shape)
        group = new_id()
        for name in names:
            columns[name] = kept[name] if kept else Column(new_id(), name, group)
    return tuple(columns[name] for name in schema.names)


def _group_members(schema: pa.Schema, groups: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    taken: set[str] = set()
    members = []
    for label, names in groups.items():
        for name in names:
            if name not in schema.names:
                raise InvalidInput(f"--group {label}: the source has no column {name!r}")
            if name in taken:
                raise InvalidInput(f"--group {label}: the column {name!r} is in a group already")
            taken.add(name)
        if names:
            members.append(tuple(names))
    return members + [(name,) for name in schema.names if name not in taken]


def _known_groups(previous: Manifest) -> dict[frozenset[tuple[str, pa.DataType]], dict[str, Column]]:
    by_group: dict[str, list[Column]] = {}
    for column in previous.columns:
        by_group.setdefault(column.group, []).append(column)
    return {
        frozenset((column.name, previous.schema.field(column.name).type) for column in columns): {
            column.name: column for column in columns
        }
        for columns in by_group.values()
    }
