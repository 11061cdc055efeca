"""Which rows of a dataset are meant, by their keys or by a predicate, in every version of it.

A column is followed by its id into versions in which it had another name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from vault.errors import Conflict, InvalidInput, NotFound
from vault.filters import BoundFilter, bind, parse
from vault.manifest import Shard
from vault.model import Column
from vault.workings.names import Dataset
from vault.workings.parts import OwnerParts
from vault.workings.reading import group_shape, open_chunk
from vault.workings.versions import OpenVersion

__all__ = ["Leaving", "Sought"]


@dataclass(slots=True)
class Leaving:
    """One version of the owner's: which rows of each shard stay; shards that lose none are not listed."""

    version: OpenVersion
    keep: dict[int, pa.ChunkedArray] = field(default_factory=dict)
    erased: int = 0


class Sought:
    """Rows of some versions of a dataset, the newest last; raises Conflict where it was changed in the meantime."""

    def __init__(self, parts: OwnerParts, dataset: Dataset, versions: Sequence[OpenVersion]) -> None:
        self._parts, self._dataset, self._versions = parts, dataset, versions
        self._names = _key_names(dataset, versions)
        #: The keys that are meant; and by version the predicate, where it can be asked there: of rows without keys.
        self._values: pa.Array | None = None
        self._conditions: dict[int, BoundFilter] = {}

    def choose(self, keys: Sequence[object] | None, where: str | None) -> int:
        """Find the keys that are meant, or those of rows that a predicate finds; returns how many are unknown.

        Raises InvalidInput.
        """
        newest = self._versions[-1].manifest
        kind = newest.schema.field(self._dataset.key).type if self._dataset.key is not None else None
        if keys is not None:
            values = _values(keys, kind)
            self._values = self._keys_among(values)
            return len(pc.unique(values)) - len(self._values)
        assert where is not None
        parse(where)
        unfit: InvalidInput | None = None
        for version in self._versions:
            try:
                self._conditions[version.manifest.version] = self._condition(where, version)
            except InvalidInput as error:
                unfit = unfit or error
        if unfit is not None and (kind is None or not self._conditions):
            raise unfit  # it says which column is wrong
        pieces = [piece for version in self._versions for piece in self._matching_keys(version, kind)]
        self._values = pc.unique(pa.chunked_array(pieces)) if pieces else None
        return 0

    def _condition(self, where: str, version: OpenVersion) -> BoundFilter:
        """The predicate over a version, where a column may have another name than by now; raises InvalidInput."""
        ids = {column.name: column.id for column in self._versions[-1].manifest.columns}
        names = {column.id: column.name for column in version.manifest.columns}
        condition = parse(where)
        then = {name: names.get(ids.get(name, ""), name) for name in condition.columns()}
        return bind(condition.rename(then), version.manifest.schema)

    def _keys_among(self, values: pa.Array) -> pa.Array:
        """Of these keys those that some version has; raises InvalidInput for a version that has none to look at."""
        known = pa.array([False] * len(values), pa.bool_())
        for version in self._versions:
            name = self._names[version.manifest.version]
            if name is None:
                raise InvalidInput(
                    f"--keys: version {version.manifest.version} has no column of row keys, so that nobody can tell "
                    "which of its rows are meant: expire it, or erase with --where"
                )
            for shard in version.shards():
                column = self._columns(version, shard, [name]).column(0)
                known = pc.or_(known, _among(values, pc.unique(column)))
        return values.filter(known)

    def _matching_keys(self, version: OpenVersion, kind: pa.DataType | None) -> Iterable[pa.Array]:
        number = version.manifest.version
        condition, name = self._conditions.get(number), self._names[number]
        if condition is None or name is None or kind is None:
            return
        names = sorted({*condition.filter.columns(), name})
        for shard in version.shards():
            table = self._columns(version, shard, names)
            found = table.column(name).filter(condition.true_of(table))
            try:
                yield from found.cast(kind).chunks
            except pa.ArrowInvalid as error:
                raise InvalidInput(
                    f"--where: it finds rows of version {number}, whose row keys are of another "
                    "type: expire that version, or erase with --keys"
                ) from error

    def _columns(self, version: OpenVersion, shard: Shard, names: Sequence[str]) -> pa.Table:
        found: dict[str, pa.ChunkedArray] = {}
        for group in sorted({_column(version, name).group for name in names}):
            shape = group_shape(version.manifest, group)
            key = version.keys[group]
            table = open_chunk(self._parts, self._parts.keyring, key, shard.chunks[group], shape)
            found |= {name: table.column(name) for name in table.column_names}
        return pa.table({name: found[name] for name in names})

    def leaving(self, version: OpenVersion) -> Leaving:
        """What a version loses, and what of it stays."""
        plan = Leaving(version)
        for shard in version.shards():
            keep = self._keep(version, shard)
            gone = shard.rows - (pc.sum(keep).as_py() or 0) if keep is not None else 0
            if keep is not None and gone:
                plan.keep[shard.index] = keep
                plan.erased += gone
        return plan

    def _keep(self, version: OpenVersion, shard: Shard) -> pa.ChunkedArray | None:
        """True for each row that stays; None where all do."""
        number = version.manifest.version
        condition, name = self._conditions.get(number), self._names[number]
        if name is not None:
            if self._values is None:
                return None
            return pc.invert(_among(self._columns(version, shard, [name]).column(0), self._values))
        if condition is None:
            return None
        return pc.invert(condition.true_of(self._columns(version, shard, sorted(condition.filter.columns()))))


def _column(version: OpenVersion, name: str) -> Column:
    column = version.manifest.column(name)
    if column is None:
        raise NotFound(f"there is no column {name!r}")
    return column


def _key_names(dataset: Dataset, versions: Sequence[OpenVersion]) -> dict[int, str | None]:
    """What the column that identifies rows is called in each version, by its number; None where it has none.

    A column that was renamed has its id still, and one of another type its name: so it is followed from the newest
    version back.
    """
    ids: set[str] = set()
    names = {dataset.key}
    found: dict[int, str | None] = {}
    for version in reversed(versions):
        columns = version.manifest.columns
        column = next((each for each in columns if each.id in ids), None)
        column = column or next((each for each in columns if each.name in names), None)
        found[version.manifest.version] = column.name if column is not None else None
        if column is not None:
            ids.add(column.id)
            names.add(column.name)
        elif version is versions[-1] and dataset.key is not None:
            raise Conflict("the dataset was changed in the meantime")  # its key was renamed between two looks at it
    return found


def _among(column: pa.ChunkedArray | pa.Array, values: pa.Array) -> pa.ChunkedArray | pa.Array:
    """Which elements are among some values; as texts, where their types have nothing else in common."""
    if column.type != values.type:
        try:
            column = column.cast(values.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            column, values = column.cast(pa.large_string()), values.cast(pa.large_string())
    return pc.is_in(column, value_set=values)


def _values(keys: Sequence[object], kind: pa.DataType) -> pa.Array:
    """Keys as the key column's type; raises InvalidInput with the place of one that cannot be."""
    whole = pa.types.is_integer(kind)
    values: list[object] = []
    for number, key in enumerate(keys, 1):
        if whole and isinstance(key, str):
            try:
                values.append(int(key.strip()))
                continue
            except ValueError as error:
                raise InvalidInput(f"--keys: the key in line {number} is not a whole number") from error
        if isinstance(key, bool) or not isinstance(key, int if whole else str):
            raise InvalidInput(f"--keys: the key in line {number} is not {'a whole number' if whole else 'text'}")
        values.append(key)
    if not values:
        raise InvalidInput("--keys: there is no key")
    try:
        return pc.unique(pa.array(values, kind))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise InvalidInput(f"--keys: a key is not of the column's type, {kind}") from error
