"""Which other vendors hold rows that one was served."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from vault.exposure.exposure import Part, Shared
from vault.exposure.intervals import Runs, common
from vault.exposure.lineage import Lineage
from vault.exposure.rows import RowSet, either
from vault.exposure.world import EVER, Other, World

__all__ = ["shared"]


def shared(world: World, parts: Iterable[Part]) -> Iterator[Shared]:
    """Who else has the same rows of the same columns; what the log says two things of is taken for the same."""
    served = [part for part in parts if part.exact or part.bound]
    lineage = Lineage(world.versions, loose=True)
    for other in sorted(world.others.values(), key=lambda other: (other.name, other.id)):
        for found in _shared_with(other, served, lineage):
            yield replace(found, vendor=other.name)


def _shared_with(other: Other, served: list[Part], lineage: Lineage) -> Iterator[Shared]:
    groups: dict[tuple[Any, ...], list[Part]] = {}
    for part in served:
        groups.setdefault((part.dataset_id, part.version, part.state), []).append(part)
    for (_, version, state), members in groups.items():
        none = RowSet.of(members[0].layout)
        exact, bound, names, times = none, none, dict[str, None](), []
        for part in members:
            for since, until, shards in _holdings(other, lineage, part):
                mine, most = part.exact.within(shards), part.bound.within(shards)
                if mine or most:
                    exact, bound = either(exact, mine), either(bound, most)
                    names[part.column] = None
                    times.append((since, until))
        if times:
            last = max(until for _, until in times)
            yield Shared(
                "", other.id, members[0].dataset, version, state, tuple(names), exact.count, (bound - exact).count,
                min(since for since, _ in times), last if last < EVER else None,
            )  # fmt: skip


def _holdings(other: Other, lineage: Lineage, part: Part) -> Iterator[tuple[int, int, Runs]]:
    """From when until when another vendor has which shards of a part's rows."""
    for (identity, number), holdings in other.holdings.items():
        if identity == part.dataset_id:
            shards = lineage.common(identity, part.version, number)
            for each in holdings:
                if each.column_ids is None or part.column_id in each.column_ids:
                    yield each.since, each.until, common(shards, each.shards)
