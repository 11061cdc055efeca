"""Encoding, decoding and rekeying one chunk."""

import os
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.parquet.encryption import create_encryption_properties

from tests.support.tables import TYPES, array_of, same
from vault.chunks import EncodeOptions, decode, encode, rekey, rekey_into, unsupported, verify
from vault.encoding import new_id
from vault.errors import IntegrityError, InvalidInput
from vault.model import ChunkIdentity, KeyScope

_OPTIONS = [
    EncodeOptions(),
    EncodeOptions(compression="none"),
    EncodeOptions(compression="snappy", use_dictionary=False),
    EncodeOptions(compression="gzip", row_group_rows=2, data_page_size=16),
    EncodeOptions(compression="lz4", row_group_rows=3, data_page_size=8),
]


def identity() -> ChunkIdentity:
    return ChunkIdentity(KeyScope(new_id(), new_id(), new_id(), 1), new_id())


def _round_trip(table: pa.Table, options: EncodeOptions) -> None:
    keys, places = [os.urandom(32) for _ in range(3)], [identity() for _ in range(3)]
    data: Any = encode(table, keys[0], places[0], options)
    verify(data, keys[0], places[0])
    assert same(decode(data, keys[0], places[0], table.schema), table)
    for old, new in ((0, 1), (1, 2)):
        moved = rekey(data, keys[old], places[old], keys[new], places[new])
        assert len(memoryview(moved)) == len(memoryview(data))
        assert memoryview(moved)[:2000] != memoryview(data)[:2000]
        verify(moved, keys[new], places[new])
        with pytest.raises(IntegrityError):
            verify(moved, keys[old], places[old])
        data = moved
    assert same(decode(data, keys[2], places[2], table.schema), table)


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("name", TYPES)
def test_every_type_survives_encode_and_rekey(name: str, options: EncodeOptions) -> None:
    """Every type, whole, sliced and empty, with several codecs, page sizes and dictionary settings."""
    table = pa.table({name: array_of(*TYPES[name])})
    for piece in (table, table.slice(1, 2), table.slice(0, 0)):
        _round_trip(piece, options)


_SCALARS = st.sampled_from(
    [pa.int32(), pa.string(), pa.float64(), pa.bool_(), pa.timestamp("s"), pa.date64(), pa.large_binary(), pa.null()]
)
_KINDS = st.recursive(
    _SCALARS,
    lambda inner: st.builds(pa.list_, inner)
    | st.builds(lambda kinds: pa.struct([(f"f{i}", kind) for i, kind in enumerate(kinds)]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=4,
)  # fmt: skip


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_list(kind):
        return st.none() | st.lists(_values(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return st.none() | st.fixed_dictionaries({field.name: _values(field.type) for field in fields})
    simple: dict[pa.DataType, st.SearchStrategy[Any]] = {
        pa.int32(): st.integers(-(2**31), 2**31 - 1),
        pa.string(): st.text(max_size=20),
        pa.float64(): st.floats(allow_nan=False),
        pa.bool_(): st.booleans(),
        pa.timestamp("s"): st.integers(0, 2**33),
        pa.date64(): st.integers(0, 20_000).map(lambda days: days * 86_400_000),
        pa.large_binary(): st.binary(max_size=20),
    }
    return st.none() | simple[kind]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kinds=st.lists(_KINDS, min_size=1, max_size=3), options=st.sampled_from(_OPTIONS))
def test_random_schemas_survive(data: st.DataObject, kinds: list[pa.DataType], options: EncodeOptions) -> None:
    """Random nested schemas and values, nulls among them, come back equal after two rekeys."""
    rows = data.draw(st.integers(0, 12))
    columns = {
        f"c{index}": pa.array(data.draw(st.lists(_values(kind), min_size=rows, max_size=rows)), kind)
        for index, kind in enumerate(kinds)
    }
    _round_trip(pa.table(columns), options)


class _Pieces:
    """A chunk that is only to be had in pieces of a few bytes, and remembers the largest that it gave."""

    step = 64

    def __init__(self, data: Any) -> None:
        self._data = bytes(memoryview(data))
        self.size = len(self._data)
        self.largest = 0

    def read(self, start: int, stop: int) -> memoryview:
        assert 0 <= start <= stop <= self.size
        self.largest = max(self.largest, stop - start)
        return memoryview(self._data[start:stop])


@pytest.mark.parametrize("options", _OPTIONS)
def test_a_chunk_moves_in_pieces(options: EncodeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and written a little at a time it is the same chunk as all at once, whatever the sizes of its pages."""
    monkeypatch.setattr("vault.chunks.windows.PIECE", 100)
    table = pa.table({"a": [f"text {number}" * (number % 7) for number in range(500)], "b": list(range(500))})
    key, place, fresh, moved_to = os.urandom(32), identity(), os.urandom(32), identity()
    data = encode(table, key, place, options)
    written: list[bytes] = []
    rekey_into(_Pieces(data), key, place, fresh, moved_to, lambda piece: written.append(bytes(piece)))
    moved = b"".join(written)
    assert len(moved) == data.size
    verify(_Pieces(moved), fresh, moved_to)
    assert same(decode(moved, fresh, moved_to, table.schema), table)
    for wrong in (moved[:-1], moved + b"x", moved[:100] + bytes([moved[100] ^ 1]) + moved[101:]):
        with pytest.raises(IntegrityError):
            verify(_Pieces(wrong), fresh, moved_to)


def test_the_pieces_of_a_large_chunk_are_small() -> None:
    """Neither side holds more than a piece: that is what bounds the memory of a rekey."""
    table = pa.table({"a": pa.array(os.urandom(16) for _ in range(400_000))})
    key, place = os.urandom(32), identity()
    data = encode(table, key, place, EncodeOptions(compression="none"))
    source, sizes = _Pieces(data), []
    source.step = 1 << 20  # type: ignore[misc]
    rekey_into(source, key, place, os.urandom(32), identity(), lambda piece: sizes.append(len(piece)))
    assert source.largest <= 2 << 20
    assert max(sizes) <= 8 << 20


def test_version_2_pages_move_too() -> None:
    """A file with version 2 data pages, which others write, is rekeyed as well as ours."""
    old_key, old, new_key, new = os.urandom(32), identity(), os.urandom(32), identity()
    table = pa.table({"n": list(range(5000)), "s": [f"text {number}" for number in range(5000)]})
    sink = pa.BufferOutputStream()
    properties = create_encryption_properties(old_key, aad_prefix=old.encode(), store_aad_prefix=False)
    pq.write_table(table, sink, data_page_version="2.0", data_page_size=512, encryption_properties=properties)
    moved = rekey(sink.getvalue(), old_key, old, new_key, new)
    assert decode(moved, new_key, new, table.schema).equals(table)


def test_polars_opens_a_chunk() -> None:
    """An independent reader opens a chunk with nothing but its raw key and identity."""
    key, place = os.urandom(32), identity()
    table = pa.table({"n": list(range(1000)), "s": [f"text {number}" for number in range(1000)], "l": [[1, 2]] * 1000})
    data = encode(table, key, place).to_pybytes()
    import io

    properties = pl.ParquetDecryptionProperties(footer_key=key, aad_prefix=place.encode())
    found = pl.scan_parquet(io.BytesIO(data), decryption=properties).collect()
    assert found.to_arrow().to_pylist() == table.to_pylist()
    moved_key, moved_place = os.urandom(32), identity()
    moved = rekey(data, key, place, moved_key, moved_place).to_pybytes()
    properties = pl.ParquetDecryptionProperties(footer_key=moved_key, aad_prefix=moved_place.encode())
    assert pl.scan_parquet(io.BytesIO(moved), decryption=properties).collect().height == 1000


@pytest.mark.parametrize("field", ["vault", "compartment", "group", "epoch", "chunk"])
def test_another_identity_does_not_open(field: str) -> None:
    """The right key with any part of the identity changed opens nothing."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": [1, 2]}), key, place)
    scope = {name: getattr(place.scope, name) for name in ("vault", "compartment", "group", "epoch")}
    other = ChunkIdentity(
        KeyScope(**{**scope, **({field: 2 if field == "epoch" else new_id()} if field != "chunk" else {})}),
        new_id() if field == "chunk" else place.chunk,
    )
    for attempt in (decode, verify):
        with pytest.raises(IntegrityError):
            attempt(data, key, other)
    with pytest.raises(IntegrityError):
        rekey(data, key, other, key, place)


def test_every_truncation_and_appended_bytes_are_refused() -> None:
    """A chunk cut at any length, or with bytes behind it, is refused by every way of reading."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": [1, 2]}), key, place).to_pybytes()
    for length in range(len(data)):
        for attempt in (decode, verify):
            with pytest.raises(IntegrityError):
                attempt(data[:length], key, place)
    for more in (b"\x00", b"PARE", data):
        for attempt in (decode, verify):
            with pytest.raises(IntegrityError):
                attempt(data + more, key, place)


def test_every_flipped_byte_is_refused() -> None:
    """Each single bit of a small chunk matters: decode, verify and rekey refuse every flip."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": [1, 2]}), key, place).to_pybytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        for attempt in (decode, verify):
            with pytest.raises(IntegrityError):
                attempt(bytes(changed), key, place)
        with pytest.raises(IntegrityError):
            rekey(bytes(changed), key, place, os.urandom(32), identity())


def test_pages_do_not_move() -> None:
    """Modules of one length that change places, inside a chunk or between chunks of one key, are refused."""
    key, place = os.urandom(32), identity()
    options = EncodeOptions(compression="none", use_dictionary=False, row_group_rows=4)
    table = pa.table({"n": list(range(8))})
    data = bytearray(encode(table, key, place, options).to_pybytes())
    twin = encode(table, key, place, options).to_pybytes()
    first = 4
    sizes = []
    position = first
    for _ in range(4):
        size = 4 + int.from_bytes(data[position : position + 4], "little")
        sizes.append((position, size))
        position += size
    (a, length), (b, same_length) = sizes[1], sizes[3]
    assert length == same_length
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    spliced = bytearray(encode(table, key, place, options).to_pybytes())
    spliced[a : a + length] = twin[a : a + length]
    for changed in (data, spliced):
        for attempt in (decode, verify):
            with pytest.raises(IntegrityError):
                attempt(bytes(changed), key, place)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_no_altered_bytes_are_accepted(data: st.DataObject) -> None:
    """Whatever is cut, doubled, overwritten or inserted: an IntegrityError, or the very same content."""
    original = bytearray(_FUZZ_DATA)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(original)))
        match data.draw(st.sampled_from(["overwrite", "insert", "cut", "length"])):
            case "overwrite":
                patch = data.draw(st.binary(min_size=1, max_size=8))
                original[position : position + len(patch)] = patch
            case "insert":
                original[position:position] = data.draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del original[position : position + data.draw(st.integers(1, 64))]
            case _:
                original[position : position + 4] = data.draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")
    if bytes(original) == _FUZZ_DATA:
        return
    for attempt in (
        lambda: decode(bytes(original), _FUZZ_KEY, _FUZZ_PLACE),
        lambda: verify(bytes(original), _FUZZ_KEY, _FUZZ_PLACE),
        lambda: rekey(bytes(original), _FUZZ_KEY, _FUZZ_PLACE, _FUZZ_KEY, identity()),
    ):
        with pytest.raises(IntegrityError):
            attempt()


_FUZZ_KEY, _FUZZ_PLACE = bytes(range(32)), identity()
_FUZZ_DATA = encode(pa.table({"n": [1, 2, 3], "s": ["a", "b", None]}), _FUZZ_KEY, _FUZZ_PLACE).to_pybytes()


def test_one_encode_never_repeats_itself() -> None:
    """Two encodes of one table under one key share neither file id nor nonces; nor do two rekeys."""
    key, place = os.urandom(32), identity()
    table = pa.table({"n": [1, 2]})
    one, two = (encode(table, key, place).to_pybytes() for _ in range(2))
    assert one[8:20] != two[8:20]
    moved = [rekey(one, key, place, key, place).to_pybytes() for _ in range(2)]
    assert len({one[8:20], moved[0][8:20], moved[1][8:20]}) == 3


def test_the_schema_of_other_columns_stays_out() -> None:
    """Schema-level metadata, where pandas keeps all columns' names, is not in a chunk; a field's own is."""
    key, place = os.urandom(32), identity()
    field = pa.field("n", pa.int64(), metadata={"unit": "points"})
    schema = pa.schema([field], metadata={"pandas": '{"columns": ["secret_answer"]}'})
    table = pa.table([[1]], schema=schema)
    found = decode(encode(table, key, place), key, place)
    assert not (found.schema.metadata or {}).get(b"pandas")
    assert found.schema.field("n").metadata[b"unit"] == b"points"


@pytest.mark.parametrize(
    "kind",
    [
        pa.sparse_union([pa.field("a", pa.int8())]),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.month_day_nano_interval(),
        pa.struct([]),
        pa.list_(pa.struct([])),
        pa.struct([("deep", pa.list_(pa.month_day_nano_interval()))]),
    ],
)
def test_what_parquet_cannot_hold_is_refused_by_name(kind: pa.DataType) -> None:
    """Unions, run-end encoding, intervals and empty structs are refused, at any depth, naming the column."""
    with pytest.raises(InvalidInput, match="'column"):
        unsupported(pa.schema([("column", kind)]))


def test_a_key_is_not_used_beyond_its_bound() -> None:
    """An encode that would use its key for more modules than the bound is refused."""
    with pytest.raises(InvalidInput):
        encode(pa.table({"n": list(range(1000))}), os.urandom(32), identity(), max_modules=10)
    with pytest.raises(IntegrityError):
        encode(pa.table({"n": [1]}), os.urandom(16), identity())


def test_columns_or_types_that_differ_from_the_manifest_are_refused() -> None:
    """A chunk is read into exactly the schema that is expected, or not at all."""
    key, place = os.urandom(32), identity()
    data = encode(pa.table({"n": ["text"]}), key, place)
    for schema in (pa.schema([("m", pa.string())]), pa.schema([("n", pa.int64())]), pa.schema([])):
        with pytest.raises(IntegrityError):
            decode(data, key, place, schema)
