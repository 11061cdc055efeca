"""Measures, and prints the figures that docs/benchmarks.md holds: ``make bench`` or ``make bench-quick``.

Every figure is a ratio of medians of interleaved runs on the same data: what dsvault does beside what one would do
with pyarrow alone. Files of both lie in ``.bench/``.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import vault
from vault.chunks import EncodeOptions, decode, encode, rekey
from vault.encoding import new_id
from vault.model import ChunkIdentity, KeyScope

# Beside this file, and the repository itself: the servers of the tests are started here too.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
from appends import appends
from asked import requests
from backing import backup
from data import KINDS, mixed
from endurance import long
from filesystem import filesystem
from jobs import fan_out, humaneval, rekeys, rewrapping, rivals
from kms import kms
from load import load
from memory import memory
from planning import planning
from readers import readers
from report import report
from revocation import revocation
from scaling import scaling
from sharing import sharing
from startup import startup
from streaming import leases, streams
from telling import telling

_FOLDER = Path(".bench")
#: What is measured of brokers and commands in processes of their own.
_PROCESSES = {
    "startup": startup,
    "appends": appends,
    "backup": backup,
    "load": load,
    "streams": streams,
    "lease": leases,
    "revocation": revocation,
    "telling": telling,
    "readers": readers,
    "report": report,
    "requests": requests,
    "sharing": sharing,
    "ray": scaling,
    "filesystem": filesystem,
    "long": long,
}
_THREE = ["id", "label", "score"]
_TEXT_AND_TWO = ["id", "prompt", "score"]


def _interleaved(runs: int, **steps: Callable[[], object]) -> dict[str, float]:
    """Medians in seconds of steps that take turns; one turn first that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(runs + 1):
        for name, step in steps.items():
            gc.collect()
            started = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def _row(what: str, beside: str, ours: float, theirs: float, goal: str) -> None:
    sys.stdout.write(f"| {what} | {beside} | {ours:.3f} s | {theirs:.3f} s | {ours / theirs:.2f} | {goal} |\n")
    sys.stdout.flush()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _publish_and_read(table: pa.Table, runs: int) -> vault.owner.Vault:
    lab = vault.init(_FOLDER / "lab")
    plain = _FOLDER / "plain.parquet"
    count = iter(range(1000))

    def write_plain() -> None:
        pq.write_table(table, plain, compression="zstd", row_group_size=65_536)

    def write_plain_synced() -> None:
        write_plain()
        _sync(plain)

    def publish() -> None:
        lab.publish(f"d{next(count)}", table)

    found = _interleaved(runs, publish=publish, plain=write_plain, synced=write_plain_synced)
    _row("publish, owner's compartment", "`write_table`, zstd", found["publish"], found["plain"], "≤ 1.0")
    _row("publish, owner's compartment", "`write_table`, zstd, then fsync", found["publish"], found["synced"], "≤ 1.0")
    for names, shown in (
        (_THREE, "read 3 of 12 columns (id, label, score)"),
        (_TEXT_AND_TWO, "read 3 of 12 columns (id, prompt, score)"),
        (table.column_names, "read all 12 columns"),
    ):
        found = _interleaved(
            runs,
            vault=lambda names=names: lab.scan("d0", columns=names).read_all(),  # type: ignore[misc]
            plain=lambda names=names: pq.read_table(plain, columns=names),  # type: ignore[misc]
        )
        goal = "≤ 1.0" if len(names) < len(table.column_names) else "≤ 1.1"
        _row(shown, "`read_table` of the plain file", found["vault"], found["plain"], goal)
    return lab


def _identity() -> ChunkIdentity:
    return ChunkIdentity(KeyScope(new_id(), new_id(), new_id(), 1), new_id())


def _rekey(table: pa.Table, runs: int) -> None:
    """Page-level rekey beside decode and encode of the same chunks, on one thread each."""
    for kind, names in {"mixed table, all 12 columns": table.column_names, **KINDS}.items():
        pieces = [table.select([name]).slice(0, 131_072) for name in names]
        keys, places = [os.urandom(32) for _ in pieces], [_identity() for _ in pieces]
        data = [encode(piece, key, place) for piece, key, place in zip(pieces, keys, places, strict=True)]
        size = sum(chunk.size for chunk in data)

        def by_page(data=data, keys=keys, places=places) -> None:  # type: ignore[no-untyped-def]
            for chunk, key, place in zip(data, keys, places, strict=True):
                rekey(chunk, key, place, os.urandom(32), _identity())

        def by_value(data=data, keys=keys, places=places) -> None:  # type: ignore[no-untyped-def]
            for chunk, key, place in zip(data, keys, places, strict=True):
                encode(decode(chunk, key, place), os.urandom(32), _identity(), EncodeOptions())

        found = _interleaved(runs, page=by_page, value=by_value)
        times = found["value"] / found["page"]
        speed = size / found["page"] / 1e9
        goal = "≥ 10 times" if kind.startswith("mixed") else ""
        sys.stdout.write(
            f"| rekey, {kind} ({size / 1e6:.0f} MB) | decode + encode | {found['page']:.3f} s | {found['value']:.3f} s "
            f"| {times:.1f} times faster, {speed:.1f} GB/s | {goal} |\n"
        )


_PUBLISH_LARGE = """
import re, sys, time
import vault

def highest():
    # Not getrusage: its peak is inherited from the process that started this one.
    with open("/proc/self/status") as status:
        return re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]

lab = vault.open(sys.argv[1])
base = highest()
started = time.perf_counter()
done = lab.publish("large", sys.argv[2])
seconds = time.perf_counter() - started
print(done.rows, seconds, base, highest())
"""


def _large(megabytes: int) -> None:
    """Peak memory of publishing one large file, in a process of its own."""
    lab = _FOLDER / "large"
    vault.init(lab)
    for ending in ("parquet", "jsonl"):
        source = _FOLDER / f"large.{ending}"
        _write_large(source, megabytes)
        done = subprocess.run(
            [sys.executable, "-c", _PUBLISH_LARGE, str(lab), str(source)], capture_output=True, text=True, check=True
        )
        rows, seconds, base, peak = done.stdout.split()
        sys.stdout.write(
            f"| {ending}, {source.stat().st_size / 1e6:.0f} MB, {rows} rows | {float(seconds):.1f} s "
            f"| {int(base) / 1024:.0f} MiB | {int(peak) / 1024:.0f} MiB |\n"
        )
        sys.stdout.flush()
        source.unlink()


def _write_large(path: Path, megabytes: int) -> None:
    piece = mixed(20_000)
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, piece.schema, compression="none", use_dictionary=False) as writer:
            while path.stat().st_size < megabytes * 1e6:
                writer.write_table(piece)
        return
    lines = b"".join(
        json.dumps(row, default=str).encode() + b"\n" for row in piece.drop_columns("embedding").to_pylist()
    )
    with path.open("wb") as file:
        for _ in range(int(megabytes * 1e6 / len(lines)) + 1):
            file.write(lines)


def main() -> None:
    """Print every table."""
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true", help="small data, fewer runs")
    options.add_argument("--kms", action="store_true", help="only what the KMS is asked")
    options.add_argument("--jobs", action="store_true", help="only fan-outs and rekeys")
    options.add_argument("--planning", action="store_true", help="only the plans of a version with very many chunks")
    options.add_argument("--appends", action="store_true", help="only durable appends to the audit log")
    options.add_argument("--backup", action="store_true", help="only what the backup and a restore take")
    options.add_argument("--load", action="store_true", help="only many small reads at once")
    options.add_argument("--telling", action="store_true", help="only how long refusals take")
    options.add_argument("--streams", action="store_true", help="only streams beside bare ones, and 64 at once")
    options.add_argument("--lease", action="store_true", help="only what a broker takes of the processor for a lease")
    options.add_argument("--long", action="store_true", help="only ten minutes of everything at once")
    options.add_argument("--readers", action="store_true", help="only what vendors' tools take for a slice")
    options.add_argument("--report", action="store_true", help="only the report of a vendor's exposure")
    options.add_argument("--requests", action="store_true", help="only what an S3 store is asked")
    options.add_argument("--sharing", action="store_true", help="only Delta Sharing's client beside a static server")
    options.add_argument("--revocation", action="store_true", help="only how long an access goes on after its end")
    options.add_argument("--startup", action="store_true", help="only how long short commands take")
    options.add_argument("--ray", action="store_true", help="only publish and rekey on Ray, and the cost of its tasks")
    options.add_argument("--filesystem", action="store_true", help="only tools that open a slice as a file")
    options.add_argument("--large", action="store_true", help="only the publishing of large files")
    chosen = options.parse_args()
    quick = chosen.quick
    if chosen.kms or chosen.planning or chosen.large or any(getattr(chosen, name) for name in _PROCESSES):
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _FOLDER.mkdir()
        for name, measure in _PROCESSES.items():
            if getattr(chosen, name):
                measure(_FOLDER, quick=quick)
        if chosen.kms:
            kms(_FOLDER, quick=quick)
        elif chosen.large:
            _large(100 if quick else 2000)
        elif chosen.planning:
            planning(_FOLDER, 100_000 if quick else 1_000_000, 1 if quick else 3)
        shutil.rmtree(_FOLDER)
        return
    rows, runs, megabytes = (30_000, 1, 100) if quick else (880_000, 3, 2000)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir()
    table = mixed(rows)
    versions = f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    sys.stdout.write(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, {versions}; "
        f"{rows} rows, {table.nbytes / 1e6:.0f} MB of Arrow memory; medians of {runs} interleaved runs.\n\n"
        "| what | beside | dsvault | beside | ratio | goal |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    lab = vault.init(_FOLDER / "lab") if chosen.jobs else _publish_and_read(table, runs)
    fan_out(lab, table, runs, _interleaved)
    rekeys(lab, table, runs, _interleaved, _FOLDER)
    if chosen.jobs:
        shutil.rmtree(_FOLDER)
        return
    _rekey(table, runs)
    humaneval(lab, runs, _interleaved, _FOLDER, 100 if quick else 1500)
    rivals(lab, table, runs, _interleaved, _FOLDER)
    shutil.rmtree(_FOLDER / "lab")
    memory(table, _FOLDER)
    del table
    sys.stdout.write("\n| what | time | bytes read |\n| --- | --- | --- |\n")
    rewrapping(_FOLDER, 1_200 if quick else 100_000)
    sys.stdout.write(
        "\n| planned | first | again | objects read | memory before | peak memory | goal |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    planning(_FOLDER, 100_000 if quick else 1_000_000, runs)
    sys.stdout.write("\n| source | publish | memory before | peak memory |\n| --- | --- | --- | --- |\n")
    _large(megabytes)
    kms(_FOLDER, quick=quick)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    for name, measure in _PROCESSES.items():
        if name in {"long", "ray"}:
            continue  # by itself, when it is asked for
        _FOLDER.mkdir(exist_ok=True)
        measure(_FOLDER, quick=quick)
        shutil.rmtree(_FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
