"""What an entry of the log says, in a line for a person; ``--json`` has all of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vault.errors import VaultError

__all__ = ["details"]

#: What is there for programs: ids beside names, keys, and lists as long as a dataset.
_UNTOLD: Final = frozenset(
    {
        "chunks",
        "column_ids",
        "compartment",
        "compartments",
        "cuts",
        "dropped",
        "epochs",
        "filter_column_ids",
        "groups",
        "layouts",
        "removed",
        "statement",
    }
)
#: How many of several are named, and how much is said of anything.
_MOST_NAMED: Final = 6
_MOST_CHARACTERS: Final = 300


def details(fields: Mapping[str, Any]) -> str:
    """Its fields, without what tells a person nothing."""
    return ", ".join(f"{name}={_text(name, value)}" for name, value in fields.items() if _telling(name, value))


def _telling(name: str, value: object) -> bool:
    return value is not None and value not in ([], {}) and not name.endswith("_id") and name not in _UNTOLD


def _text(name: str, value: Any) -> str:
    try:
        found = _FORMS[name](value) if name in _FORMS else str(value)
    except (VaultError, ArithmeticError, LookupError, TypeError, ValueError):
        found = str(value)  # whoever wrote it, it is no form that is known here
    return found if len(found) <= _MOST_CHARACTERS else f"{found[:_MOST_CHARACTERS]}…"


def _run(run: Sequence[int]) -> str:
    first, last = run
    return str(first) if first == last else f"{first}-{last}"


def _runs(runs: Sequence[Sequence[int]]) -> str:
    return _some([_run(run) for run in runs])


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_NAMED
    return " ".join([*texts[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _served(items: Sequence[Any]) -> str:
    return _some([_item(item) for item in items])


def _item(item: Any) -> str:
    from vault.rowsets import read_item  # numpy takes a while; most entries hold no rows

    rows = read_item(item)
    if rows.runs is None:
        return _run((rows.first, rows.last))
    if len(rows.runs) == 1:
        return f"{rows.first}[{_run(rows.runs[0].tolist())}]"
    return f"{rows.first}[{rows.count(int(rows.runs[-1, 1]) + 1)} rows]"


def _layout(layout: Sequence[Sequence[int]]) -> str:
    return f"{sum(last - first + 1 for first, last, *_ in layout)} shards"


def _keys(keys: Any) -> str:
    """How many there are, in an entry that names them."""
    return str(len(keys)) if isinstance(keys, list) else str(keys)


_FORMS: Final[Mapping[str, Callable[[Any], str]]] = {
    "base": lambda base: f"version {base['version']}",
    "keys": _keys,
    "layout": _layout,
    "served": _served,
    "shards": _runs,
}
