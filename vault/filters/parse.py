"""From SQL text to a tree, through sqlglot and an allow-list.

sqlglot's own dialect is used: it knows no escapes inside strings but the doubled quote, so a literal means what
it shows. Every node that comes out must be on the list here, and every argument that is set on it must be one
that is read here: whatever is not understood is refused, never passed over.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser
from sqlglot.tokenizer_core import Token, TokenType
from sqlglot.tokens import Tokenizer

from vault.errors import InvalidInput
from vault.filters.tree import And, Compare, Filter, In, IsNull, Like, Literal, Node, Not, Or, Path

__all__ = ["MAX_CHARACTERS", "parse"]

MAX_CHARACTERS: Final = 4096
_MAX_TOKENS: Final = 2500
_MAX_DEPTH: Final = 40
_MAX_VALUES: Final = 1000

_COMPARISONS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_VALUES: Final = (exp.Column, exp.Dot, exp.Literal, exp.Boolean, exp.Null, exp.Neg)
_MIRRORED: Final = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def parse(text: str, option: str = "--where") -> Filter:
    """Parse a row filter; raises InvalidInput, naming ``option``, for whatever is not allowed in one.

    Allowed are comparisons, AND, OR, NOT, IN, BETWEEN, IS NULL and LIKE over column paths (``meta.source``, or
    ``"a.b"`` for a column of that name) and literals.
    """
    try:
        tokens = _tokens(text, option)
        statements = Parser().parse(tokens, text)
        if len(statements) != 1 or statements[0] is None:
            raise InvalidInput(f"{option}: give exactly one condition")
        return Filter(_Reader(option).node(statements[0], 0))
    except (SqlglotError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{option}: the condition cannot be read as one") from error


def _tokens(text: str, option: str) -> list[Token]:
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"{option}: the condition is longer than {MAX_CHARACTERS} characters")
    tokens = Tokenizer().tokenize(text)
    if len(tokens) > _MAX_TOKENS:
        raise InvalidInput(f"{option}: the condition has too many parts")
    depth = 0
    for token in tokens:
        if token.comments:
            raise InvalidInput(f"{option}: a condition holds no comments")
        if token.token_type == TokenType.SEMICOLON:
            raise InvalidInput(f"{option}: give exactly one condition")
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"{option}: the condition is nested too deeply")
    return tokens


class _Reader:
    """Turns sqlglot's nodes into ours, or refuses."""

    def __init__(self, option: str) -> None:
        self._option = option

    def _refuse(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._option}: {what}")

    def _only(self, node: exp.Expr, *arguments: str) -> None:
        """Refuse a node with an argument that is not read: it would change what the condition means."""
        for name, value in node.args.items():
            if name not in arguments and value not in (None, False, [], ""):
                raise self._refuse(f"{_word(node)} with {name!r} is not allowed in a condition")
        if node.comments:
            raise self._refuse("a condition holds no comments")

    def node(self, node: exp.Expr, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise self._refuse("the condition is nested too deeply")
        kind = type(node)
        if kind in _COMPARISONS:
            return self._compare(node, _COMPARISONS[kind])
        if kind is exp.And or kind is exp.Or:
            family = And if kind is exp.And else Or
            return family(_flattened(family, (self.node(item, depth + 1) for item in self._chain(node))))
        if kind is exp.Paren:
            self._only(node, "this")
            return self.node(node.this, depth + 1)
        if kind is exp.Not:
            self._only(node, "this")
            return Not(self.node(node.this, depth + 1))
        if kind in _PREDICATES:
            found = _PREDICATES[kind](self, node)
            # "x NOT LIKE y" comes as a flag on LIKE, or as NOT around it.
            return Not(found) if node.args.get("negate") else found
        if kind in _VALUES:
            raise self._refuse("a column or a value alone is no condition; compare it, as in lang = 'en'")
        raise self._refuse(f"{_word(node)} is not allowed in a condition")

    def _chain(self, node: exp.Expr) -> Iterator[exp.Expr]:
        """The items of a run of ANDs or ORs, in order; sqlglot nests it to the left, however long."""
        kind = type(node)
        items: list[exp.Expr] = []
        while type(node) is kind:
            self._only(node, "this", "expression")
            items.append(node.args["expression"])
            node = node.this
        items.append(node)
        items.reverse()
        return iter(items)

    def _compare(self, node: exp.Expr, operator: str) -> Node:
        self._only(node, "this", "expression")
        left, right = self._side(node.this), self._side(node.args["expression"])
        if isinstance(left, Literal):
            if isinstance(right, Literal):
                raise self._refuse("a comparison needs a column on one side")
            left, right, operator = right, left, _MIRRORED[operator]
        return Compare(operator, left, right)

    def _side(self, node: exp.Expr) -> Path | Literal:
        if type(node) in {exp.Column, exp.Dot}:
            return self._path(node)
        if type(node) is exp.Paren:
            self._only(node, "this")
            return self._side(node.this)
        return self._literal(node)

    def _path(self, node: exp.Expr) -> Path:
        if type(node) is exp.Dot:
            self._only(node, "this", "expression")
            return Path((*self._path(node.this).names, self._identifier(node.args["expression"])))
        if type(node) is not exp.Column:
            raise self._refuse(f"{_word(node)} stands where a column should")
        self._only(node, "this", "table", "db", "catalog")
        parts = [node.args.get(name) for name in ("catalog", "db", "table", "this")]
        return Path(tuple(self._identifier(part) for part in parts if part is not None))

    def _identifier(self, node: exp.Expr) -> str:
        if type(node) is not exp.Identifier:
            raise self._refuse(f"{_word(node)} stands where a column's name should")
        self._only(node, "this", "quoted")
        name = node.this
        if not isinstance(name, str) or not name:
            raise self._refuse("a column's name is empty")
        return name

    def _literal(self, node: exp.Expr) -> Literal:
        if type(node) is exp.Neg:
            self._only(node, "this")
            inner = self._literal(node.this)
            if inner.kind == "number" and not inner.text.startswith("-"):
                return Literal("number", "-" + inner.text)
        if type(node) is exp.Literal:
            self._only(node, "this", "is_string")
            return Literal("text" if node.args["is_string"] else "number", str(node.this))
        if type(node) is exp.Boolean:
            self._only(node, "this")
            return Literal("truth", "TRUE" if node.this else "FALSE")
        if type(node) is exp.Null:
            raise self._refuse("nothing compares with NULL; use IS NULL")
        raise self._refuse(f"{_word(node)} is not allowed in a condition")

    def in_list(self, node: exp.Expr) -> Node:
        self._only(node, "this", "negate", "expressions")
        values, with_null = [], False
        for item in node.args.get("expressions") or []:
            if type(item) is exp.Null:
                with_null = True
            else:
                values.append(self._literal(item))
        if not values and not with_null:
            raise self._refuse("an IN list is empty, or is not a list of literals")
        if len(values) > _MAX_VALUES:
            raise self._refuse(f"an IN list holds more than {_MAX_VALUES} values")
        return In(self._path(node.this), tuple(values), with_null)

    def between(self, node: exp.Expr) -> Node:
        self._only(node, "this", "negate", "low", "high")
        path = self._path(node.this)
        low, high = self._side(node.args["low"]), self._side(node.args["high"])
        return And((Compare(">=", path, low), Compare("<=", path, high)))

    def is_null(self, node: exp.Expr) -> Node:
        self._only(node, "this", "negate", "expression")
        if type(node.args["expression"]) is not exp.Null:
            raise self._refuse("IS goes with NULL or NOT NULL only")
        return IsNull(self._path(node.this))

    def like(self, node: exp.Expr) -> Node:
        self._only(node, "this", "negate", "expression")
        pattern = self._literal(node.args["expression"])
        if pattern.kind != "text":
            raise self._refuse("LIKE takes a pattern in quotes")
        if (len(pattern.text) - len(pattern.text.rstrip("\\"))) % 2:
            raise self._refuse("a LIKE pattern ends in the middle of an escape")
        return Like(self._path(node.this), pattern.text)


_PREDICATES: Final[dict[type[exp.Expr], Callable[[_Reader, exp.Expr], Node]]] = {
    exp.In: _Reader.in_list,
    exp.Between: _Reader.between,
    exp.Is: _Reader.is_null,
    exp.Like: _Reader.like,
}


def _flattened(family: type[And] | type[Or], items: Iterable[Node]) -> tuple[Node, ...]:
    """One level where there were several: ``a AND (b AND c)`` and ``a AND b AND c`` are one tree."""
    flat: list[Node] = []
    for item in items:
        flat.extend(item.items if isinstance(item, family) else (item,))
    return tuple(flat)


def _word(node: object) -> str:
    return type(node).__name__.upper()
