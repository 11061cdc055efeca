"""Versions whose columns differ from those before: appends that evolve, columns that are added, replaced or renamed."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.program import dsvault
from tests.support.reading import read
from tests.support.tables import rows
from vault.errors import InvalidInput, NotGranted
from vault.owner import Vault
from vault.sources.evolving import wider


def _objects(lab: Lab) -> int:
    return sum(1 for _ in lab.vault.parts.store.list("objects"))


def _ids(lab: Lab) -> dict[str, str]:
    return lab.vault.show("evals").column_ids


@pytest.fixture
def small(cast: Callable[..., Lab]) -> Lab:
    """Three shards of a key, a narrow number and a text, granted to acme."""
    return cast(_small)


def _small(opened: Vault) -> None:
    opened.publish("evals", _table(30), key="id", shard_rows=10)
    opened.grant("acme", "evals", ["id", "n", "text"])


def _table(count: int, start: int = 0) -> pa.Table:
    ids = range(start, start + count)
    columns = {"id": pa.array(ids, pa.int64()), "n": pa.array([i % 100 for i in ids], pa.int16())}
    return pa.table({**columns, "text": [f"text {i}" for i in ids]})


# Appends that evolve


def test_a_new_column_is_null_in_earlier_rows(small: Lab) -> None:
    """The appended version has it, in earlier shards as nulls; the chunks of the other columns are shared."""
    before, had = _ids(small), _objects(small)
    more = _table(10, 30).append_column("label", pa.array([f"label {i}" for i in range(10)]))
    small.vault.publish("evals", more, append=True, evolve=True)
    table = small.vault.scan("evals").read_all()
    assert table["label"].to_pylist() == [None] * 30 + [f"label {i}" for i in range(10)]
    assert table.select(["id", "n", "text"]).equals(_table(40))
    assert {name: _ids(small)[name] for name in before} == before
    # The new column in four shards, the others in one, copies of three columns for acme, and two manifests.
    assert _objects(small) == had + 4 + 3 + 3 + 2
    assert small.vault.scan("evals", version=1).read_all().equals(_table(30))
    assert small.vault.check().ok


def test_a_wider_type_is_another_column(small: Lab) -> None:
    """Earlier values are kept in the wider type under a new id, which no grant names; the rest stays granted."""
    before = _ids(small)
    more = _table(10, 30).set_column(1, "n", pa.array([10**6 + i for i in range(10)], pa.int32()))
    small.vault.publish("evals", more, append=True, evolve=True)
    table = small.vault.scan("evals").read_all()
    assert table.schema.field("n").type == pa.int32()
    assert table["n"].to_pylist() == [i % 100 for i in range(30)] + [10**6 + i for i in range(10)]
    after = _ids(small)
    assert {name for name in before if before[name] != after[name]} == {"n"}
    parts = small.broker_parts()
    served = read(parts, small.caller(parts, "acme"))
    assert served.column_names == ["id", "text"]
    assert served.num_rows == 40
    assert small.vault.check().ok


def test_a_narrower_source_is_widened_to_the_dataset(small: Lab) -> None:
    """A source whose type is narrower changes nothing of the dataset's."""
    before = _ids(small)
    small.vault.publish(
        "evals", _table(10, 30).set_column(1, "n", pa.array(range(10), pa.int8())), append=True, evolve=True
    )
    assert _ids(small) == before
    assert small.vault.scan("evals").read_all().schema.field("n").type == pa.int16()


def test_a_missing_column_is_null(small: Lab) -> None:
    """Also without evolving; only a column that may hold no nulls has to be there."""
    small.vault.publish("evals", _table(10, 30).select(["id", "n"]), append=True)
    assert small.vault.scan("evals").read_all()["text"].null_count == 10
    strict = pa.schema([pa.field("id", pa.int64()), pa.field("must", pa.string(), nullable=False)])
    small.vault.publish("strict", pa.table([[1], ["a"]], schema=strict), key="id")
    for evolve in (False, True):
        with pytest.raises(InvalidInput, match="'must' is missing"):
            small.vault.publish("strict", pa.table({"id": [2]}), append=True, evolve=evolve)


def test_a_group_moves_as_a_whole(lab: Lab) -> None:
    """When one column of a group is widened, its companions get new ids with it, and every value stays."""
    lab.vault.publish("evals", _table(20), key="id", shard_rows=10, groups={"g": ["n", "text"]})
    before = _ids(lab)
    more = _table(5, 20).set_column(1, "n", pa.array([10**9] * 5, pa.int64()))
    lab.vault.publish("evals", more, append=True, evolve=True)
    after = _ids(lab)
    assert {name for name in before if before[name] != after[name]} == {"n", "text"}
    assert lab.vault.scan("evals").read_all()["text"].to_pylist() == [f"text {i}" for i in range(25)]
    assert lab.vault.check().ok


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array(["x"] * 3), "string, and int16 in the dataset: no type holds both"),
        (pa.array([[1]] * 3), "list<item: int64>, and int16 in the dataset"),
        (pa.array([True] * 3), "bool, and int16 in the dataset"),
    ],
)
def test_what_cannot_be_reconciled_names_both_types(small: Lab, column: pa.Array, said: str) -> None:
    """Two types that nothing holds are told, and nothing is published."""
    more = _table(3, 30).set_column(1, "n", column)
    with pytest.raises(InvalidInput, match=said):
        small.vault.publish("evals", more, append=True, evolve=True)
    assert small.vault.scan("evals").read_all().num_rows == 30


def test_values_that_a_double_does_not_hold_are_refused(lab: Lab) -> None:
    """An integer column with values beyond 2**53 does not become a floating one."""
    lab.vault.publish("evals", pa.table({"a": [2**60 + 1]}))
    with pytest.raises(InvalidInput, match="'a' is int64 in the dataset and would become double"):
        lab.vault.publish("evals", pa.table({"a": [0.5]}), append=True, evolve=True)
    lab.vault.publish("fine", pa.table({"a": [7]}))
    lab.vault.publish("fine", pa.table({"a": [0.5]}), append=True, evolve=True)
    assert lab.vault.scan("fine").read_all()["a"].to_pylist() == [7.0, 0.5]


def test_text_files_keep_the_datasets_types(small: Lab, tmp_path: Path) -> None:
    """What was read from text takes the dataset's types; a new field is a new column, a fraction widens an integer."""
    path = tmp_path / "more.jsonl"
    path.write_text('{"id": 100, "n": 3, "text": "a", "note": {"by": "x"}}\n')
    small.vault.publish("evals", path, append=True, evolve=True)
    assert small.vault.scan("evals").read_all().schema.field("n").type == pa.int16()
    assert small.vault.scan("evals").read_all()["note"].to_pylist()[-1] == {"by": "x"}
    path.write_text('{"id": 101, "n": 0.5}\n')
    small.vault.publish("evals", path, append=True, evolve=True)
    assert small.vault.scan("evals").read_all()["n"].to_pylist()[-2:] == [3.0, 0.5]
    path.write_text('{"id": 102, "n": "many"}\n')
    with pytest.raises(InvalidInput, match="more.jsonl"):
        small.vault.publish("evals", path, append=True, evolve=True)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint64(), pa.int64(), None),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("s", "UTC"), pa.timestamp("us"), None),
        (pa.time32("s"), pa.time64("us"), pa.time64("us")),
        (pa.decimal128(5, 2), pa.decimal128(10, 1), pa.decimal128(11, 2)),
        (pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 38)),
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.list_(pa.int16())),
        (
            pa.struct([("a", pa.int8())]),
            pa.struct([("a", pa.int32()), ("b", pa.string())]),
            pa.struct([("a", pa.int32()), ("b", pa.string())]),
        ),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.string(), pa.binary(), None),
        (pa.date32(), pa.timestamp("s"), None),
    ],
)
def test_which_type_is_wider(first: pa.DataType, second: pa.DataType, expected: pa.DataType | None) -> None:
    """The narrowest type that holds both, from either side."""
    assert wider(first, second) == expected
    assert wider(second, first) == expected


# Columns alone


def test_columns_are_added_by_key(small: Lab) -> None:
    """Annotations that came back, in any order and for some rows, become a column; only its chunks are written."""
    had = _objects(small)
    labels = pa.table({"label": ["even", "odd", "even"], "id": pa.array([28, 3, 14], pa.int32())})
    done = small.vault.publish("evals", labels, columns_only=True)
    assert (done.version, done.rows, done.added) == (2, 30, 0)
    table = small.vault.scan("evals").read_all()
    assert {row["id"]: row["label"] for row in table.to_pylist() if row["label"]} == {28: "even", 3: "odd", 14: "even"}
    assert table.select(["id", "n", "text"]).equals(_table(30))
    # Three chunks of the new column, and two manifests.
    assert _objects(small) == had + 3 + 2
    assert small.vault.check().ok


def test_a_column_is_replaced_under_its_own_id(small: Lab) -> None:
    """Values of rows that the source has are exchanged, the others stay, and who may read the column sees it."""
    before = _ids(small)
    small.vault.publish("evals", pa.table({"id": [5, 25], "text": ["new 5", None]}), columns_only=True)
    assert _ids(small) == before
    expected = [f"text {i}" for i in range(30)]
    expected[5], expected[25] = "new 5", None  # type: ignore[call-overload]
    assert small.vault.scan("evals").read_all()["text"].to_pylist() == expected
    parts = small.broker_parts()
    assert read(parts, small.caller(parts, "acme"))["text"].to_pylist() == expected
    assert small.vault.scan("evals", version=1).read_all().equals(_table(30))
    assert small.vault.check().ok
    small.vault.gc(timedelta(0))
    assert small.vault.check().ok


def test_a_column_of_another_type_takes_the_others_place(small: Lab) -> None:
    """Replacing a column by one of a wider type keeps the other rows' values; of another type it has to hold them."""
    small.vault.publish("evals", pa.table({"id": [1], "n": pa.array([10**9], pa.int64())}), columns_only=True)
    assert small.vault.scan("evals").read_all()["n"].to_pylist()[:3] == [0, 10**9, 2]
    parts = small.broker_parts()
    assert read(parts, small.caller(parts, "acme")).column_names == ["id", "text"]
    with pytest.raises(InvalidInput, match="'text' is string in the dataset and would become int64"):
        small.vault.publish("evals", pa.table({"id": [1], "text": [1]}), columns_only=True)


def test_without_a_key_the_order_counts(lab: Lab) -> None:
    """As many rows as there are, in their order."""
    lab.vault.publish("evals", _table(25), shard_rows=10)
    lab.vault.publish("evals", pa.table({"more": list(range(25))}), columns_only=True)
    assert lab.vault.scan("evals").read_all()["more"].to_pylist() == list(range(25))
    with pytest.raises(InvalidInput, match="24 rows and the version 25"):
        lab.vault.publish("evals", pa.table({"more": list(range(24))}), columns_only=True)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (pa.table({"id": [1, 99], "a": [1, 2]}), {}, "row 2 of the source has a key"),
        (pa.table({"id": [1, 1], "a": [1, 2]}), {}, "stands in an earlier row"),
        (pa.table({"id": [1, None], "a": [1, 2]}), {}, "is null in row 2"),
        (pa.table({"a": [1]}), {}, "lacks the column 'id'"),
        (pa.table({"id": [1]}), {}, "no column beside the row key"),
        (pa.table({"id": ["x"], "a": [1]}), {}, "not int64 in the source"),
        (pa.table({"id": [1], "N": [1]}), {}, "differ only in case"),
        (pa.table({"id": [1], "a": [1]}), {"append": True}, "no other option"),
        (pa.table({"id": [1], "a": [1]}), {"key": "id"}, "no other option"),
    ],
)
def test_columns_that_do_not_fit_are_refused(small: Lab, source: pa.Table, options: dict[str, Any], said: str) -> None:
    """One sentence with the row or column at fault, and no new version."""
    with pytest.raises(InvalidInput, match=said):
        small.vault.publish("evals", source, columns_only=True, **options)
    assert [state.version for state in small.vault.show("evals").versions] == [1]


def test_assigned_rows_stay_with_their_vendors(lab: Lab) -> None:
    """A column that is added to a dataset with assigned rows reaches each vendor for its own rows only."""
    lab.vault.publish(
        "evals", rows(30).append_column("whose", pa.array(["acme", "globex", None] * 10)), key="id", assign_by="whose"
    )
    lab.vault.grant("acme", "evals", ["id", "prompt"])
    lab.vault.publish("evals", pa.table({"id": range(30), "label": [f"l{i}" for i in range(30)]}), columns_only=True)
    lab.vault.grant("acme", "evals", ["id", "label"])
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    grant = next(state.grant.id for state in lab.vault.grants() if state.grant.columns[-1].name == "label")
    served = read(parts, caller, grant=grant)
    assert served["label"].to_pylist() == [f"l{i}" for i in served["id"].to_pylist()]
    assert {i % 3 for i in served["id"].to_pylist()} == {0}
    with pytest.raises(InvalidInput, match="whose rows they are"):
        lab.vault.publish("evals", pa.table({"id": [0], "whose": ["globex"]}), columns_only=True)


# Names


def test_a_renamed_column_keeps_its_id_and_its_grants(small: Lab) -> None:
    """Its chunks are shared, vendors read it under the new name, filters by it hold, and appends take the new name."""
    small.vault.grant("globex", "evals", ["id"], where="n < 5")
    before, had = _ids(small), _objects(small)
    small.vault.rename_column("evals", "n", "number")
    small.vault.rename_column("evals", "id", "row")
    after = _ids(small)
    assert list(after.values()) == list(before.values())
    assert list(after) == ["row", "number", "text"]
    assert _objects(small) == had + 2 * 3
    parts = small.broker_parts()
    assert read(parts, small.caller(parts, "acme")).column_names == ["row", "number", "text"]
    assert read(parts, small.caller(parts, "globex")).to_pydict() == {"row": list(range(5))}
    more = _table(5, 30).rename_columns(["row", "number", "text"])
    small.vault.publish("evals", more, append=True)
    assert small.vault.scan("evals").read_all()["row"].to_pylist() == list(range(35))
    assert small.vault.show("evals").key == "row"
    assert small.vault.scan("evals", version=1).read_all().equals(_table(30))
    small.vault.rekey()
    assert small.vault.check().ok
    for old, new, said in (("gone", "x", "no column 'gone'"), ("row", "text", "stands twice"), ("row", "TEXT", "case")):
        with pytest.raises(InvalidInput, match=said):
            small.vault.rename_column("evals", old, new)


def test_a_name_that_is_used_again_is_not_the_old_column(small: Lab) -> None:
    """After a rename a new column of the old name is granted to nobody."""
    small.vault.rename_column("evals", "n", "number")
    more = _table(5, 30).append_column("number", pa.array([1] * 5, pa.int16()))
    small.vault.publish("evals", more, append=True, evolve=True)
    assert set(_ids(small)) == {"id", "number", "text", "n"}
    parts = small.broker_parts()
    caller = small.caller(parts, "acme")
    assert read(parts, caller).column_names == ["id", "number", "text"]
    with pytest.raises(NotGranted):
        read(parts, caller, columns=["n"])


def test_decimals_and_nested_types_widen_with_their_values(lab: Lab) -> None:
    """Values of earlier shards come out of the wider type as they went in."""
    first = pa.table(
        {
            "d": pa.array([Decimal("1.25"), None], pa.decimal128(5, 2)),
            "s": pa.array([{"a": 1}, None], pa.struct([("a", pa.int8())])),
        }
    )
    second = pa.table(
        {
            "d": pa.array([Decimal("123456.5")], pa.decimal128(10, 1)),
            "s": pa.array([{"a": 1000, "b": "x"}], pa.struct([("a", pa.int32()), ("b", pa.string())])),
        }
    )
    lab.vault.publish("evals", first)
    lab.vault.publish("evals", second, append=True, evolve=True)
    assert lab.vault.scan("evals").read_all().to_pydict() == {
        "d": [Decimal("1.25"), None, Decimal("123456.50")],
        "s": [{"a": 1, "b": None}, None, {"a": 1000, "b": "x"}],
    }


def test_the_commands(small: Lab, tmp_path: Path) -> None:
    """``publish --columns-only`` and ``--evolve``, and ``dataset rename-column``, as a person types them."""

    def run(*words: str, code: int = 0) -> str:
        done = dsvault(*words, "--vault", small.folder)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps({"id": i, "label": i % 2}) + "\n" for i in range(30)))
    assert "version 2: 30 rows" in run("publish", str(path), "--dataset", "evals", "--columns-only")
    assert "version 3" in run("dataset", "rename-column", "evals", "label", "verdict")
    path.write_text('{"id": 30, "verdict": 1, "why": "because"}\n')
    assert "--evolve" in run("publish", str(path), "--dataset", "evals", "--evolve", code=1)
    run("publish", str(path), "--dataset", "evals", "--append", code=1)
    assert "version 4: 31 rows" in run("publish", str(path), "--dataset", "evals", "--append", "--evolve")
