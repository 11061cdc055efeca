"""A read as its client gets it: batch by batch, each with the place behind it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

__all__ = ["Piece", "Reading"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A batch, and the sealed place behind it that the same read can go on from; None where it cannot."""

    batch: pa.RecordBatch
    place: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A read under way: its schema, and its pieces, read once.

    ``total`` is how many rows the whole of it has, None where the broker does not tell.
    """

    schema: pa.Schema
    total: int | None
    pieces: Iterator[Piece]

    def reader(self) -> pa.RecordBatchReader:
        """Its batches."""
        return pa.RecordBatchReader.from_batches(self.schema, (piece.batch for piece in self.pieces))
