"""What the KMS is asked, and how long a rewrap takes: the second part of ``make bench``."""

import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

import vault
from tests.support.servers import openbao
from vault import access, deployment
from vault.encoding import new_id
from vault.kms import Kms
from vault.owner import Vault
from vault.policy import Request
from vault.workings.parts import wrapped_key
from vault.workings.writing import key_row

_COLUMNS = [f"c{number}" for number in range(12)]
_VENDORS = ("a", "b", "c")


class _Counting:
    """A KMS that counts what it is asked."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kms, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return found(*arguments, **options)

        return call

    def take(self) -> int:
        """The calls since the last time."""
        total = sum(self.calls.values())
        self.calls.clear()
        return total


def _opened(folder: Path) -> tuple[Vault, _Counting]:
    made: list[_Counting] = []

    def wrap(kms: Kms) -> Kms:
        made.append(_Counting(kms))
        return made[0]  # type: ignore[return-value]

    return Vault(folder, deployment.open_owner(folder, kms_wrap=wrap)), made[0]


def kms(folder: Path, *, quick: bool) -> None:
    """Print both tables."""
    sys.stdout.write("\n| KMS calls | made | goal |\n| --- | --- | --- |\n")
    _calls(folder / "calls", 50 if quick else 1000)
    sys.stdout.write("\n| rewrap | data keys | seconds | keys a second | KMS calls |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    _rewrap("local keystore", folder / "local", None, 1000 if quick else 10_000)
    with openbao() as server:
        os.environ["BAO_TOKEN"] = server.token
        _rewrap("OpenBao, transit", folder / "bao", server.uri(server.mount()), 200 if quick else 2000)


def _calls(folder: Path, shards: int) -> None:
    def table(rows: int) -> pa.Table:
        return pa.table({name: list(range(rows)) for name in _COLUMNS})

    opened = vault.init(folder)
    opened.publish("evals", table(3), shard_rows=1)
    for vendor in _VENDORS:
        opened.add_vendor(vendor)
        opened.grant(vendor, "evals", _COLUMNS)
    publisher, counted = _opened(folder)
    counted.take()
    publisher.publish("evals", table(shards), shard_rows=1)
    what = f"publish {shards} shards x 12 columns, all granted to 3 vendors"
    sys.stdout.write(f"| {what} | {counted.take()} | ≤ {12 * 4 + 4 * 4} |\n")
    token = publisher.issue_credential("a", bearer=True).profile.token
    made: list[_Counting] = []

    def wrap(service: Kms) -> Kms:
        made.append(_Counting(service))
        return made[0]  # type: ignore[return-value]

    parts, _ = deployment.open_broker(folder, kms_wrap=wrap)
    caller = access.authenticate(parts, token, "bench")
    for what, goal in (("fetch of 12 columns, cold", "≤ 12 + 3"), ("the same, warm", "0")):
        for _ in access.open_delivery(parts, caller, Request("evals")).batches:
            pass
        sys.stdout.write(f"| {what} | {made[0].take()} | {goal} |\n")
    shutil.rmtree(folder)


def _rewrap(what: str, folder: Path, uri: str | None, count: int) -> None:
    vault.init(folder, kms=uri).publish("evals", pa.table({"c": [1]}))
    opened, counted = _opened(folder)
    parts = opened.parts
    owner = opened.kms_keys()[0]
    with parts.catalog.read() as transaction:
        row = next(each for each in transaction.keys_of_holder(owner.id) if each.group != "metadata")
    scope = wrapped_key(parts.vault, row).scope
    made = [parts.keyring.create(replace(scope, group=new_id()), owner.key)[0] for _ in range(count)]
    with parts.catalog.write() as transaction:
        transaction.add_keys(key_row(each, row.created) for each in made)
    counted.take()
    started = time.perf_counter()
    (done,) = opened.rewrap("owner")
    seconds = time.perf_counter() - started
    rate = done.keys / seconds
    sys.stdout.write(f"| {what} | {done.keys} | {seconds:.1f} | {rate:.0f} | {counted.take()} |\n")
    shutil.rmtree(folder)
