"""Values of rows that were not granted are not in what leaves, in no form and for no type: looked for in the raw bytes.

To Arrow a selection may be a view of all rows; see `vault.compact`.
"""

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.nouns.test_compact import SHARED, array_of, numbers_in
from tests.support.brokers import broker
from vault.chunks import decode
from vault.derivation import chunk_key
from vault.owner import Vault
from vault.workings.reading import identity_of
from vault.workings.versions import live_versions

_COUNT = 24


def _table(name: str) -> pa.Table:
    kind, values = SHARED[name]
    return pa.table(
        {
            "id": pa.array(range(_COUNT), pa.int64()),
            "c": array_of(kind, values),
            "lang": ["en" if number % 2 == 0 else "de" for number in range(_COUNT)],
            "whose": ["acme" if number % 2 == 0 else "globex" for number in range(_COUNT)],
        }
    )


class Reader:
    """Raw answers for acme."""

    def __init__(self, lab: Lab, endpoint: str) -> None:
        self.vault = lab.vault
        self._endpoint = endpoint
        self._token = lab.vault.issue_credential("acme", bearer=True).profile.token
        self._http = urllib3.PoolManager(retries=False)

    def rows_in(self, dataset: str, **body: object) -> set[int]:
        """The rows whose values are in the answer."""
        answer = self._http.request(
            "POST",
            f"{self._endpoint}/v1/datasets/{dataset}/read",
            body=json.dumps(body),
            headers={"Authorization": self._token.header(), "Content-Type": "application/json"},
        )
        assert answer.status == 200, answer.data
        return numbers_in(answer.data)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A broker over a vault with a dataset for each type, in shards of 16 rows."""
    folder = tmp_path_factory.mktemp("buffers") / "lab"
    opened = vault.init(folder)
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    for number, name in enumerate(SHARED):
        opened.publish(f"set-{number}", _table(name), key="id", shard_rows=16)
    with broker(folder) as endpoint:
        yield Reader(Lab(folder, opened), endpoint)


@pytest.mark.parametrize("number", range(len(SHARED)), ids=list(SHARED))
def test_what_a_filter_or_a_limit_holds_back_is_not_in_the_answer(reader: Reader, number: int) -> None:
    """The grant's row filter, its limit of rows, the caller's own limit and predicate, each by itself."""
    name = f"set-{number}"
    filtered = reader.vault.grant("acme", name, ["id", "c"], where="lang = 'en'")
    limited = reader.vault.grant("acme", name, ["id", "c"], limits={"rows": 3})
    plain = reader.vault.grant("acme", name, ["id", "c"])
    assert reader.rows_in(name, grant=filtered.id) == set(range(0, _COUNT, 2))
    assert reader.rows_in(name, grant=filtered.id, limit=3) == {0, 2, 4}
    assert reader.rows_in(name, grant=limited.id) == {0, 1, 2}
    assert reader.rows_in(name, grant=plain.id, limit=5) == set(range(5))
    assert reader.rows_in(name, grant=plain.id, where="id >= 20") == {20, 21, 22, 23}
    assert reader.rows_in(name, grant=plain.id) == set(range(_COUNT))


def _at_rest(opened: Vault, vendor: str) -> set[int]:
    """The rows whose values are in the vendor's compartments, as a client of leased chunks would have them."""
    parts, found = opened.parts, set()
    ids = {each.holder: each.id for each in opened.kms_keys()}
    with parts.catalog.read() as transaction:
        places = transaction.compartments(holder=ids[vendor])
    for place in places:
        for version in live_versions(parts, place)[1]:
            for ref in version.refs():
                key = version.keys[ref.group]
                identity = identity_of(key, ref)
                data = decode(parts.store.get(ref.object), chunk_key(parts.keyring.open(key), identity), identity)
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, data.schema) as writer:
                    writer.write_table(data)
                found |= numbers_in(sink.getvalue().to_pybytes())
    return found


@pytest.mark.parametrize("name", SHARED)
def test_what_is_assigned_to_others_or_erased_is_not_at_rest(lab: Lab, name: str) -> None:
    """A vendor's chunks hold the values of its own rows, and none of a row that was erased."""
    lab.vault.publish("evals", _table(name), key="id", assign_by="whose", shard_rows=16)
    lab.vault.grant("acme", "evals", ["id", "c"])
    lab.vault.grant("globex", "evals", ["id", "c"])
    assert _at_rest(lab.vault, "acme") == set(range(0, _COUNT, 2))
    lab.vault.erase("evals", keys=[4, 5, 6])
    assert _at_rest(lab.vault, "acme") == set(range(0, _COUNT, 2)) - {4, 6}
    assert _at_rest(lab.vault, "globex") == set(range(1, _COUNT, 2)) - {5}


def test_the_metadata_of_what_is_granted_in_part_stays(lab: Lab) -> None:
    """What a struct's own metadata says may be of the fields that are not granted, or masked."""
    inner = pa.struct([pa.field("a", pa.string(), metadata={"note": "of a"}), pa.field("hidden", pa.string())])
    fields = [
        pa.field("s", inner, metadata={"note": "with hidden"}),
        pa.field("l", pa.list_(pa.field("item", inner, metadata={"note": "hidden"}))),
    ]
    row = {"a": "x", "hidden": "y"}
    lab.vault.publish("evals", pa.table({"s": [row], "l": [[row]]}, schema=pa.schema(fields)))
    lab.vault.grant("acme", "evals", ["s.a", "l.a"])
    lab.vault.grant("globex", "evals", ["s", "l"], masks={"s.hidden": "redact", "l.hidden": "redact"})
    with broker(lab.folder) as url:
        for vendor in ("acme", "globex"):
            schema = vault.connect(lab.profile(vendor, url)).dataset("evals").to_arrow().schema
            assert (
                b"hidden"
                not in str(
                    {**(schema.field("s").metadata or {}), **(schema.field("l").type.value_field.metadata or {})}
                ).encode()
            )
            assert schema.field("s").type.field("a").metadata == {b"note": b"of a"}
