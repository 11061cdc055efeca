"""Publishing, granting and upkeep: versions, columns that keep or lose their grant, and what gc takes."""

import threading
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import rows
from vault.errors import Conflict, Frozen, InvalidInput, NotFound, NotGranted, VaultError
from vault.workings.rows import cut_shards

pytestmark = pytest.mark.both_catalogs


def _read(lab: Lab, vendor: str = "acme", **request: object) -> pa.Table:
    parts = lab.broker_parts()
    return read(parts, lab.caller(parts, vendor), **request)  # type: ignore[arg-type]


def _objects(lab: Lab) -> int:
    return sum(1 for _ in lab.vault.parts.store.list("objects"))


def test_each_version_stays_readable(published: Lab) -> None:
    """A new version leaves the earlier ones as they were."""
    published.vault.publish("evals", rows(10), key="id")
    published.vault.publish("evals", rows(5, start=10), append=True)
    assert published.vault.scan("evals", version=1).read_all().equals(rows(100))
    assert published.vault.scan("evals", version=2).read_all().equals(rows(10))
    assert published.vault.scan("evals").read_all().equals(rows(15))
    with pytest.raises(NotFound):
        published.vault.scan("evals", version=4)


def test_an_append_writes_only_its_own_shards(published: Lab) -> None:
    """An append adds one object for each column, and a manifest; the earlier chunks are shared."""
    before = _objects(published)
    published.vault.publish("evals", rows(10, start=100), append=True)
    assert _objects(published) == before + 6 + 1


def test_a_row_key_is_unique_over_appends(published: Lab) -> None:
    """A key that stands twice, in one source or across an append, or is null, is refused with its row."""
    with pytest.raises(InvalidInput, match="row 101 stands in an earlier row"):
        published.vault.publish("evals", rows(3, start=5), append=True)
    with pytest.raises(InvalidInput, match="row 2"):
        published.vault.publish("twice", pa.table({"k": ["a", "a"]}), key="k")
    with pytest.raises(InvalidInput, match="null in row 2"):
        published.vault.publish("null", pa.table({"k": ["a", None]}), key="k")
    with pytest.raises(InvalidInput, match="a row key is text or an integer"):
        published.vault.publish("float", pa.table({"k": [0.5]}), key="k")


def test_a_column_of_another_type_is_another_column(granted: Lab) -> None:
    """A granted column that changes its type, or was away, is not covered; the others go on."""
    changed = rows(20).set_column(1, "prompt", pa.array(range(20), pa.int64()))
    granted.vault.publish("evals", changed, key="id")
    assert _read(granted, columns=("id", "lang")).num_rows == 10
    with pytest.raises(NotGranted):
        _read(granted, columns=("prompt",))
    granted.vault.publish("evals", rows(20).drop_columns("lang"), key="id")
    with pytest.raises(NotGranted):
        _read(granted)
    granted.vault.publish("evals", rows(20), key="id")
    with pytest.raises(NotGranted):
        _read(granted)


def test_a_column_that_joins_a_group_is_not_granted_with_it(published: Lab) -> None:
    """Regrouping never widens a grant; a grant names whole groups."""
    published.vault.grant("acme", "evals", ["prompt"])
    published.vault.publish("evals", rows(10), groups={"g": ["prompt", "answer"]})
    with pytest.raises(NotGranted):
        _read(published)
    with pytest.raises(InvalidInput, match="shares its key with 'answer'"):
        published.vault.grant("acme", "evals", ["prompt"])
    published.vault.grant("acme", "evals", ["prompt", "answer"])
    assert _read(published).column_names == ["prompt", "answer"]


def test_an_expired_grant_serves_nothing(published: Lab) -> None:
    """Past its end a grant is listed as expired, and reads under it are refused."""
    import time

    published.vault.grant("acme", "evals", ["id"], expires=timedelta(seconds=4))
    assert _read(published).num_rows == 100
    time.sleep(4.1)
    with pytest.raises(NotGranted):
        _read(published)
    assert [state.state for state in published.vault.grants()] == ["expired"]


def test_gc_takes_out_what_no_grant_needs(granted: Lab) -> None:
    """After a revocation gc empties the vendor's compartment; after another grant it holds that grant's only."""
    first = granted.vault.grants()[0].grant
    granted.vault.grant("acme", "evals", ["id", "answer"])
    before = _objects(granted)
    granted.vault.revoke(first.id)
    granted.vault.gc(timedelta(0))
    assert _objects(granted) < before
    assert _read(granted).column_names == ["id", "answer"]
    granted.vault.revoke(granted.vault.grants()[1].grant.id)
    granted.vault.gc(timedelta(0))
    report = granted.vault.check()
    assert (report.faults, report.garbage) == ([], [])
    assert report.chunks == 6 * 4
    granted.vault.grant("acme", "evals", ["id"])
    assert _read(granted).num_rows == 100


def test_gc_leaves_what_was_superseded_a_moment_ago(granted: Lab) -> None:
    """Within the grace time a stream that was opened before a rekey ends well, whatever gc does."""
    from vault import access
    from vault.policy import Request

    parts = granted.broker_parts()
    delivery = access.open_delivery(parts, granted.caller(parts, "acme"), Request("evals"))
    first = next(delivery.batches)
    granted.vault.rekey(vendor="acme")
    assert granted.vault.gc().objects == 0
    rest = list(delivery.batches)
    assert first.num_rows + sum(batch.num_rows for batch in rest) == 50


def test_gc_spares_a_running_publish(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of a job that lives are not taken, whatever the grace; one that was declared dead cannot commit."""
    from vault import collect

    opened = vault.open(lab.folder)

    def batches() -> object:
        for number in range(4):
            if number == 2:
                assert opened.gc(timedelta(0)).busy > 0
            yield rows(10, start=number * 10).to_batches()[0]

    schema = rows(1).schema
    lab.vault.publish("evals", pa.RecordBatchReader.from_batches(schema, batches()), shard_rows=10)
    assert lab.vault.scan("evals").read_all().equals(rows(40))

    def killed() -> object:
        for number in range(4):
            if number == 2:
                # As if its machine were another one, and had been silent for long.
                with monkeypatch.context() as patched:
                    patched.setattr(collect, "is_dead", lambda *_args: True)
                    opened.gc(timedelta(0))
            yield rows(10, start=number * 10).to_batches()[0]

    with pytest.raises(Conflict, match="silent for so long"):
        lab.vault.publish("evals", pa.RecordBatchReader.from_batches(schema, killed()), shard_rows=10)
    assert lab.vault.check().faults == []
    assert lab.vault.scan("evals").read_all().equals(rows(40))


def test_concurrent_writers_lose_nothing(lab: Lab) -> None:
    """Publishes, grants and rekeys at once: each succeeds or says Conflict, and what is left is whole."""
    lab.vault.publish("evals", rows(40), shard_rows=10)
    outcomes: list[str] = []

    def attempt(act: int) -> None:
        mine = vault.open(lab.folder)
        try:
            if act % 3 == 0:
                mine.publish("evals", rows(40 + act), shard_rows=10)
            elif act % 3 == 1:
                mine.grant("acme" if act % 2 else "globex", "evals", ["id"])
            else:
                mine.rekey()
            outcomes.append("done")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=attempt, args=(act,)) for act in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 9
    assert outcomes.count("done") >= 5
    report = vault.open(lab.folder).check()
    assert report.faults == []
    detail = lab.vault.show("evals")
    assert [state.version for state in detail.versions] == list(range(1, len(detail.versions) + 1))
    assert lab.vault.audit_verify() > 9
    newest = lab.vault.scan("evals").read_all().num_rows
    for state in lab.vault.grants():
        assert _read(lab, state.grant.vendor_name, grant=state.grant.id).num_rows == newest


def test_a_grant_that_was_left_pending_can_be_finished(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant whose fan-out was killed is pending and serves nothing; resumed, it is live."""
    from vault import grants as module

    def killed(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "fill_compartment", killed)
        with pytest.raises(KeyboardInterrupt):
            published.vault.grant("acme", "evals", ["id"])
    (state,) = published.vault.grants()
    assert state.state == "pending"
    with pytest.raises(NotGranted):
        _read(published)
    published.vault.resume_grant(state.grant.id)
    assert [each.state for each in published.vault.grants()] == ["live"]
    assert _read(published).num_rows == 100
    published.vault.revoke(state.grant.id)
    with pytest.raises(Conflict):
        published.vault.resume_grant(state.grant.id)


def test_nothing_is_granted_to_a_frozen_vendor(published: Lab) -> None:
    """A frozen vendor gets no grant; thaw first."""
    published.vault.freeze("acme")
    with pytest.raises(Frozen):
        published.vault.grant("acme", "evals", ["id"])
    published.vault.freeze("acme")
    published.vault.thaw("acme")
    published.vault.thaw("acme")
    published.vault.grant("acme", "evals", ["id"])
    assert _read(published).num_rows == 100


def test_a_rekey_changes_every_key_and_no_value(granted: Lab) -> None:
    """After a rekey the content is byte for byte the same in Arrow terms, in every version."""
    granted.vault.publish("evals", rows(30), key="id")
    before = [granted.vault.scan("evals", version=number).read_all() for number in (1, 2)]
    seen = _read(granted)
    done = granted.vault.rekey()
    assert {item.vendor for item in done} == {"owner", "acme"}
    assert [granted.vault.scan("evals", version=number).read_all() for number in (1, 2)] == before
    assert _read(granted).equals(seen)
    report = granted.vault.check()
    assert report.faults == []
    assert report.retired_tries == report.chunks
    granted.vault.gc(timedelta(0))
    after = granted.vault.check()
    assert (after.retired_tries, after.faults, after.garbage) == (0, [], [])


def test_check_finds_a_forgotten_key(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """check is not blind: a chunk that opens under a retired key would be reported."""
    from vault import scrub

    granted.vault.rekey(vendor="acme")
    monkeypatch.setattr(scrub, "verify_footer", lambda *_args: None)
    report = granted.vault.check()
    assert any("retired epoch" in fault for fault in report.faults)


def test_empty_and_odd_datasets(lab: Lab) -> None:
    """No rows, one row, null columns and odd names work; no columns and bad names do not."""
    odd = pa.table({"a.b": [1], "ünïcode 🙂": ["x"], "select": [None]})
    lab.vault.publish("odd", odd)
    lab.vault.grant("acme", "odd", odd.column_names)
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    assert read(parts, caller, "odd").equals(odd)
    empty = rows(0)
    lab.vault.publish("empty", empty)
    lab.vault.grant("acme", "empty", ["id", "meta"], where="id > 5")
    parts = lab.broker_parts()
    assert read(parts, lab.caller(parts, "acme"), "empty").equals(empty.select(["id", "meta"]))
    assert lab.vault.scan("empty").read_all().equals(empty)
    for bad in (pa.table({}), pa.table({"": [1]}), pa.table([[1], [2]], names=["x", "X"]), pa.table({"e\u0301": [1]})):
        with pytest.raises(InvalidInput):
            lab.vault.publish("bad", bad)


def test_shards_are_bounded_in_rows_and_bytes() -> None:
    """Shards hold at most the rows and about the bytes that they may, whatever the batches are."""
    schema = pa.schema([("s", pa.string())])
    batch = pa.record_batch([["x" * 1000] * 5000], schema=schema)
    by_rows = list(cut_shards([batch, batch], schema, 3000, None, {}))
    assert [piece.table.num_rows for piece in by_rows] == [3000, 3000, 3000, 1000]
    by_bytes = list(cut_shards([batch, batch], schema, 10**9, None, {}, shard_bytes=1_000_000))
    assert sum(piece.table.num_rows for piece in by_bytes) == 10_000
    assert all(piece.table.nbytes <= 1_010_000 for piece in by_bytes)


def test_a_vault_with_everything_elsewhere(tmp_path: Path) -> None:
    """Store, catalog and keystore may lie outside of the directory; the directory may move."""
    opened = vault.init(
        tmp_path / "lab",
        store=str(tmp_path / "objects"),
        catalog=f"sqlite:///{tmp_path / 'elsewhere.db'}",
        kms=f"local://{tmp_path / 'keys'}",
    )
    opened.add_vendor("acme")
    opened.publish("evals", rows(5))
    opened.grant("acme", "evals", ["id"])
    (tmp_path / "lab").rename(tmp_path / "moved")
    moved = vault.open(tmp_path / "moved")
    assert moved.scan("evals").read_all().equals(rows(5))
    assert _read(Lab(tmp_path / "moved", moved)).num_rows == 5
    with pytest.raises(VaultError):
        vault.open(tmp_path / "lab")
