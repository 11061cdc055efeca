"""Datasets, versions and rows that are taken away are gone from everything that is live, and nothing else is."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import vault
from tests.conftest import Lab
from tests.support.log import acts
from tests.support.program import dsvault
from tests.support.reading import read
from tests.support.tables import rows
from vault import deletion, erasure
from vault.errors import Conflict, InvalidInput, KeyUnavailable, NotFound, NotGranted
from vault.owner import Vault
from vault.trust import Role
from vault.workings.reading import group_shape, open_chunk
from vault.workings.versions import live_versions
from vault.workings.writing import Writer

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def several(cast: Callable[..., Lab]) -> Lab:
    """Three versions in shards of ten rows; acme has three columns of the rows in English, globex two of all."""
    return cast(_several)


def _several(opened: Vault) -> None:
    for number in range(3):
        opened.publish("evals", rows(60 + 20 * number), key="id", shard_rows=10)
    opened.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'")
    opened.grant("globex", "evals", ["id", "score"])


def _objects(lab: Lab) -> int:
    return sum(1 for _ in lab.vault.parts.store.list("objects"))


def _versions(lab: Lab) -> list[int]:
    return [state.version for state in lab.vault.show("evals").versions]


def _without(table: pa.Table, ids: list[int]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["id"], value_set=pa.array(ids, table["id"].type)))).combine_chunks()


# A dataset


def test_a_deleted_dataset_is_gone_for_everyone(several: Lab) -> None:
    """No version reads, no grant is live, gc leaves no object and no key, and the log says what was deleted."""
    several.vault.publish("other", rows(5))
    parts = several.broker_parts()
    caller = several.caller(parts, "acme")
    done = several.vault.delete("evals")
    assert (done.versions, done.grants, done.vendors) == ((1, 2, 3), 2, ("acme", "globex"))
    with pytest.raises(NotFound):
        several.vault.scan("evals")
    with pytest.raises(NotGranted):
        read(several.broker_parts(), caller)
    assert [state.name for state in several.vault.datasets()] == ["other"]
    assert {state.state for state in several.vault.grants()} == {"revoked"}
    assert several.vault.check().ok
    several.vault.gc(timedelta(0))
    report = several.vault.check()
    assert (report.ok, report.garbage) == (True, [])
    assert report.chunks == len(rows(1).column_names)
    with several.vault.parts.catalog.read() as transaction:
        live = {place.id for place in transaction.compartments() if transaction.keys(place.id)}
    assert len(live) == 1
    kinds = [entry.kind.value for _, entry in several.vault.audit_entries()]
    assert kinds.count("dataset deleted") == 1
    with pytest.raises(NotFound):
        several.vault.delete("evals")


def test_its_name_can_be_taken_again_and_old_grants_do_not_come_with_it(several: Lab) -> None:
    """A dataset of the same name is another one: nobody has a grant on it."""
    several.vault.delete("evals")
    several.vault.publish("evals", rows(7), key="id")
    assert several.vault.scan("evals").read_all().num_rows == 7
    assert _versions(several) == [1]
    parts = several.broker_parts()
    with pytest.raises(NotGranted):
        read(parts, several.caller(parts, "acme"))
    assert several.vault.check().ok
    several.vault.rekey()
    several.vault.rotate_key(Role.PUBLISHER)
    assert several.vault.check().ok


def test_a_deletion_that_was_cut_short_is_ended_by_the_next(several: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the grants' end and the dataset's, no vendor reads it and the same command ends it."""

    def cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_end", cut)
        with pytest.raises(KeyboardInterrupt):
            several.vault.delete("evals")
    parts = several.broker_parts()
    with pytest.raises(NotGranted):
        read(parts, several.caller(parts, "acme"))
    assert several.vault.scan("evals").read_all().num_rows == 100
    assert several.vault.delete("evals").versions == (1, 2, 3)
    assert several.vault.check().ok


def test_a_grant_in_the_meantime_is_ended_too(several: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is made after the grants were ended and before the dataset is, goes in the next round."""
    real, made = deletion._end, []

    def end(*arguments: Any) -> Any:
        if not made:
            made.append(several.vault.grant("globex", "evals", ["id"]).id)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_end", end)
        assert several.vault.delete("evals").grants == 3
    assert several.vault.check().ok


# Versions


def test_expired_versions_are_gone_and_the_newest_stay(several: Lab) -> None:
    """Only the newest two read; vendors notice nothing, and gc takes what only the first one had."""
    parts = several.broker_parts()
    before = read(parts, several.caller(parts, "acme"))
    done = several.vault.expire("evals", 2)
    assert (done.expired, done.left) == ((1,), (2, 3))
    assert _versions(several) == [2, 3]
    with pytest.raises(NotFound):
        several.vault.scan("evals", version=1)
    assert several.vault.scan("evals", version=2).read_all().equals(rows(80))
    had = _objects(several)
    several.vault.gc(timedelta(0))
    assert _objects(several) < had
    assert several.vault.check().ok
    fresh = several.broker_parts()
    assert read(fresh, several.caller(fresh, "acme")).equals(before)
    assert several.vault.expire("evals", 5).expired == ()
    several.vault.publish("evals", rows(3), key="id")
    assert _versions(several) == [2, 3, 4], "numbers are not given again"
    for wrong in (0, -1):
        with pytest.raises(InvalidInput):
            several.vault.expire("evals", wrong)


def test_versions_that_share_chunks_lose_none(lab: Lab) -> None:
    """What an appended version shares with the expired one stays readable."""
    lab.vault.publish("evals", rows(30), key="id", shard_rows=10)
    lab.vault.publish("evals", rows(10, start=30), key="id", append=True)
    lab.vault.expire("evals", 1)
    lab.vault.gc(timedelta(0))
    assert lab.vault.scan("evals").read_all().equals(rows(40))
    assert lab.vault.check().ok


# Rows


def _everything(lab: Lab) -> bytes:
    """Every live chunk of the dataset, decoded: what anybody with all live keys can have."""
    parts, found = lab.vault.parts, b""
    with parts.catalog.read() as transaction:
        places = transaction.compartments()
    for place in places:
        _, versions = live_versions(parts, place)
        for version in versions:
            listings = [version.load(part) for part in version.manifest.parts]
            found += json.dumps([listing.table.to_pylist() for listing in listings], default=str).encode()
            for ref in version.refs():
                shape = group_shape(version.manifest, ref.group)
                table = open_chunk(parts, parts.keyring, version.keys[ref.group], ref, shape)
                found += json.dumps(table.to_pylist(), default=str).encode()
    return found


def test_erased_rows_leave_every_version_compartment_and_statistic(several: Lab) -> None:
    """Nothing of the rows is in a live chunk or manifest; all other rows are as they were, for the owner and vendors."""
    parts = several.broker_parts()
    before = {name: read(parts, several.caller(parts, name)) for name in ("acme", "globex")}
    assert b"prompt number 14" in _everything(several)
    done = several.vault.erase("evals", keys=[14, 59, 77, 4711])
    assert done.rows == {1: 2, 2: 3, 3: 3}
    assert done.vendors == ("acme", "globex")
    assert done.unknown_keys == 1
    found = _everything(several)
    for number in (14, 59, 77):
        assert f'prompt number {number}"'.encode() not in found
    for version, count in ((1, 60), (2, 80), (3, 100)):
        expected = _without(rows(count), [14, 59, 77])
        assert several.vault.scan("evals", version=version).read_all().combine_chunks().equals(expected)
    fresh = several.broker_parts()
    for name, table in before.items():
        after = read(fresh, several.caller(fresh, name))
        assert after.combine_chunks().equals(_without(table, [14, 59, 77]))
    assert [(s.version, s.rows, s.erased) for s in several.vault.show("evals").versions] == [
        (1, 58, 2), (2, 77, 3), (3, 97, 3),
    ]  # fmt: skip
    assert several.vault.check().ok
    several.vault.gc(timedelta(0))
    report = several.vault.check(epochs=True)
    assert (report.ok, report.garbage, report.retired_tries) == (True, [], 0)
    several.vault.publish("evals", rows(5, start=1000), key="id", append=True)
    assert several.vault.scan("evals").read_all().num_rows == 102


def test_old_keys_open_nothing_live_after_an_erasure(several: Lab) -> None:
    """Every compartment is under its next epoch, the untouched shards too."""
    parts = several.vault.parts
    several.vault.erase("evals", keys=[3])
    with parts.catalog.read() as transaction:
        heads = [parts.heads.compartment_in(transaction, place) for place in transaction.compartments()]
    assert {epoch for head in heads if head for epoch, _ in head.epochs.values()} == {2}


def test_a_predicate_finds_a_row_in_one_version_and_it_leaves_all(several: Lab) -> None:
    """With a key column, a row that matches in the newest version only is erased from the older ones too."""
    changed = rows(100).to_pylist()
    changed[8]["lang"] = "erase me"
    several.vault.publish("evals", pa.Table.from_pylist(changed, schema=rows(1).schema), key="id", shard_rows=10)
    done = several.vault.erase("evals", where="lang = 'erase me'")
    assert done.rows == {1: 1, 2: 1, 3: 1, 4: 1}
    for version in (1, 2, 3, 4):
        assert 8 not in several.vault.scan("evals", columns=["id"], version=version).read_all()["id"].to_pylist()
    assert several.vault.check().ok


def test_a_dataset_without_a_key_is_erased_from_by_predicate(lab: Lab) -> None:
    """The predicate is asked of every version; nulls are not true of anything; a whole shard may go."""
    lab.vault.publish("evals", rows(40), shard_rows=10)
    lab.vault.grant("acme", "evals", ["id", "prompt"])
    done = lab.vault.erase("evals", where="id >= 10 AND id < 20 OR id = 39")
    assert done.rows == {1: 11}
    assert lab.vault.scan("evals").read_all()["id"].to_pylist() == [*range(10), *range(20, 39)]
    parts = lab.broker_parts()
    assert read(parts, lab.caller(parts, "acme"))["id"].to_pylist() == [*range(10), *range(20, 39)]
    assert lab.vault.check().ok
    with pytest.raises(InvalidInput, match="published without --key"):
        lab.vault.erase("evals", keys=[1])


def test_rows_leave_versions_in_which_the_key_column_has_another_name_or_type(lab: Lab) -> None:
    """A renamed column is the same one, and one that became text names the same rows: by keys and by a predicate."""
    table = rows(40).select(["id", "prompt", "lang"])
    lab.vault.publish("evals", table, key="id", shard_rows=10)
    lab.vault.rename_column("evals", "id", "row")
    renamed = table.rename_columns(["row", "prompt", "lang"])
    lab.vault.publish("evals", renamed.set_column(0, "row", renamed["row"].cast("string")), key="row", shard_rows=10)
    done = lab.vault.erase("evals", keys=["7", "nobody"])
    assert (done.rows, done.unknown_keys) == ({1: 1, 2: 1, 3: 1}, 1)
    assert lab.vault.erase("evals", where="prompt = 'prompt number 11'").rows == {1: 1, 2: 1, 3: 1}
    for version, name in ((1, "id"), (2, "row"), (3, "row")):
        left = lab.vault.scan("evals", columns=[name], version=version).read_all()[name].cast("int64").to_pylist()
        assert left == [number for number in range(40) if number not in {7, 11}]
    assert b"prompt number 7" not in _everything(lab)
    assert lab.vault.check().ok


def test_a_predicate_finds_rows_of_versions_in_which_its_column_had_another_name(lab: Lab) -> None:
    """Also a row that the newest version has no more, and so no key of."""
    table = rows(20)
    lab.vault.publish("evals", table, key="id", shard_rows=10)
    lab.vault.rename_column("evals", "prompt", "question")
    later = table.slice(10).rename_columns(["question" if name == "prompt" else name for name in table.column_names])
    lab.vault.publish("evals", later, key="id", shard_rows=10)
    assert lab.vault.erase("evals", where="question = 'prompt number 3'").rows == {1: 1, 2: 1}
    assert b"prompt number 3" not in _everything(lab)


def test_a_rename_in_the_midst_is_erased_from_too(several: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure begins again with the name that the key column has by then."""
    real = erasure.live_versions

    def looked(*arguments: Any) -> Any:
        monkeypatch.undo()
        several.vault.rename_column("evals", "id", "row")
        return real(*arguments)

    monkeypatch.setattr(erasure, "live_versions", looked)
    assert several.vault.erase("evals", keys=[2]).rows == {1: 1, 2: 1, 3: 1, 4: 1}
    assert 2 not in several.vault.scan("evals", columns=["row"]).read_all()["row"].to_pylist()


def test_a_version_without_keys_is_not_passed_over_in_silence(lab: Lab) -> None:
    """Nobody can tell whether a row is in it: by keys that is said, and a predicate is asked of its own rows."""
    lab.vault.publish("evals", rows(20).select(["prompt", "lang"]), shard_rows=10)
    lab.vault.publish("evals", rows(20), key="id", shard_rows=10)
    with pytest.raises(InvalidInput, match="^--keys: version 1 has no column of row keys"):
        lab.vault.erase("evals", keys=[3])
    assert lab.vault.erase("evals", where="prompt = 'prompt number 3'").rows == {1: 1, 2: 1}
    assert b"prompt number 3" not in _everything(lab)
    lab.vault.expire("evals", keep=1)
    assert lab.vault.erase("evals", keys=[4]).rows == {2: 1}


def test_everything_can_be_erased(lab: Lab) -> None:
    """A version that loses all its rows is an empty one, and can be read and added to."""
    lab.vault.publish("evals", rows(20), key="id", shard_rows=10)
    lab.vault.grant("acme", "evals", ["id"])
    lab.vault.erase("evals", where="id >= 0")
    assert lab.vault.scan("evals").read_all().num_rows == 0
    parts = lab.broker_parts()
    assert read(parts, lab.caller(parts, "acme")).num_rows == 0
    lab.vault.publish("evals", rows(5), key="id", append=True)
    assert lab.vault.scan("evals").read_all().equals(rows(5))
    assert lab.vault.check().ok


def test_nothing_is_changed_where_no_row_matches(several: Lab) -> None:
    """Keys that are nowhere and predicates that nothing fits leave every epoch and version as it was."""
    before = len(acts(several.vault))
    assert several.vault.erase("evals", keys=[10**6]).unknown_keys == 1
    assert several.vault.erase("evals", where="id = 1000000").rows == {}
    assert len(acts(several.vault)) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "not both"),
        ({"keys": [1], "where": "id = 1"}, "not both"),
        ({"keys": []}, "no key"),
        ({"keys": ["one"]}, "line 1 is not a whole number"),
        ({"keys": [1, "2", "x"]}, "line 3"),
        ({"keys": [True]}, "line 1"),
        ({"keys": [10**30]}, "not of the column's type"),
        ({"where": "nothing = 1"}, "no column 'nothing'"),
        ({"where": "id ="}, "--where"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(several: Lab, arguments: dict[str, Any], said: str) -> None:
    """A mistake names the option, and changes nothing."""
    with pytest.raises(InvalidInput, match=said):
        several.vault.erase("evals", **arguments)
    assert several.vault.scan("evals").read_all().num_rows == 100


def test_a_vendor_whose_key_is_refused_stops_it_before_anything_changes(several: Lab) -> None:
    """Its copy would keep the rows: the erasure says whose key it is, and no version has lost a row."""
    several.vault.disable_kms_key("globex")
    with pytest.raises(KeyUnavailable, match="'dsvault kms enable globex'"):
        several.vault.erase("evals", keys=[5])
    assert several.vault.scan("evals").read_all().num_rows == 100
    several.vault.enable_kms_key("globex")
    assert several.vault.erase("evals", keys=[5]).vendors == ("acme", "globex")


def test_a_frozen_vendors_copy_is_erased_from_too(several: Lab) -> None:
    """Also where it holds an older version; one that the owner has no more is withdrawn, and made up for at the thaw."""
    several.vault.freeze("globex")
    several.vault.publish("evals", rows(50), key="id", shard_rows=10)
    several.vault.erase("evals", keys=[4])
    assert b'prompt number 4"' not in _everything(several)
    several.vault.expire("evals", 1)
    several.vault.erase("evals", keys=[6])
    assert b'{"id": 6}' not in _everything(several)
    several.vault.thaw("globex")
    parts = several.broker_parts()
    assert read(parts, several.caller(parts, "globex"))["id"].to_pylist() == [n for n in range(50) if n not in {4, 6}]
    assert several.vault.check().ok


def test_a_publish_in_the_midst_is_erased_from_too(several: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that comes while an erasure is staged makes it begin again: the rows are in no version in the end."""
    real, published = Writer.commit, []

    def commit(self: Writer, *arguments: Any) -> Any:
        if self._rotate and not published:
            published.append(True)
            raise Conflict("changed")
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit)
        several.vault.erase("evals", keys=[2])
    assert b'prompt number 2"' not in _everything(several)
    several.vault.gc(timedelta(0))
    assert several.vault.check().garbage == []


def test_a_grant_in_the_midst_gets_no_erased_row(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor whose first compartment comes while the erasure is staged is not left with the rows."""
    lab.vault.publish("evals", rows(30), key="id", shard_rows=10)
    real, granted = erasure._Run._vendors_places, []

    def places(self: Any) -> Any:
        found = real(self)
        if not granted:
            granted.append(vault.open(lab.folder).grant("acme", "evals", ["id", "prompt"]))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(erasure._Run, "_vendors_places", places)
        assert lab.vault.erase("evals", keys=[7]).vendors == ("acme",)
    assert b'prompt number 7"' not in _everything(lab)


def test_nothing_of_an_erasure_counts_before_its_end(several: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while it stages, nothing has changed, gc takes what it wrote, and it can be run again."""
    real, copied = Writer.copy, []

    def copy(self: Writer, source: Any) -> Any:
        copied.append(1)
        if len(copied) > 20:
            raise KeyboardInterrupt
        return real(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "copy", copy)
        with pytest.raises(KeyboardInterrupt):
            several.vault.erase("evals", keys=[1])
    assert several.vault.scan("evals").read_all().equals(rows(100))
    several.vault.gc(timedelta(0))
    assert several.vault.check().garbage == []
    assert several.vault.erase("evals", keys=[1]).rows == {1: 1, 2: 1, 3: 1}


def _run(folder: Path, *words: str, code: int = 0) -> str:
    done = dsvault(*words, "--vault", folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_commands_say_what_was_done_and_what_survives(several: Lab, tmp_path: Path) -> None:
    """Each asks first, or takes --yes; each names what may still be had elsewhere."""
    keys = tmp_path / "keys.txt"
    keys.write_text("3\n5\n4711\n")
    told = _run(several.folder, "dataset", "erase", "evals", "--keys", str(keys), "--yes")
    assert "erased 2 rows from version 3" in told
    assert "1 of the keys is in no version" in told
    assert "backups" in told
    assert json.loads(_run(several.folder, "dataset", "show", "evals", "--json"))["versions"][0]["erased"] == 2
    assert "nothing was changed" in _run(several.folder, "dataset", "erase", "evals", "--where", "id = 3", "--yes")
    assert "took away 1 version of evals, and left 2, 3" in _run(
        several.folder, "dataset", "expire", "evals", "--keep", "2"
    )
    assert "took away 1 version of evals, and left 3" in _run(
        several.folder, "dataset", "expire", "evals", "--keep", "1"
    )
    assert "no more than 1 version\n" in _run(several.folder, "dataset", "expire", "evals", "--keep", "1")
    told = _run(several.folder, "dataset", "delete", "evals", "--yes")
    assert "1 version, 2 grants, copies of 2 vendors" in told
    assert "backups" in told
    for words in (
        ("dataset", "delete", "evals", "--yes"),
        ("dataset", "expire", "evals", "--keep", "1"),
        ("dataset", "erase", "evals", "--yes"),
        ("dataset", "erase", "evals", "--keys", str(tmp_path / "none"), "--yes"),
    ):
        assert _run(several.folder, *words, code=1).count("\n") == 1
    keys.write_text("1\n\n")
    several.vault.publish("evals", rows(5), key="id")
    assert "line 2 is empty" in _run(several.folder, "dataset", "erase", "evals", "--keys", str(keys), "--yes", code=1)
    assert dsvault("dataset", "delete", "evals", "--vault", several.folder, stdin="n\n").returncode == 1
    assert several.vault.scan("evals").read_all().num_rows == 5
