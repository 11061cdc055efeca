"""What ``audit show`` says of an entry: a line that a person can read, whatever the entry holds."""

from typing import Any

import pytest

from vault.rowsets import item_of
from vault_cli.entries import details


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"vendor": "acme", "vendor_id": "ab", "rows": 0}, "vendor=acme, rows=0"),
        ({"shards": [[0, 19], [25, 25]]}, "shards=0-19 25"),
        ({"shards": [[n, n] for n in range(0, 40, 2)]}, "shards=0 2 4 6 8 10 and 14 more"),
        ({"layout": [[0, 999_999, 100, None], [1_000_000, 1_000_000, 7, "ab"]]}, "layout=1000001 shards"),
        ({"base": {"version": 3, "shards": 9}}, "base=version 3"),
        ({"served": [{"shards": [0, 4]}, {"shard": 5, "rows": [[0, 9]]}]}, "served=0-4 5[0-9]"),
        ({"served": [item_of(7, [row % 3 > 0 for row in range(3000)])]}, "served=7[2000 rows]"),
        (
            {"served": [{"shard": n, "rows": [[1, 1]]} for n in range(9)]},
            "served=0[1] 1[1] 2[1] 3[1] 4[1] 5[1] and 3 more",
        ),
        (
            {"outcome": "complete", "masks": {}, "delegates": [], "limit": None, "filtered": False},
            "outcome=complete, filtered=False",
        ),
        ({name: {"a": "b" * 5000} for name in ("epochs", "chunks", "layouts", "cuts", "compartments")}, ""),
    ],
)
def test_a_line_tells_what_a_person_asks_for(fields: dict[str, Any], line: str) -> None:
    """Runs as runs, rows by their number, and neither ids nor base64."""
    assert details(fields) == line


@pytest.mark.parametrize("name", ["shards", "served", "layout", "base", "where", "reason"])
@pytest.mark.parametrize("value", ["x" * 5000, [[]], [1], {"version": []}, 5, [{"shards": [2, 1]}], [[1, 2, 3]]])
def test_what_has_another_form_is_told_as_it_is_and_not_at_length(name: str, value: Any) -> None:
    """An entry that somebody else wrote ends no command, and fills no screen."""
    line = details({name: value})
    assert line.startswith(f"{name}=")
    assert len(line) < 400
