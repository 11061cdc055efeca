"""Spooled files as the page on the format has them, and ranges of them."""

import hashlib
import hmac
import json
import os
import struct
from datetime import UTC, datetime, timedelta

import hypothesis
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import strategies

from vault import spool
from vault.derivation import spool_facts_key, spool_key, spool_name
from vault.errors import IntegrityError, InvalidInput

_BOUND = b"what it is bound to"
_METADATA, _KEYS = b"m" * 32, [b"a" * 32, b"b" * 32]
_STEP = spool.SEGMENT_BYTES


def _object(data: bytes, facts: object = None, keys: list[bytes] | None = None) -> bytes:
    salt = spool.new_salt()
    key = spool_key(keys or _KEYS, salt, _BOUND) if data else None
    facts_key = spool_facts_key(_METADATA, salt)
    return b"".join(spool.sealed(facts or {"size": len(data)}, facts_key, memoryview(data), key, salt, _BOUND))  # type: ignore[arg-type]


def _tuple(*parts: bytes | str | int) -> bytes:
    """The page's ``canonical``."""
    raw = [p.encode() if isinstance(p, str) else struct.pack(">Q", p) if isinstance(p, int) else p for p in parts]
    return b"".join(struct.pack(">I", len(each)) + each for each in raw)


def _hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 for one block of SHA-256."""
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def _opened(data: bytes) -> tuple[dict[str, int], bytes]:
    """A whole object, opened by what the page says and nothing of dsvault's."""
    assert data[:8] == b"DSVSPL01"
    salt, (length,) = data[8:40], struct.unpack(">I", data[40:44])
    facts_key = _hkdf(_METADATA, b"", _tuple("dsvault spool facts key", salt))
    facts = AESGCM(facts_key).decrypt(bytes(12), data[44 : 44 + length], _tuple("dsvault spool facts", _BOUND))
    key = _hkdf(b"".join(_KEYS), salt, _tuple("dsvault spool key", 2, _BOUND))
    rest, plain = data[44 + length :], b""
    count = -(-len(rest) // (262_144 + 16))
    for number in range(count):
        piece = rest[number * (262_144 + 16) : (number + 1) * (262_144 + 16)]
        bound = _tuple("dsvault spool segment", _BOUND, number, int(number == count - 1))
        plain += AESGCM(key).decrypt(number.to_bytes(12, "big"), piece, bound)
    return json.loads(facts), plain


@pytest.mark.parametrize("size", [0, 1, _STEP - 1, _STEP, _STEP + 1, 3 * _STEP, 3 * _STEP + 5])
def test_an_object_is_what_the_page_says(size: int) -> None:
    """Whoever has the keys reads it by the page alone."""
    data = os.urandom(size)
    assert _opened(_object(data)) == ({"size": size}, data)


def test_a_name_is_what_the_page_says() -> None:
    """It follows from the metadata key and the binding, and from nothing else."""
    expected = _hkdf(_METADATA, b"", _tuple("dsvault spool name", b"binding"), 16).hex()
    assert spool_name(_METADATA, b"binding") == expected
    assert spool_name(_METADATA, b"other") != expected != spool_name(b"n" * 32, b"binding")


_DATA = os.urandom(3 * _STEP + 1000)
_SEALED = _object(_DATA)
_HEAD = spool.Prefix.parse(_SEALED).head
_KEY = spool_key(_KEYS, _SEALED[8:40], _BOUND)


@hypothesis.given(strategies.integers(0, len(_DATA) - 1), strategies.integers(1, len(_DATA)))
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_range_is_that_of_the_file(start: int, length: int) -> None:
    """Whatever is asked for, the segments around it are fetched, and no other."""
    stop = min(len(_DATA), start + length)
    found = spool.window(len(_DATA), start, stop)
    plain = found.open(_SEALED[_HEAD + found.start : _HEAD + found.end], _KEY, _BOUND)
    skipped = start - found.first * _STEP
    assert plain[skipped : skipped + stop - start] == _DATA[start:stop]
    assert len(plain) < stop - start + 2 * _STEP


def test_another_key_or_place_opens_nothing() -> None:
    """Another binding, other data keys, fewer of them, or the same in another order."""
    found = spool.window(len(_DATA), 0, len(_DATA))
    data = _SEALED[_HEAD:]
    for keys in (_KEYS[:1], _KEYS[::-1], [*_KEYS, _KEYS[0]], [b"c" * 32, b"b" * 32]):
        with pytest.raises(IntegrityError):
            found.open(data, spool_key(keys, _SEALED[8:40], _BOUND), _BOUND)
    with pytest.raises(IntegrityError):
        found.open(data, _KEY, b"elsewhere")
    with pytest.raises(IntegrityError):
        found.open(data[:-1], _KEY, _BOUND)
    with pytest.raises(IntegrityError):
        spool.open_facts(_SEALED[:_HEAD], spool_facts_key(_METADATA, _SEALED[8:40]), b"elsewhere")
    with pytest.raises(IntegrityError):
        spool_key([], _SEALED[8:40], _BOUND)
    with pytest.raises(IntegrityError):
        spool_key([b"short"], _SEALED[8:40], _BOUND)


@pytest.mark.parametrize("data", [b"", b"x" * 43, b"PAR1" + b"x" * 40, b"DSVSPL01" + b"s" * 32 + b"\xff" * 4])
def test_what_does_not_begin_like_one_is_none(data: bytes) -> None:
    """However short it is, or long its facts would be."""
    with pytest.raises(IntegrityError):
        spool.Prefix.parse(data)


def test_a_window_outlives_each_address_in_it() -> None:
    """Whenever a file is asked for, its object is there for as long as its address is good."""
    life = timedelta(hours=1)
    for minutes in range(0, 180, 7):
        now = datetime(2026, 12, 1, tzinfo=UTC) + timedelta(minutes=minutes)
        end = spool.window_end(now, life)
        name = spool.object_name(end, "a" * 32, "b" * 32)
        assert now + life <= spool.ends(name) <= now + 2 * life
        assert spool.vendor_of(name) == "a" * 32
    for other in ("spool", "spool/x/y/z", "spool/99999999999999999999/y/z"):
        assert spool.ends(other).year == 1970


def test_limits_of_the_spool_are_limits() -> None:
    """A life of a minute to a day, and a positive number of bytes."""
    for wrong in (
        {"life": timedelta(seconds=59)},
        {"life": timedelta(days=2)},
        {"vendor_bytes": 0},
        {"total_bytes": -1},
    ):
        with pytest.raises(InvalidInput):
            spool.SpoolLimits(**wrong)  # type: ignore[arg-type]
