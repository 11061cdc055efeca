"""Entries that are alike but for two values say what they would say if each were read by itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.audit import Kind
from vault.encoding import json_bytes
from vault.incident.decoding import WRONG, Decoder

BEGUN = {"kind": Kind.READ_BEGUN.value, "time": "2026-11-26T10:00:00.000000Z", "nonce": "ab" * 16, "version": 1}
NAMES = st.sampled_from(["kind", "time", "nonce", "masks", "zone", "a"])
TEXTS = st.one_of(
    st.sampled_from(["read begun", 'time":"x', '"time":"', "\\", '"', "\n", "é", "\ud7ff", "x" * 27]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.integers(0, 9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


def whole(plain: bytes) -> tuple[Any, ...] | None:
    """What an entry says, read by itself; None for none."""
    try:
        document = json.loads(plain)
        return document.pop("kind"), document.pop("time"), document
    except WRONG:
        return None


def decoded(decoder: Decoder, plain: bytes) -> tuple[Any, ...] | None:
    """The same by what was read before."""
    try:
        return decoder.decode(plain)[:3]
    except WRONG:
        return None


@given(st.lists(st.tuples(st.dictionaries(NAMES, VALUES, max_size=4), TEXTS, TEXTS, st.booleans()), max_size=6))
def test_what_is_alike_says_what_it_would_by_itself(entries: list[tuple[dict[str, Any], str, str, bool]]) -> None:
    """Whatever stands in an entry, and whatever was read before it."""
    decoder = Decoder()
    for fields, time, nonce, sound in entries:
        both = {"time": time, "nonce": nonce} if sound else {}
        plain = json_bytes({**BEGUN, **fields, **both})
        for each in (plain, plain, plain.replace(b"T10:", b"T11:"), plain[:-1]):
            assert decoded(decoder, each) == whole(each)


@pytest.mark.parametrize(
    "plain",
    [
        b'{"kind":"read begun","time":"1","zone":{"time":"2"}}',
        b'{"kind":"read begun","mine":{"nonce":"1"},"time":"2"}',
        b'{"kind":"read begun","nonce":"1","time":"2","time":"3"}',
        b'{"kind":"read begun","nonce":"1","nonce":"2","time":"3"}',
        b'{"kind":"read begun","time":"2","time":3,"zone":"\\"time\\":\\"4"}',
        b'{"a":{"kind":"read begun"},"kind":"vendor added","time":"2"}',
        b'{"kind":"read begun","time":"2\\u0041"}',
        b'{"kind":"read begun","time":"2\n"}',
        b'{"kind":"read begun","time":"2"} ',
        b'{"kind":"read begun" ,"time":"2"}',
        b'{"kind":"read begun","time": "2"}',
        b'["kind":"read begun","time":"2"]',
        b'"kind":"read begun","time":"2"',
        b'{"kind":"read begun","time":"\xff"}',
        b'{"kind":"read begun","time":"2',
        b'{"kind":"read begun"}',
        b'{"a":"\xc2\x80","kind":"read begun","time":null}',
        b'{"kind":"read begun","time":"\xc2\x80',
    ],
)
def test_a_name_that_stands_elsewhere_is_not_taken_for_it(plain: bytes) -> None:
    """Names within values, names that stand twice, and what is no JSON, are what they are, and so is the next entry."""
    decoder = Decoder()
    strict = plain if not plain.endswith(b" ") else b""
    for _ in range(2):
        assert decoded(decoder, plain) == (whole(plain) if strict else None)
        assert decoded(decoder, json_bytes(BEGUN)) == whole(json_bytes(BEGUN))


def test_only_those_that_are_alike_have_one_number() -> None:
    """Two entries with the same number have the same fields but for the nonce; the others are read by themselves."""
    decoder = Decoder()
    one, same, other = (
        decoder.decode(json_bytes({**BEGUN, **change}))
        for change in ({}, {"nonce": "cd", "time": "later"}, {"version": 2})
    )
    assert one[3] == same[3] is not None
    assert other[3] not in {one[3], None}
    assert same[1] == "later"
    assert {**same[2], "nonce": one[2]["nonce"]} == one[2]
    assert decoder.decode(json_bytes({**BEGUN, "kind": Kind.READ_ENDED.value}))[3] is None
