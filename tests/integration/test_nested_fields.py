"""Fields of nested columns are granted without the rest, and the rest is not even at rest under the vendor's keys."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.reading import read
from vault import access
from vault.chunks import decode
from vault.client import Client
from vault.custody import privileges
from vault.derivation import chunk_key
from vault.errors import IntegrityError, InvalidInput, NotGranted
from vault.filters import parse
from vault.model import MANIFEST_GROUP, METADATA_GROUP
from vault.owner import Vault
from vault.policy import Request
from vault.workings.reading import identity_of
from vault.workings.versions import OpenVersion, live_versions


def _rows(count: int, start: int = 0) -> pa.Table:
    numbers = range(start, start + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "meta": [
                None
                if n % 7 == 6
                else {
                    "source": f"s{n % 3}",
                    "notes": f"private {n}",
                    "author": {"name": f"n{n}", "email": f"e{n}@x.example"},
                }
                for n in numbers
            ],
            "messages": [[{"role": "user", "content": f"hidden {n}"}] * (n % 3) for n in numbers],
            "a.b": [f"dotted {n}" for n in numbers],
            "a": [{"b": f"inner {n}", "c": n} for n in numbers],
        }
    )


@pytest.fixture
def nested(cast: Callable[..., Lab]) -> Lab:
    """100 rows in shards of 30, with structs, a list of structs, and a column whose name looks like a path."""
    return cast(_nested)


def _nested(opened: Vault) -> None:
    opened.publish("evals", _rows(100), key="id", shard_rows=30)


def _compartment(lab: Lab, vendor: str) -> list[OpenVersion]:
    """The live versions of a vendor's compartment."""
    parts = lab.vault.parts
    ids = {each.holder: each.id for each in lab.vault.kms_keys()}
    with parts.catalog.read() as transaction:
        (row,) = transaction.compartments(holder=ids[vendor])
    return live_versions(parts, row)[1]


def _at_rest(lab: Lab, vendor: str) -> list[pa.Table]:
    """Every chunk of a vendor's compartment, opened as whoever has its keys and the store would."""
    parts, found = lab.vault.parts, []
    for version in _compartment(lab, vendor):
        for ref in version.refs():
            key = version.keys[ref.group]
            identity = identity_of(key, ref)
            found.append(decode(parts.store.get(ref.object), chunk_key(parts.keyring.open(key), identity), identity))
    return found


def _everything(tables: list[pa.Table]) -> str:
    return str([table.to_pylist() for table in tables])


def test_a_field_is_granted_without_its_neighbours(nested: Lab) -> None:
    """The vendor sees a struct of that field alone, nulls where they were, and the schema says so."""
    nested.vault.grant("acme", "evals", ["id", "meta.source", "messages.role"])
    with broker(nested.folder) as url:
        dataset = vault.connect(nested.profile("acme", url)).dataset("evals")
        table = dataset.to_arrow()
        assert dataset.schema == table.schema
        assert table.schema.field("meta").type == pa.struct([("source", pa.string())])
        assert table.schema.field("messages").type == pa.list_(pa.struct([("role", pa.string())]))
        expected = _rows(100).to_pylist()
        for found, row in zip(table.to_pylist(), expected, strict=True):
            assert found["meta"] == (None if row["meta"] is None else {"source": row["meta"]["source"]})
            assert found["messages"] == [{"role": each["role"]} for each in row["messages"]]
        some = dataset.to_arrow(columns=["meta.source", "id"], where="meta.source = 's1' AND id < 50")
        assert some.column_names == ["meta", "id"]
        assert {row["meta"]["source"] for row in some.to_pylist()} == {"s1"}


def test_what_is_not_granted_is_not_at_rest_either(nested: Lab) -> None:
    """The chunks of the vendor's compartment hold the granted fields and those that the row filter reads, no others."""
    nested.vault.grant("acme", "evals", ["id", "meta.source"], where="meta.author.name <> 'n3'")
    tables = _at_rest(nested, "acme")
    names = {path for table in tables for path in table.flatten().flatten().column_names}
    assert names == {"id", "meta.source", "meta.author.name"}
    assert "private" not in _everything(tables)
    assert "@x.example" not in _everything(tables)


@pytest.mark.parametrize("where", ["meta IS NOT NULL", "meta.author IS NOT NULL"])
def test_whether_a_struct_is_null_is_asked_of_the_granted_fields(nested: Lab, where: str) -> None:
    """No other field of it, at any depth, comes to be at rest for a filter that asks for nothing else."""
    nested.vault.grant("acme", "evals", ["id", "meta.author.name"], where=where)
    tables = _at_rest(nested, "acme")
    names = {path for table in tables for path in table.flatten().flatten().column_names}
    assert names == {"id", "meta.author.name"}
    parts = nested.broker_parts()
    expected = [row["id"] for row in _rows(100).to_pylist() if row["meta"] is not None]
    assert read(parts, nested.caller(parts, "acme")).column("id").to_pylist() == expected


def test_a_filters_field_is_read_and_never_leaves(nested: Lab) -> None:
    """It may be neither selected nor searched by, and no sentence says that it is there."""
    nested.vault.grant("acme", "evals", ["id", "meta.source"], where="meta.author.name <> 'n3'")
    parts = nested.broker_parts()
    caller = nested.caller(parts, "acme")
    table = read(parts, caller)
    assert table.schema.field("meta").type == pa.struct([("source", pa.string())])
    assert 3 not in table.column("id").to_pylist()
    assert table.num_rows == 99 - 14  # of a row whose meta is null the filter is not true
    for columns in (("meta.author",), ("meta.author.name",), ("meta.nothing",), ("meta.source.x",), ("meta.notes",)):
        with pytest.raises(NotGranted, match=r"^no dataset or column of that name is granted to you$"):
            read(parts, caller, columns=columns)
    for where in ("meta.author.name = 'n4'", "meta.author IS NULL", "meta.notes IS NULL", "meta.nothing = 1"):
        with pytest.raises(NotGranted, match=r"^no dataset or column of that name is granted to you$"):
            read(parts, caller, where=parse(where))
    with pytest.raises(InvalidInput) as refused:
        read(parts, caller, where=parse("meta = 'x'"))
    assert "author" not in str(refused.value)
    assert read(parts, caller, where=parse("meta IS NOT NULL")).num_rows == table.num_rows


def test_grants_of_other_fields_are_cuts_of_their_own(nested: Lab) -> None:
    """Two grants of one column give each what it names, under keys that differ; revoking one takes its cut away."""
    first = nested.vault.grant("acme", "evals", ["meta.source"])
    second = nested.vault.grant("acme", "evals", ["meta.author.email", "id"])
    whole = nested.vault.grant("acme", "evals", ["meta"])
    parts = nested.broker_parts()
    caller = nested.caller(parts, "acme")
    author = pa.struct([("author", pa.struct([("email", pa.string())]))])
    assert read(parts, caller, grant=first.id).schema.field("meta").type == pa.struct([("source", pa.string())])
    assert read(parts, caller, grant=second.id).schema.field("meta").type == author
    assert read(parts, caller, grant=whole.id).schema.field("meta").type == _rows(1).schema.field("meta").type
    (version,) = _compartment(nested, "acme")
    groups = [column.group for column in version.manifest.columns if column.name == "meta"]
    assert len(groups) == len(set(groups)) == 3
    assert len({version.keys[group].key_id for group in groups}) == 3
    nested.vault.revoke(whole.id)
    nested.vault.gc()
    tables = _at_rest(nested, "acme")
    assert "private" not in _everything(tables)
    assert "@x.example" in _everything(tables)
    parts = nested.broker_parts()
    assert read(parts, nested.caller(parts, "acme"), grant=first.id).num_rows == 100
    assert nested.vault.check().ok


def test_the_kms_policy_names_the_cuts_keys_alone(nested: Lab) -> None:
    """A broker that serves a field may unwrap the key of that cut, and not the column's."""
    grant = nested.vault.grant("acme", "evals", ["meta.source"])
    (cut,) = grant.cuts
    assert cut.group != cut.source
    assert {scope.group for scope in privileges(nested.vault.parts, "acme").scopes} == {
        MANIFEST_GROUP,
        METADATA_GROUP,
        cut.group,
    }


def test_the_name_of_a_column_comes_before_a_path(nested: Lab) -> None:
    """``a.b`` is the column of that name; the field is ``"a"."b"``, and each is granted without the other."""
    dotted = nested.vault.grant("acme", "evals", ["a.b"])
    inner = nested.vault.grant("acme", "evals", ['"a".b'])
    parts = nested.broker_parts()
    caller = nested.caller(parts, "acme")
    assert read(parts, caller, grant=dotted.id).column("a.b").to_pylist()[:2] == ["dotted 0", "dotted 1"]
    assert read(parts, caller, grant=inner.id).column("a").to_pylist()[:2] == [{"b": "inner 0"}, {"b": "inner 1"}]
    assert (dotted.column_names, inner.column_names) == (["a.b"], ["a.b"])
    assert [column.fields for column in (*dotted.columns, *inner.columns)] == [None, (("b",),)]


def test_masks_go_on_fields(nested: Lab) -> None:
    """A field is masked where it stands, and cannot be searched by; the fields beside it can."""
    grant = nested.vault.grant(
        "acme",
        "evals",
        ["id", "meta.source", "meta.author", "messages"],
        masks={"meta.author.email": "domain", "messages.content": "truncate:3"},
    )
    assert grant.shown_masks == {"meta.author.email": "domain", "messages.content": "truncate:3"}
    parts = nested.broker_parts()
    caller = nested.caller(parts, "acme")
    table = read(parts, caller)
    assert table.column("meta").to_pylist()[1] == {"source": "s1", "author": {"name": "n1", "email": "x.example"}}
    assert table.column("messages").to_pylist()[2] == [{"role": "user", "content": "hid"}] * 2
    assert table.column("meta").to_pylist()[6] is None
    assert read(parts, caller, columns=("meta.author.email",)).to_pylist()[0] == {
        "meta": {"author": {"email": "x.example"}}
    }
    assert read(parts, caller, where=parse("meta.author.name = 'n4'")).column("id").to_pylist() == [4]
    with pytest.raises(NotGranted):
        read(parts, caller, where=parse("meta.author.email = 'e4@x.example'"))
    (offering,) = access.offerings(parts, caller)
    assert offering.schema == table.schema


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (["meta.nothing"], {}, "--columns: the column 'meta' has no field 'nothing'"),
        (["nothing.meta"], {}, "--columns: the dataset has no column 'nothing.meta'"),
        (["id.x"], {}, "--columns: the column 'id' has no field 'x'"),
        (["meta."], {}, "--columns: the dataset has no column 'meta.'"),
        (["meta.source", "meta.source"], {}, "--columns: 'meta.source' stands twice"),
        (["meta.source"], {"delivery": "lease"}, "--delivery lease: a column is granted in part"),
        (
            ["meta.source"],
            {"masks": {"meta.notes": "redact"}},
            "--mask meta.notes: it is not among those that are granted",
        ),
        (["meta.source"], {"masks": {"meta": "null"}}, "--mask meta: it is not among those that are granted"),
        (["meta"], {"masks": {"meta": "null", "meta.notes": "redact"}}, "--mask meta.notes: there is a mask on it"),
        (["meta"], {"masks": {"meta.author": "hash"}}, "--mask meta.author: hash is not for struct"),
    ],
)
def test_a_mistake_in_a_path_is_told_in_a_sentence(
    nested: Lab, columns: list[str], options: dict[str, Any], said: str
) -> None:
    """It names the option and the field, and no grant is made."""
    with pytest.raises(InvalidInput, match=said):
        nested.vault.grant("acme", "evals", columns, **options)
    assert nested.vault.grants() == []


def test_later_versions_are_cut_alike(nested: Lab) -> None:
    """What is published later is cut as it is written; what was copied before is not made again."""
    nested.vault.grant("acme", "evals", ["id", "meta.source"])
    before = {ref.chunk for version in _compartment(nested, "acme") for ref in version.refs()}
    nested.vault.publish("evals", _rows(10, 100), append=True)
    after = {ref.chunk for version in _compartment(nested, "acme") for ref in version.refs()}
    assert before < after
    assert len(after) == len(before) + 2
    nested.vault.rename_column("evals", "meta", "about")
    parts = nested.broker_parts()
    table = read(parts, nested.caller(parts, "acme"))
    assert table.column("about").to_pylist()[109] == {"source": "s1"}
    assert {ref.chunk for version in _compartment(nested, "acme") for ref in version.refs()} == after
    assert nested.vault.check().ok


def test_keys_and_rows_of_a_cut_are_taken_away_as_any(nested: Lab) -> None:
    """Rekeying, erasing, gc and check treat it as what it is: a column group."""
    nested.vault.grant("acme", "evals", ["id", "meta.source"])
    nested.vault.rekey(vendor="acme")
    nested.vault.erase("evals", keys=[1, 31, 99])
    nested.vault.gc()
    report = nested.vault.check()
    assert report.ok, report.faults
    parts = nested.broker_parts()
    table = read(parts, nested.caller(parts, "acme"))
    expected = [row for row in _rows(100).to_pylist() if row["id"] not in {1, 31, 99}]
    assert table.column("id").to_pylist() == [row["id"] for row in expected]
    assert table.column("meta").to_pylist() == [
        None if row["meta"] is None else {"source": row["meta"]["source"]} for row in expected
    ]


def test_fields_of_a_shared_group_go_together(lab: Lab) -> None:
    """Where columns share a key all of them are named, in part or whole, and what is not named is not at rest."""
    lab.vault.publish("evals", _rows(20), groups={"g": ["id", "meta"]})
    with pytest.raises(InvalidInput, match="shares its key with"):
        lab.vault.grant("acme", "evals", ["meta.source"])
    lab.vault.grant("acme", "evals", ["meta.source", "id"])
    parts = lab.broker_parts()
    assert read(parts, lab.caller(parts, "acme"), where=parse("id < 5")).num_rows == 5
    assert "private" not in _everything(_at_rest(lab, "acme"))


def test_a_delegate_gets_a_field_of_what_its_signer_has(nested: Lab) -> None:
    """``--columns meta.source`` narrows; a field that the signer has not, or that there is not, gives nothing."""
    nested.vault.grant("acme", "evals", ["id", "meta.source", "meta.author"])
    with broker(nested.folder) as url:
        own = nested.profile("acme", url)

        def handed(*columns: str) -> Client:
            path = own.with_name(f"{'-'.join(columns)}.json")
            vault.client.delegate(own, "seven", path, expires=vault.encoding.duration("1h", "-"), columns=list(columns))
            return vault.connect(path)

        table = handed("meta.author.name", "meta.notes", "meta.nothing").dataset("evals").to_arrow()
        assert table.schema == pa.schema([("meta", pa.struct([("author", pa.struct([("name", pa.string())]))]))])
        seven = handed("meta.source", "id").open("evals")
        assert seven.to_arrow(columns=["id"], where="meta.source = 's0' AND id < 10").num_rows == 3
        for columns, where in ((["meta.author"], None), (["id"], "meta.author.name = 'n1'")):
            with pytest.raises(NotGranted):
                seven.to_arrow(columns=columns, where=where)


def test_a_whole_column_that_is_leased_is_streamed_in_part(nested: Lab) -> None:
    """A chunk key opens the whole column: who wants a field of it has a stream."""
    nested.vault.grant("acme", "evals", ["id", "meta"], delivery="lease")
    with broker(nested.folder) as url:
        dataset = vault.connect(nested.profile("acme", url)).dataset("evals")
        assert dataset.to_arrow().num_rows == 100
        assert dataset.to_arrow(columns=["meta.source"]).schema == pa.schema(
            [("meta", pa.struct([("source", pa.string())]))]
        )
        with pytest.raises(NotGranted):
            dataset.scan(columns=["meta.source"], delivery="lease")


def test_the_owner_reads_fields_too(nested: Lab) -> None:
    """``export --columns meta.source`` and its Python twin."""
    table = nested.vault.scan("evals", columns=["meta.source", "id"]).read_all()
    assert table.schema.field("meta").type == pa.struct([("source", pa.string())])
    with pytest.raises(InvalidInput, match=r"has no column 'meta.nothing'"):
        nested.vault.scan("evals", columns=["meta.nothing"])


def test_the_log_says_which_fields(nested: Lab) -> None:
    """Grants and reads name paths, so that an exposure can be told to the field."""
    nested.vault.grant("acme", "evals", ["id", "meta.source", "meta.author.name"])
    parts = nested.broker_parts()
    read(parts, nested.caller(parts, "acme"), columns=("meta.source",))
    entries = {entry.kind.value: dict(entry.fields) for _, entry in nested.vault.audit_entries()}
    assert entries["grant made"]["columns"] == ["id", "meta.author.name", "meta.source"]
    assert entries["read begun"]["columns"] == ["meta.source"]


def test_a_grant_whose_fields_are_not_in_order_is_refused(nested: Lab) -> None:
    """A signed statement has one written form; whatever else was signed is not understood."""
    grant = nested.vault.grant("acme", "evals", ["meta.source", "meta.author"])
    payload = grant.payload()
    payload["columns"][0]["fields"].reverse()
    signed = nested.vault.parts.signers.authority().sign(vault.trust.Label.GRANT, payload)
    with pytest.raises(IntegrityError):
        vault.trust.Grant.parse(signed)


def test_a_cursor_is_for_the_fields_that_it_came_with(nested: Lab) -> None:
    """A read of other fields of the same column does not go on from it."""
    nested.vault.grant("acme", "evals", ["meta.source", "meta.author"])
    parts = nested.broker_parts()
    caller = nested.caller(parts, "acme")
    delivery = access.open_delivery(parts, caller, Request("evals", columns=("meta.source",)))
    next(delivery.batches)
    cursor = delivery.cursor()
    access.open_delivery(parts, caller, Request("evals", columns=("meta.source",)), cursor=cursor)
    with pytest.raises(InvalidInput, match="cursor: it is not of this read"):
        access.open_delivery(parts, caller, Request("evals", columns=("meta.author",)), cursor=cursor)
