"""What a publisher gives, as a stream of Arrow record batches."""

from vault.sources.source import Source, open_source
from vault.sources.stretches import Run, Stretch, read_stretches, rows_of

__all__ = ["Run", "Source", "Stretch", "open_source", "read_stretches", "rows_of"]
