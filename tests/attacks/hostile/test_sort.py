"""Learning hidden values by the order of rows, and hidden rows by their number."""

import base64

import pyarrow as pa
import pytest

from tests.attacks.hostile.place import Hostile, ids, problem
from vault.wire import CURSOR_KEY


@pytest.mark.parametrize(
    "key", ["sort", "sort_by", "order", "order_by", "orderBy", "group_by", "distinct", "offset", "top"]
)
def test_a_request_cannot_ask_for_an_order(hostile: Hostile, key: str) -> None:
    """There is no key for it, and one that is not known is refused."""
    problem(hostile.read({key: ["answer"]}), 400)
    problem(hostile.read({key: "answer", "limit": 1}), 400)


@pytest.mark.parametrize(
    "name", ["id ORDER BY answer", "id DESC", "-answer", "+answer", "id; ORDER BY answer", "DISTINCT answer"]
)
def test_a_name_with_an_order_is_no_name(hostile: Hostile, name: str) -> None:
    """Nor do names hold one."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))


@pytest.mark.parametrize(
    "where",
    [
        "id > 0 ORDER BY answer",
        "id > 0 LIMIT 1",
        "id > 0 GROUP BY answer",
        "id > 0 HAVING answer > 'x'",
        "id > 0 FOR UPDATE",
    ],
)
def test_a_predicate_with_an_order_is_none(hostile: Hostile, where: str) -> None:
    """Nor do predicates."""
    with hostile.recorded("InvalidInput"):
        problem(hostile.read({"where": where}), 400)


@pytest.mark.parametrize(
    "query", ["?sort=answer", "?order_by=answer&columns=answer", "?columns=answer", "?where=answer"]
)
def test_the_address_says_nothing_of_what_is_read(hostile: Hostile, query: str) -> None:
    """A query behind the path changes nothing: only the body asks."""
    assert ids(hostile.post(f"/v1/datasets/evals/read{query}", {"columns": ["id"]})) == list(range(0, 50, 2))


@pytest.mark.parametrize("limit", range(5))
def test_a_limit_counts_rows_that_are_shown(hostile: Hostile, limit: int) -> None:
    """Hidden rows do not use a limit up: how many there are between two others does not show."""
    assert ids(hostile.read({"columns": ["id"], "limit": limit})) == [0, 2, 4, 6, 8][:limit]


def test_a_cursor_does_not_show_where_it_is(hostile: Hostile) -> None:
    """Cursors of the same place, and of places with other hidden rows before them, have nothing but their length in common."""
    found = []
    for limit in (1, 1, 5, 20):
        reader = pa.ipc.open_stream(hostile.read({"columns": ["id"], "limit": limit}).data)
        found.append(base64.b64decode(reader.read_next_batch_with_custom_metadata()[1][CURSOR_KEY]))
    assert len({len(cursor) for cursor in found}) == 1
    pieces = [cursor[at : at + 4] for cursor in found for at in range(0, len(cursor) - 3, 4)]
    assert len(set(pieces)) == len(pieces)
