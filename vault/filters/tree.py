"""The expression tree of a row filter: what a grant signs and everything else is compiled from.

Values are frozen. A column is a path: its top-level name, then the fields inside structs. Literals keep their
text, since no number type of JSON or Python holds all of them exactly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vault.errors import IntegrityError

__all__ = ["And", "Compare", "Filter", "In", "IsNull", "Like", "Literal", "Node", "Not", "Or", "Path"]

_OPERATORS: Final = ("=", "<>", "<", "<=", ">", ">=")
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class Path:
    """A column, or a field inside a struct column."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: ``kind`` is ``number``, ``text`` or ``truth``; numbers keep their decimal text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Compare:
    """``left operator right``; at least one side is a path."""

    operator: str
    left: "Path | Literal"
    right: "Path | Literal"


@dataclass(frozen=True, slots=True)
class In:
    """``path IN (values)``; ``with_null`` where NULL stands in the list."""

    path: Path
    values: tuple[Literal, ...]
    with_null: bool


@dataclass(frozen=True, slots=True)
class IsNull:
    """``path IS NULL``."""

    path: Path


@dataclass(frozen=True, slots=True)
class Like:
    """``path LIKE pattern``: ``%`` any run, ``_`` any one character, backslash takes the next literally."""

    path: Path
    pattern: str


@dataclass(frozen=True, slots=True)
class Not:
    """Negation; NULL stays NULL."""

    item: "Node"


@dataclass(frozen=True, slots=True)
class And:
    """Conjunction of two or more."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """Disjunction of two or more."""

    items: "tuple[Node, ...]"


Node = Compare | In | IsNull | Like | Not | And | Or


@dataclass(frozen=True, slots=True)
class Filter:
    """A row filter that is bound to no schema yet."""

    root: Node

    def columns(self) -> frozenset[str]:
        """The top-level columns that it reads."""
        return frozenset(path[0] for path in self.paths())

    def paths(self) -> frozenset[tuple[str, ...]]:
        """What it reads: a column's name, and those of the fields down to the value."""
        return frozenset(path.names for path in _paths(self.root))

    def text(self) -> str:
        """Canonical SQL text: parsing it gives an equal tree."""
        return _text(self.root, outer=True)

    def rename(self, names: Mapping[str, str]) -> "Filter":
        """The same filter with other top-level names; those not in the mapping stay."""
        return Filter(_renamed(self.root, names))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON without numbers."""
        return _to_json(self.root)

    @classmethod
    def from_json(cls, document: Any) -> "Filter":
        """Inverse of `to_json`; raises IntegrityError for anything else."""
        try:
            return cls(_from_json(document, 0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError("a signed row filter is not one that this release understands") from error


def _paths(node: Node) -> Iterator[Path]:
    match node:
        case Compare(_, left, right):
            yield from (side for side in (left, right) if isinstance(side, Path))
        case In(path, _, _) | IsNull(path) | Like(path, _):
            yield path
        case Not(item):
            yield from _paths(item)
        case And(items) | Or(items):
            for item in items:
                yield from _paths(item)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _side(side: Path | Literal) -> str:
    if isinstance(side, Path):
        return ".".join(_quoted(name) for name in side.names)
    return "'" + side.text.replace("'", "''") + "'" if side.kind == "text" else side.text


def _text(node: Node, *, outer: bool = False) -> str:
    match node:
        case Compare(operator, left, right):
            return f"{_side(left)} {operator} {_side(right)}"
        case In(path, values, with_null):
            items = [_side(value) for value in values] + (["NULL"] if with_null else [])
            return f"{_side(path)} IN ({', '.join(items)})"
        case IsNull(path):
            return f"{_side(path)} IS NULL"
        case Like(path, pattern):
            return f"{_side(path)} LIKE {_side(Literal('text', pattern))}"
        case Not(item):
            return f"NOT ({_text(item, outer=True)})"
        case And(items) | Or(items):
            word = " AND " if isinstance(node, And) else " OR "
            joined = word.join(_text(item) for item in items)
            return joined if outer else f"({joined})"


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    def path(old: Path) -> Path:
        return Path((names.get(old.names[0], old.names[0]), *old.names[1:]))

    def side(old: Path | Literal) -> Path | Literal:
        return path(old) if isinstance(old, Path) else old

    match node:
        case Compare(operator, left, right):
            return Compare(operator, side(left), side(right))
        case In(old, values, with_null):
            return In(path(old), values, with_null)
        case IsNull(old):
            return IsNull(path(old))
        case Like(old, pattern):
            return Like(path(old), pattern)
        case Not(item):
            return Not(_renamed(item, names))
        case And(items):
            return And(tuple(_renamed(item, names) for item in items))
        case Or(items):
            return Or(tuple(_renamed(item, names) for item in items))


def _side_json(side: Path | Literal) -> dict[str, Any]:
    if isinstance(side, Path):
        return {"path": list(side.names)}
    return {"literal": side.kind, "text": side.text}


def _to_json(node: Node) -> dict[str, Any]:
    match node:
        case Compare(operator, left, right):
            return {"op": operator, "left": _side_json(left), "right": _side_json(right)}
        case In(path, values, with_null):
            listed = [_side_json(value) for value in values]
            return {"op": "in", "path": list(path.names), "values": listed, "null": with_null}
        case IsNull(path):
            return {"op": "is null", "path": list(path.names)}
        case Like(path, pattern):
            return {"op": "like", "path": list(path.names), "pattern": pattern}
        case Not(item):
            return {"op": "not", "item": _to_json(item)}
        case And(items) | Or(items):
            return {"op": "and" if isinstance(node, And) else "or", "items": [_to_json(item) for item in items]}


def _path_from(names: Any) -> Path:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("not a path")
    return Path(tuple(names))


def _literal_from(document: Any) -> Literal:
    kind, text = document["literal"], document["text"]
    if kind not in {"number", "text", "truth"} or not isinstance(text, str):
        raise ValueError("not a literal")
    return Literal(kind, text)


def _side_from(document: Any) -> Path | Literal:
    return _path_from(document["path"]) if "path" in document else _literal_from(document)


def _from_json(document: Any, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    operator = document["op"]
    if operator in _OPERATORS:
        return Compare(operator, _side_from(document["left"]), _side_from(document["right"]))
    if operator in {"and", "or"}:
        items = tuple(_from_json(item, depth + 1) for item in document["items"])
        if len(items) < 2:
            raise ValueError("too few items")
        return And(items) if operator == "and" else Or(items)
    if operator == "not":
        return Not(_from_json(document["item"], depth + 1))
    path = _path_from(document["path"])
    if operator == "in":
        return In(path, tuple(_literal_from(value) for value in document["values"]), document["null"] is True)
    if operator == "like":
        return Like(path, str(document["pattern"]))
    if operator == "is null":
        return IsNull(path)
    raise ValueError("unknown operator")
