"""How long it takes until nothing more is served: ``bench/run.py --revocation``.

Three brokers over one vault. Five ways to end an access, each many times: every broker is asked again and again until
it refuses, and a while longer, in case it would serve again. Then streams that are being read, addresses of a leased
page, and a broker whose catalog goes away.
"""

import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from asking import Asker
from serving import Server, brokers

import vault
from vault.encoding import utcnow
from vault.errors import VaultError
from vault.owner import Vault
from vault.wire import Profile

__all__ = ["revocation"]

_COLUMNS = ["id", "label"]
_SMALL: dict[str, object] = {"columns": _COLUMNS, "limit": 10}
_LIVES = timedelta(seconds=15)
#: How often a broker is asked meanwhile.
_STEP = 0.04
_AFTER = 0.3


@dataclass(frozen=True)
class _Access:
    """A vendor's access at three brokers, and what ends it, or the moment (by the clock) at which it ends by itself."""

    profiles: Sequence[Profile]
    end: Callable[[], object]
    moment: float | None = None


class _Vendor:
    """One vendor, and every way to end what it may read."""

    def __init__(self, lab: Vault, name: str, servers: Sequence[Server], folder: Path, dataset: str) -> None:
        self.lab, self.name, self.dataset = lab, name, dataset
        self._servers = servers
        self._folder = folder
        self._issued = lab.issue_credential(name)
        self._grant = self.granted()

    def granted(self, **terms: object) -> str:
        """A fresh grant of all columns."""
        columns = self.lab.show(self.dataset).schema.names
        return self.lab.grant(self.name, self.dataset, columns, **terms).id  # type: ignore[arg-type]

    def _at_all(self, profile: Profile) -> list[Profile]:
        return [replace(profile, endpoint=server.url) for server in self._servers]

    def revoked(self, **terms: object) -> _Access:
        """An access that ends with its grant."""
        if self._grant is not None:
            self.lab.revoke(self._grant)
        grant, self._grant = self.granted(**terms), None
        return _Access(self._at_all(self._issued.profile), lambda: self.lab.revoke(grant))

    def expired(self) -> _Access:
        """An access whose grant expires soon."""
        if self._grant is not None:
            self.lab.revoke(self._grant)
        grant, self._grant = self.granted(expires=_LIVES), None
        (ends,) = (state.grant.expires for state in self.lab.grants(self.name) if state.grant.id == grant)
        assert ends is not None
        return _Access(self._at_all(self._issued.profile), lambda: None, ends.timestamp())

    def _renewed(self) -> None:
        self._grant = self._grant or self.granted(expires=timedelta(days=1))

    def frozen(self) -> _Access:
        """An access that ends with a freeze."""
        self._renewed()
        self.lab.thaw(self.name)
        return _Access(self._at_all(self._issued.profile), lambda: self.lab.freeze(self.name))

    def ended_credential(self) -> _Access:
        """An access that ends with its credential."""
        self._renewed()
        self.lab.thaw(self.name)
        issued = self.lab.issue_credential(self.name)
        return _Access(self._at_all(issued.profile), lambda: self.lab.revoke_credential(issued.id))

    def ended_delegation(self) -> _Access:
        """An access that ends with a delegation; the vendor's own goes on."""
        self._renewed()
        self.lab.thaw(self.name)
        own, given = (self._folder / f"{self.name}-{kind}.json" for kind in ("own", "given"))
        for path in (own, given):
            path.unlink(missing_ok=True)
        self._issued.save(own)
        identity = vault.delegate(own, "annotator", given, expires=timedelta(hours=1))
        profile = Profile.parse(given.read_bytes(), str(given))
        return _Access(self._at_all(profile), lambda: self.lab.end_delegation(self.name, identity))


_KINDS: dict[str, Callable[[_Vendor], _Access]] = {
    "grant revoked": _Vendor.revoked,
    "vendor frozen": _Vendor.frozen,
    "credential revoked": _Vendor.ended_credential,
    "grant expired": _Vendor.expired,
    "delegation ended": _Vendor.ended_delegation,
}


def _path(dataset: str) -> str:
    return f"/v1/datasets/{dataset}/read"


@dataclass(frozen=True)
class _Seen:
    """When the end was asked for and done, and when each broker's first refused request was sent; ``again`` says that
    one was served after a refusal."""

    began: float
    done: float
    refused: Sequence[float]
    again: bool


class _Ending:
    """One access at each broker, asked for from before it ends until after it has."""

    def __init__(self, access: _Access, dataset: str) -> None:
        self._access = access
        self._dataset = dataset
        self._over = threading.Event()
        self._serving = threading.Barrier(len(access.profiles) + 1)

    def run(self, turn: threading.Lock) -> _Seen | None:
        """End it, in turn with others, and see when each broker refuses.

        None where it expired before every broker had served it once: then there was nothing to end.
        """
        with ThreadPoolExecutor(len(self._access.profiles)) as pool:
            asking = [pool.submit(self._ask, profile) for profile in self._access.profiles]
            try:
                self._serving.wait(60)
            except threading.BrokenBarrierError:
                if self._access.moment is None:
                    raise
                return None
            with turn:
                began, done = self._end()
            self._over.set()
            found = [each.result() for each in asking]
        return _Seen(began, done, [when for when, _ in found], any(again for _, again in found))

    def _end(self) -> tuple[float, float]:
        if self._access.moment is not None:
            moment = time.perf_counter() + self._access.moment - time.time()
            return moment, moment
        began = time.perf_counter()
        self._access.end()
        return began, time.perf_counter()

    def _ask(self, profile: Profile) -> tuple[float, bool]:
        asker = Asker(profile, profile.endpoint)
        refused, again, served, given_up = 0.0, False, False, time.perf_counter() + 60
        while not refused or not self._over.is_set() or time.perf_counter() < refused + _AFTER:
            answer = asker.ask(_path(self._dataset), _SMALL)
            if answer.status == 200 and not served:
                served = True
                try:
                    self._serving.wait(60)
                except threading.BrokenBarrierError:
                    break
            elif answer.status == 200:
                again = again or bool(refused)
            elif answer.status in {401, 403, 404} and served and not refused:
                # Before it is served the first time, a broker may still hold a head from before a thaw.
                refused = answer.sent
            if not served and self._access.moment is not None and time.time() > self._access.moment:
                self._serving.abort()
                break
            if not served and time.perf_counter() > given_up:
                raise RuntimeError("an access was never served")
            time.sleep(_STEP)
        asker.close()
        return refused, again


def _percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered) * 1000:.0f} ms | {p99 * 1000:.0f} ms | {ordered[-1] * 1000:.0f} ms"


def _requests(lab: Vault, servers: Sequence[Server], folder: Path, times: int, together: int) -> None:
    """New requests: the last of three brokers counts."""
    vendors = [_Vendor(lab, f"vendor-{number}", servers, folder, "small") for number in range(together)]
    sys.stdout.write(
        f"\nNew requests, each broker asked every {_STEP * 1000:.0f} ms; the last of three brokers counts.\n\n"
        "| what ended | times | refused after it returned, p50 | p99 | max | after it began, p50 | p99 | max "
        "| served again |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    turn = threading.Lock()
    for kind, make in _KINDS.items():
        seen: list[_Seen] = []
        while len(seen) < times:
            endings = [_Ending(make(vendor), vendor.dataset) for vendor in vendors[: times - len(seen)]]
            with ThreadPoolExecutor(len(endings)) as pool:
                seen += filter(None, pool.map(lambda ending: ending.run(turn), endings))
        returned = [max(0.0, max(each.refused) - each.done) for each in seen]
        begun = [max(0.0, max(each.refused) - each.began) for each in seen]
        again = sum(each.again for each in seen)
        sys.stdout.write(f"| {kind} | {len(seen)} | {_percentiles(returned)} | {_percentiles(begun)} | {again} |\n")
        sys.stdout.flush()


@dataclass(frozen=True)
class _Broken:
    """A stream that was being read: when it ended, how many batches were taken after the end, and the error."""

    ended: float
    batches: int
    error: str


class _Reading:
    """One stream at one broker, read a batch at a time."""

    def __init__(self, profile: Profile, dataset: str) -> None:
        self._reader = vault.Client(profile).open(dataset).scan(delivery="stream")
        self.begun, self.over = threading.Event(), threading.Event()

    def run(self) -> _Broken:
        """Read until it ends."""
        batches = 0
        try:
            for _ in self._reader:
                self.begun.set()
                batches += self.over.is_set()
                time.sleep(0.08)
        except (VaultError, OSError, pa.ArrowException) as error:
            return _Broken(time.perf_counter(), batches, type(error).__name__)
        return _Broken(time.perf_counter(), batches, "none")


def _streams(lab: Vault, servers: Sequence[Server], folder: Path, times: int) -> None:
    """Streams that are being read when their access ends."""
    vendor = _Vendor(lab, "reader", servers, folder, "long")
    sys.stdout.write(
        "\n| stream that was being read | streams | ended after, p50 | p99 | max | batches taken after, most "
        "| without an error |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for kind, make in _KINDS.items():
        took: list[float] = []
        batches, quiet = 0, 0
        for _ in range(times):
            access = make(vendor)
            time.sleep(1.1)  # no broker holds a head from before it any more
            readings = [_Reading(profile, vendor.dataset) for profile in access.profiles]
            with ThreadPoolExecutor(len(readings)) as pool:
                running = [pool.submit(reading.run) for reading in readings]
                for reading in readings:
                    reading.begun.wait(30)
                if access.moment is not None:
                    time.sleep(max(0.0, access.moment - time.time()))
                else:
                    access.end()
                done = time.perf_counter()
                for reading in readings:
                    reading.over.set()
                found = [each.result() for each in running]
            took += [max(0.0, each.ended - done) for each in found]
            batches = max(batches, *(each.batches for each in found))
            quiet += sum(each.error == "none" for each in found)
        sys.stdout.write(f"| {kind} | {len(took)} | {_percentiles(took)} | {batches} | {quiet} |\n")
        sys.stdout.flush()


def _leases(lab: Vault, servers: Sequence[Server], folder: Path, times: int) -> None:
    """The addresses of a leased page, asked for at each broker after the grant was revoked."""
    vendor = _Vendor(lab, "lessee", servers, folder, "small")
    took = []
    for _ in range(times):
        access = vendor.revoked(delivery="lease", expires=timedelta(days=1))
        askers = [Asker(profile, profile.endpoint) for profile in access.profiles]
        answer = askers[0].ask("/v1/datasets/small/lease", {"direct": False})
        if answer.status != 200:
            raise RuntimeError(f"no lease: {answer.body[:200]!r}")
        path = json.loads(answer.body)["shards"][0]["chunks"][0]["url"]
        asked = [f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\n\r\n".encode() for _ in askers]
        for asker, request in zip(askers, asked, strict=True):
            # A broker whose head of the vendor is older than the grant refuses the address for a moment.
            while asker.send(request).status != 206:
                time.sleep(_STEP)
        access.end()
        done = time.perf_counter()
        last = done
        waiting = list(zip(askers, asked, strict=True))
        while waiting:
            for each in list(waiting):
                found = each[0].send(each[1])
                if found.status != 206:
                    last = found.sent
                    waiting.remove(each)
            time.sleep(_STEP)
        took.append(last - done)
        for asker in askers:
            asker.close()
    sys.stdout.write(
        "\n| what a lease handed out | times | refused after the grant was revoked, p50 | p99 | max |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"| an address at a broker, the last of three | {len(took)} | {_percentiles(took)} |\n"
    )


@contextmanager
def _gone(place: Path) -> Iterator[None]:
    """The catalog's directory is not there."""
    away = place.with_name("away")
    place.rename(away)
    try:
        yield
    finally:
        away.rename(place)


@contextmanager
def _replaced(place: Path) -> Iterator[None]:
    """There is an empty directory in its place."""
    with _gone(place):
        place.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(place)


def _cut_off(lab: Vault, servers: Sequence[Server], place: Path, times: int) -> None:
    """Brokers that cannot reach their catalog any more."""
    profile = lab.issue_credential("vendor-0").profile
    lab.thaw("vendor-0")
    lab.grant("vendor-0", "small", _COLUMNS, purpose="cut off", expires=timedelta(days=1))
    sys.stdout.write("\n| catalog | times | refused after, p50 | p99 | max |\n| --- | --- | --- | --- | --- |\n")
    body = {**_SMALL, "grant": None}
    for what, away in (("its directory is moved away", _gone), ("another, empty one stands in its place", _replaced)):
        took = []
        for _ in range(times):
            askers = [Asker(profile, server.url) for server in servers]
            grant = next(g.grant.id for g in lab.grants("vendor-0") if g.grant.purpose == "cut off")
            body["grant"] = grant
            for asker in askers:
                while asker.ask(_path("small"), body).status != 200:
                    time.sleep(_STEP)
            with away(place):
                cut = last = time.perf_counter()
                waiting = list(askers)
                while waiting:
                    for asker in list(waiting):
                        answer = asker.ask(_path("small"), body)
                        if answer.status != 200:
                            last = answer.sent
                            waiting.remove(asker)
                    time.sleep(_STEP)
                took.append(last - cut)
            for asker in askers:
                asker.close()
        sys.stdout.write(f"| {what} | {len(took)} | {_percentiles(took)} |\n")
        sys.stdout.flush()


def revocation(folder: Path, *, quick: bool) -> None:
    """Print the rows of docs/benchmarks.md."""
    times, streams, together = (10, 1, 5) if quick else (200, 10, 10)
    place = (folder / "catalog").absolute()
    place.mkdir()
    lab = vault.init(folder / "lab", catalog=f"sqlite:///{place}/catalog.db")
    names = [*(f"vendor-{number}" for number in range(together)), "reader", "lessee"]
    for name in names:
        lab.add_vendor(name)
    lab.publish("small", pa.table({"id": np.arange(10_000), "label": [f"label {each}" for each in range(10_000)]}))
    # Batches of 4 MiB, more of them than a reader that takes its time gets to before the end.
    rows, random = 65_536 * (60 if quick else 100), np.random.default_rng(7)
    lab.publish("long", pa.table({f"c{number}": random.random(rows) for number in range(8)}))
    sys.stdout.write(f"Three brokers, one catalog, at {utcnow():%Y-%m-%d}.\n")
    with brokers(folder / "lab", 3) as servers:
        _requests(lab, servers, folder, times, together)
        _streams(lab, servers, folder, streams)
        _leases(lab, servers, folder, 3 if quick else 30)
        _cut_off(lab, servers, place, 3 if quick else 20)
