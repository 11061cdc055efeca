"""What the log says of the rows of one read: exactly those that were handed to the wire.

The entry that a read begins with names what it may open, which bounds it. What has left follows: in the entry that the
read ends with, and before that whenever it has grown long or a minute has gone by, so that a read of any length is
neither held in memory nor written as one huge entry, and a broker that is killed leaves little that is only bounded.
"""

import time
from collections.abc import Callable
from typing import Final, final

import pyarrow as pa

from vault.access.callers import Caller
from vault.access.records import who
from vault.audit import Kind
from vault.policy import Permit
from vault.rowsets import Gathered, Item
from vault.workings.parts import Parts
from vault.workings.reading import Placed

__all__ = ["Account"]

#: How much an entry lists at the most, about: bytes of JSON and items.
MOST_BYTES: Final = 64 << 10
MOST_ITEMS: Final = 4096
#: For how many seconds what has left may be in no entry, as long as more leaves.
MOST_SECONDS: Final = 60.0


@final
class Account:
    """The rows of one read that have left, and what of them the log does not have yet. ``read`` is its first entry.

    ``nonce`` is a random text of that entry: no other process knows it, so that none can write another end of the read.
    A batch is added before it is handed on: what is listed may not have arrived, and what is not listed has not left.
    """

    def __init__(
        self,
        parts: Parts,
        caller: Caller,
        permit: Permit,
        read: int,
        nonce: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = parts
        self._caller = caller
        self._permit = permit
        self._read = read
        self._nonce = nonce
        self._clock = clock
        self._told_at = clock()
        self._told_rows = self._told_bytes = 0
        self._gathered = Gathered()
        self._untold: list[Item] = []
        self.rows = 0
        self.bytes = 0

    def add(self, placed: Placed, piece: pa.RecordBatch) -> None:
        """The first rows of a batch leave next; raises AuditError where what is due cannot be written."""
        first, rows = placed.first, piece.num_rows
        self._gathered.add(placed.position.shard, first, first + rows, placed.of, placed.keep)
        self.rows += rows
        self.bytes += piece.nbytes
        gathered = self._gathered
        if gathered.size >= MOST_BYTES or gathered.count >= MOST_ITEMS or self._clock() - self._told_at >= MOST_SECONDS:
            self._go_on()

    def _served(self) -> list[Item]:
        """What the log does not have yet; it is kept until it has."""
        self._untold += self._gathered.take()
        return self._untold

    def _go_on(self) -> None:
        # This batch is among what is listed, and the entry is durable before it leaves.
        self._parts.journal.record(
            Kind.READ_WENT_ON,
            **who(self._caller, self._permit),
            read=self._read,
            nonce=self._nonce,
            served=self._served(),
            rows=self.rows - self._told_rows,
            bytes=self.bytes - self._told_bytes,
        )
        # Where it failed, the entry of the end lists them: they have left, but for this batch.
        self._untold = []
        self._told_at = self._clock()
        self._told_rows, self._told_bytes = self.rows, self.bytes

    def close(self, outcome: str, *, soon: bool) -> None:
        """Write how the read ended; ``soon`` does not wait until that is durable. Raises AuditError."""
        record = self._parts.journal.record_soon if soon else self._parts.journal.record
        record(
            Kind.READ_ENDED,
            **who(self._caller, self._permit),
            read=self._read,
            nonce=self._nonce,
            served=self._served(),
            rows=self.rows,
            bytes=self.bytes,
            outcome=outcome,
        )
