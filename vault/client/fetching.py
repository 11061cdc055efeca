"""Fetching a read into a file, which another run takes up where one was broken off.

The file is written whole or not at all. What has come so far is kept beside it (`vault.partials`) as long as it may be
taken up: over a lost connection, a killed process, a frozen vendor, a limit. Once a grant has ended it is of no use,
and it is removed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vault.client.datasets import Dataset
from vault.client.pieces import Reading
from vault.errors import InvalidInput, NotGranted
from vault.partials import Kept, Partial
from vault.sinks import check_ending, write_table_as

__all__ = ["Fetched", "Progress", "fetch"]

_REMOVED = "the rows that had come were removed"
_CHANGED = "what is read has changed since the fetch was broken off"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is whole: its rows, and how many of them an earlier run had fetched already."""

    rows: int
    resumed: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows and bytes (of Arrow columns) that are written, of ``total`` rows where it is known."""

    rows: int
    size: int
    total: int | None


def fetch(
    dataset: Dataset,
    path: "str | os.PathLike[str]",
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    grant: str | None = None,
    *,
    delivery: str | None = None,
    resume: bool = True,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    on_note: Callable[[str], None] = lambda _sentence: None,
) -> Fetched:
    """Write a slice (see `Dataset.scan`) to a file in the format of its ending.

    Goes on where an earlier fetch of the very same to this file was broken off, unless ``resume`` is false; it says to
    ``on_note`` when it does, or why it cannot. Raises what `Dataset.scan` does, with a note of what became of the rows
    that had come; Conflict where another fetch to the file is under way.
    """
    check_ending(path)
    client = dataset.client
    asked = {
        "endpoint": client.connection.endpoint,
        "vault": client.profile.vault,
        "vendor": client.profile.vendor,
        "dataset": dataset.name,
        "grant": grant,
        "columns": list(columns) if columns is not None else None,
        "where": where,
        "limit": limit,
        "delivery": delivery,
    }
    options = {"columns": columns, "where": where, "limit": limit, "grant": grant, "delivery": delivery}
    return _Fetch(dataset, Path(path), asked, options, on_progress, on_note).run(resume=resume)


@dataclass(frozen=True, slots=True)
class _Fetch:
    dataset: Dataset
    target: Path
    asked: dict[str, Any]
    options: dict[str, Any]
    on_progress: Callable[[Progress], None]
    on_note: Callable[[str], None]

    def run(self, *, resume: bool) -> Fetched:
        """The whole of it, under the lock."""
        partial = Partial(self.target)
        kept, remove = None, False
        try:
            kept, why = partial.kept(self.asked)
            reading, taken_up = self._begun(kept if resume else None, why if resume else None)
            if taken_up is None:
                partial.begin(self.asked, reading.schema)
            else:
                partial.go_on(taken_up)
            done = self._write(partial, reading, taken_up)
            remove = True
        except BaseException as error:
            rows = partial.rows if partial.begun or kept is None else kept.rows
            ended = isinstance(error, NotGranted)
            # Of a read with other options, whose rows may be here, nothing was refused.
            remove = partial.empty or (partial.begun and not rows) or (ended and rows > 0)
            if rows:
                error.add_note(_REMOVED if ended else f"{rows:,} rows are kept, and the same fetch goes on from there")
            raise
        finally:
            partial.close(remove=remove)
        return done

    def _begun(self, kept: Kept | None, why: str | None) -> tuple[Reading, Kept | None]:
        """The read, from behind what is kept if it can go on there."""
        if kept is not None:
            try:
                reading = self.dataset.reading(**self.options, place=kept.place, done=kept.rows)
            except InvalidInput as error:
                # The broker takes a place for the very read that it was sealed for.
                if not str(error).startswith("cursor:"):
                    raise
                why = _CHANGED
            else:
                if reading.schema.equals(kept.schema):
                    self.on_note(f"going on behind the {kept.rows:,} rows that are here already")
                    return reading, kept
                why = _CHANGED
        reading = self.dataset.reading(**self.options)
        if why is not None:
            self.on_note(f"{why}; beginning anew")
        return reading, None

    def _write(self, partial: Partial, reading: Reading, kept: Kept | None) -> Fetched:
        rows = size = 0

        def counted(batch: pa.RecordBatch) -> pa.RecordBatch:
            nonlocal rows, size
            rows, size = rows + batch.num_rows, size + batch.nbytes
            self.on_progress(Progress(rows, size, reading.total))
            return batch

        def batches() -> Iterator[pa.RecordBatch]:
            if kept is not None:
                yield from map(counted, partial.replay(kept))
            for piece in reading.pieces:
                partial.add(piece.batch, piece.place)
                yield counted(piece.batch)

        if check_ending(self.target) == ".arrow":
            # What is kept is an Arrow stream: it becomes the file.
            for _ in batches():
                pass
            partial.become(self.target)
        else:
            reader = pa.RecordBatchReader.from_batches(reading.schema, batches())
            write_table_as(reader, self.target, folder=partial.folder)
        return Fetched(rows, kept.rows if kept is not None else 0)
