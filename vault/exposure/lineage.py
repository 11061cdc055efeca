"""Which rows of a version are the same as which of another: what was appended to has its first shards row for row."""

from collections.abc import Mapping

from vault.exposure.intervals import NONE, Runs, of_pairs
from vault.exposure.world import Version

__all__ = ["Lineage"]

_ALL = 2**31


class Lineage:
    """The versions of all datasets, by dataset id and number, and what each has of those before it.

    Where the log says two things of what a version begins with, a ``loose`` one believes both, and any other neither.
    """

    def __init__(self, versions: Mapping[tuple[str, int], Version], *, loose: bool = False) -> None:
        self._versions = versions
        self._loose = loose
        self._before: dict[tuple[str, int], dict[int, int]] = {}

    def _bases(self, dataset: str, number: int) -> list[tuple[int, int]]:
        version = self._versions.get((dataset, number))
        bases = version.bases if version is not None else set()
        if len(bases) > 1 and not self._loose:
            return []
        return [base for base in bases if base is not None]

    def _origins(self, dataset: str, number: int) -> dict[int, int]:
        """How many of its first shards a version has from each version that it goes back to, itself among them."""
        found = self._before.get((dataset, number))
        if found is None:
            found, waiting = {}, [(number, _ALL)]
            while waiting:
                at, shards = waiting.pop()
                if found.get(at, -1) < shards:
                    found[at] = shards
                    waiting += [(before, min(shards, first)) for before, first in self._bases(dataset, at)]
            self._before[dataset, number] = found
        return found

    def common(self, dataset: str, one: int, other: int) -> Runs:
        """The shards that two versions of a dataset have row for row, but for what was erased of them."""
        mine, theirs = self._origins(dataset, one), self._origins(dataset, other)
        shards = max((min(mine[each], theirs[each]) for each in mine.keys() & theirs.keys()), default=0)
        return of_pairs([(0, shards)]) if shards else NONE
