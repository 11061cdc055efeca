"""Chunks: one column group of one shard as an encrypted Parquet file."""

from vault.chunks.codec import EncodeOptions, decode, encode, footer
from vault.chunks.pages import rekey, rekey_into, verify, verify_footer
from vault.chunks.restore import restore
from vault.chunks.storing import unsupported
from vault.chunks.windows import Readable

__all__ = [
    "EncodeOptions",
    "Readable",
    "decode",
    "encode",
    "footer",
    "rekey",
    "rekey_into",
    "restore",
    "unsupported",
    "verify",
    "verify_footer",
]
