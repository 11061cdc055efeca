"""Reaching into structs: by a path into a hidden column, or out of a granted one."""

import pytest

from tests.attacks.hostile.place import Hostile, ids, problem


@pytest.mark.parametrize(
    "name",
    [
        "private.notes",
        "private/notes",
        "private->notes",
        "private['notes']",
        "private[0]",
        "private:notes",
        "meta.notes",
        "meta..notes",
        "evals.answer",
        "meta.answer",
        ".answer",
        "meta.*",
    ],
)
def test_no_path_leads_to_a_hidden_field(hostile: Hostile, name: str) -> None:
    """No way of writing a path leads to a field, or a column, that is not granted."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))


@pytest.mark.parametrize(
    "where",
    [
        "private.notes LIKE '%'",
        '"private"."notes" IS NOT NULL',
        "private IS NULL",
        "evals.answer LIKE '%'",
        "evals.private.notes LIKE '%'",
        "main.evals.private.notes LIKE '%'",
        "answer.notes LIKE '%'",
        "author.notes LIKE '%'",
        "meta.notes LIKE '%' OR private.notes LIKE '%'",
    ],
)
def test_a_path_begins_at_a_granted_column(hostile: Hostile, where: str) -> None:
    """A predicate's path is refused by the column that it begins at, be there such a field or not."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"where": where}))


def test_a_path_within_a_granted_struct_works(hostile: Hostile) -> None:
    """What is refused above is not paths as such."""
    assert ids(hostile.read({"where": "meta.source = 's4'"})) == [4]


@pytest.mark.parametrize("where", ["meta.nothing = 'x'", "meta.notes = 'x'", "meta.notes.deeper = 'x'"])
def test_fields_beside_a_granted_one_are_as_good_as_none(hostile: Hostile, where: str) -> None:
    """Of a struct that is granted in part, what else it has does not show."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"where": where}))


def test_a_struct_is_served_without_its_hidden_fields(hostile: Hostile) -> None:
    """Asked for by its own name, it holds what is granted of it and 0 bytes of the rest."""
    import pyarrow as pa

    answer = hostile.read({"columns": ["id", "meta"]})
    assert ids(answer) == list(range(0, 50, 2))
    with pa.ipc.open_stream(answer.data) as reader:
        assert reader.read_next_batch().column("meta").to_pylist()[0] == {"source": "s0"}


@pytest.mark.parametrize("where", ["id.notes = 'x'"])
def test_a_field_that_is_not_there_is_told_of_granted_columns_only(hostile: Hostile, where: str) -> None:
    """Of a granted column, whose fields are known, the caller learns that it has no such field."""
    with hostile.recorded("InvalidInput"):
        problem(hostile.read({"where": where}), 400)
