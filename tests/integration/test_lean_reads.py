"""A read fetches and decodes what its answer needs, and no more."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Lab
from vault.chunks import codec, footer
from vault.derivation import chunk_key
from vault.errors import InvalidInput
from vault.objects import ObjectStore
from vault.workings.names import datasets
from vault.workings.reading import identity_of
from vault.workings.versions import open_version

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def wide(lab: Lab) -> Lab:
    """Ten shards of a number, a text and three columns more; row groups of ten rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec.EncodeOptions.__init__, "__defaults__", ("zstd", None, 10, None, True))
        lab.vault.publish("evals", _table(), shard_rows=50)
    return lab


def _table() -> pa.Table:
    ids = range(500)
    return pa.table(
        {
            "id": ids,
            "text": [f"text {i}" for i in ids],
            **{name: [f"{name} {i}" for i in ids] for name in ("a", "b", "c")},
        }
    )


class _Seen:
    """Objects that were fetched and row groups that were decoded."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fetched: Counter[str] = Counter()
        self.decoded = 0
        get, wanted = ObjectStore.get, codec._wanted

        def counted_get(store: ObjectStore, name: str) -> bytes:
            self.fetched[name] += name.startswith("objects/")
            return get(store, name)

        def counted_wanted(*arguments: Any) -> pa.Table:
            self.decoded += 1
            return wanted(*arguments)

        patch.setattr(ObjectStore, "get", counted_get)
        patch.setattr(codec, "_wanted", counted_wanted)

    @property
    def objects(self) -> int:
        """How many chunks and manifests."""
        return sum(self.fetched.values())


def test_only_the_wanted_columns_are_fetched(wide: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns of five are two chunks a shard."""
    wide.vault.scan("evals", columns=["id", "a"], limit=1).read_all()  # the manifest is open from here on
    seen = _Seen(monkeypatch)
    wide.vault.scan("evals", columns=["id", "a"]).read_all()
    assert seen.objects == 20
    assert set(seen.fetched.values()) == {1}


def test_the_predicate_comes_first(wide: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other columns only the shards, and in them the row groups, are decoded where a row is left."""
    wide.vault.scan("evals", limit=1).read_all()
    seen = _Seen(monkeypatch)
    found = wide.vault.scan("evals", where="text = 'text 123' OR text LIKE '%t 48_'").read_all()
    assert found["id"].to_pylist() == [123, *range(480, 490)]
    assert found["c"].to_pylist() == [f"c {i}" for i in found["id"].to_pylist()]
    # Ten chunks of the text; four more columns in two shards.
    assert seen.objects == 10 + 2 * 4
    assert seen.decoded == 10 * 5 + 2 * 4


def test_statistics_spare_the_predicates_column_too(wide: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards whose smallest and largest value exclude every row are not fetched at all."""
    wide.vault.scan("evals", limit=1).read_all()
    seen = _Seen(monkeypatch)
    assert wide.vault.scan("evals", columns=["b"], where="id >= 120 AND id < 125").read_all().num_rows == 5
    assert seen.objects == 2
    assert seen.decoded == 5 + 1


def test_a_predicate_that_nothing_passes_fetches_no_other_column(wide: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is left, so nothing but the predicate's column is read."""
    wide.vault.scan("evals", limit=1).read_all()
    seen = _Seen(monkeypatch)
    assert wide.vault.scan("evals", where="text LIKE '%nowhere%'").read_all().num_rows == 0
    assert seen.objects == 10


def test_a_limit_stops_early(wide: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shard is fetched beyond the one that fills it."""
    wide.vault.scan("evals", limit=1).read_all()
    seen = _Seen(monkeypatch)
    assert wide.vault.scan("evals", columns=["id", "c"], limit=60).read_all()["id"].to_pylist() == list(range(60))
    assert seen.objects == 4


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    low=st.integers(-5, 505),
    width=st.integers(0, 200),
    digit=st.integers(0, 9),
    limit=st.none() | st.integers(1, 300),
    columns=st.lists(st.sampled_from(["id", "text", "a", "b"]), min_size=1, unique=True),
)
def test_lean_reads_answer_as_a_plain_filter_does(
    wide: Lab, low: int, width: int, digit: int, limit: int | None, columns: list[str]
) -> None:
    """Whatever is pruned, skipped or cut, the rows are those of a filter over the whole table, in order."""
    expected = [
        row for row in _table().to_pylist() if low <= row["id"] < low + width and str(row["id"]).endswith(str(digit))
    ]
    found = wide.vault.scan(
        "evals", columns=columns, where=f"id >= {low} AND id < {low + width} AND text LIKE '%{digit}'", limit=limit
    ).read_all()
    assert found.to_pylist() == [{name: row[name] for name in columns} for row in expected[:limit]]


def _row_groups(lab: Lab, name: str) -> set[tuple[str, tuple[int, ...]]]:
    """The codec and the rows of each row group of every chunk of a dataset's newest version."""
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        identity = next(each.id for each in datasets(transaction, parts.sealer()) if each.name == name)
        place = transaction.compartment(parts.owner, identity)
    assert place is not None
    version = open_version(parts, parts.keyring, place)
    found = set()
    for ref in version.refs():
        key = version.keys[ref.group]
        where = identity_of(key, ref)
        metadata = footer(parts.store.get(ref.object), chunk_key(parts.keyring.open(key), where), where)
        rows = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        found.add((metadata.row_group(0).column(0).compression, rows))
    return found


def test_row_groups_are_bounded_in_rows_and_bytes(lab: Lab) -> None:
    """65,536 rows, or what fits 64 MiB where rows are large; the same in all columns of a shard."""
    lab.vault.publish("narrow", pa.table({"a": range(140_000), "b": [1.5] * 140_000}))
    assert _row_groups(lab, "narrow") == {("ZSTD", (65_536, 65_536)), ("ZSTD", (8_928,))}
    lab.vault.publish("wide", pa.table({"a": ["x" * 2_000_000] * 70, "b": range(70)}))
    assert _row_groups(lab, "wide") == {("ZSTD", (33, 33, 4))}


def test_codec_and_level_are_the_publishers(lab: Lab) -> None:
    """Any codec of Parquet's that is fast, with its levels; another is refused with those that there are."""
    table = pa.table({"a": [f"text {i}" for i in range(2000)]})
    for codec_name, shown in (("lz4", "LZ4"), ("snappy", "SNAPPY"), ("none", "UNCOMPRESSED"), ("gzip", "GZIP")):
        lab.vault.publish(f"d-{codec_name}", table, compression=codec_name)
        assert {found for found, _ in _row_groups(lab, f"d-{codec_name}")} == {shown}
    lab.vault.publish("high", table, compression_level=19)
    assert lab.vault.scan("high").read_all().equals(table)
    for options, said in (
        ({"compression": "rar"}, "--compression: use one of"),
        ({"compression_level": 99}, "--compression-level: zstd takes"),
        ({"compression": "snappy", "compression_level": 1}, "snappy has no levels"),
    ):
        with pytest.raises(InvalidInput, match=said):
            lab.vault.publish("wrong", table, **options)
