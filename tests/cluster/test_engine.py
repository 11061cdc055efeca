"""Publishes, fan-outs and rekeys on a cluster are what they are in one process."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.faults import Faulty
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import every_type, rows
from vault.audit import Kind
from vault.engines import RayEngine
from vault.errors import InvalidInput, NotFound
from vault.owner import Vault

Spread = Callable[[Lab], Vault]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """300 rows in a Parquet file of row groups of 50."""
    pq.write_table(rows(300), tmp_path / "rows.parquet", row_group_size=50)
    return tmp_path / "rows.parquet"


def _layout(vault: Vault) -> list[tuple[str, int, int]]:
    """Of every chunk of the newest version the column, the shard and the rows."""
    from vault.workings.filling import owners_version
    from vault.workings.names import datasets

    with vault.parts.catalog.read() as transaction:
        (dataset,) = datasets(transaction, vault.parts.sealer())
    version = owners_version(vault.parts, dataset)
    names = {column.group: column.name for column in version.manifest.columns}
    return sorted((names[ref.group], ref.shard, ref.rows) for ref in version.refs())


def test_a_published_file_reads_back_as_it_was(lab: Lab, spread: Spread, source: Path) -> None:
    """Workers that read row groups by themselves give one version, with the shards that one process would make."""
    vault = spread(lab)
    done = vault.publish("evals", source, key="id", shard_rows=100)
    assert (done.version, done.rows, done.added) == (1, 300, 300)
    assert vault.scan("evals").read_all().equals(rows(300))
    there = _layout(vault)
    lab.vault.publish("evals", source, key="id", shard_rows=100)
    assert there == _layout(lab.vault)
    assert vault.check().ok


def test_pruning_works_on_what_workers_measured(lab: Lab, spread: Spread, source: Path) -> None:
    """The statistics that come back sealed say which shards a filter needs."""
    vault = spread(lab)
    vault.publish("evals", source, shard_rows=50)
    assert vault.scan("evals", where="id >= 290").read_all().num_rows == 10
    (*_, (_, entry)) = vault.audit_entries()
    assert (entry.kind, entry.fields["shards"]) == (Kind.OWNER_READ, [[5, 5]])


def test_every_type_survives(lab: Lab, spread: Spread, tmp_path: Path) -> None:
    """What an order says of a schema is the schema, for every type that Parquet holds."""
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, every_type().schema) as writer:
        writer.write_table(every_type())
    pq.write_table(rows(0).select(["id"]).rename_columns(["unused"]), tmp_path / "b.parquet")
    vault = spread(lab)
    vault.publish("types", [tmp_path / "a.arrow", tmp_path / "a.arrow"])
    both = pa.concat_tables([every_type(), every_type()])
    found = vault.scan("types").read_all()
    assert found.schema.equals(both.schema)
    assert found.to_pylist() == both.to_pylist()


def test_several_text_files_divide_by_file(lab: Lab, spread: Spread, tmp_path: Path) -> None:
    """Files of JSON lines go to workers one by one, under the schema of all."""
    for number in range(3):
        lines = "".join(f'{{"n": {10 * number + line}, "t": "x{line}"}}\n' for line in range(10))
        (tmp_path / f"{number}.jsonl").write_text(lines)
    vault = spread(lab)
    vault.publish("lines", [tmp_path / f"{number}.jsonl" for number in range(3)])
    assert vault.scan("lines").read_all()["n"].to_pylist() == list(range(30))


def test_vendors_get_their_rows_in_the_same_pass(lab: Lab, spread: Spread, tmp_path: Path) -> None:
    """Workers copy each chunk for the vendors whose grants need it, whole, in part, or of their own shards only."""
    table = rows(120).append_column("who", pa.array(["acme", "globex", None] * 40))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=30)
    lab.vault.publish("evals", table.slice(0, 9), assign_by="who")
    lab.vault.grant("acme", "evals", columns=["id", "meta.source"], where="score > 2")
    lab.vault.grant("globex", "evals", columns=["id"])
    vault = spread(lab)
    assert vault.publish("evals", tmp_path / "a.parquet", shard_rows=60).vendors == ("acme", "globex")
    parts = lab.broker_parts()
    acme = read(parts, lab.caller(parts, "acme")).to_pylist()
    own = [row for row in table.to_pylist() if row["who"] == "acme" and (row["score"] or 0) > 2]
    assert acme == [{"id": row["id"], "meta": {"source": row["meta"]["source"]}} for row in own]
    globex = read(parts, lab.caller(parts, "globex"))["id"].to_pylist()
    assert globex == [row["id"] for row in table.to_pylist() if row["who"] == "globex"]
    assert vault.check().ok


def test_a_rekey_moves_everything(lab: Lab, spread: Spread, source: Path) -> None:
    """Workers copy chunks under the next epoch, and the old one opens nothing that is live."""
    vault = spread(lab)
    vault.publish("evals", source, shard_rows=50)
    vault.grant("acme", "evals", columns=["id", "prompt"])
    done = {each.vendor: each.chunks for each in vault.rekey()}
    assert done == {"owner": 36, "acme": 12}
    assert vault.scan("evals").read_all().equals(rows(300))
    report = vault.check()
    assert report.ok
    assert report.retired_tries


def test_a_grant_is_filled_by_workers(lab: Lab, engine: RayEngine, source: Path) -> None:
    """A fan-out of what is published already, also of a field of a column."""
    lab.vault.publish("evals", source, shard_rows=50)
    parts = lab.vault.parts
    workers = Faulty(engine, lab.folder, parts.vault)
    vault = Vault(lab.folder, replace(parts, workers=workers))
    vault.grant("acme", "evals", columns=["prompt", "meta.source"])
    assert workers.sent
    broker = lab.broker_parts()
    found = read(broker, lab.caller(broker, "acme"))
    assert found["meta"].to_pylist() == [{"source": each["source"]} for each in rows(300)["meta"].to_pylist()]


def test_an_append_goes_on_behind_the_last_shard(lab: Lab, spread: Spread, tmp_path: Path) -> None:
    """Shards of runs are numbered on, and a row key that is there already is refused with its row."""
    vault = spread(lab)
    vault.publish("evals", rows(50), key="id", shard_rows=20)
    pq.write_table(rows(40, 50), tmp_path / "more.parquet", row_group_size=20)
    vault.publish("evals", tmp_path / "more.parquet", append=True, shard_rows=20)
    assert vault.scan("evals").read_all().equals(rows(90))
    with pytest.raises(InvalidInput, match="row 91 stands in an earlier row"):
        vault.publish("evals", tmp_path / "more.parquet", append=True, shard_rows=20)
    assert vault.show("evals").versions[-1].version == 2


def test_a_row_that_names_no_vendor_is_named_by_its_place_in_the_source(
    lab: Lab, spread: Spread, tmp_path: Path
) -> None:
    """The worker that meets it knows how many rows are before its own."""
    table = rows(100).append_column("who", pa.array(["acme"] * 77 + ["nobody"] + ["acme"] * 22))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    with pytest.raises(InvalidInput, match="row 78 names a vendor that does not exist"):
        spread(lab).publish("evals", tmp_path / "a.parquet", assign_by="who", shard_rows=10)


@pytest.mark.parametrize("kind", ["table", "one text file"])
def test_what_only_the_driver_can_read_is_encoded_there(lab: Lab, engine: RayEngine, tmp_path: Path, kind: str) -> None:
    """Rows of a table in memory, or of one text file, are sent to nobody."""
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    parts = lab.vault.parts
    workers = Faulty(engine, lab.folder, parts.vault)
    vault = Vault(lab.folder, replace(parts, workers=workers))
    vault.publish("evals", rows(10) if kind == "table" else tmp_path / "a.jsonl")
    assert vault.scan("evals").read_all().num_rows == (10 if kind == "table" else 2)
    assert not workers.sent


def test_a_file_that_changed_since_it_was_divided_is_refused(
    lab: Lab, engine: RayEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two states of a file never make one version."""
    parts = lab.vault.parts
    workers = Faulty(engine, lab.folder, parts.vault)
    vault = Vault(lab.folder, replace(parts, workers=workers))

    def change(parcel: bytes) -> bytes:
        pq.write_table(rows(250), source, row_group_size=50)
        return parcel

    workers.change_task = change
    with pytest.raises(InvalidInput, match=r"rows\.parquet: the file was changed while it was published"):
        vault.publish("evals", source, shard_rows=50)
    with pytest.raises(NotFound):
        vault.show("evals")


def test_each_worker_asks_the_kms_by_itself(lab: Lab, spread: Spread, source: Path) -> None:
    """The log names the processes that asked for keys: the driver, and workers beside it."""
    vault = spread(lab)
    vault.publish("evals", source, shard_rows=50)
    vault.parts.catalog.settle()
    asked = [entry for _, entry in vault.audit_entries() if entry.kind is Kind.KEYS_OPENED]
    assert len({entry.fields["process"] for entry in asked}) >= 2


def test_a_worker_needs_no_signing_key(tmp_path: Path, engine: RayEngine, source: Path) -> None:
    """Workers that have no key of the authority, a responder, a publisher or an auditor do all of it."""
    import shutil

    import vault as package

    catalog, store = f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "store")
    opened = package.init(tmp_path / "lab", catalog=catalog, store=store)
    shutil.copytree(tmp_path / "lab", tmp_path / "node")
    shutil.rmtree(tmp_path / "node" / "owner" / "keys")
    workers = Faulty(engine, tmp_path / "node", opened.parts.vault)
    vault = Vault(tmp_path / "lab", replace(opened.parts, workers=workers))
    vault.publish("evals", source, shard_rows=50)
    vault.rekey()
    assert vault.scan("evals").read_all().equals(rows(300))
    assert workers.sent


def test_a_worker_without_the_vault_says_so(lab: Lab, engine: RayEngine, source: Path, tmp_path: Path) -> None:
    """One sentence, and nothing is published."""
    parts = lab.vault.parts
    vault = Vault(lab.folder, replace(parts, workers=Faulty(engine, tmp_path / "nowhere", parts.vault)))
    with pytest.raises(NotFound, match="a worker finds no such vault on its machine"):
        vault.publish("evals", source)
    with pytest.raises(NotFound):
        vault.show("evals")
    assert vault.gc(timedelta(0)).busy == 0
