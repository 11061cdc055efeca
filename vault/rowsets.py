"""Rows of shards: what an entry of the log says of the rows that left, and reading it back.

An item is JSON of one of three forms, whichever is the shortest, with shards and rows numbered from 0:

* ``{"shards": [a, b]}``: all rows of the shards from a to b, both inclusive.
* ``{"shard": s, "rows": [[first, last], ...]}``: runs of rows of one shard, both inclusive, ascending and apart.
* ``{"shard": s, "of": n, "bits": "..."}``: base64 of a zlib stream (RFC 1950) that holds a bitmap of the shard's n
  rows, the least significant bit of each byte first; bits behind the last row are 0. A shard of more than 2^24 rows is
  written by runs alone, so that nobody who reads an item needs more memory than that.

Pure functions over frozen values. Specified in ``docs/reference/log.md``.
"""

import zlib
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from vault.encoding import from_base64, json_bytes, to_base64
from vault.errors import IntegrityError

__all__ = ["Gathered", "Item", "Rows", "item_of", "items_of_shards", "read_item", "read_items", "runs_of"]

Item = dict[str, Any]
Mask = npt.NDArray[np.bool_]
Runs = npt.NDArray[np.int64]

_LAST_SHARD: Final = 2**31 - 1
_LAST_ROW: Final = 2**62
_MOST_BITS: Final = 2**24
#: About what an item takes beside its runs or its bitmap.
_AROUND: Final = 40
#: How hard a bitmap is packed: beyond this it takes far more time, and little less room.
_LEVEL: Final = 3
#: The least that a run takes as JSON: two digits, two brackets and two commas.
_RUN_LEAST: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What an item says: all rows of the shards from ``first`` to ``last``, or with ``runs`` those of the one shard.

    ``runs`` has a first and a last row for each run, both inclusive, ascending and apart.
    """

    first: int
    last: int
    runs: Runs | None

    def mask(self, of: int) -> Mask:
        """For each row of one of its shards, which has ``of``, whether it is among them.

        Raises IntegrityError where the shard has fewer rows than it speaks of.
        """
        if self.runs is None:
            return np.ones(of, dtype=np.bool_)
        if self.runs[-1, 1] >= of:
            raise IntegrityError("a log entry speaks of rows that a shard does not have")
        edges = np.zeros(of + 1, dtype=np.int8)
        edges[self.runs[:, 0]] = 1
        edges[self.runs[:, 1] + 1] = -1
        return np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)

    def count(self, of: int) -> int:
        """How many rows of one of its shards, which has ``of``, are among them; raises as `mask` does."""
        if self.runs is None:
            return of
        if self.runs[-1, 1] >= of:
            raise IntegrityError("a log entry speaks of rows that a shard does not have")
        return int((self.runs[:, 1] - self.runs[:, 0] + 1).sum())


def runs_of(mask: npt.ArrayLike) -> Runs:
    """The places where a mask is true, as runs: the first and the last of each."""
    bools = np.asarray(mask, dtype=np.bool_)
    inner = np.flatnonzero(bools[1:] != bools[:-1]) + 1
    # Where a run begins and where it is over, in turn.
    before, behind = [0] if bools[:1].any() else [], [len(bools)] if bools[-1:].any() else []
    edges = np.concatenate([np.array(before, np.int64), inner, np.array(behind, np.int64)])
    runs = edges.reshape(-1, 2)
    runs[:, 1] -= 1
    return runs


def items_of_shards(first: int, last: int) -> Item:
    """The item of all rows of the shards from ``first`` to ``last``."""
    return {"shards": [first, last]}


def item_of(shard: int, mask: npt.ArrayLike) -> Item:
    """The shortest item of the rows of a shard where a mask of all its rows is true; ValueError for none."""
    bools = np.asarray(mask, dtype=np.bool_)
    runs = runs_of(bools)
    if not len(runs):
        raise ValueError("an item is of one row at least")
    if bools.all():
        return items_of_shards(shard, shard)
    if len(bools) > _MOST_BITS:
        return _item_of_runs(shard, runs.tolist())
    packed = zlib.compress(np.packbits(bools, bitorder="little").tobytes(), _LEVEL)
    bits = {"shard": shard, "of": len(bools), "bits": to_base64(packed)}
    if _RUN_LEAST * len(runs) > len(json_bytes(bits)):
        return bits  # so many runs need not be written out to be known to be longer
    return min(_item_of_runs(shard, runs.tolist()), bits, key=lambda item: len(json_bytes(item)))


def _item_of_runs(shard: int, runs: list[list[int]]) -> Item:
    return {"shard": shard, "rows": runs}


def read_items(items: object) -> list[Rows]:
    """What a list of items says; raises IntegrityError for anything else."""
    if not isinstance(items, list):
        raise _malformed()
    return [read_item(item) for item in items]


def read_item(item: object) -> Rows:
    """Inverse of `item_of`; raises IntegrityError for what that does not make."""
    match item:
        case {"shards": [first, last], **more} if not more and _number(last, _LAST_SHARD) and _number(first, last):
            return Rows(first, last, None)
        case {"shard": shard, "rows": list(runs), **more} if not more and _number(shard, _LAST_SHARD):
            return Rows(shard, shard, _read_runs(runs))
        case {"shard": shard, "of": of, "bits": str(bits), **more} if not more and _number(shard, _LAST_SHARD):
            return Rows(shard, shard, runs_of(_read_bits(of, bits)))
    raise _malformed()


def _number(value: Any, most: int) -> bool:
    """Whether it is a whole number from 0 to ``most``; True and False are none."""
    return type(value) is int and 0 <= value <= most


def _read_runs(runs: list[Any]) -> Runs:
    before = -2
    for run in runs:
        match run:
            case [first, last] if _number(last, _LAST_ROW) and _number(first, last) and first > before + 1:
                before = last
            case _:
                raise _malformed()
    if not runs:
        raise _malformed()
    return np.array(runs, dtype=np.int64)


def _read_bits(of: Any, bits: str) -> Mask:
    if not _number(of, _MOST_BITS):
        raise _malformed()
    size = (of + 7) // 8
    inflating = zlib.decompressobj()
    try:
        # One byte more than there may be: whatever the stream would become, no more of it than that is made.
        data = inflating.decompress(from_base64(bits, "a bitmap of rows"), size + 1)
    except zlib.error as error:
        raise _malformed() from error
    if len(data) != size or not inflating.eof or inflating.unused_data:
        raise _malformed()
    every = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little").view(np.bool_)
    if every[of:].any() or not every.any():
        raise _malformed()
    return every[:of]


def _malformed() -> IntegrityError:
    return IntegrityError("a log entry speaks of rows in a form that dsvault does not write")


@final
class Gathered:
    """Items of rows as they leave: shard by shard in ascending order, and in each from its first row on.

    It costs a few numbers for a shard of which all rows leave, one after the other.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._size = 0
        #: The shards of which all rows have left, up to the last one that was closed.
        self._whole: tuple[int, int] | None = None
        self._shard = -1
        self._of = 0
        self._keep: npt.ArrayLike | None = None
        self._first = self._stop = 0

    def add(self, shard: int, first: int, stop: int, of: int, keep: npt.ArrayLike | None = None) -> None:
        """The rows from ``first`` up to ``stop`` of those of a shard that pass: all ``of``, or where ``keep`` is true.

        A shard is given with the same ``of`` and ``keep`` each time.
        """
        if stop <= first:
            return
        if shard != self._shard or first != self._stop:
            self._close()
            self._shard, self._of, self._keep, self._first = shard, of, keep, first
        self._stop = stop

    def _close(self) -> None:
        """Make an item of the rows of the last shard."""
        if self._stop <= self._first:
            return
        if self._keep is None:
            whole, runs = self._stop - self._first == self._of, [[self._first, self._stop - 1]]
            item = items_of_shards(self._shard, self._shard) if whole else _item_of_runs(self._shard, runs)
        else:
            item = item_of(self._shard, self._left())
        self._first = self._stop = 0
        self._keep = None
        if "shards" in item:
            if self._whole is not None and self._whole[1] + 1 == self._shard:
                self._whole = self._whole[0], self._shard
                return
            self._close_whole()
            self._whole = self._shard, self._shard
            return
        self._close_whole()
        self._put(item)

    def _left(self) -> Mask:
        """Of the rows of the last shard those that have left."""
        mask: Mask = np.asarray(self._keep, dtype=np.bool_)
        places = np.flatnonzero(mask)
        if self._stop - self._first == len(places):
            return mask
        left = np.zeros(len(mask), dtype=np.bool_)
        left[places[self._first : self._stop]] = True
        return left

    def _close_whole(self) -> None:
        if self._whole is not None:
            self._put(items_of_shards(*self._whole))
            self._whole = None

    def _put(self, item: Item) -> None:
        self._items.append(item)
        # Of what little there is to write of a small read, as little as may be is spent on measuring it.
        self._size += _AROUND + (len(item["bits"]) if "bits" in item else len(str(item.get("rows", ""))))

    @property
    def size(self) -> int:
        """About how many bytes of JSON the items are, without that of the last shard."""
        return self._size

    @property
    def count(self) -> int:
        """About how many items there are."""
        return len(self._items)

    def take(self) -> list[Item]:
        """The items, which are forgotten here. What leaves of the last shard after this is in an item of its own."""
        shard, of, keep, stop = self._shard, self._of, self._keep, self._stop
        self._close()
        self._close_whole()
        found, self._items, self._size = self._items, [], 0
        self._shard, self._of, self._keep, self._first, self._stop = shard, of, keep, stop, stop
        return found
