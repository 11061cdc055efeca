"""Ends that the log itself contradicts: who was stopped is served nothing a minute later.

An entry that says that a vendor was frozen, or that a grant or a credential ended, may be false. Where deliveries went
on after it, one of the two is; both are told of, and what the end would take away is not taken.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vault.exposure.amounts import Column
from vault.exposure.evidence import APART
from vault.exposure.gathering import Who
from vault.exposure.world import EVER, World

__all__ = ["contradicted"]


def contradicted(world: World, whos: Sequence[Who], numbers: Mapping[str, Column], *, signed: bool) -> list[str]:
    """Sentences about it; the ends are taken back in the world, unless what the lab ``signed`` bears them out."""
    begun = np.sort(numbers["begun"])
    last = np.full(len(whos), -1)
    np.maximum.at(last, numbers["who"], numbers["begun"])
    told = []
    kept = []
    for first, stop in world.freezes:
        went_on = int(np.searchsorted(begun, stop)) > int(np.searchsorted(begun, first + APART))
        if went_on:
            told.append("was frozen")
        if signed or not went_on:
            kept.append([first, stop])
    world.freezes = kept
    if world.ended < EVER and len(begun) and begun[-1] >= world.ended + APART:
        told.append("was offboarded")
        world.ended = world.ended if signed else EVER
    newest: dict[tuple[str, str], int] = {}
    for who, at in zip(whos, last.tolist(), strict=True):
        for place in (("grant", who.grant), ("credential", who.credential)):
            newest[place] = max(newest.get(place, -1), at)
    for what, made in (("grant", world.grants), ("credential", world.credentials)):
        for identity, each in made.items():
            ended = max(one.ended for one in each)
            if newest.get((what, identity), -1) >= ended + APART:
                told.append(f"had lost {what} {identity}")
                for one in () if signed else each:
                    one.ended = EVER
    return [
        f"The log has deliveries that began when the vendor {what} by another entry of it: one of them is false"
        + ("." if signed else ", and what could have been read is told as if nothing had ended.")
        for what in told
    ]
