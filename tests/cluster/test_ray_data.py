"""Ray Data reads versions and granted slices, and publishes datasets."""

import os
import signal
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.shown import expected, publish, shown
from tests.support.tables import rows
from vault.audit import Kind
from vault.engines import RayEngine
from vault.errors import InvalidInput, NotFound, NotGranted, VaultError

# Ray Data warns of its own use of what it deprecates.
pytestmark = [pytest.mark.usefixtures("calm"), pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


@pytest.fixture(scope="session")
def calm(engine: RayEngine) -> Any:
    """Ray's module for data, without bars and logs, and with blocks in their order."""
    del engine
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    return ray.data


def _table(dataset: Any) -> pa.Table:
    import ray

    return pa.concat_tables(ray.get(dataset.to_arrow_refs()))


def test_a_version_is_read_by_shard(published: Lab, calm: Any) -> None:
    """Tasks read shards of their own, and what they read is in the log."""
    from vault.raydata import VersionSource

    found = calm.read_datasource(VersionSource("evals", vault=published.folder), override_num_blocks=4)
    blocks = list(found.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert [block.num_rows for block in blocks] == [30, 30, 30, 10]
    assert pa.concat_tables(blocks).cast(rows(100).schema).equals(rows(100))
    reads = [entry for _, entry in published.vault.audit_entries() if entry.kind is Kind.OWNER_READ]
    assert sorted(entry.fields["shards"] for entry in reads) == [[[0, 0]], [[1, 1]], [[2, 2]], [[3, 3]]]


def test_columns_and_rows_may_be_chosen(published: Lab, calm: Any) -> None:
    """As in a scan; fields of columns too, and a filter that leaves nothing leaves the schema."""
    from vault.raydata import VersionSource

    source = VersionSource("evals", vault=published.folder, columns=["id", "meta.source"], where="id < 40")
    found = _table(calm.read_datasource(source))
    assert found["id"].to_pylist() == list(range(40))
    assert found["meta"].to_pylist()[1] == {"source": "s1"}
    none = calm.read_datasource(VersionSource("evals", vault=published.folder, where="id < 0"))
    assert none.count() == 0


def test_a_read_keeps_to_its_version(published: Lab, calm: Any) -> None:
    """What is published after the source was made is not in it."""
    from vault.raydata import VersionSource

    source = VersionSource("evals", vault=published.folder)
    published.vault.publish("evals", rows(7), key="id")
    assert calm.read_datasource(source).count() == 100
    assert calm.read_datasource(VersionSource("evals", vault=published.folder, version=2)).count() == 7


def test_an_unknown_dataset_or_column_is_refused_at_once(published: Lab) -> None:
    """Where the source is made, and not in a worker."""
    from vault.raydata import VersionSource

    with pytest.raises(NotFound):
        VersionSource("nothing", vault=published.folder)
    with pytest.raises(InvalidInput, match="has no column 'nothing'"):
        VersionSource("evals", vault=published.folder, columns=["nothing"])


def test_a_vendors_slice_is_read_through_its_profile(published: Lab, calm: Any) -> None:
    """What the grant gives and nothing else; the rows count once."""
    from vault.raydata import SliceSource

    grant = published.vault.grant("acme", "evals", columns=["id", "prompt"], where="lang = 'en'", limits={"rows": 60})
    with broker(published.folder) as url:
        profile = published.profile("acme", url)
        found = _table(calm.read_datasource(SliceSource("evals", profile=profile)))
        with pytest.raises(VaultError):
            SliceSource("other", profile=profile)
    assert found.column_names == ["id", "prompt"]
    assert found["id"].to_pylist() == list(range(0, 100, 2))
    (state,) = [each for each in published.vault.grants() if each.grant.id == grant.id]
    assert state.used.total["rows"] == 50


def test_a_slice_is_read_in_parts_by_several_tasks(cast: Callable[..., Lab], calm: Any) -> None:
    """Each is a read of its own in the log, of one version; together they have the rows of one task."""
    from vault.raydata import SliceSource

    with shown(cast(publish)) as given:
        source = SliceSource("shown", profile=given.profile, parts=3)
        tasks = source.get_read_tasks(1)
        found = _table(calm.read_datasource(source, override_num_blocks=3)).sort_by("id")
        assert (len(tasks), len(given.reads())) == (3, 3)
        given.check_log(reads=3)
        assert found.to_pylist() == expected().to_pylist()
        with pytest.raises(InvalidInput, match="^parts, limit: "):
            SliceSource("shown", profile=given.profile, parts=3, limit=10)
        with given.revoked():
            SliceSource("shown", profile=given.profile, parts=3)
        with pytest.raises(NotGranted):
            list(tasks[0]())


def test_a_read_task_holds_no_secret_of_the_profile(published: Lab) -> None:
    """It names the file; whoever sees the task cannot read as the vendor."""
    import json

    from ray import cloudpickle

    from vault.raydata import SliceSource

    published.vault.grant("acme", "evals", columns=["id"])
    with broker(published.folder) as url:
        profile = published.profile("acme", url)
        source = SliceSource("evals", profile=profile, parts=2)
    document = json.loads(profile.read_text())
    pickled = cloudpickle.dumps((source, source.get_read_tasks(4)))
    secrets = [value for value in _texts(document) if len(value) >= 40]
    assert secrets
    assert not any(value.encode() in pickled for value in secrets)


def _texts(document: Any) -> Iterable[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from _texts(value)


def test_a_dataset_is_published(lab: Lab, calm: Any) -> None:
    """Write tasks encode, the driver commits once, and vendors get what they are granted."""
    from vault.raydata import VersionSink

    lab.vault.publish("evals", rows(3), key="id")
    lab.vault.grant("acme", "evals", columns=["prompt"])
    sink = VersionSink("evals", vault=lab.folder, shard_rows=40)
    calm.from_arrow([rows(50), rows(50, 50)]).write_datasink(sink)
    assert sink.published is not None
    assert (sink.published.version, sink.published.rows, sink.published.vendors) == (2, 100, ("acme",))
    assert lab.vault.scan("evals").read_all().sort_by("id").equals(rows(100))
    assert lab.vault.check().ok


def test_a_pipeline_from_a_version_to_an_append(published: Lab, calm: Any) -> None:
    """Read, change, and add: the row key is checked over what is there and what comes."""
    from vault.raydata import VersionSink, VersionSource

    def later(batch: pa.Table) -> pa.Table:
        return batch.set_column(0, "id", pa.compute.add(batch["id"], 100))

    read = calm.read_datasource(VersionSource("evals", vault=published.folder))
    sink = VersionSink("evals", vault=published.folder, append=True)
    read.map_batches(later, batch_format="pyarrow").write_datasink(sink)
    assert published.vault.scan("evals", columns=["id"]).read_all()["id"].to_pylist() == list(range(200))
    again = VersionSink("evals", vault=published.folder, append=True)
    with pytest.raises(InvalidInput, match="stands in an earlier row"):
        read.write_datasink(again)
    assert published.vault.show("evals").versions[-1].version == 2
    assert published.vault.gc(timedelta(0)).busy == 0


def test_a_write_that_runs_twice_counts_once(lab: Lab, calm: Any, tmp_path: Path) -> None:
    """A worker is killed after it put chunks; its task runs again, and the version has each row once."""
    from ray.data.block import BlockAccessor

    from vault.raydata import VersionSink

    marker = tmp_path / "happened"

    class Sink(VersionSink):  # type: ignore[misc]
        def write(self, blocks: Iterable[Any], ctx: Any) -> tuple[int, bytes]:
            """Do it, and be killed before anybody hears of it, once."""
            done = super().write([BlockAccessor.for_block(block).to_arrow() for block in blocks], ctx)
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return done
            os.kill(os.getpid(), signal.SIGKILL)
            return done

    sink = Sink("evals", vault=lab.folder, key="id")
    calm.from_arrow([rows(50), rows(50, 50)]).write_datasink(sink)
    assert marker.exists()
    assert lab.vault.scan("evals").read_all().sort_by("id").equals(rows(100))
    assert lab.vault.gc(timedelta(0)).objects == len(rows(1).column_names)
    assert lab.vault.check().ok


@pytest.mark.parametrize("second", [rows(5).rename_columns(["id", "x", "y", "z", "u", "v"]), rows(5)])
def test_a_write_that_fails_leaves_nothing_live(lab: Lab, calm: Any, second: pa.Table) -> None:
    """Blocks of other columns, or a row key that repeats: no version, and nothing that gc does not remove."""
    from vault.raydata import VersionSink

    sink = VersionSink("evals", vault=lab.folder, key="id", schema=rows(1).schema)
    with pytest.raises(InvalidInput):
        calm.from_arrow([rows(5)]).union(calm.from_arrow([second])).write_datasink(sink)
    assert sink.published is None
    with pytest.raises(NotFound):
        lab.vault.show("evals")
    assert lab.vault.gc(timedelta(0)).busy == 0
    report = lab.vault.check()
    assert report.ok
    assert not report.garbage


def test_what_a_write_gives_back_is_sealed(lab: Lab, calm: Any) -> None:
    """Statistics and names in a write's result are for the driver alone."""
    from vault.raydata import VersionSink

    seen: list[bytes] = []

    class Sink(VersionSink):  # type: ignore[misc]
        def on_write_complete(self, write_result: Any) -> None:
            """Look at what came."""
            seen.extend(reply for _, reply in write_result.write_returns)
            super().on_write_complete(write_result)

    calm.from_arrow([rows(50)]).write_datasink(Sink("evals", vault=lab.folder))
    assert seen
    for reply in seen:
        assert reply[:1] == b"\x01"
        assert b"prompt" not in reply
        assert b"listings" not in reply
