"""What the entries of administrative acts say: what there is, whose it is, and under which keys."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault import access
from vault.audit import Kind
from vault.encoding import from_base64, from_timestamp
from vault.errors import NotGranted
from vault.policy import Request
from vault.trust import Role
from vault.wire import FILES_PATH, SharedTable
from vault.workings.versions import OpenVersion, open_version


def _last(lab: Lab, kind: Kind) -> Mapping[str, Any]:
    """The fields of the newest entry of a kind."""
    return _all(lab, kind)[-1]


def _all(lab: Lab, kind: Kind) -> list[Mapping[str, Any]]:
    return [entry.fields for _, entry in lab.vault.audit_entries() if entry.kind is kind]


def _vendor(lab: Lab, name: str = "acme") -> str:
    return next(state.id for state in lab.vault.vendors() if state.name == name)


def _version(lab: Lab, holder: str | None = None, number: int | None = None) -> OpenVersion:
    """A version as it stands in a holder's compartment, by default the owner's."""
    opened = lab.vault.parts
    with opened.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=holder or opened.owner)
    return open_version(opened, opened.keyring, place, number)


def _check_keys(said: Mapping[str, Any], version: OpenVersion) -> None:
    """The compartment and the epochs are those that a reader finds."""
    assert said["compartment"] == version.head.compartment
    for group in version.manifest.groups:
        assert said["epochs"][group] == version.keys[group].scope.epoch
    assert from_timestamp(said["started"]) is not None


def test_a_version_says_how_its_rows_are_cut(lab: Lab) -> None:
    """Rows by shards, the columns by id and group, and the keys of the owner's own copy."""
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    said, version = _last(lab, Kind.PUBLISHED), _version(lab)
    assert said["layout"] == [[0, 2, 30, None], [3, 3, 10, None]]
    assert (said["base"], said["rows"], said["version"], said["renamed"]) == (None, 100, 1, {})
    assert said["columns"] == [column.name for column in version.manifest.columns]
    assert said["column_ids"] == [column.id for column in version.manifest.columns]
    assert said["groups"] == [column.group for column in version.manifest.columns]
    _check_keys(said, version)


def test_a_version_says_on_which_one_it_stands(granted: Lab) -> None:
    """An append, a renamed column and new columns keep the rows of the version before; a new publish does not."""
    lab = granted.vault
    lab.publish("evals", rows(50, start=100), append=True, shard_rows=25)
    said = _last(granted, Kind.PUBLISHED)
    assert said["base"] == {"version": 1, "shards": 4}
    assert said["layout"] == [[0, 2, 30, None], [3, 3, 10, None], [4, 5, 25, None]]
    lab.rename_column("evals", "prompt", "task")
    said = _last(granted, Kind.PUBLISHED)
    assert said["base"] == {"version": 2, "shards": 6}
    assert said["renamed"] == {"prompt": "task"}
    lab.publish("evals", pa.table({"id": range(150), "note": ["n"] * 150}), columns_only=True)
    assert _last(granted, Kind.PUBLISHED)["base"] == {"version": 3, "shards": 6}
    lab.publish("evals", rows(10), key="id")
    said = _last(granted, Kind.PUBLISHED)
    assert (said["base"], said["layout"]) == (None, [[0, 0, 10, None]])


def test_a_version_says_whose_shards_are_whose(lab: Lab) -> None:
    """By the holders' ids; each vendor's compartment is told of with its own."""
    table = rows(60).append_column("whose", pa.array([["acme", "globex", None][row // 10 % 3] for row in range(60)]))
    lab.vault.publish("evals", table, assign_by="whose", shard_rows=10)
    owner = lab.vault.parts.owner
    acme, globex = _vendor(lab), _vendor(lab, "globex")
    layout = _last(lab, Kind.PUBLISHED)["layout"]
    assert sorted(layout) == [[0, 1, 10, acme], [2, 3, 10, globex], [4, 5, 10, owner]]
    lab.vault.grant("globex", "evals", ["id"])
    assert _last(lab, Kind.FANNED_OUT)["shards"] == [[2, 3]]


def test_a_grant_says_what_it_names_and_what_was_copied_for_it(published: Lab) -> None:
    """The columns by id, with the fields where they are granted in part; the compartment, its keys and its shards."""
    grant = published.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'", version=1)
    said, version = _last(published, Kind.GRANTED), _version(published, _vendor(published))
    named = {column.name: column for column in version.manifest.columns}
    assert said["dataset_id"] == grant.dataset
    assert said["column_ids"] == [named["id"].id, named["prompt"].id]
    assert said["cuts"] == {named["id"].id: None, named["prompt"].id: None}
    assert said["filter_column_ids"] == [named["lang"].id]
    assert (said["versions"], said["pinned"]) == ("1", 1)
    filled = _last(published, Kind.FANNED_OUT)
    assert (filled["vendor"], filled["dataset"], filled["dataset_id"]) == ("acme", "evals", grant.dataset)
    assert (filled["version"], filled["versions"], filled["shards"]) == (1, [1], [[0, 3]])
    assert filled["columns"] == ["id", "prompt", "lang"]
    assert filled["column_ids"] == [named[name].id for name in ("id", "prompt", "lang")]
    assert filled["groups"] == sorted(version.manifest.groups)
    _check_keys(filled, version)


def test_fields_of_a_column_are_named(lab: Lab) -> None:
    """A column that is granted in part is cut out, and copied, in part."""
    table = pa.table({"id": [1, 2], "meta": [{"source": "a", "note": "b"}] * 2})
    lab.vault.publish("evals", table)
    lab.vault.grant("acme", "evals", ["id", "meta.source"])
    said, filled = _last(lab, Kind.GRANTED), _last(lab, Kind.FANNED_OUT)
    assert [said["cuts"][column] for column in said["column_ids"]] == [None, [["source"]]]
    assert filled["columns"] == ["id", "meta.source"]
    parts = lab.broker_parts()
    list(access.open_delivery(parts, lab.caller(parts, "acme"), Request("evals")).batches)
    begun = _last(lab, Kind.READ_BEGUN)
    assert begun["columns"] == ["id", "meta.source"]
    assert set(begun["groups"]) <= set(filled["groups"])


def test_every_publish_says_what_each_vendor_has_now(granted: Lab) -> None:
    """One entry for each compartment that was filled along with it, behind that of the version."""
    granted.vault.grant("globex", "evals", ["answer"])
    granted.vault.publish("evals", rows(40), key="id", shard_rows=20)
    entries = [entry for _, entry in granted.vault.audit_entries()]
    kinds = [entry.kind for entry in entries if entry.kind is not Kind.KEYS_OPENED]
    assert kinds[-3:] == [Kind.PUBLISHED, Kind.FANNED_OUT, Kind.FANNED_OUT]
    for said in _all(granted, Kind.FANNED_OUT)[-2:]:
        assert (said["version"], said["versions"], said["shards"]) == (2, [2], [[0, 1]])
        _check_keys(said, _version(granted, said["vendor_id"]))


@pytest.mark.parametrize("vendor", ["acme", "owner"])
def test_a_rekey_names_the_next_epochs(granted: Lab, vendor: str) -> None:
    """Of each group that moved, the manifests' among them."""
    granted.vault.rekey(vendor)
    said = _last(granted, Kind.REKEYED)
    assert (said["vendor"], said["dataset"], said["versions"], said["shards"]) == (vendor, "evals", [1], [[0, 3]])
    assert set(said["epochs"].values()) == {2}
    assert "manifest" in said["groups"]
    assert set(said["columns"]) >= {"id", "prompt", "lang"}
    _check_keys(said, _version(granted, said["vendor_id"]))
    granted.vault.rekey(vendor, "evals", ["id"])
    said = _last(granted, Kind.REKEYED)
    assert (said["columns"], list(said["epochs"].values())) == (["id"], [3])


def test_an_erasure_says_what_is_left_and_under_which_keys(granted: Lab) -> None:
    """The layout of every version after it; and every compartment is under its next epochs."""
    granted.vault.publish("evals", rows(40, start=100), append=True, shard_rows=20)
    granted.vault.erase("evals", keys=[0, 1, *range(30, 60), 139])
    said = _last(granted, Kind.ROWS_ERASED)
    assert said["rows"] == {"1": 32, "2": 33}
    first = [[0, 0, 28, None], [2, 2, 30, None], [3, 3, 10, None]]
    assert said["layouts"] == {"1": first, "2": [*first, [4, 4, 20, None], [5, 5, 19, None]]}
    owners, acmes = _all(granted, Kind.REKEYED)
    assert (owners["vendor"], acmes["vendor"]) == ("owner", "acme")
    assert (owners["versions"], acmes["versions"]) == ([1, 2], [2])
    assert owners["shards"] == acmes["shards"] == [[0, 0], [2, 5]]
    for each in (owners, acmes):
        assert set(each["epochs"].values()) == {2}
        _check_keys(each, _version(granted, each["vendor_id"]))


def test_gc_says_what_it_takes_out_of_compartments_and_which_keys_it_forgets(granted: Lab) -> None:
    """A revoked grant's columns are named as removed, and their keys as dropped."""
    granted.vault.grant("acme", "evals", ["answer"])
    (answers,) = {c.group for c in _version(granted, _vendor(granted)).manifest.columns if c.name == "answer"}
    granted.vault.revoke(next(state.grant.id for state in granted.vault.grants() if state.grant.where is None))
    granted.vault.gc(timedelta(0))
    said, version = _last(granted, Kind.NARROWED), _version(granted, _vendor(granted))
    assert (said["vendor"], said["dataset"], said["removed"]) == ("acme", "evals", [answers])
    assert (said["versions"], said["withdrawn"], said["shards"]) == ([1], [], [[0, 3]])
    assert said["columns"] == ["id", "prompt", "lang"]
    _check_keys(said, version)
    collected = _last(granted, Kind.COLLECTED)
    assert collected["dropped"] == [[version.head.compartment, answers, 1]]
    assert collected["keys"] == 1


def test_what_is_taken_away_is_named(granted: Lab) -> None:
    """Expired versions, a deleted dataset and an offboarded vendor, by ids and not by names alone."""
    granted.vault.publish("evals", rows(10), key="id")
    granted.vault.expire("evals", 1)
    said = _last(granted, Kind.VERSIONS_EXPIRED)
    dataset, owners = _last(granted, Kind.GRANTED)["dataset_id"], _version(granted).head.compartment
    assert (said["dataset_id"], said["compartment"], said["versions"]) == (dataset, owners, [1])
    acmes = _version(granted, _vendor(granted)).head.compartment
    granted.vault.delete("evals")
    revoked, deleted = _last(granted, Kind.REVOKED), _last(granted, Kind.DATASET_DELETED)
    assert revoked["dataset_id"] == deleted["dataset_id"] == dataset
    assert deleted["compartments"] == {granted.vault.parts.owner: owners, _vendor(granted): acmes}


def test_an_offboarding_names_all_that_ends(granted: Lab) -> None:
    """Grants, credentials, compartments and every KMS key that there was."""
    credential = granted.vault.issue_credential("acme", bearer=True).profile.token.credential
    (state,), vendor = granted.vault.grants("acme"), _vendor(granted)
    place = _version(granted, vendor).head.compartment
    granted.vault.rewrap("acme")
    granted.vault.offboard("acme")
    begun, done = _last(granted, Kind.OFFBOARDING), _last(granted, Kind.OFFBOARDED)
    assert (begun["grants"], begun["credentials"]) == ([state.grant.id], [credential])
    assert (done["vendor_id"], done["compartments"]) == (vendor, [place])
    assert len(done["kms_keys"]) == 2
    assert _all(granted, Kind.VENDOR_ADDED)[0]["key"] in done["kms_keys"]


def test_a_lease_names_the_chunks_whose_keys_go_out(lab: Lab) -> None:
    """Their ids by group in the order of the shards, and the epochs of the data keys that they follow from."""
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    lab.vault.grant("acme", "evals", ["id", "prompt"], delivery="lease")
    parts = lab.broker_parts()
    page = access.lease_page(parts, lab.caller(parts, "acme"), Request("evals", lease=True))
    said, version = _last(lab, Kind.LEASED), _version(lab, _vendor(lab))
    assert (said["shards"], said["rows"]) == ([[0, 3]], 100)
    assert said["compartment"] == version.head.compartment
    assert said["epochs"] == {group.group: group.epoch for group in page.groups}
    groups = [group.group for group in page.groups]
    handed = {
        group: b"".join(bytes.fromhex(shard.chunks[place].chunk) for shard in page.shards)
        for place, group in enumerate(groups)
    }
    assert {group: from_base64(ids, "ids") for group, ids in said["chunks"].items()} == handed


def test_the_owners_own_read_is_told_of_like_any_other(published: Lab) -> None:
    """Which columns by id, of which version, under which keys."""
    published.vault.scan("evals", columns=["id", "lang"], where="score > 1", limit=3).read_all()
    said, version = _last(published, Kind.OWNER_READ), _version(published)
    named = {column.name: column for column in version.manifest.columns}
    assert (said["columns"], said["where"], said["limit"]) == (["id", "lang"], "score > 1", 3)
    assert said["column_ids"] == [named["id"].id, named["lang"].id]
    assert set(said["groups"]) == {named[name].group for name in ("id", "lang", "score")}
    assert said["dataset_id"] == _last(published, Kind.PUBLISHED)["dataset_id"]
    assert said["compartment"] == version.head.compartment
    assert set(said["epochs"].values()) == {1}


def test_the_page_on_the_log_has_every_kind_and_every_field(granted: Lab) -> None:
    """Whatever an entry says is in the reference, by its name."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "log.md").read_text(encoding="utf-8")
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in page] == []
    lab, parts = granted.vault, granted.broker_parts()
    caller = granted.caller(parts, "acme")
    list(access.open_delivery(parts, caller, Request("evals"), "lang = 'en'").batches)
    with pytest.raises(NotGranted):
        access.open_delivery(parts, caller, Request("elsewhere"))
    lab.scan("evals").read_all()
    lab.grant("acme", "evals", ["answer"], delivery="lease")
    access.lease_page(parts, caller, Request("evals", columns=("answer",), lease=True))
    (file, *_) = access.shared_files(
        parts, access.Arrival(caller), SharedTable.of("evals", granted.vault.grants()[0].grant.id), access.Hints()
    ).files
    b"".join(access.shared_file(parts, file.path.removeprefix(FILES_PATH), "test").pieces(0, 4))
    lab.publish("evals", rows(10, start=100), append=True)
    lab.freeze("acme")
    lab.thaw("acme")
    lab.rekey()
    lab.rewrap("acme", disable_old=True)
    lab.erase("evals", keys=[0])
    lab.revoke(lab.grants()[-1].grant.id)
    lab.gc(timedelta(0))
    lab.rotate_key(Role.PUBLISHER)
    lab.revoke_credential(caller.credential)
    lab.publish("evals", rows(10), key="id")
    lab.expire("evals", 1)
    lab.delete("evals")
    lab.offboard("acme")
    parts.journal.settle()
    entries = [entry for _, entry in lab.audit_entries()]
    assert len({entry.kind for entry in entries}) > 20
    unknown = {(entry.kind.value, name) for entry in entries for name in entry.fields if f"`{name}`" not in page}
    assert unknown == set()
