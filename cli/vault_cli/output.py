"""What commands print: one JSON document, or lines and tables for a person; progress goes to stderr."""

import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vault.client import Progress

__all__ = ["emit", "emit_each", "fetching", "note", "printable", "progress", "short", "table", "warn_open"]

#: Characters of a value in a table.
_LONGEST_CELL = 60


def emit(document: Any, as_json: bool, human: Callable[[], None] | str) -> None:
    """Print the document, or what a person is told instead."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str, allow_nan=False) + "\n")
    elif isinstance(human, str):
        sys.stdout.write(human + "\n")
    else:
        human()


def emit_each(name: str, items: Iterable[Any]) -> None:
    """Print one document that holds a list of any length under a name, as it comes."""
    between = "\n"
    sys.stdout.write(f'{{\n  "{name}": [')
    for item in items:
        text = json.dumps(item, ensure_ascii=False, indent=2, default=str, allow_nan=False)
        sys.stdout.write(between + textwrap.indent(text, "    "))
        between = ",\n"
    sys.stdout.write(f"{'' if between == chr(10) else chr(10) + '  '}]\n}}\n")


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
        shown.add_column(Text(printable(heading)), overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200).print(shown)


def counted(number: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def printable(cell: object) -> str:
    """Text for a terminal: what was published may hold control characters, which must not act here."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else "·" for character in text)


def short(cell: object) -> str:
    """A value on one line of a table, cut off where it is long."""
    text = " ".join(str(cell).split()) if cell is not None else ""
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"


def note(sentence: str) -> None:
    """Say something beside the result."""
    sys.stderr.write(f"dsvault: {printable(sentence)}\n")


def warn_open(*files: Path | None) -> None:
    """Say of files of secrets that others may read or change them; that may be meant, so they are used all the same."""
    for path in files:
        try:
            mode = path.stat().st_mode if path is not None else 0
        except OSError:
            continue  # whoever reads it says so
        if mode & 0o077:
            note(f"{path}: others may read or change this file, which holds a secret; run chmod 600 on it")


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


@contextmanager
def fetching(quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """The same for a fetch: rows, bytes, bytes a second, and the time left where it is known how many rows there are.

    Where it is not, the time that has gone by: a guess could only come from what the vendor may not know.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    remaining, elapsed = TimeRemainingColumn(), TimeElapsedColumn()
    first: Progress | None = None

    class _Time(ProgressColumn):
        def render(self, task: Any) -> Text:
            if first is None:
                return Text("")
            if task.total is None:
                return elapsed.render(task) + Text(" gone by")
            return remaining.render(task) + Text(" left")

    counts = TextColumn("{task.fields[rows]} rows, {task.fields[size]}, {task.fields[rate]}/s")
    with Bar(TextColumn("fetching"), BarColumn(), counts, _Time(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fetching", total=None, rows="0", size=decimal(0), rate=decimal(0))
        began = time.monotonic()

        def show(now: "Progress") -> None:
            nonlocal first
            first = now if first is None else first
            rate = (now.size - first.size) / max(time.monotonic() - began, 0.001)
            rows = f"{now.rows:,}" + (f" of {now.total:,}" if now.total is not None else "")
            bar.update(
                task, completed=now.rows, total=now.total, rows=rows, size=decimal(now.size), rate=decimal(int(rate))
            )

        yield show
