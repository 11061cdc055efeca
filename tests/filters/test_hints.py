"""Hints of Delta Sharing: what they come to, that they never let fewer rows through, and what is passed over."""

import json
from typing import Any

import pyarrow as pa
import pytest

from vault.filters import hinted

_SCHEMA = pa.schema(
    [
        *(
            ("id", pa.int64()),
            ("name", pa.string()),
            ("score", pa.float64()),
            ("day", pa.date32()),
            ("open", pa.bool_()),
        ),
        ("single", pa.float32()),
    ]
)


def _column(name: str, kind: str = "long") -> dict[str, Any]:
    return {"op": "column", "name": name, "valueType": kind}


def _literal(value: str, kind: str = "long") -> dict[str, Any]:
    return {"op": "literal", "value": value, "valueType": kind}


def _op(operator: str, *children: Any) -> dict[str, Any]:
    return {"op": operator, "children": list(children)}


_IS_5 = _op("equal", _column("id"), _literal("5"))
_ODD = _op("equal", _column("gone"), _literal("5"))


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        (_IS_5, ['"id" = 5']),
        (_op("lessThan", _literal("5"), _column("id")), ['5 < "id"']),
        (_op("lessThanOrEqual", _column("score", "double"), _literal("0.5", "double")), ['"score" <= 0.5']),
        (_op("greaterThan", _column("day", "date"), _literal("2026-01-01", "date")), ["\"day\" > '2026-01-01'"]),
        (_op("greaterThanOrEqual", _column("name", "string"), _literal("a", "string")), ["\"name\" >= 'a'"]),
        (_op("equal", _column("open", "bool"), _literal("true", "bool")), ['"open" = TRUE']),
        (_op("isNull", _column("name")), ['"name" IS NULL']),
        (_op("not", _op("isNull", _column("name"))), ['NOT ("name" IS NULL)']),
        (_op("in", _column("id"), _literal("1"), _literal("2")), ['"id" IN (1, 2)']),
        (_op("or", _IS_5, _op("isNull", _column("id"))), ['"id" = 5 OR "id" IS NULL']),
        (_op("and", _IS_5, _op("isNull", _column("name"))), ['"id" = 5', '"name" IS NULL']),
        # What cannot be understood of a conjunction is left out, and of anything else all of it is.
        (_op("and", _IS_5, _ODD), ['"id" = 5']),
        (_op("or", _IS_5, _ODD), []),
        (_op("not", _ODD), []),
        (_op("and", _IS_5, 7, None, "x", _op("like", _column("id"))), ['"id" = 5']),
        (_op("equal", _literal("1"), _literal("1")), []),
        (_op("equal", _column("id"), _literal("1.5")), []),
        (_op("equal", _column("id"), _literal("1", "decimal")), []),
        # 0.1 in single precision is above 0.1, and a client means the one or the other.
        (_op("lessThanOrEqual", _column("single", "float"), _literal("0.1", "double")), []),
        (_op("lessThanOrEqual", _column("score", "double"), _literal("0.1", "float")), []),
        (_op("equal", _column("id"), {"op": "literal", "value": 1, "valueType": "long"}), []),
        ({"op": "column", "name": "id"}, []),
        ([], []),
        (None, []),
    ],
)
def test_a_document_is_the_conditions_that_are_understood(document: Any, texts: list[str]) -> None:
    """Each member of a conjunction by itself."""
    assert [each.filter.text() for each in hinted((), json.dumps(document), _SCHEMA)] == texts


def test_texts_are_conditions_each() -> None:
    """Those that are none, or of other columns, are passed over."""
    found = hinted(("id = 5", "gone = 5", "f(id)", "", "name LIKE 'a%'"), None, _SCHEMA)
    assert [each.filter.text() for each in found] == ['"id" = 5', "\"name\" LIKE 'a%'"]


@pytest.mark.parametrize("text", ["single <= 0.1", "name = 'a\\\\b'", 'name = "id"', "id = 5 OR single = 0.1"])
def test_what_a_client_may_mean_otherwise_is_passed_over(text: str) -> None:
    """Spark compares single precision as such, reads a backslash as an escape, and double quotes as a text."""
    assert hinted((text,), None, _SCHEMA) == []


def test_a_huge_document_is_passed_over() -> None:
    """However deep or wide, it is looked at for no longer than a small one."""
    deep: Any = _IS_5
    for _ in range(200):
        deep = _op("not", deep)
    assert hinted((), json.dumps(deep), _SCHEMA) == []
    assert len(hinted((), json.dumps(_op("and", *[_IS_5] * 3000)), _SCHEMA)) <= 500
    assert hinted((), json.dumps(_op("in", _column("id"), *[_literal("1")] * 3000)), _SCHEMA) == []
    assert hinted((), "[" * 30_000, _SCHEMA) == []


def test_many_large_texts_are_looked_at_for_no_longer_than_one() -> None:
    """Each value is compared with what is known of every shard: a body of them would hold up everybody's requests."""
    text = f"id IN ({', '.join(map(str, range(600)))})"
    assert len(hinted([text] * 28, None, _SCHEMA)) == 1
    assert len(hinted([text, "id = 5"], json.dumps(_op("in", _column("id"), *[_literal("1")] * 600)), _SCHEMA)) == 2
