"""What a data key's ids stand for, for people: whose it is, and which columns of which dataset it opens.

The log's own entries come first, since they still know what was deleted; then the catalog and the newest manifests.
"""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

from vault.audit import Entry, Kind
from vault.errors import VaultError
from vault.model import MANIFEST_GROUP, MASK_GROUP, METADATA_GROUP, KeyScope
from vault.workings.filling import owners_version
from vault.workings.names import Dataset, datasets, holders
from vault.workings.parts import OwnerParts

__all__ = ["Names", "Whose"]

#: What the keys that are no column's are for.
_OTHERS: Final = {
    MANIFEST_GROUP: "the lists of its files",
    METADATA_GROUP: "the names in its part of the catalog",
    MASK_GROUP: "the keyed hashes of its masks",
}


@dataclass(frozen=True, slots=True)
class Whose:
    """A data key in words; what nothing here knows is None or empty. ``use`` is what one is for that is no column's."""

    holder: str | None
    dataset: str | None
    columns: tuple[str, ...]
    use: str | None

    def __str__(self) -> str:
        what = self.use or (", ".join(self.columns) if self.columns else "a column group that nothing here names")
        whose = self.holder or "a holder that nothing here names"
        return f"{whose}: {f'{self.dataset}: ' if self.dataset else ''}{what}"


@final
class Names:
    """The names of one vault's holders, datasets and column groups, as the log and the catalog have them."""

    def __init__(self, parts: OwnerParts) -> None:
        self._parts = parts
        self._groups: dict[str, dict[str, None]] = defaultdict(dict)
        self._places: dict[str, tuple[str, str]] = {}
        self._opened = False
        sealer = parts.sealer()
        with parts.catalog.read() as transaction:
            self._holders = {holder.id: holder.name for holder in holders(transaction, sealer)}
            found = datasets(transaction, sealer, deleted_too=True)
            rows = transaction.compartments()
        self._datasets: list[Dataset] = found
        named = {dataset.id: dataset.name for dataset in found}
        for row in rows:
            self._places[row.id] = (self._holders.get(row.holder, ""), named.get(row.dataset, ""))

    def learn(self, entry: Entry) -> None:
        """Take over what an entry says about compartments and column groups."""
        fields = entry.fields
        columns, groups, place = fields.get("columns"), fields.get("groups"), fields.get("compartment")
        # Elsewhere the groups of an entry are in no order.
        if entry.kind is Kind.PUBLISHED and isinstance(columns, list) and isinstance(groups, list):
            for column, group in zip(columns, groups, strict=False):
                self._groups[str(group)][str(column)] = None
        if isinstance(place, str) and place not in self._places and isinstance(fields.get("dataset"), str):
            self._places[place] = (str(fields.get("vendor") or "owner"), fields["dataset"])

    def of(self, scope: KeyScope) -> Whose:
        """What a data key is for."""
        if scope.group in {METADATA_GROUP, MASK_GROUP}:
            return Whose(self._holders.get(scope.compartment), None, (), _OTHERS[scope.group])
        holder, dataset = self._places.get(scope.compartment, ("", ""))
        if scope.group == MANIFEST_GROUP:
            return Whose(holder or None, dataset or None, (), _OTHERS[MANIFEST_GROUP])
        if scope.group not in self._groups and not self._opened:
            self._open_manifests()
        columns = tuple(self._groups.get(scope.group, ()))
        return Whose(holder or None, dataset or None, columns, None)

    def _open_manifests(self) -> None:
        """Ask the newest version of each dataset, once; one that cannot be opened leaves its columns without names."""
        self._opened = True
        for dataset in (each for each in self._datasets if not each.deleted):
            with suppress(VaultError):
                for column in owners_version(self._parts, dataset).manifest.columns:
                    self._groups[column.group][column.name] = None
