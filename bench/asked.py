"""What each act asks of an S3 store: how many requests, of which kind, and how many that is for a GB.

The store is a SeaweedFS behind a line that counts. Requests depend on how many chunks there are and not on the machine.
Then the time that a read takes where each request is 30 ms late.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from data import mixed

import vault
from tests.support.bucketline import BucketLine
from tests.support.servers import seaweedfs
from vault import access, deployment
from vault.owner import Vault
from vault.policy import Request

__all__ = ["requests"]

_LATENCY = 0.03


def requests(folder: Path, *, quick: bool) -> None:
    """Print both tables."""
    table = mixed(20_000 if quick else 200_000)
    columns = table.column_names
    gigabytes = table.nbytes / 1e9
    with seaweedfs() as server, BucketLine(server.url) as line:
        os.environ.update({**server.environment(), "AWS_ENDPOINT_URL": line.url})
        lab = vault.init(folder / "lab", store=f"s3://{server.bucket()}/vault")
        lab.add_vendor("acme")
        lab.add_vendor("globex")

        def row(what: str, act: Callable[[], Any]) -> Any:
            with line.counting() as counts:
                found = act()
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            total = sum(counts.values())
            sys.stdout.write(f"| {what} | {total} | {total / gigabytes:.0f} | {kinds} |\n")
            sys.stdout.flush()
            return found

        shards = -(-table.num_rows // 131_072)
        sys.stdout.write(
            f"{table.num_rows} rows, {gigabytes:.2f} GB of Arrow memory, {len(columns)} columns.\n\n"
            "| act | requests | for each GB | of which |\n| --- | --- | --- | --- |\n"
        )
        row("publish", lambda: lab.publish("evals", table))
        row("grant of all columns (fan-out)", lambda: lab.grant("acme", "evals", columns, expires=timedelta(days=1)))
        row("grant as a lease", lambda: lab.grant("globex", "evals", columns, delivery="lease"))
        parts = deployment.open_broker(folder / "lab")[0]
        stream, lease = (_caller(lab, parts, vendor) for vendor in ("acme", "globex"))
        row("fetch, through the broker", lambda: _read(parts, stream, table.num_rows))
        row("fetch, as a lease", lambda: _leased(parts, lease))
        row("check", lab.check)
        row("rekey", lambda: lab.rekey(vendor="acme"))
        row("gc", lambda: lab.gc(timedelta(0)))
        sys.stdout.write(f"\n{shards} shards or more.\n")
        _latency(folder, server.bucket(), line)


def _caller(lab: Vault, parts: Any, vendor: str) -> access.Caller:
    profile = lab.issue_credential(vendor, bearer=True).profile
    return access.authenticate(parts, profile.token, "bench")


def _read(parts: Any, caller: access.Caller, rows: int, columns: tuple[str, ...] | None = None) -> None:
    request = Request("evals", columns=columns) if columns else Request("evals")
    if sum(batch.num_rows for batch in access.open_delivery(parts, caller, request).batches) != rows:
        raise RuntimeError("not all rows came")


def _leased(parts: Any, caller: access.Caller) -> Counter[str]:
    """Every chunk of a lease by the address that it has, as a client fetches it."""
    import urllib3

    cursor, seen = None, Counter[str]()
    while True:
        page = access.lease_page(parts, caller, Request("evals", lease=True), cursor)
        for shard in page.shards:
            for chunk in shard.chunks:
                seen["bytes"] += len(urllib3.request("GET", chunk.url, retries=False).data)
        if page.next is None:
            return seen
        cursor = page.next


def _latency(folder: Path, bucket: str, line: BucketLine) -> None:
    """The time of a read of many small chunks where each request is late."""
    table = mixed(4_000)
    lab = vault.init(folder / "late", store=f"s3://{bucket}/vault")
    lab.add_vendor("acme")
    lab.publish("evals", table, shard_rows=100)
    lab.grant("acme", "evals", table.column_names)
    sys.stdout.write(
        f"\nEach request {1000 * _LATENCY:.0f} ms late, 40 shards:\n\n"
        "| columns | chunks | one after the other | read | under way at once |\n| --- | --- | --- | --- | --- |\n"
    )
    for count in (1, 3, 12):
        parts = deployment.open_broker(folder / "late")[0]
        caller = _caller(lab, parts, "acme")
        access.offerings(parts, caller)  # the connection, the heads and the manifest are there
        line.latency, line.peak = _LATENCY, 0
        started = time.perf_counter()
        _read(parts, caller, table.num_rows, tuple(table.column_names[:count]))
        seconds = time.perf_counter() - started
        line.latency = 0.0
        chunks = 40 * count
        sys.stdout.write(f"| {count} | {chunks} | {chunks * _LATENCY:.1f} s | {seconds:.1f} s | {line.peak} |\n")
        sys.stdout.flush()
