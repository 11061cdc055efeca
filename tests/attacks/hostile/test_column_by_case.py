"""Asking for columns in other letters: upper and lower case."""

import pytest

from tests.attacks.hostile.place import Hostile, problem


@pytest.mark.parametrize("name", ["ANSWER", "Answer", "aNSWER", "LANG", "Prompt", "ID"])
def test_case_counts_in_columns(hostile: Hostile, name: str) -> None:
    """A name in another case is no column's, be the column granted or not."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))


@pytest.mark.parametrize("where", ["ANSWER LIKE '%'", "\"Answer\" LIKE '%'", "LANG IS NULL", "Prompt LIKE '%'"])
def test_case_counts_in_predicates(hostile: Hostile, where: str) -> None:
    """The same in a predicate: SQL's folding of names is not done."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"where": where}))


@pytest.mark.parametrize("name", ["EVALS", "Evals", "Secret", "SECRET"])
def test_case_counts_in_datasets(hostile: Hostile, name: str) -> None:
    """The same in the name of a dataset."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({}, name=name))


@pytest.mark.parametrize("key", ["Columns", "COLUMNS", "Where", "Limit", "Grant"])
def test_case_counts_in_requests(hostile: Hostile, key: str) -> None:
    """A key of the request in another case is refused, and not passed over: what it narrows would be lost."""
    assert "not valid" in problem(hostile.read({key: ["id"]}), 400)["detail"]
