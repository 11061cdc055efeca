"""Reading a lease: pages of chunk keys from the broker, ciphertext from wherever it is, decrypted here in parallel."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa
import xxhash

from vault.chunks import decode
from vault.client.http import FIRST_WAIT, Patience
from vault.client.pieces import Piece, Reading
from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError, Unavailable
from vault.model import ChunkIdentity, KeyScope
from vault.wire import LeasedChunk, LeasedGroup, LeasedShard, LeasePage

__all__ = ["Lease"]

_BATCH_ROWS: Final = 65_536
#: Chunks under way at once, and the bytes of ciphertext beyond which no other one is begun.
_THREADS: Final = 16
_AHEAD_BYTES: Final = 256 << 20
#: A larger chunk comes from a store in ranges of so many bytes, of which a few are under way at once.
_RANGE: Final = 16 << 20
_RANGES: Final = 4
#: A page should be read well before its addresses end: pages grow while they are read fast, and shrink else.
_FIRST_PAGE: Final = 256 << 20
_MOST_PAGE: Final = 4 << 30
_LEAST_PAGE: Final = 8 << 20
_FAST: Final = 30.0
_SLOW: Final = 120.0
#: Answers of an address whose time is over, or whose object is gone.
_OVER: Final = frozenset({400, 401, 403, 404, 410})


class Lease:
    """One read over as many pages as it takes.

    ``ask`` gets a page for what is added to the request; ``get`` gets status and body of an address, or of ``size``
    bytes of it.
    """

    def __init__(
        self,
        ask: Callable[[dict[str, Any]], LeasePage],
        get: Callable[..., tuple[int, bytes]],
        patience: timedelta,
    ) -> None:
        self._ask = ask
        self._get = get
        self._patience = Patience(patience)
        self._page_bytes = _FIRST_PAGE
        self._direct = True

    def reading(self, cursor: str | None = None, done: int = 0) -> Reading:
        """The first page's schema, and the batches of all; from a cursor on, where ``done`` rows have come before."""
        page = self._asked(from_base64(cursor, "a cursor") if cursor is not None else None)
        return Reading(page.schema, page.rows, self._pieces(page, done))

    def _asked(self, cursor: bytes | None) -> LeasePage:
        more: dict[str, Any] = {"page_bytes": self._page_bytes, "direct": self._direct}
        return self._ask(more | ({"cursor": to_base64(cursor)} if cursor is not None else {}))

    def _pieces(self, first: LeasePage, done: int) -> Iterator[Piece]:
        page = first
        while True:
            cursor, failure, began = page.next, None, time.monotonic()
            tables = self._tables(page)
            for shard, behind in zip(page.shards, _places(page), strict=True):
                try:
                    table = next(tables)
                except Unavailable as error:
                    cursor, failure = shard.cursor, error
                    break
                batches = table.to_batches(max_chunksize=_BATCH_ROWS)
                # Leases go on at the border of a shard, so of its batches only the last has a place behind it.
                for number, batch in enumerate(batches, 1):
                    yield Piece(batch, behind if number == len(batches) else None)
                done += shard.rows
                self._patience.renew()
            tables.close()
            self._pace(time.monotonic() - began, failed=failure is not None)
            if cursor is None:
                break
            page = self._next(cursor, failure)
            if not page.schema.equals(first.schema):
                raise Unavailable("what is read has changed since; begin the read anew")
        if done != first.rows:
            raise Unavailable("the lease ended before all of its rows had come")

    def _pace(self, seconds: float, *, failed: bool) -> None:
        """Ask for pages that are read well before their addresses end."""
        if failed or seconds > _SLOW:
            self._page_bytes = max(_LEAST_PAGE, self._page_bytes // 4)
        elif seconds < _FAST:
            self._page_bytes = min(_MOST_PAGE, self._page_bytes * 2)

    def _next(self, cursor: bytes, failure: Unavailable | None) -> LeasePage:
        """The page that begins at a cursor; raises what went wrong once nothing has come for too long."""
        while True:
            if failure is not None:
                self._patience.wait(failure)
            try:
                return self._asked(cursor)
            except Unavailable as error:
                failure = error

    def _tables(self, page: LeasePage) -> Generator[pa.Table]:
        """The shards of a page, in order; chunks are fetched and decoded ahead of them."""
        waiting: deque[tuple[int, Future[pa.Table]]] = deque()
        chunks = (
            (group, shard, chunk)
            for shard in page.shards
            for group, chunk in zip(page.groups, shard.chunks, strict=True)
        )
        under_way = 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="dsvault") as pool:
            try:
                for shard in page.shards:
                    pieces = []
                    for _ in shard.chunks:
                        while not waiting or (len(waiting) < _THREADS and under_way < _AHEAD_BYTES):
                            found = next(chunks, None)
                            if found is None:
                                break
                            group, whose, chunk = found
                            waiting.append((chunk.size, pool.submit(self._open, page.vault, group, whose, chunk)))
                            under_way += chunk.size
                        size, future = waiting.popleft()
                        pieces.append(future.result())
                        under_way -= size
                    yield _joined(page.schema, pieces)
            finally:
                for _, future in waiting:
                    future.cancel()

    def _open(self, vault: str, group: LeasedGroup, shard: LeasedShard, chunk: LeasedChunk) -> pa.Table:
        identity = ChunkIdentity(KeyScope(vault, group.compartment, group.group, group.epoch), chunk.chunk)
        table = decode(self._fetched(chunk), chunk.key, identity, group.schema, group.formerly)
        if table.num_rows != shard.rows:
            raise IntegrityError(f"chunk {chunk.chunk} has another number of rows than the broker says")
        return table

    def _fetched(self, chunk: LeasedChunk) -> bytes:
        """The ciphertext of a chunk; raises Unavailable where another page may have it yet."""
        wait = FIRST_WAIT
        for last in (False, False, True):
            try:
                status, data = self._got(chunk)
            except Unavailable:
                # Not every vendor has a way to the lab's store: the broker has one.
                self._direct = self._direct and chunk.url.startswith("/")
                raise
            whole = len(data) == chunk.size and xxhash.xxh3_128_hexdigest(data) == chunk.checksum
            if status == 200 and whole:
                return data
            if status in _OVER or last:
                break
            # A store that has too much to do, or a way on which something was lost.
            time.sleep(wait)
            wait *= 4
        if status != 200:
            raise Unavailable(f"a chunk could not be fetched (HTTP status {status})")
        raise IntegrityError(f"chunk {chunk.chunk} is not what the broker says: it was cut or changed")

    def _got(self, chunk: LeasedChunk) -> tuple[int, bytes]:
        """Status and body of a chunk's address; a large one of a store's in ranges beside one another."""
        if chunk.size <= _RANGE or chunk.url.startswith("/"):
            return self._get(chunk.url, chunk.size)

        def part(start: int) -> tuple[int, bytes]:
            return self._get(chunk.url, min(_RANGE, chunk.size - start), start)

        with ThreadPoolExecutor(_RANGES, thread_name_prefix="dsvault") as pool:
            found = list(pool.map(part, range(0, chunk.size, _RANGE)))
        statuses = {status for status, _ in found}
        if 200 in statuses:  # a store that knows no ranges
            return self._get(chunk.url, chunk.size)
        return min(statuses - {206}, default=200), b"".join(data for _, data in found)


def _joined(schema: pa.Schema, pieces: list[pa.Table]) -> pa.Table:
    columns = {name: column for piece in pieces for name, column in zip(piece.column_names, piece.columns, strict=True)}
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _places(page: LeasePage) -> list[str | None]:
    """The cursor behind each shard of a page, None behind the last of all."""
    behind = [*(shard.cursor for shard in page.shards[1:]), page.next][: len(page.shards)]
    return [to_base64(cursor) if cursor is not None else None for cursor in behind]
