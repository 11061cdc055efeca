"""Deliveries, and what they came to: each flow of the same to the same hands, and the newest deliveries one by one."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vault.exposure.exposure import Amounts, Delivered, Flow
from vault.exposure.gathering import BOUND, EXACT, FILE, LEASE, NO_END, Gathering
from vault.exposure.world import EVER

__all__ = ["Column", "delivered", "flows", "totals"]

Column = npt.NDArray[np.int64]
#: So many deliveries are listed one by one, the newest; their rows and amounts count in any case.
_LISTED: Final = 10_000
_HOW: Final = {EXACT: "complete", BOUND: "broken off", NO_END: "no end", LEASE: "lease", FILE: "shared file"}


def flows(found: Gathering, numbers: Mapping[str, Column]) -> tuple[tuple[Flow, ...], Column]:
    """Deliveries of the same to the same, and for each delivery the place of its flow."""
    people = max(1, len(found.who.values))
    pairs, place = np.unique(numbers["what"] * people + numbers["who"], return_inverse=True)
    exact, unsized = numbers["how"] == EXACT, numbers["bytes"] < 0
    rows, sizes = numbers["rows"], np.maximum(numbers["bytes"], 0)
    ended = np.maximum(numbers["begun"], numbers["ended"])

    def sums(values: npt.NDArray[Any]) -> list[int]:
        total = np.zeros(len(pairs), dtype=np.int64)
        np.add.at(total, place, values)
        return [int(each) for each in total]

    first, last = np.full(len(pairs), EVER), np.full(len(pairs), -1)
    np.minimum.at(first, place, numbers["begun"])
    np.maximum.at(last, place, ended)
    amounts = map(
        Amounts,
        sums(exact), sums(rows * exact), sums(sizes * exact),
        sums(~exact), sums(rows * ~exact), sums(sizes * ~exact), sums(unsized),
    )  # fmt: skip
    made = []
    for at, (pair, amount) in enumerate(zip(pairs.tolist(), amounts, strict=True)):
        what, who = found.what.values[pair // people], found.who.values[pair % people]
        made.append(
            Flow(
                what.dataset,
                what.dataset_id,
                what.version,
                what.state,
                what.columns,
                what.masks,
                who,
                amount,
                int(first[at]),
                int(last[at]),
            )
        )
    return tuple(made), place.astype(np.int64)


def totals(flows: tuple[Flow, ...]) -> tuple[Amounts, dict[str, Amounts]]:
    """What all flows came to, and those of each dataset by its id."""
    total = Amounts()
    datasets: dict[str, Amounts] = {}
    for flow in flows:
        total = _sum(total, flow.amounts)
        datasets[flow.dataset_id] = _sum(datasets.get(flow.dataset_id, Amounts()), flow.amounts)
    return total, datasets


def delivered(found: Gathering, numbers: Mapping[str, Column], flow: Column) -> tuple[Delivered, ...]:
    """The newest deliveries; ``flow`` is the place of each one's flow."""
    newest = np.argsort(numbers["number"], kind="stable")[-_LISTED:]
    return tuple(
        Delivered(
            number,
            begun,
            ended if ended >= 0 else None,
            _HOW[how],
            found.outcomes.values[outcome],
            rows,
            size if size >= 0 else None,
            of,
        )
        for number, begun, ended, how, outcome, rows, size, of in zip(
            *(
                numbers[name][newest].tolist()
                for name in ("number", "begun", "ended", "how", "outcome", "rows", "bytes")
            ),
            flow[newest].tolist(),
            strict=True,
        )
    )


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(getattr(one, name) + getattr(other, name) for name in Amounts.__slots__))
