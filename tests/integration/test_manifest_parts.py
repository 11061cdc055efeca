"""Manifests in parts: an append writes what it adds, versions share the rest, and planning looks at columns."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import rows
from vault.encoding import new_id
from vault.errors import IntegrityError, NotFound, VaultError
from vault.filters import bind, parse
from vault.manifest import ChunkRef, Entry, Listing, Part, arrange, parts
from vault.objects import ObjectStore
from vault.workings.reading import ReadPlan
from vault.workings.versions import OpenVersion, open_version


@pytest.fixture
def small(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A vault whose manifests hold 12 chunks, and parts of their own 5, with 40 rows in shards of two."""
    monkeypatch.setattr(parts, "INLINE_MOST", 12)
    monkeypatch.setattr(parts, "PART_MOST", 5)
    lab.vault.publish("evals", rows(40), key="id", shard_rows=2)
    lab.vault.grant("acme", "evals", ["id", "prompt", "lang"])
    return lab


def _version(lab: Lab, vendor: str | None = None) -> OpenVersion:
    opened = lab.vault.parts
    holder = opened.owner if vendor is None else next(v.id for v in lab.vault.vendors() if v.name == vendor)
    with opened.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=holder)
    return open_version(opened, opened.keyring, place)


def _places(version: OpenVersion) -> set[str]:
    return {part.place.object for part in version.manifest.parts if part.place is not None}


def _stored(lab: Lab) -> set[Path]:
    return {path for path in (lab.folder / "store" / "objects").rglob("*") if path.is_file()}


def _served(lab: Lab) -> pa.Table:
    opened = lab.broker_parts()
    return read(opened, lab.caller(opened, "acme")).combine_chunks()


def test_an_append_of_one_shard_writes_its_chunks_and_its_part(small: Lab) -> None:
    """What earlier parts list is neither read nor written again, in the owner's compartment and in the vendor's."""
    columns = len(rows(1).column_names)
    for number in range(20, 26):
        before, owners, acmes = _stored(small), _places(_version(small)), _places(_version(small, "acme"))
        small.vault.publish("evals", rows(2, start=2 * number), append=True)
        # A chunk for each column, the owner's and acme's; two manifests; and of each column at most its last part.
        fresh = len(_stored(small) - before) - columns - 3 - 2
        assert 0 <= fresh <= columns + 3
        for version, had in ((_version(small), owners), (_version(small, "acme"), acmes)):
            assert version.manifest.shards == number + 1
            assert len(had - _places(version)) <= len(version.manifest.groups)
            assert all(part.chunks <= 5 for part in version.manifest.parts)
            assert sum(part.chunks for part in version.manifest.parts if not part.apart) <= 12
    assert small.vault.scan("evals").read_all().combine_chunks().equals(rows(52))
    assert _served(small).equals(rows(52).select(["id", "prompt", "lang"]).combine_chunks())


def test_whatever_becomes_of_a_dataset_its_parts_follow(small: Lab) -> None:
    """Appends, new columns, renames, grants, rekeys, erasures, expiry and gc: the rows are right, everything checks."""
    lab, table = small.vault, rows(40)
    for number in range(3):
        more = rows(6, start=40 + 6 * number)
        table = pa.concat_tables([table, more])
        lab.publish("evals", more, append=True, shard_rows=2)
    lab.grant("globex", "evals", ["answer", "lang"])
    lab.rekey()
    scores = pa.table({"id": table["id"], "note": [f"note {each}" for each in table["id"].to_pylist()]})
    lab.publish("evals", scores, columns_only=True)
    table = table.append_column("note", scores["note"])
    lab.rename_column("evals", "note", "remark")
    table = table.rename_columns([*table.column_names[:-1], "remark"])
    lab.rekey(dataset="evals", columns=["prompt", "remark"])
    lab.grant("globex", "evals", ["remark"])
    lab.erase("evals", keys=[0, 1, 17, 44, 57])
    table = pa.table(table.filter(pa.compute.invert(pa.compute.is_in(table["id"], pa.array([0, 1, 17, 44, 57])))))
    lab.gc(timedelta(0))
    assert lab.scan("evals").read_all().equals(table)
    assert _served(small).equals(table.select(["id", "prompt", "lang"]).combine_chunks())
    lab.expire("evals", 1)
    lab.revoke(next(state.grant.id for state in lab.grants() if state.grant.vendor_name == "acme"))
    lab.gc(timedelta(0))
    report = lab.check(epochs=True)
    assert (report.ok, report.garbage) == (True, [])
    assert lab.scan("evals", where="remark = 'note 30'").read_all()["id"].to_pylist() == [30]


def test_gc_keeps_the_parts_that_live_manifests_name_and_no_other(small: Lab) -> None:
    """A version that is gone takes along the parts that no other has."""
    small.vault.publish("evals", rows(2, start=40), append=True)
    small.vault.publish("evals", rows(30), shard_rows=2)
    small.vault.expire("evals", 1)
    small.vault.gc(timedelta(0))
    named = {ref.object for holder in (None, "acme") for ref in _version(small, holder).refs()}
    places = _places(_version(small)) | _places(_version(small, "acme"))
    assert places
    kept = {str(path.relative_to(small.folder / "store")) for path in _stored(small)}
    assert len(kept - named - places) == 2  # the two manifests
    assert named | places <= kept
    assert small.vault.check().ok


def test_parts_of_retired_manifests_outlive_gc_for_the_grace_time(small: Lab) -> None:
    """They tell the next gc which chunks a stream that was opened before may still need."""
    retired = _places(_version(small, "acme")) | {ref.object for ref in _version(small, "acme").refs()}
    small.vault.rekey("acme")
    for _ in range(2):
        small.vault.parts.manifests.clear()
        small.vault.gc(timedelta(hours=1))
    kept = {str(path.relative_to(small.folder / "store")) for path in _stored(small)}
    assert retired <= kept
    small.vault.gc(timedelta(0))
    assert not retired & {str(path.relative_to(small.folder / "store")) for path in _stored(small)}


@pytest.fixture
def part(small: Lab) -> tuple[Lab, Path, Path]:
    """A part of acme's manifest, and another of the same column."""
    version = _version(small, "acme")
    group = version.manifest.columns[0].group
    one, other, *_ = [found.place for found in version.manifest.parts_of(group) if found.place is not None]
    return small, small.folder / "store" / one.object, small.folder / "store" / other.object


def test_a_part_in_the_place_of_another_is_refused(part: tuple[Lab, Path, Path]) -> None:
    """The manifest pins each part's digest: the neighbour's, well sealed as it is, does not do."""
    lab, one, other = part
    one.write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        _served(lab)
    assert not lab.vault.check().ok


def test_a_part_that_was_changed_or_cut_or_is_gone_is_refused(part: tuple[Lab, Path, Path]) -> None:
    """No byte of it may differ; gc removes nothing while it cannot be read."""
    lab, one, _ = part
    whole, before = one.read_bytes(), len(_stored(lab))
    for changed in (whole[:-1], whole + b"x", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        one.write_bytes(changed)
        with pytest.raises(IntegrityError):
            _served(lab)
    one.unlink()
    with pytest.raises(NotFound):
        _served(lab)
    with pytest.raises(VaultError, match="nothing was removed"):
        lab.vault.gc(timedelta(0))
    assert len(_stored(lab)) == before - 1
    one.write_bytes(whole)
    assert _served(lab).num_rows == 40


def test_a_plan_opens_the_parts_of_its_columns_and_makes_nothing_of_single_chunks(
    small: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of two columns in the shards that the statistics leave: their parts, and no object for any chunk."""
    version = _version(small)
    named = {column.name: column for column in version.manifest.columns}
    places = {part.place.object: part for part in version.manifest.parts if part.place is not None}
    fetched = []
    get = ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", lambda store, name: fetched.append(name) or get(store, name))
    monkeypatch.setattr(Listing, "refs", lambda _: pytest.fail("a plan made chunks"))
    small.vault.parts.manifests.clear()
    condition = bind(parse("id >= 20 AND id < 24"), version.manifest.schema)
    plan = ReadPlan(version, (named["prompt"],), (condition,), None)
    assert plan.shards == [[10, 11]]
    assert plan.chosen.keys() == {named["id"].group, named["prompt"].group}
    assert {len(found) for found in plan.chosen.values()} == {2}
    opened = [places[name] for name in fetched]
    assert {part.group for part in opened} == {named["id"].group, named["prompt"].group}
    # Of the column that is filtered by all parts, of the other those that have one of the two shards.
    assert [(part.first, part.last) for part in opened if part.group == named["prompt"].group] == [(10, 14)]


def test_the_log_says_which_shards_a_read_could_open(small: Lab) -> None:
    """The entry of a read names runs of shards: all that the statistics and the limit leave."""
    opened = small.broker_parts()
    caller = small.caller(opened, "acme")
    for arguments, runs in (
        ({}, [[0, 19]]),
        ({"where": parse("id < 6 OR id > 37")}, [[0, 2], [19, 19]]),
        ({"where": parse("id > 1000")}, []),
        ({"limit": 5}, [[0, 2]]),
    ):
        read(opened, caller, **arguments)
        begun = [entry for _, entry in small.vault.audit_entries() if entry.kind.value == "read begun"]
        assert begun[-1].fields["shards"] == runs


_GROUPS = [new_id() for _ in range(3)]


def _entries(group: str, shards: range) -> list[Entry]:
    found = []
    for shard in shards:
        chunk = new_id()
        ref = ChunkRef(shard, group, 1, chunk, new_id(), f"objects/job/{chunk}", 3, 100, new_id(), None)
        found.append(Entry(ref, {"c": pa.StructArray.from_arrays([pa.array([shard])], ["min"])}))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    runs=st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 2), min_size=1)), max_size=12),
    inline=st.integers(0, 20),
    most=st.integers(1, 8),
)
def test_parts_hold_what_was_added_in_order_and_within_bounds(
    runs: list[tuple[int, set[int]]], inline: int, most: int
) -> None:
    """However shards come, each group's parts list them in order; those that are full are never made anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "INLINE_MOST", inline)
        patch.setattr(parts, "PART_MOST", most)
        kept: tuple[Part, ...] = ()
        expected: dict[str, list[Entry]] = {group: [] for group in _GROUPS}
        shard = 0
        for count, groups in runs:
            fresh = {_GROUPS[each]: _entries(_GROUPS[each], range(shard, shard + count)) for each in groups}
            shard += count
            before = {part.content for part in kept if part.apart and part.chunks == most}
            kept = arrange(
                kept, {group: Listing.of(group, entries) for group, entries in fresh.items()}, lambda part: part.listing
            )
            for group, entries in fresh.items():
                expected[group] += entries
            assert before <= {part.content for part in kept}
            assert all(0 < part.chunks <= most for part in kept)
            assert sum(part.chunks for part in kept if not part.apart) <= inline
        for group, entries in expected.items():
            listed = [part.listing for part in kept if part.group == group]
            assert [ref for found in listed for ref in found.refs()] == [entry.ref for entry in entries]
            # Parts are joined while they have room: there are at most twice as many as there must be.
            assert len(listed) <= 2 * (len(entries) // most + 1)


def test_a_listing_comes_back_from_bytes_as_it_was() -> None:
    """Ids, statistics and order; anything else is refused with a sentence."""
    listing = Listing.of(_GROUPS[0], _entries(_GROUPS[0], range(5)))
    assert Listing.from_bytes(_GROUPS[0], listing.to_bytes()) == listing
    assert [entry.statistics["c"].to_pylist() for entry in listing.entries()] == [[{"min": n}] for n in range(5)]
    for data, said in (
        (b"no arrow", "not a listing"),
        (listing.to_bytes().to_pybytes()[:-300], "not a listing"),
        (Listing(_GROUPS[0], listing.table.drop(["rows"])).to_bytes(), "lacks a field"),
        (Listing(_GROUPS[0], listing.table.take([1, 0])).to_bytes(), "order of their shards"),
        (Listing(_GROUPS[0], listing.table.take([1, 1])).to_bytes(), "order of their shards"),
    ):
        with pytest.raises(IntegrityError, match=said):
            Listing.from_bytes(_GROUPS[0], data)
