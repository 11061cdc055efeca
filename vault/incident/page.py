"""The report as one page of HTML that needs nothing beside it: no script, no style sheet, no font, no picture.

All that comes from the log is text that somebody else may have written. It is escaped wherever it stands, and the page
forbids a browser to fetch or run anything at all.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from vault.exposure import Exposure, Line, Picture, Span
from vault.incident.tables import tables
from vault.incident.wording import count, harmless, moment, plural, summary

__all__ = ["page", "sketch"]

_WIDTH: Final = 1200
_LEFT: Final = 230
_RIGHT: Final = 990
_TOP: Final = 40
_ROW: Final = 20
_LANE: Final = 8
_HEADING: Final = 24
_TICKS: Final = 6
#: More columns than this are no picture any more: those of which most was served are drawn.
_MOST_LINES: Final = 60
_LABEL: Final = 30


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
        tables=tables(found),
    )
    return text


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    width: float
    text: str = ""
    anchor: str = "start"


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
        "frozen": [_frozen(picture, span) for span in picture.frozen],
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


def _frozen(picture: Picture, span: Span) -> _Box:
    box = _box(picture, span)
    return _Box(box.x, box.width, moment(span.first), "end" if box.x > (_LEFT + _RIGHT) / 2 else "start")


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
    length = picture.last - picture.first
    return [
        {
            "x": _x(picture, at := picture.first + length * number // _TICKS),
            "text": moment(at)[5:16] if length < 100 * 86_400_000_000 else moment(at)[:10],
        }
        for number in range(_TICKS + 1)
    ]
