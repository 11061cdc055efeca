"""Which entries of the log concern one vendor, and may be shown with their keys to whoever it is about.

An entry concerns a vendor where it is about nobody else: it names the vendor's id; or it is about a dataset that such
an entry names (published, erased, expired, deleted); or about data keys, grants and names that are all the vendor's. An
entry that names several vendors is in nobody's bundle.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vault.audit import Entry, Kind

__all__ = ["Concerned", "runs_of"]

#: Entries that name no vendor; they concern whoever was given something of the dataset.
_OF_DATASETS: Final = {Kind.PUBLISHED, Kind.ROWS_ERASED, Kind.VERSIONS_EXPIRED, Kind.DATASET_DELETED}


class Concerned:
    """The entries of a log that concern one vendor, picked as they come."""

    def __init__(self, vendor: str, places: Iterable[str]) -> None:
        self._vendor = vendor
        self._places = {vendor, *places}
        self._names: set[str] = set()
        self._grants: set[str] = set()
        self._datasets: set[str] = set()
        self._own: list[int] = []
        self._of_datasets: list[tuple[int, str]] = []

    def look(self, sequence: int, entry: Entry) -> None:
        """The next entry; one that is not formed as it should be, and does not name the vendor, concerns nobody."""
        fields = entry.fields
        if fields.get("vendor_id") == self._vendor:
            self._own.append(sequence)
            self._learn(fields)
        elif "vendor_id" not in fields:
            if entry.kind in _OF_DATASETS:
                self._of_datasets.append((sequence, str(fields.get("dataset_id"))))
            elif self._is_all_its_own(entry):
                self._own.append(sequence)

    def _learn(self, fields: Mapping[str, Any]) -> None:
        """What of an own entry other entries may name."""
        for held, name in ((self._names, "vendor"), (self._grants, "grant"), (self._datasets, "dataset_id")):
            if isinstance(fields.get(name), str):
                held.add(fields[name])

    def _is_all_its_own(self, entry: Entry) -> bool:
        try:
            if entry.kind is Kind.KEYS_OPENED:
                return {key[0] for key in entry.fields["keys"]} <= self._places
            if entry.kind is Kind.ROOT_CHANGED:
                named, ended = set(entry.fields["left_out"]), set(entry.fields["ended_grants"])
                return bool(named | ended) and named <= self._names and ended <= self._grants
        except (KeyError, TypeError, IndexError):
            return False
        return False

    @property
    def sequences(self) -> list[int]:
        """Their numbers, ascending."""
        return sorted([*self._own, *(number for number, dataset in self._of_datasets if dataset in self._datasets)])


def runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as runs of a first and a last one, both inclusive."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs
