"""What commands print: one JSON document, or lines and tables for a person; progress goes to stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["emit", "printable", "progress", "table"]


def emit(document: Any, as_json: bool, human: Callable[[], None] | str) -> None:
    """Print the document, or what a person is told instead."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    elif isinstance(human, str):
        sys.stdout.write(human + "\n")
    else:
        human()


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, or a word where it would be empty."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        sys.stdout.write("none\n")
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200).print(shown)


def printable(cell: object) -> str:
    """Text for a terminal: what was published may hold control characters, which must not act here."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else "·" for character in text)


@contextmanager
def progress(label: str, unit: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal's stderr; elsewhere nothing. Yields a function of (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counter = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn(label), BarColumn(), counter, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
