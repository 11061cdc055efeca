"""Rekeys as jobs: planned, stopped, taken up, limited to columns, and proven to have forgotten nothing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.log import acts
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.client import Client
from vault.errors import Conflict, IntegrityError, InvalidInput, KmsError, NotFound
from vault.owner import Vault
from vault.workings import putting
from vault.workings.versions import OpenVersion, live_versions
from vault.workings.writing import Writer

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def sharded(cast: Callable[..., Lab]) -> Lab:
    """Ten shards of ten rows, granted to acme."""
    return cast(_sharded)


def _sharded(opened: Vault) -> None:
    opened.publish("evals", rows(100), key="id", shard_rows=10)
    opened.grant("acme", "evals", ["id", "prompt", "lang"])


def _stop_after(patch: pytest.MonkeyPatch, chunks: int) -> list[str]:
    """Have the copying of chunks stop after so many; returns the list of those that are copied."""
    real, copied = Writer.copy, []

    def copy(self: Writer, source: Any) -> Any:
        if len(copied) >= chunks:
            raise KeyboardInterrupt
        copied.append(source.ref.chunk)
        return real(self, source)

    patch.setattr(Writer, "copy", copy)
    return copied


def _chunks(opened: Vault, holder: str = "owner") -> int:
    return next(each.chunks for each in opened.plan_rekey(holder))


def _objects(lab: Lab) -> int:
    return sum(1 for _ in lab.vault.parts.store.list("objects"))


@pytest.mark.parametrize("done", [1, 17, 49])
def test_a_stopped_rekey_goes_on_where_it_was(sharded: Lab, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """The same call copies what was left, under the keys that were made, and no chunk twice."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    total = _chunks(sharded.vault)
    with monkeypatch.context() as patch:
        copied = _stop_after(patch, done)
        with pytest.raises(KeyboardInterrupt):
            sharded.vault.rekey("owner")
    again = vault.open(sharded.folder)
    with monkeypatch.context() as patch:
        rest = _stop_after(patch, 10**6)
        (result,) = again.rekey("owner")
    # What was in flight when it stopped may have been put without being written down.
    assert result.resumed >= len(copied) - 4
    assert result.chunks + result.resumed == total
    assert len(rest) == result.chunks
    assert again.scan("evals").read_all().equals(rows(100))
    again.gc(timedelta(0))
    assert again.check().ok
    assert again.check().garbage == []


def test_what_was_published_meanwhile_is_moved_and_nothing_else_again(
    sharded: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append between two runs costs the chunks that it added."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    with monkeypatch.context() as patch:
        _stop_after(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            sharded.vault.rekey("owner")
    sharded.vault.publish("evals", rows(10, start=100), key="id", append=True)
    with monkeypatch.context() as patch:
        copied = _stop_after(patch, 10**6)
        (result,) = sharded.vault.rekey("owner")
    assert result.resumed >= 36
    assert len(copied) == result.chunks == _chunks(sharded.vault) - result.resumed
    assert sharded.vault.scan("evals").read_all().equals(rows(110))


def test_a_publish_in_the_midst_costs_its_own_chunks(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is published while a rekey copies makes it go on, not begin anew."""
    real, appended = Writer.copy, []

    def copy(self: Writer, source: Any) -> Any:
        if self._rotate and not appended:
            appended.append(True)
            vault.open(sharded.folder).publish("evals", rows(10, start=100), key="id", append=True)
        if self._rotate:
            counted.append(source.ref.chunk)
        return real(self, source)

    counted: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "copy", copy)
        sharded.vault.rekey("owner")
    assert len(counted) == len(set(counted)) == _chunks(sharded.vault)
    assert sharded.vault.scan("evals").read_all().equals(rows(110))
    assert sharded.vault.check().ok


def test_two_rekeys_at_once_leave_one_whole_epoch(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends in the midst of another makes that one begin the epoch after it."""
    real, between = Writer.copy, []

    def copy(self: Writer, source: Any) -> Any:
        if self._rotate and not between:
            between.append(True)
            vault.open(sharded.folder).rekey("owner")
        return real(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "copy", copy)
        sharded.vault.rekey("owner")
    with sharded.vault.parts.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=sharded.vault.parts.owner)
        head = sharded.vault.parts.heads.compartment_in(transaction, place)
    assert head is not None
    assert {epoch for epoch, _ in head.epochs.values()} == {3}
    sharded.vault.gc(timedelta(0))
    assert sharded.vault.check().ok
    assert sharded.vault.scan("evals").read_all().equals(rows(100))


def test_gc_leaves_a_stopped_rekey_for_its_grace_time(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the grace time what it copied stays; afterwards it is garbage, and the rekey begins anew."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    before = _objects(sharded)
    with monkeypatch.context() as patch:
        _stop_after(patch, 20)
        with pytest.raises(KeyboardInterrupt):
            sharded.vault.rekey("owner")
    assert _objects(sharded) >= before + 20
    assert sharded.vault.gc(timedelta(hours=1)).objects == 0
    assert sharded.vault.gc(timedelta(0)).objects >= 20
    assert _objects(sharded) == before
    (result,) = sharded.vault.rekey("owner")
    assert result.resumed == 0
    assert sharded.vault.check().ok


def test_a_job_whose_kms_key_is_gone_is_begun_anew(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rewrap that disabled the old KMS key, a stopped rekey uses none of the keys that it had made."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    with monkeypatch.context() as patch:
        _stop_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            sharded.vault.rekey("acme")
    sharded.vault.rewrap("acme", disable_old=True)
    opened = vault.open(sharded.folder)
    (result,) = opened.rekey("acme")
    assert result.resumed == 0
    assert opened.check().ok


def test_steps_that_were_changed_are_not_used(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a catalog's writer did to the record of a stopped rekey costs time and nothing else."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    with monkeypatch.context() as patch:
        _stop_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            sharded.vault.rekey("owner")
    with sql(sharded) as connection:
        connection.execute("update steps set document = (select document from steps where number = 3) where number = 4")
    (result,) = sharded.vault.rekey("owner")
    assert result.resumed == 0
    assert sharded.vault.scan("evals").read_all().equals(rows(100))


def test_only_the_named_columns_move(sharded: Lab) -> None:
    """A rekey of two columns writes their chunks alone; the epochs of the others stay."""
    parts = sharded.vault.parts

    def epochs() -> dict[str, int]:
        with parts.catalog.read() as transaction:
            (place,) = transaction.compartments(holder=parts.owner)
            head = parts.heads.compartment_in(transaction, place)
        assert head is not None
        return {group: epoch for group, (epoch, _) in head.epochs.items()}

    before = epochs()
    (planned,) = sharded.vault.plan_rekey("owner", "evals", ["prompt", "lang"])
    (done,) = sharded.vault.rekey("owner", "evals", ["prompt", "lang"])
    assert (planned.chunks, planned.bytes) == (done.chunks, done.bytes) == (20, done.bytes)
    after = epochs()
    assert sorted(after[group] - before[group] for group in before) == [0] * (len(before) - 2) + [1, 1]
    assert sharded.vault.scan("evals").read_all().equals(rows(100))
    assert sharded.vault.check().ok
    for arguments, said in (
        (("owner", "evals", ["nothing"]), "no version of the dataset 'evals' has a column 'nothing'"),
        (("owner", None, ["prompt"]), "--dataset"),
        (("owner", "evals", []), "name a column"),
    ):
        with pytest.raises(InvalidInput, match=said):
            sharded.vault.rekey(*arguments)


def test_progress_is_over_everything_and_ends_at_the_total(sharded: Lab) -> None:
    """What is told grows to the total of all compartments."""
    told: list[tuple[int, int]] = []
    sharded.vault.rekey(progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1] == told[0][1]
    assert told[-1][0] == sum(each.bytes for each in sharded.vault.plan_rekey())


def test_a_plan_changes_nothing(sharded: Lab) -> None:
    """Planning writes neither object nor row, save what the log says of the keys that it opens."""
    before = _objects(sharded), len(acts(sharded.vault))
    assert {each.vendor for each in sharded.vault.plan_rekey()} == {"owner", "acme"}
    assert (_objects(sharded), len(acts(sharded.vault))) == before


def test_an_error_of_the_kms_leaves_the_job_to_be_taken_up(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the same process, which lives on, what was copied is not copied again."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)
    real, copied = Writer.copy, []

    def copy(self: Writer, source: Any) -> Any:
        copied.append(source.ref.chunk)
        if len(copied) == 30:
            raise KmsError("away")
        return real(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "copy", copy)
        with pytest.raises(KmsError):
            sharded.vault.rekey("owner")
    (result,) = sharded.vault.rekey("owner")
    assert result.resumed >= 26
    assert sharded.vault.check().ok


def test_streams_go_on_through_a_rekey(sharded: Lab) -> None:
    """A stream that was opened before a rekey delivers every row, and one that is opened after it the same."""
    parts = sharded.broker_parts()
    caller = sharded.caller(parts, "acme")
    delivery = access.open_delivery(parts, caller, access.Request("evals"))
    first = next(iter(delivery.batches))
    sharded.vault.rekey("acme")
    sharded.vault.gc(timedelta(hours=1))
    rest = sum(batch.num_rows for batch in delivery.batches)
    assert first.num_rows + rest == read(parts, caller).num_rows == 100


def test_epochs_are_proven_by_footers_alone(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """``check --epochs`` reads the ends of chunks and nothing more, and every retired key is tried on each."""
    sharded.vault.rekey("owner")
    parts, whole = sharded.vault.parts, []
    real = type(parts.store).get

    def get(self: Any, name: str) -> bytes:
        whole.append(name)
        return real(self, name)

    monkeypatch.setattr(type(parts.store), "get", get)
    report = sharded.vault.check(epochs=True)
    assert report.ok
    assert report.chunks == sum(each.chunks for each in sharded.vault.plan_rekey())
    assert report.retired_tries == _chunks(sharded.vault)
    manifests = {name for name in whole if name.startswith("objects/")}
    assert len(manifests) == 3, "of objects only the manifests are read whole, the retired one too"


def _owners(lab: Lab) -> OpenVersion:
    """The only version of the owner's."""
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=parts.owner)
    _, (version,) = live_versions(parts, place)
    return version


@pytest.mark.parametrize("epochs", [True, False])
def test_one_forgotten_chunk_is_named(sharded: Lab, monkeypatch: pytest.MonkeyPatch, epochs: bool) -> None:
    """A chunk that a rekey left under the old key fails the check, which says where it is."""
    real, forgotten = putting.rekey_into, []

    def forget(data: Any, old_key: bytes, old: Any, new_key: bytes, new: Any, write: Any) -> None:
        if not forgotten:
            forgotten.append(new.chunk)
            real(data, old_key, old, old_key, old, write)
            return
        real(data, old_key, old, new_key, new, write)

    with monkeypatch.context() as patch:
        patch.setattr(putting, "rekey_into", forget)
        sharded.vault.rekey("owner")
    report = sharded.vault.check(epochs=epochs)
    assert len(report.faults) == 1
    shard = next(ref.shard for ref in _owners(sharded).refs() if ref.chunk == forgotten[0])
    assert f"chunk {forgotten[0]} (shard {shard} of version 1 of evals for owner)" in report.faults[0]


def test_readers_read_right_while_keys_move(sharded: Lab) -> None:
    """A client that fetches again and again while rekeys run gets the same rows each time."""
    profile = sharded.vault.issue_credential("acme", bearer=True).profile
    expected = rows(100).select(["id", "prompt"])
    with broker(sharded.folder) as endpoint:
        client = Client(replace(profile, endpoint=endpoint))
        for _ in range(3):
            sharded.vault.rekey("acme")
            assert client.dataset("evals").scan(columns=["id", "prompt"]).read_all().equals(expected)


def test_a_conflict_that_never_ends_is_told(sharded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that changes at every try makes the rekey give up with a sentence, and the job can be taken up."""
    monkeypatch.setattr("vault.workings.rotation._MOST", 1)

    def commit(*_arguments: Any) -> Any:
        raise Conflict("changed")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit)
        with pytest.raises(Conflict, match="kept changing"):
            sharded.vault.rekey("owner")
    (result,) = sharded.vault.rekey("owner")
    assert (result.chunks, result.resumed) == (0, 60)


def test_the_grace_time_is_a_setting(sharded: Lab) -> None:
    """What was superseded stays for as long as the configuration says; a wrong setting is named."""
    path = sharded.folder / "owner" / "config.toml"
    text = path.read_text()
    sharded.vault.rekey("owner")
    assert sharded.vault.gc().objects == 0
    path.write_text(text + '\n[gc]\ngrace = "0s"\n')
    assert sharded.vault.gc().objects > 0
    for wrong in ('grace = "soon"', "grace = 5", 'graces = "1h"'):
        path.write_text(f"{text}\n[gc]\n{wrong}\n")
        with pytest.raises(InvalidInput, match="gc"):
            sharded.vault.gc()


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone"])
def test_a_rekey_is_a_scrub(sharded: Lab, damage: str) -> None:
    """A chunk that is not what was written stops the rekey, which changes nothing and can be taken up afterwards."""
    _rekeyed_over_damage(sharded, damage)


def test_a_rekey_in_a_directory_is_a_scrub_of_what_was_added_too(sharded: Lab) -> None:
    """A file that has grown is refused; of a store that is reached by requests only as much is read as there was."""
    _rekeyed_over_damage(sharded, "longer")


def _rekeyed_over_damage(lab: Lab, damage: str) -> None:
    store, name = lab.vault.parts.store, list(_owners(lab).refs())[7].object
    whole = bytes(store.get(name))
    changed = {
        "flipped": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
        "longer": whole + b"x",
        "shorter": whole[:-1],
    }
    store.delete(name)
    if damage in changed:
        store.put(name, changed[damage])
    with pytest.raises(IntegrityError if damage in changed else NotFound):
        lab.vault.rekey("owner")
    if damage in changed:
        store.delete(name)
    store.put(name, whole)
    assert lab.vault.scan("evals").read_all().equals(rows(100))
    lab.vault.rekey("owner")
    assert lab.vault.check().ok
