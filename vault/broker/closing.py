"""How a broker that is being stopped ends what it is still sending."""

import threading
from collections.abc import Iterator
from typing import final

import pyarrow as pa

from vault.errors import Restarting

__all__ = ["Closing"]


@final
class Closing:
    """Whether streams have to end; safe for use from several threads."""

    def __init__(self) -> None:
        self._now = threading.Event()

    def now(self) -> None:
        """From here on every stream ends at its next border between batches."""
        self._now.set()

    def until(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches, until it is time; closing this closes them. Raises Restarting.

        What was sent is whole and has its cursor, so a client goes on behind it elsewhere.
        """
        try:
            for batch in batches:
                yield batch
                if self._now.is_set():
                    raise Restarting("the broker is being stopped; the read can go on elsewhere")
        finally:
            batches.close()  # type: ignore[attr-defined]
