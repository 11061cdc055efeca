"""Asking for columns that are not granted, by their names."""

import pytest

from tests.attacks.hostile.place import Hostile, ids


def test_the_good_request_works(hostile: Hostile) -> None:
    """The attacks in this folder are refused for what they are: the plain request is served, and shows its own rows."""
    answer = hostile.read({})
    assert ids(answer) == list(range(0, 50, 2))
    assert b"prompt 0" in answer.data


@pytest.mark.parametrize(
    "columns",
    [
        ["answer"],
        ["id", "answer"],
        ["lang"],
        ["score"],
        ["private"],
        ["id", "prompt", "meta", "author", "answer", "lang", "score", "private"],
        ["*"],
        [""],
        [],
        ["__index_level_0__"],
        ["nothing-of-that-name"],
    ],
)
def test_a_column_that_is_not_granted_looks_like_none(hostile: Hostile, columns: list[str]) -> None:
    """Hidden columns, the filter's among them, and columns that are not there get one answer; the log has the attempt."""
    with hostile.recorded("NotGranted") as entries:
        hostile.looks_like_nothing(hostile.read({"columns": columns}))
    assert entries[0]["columns"] == columns
