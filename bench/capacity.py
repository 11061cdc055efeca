"""From small measurements to 1 PB and 10,000 vendors: `python bench/capacity.py` prints the tables of
docs/explanation/scale.md.

First what one vault of this machine shows: bytes, objects, requests and KMS calls, which do not depend on how fast it
is. Then what follows from them, by formulae that stand beside the figures. What a lab has, what it pays and how fast
its machines are is given by options.
"""

import argparse
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
import pyarrow as pa
from data import mixed
from planning import swell

import vault
from vault import deployment
from vault.kms import Kms
from vault.objects import ObjectStore, StoredObject
from vault.owner import Vault
from vault.workings.fanout import needs_of
from vault.workings.filling import owners_version
from vault.workings.names import dataset_named, holders
from vault.workings.rows import SHARD_BYTES

__all__ = ["Measured", "measure", "project"]

_COLUMNS = 12
_GRANTED = ["id", "prompt", "score"]
_VENDORS = 40


@dataclass(frozen=True)
class Measured:
    """What a small vault shows."""

    shard_bytes: float  # ciphertext of a full shard, all columns
    granted_share: float  # of it, what three granted columns are
    listed_bytes: float  # of a manifest, for each chunk
    publish_requests: float  # to the store, for each chunk more; a piece of 8 MiB of a larger one is one more to read
    rekey_requests: float
    fetch_requests: float
    publish_kms: int
    grant_kms: int
    rekey_kms: int
    keys_of_vendor: int  # wrapped keys, for one grant of three columns
    vendor_bytes: float  # catalog, for a vendor with one grant and its compartment
    entry_bytes: float  # catalog, for an entry of a read
    gc_bytes: float  # memory of a gc, for each chunk that is in use
    vendor_seconds: float  # more in the plan of a publish, for each vendor that there is
    grant_seconds: float  # the same, for each vendor with a grant on the dataset


class _Counting:
    """A KMS whose calls are counted."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kms, name)
        if not callable(found):
            return found

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return found(*arguments, **options)

        return counted


@contextmanager
def _requests() -> Iterator[Counter[str]]:
    """The requests for chunks and manifests that are made meanwhile, as a store that is not local would have them."""
    made: Counter[str] = Counter()
    real: dict[tuple[type, str], Callable[..., Any]] = {}
    for owner, name in ((ObjectStore, "put_pieces"), (ObjectStore, "get"), (ObjectStore, "get_range")):
        real[owner, name] = getattr(owner, name)

        def counted(self: Any, *arguments: Any, _real: Any = real[owner, name], _name: str = name) -> Any:
            if arguments[0].startswith("objects/"):
                made["put" if _name == "put_pieces" else "get"] += 1
            return _real(self, *arguments)

        setattr(owner, name, counted)
    try:
        yield made
    finally:
        for (owner, name), function in real.items():
            setattr(owner, name, function)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("catalog.db*"))


def measure(folder: Path) -> Measured:
    """Make a vault with datasets of one and two shards of 12 columns, and look at what it takes."""
    counting: list[_Counting] = []

    def wrap(kms: Kms) -> Any:
        counting.append(_Counting(kms))
        return counting[-1]

    vault.init(folder / "lab")
    lab = Vault(folder / "lab", deployment.open_owner(folder / "lab", kms_wrap=wrap))
    kms = counting[-1]

    def calls(act: Callable[[], object]) -> int:
        before = kms.calls
        act()
        return kms.calls - before

    rows = 40_000
    table = mixed(rows)
    publish_kms = calls(lambda: lab.publish("k", table.slice(0, 10)))

    def more(act: Callable[[str], object]) -> float:
        """Requests for each chunk that two shards have more than one."""
        found = []
        for name in ("e", "d"):
            lab.parts.manifests.clear()
            with _requests() as made:
                act(name)
            found.append(made.total())
        return (found[1] - found[0]) / _COLUMNS

    publish_requests = more(
        lambda name: lab.publish(name, table.slice(0, rows // (2 if name == "e" else 1)), shard_rows=rows // 2)
    )
    with lab.parts.catalog.read() as transaction:
        dataset = dataset_named(transaction, lab.parts.sealer(), "d")
    version = owners_version(lab.parts, dataset)
    groups = {column.name: column.group for column in version.manifest.columns}
    sizes = {name: sum(ref.size for ref in version.refs({group})) for name, group in groups.items()}
    total = sum(sizes.values())
    # A shard is full at SHARD_BYTES of Arrow memory, or at 131,072 rows.
    full = min(SHARD_BYTES, 131_072 * table.nbytes / rows)
    names = [f"v{number:04}" for number in range(_VENDORS)]
    lab.add_vendor(names[0])
    grant_kms = calls(lambda: lab.grant(names[0], "d", _GRANTED))
    with lab.parts.catalog.read() as transaction:
        (place,) = (each for each in transaction.compartments() if each.holder != lab.parts.owner)
        keys = len(transaction.keys(place.id))
    rekey_requests = more(lambda name: lab.rekey("owner", name))
    rekey_kms = calls(lambda: lab.rekey("owner", "d"))
    fetch_requests = more(lambda name: lab.scan(name).read_all())
    catalog = _more_vendors(lab, names)
    swelled = 100_000
    before, collecting = _manifest_bytes(lab, dataset), _peak(lab.gc)
    swell(lab, "d", swelled // _COLUMNS)
    listed = (_manifest_bytes(lab, dataset) - before) / (swelled // _COLUMNS * _COLUMNS)
    return Measured(
        shard_bytes=total * full / table.nbytes,
        granted_share=sum(sizes[name] for name in _GRANTED) / total,
        listed_bytes=listed,
        publish_requests=publish_requests,
        rekey_requests=rekey_requests,
        fetch_requests=fetch_requests,
        publish_kms=publish_kms,
        grant_kms=grant_kms,
        rekey_kms=rekey_kms,
        keys_of_vendor=keys + 1,
        gc_bytes=(_peak(lab.gc) - collecting) / (swelled // _COLUMNS * _COLUMNS),
        **catalog,
    )


def _peak(act: Callable[[], object]) -> int:
    """The most memory that Python objects take meanwhile."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _manifest_bytes(lab: Vault, dataset: Any) -> int:
    """The manifest of the owner's newest version, with its parts."""
    from vault.workings.versions import manifest_statement

    version = owners_version(lab.parts, dataset)
    with lab.parts.catalog.read() as transaction:
        statement = manifest_statement(lab.parts, transaction, version.head, version.manifest.version)
    return statement.size + sum(part.place.size for part in version.manifest.parts if part.place is not None)


def _more_vendors(lab: Vault, names: list[str]) -> dict[str, float]:
    """What vendors with a grant each, and reads, add to the catalog, and to the time of a publish and a grant."""
    small = pa.table({"id": pa.array([1, 2, 3]), "prompt": ["a", "b", "c"], "score": [0.1, 0.2, 0.3]})
    lab.publish("s", small)

    def least(act: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(10):
                act()
            times.append((time.perf_counter() - started) / 10)
        return min(times)

    def settled() -> int:
        lab.parts.catalog.settle()
        with lab.parts.catalog.write() as transaction:
            transaction.connection.exec_driver_sql("select 1")
        return _size(lab.folder)

    lab.grant(names[0], "s", ["id"])
    before = settled()
    holders_before, needs_before = least(lambda: _holders(lab)), least(lambda: _needs(lab))
    for name in names[1:]:
        lab.add_vendor(name)
        lab.grant(name, "s", ["id"])
    after = settled()
    holders_after, needs_after = least(lambda: _holders(lab)), least(lambda: _needs(lab))
    many = len(names) - 1
    reads = 200
    for _ in range(reads):
        lab.scan("s", columns=["id"]).read_all()
    return {
        "vendor_bytes": (after - before) / many,
        "entry_bytes": (settled() - after) / reads,
        "vendor_seconds": max(0.0, holders_after - holders_before) / many,
        "grant_seconds": max(0.0, needs_after - needs_before) / many,
    }


def _holders(lab: Vault) -> None:
    """What a publish looks at before it reads a row: every vendor's name."""
    with lab.parts.catalog.read() as transaction:
        holders(transaction, lab.parts.sealer())


def _needs(lab: Vault) -> None:
    """And what the grants on the dataset need."""
    parts = lab.parts
    with parts.catalog.read() as transaction:
        dataset = dataset_named(transaction, parts.sealer(), "s")
        needs_of(parts, transaction, parts.sealer(), dataset.id, parts.clock())


@dataclass(frozen=True)
class Plan:
    """What a lab has, what it pays, and how fast its machines are: assumptions, each an option."""

    bytes: float = 1e15
    datasets: int = 1_000
    vendors: int = 10_000
    workers: int = 1_000
    publish_speed: float = 30e6  # ciphertext, a second and worker
    rekey_speed: float = 300e6
    store_gb_month: float = 0.023
    put_price: float = 0.005 / 1000
    get_price: float = 0.0004 / 1000
    kms_price: float = 0.03 / 10_000
    reads_a_day: float = 100.0  # of each vendor


def project(found: Measured, plan: Plan) -> list[tuple[str, str, str]]:
    """Rows of the second table: what, how it follows, and the figure."""
    shards = plan.bytes / found.shard_bytes
    chunks = shards * _COLUMNS
    of_dataset = chunks / plan.datasets
    copied = plan.vendors / plan.datasets * found.granted_share
    apart = found.granted_share * plan.bytes
    copies = copied * plan.bytes
    copy_chunks = plan.vendors * shards / plan.datasets * len(_GRANTED)
    rekey_requests = found.rekey_requests + found.shard_bytes / _COLUMNS / StoredObject.step
    looked = plan.vendors * found.vendor_seconds + plan.vendors / plan.datasets * found.grant_seconds
    hours = plan.bytes / plan.publish_speed / plan.workers / 3600
    again = plan.bytes / plan.rekey_speed / plan.workers / 3600
    all_of_one = plan.vendors * (found.vendor_seconds + found.grant_seconds)
    keys = plan.datasets * (_COLUMNS + 1) + plan.vendors * found.keys_of_vendor
    minute = plan.workers * (_COLUMNS + 1)
    calls = minute * 60 * hours
    reads = plan.vendors * plan.reads_a_day
    month = plan.bytes / 1e9 * plan.store_gb_month
    rekey_cost = chunks * ((rekey_requests - 1) * plan.get_price + plan.put_price)
    return [
        ("shards", "bytes / bytes of a shard", _count(shards)),
        ("chunks, each an object", f"shards x {_COLUMNS}", _count(chunks)),
        ("chunks of one dataset", "chunks / datasets", _count(of_dataset)),
        ("its manifest with all parts", "chunks of it x bytes listed", _bytes(of_dataset * found.listed_bytes)),
        ("manifests of all", "chunks x bytes listed", _bytes(chunks * found.listed_bytes)),
        ("copies, each vendor three columns of one dataset", "vendors / datasets x share x bytes", _bytes(copies)),
        ("objects of the copies", "vendors x shards of a dataset x 3", _count(copy_chunks)),
        ("copies, each row assigned to one vendor", "share x bytes", _bytes(apart)),
        ("requests of the publish", "chunks x requests", _count(chunks * found.publish_requests)),
        (
            "requests of a rekey of all",
            "chunks x (requests + bytes of a chunk / 8 MiB)",
            _count(chunks * rekey_requests),
        ),
        ("time of the publish", "bytes / speed / workers", f"{hours:,.1f} h"),
        ("time of a rekey of all", "bytes / speed / workers", f"{again:,.1f} h"),
        ("KMS calls of its workers, a second", f"workers x {_COLUMNS + 1} keys / 60 s", f"{minute / 60:,.0f}"),
        ("KMS calls of the publish", "the same x its time", _count(calls)),
        ("wrapped keys", f"datasets x {_COLUMNS + 1} + vendors x keys", _count(keys)),
        ("KMS calls of a rewrap of all", "two for each key", _count(2 * keys)),
        ("catalog of vendors, grants, compartments", "vendors x bytes", _bytes(plan.vendors * found.vendor_bytes)),
        ("entries of reads in the log, a day", "vendors x reads x 2", _count(2 * reads)),
        ("catalog of those, a day", "entries x bytes", _bytes(2 * reads * found.entry_bytes)),
        ("durable decisions a second", "reads / 86,400", f"{reads / 86_400:,.0f}"),
        ("a publish looks at vendors and grants", "vendors x s + vendors of the dataset x s", f"{looked:,.1f} s"),
        ("a dataset that every vendor is granted", "vendors x (s + s)", f"{all_of_one:,.1f} s"),
        ("memory of gc", "objects x bytes", _bytes((chunks + copy_chunks) * found.gc_bytes)),
        ("objects that gc takes 64 GB for", "64 GB / bytes", _count(64e9 / found.gc_bytes)),
        ("storage, a month", "bytes x price", _money(month)),
        ("storage of the copies, a month", "bytes of the copies x price", _money(month * copies / plan.bytes)),
        ("puts of the publish", "chunks x price", _money(chunks * found.publish_requests * plan.put_price)),
        ("requests of a rekey of all", "chunks x (gets x price + put)", _money(rekey_cost)),
        ("KMS calls of the publish", "calls x price", _money(calls * plan.kms_price)),
    ]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} million"


def _bytes(value: float) -> str:
    for size, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value / 1e3:,.1f} kB"


def _money(value: float) -> str:
    return f"{value:,.0f} USD"


def main() -> None:
    """Print what was measured, what is assumed, and what follows."""
    options = argparse.ArgumentParser(description=__doc__)
    for name, field in Plan.__dataclass_fields__.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default)
    plan = Plan(**vars(options.parse_args()))
    folder = Path(tempfile.mkdtemp(prefix="capacity-"))
    try:
        found = measure(folder)
    finally:
        shutil.rmtree(folder)
    shown = [
        ("bytes of a shard, all 12 columns", _bytes(found.shard_bytes)),
        ("share of three columns (id, prompt, score)", f"{found.granted_share:.3f}"),
        ("bytes listed in the manifest for a chunk", f"{found.listed_bytes:.0f}"),
        ("requests to the store for each chunk more: publish", f"{found.publish_requests:.2f}"),
        ("the same: rekey", f"{found.rekey_requests:.2f}"),
        ("the same: read", f"{found.fetch_requests:.2f}"),
        ("KMS calls: publish of a new dataset", str(found.publish_kms)),
        ("KMS calls: a vendor's first grant of three columns", str(found.grant_kms)),
        ("KMS calls: rekey of the owner's compartment", str(found.rekey_kms)),
        ("wrapped keys of a vendor with that grant", str(found.keys_of_vendor)),
        ("catalog bytes of a vendor with a grant", f"{found.vendor_bytes:.0f}"),
        ("catalog bytes of an entry of a read", f"{found.entry_bytes:.0f}"),
        ("memory of gc, bytes for each chunk in use", f"{found.gc_bytes:.0f}"),
        ("a publish's plan, for each vendor", f"{found.vendor_seconds * 1e6:.0f} µs"),
        ("more for each with a grant on the dataset", f"{found.grant_seconds * 1e6:.0f} µs"),
    ]
    _table(("measured", ""), shown)
    _table(("assumed", ""), [(name.replace("_", " "), f"{value:g}") for name, value in vars(plan).items()])
    _table(("what follows", "how", ""), project(found, plan))


def _table(headings: tuple[str, ...], rows: list[Any]) -> None:
    sys.stdout.write(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
