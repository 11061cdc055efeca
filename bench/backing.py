"""What the backup costs an administrative command, and a restore: ``bench/run.py --backup``."""

import shutil
import statistics
import sys
import time
from pathlib import Path

import vault
from vault.objects import ObjectStore
from vault.owner import Vault

__all__ = ["backup"]

_PASSPHRASE = "for measuring only"


class _Counted:
    """Counts a store's requests and the bytes that are put, by whether they are for the backup."""

    def __init__(self) -> None:
        self.requests = 0
        self.puts = 0
        self._put = ObjectStore.put

    def begin(self) -> None:
        counted, put = self, self._put

        def putting(self: ObjectStore, name: str, data: object) -> None:
            counted.requests += 1
            if name.startswith(("backup/", "log/")):
                counted.puts += 1
            put(self, name, data)

        ObjectStore.put = putting  # type: ignore[method-assign]

    def end(self) -> None:
        ObjectStore.put = self._put  # type: ignore[method-assign]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _acts(lab: Vault, turns: int) -> list[float]:
    """How long each of so many freezes and thaws took."""
    found = []
    for turn in range(turns):
        started = time.perf_counter()
        (lab.freeze if turn % 2 == 0 else lab.thaw)("acme")
        found.append(time.perf_counter() - started)
    return found


def _interleaved(lab: Vault, turns: int) -> tuple[list[float], list[float]]:
    """The same with and without the backup, in turns; what is left behind is saved in between, and not counted."""
    after, with_it, without = lab.parts.catalog.after_change, [], []
    for _ in range(turns // 20):
        with_it += _acts(lab, 10)
        lab.parts.catalog.after_change = lambda _number: None
        without += _acts(lab, 10)
        lab.parts.catalog.after_change = after
        lab.parts.backups.save()
    return with_it, without


def backup(folder: Path, quick: bool) -> None:
    """Time, requests and bytes of 1,000 administrative commits, what ``gc`` leaves of them, and a restore of it all."""
    turns = 100 if quick else 1000
    lab = vault.init(folder / "backed-up")
    lab.add_vendor("acme")
    vault.backup_keys(folder / "keys.json", _PASSPHRASE, lab.folder)
    with_it, without = _interleaved(lab, 40 if quick else 200)
    store, counted = lab.folder / "store", _Counted()
    counted.begin()
    began = time.perf_counter()
    _acts(lab, turns)
    took = time.perf_counter() - began
    counted.end()
    grown = _size(store / "backup"), _size(store / "log")
    lab.backup()
    lab.gc()
    left = _size(store / "backup"), _size(store / "log")
    lab.parts.catalog.close()
    copy = folder / "store"
    shutil.copytree(store, copy)
    began = time.perf_counter()
    made = vault.restore(
        folder / "restored", store=str(copy), kms="local:", keys=folder / "keys.json", passphrase=_PASSPHRASE
    )
    restoring = time.perf_counter() - began
    sys.stdout.write(
        "| what | figure |\n| --- | --- |\n"
        f"| a freeze or thaw, median of {len(with_it)} | {statistics.median(with_it) * 1000:.1f} ms |\n"
        f"| the same without the backup, in turns | {statistics.median(without) * 1000:.1f} ms |\n"
        f"| {turns} of them | {took:.1f} s |\n"
        f"| objects put by one for backup and log | {counted.puts / turns:.2f} |\n"
        f"| objects put by one in all | {counted.requests / turns:.2f} |\n"
        f"| catalog's backup before `gc`, behind it | {grown[0] / 1e6:.2f} MB, {left[0] / 1e6:.2f} MB |\n"
        f"| log in the store before `gc`, behind it | {grown[1] / 1e6:.2f} MB, {left[1] / 1e6:.2f} MB |\n"
        f"| `dsvault restore` of {made.change} changes and {made.entries} entries | {restoring:.2f} s |\n"
    )
