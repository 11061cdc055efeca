"""Learning hidden values by asking which rows have them."""

import re

import pytest

from tests.attacks.hostile.place import Hostile, ids, problem, said


@pytest.mark.parametrize(
    "where",
    [
        "answer = 'planted answer 2'",
        "answer LIKE '%'",
        "answer IS NULL",
        "answer IN ('x', 'planted answer 2')",
        "answer BETWEEN 'a' AND 'z'",
        "NOT answer = 'x'",
        "lang = 'planted-de'",
        "lang = 'planted-en' OR id > 0",
        "id > 0 OR answer LIKE '%'",
        "id > 0 AND (id > 1 OR NOT (answer LIKE '%'))",
        "score IS NULL",
        "id < 0 AND answer LIKE '%'",
        "nothing = 1",
    ],
)
def test_a_predicate_over_a_hidden_column_looks_like_one_over_none(hostile: Hostile, where: str) -> None:
    """Wherever in it the name is: hidden columns, the grant's own filter column and unknown ones get one answer."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"where": where}))


def test_a_binary_search_for_a_hidden_value_gets_one_answer(hostile: Hostile) -> None:
    """Every guess at a hidden column, a masked one, and one that is not there is answered to the byte alike."""
    for column in ("answer", "lang", "score", "author", "nothing"):
        guesses = [f"\"{column}\" < '{letter}'" for letter in "afnpqz"] + [f'"{column}" > {n}' for n in (0, 1, 5)]
        with hostile.recorded(*["NotGranted"] * len(guesses)):
            for where in guesses:
                hostile.looks_like_nothing(hostile.read({"where": where}))


def test_a_masked_column_is_served_and_not_searched(hostile: Hostile) -> None:
    """A search by a masked column would find out, bit by bit, what the mask hides."""
    assert len(ids(hostile.read({"columns": ["id", "author"]}))) == 25
    for where in (
        "author = 'planted author 2'",
        "author LIKE 'planted%'",
        "author IS NOT NULL",
        "author = '[redacted]'",
    ):
        with hostile.recorded("NotGranted"):
            hostile.looks_like_nothing(hostile.read({"where": where}))


def test_rows_that_the_filter_hides_are_not_there(hostile: Hostile) -> None:
    """A search by granted columns over hidden rows ends where one over no rows does, to the byte."""
    nothing = said(hostile.read({"where": "id = 999"}))
    size = len(nothing.body)
    for where in (
        "id = 1",
        "id = 49",
        "id IN (1, 3, 5)",
        "prompt = 'planted row 1'",
        "prompt LIKE 'planted%'",
        "meta.source = 's1'",
    ):
        answer = hostile.read({"where": where})
        assert ids(answer) == []
        # Cursors are sealed anew each time; their length is always the same.
        assert len(answer.data) == size
    assert ids(hostile.read({"where": "id IN (1, 2, 3)"})) == [2]
    assert ids(hostile.read({"where": "NOT prompt LIKE 'prompt%'"})) == []


@pytest.mark.parametrize(
    "where",
    [
        "1=1",
        "TRUE",
        "id",
        "id = score",
        "id = answer",
        "prompt = author",
        "id = 'x'",
        "id = 1; drop table grants",
        "id = 1 -- ' OR answer = 1",
        "id = 1 /* answer */ OR 1=1",
        "length(answer) > 0",
        "upper(answer) = 'X'",
        "coalesce(answer, '') = ''",
        "CASE WHEN answer LIKE '%' THEN id ELSE 0 END = 1",
        "answer || '' = 'x'",
        "CAST(answer AS INT) = 1",
        "id + score > 0",
        "count(answer) > 1",
        "row_number() OVER (ORDER BY answer) = 1",
        "answer ~ '.*'",
        "answer COLLATE nocase = 'x'",
        "prompt LIKE answer",
        "id IN (score)",
        "id BETWEEN 0 AND score",
        "id = @answer",
        "id = :answer",
        "{% answer %}",
        "",
        " ",
        "(" * 4000,
        "x" * 5000,
        "NOT " * 1000 + "id = 1",
        "id = 1" + " OR (id = 1" * 300 + ")" * 300,
    ],
)
def test_what_is_no_predicate_is_refused_as_such(hostile: Hostile, where: str) -> None:
    """Functions, columns beside columns, comments, and what is too long or too deep: refused.

    What is said of a hidden column is what is said of one that is not there.
    """
    answer = hostile.read({"where": where})
    problem(answer, *((400, 404) if {"answer", "score", "author"} & set(re.findall("[a-z]+", where)) else (400,)))
    unknown = hostile.read({"where": where.replace("answer", "nosuch").replace("score", "nosuc")})
    assert answer.status == unknown.status
    assert answer.data.replace(b"answer", b"nosuch").replace(b"score", b"nosuc") == unknown.data
