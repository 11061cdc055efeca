"""Several conditions as one.

A condition is text in the language that a broker parses (`vault.filters`), which is not at hand here. It is put in
parentheses only when nothing in it can end them: whatever it says, it says inside of its own.
"""

from collections.abc import Iterable
from typing import Final

from vault.errors import InvalidInput

__all__ = ["LONGEST_CONDITION", "all_of"]

#: The longest condition that a broker takes.
LONGEST_CONDITION: Final = 4096
#: What may open a comment, end a condition, or stand for something else before it is parsed.
_FOREIGN: Final = ("--", "/*", "*/", "{{", "{%", "{#", ";", "\0")


def all_of(conditions: Iterable[str]) -> str | None:
    """One condition that holds where all do, None for none at all; raises InvalidInput for what is none by itself."""
    found = list(conditions)
    for each in found:
        _check_closed(each)
    if len(found) < 2:
        return found[0] if found else None
    joined = " AND ".join(f"({each})" for each in found)
    if len(joined) > LONGEST_CONDITION:
        raise InvalidInput(f"where: the conditions together are longer than {LONGEST_CONDITION:,} characters")
    return joined


def _check_closed(condition: str) -> None:
    if not isinstance(condition, str) or not condition.strip():
        raise InvalidInput("where: give a condition as text")
    quote, depth, bare = "", 0, []
    # A quote inside of its own kind is written twice, which closes it and opens it again.
    for character in condition:
        if quote:
            quote = "" if character == quote else quote
            continue
        bare.append(character)
        if character in "'\"":
            quote = character
            bare.append(" ")  # so that what stands before and behind it is not read as one
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
    if quote or depth:
        raise InvalidInput("where: each condition has to be one by itself: a parenthesis or a quote in it is left open")
    text = "".join(bare)
    if any(mark in text for mark in _FOREIGN):
        raise InvalidInput("where: a condition holds no comments and no semicolon")
