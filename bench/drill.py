"""A drill: a scripted breach, from the alarm to the bundle that proves that it is over. ``make drill``.

A vendor reads in several streams through a broker in a process of its own. At the alarm the very commands of
``docs/how-to/incident.md`` are given, one after the other, while another vendor goes on reading; the drill notes when
the last byte was served, and prints the timeline and the figures as Markdown. It fails where the vendor was served
anything after the freeze counted everywhere, where the other one was refused or read wrong rows, or where the bundle
does not hold.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from serving import brokers

import vault
from vault.audit import Entry, Kind
from vault.errors import VaultError
from vault.owner import Vault

_BATCH = 65_536
_VECTOR = 192
#: Bytes a row, of which most do not compress.
_ROW = _VECTOR * 4 + 8 + 24
_COLUMNS = ["id", "label", "embedding"]
#: A freeze counts everywhere within a second; what was on its way is taken up later, on a busy machine much later.
_BOUND = 10.0


def _table(rows: int) -> pa.RecordBatchReader:
    """Numbered rows with a label and a random vector, in batches."""
    kind = pa.list_(pa.float32(), _VECTOR)
    schema = pa.schema([("id", pa.int64()), ("label", pa.string()), ("embedding", kind)])

    def batches() -> Iterator[pa.RecordBatch]:
        chooser = np.random.default_rng(1)
        for start in range(0, rows, _BATCH):
            count = min(_BATCH, rows - start)
            ids = pa.array(np.arange(start, start + count))
            labels = pa.array([f"label {number % 1000}" for number in range(start, start + count)])
            vectors = pa.array(chooser.standard_normal(count * _VECTOR, dtype=np.float32))
            yield pa.record_batch([ids, labels, pa.FixedSizeListArray.from_arrays(vectors, _VECTOR)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


@dataclass
class _Reading:
    """What one stream was served: batches come until it is refused."""

    profile: Path
    dataset: str
    last: float = 0.0
    bytes: int = 0
    reads: int = 0
    errors: list[str] = field(default_factory=list)

    def run(self, over: threading.Event, until_refused: bool) -> None:
        """Read all rows, again and again."""
        # The vendor's machine is another one: of this one's time it gets what is left.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        client = vault.connect(self.profile)
        while not over.is_set():
            try:
                for batch in client.dataset(self.dataset).scan():
                    self.last = time.time()
                    self.bytes += batch.nbytes
                    if over.is_set():
                        return
                self.reads += 1
            except VaultError as error:
                self.errors.append(str(error))
                if until_refused:
                    return


def _dsvault(folder: Path, *words: object) -> tuple[float, Any]:
    """Give a command as a person does; when it had ended, and what it said."""
    command = [sys.executable, "-m", "vault_cli.main", *map(str, words), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the drill failed: {' '.join(map(str, words))}: {done.stderr.strip()}")
    return time.time(), json.loads(done.stdout)


def _prepared(folder: Path, megabytes: int) -> Vault:
    """A vault with the data to be stolen, and some of somebody else's."""
    lab = vault.init(folder / "lab")
    lab.publish("evals", _table(max(1000, megabytes * 1_000_000 // _ROW)))
    lab.publish("others", _table(1000))
    for vendor, dataset in (("acme", "evals"), ("globex", "others")):
        lab.add_vendor(vendor)
        lab.grant(vendor, dataset, _COLUMNS)
    return lab


def _last(entries: Sequence[tuple[int, Entry]], kind: Kind, step: str | None = None) -> float:
    return next(
        entry.time.timestamp()
        for _, entry in reversed(entries)
        if entry.kind is kind and (step is None or entry.fields["step"] == step)
    )


def drill(folder: Path, megabytes: int, streams: int, before: float) -> None:
    """Play it, and print what came of it."""
    lab = _prepared(folder, megabytes)
    with brokers(lab.folder, 1) as (server,):
        thieves, other = _readers(lab, folder, server.url, streams)
        over, stolen = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=each.run, args=(stolen,), kwargs={"until_refused": True}) for each in thieves
        ]
        threads.append(threading.Thread(target=other.run, args=(over,), kwargs={"until_refused": False}))
        for thread in threads:
            thread.start()
        try:
            while not all(each.bytes for each in thieves):
                time.sleep(0.05)
            time.sleep(before)
            figures = _answer(lab, folder)
        finally:
            time.sleep(0.5)
            over.set()
            stolen.set()
            for thread in threads:
                thread.join()
    _print(lab, figures, thieves, other, megabytes)


def _readers(lab: Vault, folder: Path, url: str, streams: int) -> tuple[list[_Reading], _Reading]:
    for vendor in ("acme", "globex"):
        lab.issue_credential(vendor, endpoint=url).save(folder / f"{vendor}.json")
    thieves = [_Reading(folder / "acme.json", "evals") for _ in range(streams)]
    return thieves, _Reading(folder / "globex.json", "others")


def _answer(lab: Vault, folder: Path) -> dict[str, Any]:
    """The commands of the how-to, one after the other."""
    alarm = time.time()
    at = ("--vault", lab.folder)
    stopped, _ = _dsvault(folder, "vendor", "freeze", "acme", *at)
    reported, _ = _dsvault(folder, "incident", "report", "acme", "-o", folder / "report.html", *at)
    contained, done = _dsvault(folder, "incident", "contain", "acme", "-o", folder / "acme.zip", *at)
    fingerprint = lab.parts.root.fingerprint
    verified, shown = _dsvault(folder, "incident", "verify", folder / "acme.zip", "--root", fingerprint)
    return {
        "alarm": alarm,
        "stopped": stopped,
        "reported": reported,
        "contained": contained,
        "verified": verified,
        "done": done,
        "shown": shown,
    }


def _print(lab: Vault, figures: dict[str, Any], thieves: list[_Reading], other: _Reading, megabytes: int) -> None:
    entries = vault.open(lab.folder).audit_entries()
    frozen = _last(entries, Kind.FROZEN)
    ended = _last(entries, Kind.CONTAINING, "credentials")
    rekeyed = _last(entries, Kind.CONTAINING, "rekeyed")
    own = [each for each in entries if each[1].fields.get("vendor_id") == figures["done"]["vendor_id"]]
    closed = _last(own, Kind.READ_ENDED)
    last, alarm, done = max(each.last for each in thieves), figures["alarm"], figures["done"]
    served, bundle = sum(each.bytes for each in thieves) / 1e6, done["bundle"]
    rows = [
        ("alarm", alarm, f"{len(thieves)} streams, which were served {served:.0f} MB in all"),
        ("frozen", frozen, f"the log's entry; the command returned {figures['stopped'] - alarm:.1f} s after the alarm"),
        ("streams ended", closed, f"by the broker's last entry about them, {closed - frozen:.2f} s after the freeze"),
        ("last byte arrived", last, f"at the vendor, {last - frozen:.2f} s after the freeze"),
        ("report written", figures["reported"], f"{figures['reported'] - figures['stopped']:.1f} s"),
        ("grants and credentials ended", ended, f"{done['grants']} and {done['credentials']}"),
        ("rekeyed", rekeyed, f"{done['chunks']} chunks, {done['bytes'] / 1e6:.0f} MB in {rekeyed - ended:.1f} s"),
        ("contained", figures["contained"], f"bundle of {bundle['entries']} entries, {bundle['bytes']} bytes"),
        ("bundle verified", figures["verified"], "without the vault"),
    ]
    moment = datetime.now(UTC).date().isoformat()
    sys.stdout.write(
        f"{moment}; {megabytes} MB published.\n\n| moment | seconds after the alarm | |\n| --- | --- | --- |\n"
    )
    for name, at, said in rows:
        sys.stdout.write(f"| {name} | {at - alarm:.2f} | {said} |\n")
    rate = done["bytes"] / 1e9 / max(rekeyed - ended, 1e-3)
    sys.stdout.write(
        "\n| what | figure |\n| --- | --- |\n"
        f"| freeze to the end of all streams | {closed - frozen:.2f} s |\n"
        f"| freeze to the last byte that arrived | {last - frozen:.2f} s |\n"
        f"| report | {figures['reported'] - figures['stopped']:.1f} s |\n"
        f"| rekey, from store to store | {rate:.2f} GB/s |\n"
        f"| alarm to contained | {figures['contained'] - alarm:.1f} s |\n"
        f"| reads of the other vendor meanwhile | {other.reads}, of which failed: {len(other.errors)} |\n"
    )
    if last - frozen > _BOUND:
        raise SystemExit(f"the drill failed: the vendor was served {last - frozen:.2f} s after the freeze")
    if other.errors or not other.reads:
        raise SystemExit(f"the drill failed: the other vendor did not read on: {other.errors[:1]}")
    if not all(each.errors for each in thieves):
        raise SystemExit("the drill failed: a stream of the vendor's was not ended")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, metavar="MB", help="how much is published (default: 1000)")
    parser.add_argument("--streams", type=int, default=4, metavar="N", help="how many streams the vendor reads")
    parser.add_argument("--before", type=float, default=2.0, metavar="S", help="how long it reads before the alarm")
    parser.add_argument("--folder", type=Path, default=Path(".drill"), help="where the vault is made, anew")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    try:
        drill(options.folder.absolute(), options.size, options.streams, options.before)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
