"""Manifests: what a version of one compartment consists of, in parts that versions share.

A manifest is one small sealed object that names parts; a part lists the chunks of one column group in a run of shards
as Arrow columns. Parts that are small stand in the manifest itself, others in sealed objects of their own, so that an
append writes what it adds, and a reader opens only the parts of the columns that it wants. Nobody without the
compartment's ``manifest`` key learns a column's name or a shard's size from any of it; the manifest's digest is pinned
by a statement that the publisher signs, the parts' by the manifest. Format: ``docs/reference/format.md`` section 5.
"""

from vault.manifest.layout import Layout, layout_of, open_to, shards_of
from vault.manifest.listing import ChunkRef, Entry, Listing, Shard
from vault.manifest.parts import Gathering, Part, Place, arrange
from vault.manifest.sealed import (
    Erasure,
    Manifest,
    column_entry,
    decode_manifest,
    decode_part,
    encode_manifest,
    encode_part,
    read_column,
)

__all__ = [
    "ChunkRef",
    "Entry",
    "Erasure",
    "Gathering",
    "Layout",
    "Listing",
    "Manifest",
    "Part",
    "Place",
    "Shard",
    "arrange",
    "column_entry",
    "decode_manifest",
    "decode_part",
    "encode_manifest",
    "encode_part",
    "layout_of",
    "open_to",
    "read_column",
    "shards_of",
]
