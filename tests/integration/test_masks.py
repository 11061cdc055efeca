"""Masks: what a vendor gets in the place of values, and that nothing else of them comes out."""

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.reading import read
from vault.client import Client
from vault.custody import privileges
from vault.errors import IntegrityError, InvalidInput, NotGranted
from vault.filters import parse
from vault.masks import Mask
from vault.model import MASK_GROUP
from vault.owner import Vault
from vault.wire import Profile

_DAY = dt.datetime(2026, 5, 17, 13, 44, tzinfo=dt.UTC)
_TABLE = pa.table(
    {
        "id": pa.array(range(6), pa.int32()),
        "email": ["ann@a.example", "bob@b.example", None, "ann@a.example", "nobody", "c@d@e.example"],
        "secret": pa.array([f"the secret of {n}" for n in range(6)]),
        "when": pa.array([_DAY] * 6, pa.timestamp("us", "UTC")),
        "day": pa.array([_DAY.date()] * 6),
        "score": [0.1, 0.26, 0.5, -0.1, None, 7.0],
        "price": pa.array([Decimal("123.45")] * 6),
        "blob": [b"bytes of it"] * 6,
        "meta": [{"note": "private"}] * 6,
        "group": pa.array(["x", "y", "x", "y", "x", None]).dictionary_encode(),
    }
)


@pytest.fixture
def masked(cast: Callable[..., Lab]) -> Lab:
    """A dataset of many types, in two shards."""
    return cast(_masked)


def _masked(opened: Vault) -> None:
    opened.publish("evals", _TABLE, shard_rows=4)


def _grant(lab: Lab, masks: dict[str, str], vendor: str = "acme", dataset: str = "evals", **options: Any) -> pa.Table:
    """What the vendor reads under a fresh grant of these columns."""
    grant = lab.vault.grant(
        vendor, dataset, list(masks), masks={name: mask for name, mask in masks.items() if mask}, **options
    )
    parts = lab.broker_parts()
    return read(parts, lab.caller(parts, vendor), dataset, grant=grant.id)


def test_each_mask_gives_what_it_says(masked: Lab) -> None:
    """In the place of every value, nulls among them where the mask hides whether there is one."""
    found = _grant(
        masked,
        {
            "id": "round:4",
            "email": "domain",
            "secret": "truncate:5",
            "when": "date:month",
            "day": "date:year",
            "score": "round:0.25",
            "price": "round:10",
            "blob": "truncate:2",
            "meta": "null",
            "group": "redact",
        },
    )
    assert found.to_pydict() == {
        "id": [0, 0, 0, 0, 4, 4],
        "email": ["a.example", "b.example", None, "a.example", None, "e.example"],
        "secret": ["the s"] * 6,
        "when": [dt.datetime(2026, 5, 1, tzinfo=dt.UTC)] * 6,
        "day": [dt.date(2026, 1, 1)] * 6,
        "score": [0.0, 0.25, 0.5, -0.25, None, 7.0],
        "price": [Decimal("120.00")] * 6,
        "blob": [b"by"] * 6,
        "meta": [None] * 6,
        "group": ["[redacted]"] * 6,
    }


def test_hashes_join_for_one_vendor_and_not_for_two(masked: Lab) -> None:
    """Equal values of one vendor hash alike in every column, type, grant and dataset; of two vendors never."""
    masked.vault.publish(
        "other", pa.table({"mail": pa.array(["ann@a.example"], pa.large_string()), "n": pa.array([3], pa.int64())})
    )
    found = _grant(masked, {"email": "hash", "id": "hash"})
    hashes = found["email"].to_pylist()
    assert hashes[2] is None
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 5
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in hashes if each)
    other = _grant(masked, {"mail": "hash", "n": "hash"}, dataset="other")
    assert other["mail"].to_pylist() == hashes[:1]
    assert other["n"].to_pylist() == [found["id"][3].as_py()]
    globex = _grant(masked, {"email": "hash", "id": "hash"}, "globex")
    assert not {*hashes, *found["id"].to_pylist()} & {*globex["email"].to_pylist(), *globex["id"].to_pylist()} - {None}
    masked.vault.rekey()
    masked.vault.rewrap()
    assert _grant(masked, {"email": "hash"})["email"].to_pylist() == hashes, "no rotation of other keys breaks joins"


def test_a_hash_needs_the_vendors_own_mask_key(masked: Lab) -> None:
    """It is wrapped under the vendor's KMS key, asked for in the vendor's policy, and without it nothing is served."""
    assert all(scope.group != MASK_GROUP for scope in privileges(masked.vault.parts, "acme").scopes)
    masked.vault.grant("acme", "evals", ["email"], masks={"email": "hash"})
    vendor = next(each for each in masked.vault.vendors() if each.name == "acme")
    scopes = privileges(masked.vault.parts, "acme").scopes
    assert [scope.compartment for scope in scopes if scope.group == MASK_GROUP] == [vendor.id]
    parts = masked.broker_parts()
    caller = masked.caller(parts, "acme")
    assert read(parts, caller).num_rows == 6
    masked.vault.gc()
    assert read(masked.broker_parts(), caller).num_rows == 6
    with masked.vault.parts.catalog.write() as transaction:
        transaction.delete_key(vendor.id, MASK_GROUP, 1)
    with pytest.raises(IntegrityError, match="lacks the mask key"):
        read(masked.broker_parts(), caller)


def test_a_search_by_a_masked_column_learns_nothing(masked: Lab) -> None:
    """A binary search for a masked text gets no further than its first question, whatever way it is put."""
    masked.vault.grant("acme", "evals", ["id", "email"], masks={"email": "truncate:1"})
    parts = masked.broker_parts()
    caller = masked.caller(parts, "acme")
    answers = set()
    for guess in ("a", "m", "ann", "ann@a.example", "zzz"):
        for question in (
            f"email >= '{guess}'",
            f"email = '{guess}'",
            f"email LIKE '{guess}%'",
            f"NOT email < '{guess}'",
            f"id = 0 AND email > '{guess}'",
            f"email IN ('{guess}')",
            "email IS NULL",
            f"\"email\" >= '{guess}'",
        ):
            with pytest.raises(NotGranted) as refused:
                read(parts, caller, columns=("id",), where=parse(question))
            answers.add(str(refused.value))
    with pytest.raises(NotGranted) as unknown:
        read(parts, caller, columns=("id",), where=parse("nowhere = 'x'"))
    assert answers == {str(unknown.value)}
    assert read(parts, caller, columns=("id",), where=parse("id >= 3")).num_rows == 3


def test_the_grants_own_filter_may_read_what_it_masks(masked: Lab) -> None:
    """The lab's row filter sees the values; the vendor sees the mask."""
    found = _grant(masked, {"id": "", "email": "null"}, where="email LIKE 'ann%'")
    assert found.to_pydict() == {"id": [0, 3], "email": [None, None]}


def test_the_vendor_is_told_what_is_masked(masked: Lab) -> None:
    """The listing has the masks and the types that leave, and so has the client's schema."""
    masked.vault.grant(
        "acme", "evals", ["id", "email", "group"], masks={"id": "hash", "group": "redact"}, purpose="labels"
    )
    profile = masked.vault.issue_credential("acme").profile
    with broker(masked.folder) as endpoint:
        client = Client(
            Profile(**{name: getattr(profile, name) for name in Profile.__slots__} | {"endpoint": endpoint})
        )
        (offered,) = client.grants()
        assert offered.masks == {"id": "hash", "group": "redact"}
        assert [str(field.type) for field in client.dataset("evals").schema] == ["string", "string", "string"]
        table = client.dataset("evals").to_arrow()
        assert table.schema.equals(client.dataset("evals").schema)
        assert table["email"].to_pylist() == _TABLE["email"].to_pylist()


@pytest.mark.parametrize(
    ("column", "mask", "said"),
    [
        ("email", "nothing", "is no mask; there are redact, null, hash"),
        ("email", "truncate", "is no mask"),
        ("email", "redact:3", "is no mask"),
        ("email", "truncate:0", "takes a number of characters, 1 or more"),
        ("email", "truncate:-1", "takes a number of characters"),
        ("email", "truncate:1e3", "takes a number of characters"),
        ("email", "date:month", "date:month is not for string columns: it is for dates and timestamps"),
        ("when", "date:century", "date takes one of year, quarter"),
        ("day", "date:hour", "the hour for timestamps"),
        ("id", "round:0.5", "a fraction not for whole ones"),
        ("id", "round:0", "round takes a step"),
        ("id", "round:-2", "round takes a step"),
        ("id", "redact", "null is for every type"),
        ("score", "hash", "it is for text, whole numbers and bytes"),
        ("meta", "hash", "it is for text, whole numbers and bytes"),
        ("price", "round:0.001", "cannot be used on decimal128"),
        ("secret", "null", "is not among those that are granted"),
        ("nowhere", "null", "is not among those that are granted"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_when_it_is_granted(masked: Lab, column: str, mask: str, said: str) -> None:
    """With the column's name and what is wrong; no grant is made."""
    granted = ["email", "when", "day", "id", "score", "meta", "price"]
    with pytest.raises(InvalidInput, match=f"--mask {column}: .*{re.escape(said)}"):
        masked.vault.grant("acme", "evals", granted, masks={column: mask})
    assert masked.vault.grants() == []


def test_a_value_that_cannot_be_masked_is_not_served(lab: Lab) -> None:
    """The smallest number there is cannot be rounded down: the read ends with an error that does not quote it."""
    lab.vault.publish("evals", pa.table({"n": pa.array([-(2**63), 1], pa.int64())}))
    with pytest.raises(IntegrityError, match="cannot be masked") as refused:
        _grant(lab, {"n": "round:10"})
    assert str(2**63) not in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.none() | st.text(max_size=12), max_size=20), count=st.integers(1, 8))
def test_text_masks_agree_with_python(values: list[str | None], count: int) -> None:
    """Characters are code points, and every kind of text column gives the same."""
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        plain = pa.array(values, pa.string())
        column = pa.chunked_array([plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)])
        for text, expected in (
            (f"truncate:{count}", [v if v is None else v[:count] for v in values]),
            (f"last:{count}", [v if v is None else v[-count:] for v in values]),
            ("domain", [v.rpartition("@")[2] if v and "@" in v else None for v in values]),
            ("redact", ["[redacted]"] * len(values)),
            ("null", [None] * len(values)),
        ):
            mask = Mask.parse(text, "test")
            assert mask.apply(column, None).to_pylist() == expected
            assert mask.apply(column, None).type == mask.output(pa.field("a", column.type), "test").type
    one, two = (
        Mask.parse("hash", "test").apply(pa.chunked_array([pa.array(values, pa.string())]), bytes([key]) * 32)
        for key in (1, 2)
    )
    assert [v is None for v in one.to_pylist()] == [v is None for v in values]
    assert not set(one.to_pylist()) & set(two.to_pylist()) - {None}
    with pytest.raises(IntegrityError):
        Mask.parse("hash", "test").apply(pa.chunked_array([pa.array(["a"])]), None)
