"""Chunks: one column group of one shard as an encrypted Parquet file."""

from vault.chunks.codec import EncodeOptions, decode, encode, footer
from vault.chunks.pages import rekey, verify
from vault.chunks.restore import restore
from vault.chunks.storing import unsupported

__all__ = ["EncodeOptions", "decode", "encode", "footer", "rekey", "restore", "unsupported", "verify"]
