"""How long a report of a vendor's exposure takes over a log of a million entries: ``bench/run.py --report``.

The log is sealed and hashed as every other, only in large transactions. Its entries are those of reads: whole shards,
rows of a shard, rows that a filter left as runs and as bitmaps, pages of leases, reads that break off or have no end.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

import vault
from vault.audit import Entry, Kind, Sealer, append, sign_checkpoint
from vault.catalog import LogRow, LogTailRow
from vault.encoding import new_id, timestamp, to_base64, utcnow
from vault.owner import Vault
from vault.rowsets import item_of
from vault.trust import Role

__all__ = ["report"]

_SHARDS, _SHARD_ROWS, _TRANSACTION = 1000, 131_072, 5000
_COLUMNS = ("id", "prompt", "answer", "lang", "score", "meta")
_VENDORS = 20
#: One reads as much as all others together.
_BUSY = "v19"


class _Made:
    """Makes entries, one after the other in time."""

    def __init__(self, vendors: dict[str, str]) -> None:
        self._random = random.Random(7)
        self._vendors = vendors
        self._dataset = new_id()
        self._ids = {name: new_id() for name in _COLUMNS}
        self._now = utcnow()
        self._who = {name: [self._hand(name, identity) for _ in range(12)] for name, identity in vendors.items()}
        bitmap = np.random.default_rng(7)
        self._bitmaps = [item_of(shard, bitmap.random(_SHARD_ROWS) < 0.5) for shard in range(64)]

    def _hand(self, name: str, identity: str) -> dict[str, Any]:
        return {
            "vendor": name, "vendor_id": identity, "credential": new_id(), "delegates": [], "subject": None,
            "address": f"192.0.2.{self._random.randrange(250)}", "grant": new_id(), "purpose": "review",
            "dataset": "evals", "dataset_id": self._dataset, "version": 1,
        }  # fmt: skip

    def _entry(self, kind: Kind, **fields: Any) -> Entry:
        self._now += timedelta(milliseconds=37)
        return Entry(kind, self._now, fields)

    def published(self) -> Iterator[Entry]:
        """What the reads are of, and who has it."""
        yield self._entry(
            Kind.PUBLISHED, dataset="evals", dataset_id=self._dataset, version=1, rows=_SHARDS * _SHARD_ROWS,
            columns=list(_COLUMNS), column_ids=list(self._ids.values()), groups=[new_id() for _ in _COLUMNS],
            layout=[[0, _SHARDS - 1, _SHARD_ROWS, None]], base=None, vendors=[], started=timestamp(self._now),
        )  # fmt: skip
        for name, identity in self._vendors.items():
            common = {"vendor": name, "vendor_id": identity, "dataset": "evals", "dataset_id": self._dataset}
            yield self._entry(
                Kind.GRANTED, **common, grant=new_id(), columns=list(_COLUMNS), column_ids=list(self._ids.values()),
                cuts=dict.fromkeys(self._ids.values()), where=None, purpose="review", expires=None, starts=None,
                masks={}, versions="latest", pinned=None, limits={}, delivery="stream",
            )  # fmt: skip
            yield self._entry(
                Kind.CREDENTIAL_ISSUED, vendor=name, vendor_id=identity, credential=new_id(), networks=[], key="k",
                expires=timestamp(self._now + timedelta(days=365)), provider=None,
            )  # fmt: skip
            yield self._entry(
                Kind.FANNED_OUT, **common, version=1, compartment=new_id(), groups=[], epochs={},
                columns=list(_COLUMNS), column_ids=list(self._ids.values()), shards=[[0, _SHARDS - 1]],
            )  # fmt: skip

    def _items(self) -> list[dict[str, Any]]:
        shard, kind = self._random.randrange(_SHARDS), self._random.random()
        if kind < 0.6:
            return [{"shards": [shard, min(_SHARDS - 1, shard + self._random.randrange(4))]}]
        if kind < 0.8:
            return [{"shard": shard, "rows": [[0, self._random.randrange(1, 1000)]]}]
        if kind < 0.99:
            starts = sorted(self._random.sample(range(0, _SHARD_ROWS, 4), 40))
            return [{"shard": shard, "rows": [[start, start + 1] for start in starts]}]
        return [self._random.choice(self._bitmaps)]

    def entries(self, count: int, last: int) -> Iterator[Entry]:
        """So many entries behind the first ``last``."""
        number, names, open_reads = last, list(self._vendors), list[tuple[int, dict[str, Any]]]()
        weights = [len(names) - 1 if name == _BUSY else 1 for name in names]
        for _ in range(count):
            number += 1
            step = self._random.random()
            if open_reads and (len(open_reads) > 40 or step < 0.49):
                read, who = open_reads.pop(self._random.randrange(len(open_reads)))
                if step > 0.487:
                    yield self._entry(Kind.REFUSED, **who, columns=["answer"], reason="NotGranted")
                    continue  # and the read has no end
                outcome = "complete" if step < 0.46 else "broken off"
                yield self._entry(
                    Kind.READ_ENDED, **who, read=read, served=self._items(), rows=100, bytes=10_000, outcome=outcome
                )
                continue
            who = self._random.choice(self._who[self._random.choices(names, weights)[0]])
            names_read = _COLUMNS[: self._random.randrange(1, len(_COLUMNS) + 1)]
            common = {
                **who, "columns": list(names_read), "column_ids": [self._ids[name] for name in names_read],
                "groups": ["g"], "epochs": {"g": 1}, "compartment": who["vendor_id"][::-1],
            }  # fmt: skip
            if step > 0.98:
                first = self._random.randrange(_SHARDS - 4)
                yield self._entry(
                    Kind.LEASED, **common, delivery="lease", shards=[[first, first + 3]], rows=4 * _SHARD_ROWS,
                    bytes=10_000_000, chunks={"g": to_base64(os.urandom(64))}, until=timestamp(self._now),
                )  # fmt: skip
                continue
            yield self._entry(
                Kind.READ_BEGUN, **common, delivery="stream", shards=[[0, _SHARDS - 1]], where=None, filtered=False,
                limit=None, masks={}, resumed=None,
            )  # fmt: skip
            open_reads.append((number, who))


def _write(lab: Vault, entries: Iterator[Entry]) -> None:
    """Append in large transactions."""
    parts = lab.parts
    root = parts.journal.roots.current
    sealer = Sealer(root.vault, root.public_key(Role.AUDITOR))
    signer = parts.signers.keys.signer(Role.LOG, root)
    tail = parts.journal.claimed()[0]
    waiting: list[tuple[datetime, bytes]] = []

    def commit() -> None:
        nonlocal tail
        leaves, tail = append(tail, waiting)
        note = sign_checkpoint(root.vault, tail.checkpoint, signer)
        with parts.catalog.write() as transaction:
            transaction.append_log(
                [LogRow(each.sequence, each.time, each.sealed, each.hash) for each in leaves],
                LogTailRow(note, b"".join(tail.edge.hashes)),
            )
        waiting.clear()

    for entry in entries:
        waiting.append((entry.time, sealer.seal(entry)))
        if len(waiting) == _TRANSACTION:
            commit()
    if waiting:
        commit()


def _resident(processes: set[int]) -> int:
    """The memory of some processes together, in KiB."""
    total = 0
    for process in processes:
        try:
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total


def _family(process: int) -> set[int]:
    """A process and those that it started."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return {process, *map(int, children)}


def _measure(lab: Path, vendor: str, out: Path) -> tuple[float, int, str]:
    """Seconds from the command to the finished page, the most memory of its processes together, and what it said."""
    command = [
        sys.executable,
        "-m",
        "vault_cli.main",
        "incident",
        "report",
        vendor,
        "-o",
        str(out),
        "--vault",
        str(lab),
    ]
    started, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, _resident(_family(process.pid)))
            time.sleep(0.02)
        assert process.stdout is not None
        told = process.stdout.read()
    if process.returncode:
        raise RuntimeError("the report failed")
    return time.perf_counter() - started, most, told


def report(folder: Path, *, quick: bool) -> None:
    """Print a row for a vendor of one in forty entries, and one for the vendor of half of them."""
    count = 50_000 if quick else 1_000_000
    lab = vault.init(folder / "report")
    vendors = {f"v{number:02}": lab.add_vendor(f"v{number:02}") for number in range(_VENDORS)}
    made = _Made(vendors)
    _write(lab, made.published())
    last = lab.parts.journal.claimed()[0].checkpoint.size
    _write(lab, made.entries(count - last, last))
    sys.stdout.write(
        "\n| entries | of the vendor | from the catalog to the page | peak memory, all processes | page | goal |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for vendor, share in (("v00", "1 in 40"), (_BUSY, "every other")):
        out = folder / f"{vendor}.html"
        seconds, most, _ = _measure(folder / "report", vendor, out)
        sys.stdout.write(
            f"| {count:,} | {share} | {seconds:.1f} s | {most / 1024:.0f} MiB | {out.stat().st_size / 1e3:.0f} kB "
            f"| {'≤ 10 s' if not quick else ''} |\n"
        )
        sys.stdout.flush()
