"""Giving hidden columns the names of granted ones."""

import pytest

from tests.attacks.hostile.place import Hostile, ids, problem


@pytest.mark.parametrize(
    "name",
    [
        "answer AS id",
        "id AS answer",
        "answer id",
        '"answer"',
        "`answer`",
        "[answer]",
        'answer as "id"',
        "id, answer",
        "(answer)",
        "id=answer",
    ],
)
def test_a_name_with_an_alias_is_no_name(hostile: Hostile, name: str) -> None:
    """Names are not SQL: nothing in them is renamed, quoted or listed."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))


@pytest.mark.parametrize(
    "where",
    [
        "id IN (SELECT id FROM secret)",
        "(SELECT answer FROM evals) = 'x'",
        "EXISTS (SELECT 1 FROM secret)",
        "1 = 1 UNION SELECT answer FROM evals",
        "id = 1; SELECT answer FROM evals",
        "answer AS id = 1",
        "WITH id AS (SELECT answer FROM evals) SELECT 1",
        "LATERAL (SELECT answer) = 1",
    ],
)
def test_no_predicate_brings_a_name_of_its_own(hostile: Hostile, where: str) -> None:
    """Subqueries, unions and aliases are outside what a predicate may hold."""
    with hostile.recorded("InvalidInput"):
        problem(hostile.read({"where": where}), 400)


@pytest.mark.parametrize("body", [{"columns": ["id", "id"]}, {"columns": ["id", "prompt", "id"]}])
def test_a_column_is_asked_for_once(hostile: Hostile, body: dict[str, list[str]]) -> None:
    """Two of one name would leave it to the reader which is which."""
    with hostile.recorded("InvalidInput"):
        problem(hostile.read(body), 400)


@pytest.mark.parametrize(
    "key", ["select", "alias", "aliases", "rename", "projection", "fields", "mask", "masks", "vendor"]
)
def test_a_request_has_no_key_for_it(hostile: Hostile, key: str) -> None:
    """What a request cannot say is refused, and not passed over."""
    problem(hostile.read({key: {"id": "answer"}}), 400)


def test_of_two_keys_of_one_name_neither_slips_through(hostile: Hostile) -> None:
    """A document that names its columns twice is decided on by the columns that are read."""
    twice = hostile.read(b'{"columns": ["id"], "columns": ["answer"]}')
    assert twice.status in {400, 404}
    other = hostile.read(b'{"columns": ["answer"], "columns": ["id"]}')
    assert other.status == 400 or ids(other)
