"""Publish and rekey on one and two worker processes of a Ray cluster, and what the driver pays for a task.

Each cluster is started anew in a process of its own, and they take turns; its start does not count.
"""

import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from data import mixed
from planning import swell

import vault
from vault.engines import RayEngine
from vault.owner import Vault
from vault.worker import RayWorkers, errands_of
from vault.workings.parcels import Parcels

__all__ = ["scaling"]

_GROUP_ROWS = 20_000
_PLANNED = 10_000


def scaling(folder: Path, *, quick: bool) -> None:
    """Print both tables."""
    megabytes, runs = (400, 1) if quick else (4000, 3)
    source = folder / "scaling.parquet"
    _write(source, megabytes)
    sys.stdout.write(
        f"{source.stat().st_size / 1e6:.0f} MB of Parquet, row groups of {_GROUP_ROWS} rows, 12 columns; medians of "
        f"{runs} runs in turns, each on a cluster of its own.\n\n"
        "| workers | cluster started | publish | MB/s | rekey | chunks | MB/s of chunks |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    found: dict[int, list[list[float]]] = {0: [], 1: [], 2: []}
    for _ in range(runs):
        for workers, each in found.items():
            each.append(_once(folder, source, workers))
    for workers, each in found.items():
        start, publish, rekey, size = (statistics.median(column) for column in zip(*each, strict=True))
        name, begun = (f"{workers}", f"{start:.1f} s") if workers else ("none: threads of one process", "")
        sys.stdout.write(
            f"| {name} | {begun} | {publish:.2f} s | {megabytes / publish:.0f} | {rekey:.2f} s "
            f"| {size / 1e6:.0f} MB | {size / 1e6 / rekey:.0f} |\n"
        )
    source.unlink()
    sys.stdout.write(
        "\n| tasks that do nothing | driver's time | of the processor | memory before | peak memory "
        "| bytes a task there | back |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for act in ("publish", "rekey"):
        _run(folder, "planned", act, str(_PLANNED))


def _write(path: Path, megabytes: int) -> None:
    piece = mixed(_GROUP_ROWS)
    with pq.ParquetWriter(path, piece.schema, compression="none", use_dictionary=False) as writer:
        while path.stat().st_size < megabytes * 1e6:
            writer.write_table(piece)


def _run(folder: Path, *arguments: str) -> str:
    """This file as a process of its own; what it prints for the table goes on."""
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(folder.absolute()), *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    if arguments[0] == "planned":
        sys.stdout.write(done.stdout)
        sys.stdout.flush()
    return done.stdout


def _once(folder: Path, source: Path, workers: int) -> list[float]:
    return [float(word) for word in _run(folder, "once", str(source), str(workers)).split()]


def _measure(folder: Path, source: str, workers: int) -> None:
    """Seconds to start, publish and rekey, and the bytes of the chunks."""
    place = folder / f"lab-{workers}"
    vault.init(place)
    started = time.perf_counter()
    parts = vault.open(place).parts
    if workers:
        engine = RayEngine(workers=workers)
        parts = replace(parts, workers=RayWorkers(place, parts.vault, engine))
        _warm(engine)
    lab, begun = Vault(place, parts), time.perf_counter()
    lab.publish("large", source)
    published = time.perf_counter()
    (done,) = lab.rekey()
    times = (begun - started, published - begun, time.perf_counter() - published)
    sys.stdout.write(" ".join(map(str, (*times, done.bytes))))
    shutil.rmtree(place)


def _warm(engine: RayEngine) -> None:
    """Every worker process has imported what it runs: that is the cluster's start."""
    tasks = (("", "", "", 0, number, b"") for number in range(8 * engine.workers))
    for _ in engine.map(_import, tasks, lambda: None):
        pass


def _import(*_arguments: object) -> bytes:
    time.sleep(0.05)
    return b""


class _Pretending:
    """Workers that open a task and say what one that did it would, without doing it."""

    def __init__(self, engine: RayEngine, folder: Path, vault: str, example: Any) -> None:
        self._engine = engine
        self._place = (str(folder), vault)
        self._example = example
        self.there = self.back = self.tasks = 0

    def map(self, job: str, step: int, parcels: Iterable[bytes], idle: Callable[[], object]) -> Iterator[bytes]:
        def tasks() -> Iterator[tuple[Any, ...]]:
            for number, parcel in enumerate(parcels):
                self.there += len(parcel)
                self.tasks += 1
                yield (self._example, *self._place, job, step, number, parcel)

        for reply in self._engine.map(pretend, tasks(), idle):
            self.back += len(reply)
            yield reply


def pretend(example: str, folder: str, identifier: str, job: str, step: int, number: int, parcel: bytes) -> bytes:
    """What a worker runs: open the task, and answer by the example of what a real one gave."""
    import json

    from vault.encoding import new_id

    parcels = Parcels(errands_of(folder, identifier).parts, job, step)
    task = parcels.open("task", number, parcel)
    if example:
        return parcels.seal("result", number, json.loads(Path(example).read_text()))
    done = []
    for ref, _ in task:
        fresh = new_id()
        done.append(
            [[ref["content"], {**ref, "epoch": ref["epoch"] + 1, "chunk": fresh, "object": f"objects/{job}/{fresh}"}]]
        )
    return parcels.seal("result", number, {"done": done})


class _Recording:
    """Real workers, and what the last of them said, opened."""

    def __init__(self, real: RayWorkers, parts: Any, path: Path) -> None:
        self._real = real
        self._parts = parts
        self._path = path

    def map(self, job: str, step: int, parcels: Iterable[bytes], idle: Callable[[], object]) -> Iterator[bytes]:
        import json

        for number, reply in enumerate(self._real.map(job, step, parcels, idle)):
            document = Parcels(self._parts, job, step).open("result", number, reply)
            self._path.write_text(json.dumps(document))
            yield reply


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        found = re.search(rf"{name}:\s+(\d+) kB", status.read())
    assert found is not None
    return int(found[1])


def _planned(folder: Path, act: str, count: int) -> None:
    """The driver's own cost of so many tasks: to plan, seal, send, hear of, open and list them."""
    place = folder / f"planned-{act}"
    lab = vault.init(place)
    parts, engine = lab.parts, RayEngine(workers=1)
    # Twelve columns, and of each task one shard of a single row.
    source, table = folder / "planned.parquet", mixed(1)
    with pq.ParquetWriter(source, table.schema, compression="none") as writer:
        writer.write_table(table)
    example = folder / "example.json"
    real = RayWorkers(place, parts.vault, engine)
    Vault(place, replace(parts, workers=_Recording(real, parts, example))).publish("d", source, shard_rows=1)
    workers = _Pretending(engine, place, parts.vault, str(example) if act == "publish" else "")
    vault_of = Vault(place, replace(parts, workers=workers))
    if act == "publish":
        with pq.ParquetWriter(source, table.schema, compression="none") as writer:
            for _ in range(count):
                writer.write_table(table)
        call: Callable[[], object] = lambda: vault_of.publish("d", source, shard_rows=1)  # noqa: E731
    else:
        # Chunks of 64 MiB each, which are nowhere: each is a task by itself.
        swell(lab, "d", count // 12, 64 << 20)
        call = lambda: vault_of.rekey(dataset="d")  # noqa: E731
    before, used = _status("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    call()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    sys.stdout.write(
        f"| {act}, {workers.tasks} | {seconds:.1f} s | {processor:.1f} s | {before / 1024:.0f} MiB "
        f"| {_status('VmHWM') / 1024:.0f} MiB | {workers.there / workers.tasks:.0f} "
        f"| {workers.back / workers.tasks:.0f} |\n"
    )
    shutil.rmtree(place)


if __name__ == "__main__":
    _, folder_, act_, *rest = sys.argv
    if act_ == "once":
        _measure(Path(folder_), rest[0], int(rest[1]))
    else:
        _planned(Path(folder_), rest[0], int(rest[1]))
