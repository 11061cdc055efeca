"""Which rows of a version are the same as which of another: what was appended to has its first shards row for row."""

from collections.abc import Mapping

from vault.exposure.intervals import NONE, Runs, of_pairs
from vault.exposure.world import Version

__all__ = ["Lineage"]

_ALL = 2**31


class Lineage:
    """The versions of all datasets, by dataset id and number, and what each has of those before it."""

    def __init__(self, versions: Mapping[tuple[str, int], Version]) -> None:
        self._versions = versions
        self._before: dict[tuple[str, int], dict[int, int]] = {}

    def _origins(self, dataset: str, number: int) -> dict[int, int]:
        """How many of its first shards a version has from each version that it goes back to, itself among them."""
        found = self._before.get((dataset, number))
        if found is None:
            found, shards, at = {}, _ALL, number
            while at not in found:
                found[at] = shards
                version = self._versions.get((dataset, at))
                if version is None or version.base is None:
                    break
                at, shards = version.base[0], min(shards, version.base[1])
            self._before[dataset, number] = found
        return found

    def common(self, dataset: str, one: int, other: int) -> Runs:
        """The shards that two versions of a dataset have row for row, but for what was erased of them."""
        mine, theirs = self._origins(dataset, one), self._origins(dataset, other)
        shards = max((min(mine[each], theirs[each]) for each in mine.keys() & theirs.keys()), default=0)
        return of_pairs([(0, shards)]) if shards else NONE
