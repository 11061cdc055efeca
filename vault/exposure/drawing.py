"""The picture of an exposure: columns by time, in numbers; how it is drawn is for whoever shows it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vault.exposure.exposure import Line, Part, Picture, Span, Window
from vault.exposure.gathering import EXACT, What
from vault.exposure.intervals import Runs, common, of_pairs

__all__ = ["STRETCHES", "drawn"]

#: Into so many stretches its time is cut.
STRETCHES: Final = 120
_Numbers = npt.NDArray[np.int64]


def drawn(
    period: Runs,
    since: int | None,
    parts: Sequence[Part],
    windows: Sequence[Window],
    frozen: Sequence[Span],
    numbers: Mapping[str, _Numbers],
    whats: Sequence[What],
) -> Picture:
    """The picture of a period; without a ``since`` it begins where anything was granted or served first."""
    last = int(period[-1, 1])
    begun = [*(window.starts for window in windows), *numbers["begun"][:1].tolist()]
    first = since if since is not None else min(begun, default=last)
    first = min(first, last - 1)
    exact, bound = _by_what(numbers, len(whats), first, last)
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    of_what = {(what.dataset_id, what.version, what.state, name): set[int]() for what in whats for name in what.columns}
    for number, what in enumerate(whats):
        for name in what.columns:
            of_what[what.dataset_id, what.version, what.state, name].add(number)
    for part in parts:
        line = lines.setdefault(
            (part.dataset_id, part.column),
            {"dataset": part.dataset, "whats": set(), "ids": set(), "cells": 0, "at_most": 0},
        )
        line["whats"] |= of_what.get((part.dataset_id, part.version, part.state, part.column), set())
        line["ids"].add(part.column_id)
        line["cells"] += part.exact.count
        line["at_most"] += part.bound.count
    return Picture(
        first,
        last,
        tuple(
            Line(
                line["dataset"],
                column,
                tuple(exact[sorted(line["whats"])].sum(axis=0).tolist()),
                tuple(bound[sorted(line["whats"])].sum(axis=0).tolist()),
                _open(dataset, column, windows, first, last),
                line["cells"],
                line["at_most"],
            )
            for (dataset, column), line in lines.items()
        ),
        tuple(span for span in frozen if span.first < last and (span.last is None or span.last > first)),
    )


def _by_what(numbers: Mapping[str, _Numbers], whats: int, first: int, last: int) -> tuple[_Numbers, _Numbers]:
    """For each thing that was delivered how many rows of it left in each stretch: exactly, and at the most."""
    length = max(1, last - first)

    def stretch(times: _Numbers) -> _Numbers:
        # In floats: microseconds times stretches may be more than 64 bits hold.
        return np.clip((times - first) / length * STRETCHES, 0, STRETCHES - 1).astype(np.int64)

    begun = stretch(numbers["begun"])
    ended = np.maximum(stretch(np.maximum(numbers["ended"], numbers["begun"])), begun)
    # Something is seen of each, however long it went on.
    rows = np.where(numbers["rows"] > 0, np.maximum(numbers["rows"] // (ended - begun + 1), 1), 0)
    found = []
    for chosen in (numbers["how"] == EXACT, numbers["how"] != EXACT):
        edges = np.zeros((whats, STRETCHES + 1), dtype=np.int64)
        np.add.at(edges, (numbers["what"][chosen], begun[chosen]), rows[chosen])
        np.add.at(edges, (numbers["what"][chosen], ended[chosen] + 1), -rows[chosen])
        found.append(np.cumsum(edges, axis=1)[:, :STRETCHES])
    return found[0], found[1]


def _open(dataset: str, column: str, windows: Sequence[Window], first: int, last: int) -> tuple[Span, ...]:
    spans = [
        (span.first, span.last if span.last is not None else last)
        for window in windows
        if window.dataset_id == dataset and column in window.columns
        for span in window.open
    ]
    return tuple(Span(begin, end) for begin, end in common(of_pairs(spans), of_pairs([(first, last)])).tolist())
