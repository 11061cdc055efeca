"""What a publisher gives, as a stream of Arrow record batches."""

from vault.sources.source import Source, open_source

__all__ = ["Source", "open_source"]
