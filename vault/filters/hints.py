"""Hints of Delta Sharing about which rows somebody is looking for, as row filters.

A hint only ever has fewer shards looked at, and promises nothing: what cannot be understood of one is passed over, so
that what is left lets more rows through and never fewer. So is what its client may mean otherwise than a row filter
does: single-precision numbers, which it compares as such; in a text of SQL backslashes, which escape there, and double
quotes, which there are texts. The forms are those of the protocol's "JSON predicates for Filtering" and "SQL
Expressions for Filtering".
"""

import json
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from vault.errors import InvalidInput
from vault.filters.bound import BoundFilter, bind
from vault.filters.parse import parse
from vault.filters.tree import And, Compare, Filter, In, IsNull, Literal, Node, Not, Or, Path

__all__ = ["hinted"]

_MOST_DEPTH: Final = 32
_MOST_NODES: Final = 1000
_MOST_HINTS: Final = 64
_IMPRECISE: Final = (pa.float16(), pa.float32())
_COMPARISONS: Final = {
    "equal": "=",
    "lessThan": "<",
    "lessThanOrEqual": "<=",
    "greaterThan": ">",
    "greaterThanOrEqual": ">=",
}
_NUMBERS: Final = frozenset({"int", "integer", "long", "short", "byte", "double"})
_TEXTS: Final = frozenset({"string", "date", "timestamp"})
_WRONG: Final = (InvalidInput, AttributeError, KeyError, LookupError, TypeError, ValueError, RecursionError)


def hinted(texts: Iterable[str], document: str | None, schema: pa.Schema) -> list[BoundFilter]:
    """The hints that can be understood over these columns, each of which every wanted row has to pass.

    ``texts`` are SQL conditions, and ``document`` a JSON predicate. Columns that are not in the schema are not there.
    """
    plain = pa.schema([field for field in schema if field.type not in _IMPRECISE])
    left = [_MOST_NODES]
    found = [_of_text(text, left) for text in list(texts)[:_MOST_HINTS]]
    found += _of_document(document, left) if document is not None else []
    bound = [_bound(each, plain) for each in found if each is not None]
    return [each for each in bound if each is not None]


def _of_text(text: str, left: list[int]) -> Filter | None:
    if "\\" in text or '"' in text or left[0] <= 0:
        return None
    try:
        found = parse(text, "predicateHints")
    except InvalidInput:
        return None
    left[0] -= _size(found.root)
    return found if left[0] >= 0 else None


def _size(node: Node) -> int:
    """How many nodes a condition comes to: each is compared with the statistics of every shard."""
    match node:
        case And(items) | Or(items):
            return 1 + sum(map(_size, items))
        case Not(item):
            return 1 + _size(item)
        case In(_, values, _):
            return 1 + len(values)
        case _:
            return 3


def _of_document(text: str, left: list[int]) -> list[Filter | None]:
    """The members of the conjunction that a predicate is, each by itself."""
    try:
        root = json.loads(text)
        several = root["children"] if root.get("op") == "and" else [root]
        return [_filter(each, left) for each in several]
    except _WRONG:
        return []


def _filter(document: Any, left: list[int]) -> Filter | None:
    try:
        return Filter(_node(document, 0, left))
    except _WRONG:
        return None


def _bound(condition: Filter, schema: pa.Schema) -> BoundFilter | None:
    try:
        return bind(condition, schema, "predicateHints")
    except _WRONG:
        return None


def _node(document: Any, depth: int, left: list[int]) -> Node:
    """A predicate as a condition; raises one of `_WRONG` for what is not understood whole."""
    operator, children = document["op"], document["children"]
    left[0] -= len(children)
    if depth > _MOST_DEPTH or left[0] < 0:
        raise ValueError("too large")
    if operator in _COMPARISONS:
        one, other = children
        return Compare(_COMPARISONS[operator], _side(one), _side(other))
    if operator in {"and", "or"}:
        items = tuple(_node(each, depth + 1, left) for each in children)
        if len(items) < 2:
            raise ValueError("too few")
        return And(items) if operator == "and" else Or(items)
    (first, *others) = children
    if operator == "in":
        return In(_path(first), tuple(_literal(each) for each in others), with_null=False)
    if others:
        raise ValueError("too many")
    if operator == "not":
        return Not(_node(first, depth + 1, left))
    if operator == "isNull":
        return IsNull(_path(first))
    raise ValueError("another operator")


def _side(document: Any) -> Path | Literal:
    return _path(document) if document["op"] == "column" else _literal(document)


def _path(document: Any) -> Path:
    name = document["name"]
    if document["op"] != "column" or not isinstance(name, str):
        raise ValueError("not a column")
    return Path((name,))


def _literal(document: Any) -> Literal:
    value, kind = document["value"], document["valueType"]
    if document["op"] != "literal" or not isinstance(value, str):
        raise ValueError("not a literal")
    if kind in _NUMBERS:
        return Literal("number", value)
    if kind in _TEXTS:
        return Literal("text", value)
    if kind in {"bool", "boolean"} and value.lower() in {"true", "false"}:
        return Literal("truth", value.upper())
    raise ValueError("another type")
