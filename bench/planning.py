"""Planning a vendor's read of a version with very many chunks, and appending a shard to it.

The version is a real one whose signed, sealed manifest lists more chunks than there are objects: planning opens none.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

import vault
from vault.manifest import Listing, Part, arrange
from vault.owner import Vault
from vault.workings.jobs import begin_job
from vault.workings.names import Dataset, dataset_named, holder_by_id
from vault.workings.versions import OpenVersion, open_version
from vault.workings.writing import Writer

__all__ = ["planning", "swell"]

_COLUMNS = [f"c{number}" for number in range(12)]


def swell(lab: Vault, name: str, shards: int, size: int | None = None) -> None:
    """Give every compartment's newest version of a dataset so many shards more, of chunks that are nowhere.

    They are as large as its first one, or of ``size`` bytes.
    """
    parts = lab.parts
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        dataset: Dataset = dataset_named(transaction, sealer, name)
        places = transaction.compartments(dataset=dataset.id)
        people = {place.holder: holder_by_id(transaction, sealer, place.holder) for place in places}
    for place in places:
        version = open_version(parts, parts.keyring, place)
        job = begin_job(parts.catalog, "bench", parts.clock)
        writer = Writer(parts, job, place, people[place.holder].kms_key, version.head)
        fresh = {group: _more(version, group, shards, size) for group in sorted(version.manifest.groups)}
        manifest = replace(version.manifest, parts=arrange(version.manifest.parts, fresh, version.load))
        publisher = parts.signers.publisher()
        writer.manifest(manifest, publisher)
        parts.store.settle(job.folder)
        with parts.catalog.write() as transaction:
            job.finish(transaction)
            head = writer.commit(transaction, publisher)
        parts.heads.announce([head])


def _more(version: OpenVersion, group: str, shards: int, size: int | None) -> Listing:
    """So many copies of the first chunk's row with ids, shards and bounds of their own."""
    part: Part = version.manifest.parts_of(group)[0]
    first = version.load(part).slice(0, 1).table
    table = first.take(pa.array(np.zeros(shards, dtype=np.int64)))
    numbers = pa.array(np.arange(part.last + 1, part.last + 1 + shards, dtype=np.int32))
    for name, column in (
        ("shard", numbers),
        ("chunk", _random(shards)),
        ("content", _random(shards)),
        ("checksum", _random(shards)),
        ("size", pa.array([size or first.column("size")[0].as_py()] * shards, pa.int64())),
    ):
        table = table.set_column(table.schema.get_field_index(name), first.schema.field(name), column)
    for column in table.column_names:
        if pa.types.is_struct(table.schema.field(column).type) and pa.types.is_int64(
            table.schema.field(column).type.field("min").type
        ):
            low = pa.array(np.arange(shards, dtype=np.int64) * 100)
            bounds = pa.StructArray.from_arrays(
                [
                    low,
                    pa.array(np.arange(shards, dtype=np.int64) * 100 + 99),
                    pa.array(np.zeros(shards, dtype=np.int64)),
                ],
                ["min", "max", "nulls"],
            )
            table = table.set_column(table.schema.get_field_index(column), column, bounds)
    return Listing(group, table)


def _random(count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(os.urandom(16 * count))])


_PLAN = """
import re, sys, time
from pathlib import Path
from vault import access, deployment
from vault.wire import Token
from vault.policy import Request

def highest():
    with open("/proc/self/status") as status:
        return re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]

folder, credential, secret, where = sys.argv[1:5]
parts = deployment.open_broker(Path(folder))[0]
caller = access.authenticate(parts, Token(credential, bytes.fromhex(secret)), "bench")
fetched = []
get = parts.store.get
type(parts.store).get = lambda store, name: fetched.append(name) or get(name)
base = highest()
started = time.perf_counter()
delivery = access.open_delivery(parts, caller, Request("evals", columns=("c1", "c2", "c3")), where or None)
seconds = time.perf_counter() - started
again = time.perf_counter()
access.open_delivery(parts, caller, Request("evals", columns=("c1", "c2", "c3")), where or None)
print(seconds, time.perf_counter() - again, base, highest(), len(fetched))
"""


def planning(folder: Path, chunks: int, runs: int) -> None:
    """A broker's time from a request to a recorded plan, in a process of its own; then the append of one shard."""
    lab_folder = folder / "planning"
    shutil.rmtree(lab_folder, ignore_errors=True)
    lab = vault.init(lab_folder)
    lab.add_vendor("acme")
    table = pa.table({name: pa.array([1, 2, 3], pa.int64()) for name in _COLUMNS})
    lab.publish("evals", table)
    lab.grant("acme", "evals", ["c1", "c2", "c3"], where="c0 >= 0")
    swell(lab, "evals", chunks // len(_COLUMNS))
    token = lab.issue_credential("acme", bearer=True).profile.token
    for shown, where in (("the predicate leaves one shard", "c1 = 4242"), ("nothing is pruned", "")):
        found = []
        for _ in range(runs):
            done = subprocess.run(
                [sys.executable, "-c", _PLAN, str(lab_folder), token.credential, token.secret.hex(), where],
                capture_output=True,
                text=True,
                check=True,
            )
            found.append([float(each) for each in done.stdout.split()])
        cold, warm, base, peak, fetched = sorted(found)[len(found) // 2]
        sys.stdout.write(
            f"| {chunks} chunks, {shown} | {cold:.2f} s | {warm:.2f} s | {fetched:.0f} "
            f"| {base / 1024:.0f} MiB | {peak / 1024:.0f} MiB | < 1 s, < 500 MB |\n"
        )
        sys.stdout.flush()
