"""Asking for columns by where they stand instead of by their names."""

from typing import Any

import pytest

from tests.attacks.hostile.place import Hostile, ids, problem


@pytest.mark.parametrize("name", ["0", "2", "4", "-1", "$4", "#4", "@4", "f4", "column_4", "[4]", "4:5", "field(4)"])
def test_a_position_is_no_name(hostile: Hostile, name: str) -> None:
    """No way of writing a number stands for a column."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))


@pytest.mark.parametrize("columns", [[4], [-1], [4.0], [True], [None], [["answer"]], [{"name": "answer"}], 4, "answer"])
def test_columns_are_texts(hostile: Hostile, columns: Any) -> None:
    """Anything but a list of texts is refused before anybody looks for a column."""
    problem(hostile.read({"columns": columns}), 400)


@pytest.mark.parametrize("where", ["$4 = 'x'", "@4 = 'x'", "#4 = 'x'", "?4 = 'x'", "4 = 'x'"])
def test_a_predicate_knows_no_positions(hostile: Hostile, where: str) -> None:
    """A number in a predicate is a number, or part of a name that no column has."""
    problem(hostile.read({"where": where}), 400, 404)
    assert hostile.read({"where": where}).data == hostile.read({"where": where.replace("4", "99")}).data


def test_the_schema_has_no_holes(hostile: Hostile) -> None:
    """What is served is numbered by itself: positions do not tell how many columns were left out."""
    import pyarrow as pa

    answer = hostile.read({"columns": ["author", "id"]})
    assert ids(answer)
    assert pa.ipc.open_stream(answer.data).schema.names == ["author", "id"]
