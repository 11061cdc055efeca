"""The report as one page of HTML that needs nothing beside it: no script, no style sheet, no font, no picture.

All that comes from the log is text that somebody else may have written. It is escaped wherever it stands, and the page
forbids a browser to fetch or run anything at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from vault.exposure import Exposure, Line, Picture, Span
from vault.incident.axis import marks
from vault.incident.tables import tables
from vault.incident.wording import count, harmless, moment, plural, summary

__all__ = ["page", "sketch"]

_WIDTH: Final = 1200
_LEFT: Final = 230
_RIGHT: Final = 990
_TOP: Final = 56
_ROW: Final = 20
_LANE: Final = 8
_HEADING: Final = 24
#: How wide the label of a freeze is. Those that would lie on each other go into lanes; what finds none has no label.
_FROZEN_LABEL: Final = 190
_LANES: Final = 3
_LANE_STEP: Final = 14
#: More columns than this are no picture any more: those of which most was served are drawn.
_MOST_LINES: Final = 60
_LABEL: Final = 30
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d ")


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    return environment.from_string(resources.files("vault.incident").joinpath("report.html.j2").read_text("utf-8"))


def page(found: Exposure) -> str:
    """The page."""
    text: str = _template().render(
        vendor=harmless(found.vendor),
        entries=count(found.entries),
        through=moment(found.through),
        summary=summary(found),
        picture=sketch(found.picture),
        compared=found.compared,
        tables=tables(found),
        is_time=_is_time,
    )
    return text


def _is_time(cell: str) -> bool:
    """Whether a cell begins with a time, of which a line should not break the date."""
    return _DATE.match(cell) is not None


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    width: float
    text: str = ""
    anchor: str = "start"
    y: float = 0


def sketch(picture: Picture) -> dict[str, Any]:
    """Where everything of the picture lies, in units of the drawing."""
    chosen = sorted(picture.lines, key=lambda line: (line.cells + line.at_most, bool(line.open)), reverse=True)
    kept = set(map(id, chosen[:_MOST_LINES]))
    lines, y, heading = [], _TOP, None
    for line in picture.lines:
        if id(line) not in kept:
            continue
        new = line.dataset != heading
        heading_y = y + 16
        y += _HEADING if new else 0
        lines.append(_line(picture, line, y, heading_y if new else None))
        heading, y = line.dataset, y + _ROW
    left_out = len(picture.lines) - len(lines)
    return {
        "width": _WIDTH,
        "height": y + 28,
        "left": _LEFT,
        "right": _RIGHT,
        "top": _TOP,
        "bottom": y,
        "row": _ROW,
        "lane": _LANE,
        "lines": lines,
        "ticks": _ticks(picture),
        "frozen": list(_frozen(picture)),
        "left_out": f"{plural(left_out, 'more column')} of which less was served "
        f"{'is' if left_out == 1 else 'are'} not drawn." if left_out else "",
    }  # fmt: skip


def _line(picture: Picture, line: Line, y: int, heading_y: int | None) -> dict[str, Any]:
    column = harmless(line.column)
    amount = count(line.cells) + (f" + at most {count(line.at_most)}" if line.at_most else "")
    return {
        "dataset": harmless(line.dataset),
        "column": column,
        "label": column if len(column) <= _LABEL else f"{column[: _LABEL - 1]}…",
        "heading": harmless(line.dataset)[:_LABEL] if heading_y is not None else None,
        "heading_y": heading_y,
        "y": y,
        "exact": _stretches(line.exact),
        "bound": _stretches(line.bound),
        "open": [_box(picture, span) for span in line.open],
        "amount": amount,
    }


def _x(picture: Picture, at: int) -> float:
    inside = min(max(at, picture.first), picture.last)
    return round(_LEFT + (inside - picture.first) / max(1, picture.last - picture.first) * (_RIGHT - _LEFT), 2)


def _box(picture: Picture, span: Span) -> _Box:
    first = _x(picture, span.first)
    last = _x(picture, span.last if span.last is not None else picture.last)
    return _Box(first, round(max(last - first, 1), 2))


def _frozen(picture: Picture) -> Iterator[_Box]:
    """The freezes, the newest first, so that its label is sure to have a place."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(_LANES)]
    for span in reversed(picture.frozen):
        box = _box(picture, span)
        ends = box.x > (_LEFT + _RIGHT) / 2
        first, last = (box.x - _FROZEN_LABEL, box.x) if ends else (box.x, box.x + _FROZEN_LABEL)
        free = (at for at, lane in enumerate(taken) if all(last < begin or end < first for begin, end in lane))
        lane = next(free, None)
        text = ""
        if lane is not None:
            taken[lane].append((first, last))
            text = f"frozen {moment(span.first)}"
        yield _Box(box.x, box.width, text, "end" if ends else "start", _TOP - 8 - _LANE_STEP * (lane or 0))


def _stretches(rows: tuple[int, ...]) -> list[_Box]:
    """Neighbouring stretches of time in which anything was served, as one box each."""
    width, boxes, begun = (_RIGHT - _LEFT) / len(rows), [], None
    for at, served in enumerate((*rows, 0)):
        if served and begun is None:
            begun = at
        elif not served and begun is not None:
            boxes.append(_Box(round(_LEFT + begun * width, 2), round((at - begun) * width, 2)))
            begun = None
    return boxes


def _ticks(picture: Picture) -> list[dict[str, Any]]:
    return [{"x": _x(picture, at), "text": text} for at, text in marks(picture.first, picture.last)]
