"""Delta Sharing's own client on a broker, and on the same files as plain Parquet from a static server.

Run as a program it loads one table and prints the peak of its memory: each line of that is a process of its own.
"""

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import urllib3

import vault

sys.path.insert(0, str(Path(__file__).parent))
from data import mixed
from memory import _peak
from serving import brokers, peak, process

__all__ = ["sharing"]

_TABLE = "dsvault.default.evals"


def _load(profile: Path) -> int:
    """Rows of the table, as a data frame."""
    import delta_sharing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return len(delta_sharing.load_as_pandas(f"{profile}#{_TABLE}"))


def _timed(profile: Path, rows: int) -> float:
    started = time.perf_counter()
    if _load(profile) != rows:
        sys.stdout.write("WRONG ANSWER\n")
    return time.perf_counter() - started


def _copied(profile: Path, folder: Path) -> None:
    """The table's files, and what is said of it, as a static server has them."""
    told = json.loads(profile.read_text())
    answer = urllib3.request(
        "POST",
        f"{told['endpoint']}shares/dsvault/schemas/default/tables/evals/query",
        headers={"Authorization": f"Bearer {told['bearerToken']}", "Content-Type": "application/json"},
        body=b"{}",
    )
    protocol, metadata, *files = map(json.loads, answer.data.splitlines())
    (folder / "table.json").write_text(json.dumps({"protocol": protocol, "metaData": metadata}))
    for number, each in enumerate(files):
        (folder / f"{number:06d}.parquet").write_bytes(urllib3.request("GET", each["file"]["url"]).data)


def _memory(profile: Path) -> float:
    """The peak of a process that loads the table and nothing else, in MiB."""
    done = subprocess.run([sys.executable, __file__, str(profile)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _line(what: str, ours: float, theirs: float, unit: str, form: Callable[[float], str]) -> None:
    sys.stdout.write(f"| {what} | {form(ours)} {unit} | {form(theirs)} {unit} | {ours / theirs:.2f} |\n")
    sys.stdout.flush()


def sharing(folder: Path, *, quick: bool) -> None:
    """Print how long ``load_as_pandas`` takes on a broker and on a static server, and the memory of each."""
    rows, shard, turns = (30_000, 10_000, 5) if quick else (400_000, 131_072, 7)
    import delta_sharing  # noqa: F401 - what it takes to import is not what is measured

    table, lab, plain = mixed(rows), vault.init(folder / "lab"), folder / "plain"
    plain.mkdir()
    lab.add_vendor("acme")
    lab.publish("evals", table, shard_rows=shard)
    lab.grant("acme", "evals", table.column_names)
    with brokers(folder / "lab", 1) as (broker,):
        profile = folder / "acme.share"
        lab.issue_credential("acme", endpoint=broker.url, bearer=True).save(profile)
        first = _timed(profile, rows)
        _copied(profile, plain)
        with process([sys.executable, str(Path(__file__).parent / "shares.py"), str(plain)]) as static:
            other = folder / "static.share"
            told = {"shareCredentialsVersion": 1, "endpoint": static.url, "bearerToken": "none"}
            other.write_text(json.dumps(told))
            pairs = [(_timed(profile, rows), _timed(other, rows)) for _ in range(turns + 1)][1:]
            ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
            sizes = [path.stat().st_size for path in plain.glob("*.parquet")]
            sys.stdout.write(
                f"{rows} rows in {len(sizes)} shards, {sum(sizes) / 1e6:.0f} MB of Parquet; "
                f"medians of {turns} interleaved runs.\n\n"
                "| `load_as_pandas` | broker | static server | ratio |\n| --- | --- | --- | --- |\n"
            )
            _line("first request, which builds the files", first, theirs, "s", "{:.2f}".format)
            _line("later requests", ours, theirs, "s", "{:.2f}".format)
            _line("client's peak memory", _memory(profile), _memory(other), "MiB", "{:.0f}".format)
            _line("server's peak memory", peak(broker.pid), peak(static.pid), "MiB", "{:.0f}".format)


if __name__ == "__main__":
    import delta_sharing  # noqa: F401 - what it takes to import is not what is measured

    sys.stdout.write(f"{_peak(lambda: _load(Path(sys.argv[1])))}\n")
