"""Whatever is published comes back equal after two rekeys, whole and through a grant."""

from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chunks.test_chunks import _KINDS, _values
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import same
from vault.encoding import new_id
from vault.filters import parse


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    kinds=st.lists(_KINDS, min_size=1, max_size=3),
    rows=st.sampled_from([0, 1, 6, 7, 8, 13, 14, 15, 22]),
    options=st.fixed_dictionaries(
        {
            "compression": st.sampled_from(["zstd", "snappy", "gzip", "lz4", "none"]),
            "shard_rows": st.sampled_from([4, 7, 50]),
        }
    ),
    grouped=st.booleans(),
)
def test_publish_rekey_rekey_read(
    lab: Lab, data: st.DataObject, kinds: list[pa.DataType], rows: int, options: dict[str, Any], grouped: bool
) -> None:
    """Random schemas, nulls and sizes around the borders of shards, every codec, columns alone and in groups."""
    columns = {
        f"c{index}": pa.array(data.draw(st.lists(_values(kind), min_size=rows, max_size=rows)), kind)
        for index, kind in enumerate(kinds)
    }
    table = pa.table(columns)
    name, groups = f"d{new_id()[:8]}", {"g": list(columns)} if grouped else {}
    lab.vault.publish(name, table, groups=groups, **options)
    grant = lab.vault.grant("acme", name, list(columns))
    for _ in range(2):
        lab.vault.rekey(dataset=name)
    assert same(lab.vault.scan(name).read_all(), table)
    parts = lab.broker_parts()
    assert same(read(parts, lab.caller(parts, "acme"), name, grant=grant.id), table)


def test_lists_of_structs_of_nulls_come_back(lab: Lab) -> None:
    """A type that pyarrow cannot cast to itself: neither the owner's path nor a vendor's tries."""
    table = pa.table({"n": [1, 2], "a": pa.array([[None, None], []], pa.list_(pa.struct([("f", pa.null())])))})
    lab.vault.publish("evals", table)
    lab.vault.grant("acme", "evals", ["n", "a"])
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    assert same(lab.vault.scan("evals").read_all(), table)
    assert same(read(parts, caller), table)
    assert same(read(parts, caller, where=parse("n = 1")), table.slice(0, 1))
