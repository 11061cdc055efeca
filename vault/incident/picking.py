"""Which entries of the log concern one vendor, and may be shown with their keys to whoever it is about.

An entry concerns a vendor where it is about nobody else: it names the vendor's id; or it is about a dataset that such
an entry names (published, erased, expired, deleted); or about data keys, grants and names that are all the vendor's. An
entry that names several vendors is in nobody's bundle.
"""

from collections.abc import Iterable
from typing import Final

from vault.audit import Entry, Kind

__all__ = ["Concerned", "runs_of"]

#: Entries that name no vendor; they concern whoever was given something of the dataset.
_OF_DATASETS: Final = {Kind.PUBLISHED, Kind.ROWS_ERASED, Kind.VERSIONS_EXPIRED, Kind.DATASET_DELETED}


class Concerned:
    """The entries of a log that concern one vendor, picked as they come."""

    def __init__(self, vendor: str, places: Iterable[str]) -> None:
        self._vendor = vendor
        self._places = {vendor, *places}
        self._names: set[object] = set()
        self._grants: set[object] = set()
        self._datasets: set[str] = set()
        self._own: list[int] = []
        self._of_datasets: list[tuple[int, str]] = []

    def look(self, sequence: int, entry: Entry) -> None:
        """The next entry."""
        fields = entry.fields
        if "vendor_id" in fields:
            if fields["vendor_id"] == self._vendor:
                self._own.append(sequence)
                self._names.add(fields.get("vendor"))
                self._grants.add(fields.get("grant"))
                if isinstance(fields.get("dataset_id"), str):
                    self._datasets.add(fields["dataset_id"])
        elif entry.kind in _OF_DATASETS:
            self._of_datasets.append((sequence, str(fields.get("dataset_id"))))
        elif self._is_all_its_own(entry):
            self._own.append(sequence)

    def _is_all_its_own(self, entry: Entry) -> bool:
        if entry.kind is Kind.KEYS_OPENED:
            return {key[0] for key in entry.fields["keys"]} <= self._places
        if entry.kind is Kind.ROOT_CHANGED:
            named, ended = set(entry.fields["left_out"]), set(entry.fields["ended_grants"])
            return bool(named | ended) and named <= self._names and ended <= self._grants
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
