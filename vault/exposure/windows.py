"""When a vendor could read what: grants, credentials and freezes as stretches of time."""

from collections.abc import Iterator

from vault.exposure.intervals import Runs, common, minus, of_pairs
from vault.exposure.names import masks_on
from vault.exposure.world import EVER, State, Terms, Version, World
from vault.fields import shown

__all__ = ["Place", "opened", "places", "readable"]

#: A column of a version, or a field of one, as it may leave: shown name, column id, masks.
Place = tuple[str, str, tuple[tuple[str, str], ...]]


def opened(world: World, terms: Terms, period: Runs) -> Runs:
    """When within a period the vendor could read under a grant."""
    life = of_pairs([(terms.starts, min(terms.expires, terms.ended))])
    credentials = of_pairs([(each.issued, min(each.expires, each.ended)) for each in world.permissions])
    stopped = of_pairs([*world.freezes, (world.ended, EVER)])
    return minus(common(common(life, credentials), period), stopped)


def readable(world: World, terms: Terms, times: Runs) -> Iterator[tuple[Version, int, State]]:
    """The versions, each in the states that it had at some of these times, that a grant opened then."""
    versions = sorted(
        (version for version in world.versions.values() if version.dataset_id == terms.dataset_id),
        key=lambda version: version.number,
    )
    # The newest is the newest until one behind it was published, by all that is said of that one.
    since = [max(each.published for each in (version, *version.again)) for version in versions]
    for place, version in enumerate(versions):
        if terms.pinned is not None and version.number != terms.pinned:
            continue
        newest_until = min(since[place + 1 :], default=EVER) if terms.pinned is None else EVER
        for number, state in enumerate(version.states):
            there = of_pairs([(state.since, min(state.until, version.ended, newest_until))])
            if len(common(there, times)):
                yield version, number, state


def places(terms: Terms, version: Version) -> list[Place]:
    """What a grant opens of a version."""
    # A mask was written down by the names of then; a column may have another in this version.
    then = dict(zip(terms.columns, terms.column_ids, strict=False))
    found: dict[Place, None] = {}
    masks = tuple(sorted(terms.masks.items()))
    for names in version.namings:
        known = {name: identity for identity, name in names.items()} | then
        for identity in terms.column_ids:
            name = names.get(identity)
            if name is None:
                continue  # the version has no such column
            for path in terms.fields.get(identity) or ((),):
                place = shown((name, *path))
                found[place, identity, masks_on(place, masks, known)] = None
    return list(found)
