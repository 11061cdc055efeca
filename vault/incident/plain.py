"""The report as Markdown; every character of the log's text that Markdown or HTML would act on is escaped."""

import re
from typing import Final

from vault.exposure import Exposure
from vault.incident.tables import Table, tables
from vault.incident.wording import count, harmless, moment, summary

__all__ = ["escaped", "plain"]

#: What acts where it stands (CommonMark 0.31, and GitHub's tables, strikethrough, links, mentions, mathematics): what
#: opens code, a link or a tag; emphasis that could begin or end there, which an underscore within a word cannot;
#: entities; addresses. At the beginning of a line also what makes it a heading, quotation, list or rule. A backslash
#: before punctuation lets it stand for itself.
_ACTING: Final = re.compile(
    r"[\\`\[|~$]|\*(?=\S)|(?<=\S)\*|_(?![^\W_])|(?<![^\W_])_|!(?=\[)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|@(?=\w)|#(?=\d)|:(?=//)"
    r"|(?<=www)\.|^[>#]|^[-+*](?=\s|$)|^(?:-[- ]*|=+|\+)$",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_ENTITIES: Final = {"<": "&lt;", "&": "&amp;"}


def escaped(text: str) -> str:
    """Text that stands as it is, in a paragraph or a cell of a table."""
    found = _ACTING.sub(lambda each: _ENTITIES.get(each[0]) or f"\\{each[0]}", harmless(text).lstrip())
    return _NUMBER.sub(r"\1\\\2", found)


def plain(found: Exposure) -> str:
    """The text."""
    heads = "; what it says has ended is held against the lab's signed heads" if found.compared else ""
    lines = [
        f"# Exposure of {escaped(found.vendor)}",
        "",
        f"From the audit log, up to its entry {count(found.entries)} ({moment(found.through)})"
        f"{heads}. All times are UTC.",
        "",
        *(f"- {escaped(sentence)}" for sentence in summary(found)),
    ]
    for table in tables(found):
        if table.rows:
            lines += ["", *_table(table)]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    lines = [f"## {table.title}", ""]
    if table.about:
        lines += [table.about, ""]
    lines += [_row(table.headings), _row(["---"] * len(table.headings))]
    lines += [_row([escaped(cell) for cell in row]) for row in table.rows]
    if table.left_out:
        lines += ["", f"{table.left_out} more are in the JSON form of this report."]
    return lines


def _row(cells: "list[str] | tuple[str, ...]") -> str:
    return f"| {' | '.join(cells)} |"
