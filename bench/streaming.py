"""Streams and leases: ``bench/run.py --streams`` and ``--lease``."""

import http.client
import json
import logging
import os
import socket
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from asking import Asker, Requests
from data import KINDS, mixed
from serving import Server, brokers, peak, process, resident, spent

import vault
from tests.support.servers import aws
from vault.owner import Vault
from vault.wire import Profile

__all__ = ["Stream", "leases", "same", "streams"]

_PATH = "/v1/datasets/evals/read"


@dataclass(frozen=True)
class Stream:
    """One answer that was read to its end: seconds, and the Arrow IPC stream."""

    seconds: float
    data: bytes


def _get(url: str, method: str, path: str, headers: dict[str, str], body: bytes | None) -> Stream:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    began = time.perf_counter()
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    seconds = time.perf_counter() - began
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"no stream: {data[:200]!r}")
    return Stream(seconds, data)


def ours(server: Server, profile: Profile, columns: list[str]) -> Stream:
    """A broker's stream."""
    request = Requests(profile, server.url).make(_PATH, {"columns": columns})
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return _get(server.url, "POST", _PATH, headers, body)


def same(data: bytes, table: pa.Table) -> bool:
    """Whether a stream holds just these rows; a broker's ends with an empty batch."""
    return bool(pa.ipc.open_stream(data).read_all().replace_schema_metadata().equals(table))


def _against_bare(lab: Vault, folder: Path, table: pa.Table, runs: int) -> int:
    plain = folder / "plain.parquet"
    pq.write_table(table, plain, compression="zstd", row_group_size=65_536)
    kinds = {"mixed, all 12 columns": tuple(table.column_names), **KINDS}
    sys.stdout.write(
        "| streamed, uncompressed | dsvault | bare uvicorn, plain Parquet, no checks | ratio | goal "
        "| peak memory | of the bare one |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    wrong = 0
    for kind, names in kinds.items():
        columns, part = list(names), table.select(list(names))
        with brokers(folder / "lab", 1) as (server,), process([sys.executable, _BARE, str(plain)]) as bare:
            profile = lab.issue_credential("acme", endpoint=server.url).profile
            found: dict[str, list[Stream]] = {"ours": [], "theirs": []}
            for turn in range(runs + 1):
                both = {
                    "ours": ours(server, profile, columns),
                    "theirs": _get(bare.url, "GET", f"/?columns={','.join(columns)}", {}, None),
                }
                for name, stream in both.items():
                    wrong += not same(stream.data, part)
                    if turn:
                        found[name].append(Stream(stream.seconds, b""))
            speeds = {
                name: part.nbytes / statistics.median(each.seconds for each in streams) / 1e6
                for name, streams in found.items()
            }
            sys.stdout.write(
                f"| {kind} ({part.nbytes / 1e6:.0f} MB) | {speeds['ours']:.0f} MB/s | {speeds['theirs']:.0f} MB/s "
                f"| {speeds['ours'] / speeds['theirs']:.2f} | ≥ 0.85 | {peak(server.pid):.0f} MiB "
                f"| {peak(bare.pid):.0f} MiB |\n"
            )
            sys.stdout.flush()
    return wrong


_BARE = str(Path(__file__).with_name("bare.py"))


class _Many:
    """Readers of one broker until the time is over: fast ones, and slow ones that keep their stream open."""

    def __init__(self, server: Server, profile: Profile, columns: list[str], table: pa.Table, seconds: float) -> None:
        self._server, self._profile, self._columns, self._table = server, profile, columns, table
        self._ends = time.perf_counter() + seconds
        self._lock = threading.Lock()
        self.whole = self.partly = self.wrong = 0

    def fast(self) -> None:
        """One stream after the other, each to its end."""
        while time.perf_counter() < self._ends:
            stream = ours(self._server, self._profile, self._columns)
            right = same(stream.data, self._table)
            with self._lock:
                self.whole, self.wrong = self.whole + 1, self.wrong + (not right)

    def slow(self) -> None:
        """A few KiB at a time, so that one stream takes the whole time; then what came is compared."""
        place = urlsplit(self._server.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sock.sendall(Requests(self._profile, self._server.url).make(_PATH, {"columns": self._columns}))
        answer = http.client.HTTPResponse(connection.sock, method="POST")
        answer.begin()
        data = bytearray()
        while time.perf_counter() < self._ends and (more := answer.read(32_768)):
            data += more
            time.sleep(0.05)
        connection.close()
        rows, right = 0, answer.status == 200
        try:
            for batch in pa.ipc.open_stream(bytes(data)):
                piece = self._table.slice(rows, batch.num_rows)
                right = right and pa.Table.from_batches([batch]).replace_schema_metadata().equals(piece)
                rows += batch.num_rows
        except (pa.ArrowInvalid, OSError):
            pass  # it was cut off in the midst of a batch
        with self._lock:
            self.partly, self.wrong = self.partly + 1, self.wrong + (not right)


def _sixty_four(lab: Vault, folder: Path, table: pa.Table, seconds: float) -> int:
    columns = list(KINDS["numbers"])
    with brokers(folder / "lab", 1) as (server,):
        profile = lab.issue_credential("acme", endpoint=server.url).profile
        start = resident(server.pid)
        many = _Many(server, profile, columns, table.select(columns), seconds)
        seen: list[float] = []
        with ThreadPoolExecutor(64) as pool:
            running = [pool.submit(many.slow if number % 4 == 0 else many.fast) for number in range(64)]
            while not all(each.done() for each in running):
                seen.append(resident(server.pid))
                time.sleep(0.25)
            for each in running:
                each.result()
        quarter = max(1, len(seen) // 4)
        sys.stdout.write(
            "\n| 64 streams at once, 16 of them slow | streams read whole | memory before | second quarter "
            "| last quarter | peak | wrong answers |\n| --- | --- | --- | --- | --- | --- | --- |\n"
            f"| {seconds:.0f} s | {many.whole} | {start:.0f} MiB "
            f"| {statistics.mean(seen[quarter : 2 * quarter]):.0f} MiB "
            f"| {statistics.mean(seen[-quarter:]):.0f} MiB | {peak(server.pid):.0f} MiB | {many.wrong} |\n"
        )
    return many.wrong


def streams(folder: Path, *, quick: bool) -> None:
    """Print how fast streams are beside bare ones, and what 64 at once take of memory."""
    table = mixed(20_000 if quick else 200_000)
    lab = vault.init(folder / "lab")
    lab.add_vendor("acme")
    lab.publish("evals", table)
    lab.grant("acme", "evals", table.column_names, expires=timedelta(days=1))
    wrong = _against_bare(lab, folder, table, 1 if quick else 5)
    wrong += _sixty_four(lab, folder, table, 5 if quick else 40)
    sys.stdout.write(f"\nWrong answers in all: {wrong}.\n")


def _lease_row(what: str, seconds: float, size: int, pages: int, chunks: int) -> None:
    sys.stdout.write(
        f"| {what} | {pages or ''} | {chunks or ''} | {size / 1e9:.2f} GB | {seconds * 1000:.0f} ms "
        f"| {seconds * 1000 / size * 1e12:.0f} ms |\n"
    )
    sys.stdout.flush()


def _pages(server: Server, profile: Profile, *, direct: bool, times: int) -> tuple[int, int, list[str]]:
    """All pages of a lease so many times; their bytes and chunks, and the addresses of one of them."""
    asker = Asker(profile, server.url)
    size = chunks = 0
    urls: list[str] = []
    for _ in range(times):
        answer = asker.ask("/v1/datasets/evals/lease", {"direct": direct})
        page = json.loads(answer.body)
        if answer.status != 200 or page["next"] is not None:
            raise RuntimeError(f"not one page: {answer.body[:200]!r}")
        found = [chunk for shard in page["shards"] for chunk in shard["chunks"]]
        urls = [chunk["url"] for chunk in found]
        size, chunks = size + sum(chunk["size"] for chunk in found), chunks + len(found)
    asker.close()
    return size, chunks, urls


def _fetched(server: Server, profile: Profile, times: int) -> int:
    """The ciphertext of one page, through the broker, so many times; its bytes."""
    _, _, urls = _pages(server, profile, direct=False, times=1)
    place, size = urlsplit(server.url), 0
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    for _ in range(times):
        for url in urls:
            connection.request("GET", url)
            answer = connection.getresponse()
            size += len(answer.read())
            if answer.status != 200:
                raise RuntimeError("an address of a lease is not served")
    connection.close()
    return size


def _bucket(url: str) -> None:
    """An empty bucket, and the environment in which this process and the brokers find it."""
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="bench")


def leases(folder: Path, *, quick: bool) -> None:
    """Print what a broker takes of the processor for a lease, beside a stream of the same columns."""
    table, times = mixed(20_000 if quick else 200_000), 20 if quick else 200
    sys.stdout.write(
        "| way | pages | chunks | ciphertext | broker's processor time | a TB |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    with aws() as url:
        _bucket(url)
        for what, store, direct in (
            ("lease, addresses at the broker", None, False),
            ("lease, presigned S3 addresses", "s3://bench/vault", True),
        ):
            place = folder / ("s3" if store else "files")
            lab = vault.init(place, store=store)
            lab.add_vendor("acme")
            lab.publish("evals", table)
            lab.grant("acme", "evals", table.column_names, delivery="lease", expires=timedelta(days=1))
            with brokers(place, 1) as (server,):
                profile = lab.issue_credential("acme", endpoint=server.url).profile
                _pages(server, profile, direct=direct, times=2)
                before = spent(server.pid)
                size, chunks, _ = _pages(server, profile, direct=direct, times=times)
                _lease_row(what, spent(server.pid) - before, size, times, chunks)
                if store is None:
                    before = spent(server.pid)
                    size = _fetched(server, profile, 3)
                    _lease_row("ciphertext fetched through the broker", spent(server.pid) - before, size, 1, 0)
                    before, right = spent(server.pid), True
                    for _ in range(3):
                        right = right and same(ours(server, profile, table.column_names).data, table)
                    # By the ciphertext that it stands for, so that the rows compare.
                    _lease_row("stream", spent(server.pid) - before, size, 0, 0)
                    leased = vault.Client(profile).open("evals").to_arrow(delivery="lease")
                    right = right and leased.replace_schema_metadata().equals(table)
                    sys.stdout.write("" if right else "WRONG ANSWER\n")
