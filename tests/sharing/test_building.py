"""Who builds a spooled file, how many wait for it, and how much is spooled: whatever is asked for at once."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import delta_sharing
import pytest
from requests.exceptions import HTTPError

from tests.conftest import Lab
from tests.support.brokers import broker, counters
from tests.support.sharing import arrival, caller, entries, fetched, listed, object_of, objects, ticket_of
from tests.support.tables import rows
from vault import access, spool
from vault.access import spooling
from vault.encoding import utcnow
from vault.errors import Abandoned, Frozen, LimitReached, Unavailable
from vault.objects import ObjectInfo, ObjectStore
from vault.spool import SpoolLimits
from vault.wire import SharedTable
from vault.workings import spooled
from vault.workings.spooled import Spools

_NOW = utcnow()
_END = round((_NOW + timedelta(hours=1)).timestamp())


def _files(parts: Any, who: access.Arrival, gone: Callable[[], bool] = lambda: False) -> Iterator[access.SharedFile]:
    return access.shared_files(parts, who, SharedTable.of("evals"), access.Hints(), gone=gone).files


class _Held:
    """Builds that stop in the middle until they are let go, at the latest at the end of the block; and which there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go, self.built = threading.Semaphore(0), threading.Event(), list[str]()
        real = spooling.Spool._build

        def build(built: Any, shard: int, name: str, binding: str) -> None:
            self.built.append(name)
            self.began.release()
            assert self.go.wait(60)
            real(built, shard, name, binding)

        monkeypatch.setattr(spooling.Spool, "_build", build)

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()


def test_requests_at_once_build_a_file_once(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for whoever builds it, and hand out the very same."""
    parts = granted.broker_parts()
    askers = [_files(parts, arrival(granted, parts)) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool, _Held(monkeypatch) as held:
        found = [pool.submit(next, files) for files in askers]
        assert held.began.acquire(timeout=60)
        # Nobody else begins to build it while they wait.
        assert not held.began.acquire(timeout=0.5)
        assert parts.spools._turns.total() == 6
        held.go.set()
        files = [each.result(60) for each in found]
    assert len({file.id for file in files}) == 1
    assert len(held.built) == len(objects(granted)) == 1
    assert len({fetched(parts, file) for file in files}) == 1
    assert (parts.spools._turns, parts.spools._building) == ({}, set())


def test_who_goes_away_waits_no_longer(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another request still builds: its thread is free at once, and the build is none of its doing."""
    parts, gone = granted.broker_parts(), threading.Event()
    builder, waiter = (
        _files(parts, arrival(granted, parts)),
        _files(parts, arrival(granted, parts), gone.is_set),
    )
    with ThreadPoolExecutor(2) as pool, _Held(monkeypatch) as held:
        building = pool.submit(next, builder)
        assert held.began.acquire(timeout=60)
        waiting = pool.submit(next, waiter)
        time.sleep(0.5)
        assert not waiting.done()
        gone.set()
        with pytest.raises(Abandoned):
            waiting.result(30)
        assert not building.done()
        held.go.set()
        assert building.result(60).rows


def test_who_waits_builds_it_where_the_first_one_fails(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left waiting for a build that came to nothing."""
    parts, first, late = granted.broker_parts(), threading.Event(), time.monotonic() + 30
    began, real = threading.Event(), spooling.Spool._build

    def build(self: Any, *given: Any) -> None:
        if not began.is_set():
            began.set()
            assert first.wait(60)
            raise Unavailable("the store is gone")
        real(self, *given)

    monkeypatch.setattr(spooling.Spool, "_build", build)
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(next, _files(parts, arrival(granted, parts)))
        assert began.wait(60)
        other = pool.submit(next, _files(parts, arrival(granted, parts), lambda: time.monotonic() > late))
        time.sleep(0.3)
        assert not other.done()
        first.set()
        with pytest.raises(Unavailable):
            failing.result(60)
        assert other.result(60).rows


def test_a_freeze_ends_the_waiting(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is refused as soon as the head says so."""
    parts = granted.broker_parts()
    with ThreadPoolExecutor(2) as pool, _Held(monkeypatch) as held:
        who = arrival(granted, parts)
        building = pool.submit(next, _files(parts, who))
        assert held.began.acquire(timeout=60)
        waiting = pool.submit(next, _files(parts, arrival(granted, parts)))
        granted.vault.freeze("acme")
        parts.heads.vendor(who.caller.vendor, max_age=-1)
        with pytest.raises(Frozen):
            waiting.result(30)
        held.go.set()
        with pytest.raises(Frozen):
            building.result(60)


def test_addresses_take_few_threads_for_what_is_built_anew(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for a file that is gone wait in everybody's threads: beyond four of a vendor's they are sent away."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    good = fetched(parts, file)
    object_of(granted, parts, file).unlink()
    with ThreadPoolExecutor(4) as pool, _Held(monkeypatch) as held:
        found = [pool.submit(access.shared_file, parts, ticket_of(file), "test") for _ in range(4)]
        deadline = time.monotonic() + 60
        while parts.spools._turns.total() < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        deadline = time.monotonic() + 10
        with pytest.raises(Unavailable, match="ask again later"):
            access.shared_file(parts, ticket_of(file), "test", gone=lambda: time.monotonic() > deadline)
        held.go.set()
        assert {each.result(60).size for each in found} == {file.size}
    assert len(held.built) == 1
    assert fetched(parts, file) == good
    assert len(list(entries(granted, "spooled file damaged"))) == 1


def test_of_two_brokers_the_first_to_put_it_wins(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both build: there is one object, which both hand out, and the other's is nowhere and counts for nothing."""
    one, other = granted.broker_parts(), granted.broker_parts()
    with ThreadPoolExecutor(2) as pool, _Held(monkeypatch) as held:
        found = [pool.submit(next, _files(parts, arrival(granted, parts))) for parts in (one, other)]
        assert held.began.acquire(timeout=60)
        assert held.began.acquire(timeout=60)
        held.go.set()
        files = [each.result(60) for each in found]
    assert files[0].id == files[1].id
    assert len(held.built) == 2
    (place,) = objects(granted)
    counted = [own.size for parts in (one, other) for own in parts.spools._own.values()]
    assert counted == [place.stat().st_size]
    assert one.spools.counts.built + other.spools.counts.built == 1
    assert not list((granted.folder / "store").rglob(".unfinished/*"))


def test_a_broker_that_is_asked_by_many_builds_each_file_once(granted: Lab) -> None:
    """Over HTTP, of a running broker: as many builds as files, and every answer has all of them."""
    with broker(granted.folder) as endpoint:
        acme = caller(granted, endpoint)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: acme.files("default.evals"), range(6)))
        assert counters(endpoint)["dsvault_spool_built_total"] == len(objects(granted)) == 4
    assert {tuple(file["id"] for file in files) for files in found} == {tuple(file["id"] for file in found[0])}


# Room


def _limited(parts: Any, **limits: int) -> Any:
    return replace(parts, spool=SpoolLimits(**limits))


def test_the_spool_has_a_cap(granted: Lab) -> None:
    """For one vendor and for all: beyond it a file is refused in a sentence, and not put."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    with pytest.raises(LimitReached, match="spooled for you"):
        listed(_limited(parts, vendor_bytes=100), who)
    with pytest.raises(LimitReached, match="spool of shared files is full"):
        listed(_limited(parts, total_bytes=100), who)
    assert not objects(granted)
    assert len(listed(parts, who)) == 4
    assert [each["reason"] for each in entries(granted, "request refused")] == ["LimitReached"] * 2


def test_a_size_is_known_before_it_is_put(granted: Lab) -> None:
    """What room is taken for is what the object comes to, byte for byte."""
    parts = granted.broker_parts()
    listed(parts, arrival(granted, parts))
    sizes = {f"spool/{place.parent.parent.name}/{place.parent.name}/{place.name}": place for place in objects(granted)}
    own = {name: each.size for name, each in parts.spools._own.items()}
    assert own == {name: place.stat().st_size for name, place in sizes.items()}


def test_requests_at_once_do_not_pass_the_cap(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: each takes its room before it puts, and none goes by a count of its own."""
    parts = granted.broker_parts()
    listed(parts, arrival(granted, parts))
    sizes = [place.stat().st_size for place in objects(granted)]
    for place in objects(granted):
        place.unlink()
    parts = _limited(granted.broker_parts(), vendor_bytes=2 * max(sizes))
    # All of them are in the store's hands at once.
    putting, real = threading.Barrier(2), ObjectStore.put_pieces

    def slowly(self: ObjectStore, name: str, produce: Any) -> None:
        if name.startswith("spool/"):
            putting.wait(30)
        real(self, name, produce)

    monkeypatch.setattr(ObjectStore, "put_pieces", slowly)
    numbers = (5, 35, 65, 95)
    asked = [arrival(granted, parts) for _ in numbers]
    everything = access.shared_files(parts, asked[0], SharedTable.of("evals"), access.Hints())
    built = everything.files.gi_frame.f_locals["self"]._spool

    def build(shard: int) -> object:
        try:
            return built.file(shard)
        except LimitReached as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(build, range(4)))
    assert sum(isinstance(each, LimitReached) for each in found) == 2
    assert sum(place.stat().st_size for place in objects(granted)) <= 2 * max(sizes)


class _Store:
    """A store that lists what it is told, and how often it was asked."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes, self.listings, self.deletes = sizes, 0, True

    def list(self, _folder: str) -> Iterator[Any]:
        self.listings += 1
        yield from [ObjectInfo(name, size, None) for name, size in sorted(self.sizes.items())]

    def delete_all(self, names: Sequence[str]) -> None:
        if not self.deletes:
            raise Unavailable("an object could not be deleted in the store (Permission denied)")
        for name in names:
            del self.sizes[name]


@contextmanager
def _put(spools: Spools, store: _Store, name: str, size: int, limits: SpoolLimits) -> Iterator[None]:
    with spools.room(limits, name, size, _NOW):
        yield
        store.sizes[name] = size


def test_what_others_put_is_counted_ten_seconds_later() -> None:
    """Until then this process goes by its own count, and by all that it put itself: that is all that can be too much."""
    clock, store, limits = [0.0], _Store({}), SpoolLimits(total_bytes=100)
    spools = Spools(store, lambda: clock[0])  # type: ignore[arg-type]

    def put(name: str, size: int) -> None:
        with _put(spools, store, f"spool/{_END}/v/{name}", size, limits):
            pass

    put("a", 40)
    store.sizes[f"spool/{_END}/w/others"] = 50
    clock[0] = 9.0
    put("b", 20)
    assert store.listings == 1
    clock[0] = 11.0
    with pytest.raises(LimitReached, match="ask the lab"):
        put("c", 1)
    assert sum(store.sizes.values()) == 110
    # What is gone is room within a second.
    del store.sizes[f"spool/{_END}/w/others"]
    clock[0] = 11.5
    with pytest.raises(LimitReached):
        put("c", 60)
    clock[0] = 12.1
    put("c", 40)
    assert sum(store.sizes.values()) == 100
    with pytest.raises(LimitReached):
        put("d", 1)


def test_a_put_that_failed_takes_no_room() -> None:
    """Nor one that another process was first with."""
    store, limits = _Store({}), SpoolLimits(total_bytes=100)
    spools = Spools(store)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(Unavailable), spools.room(limits, f"spool/{_END}/v/a", 80, _NOW):
            raise Unavailable("the store is gone")
    with _put(spools, store, f"spool/{_END}/v/a", 80, limits):
        pass
    assert spools.counts == spooled.SpoolCounts(1, 0, 0)


def test_one_vendor_takes_no_room_of_anothers() -> None:
    """A vendor that is at its cap is refused, and the others are not."""
    store, limits = _Store({}), SpoolLimits(vendor_bytes=50, total_bytes=1000)
    spools = Spools(store)  # type: ignore[arg-type]
    with _put(spools, store, f"spool/{_END}/v/a", 50, limits):
        pass
    with pytest.raises(LimitReached, match="spooled for you"), spools.room(limits, f"spool/{_END}/v/b", 1, _NOW):
        pass
    with _put(spools, store, f"spool/{_END}/w/a", 50, limits):
        pass


def test_what_is_over_is_removed_when_it_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """By a broker that needs the room, the oldest first, a thousand at a time; no file that has an address yet."""
    over = {f"spool/{1000 + number}/v/a": 1 for number in range(1500)}
    store = _Store({**over, f"spool/{_END}/v/a": 1})
    clock = [0.0]
    spools = Spools(store, lambda: clock[0])  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "dsvault.spool"):
        with spools.room(SpoolLimits(total_bytes=1000), f"spool/{_END}/v/b", 400, _NOW):
            assert len(store.sizes) == 501
            assert "spool/1999/v/a" not in store.sizes
            assert "spool/2000/v/a" in store.sizes
        clock[0] = 2.0
        with spools.room(SpoolLimits(total_bytes=1000), f"spool/{_END}/v/c", 599, _NOW):
            assert list(store.sizes) == [f"spool/{_END}/v/a"]
    assert "1000 shared files whose time was over were removed" in caplog.text


def test_what_may_not_be_removed_counts(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that may not remove anything leaves it to gc, says so, and does not go beyond the cap for it."""
    store = _Store({"spool/1000/v/a": 90})
    store.deletes = False
    with (
        caplog.at_level(logging.WARNING, "dsvault.spool"),
        pytest.raises(LimitReached, match="ask the lab"),
        Spools(store).room(SpoolLimits(total_bytes=100), f"spool/{_END}/v/b", 20, _NOW),  # type: ignore[arg-type]
    ):
        pass
    assert "1 shared files whose time is over could not be removed" in caplog.text
    assert "at their cap" in caplog.text


def test_a_full_spool_is_said_to_both_sides(lab: Lab, tmp_path: Path) -> None:
    """The vendor's client has a sentence and no minutes of trying; the lab a line, a count and an entry in the log."""
    lab.vault.publish("evals", rows(60), key="id", shard_rows=30)
    lab.vault.grant("acme", "evals", ["id", "prompt"])
    limits = {"DSVAULT_SHARING_TOTAL_BYTES": "100"}
    with broker(lab.folder, environment=limits) as endpoint:
        acme = caller(lab, endpoint)
        answer = acme.query("default.evals")
        said = {"errorCode": "LIMIT_REACHED", "message": "the vault's spool of shared files is full; ask the lab"}
        assert (answer.status, answer.json()) == (403, said)
        began = time.monotonic()
        with pytest.raises(HTTPError, match="spool of shared files is full"):
            delta_sharing.load_as_pandas(acme.url("default.evals"))
        assert time.monotonic() - began < 20
        found = counters(endpoint)
        assert found["dsvault_spool_full_total"] == 2
        assert found['dsvault_refusals_total{kind="limit-reached"}'] == 2
    assert [each["reason"] for each in entries(lab, "request refused")] == ["LimitReached"] * 2
    assert not objects(lab)


def test_an_older_window_makes_room_of_itself(granted: Lab) -> None:
    """A broker alone, without gc, goes on for ever: what nobody has an address of is gone when room is needed."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    listed(parts, who)
    for place in objects(granted):
        moved = place.parent.parent.parent / "1000" / place.parent.name / place.name
        moved.parent.mkdir(parents=True, exist_ok=True)
        place.rename(moved)
    full = sum(place.stat().st_size for place in objects(granted))
    parts = _limited(granted.broker_parts(), total_bytes=full + 10)
    assert len(listed(parts, who)) == 4
    assert {place.parts[-3] for place in objects(granted)} == {str(spool.window_end(utcnow(), parts.spool.life))}
