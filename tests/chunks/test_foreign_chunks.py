"""Chunks that others wrote under our keys, with settings that we never use: moved whole and readable, or refused."""

import io
import os
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet.encryption import create_encryption_properties

from tests.chunks.test_chunks import identity
from tests.support.tables import same
from vault.chunks import decode, rekey, verify
from vault.errors import IntegrityError

_TABLE = pa.table(
    {"n": list(range(3000)), "s": [f"text {number % 50}" for number in range(3000)], "l": [[1], None] * 1500}
)


def _written(key: bytes, prefix: bytes, properties: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    settings = {"aad_prefix": prefix, "store_aad_prefix": False, **properties}
    pq.write_table(_TABLE, sink, encryption_properties=create_encryption_properties(key, **settings), **options)
    return bytes(sink.getvalue().to_pybytes())


_HANDLED: list[dict[str, Any]] = [
    {"data_page_version": "2.0", "data_page_size": 256},
    {"compression": "brotli"},
    {"compression": "none", "use_dictionary": False, "row_group_size": 100},
    {"use_dictionary": ["s"], "write_statistics": False},
    {"column_encoding": {"n": "DELTA_BINARY_PACKED", "s": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
    {"version": "1.0"},
    {"store_schema": False},
    {"write_page_checksum": True},
]
_REFUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"encryption_algorithm": "AES_GCM_CTR_V1"}, {}),
    ({"plaintext_footer": True}, {}),
    ({"store_aad_prefix": True}, {}),
    ({}, {"write_page_index": True}),
]


@pytest.mark.parametrize("options", _HANDLED, ids=str)
def test_what_differs_inside_the_pages_only_is_moved(options: dict[str, Any]) -> None:
    """Other codecs, encodings and page versions are the pages' own matter: a rekey moves them as they are."""
    key, place, fresh, moved_to = os.urandom(32), identity(), os.urandom(32), identity()
    data = _written(key, place.encode(), {}, **options)
    verify(data, key, place)
    moved = rekey(data, key, place, fresh, moved_to)
    assert same(decode(moved, fresh, moved_to, _TABLE.schema), decode(data, key, place, _TABLE.schema))
    assert same(decode(moved, fresh, moved_to, _TABLE.schema), _TABLE)


@pytest.mark.parametrize(("properties", "options"), _REFUSED, ids=str)
def test_another_frame_is_refused(properties: dict[str, Any], options: dict[str, Any]) -> None:
    """Another algorithm, a plaintext footer, a stored prefix or a page index are not our format, and nothing opens them."""
    key, place = os.urandom(32), identity()
    data = _written(key, place.encode(), properties, **options)
    for attempt in (verify, decode):
        with pytest.raises(IntegrityError):
            attempt(data, key, place)
    with pytest.raises(IntegrityError):
        rekey(data, key, place, os.urandom(32), identity())


def test_a_shorter_key_opens_nothing() -> None:
    """AES-128 under our frame is refused for its key, whoever wrote the file."""
    key, place = os.urandom(16), identity()
    data = _written(key, place.encode(), {})
    for attempt in (verify, decode):
        with pytest.raises(IntegrityError):
            attempt(data, key, place)


@pytest.mark.parametrize("codec", ["zstd", "snappy", "lz4", "uncompressed"])
def test_what_polars_wrote_is_moved_or_refused(codec: Any) -> None:
    """A chunk from the second writer is moved whole and reads equal, or is refused; nothing in between."""
    key, place, fresh, moved_to = os.urandom(32), identity(), os.urandom(32), identity()
    sink = io.BytesIO()
    properties = pl.ParquetEncryptionProperties(footer_key=key, aad_prefix=place.encode(), store_aad_prefix=False)
    frame = pl.DataFrame({"n": list(range(2000)), "s": [f"text {number % 9}" for number in range(2000)]})
    frame.write_parquet(sink, compression=codec, row_group_size=300, data_page_size=1000, encryption=properties)
    try:
        moved = rekey(sink.getvalue(), key, place, fresh, moved_to)
    except IntegrityError:
        with pytest.raises(IntegrityError):
            decode(sink.getvalue(), key, place)
        return
    assert decode(moved, fresh, moved_to).to_pydict() == frame.to_dict(as_series=False)
