"""Servers and brokers that are killed with -9 while a vault on them is read, published and rekeyed."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.outages import VICTIMS, scene

_SOAK_KILLS = 40


@pytest.mark.minutes
@pytest.mark.timeout(900)
def test_whoever_is_killed_nothing_is_lost_and_everybody_goes_on(tmp_path: Path) -> None:
    """Each of them once: reads give rows of one version or one sentence, and all acts go on when it is back."""
    with scene(tmp_path) as found:
        with found.busy():
            found.goes_on()
            for victim in VICTIMS:
                found.kill(victim)
                found.goes_on()
        found.holds()


@pytest.mark.soak
def test_forty_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for longer, in any order and not always after everybody has recovered; what came of it is printed."""
    order = random.Random(7)
    with scene(tmp_path) as found:
        killed: Counter[str] = Counter()
        with found.busy():
            for number in range(_SOAK_KILLS):
                victim = order.choice(VICTIMS)
                found.kill(victim)
                killed[victim] += 1
                if number % 4 == 3:
                    found.goes_on()
            found.goes_on()
        found.holds()
        troubles = Counter(each.partition(":")[0] for each in found.troubles)
        with capsys.disabled():
            print(
                f"\nkills: {dict(killed)}; reads {len(found.reads)}, batches published {len(found.done)} "
                f"(told of an error: {len(found.unsure)}), rekeys {found.rekeys}; errors {dict(troubles)}"
            )
