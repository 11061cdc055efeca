"""Altered chunks against the rekey parser: ``python -m tests.chunks.fuzz RUNS [SEED]``.

Each run changes a small chunk in some way (bytes, lengths, cuts, pieces moved, repeated or taken from another chunk) and
has it rekeyed and verified. Nothing but an IntegrityError, or an acceptance of the very bytes that were written, is let
pass: no crash, no other error, no altered byte.
"""

import os
import random
import sys
import time
from collections.abc import Callable

import pyarrow as pa

from vault.chunks import EncodeOptions, encode, rekey, verify
from vault.encoding import new_id
from vault.errors import IntegrityError
from vault.model import ChunkIdentity, KeyScope

__all__ = ["attack"]


def _chunks() -> list[tuple[bytes, bytes, ChunkIdentity]]:
    """Chunks of several shapes: dictionaries, many pages, nested, no rows, no compression."""
    tables = [
        (pa.table({"a": ["x", "y", None] * 20}), EncodeOptions()),
        (pa.table({"a": range(60)}), EncodeOptions(row_group_rows=13, data_page_size=16, use_dictionary=False)),
        (pa.table({"a": [[1, 2], None, []] * 5, "b": [{"c": "x"}] * 15}), EncodeOptions(compression="none")),
        (pa.table({"a": pa.array([], pa.string())}), EncodeOptions()),
    ]
    found = []
    for table, options in tables:
        key, place = os.urandom(32), ChunkIdentity(KeyScope(new_id(), new_id(), new_id(), 1), new_id())
        found.append((bytes(memoryview(encode(table, key, place, options))), key, place))
    return found


def _flip(data: bytearray, dice: random.Random, _other: bytes) -> None:
    for _ in range(dice.choice((1, 1, 2, 8))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random, _other: bytes) -> None:
    start = dice.randrange(len(data))
    data[start : start + 4] = dice.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", dice.randbytes(4), b"\x20\0\0\0"))


def _cut(data: bytearray, dice: random.Random, _other: bytes) -> None:
    start = dice.randrange(len(data))
    del data[start : start + dice.choice((1, 4, 32, len(data)))]


def _insert(data: bytearray, dice: random.Random, _other: bytes) -> None:
    start = dice.randrange(len(data) + 1)
    data[start:start] = dice.randbytes(dice.choice((1, 4, 33)))


def _move(data: bytearray, dice: random.Random, _other: bytes) -> None:
    size = dice.choice((1, 12, 16, 40, 80))
    piece = data[(start := dice.randrange(len(data))) : start + size]
    del data[start : start + size]
    place = dice.randrange(len(data) + 1)
    data[place:place] = piece


def _splice(data: bytearray, dice: random.Random, other: bytes) -> None:
    start = dice.randrange(len(data))
    size = dice.choice((1, 16, 60, 400))
    place = dice.choice((start, dice.randrange(len(other))))
    data[start : start + size] = other[place : place + size]


def _lengths(data: bytearray, dice: random.Random, _other: bytes) -> None:
    """The fields that a reader follows: the first module's length, the footer's, and the footer module's."""
    place = dice.choice((4, len(data) - 8, len(data) - 12, max(0, len(data) - 8 - dice.randrange(200))))
    value = int.from_bytes(data[place : place + 4], "little") + dice.choice((-1, 1, -16, 16, 2**31, -(2**31)))
    data[place : place + 4] = (value % 2**32).to_bytes(4, "little")


_WAYS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    _flip, _overwrite, _cut, _insert, _move, _splice, _lengths,
)  # fmt: skip


def attack(runs: int, seed: int) -> int:
    """Run so many alterations; returns how many were other bytes than those that were written."""
    dice, chunks, altered = random.Random(seed), _chunks(), 0
    new_key, moved_to = os.urandom(32), ChunkIdentity(KeyScope(new_id(), new_id(), new_id(), 2), new_id())
    for run in range(runs):
        written, key, place = dice.choice(chunks)
        data = bytearray(written)
        dice.choice(_WAYS)(data, dice, dice.choice(chunks)[0])
        same = bytes(data) == written
        altered += not same
        try:
            if run % 2:
                verify(data, key, place)
            else:
                rekey(data, key, place, new_key, moved_to)
        except IntegrityError:
            if same:
                raise AssertionError("what was written was refused") from None
            continue
        if not same:
            raise AssertionError(f"altered bytes were accepted in run {run} of seed {seed}")
    return altered


if __name__ == "__main__":
    count, chosen = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    began = time.monotonic()
    different = attack(count, chosen)
    sys.stdout.write(
        f"{count} runs of seed {chosen}, {different} altered, in {time.monotonic() - began:.0f} s: all refused\n"
    )
