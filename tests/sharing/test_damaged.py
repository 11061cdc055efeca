"""Spooled files that were changed or are gone while addresses of them are good: what comes is whole, or nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker, counters
from tests.support.sharing import arrival, caller, entries, fetched, listed, object_of, objects, ticket_of
from tests.support.tables import rows
from vault import access, spool
from vault.access import spooling
from vault.access.plainfile import PlainFile
from vault.errors import Abandoned, AuditError, Frozen, IntegrityError, NotGranted, Unavailable
from vault.objects import ObjectStore

_STEP = spool.SEGMENT_BYTES + 16


def _damages(lab: Lab) -> list[dict[str, Any]]:
    return list(entries(lab, "spooled file damaged"))


def _flip(at: int) -> Callable[[Path], None]:
    def flip(place: Path) -> None:
        data = bytearray(place.read_bytes())
        data[at] ^= 1
        place.write_bytes(data)

    return flip


def _cut(length: int) -> Callable[[Path], None]:
    return lambda place: place.write_bytes(place.read_bytes()[:length]) and None


#: What may happen to an object: a byte of its magic, its salt, the length of its facts, its facts, a segment or a tag is
#: another; its end is gone, wherever that begins; all of it is gone.
_DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"byte {at}": _flip(at) for at in (0, 8, 39, 41, 43, 60, -400, -17, -1)},
    **{f"{length} bytes left": _cut(length) for length in (0, 20, 43, 44, 100, -500, -16, -1)},
    "longer facts": lambda place: place.write_bytes(place.read_bytes()[:40] + b"\xff" * 4) and None,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_file_is_whole_again_when_it_is_asked_for(granted: Lab, damage: str) -> None:
    """Between the listing and the GET its object is damaged: the same bytes come, from an object with another salt."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    good, place = fetched(parts, file), object_of(granted, parts, file)
    before = place.read_bytes()
    _DAMAGES[damage](place)
    assert fetched(parts, file) == good
    after = place.read_bytes()
    assert len(after) == len(before)
    assert after[8:40] != before[8:40]
    (told,) = _damages(granted)
    assert told["found"] == ("missing" if damage == "gone" else "changed")
    assert (told["vendor"], told["dataset"], told["object"]) == ("acme", "evals", "/".join(place.parts[-4:]))
    # What was built is there for the next one.
    assert fetched(parts, file) == good
    assert place.read_bytes() == after
    assert len(_damages(granted)) == parts.spools.counts.damaged == 1


@pytest.mark.parametrize("damage", ["byte 8", "byte 60", "100 bytes left", "0 bytes left"])
def test_a_listing_builds_anew_what_is_damaged(granted: Lab, damage: str) -> None:
    """And hands out addresses as if nothing had been; those that were handed out before are good for it."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    (file, *_) = before = listed(parts, who)
    good, place = fetched(parts, file), object_of(granted, parts, file)
    _DAMAGES[damage](place)
    assert [each.id for each in listed(parts, who)] == [each.id for each in before]
    (told,) = _damages(granted)
    assert told["found"] == "changed"
    assert fetched(parts, file) == good


def test_the_object_of_another_shard_is_not_taken_for_it(granted: Lab) -> None:
    """Each is bound to its own name: what changes places opens nowhere, and is built anew."""
    parts = granted.broker_parts()
    first, second, *_ = listed(parts, arrival(granted, parts))
    good = fetched(parts, first)
    object_of(granted, parts, first).write_bytes(object_of(granted, parts, second).read_bytes())
    assert fetched(parts, first) == good
    assert len(_damages(granted)) == 1


def test_what_is_put_in_advance_is_not_served(granted: Lab) -> None:
    """Whoever may write to the store makes no file: what lies under its name has to be sealed for it."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    good = [fetched(parts, file) for file in listed(parts, who)]
    for place in objects(granted):
        place.chmod(0o600)
        place.write_bytes(b"PAR1 in the clear" * 20)
    assert [fetched(parts, file) for file in listed(parts, who)] == good
    assert not [place for place in objects(granted) if b"in the clear" in place.read_bytes()]
    assert len(_damages(granted)) == 4


@pytest.fixture
def big(published: Lab) -> Lab:
    """A vault with a file of some fifty segments."""
    table = pa.table({"id": pa.array(range(30)), "blob": [os.urandom(450_000) for _ in range(30)]})
    published.vault.publish("big", table, key="id")
    published.vault.grant("acme", "big", ["id", "blob"])
    return published


def _shuffled(order: Callable[[bytes, bytes, bytes], bytes]) -> Callable[[Path], None]:
    """Segments of the middle in another order."""

    def shuffle(place: Path) -> None:
        data = place.read_bytes()
        head = spool.Prefix.parse(data).head
        at = head + 20 * _STEP
        one, two, rest = data[at : at + _STEP], data[at + _STEP : at + 2 * _STEP], data[at + 2 * _STEP :]
        place.write_bytes(data[:at] + order(one, two, rest))

    return shuffle


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_flip(6_000_000), id="byte"),
        pytest.param(_cut(6_000_000), id="cut"),
        pytest.param(_cut(-1), id="last byte"),
        pytest.param(Path.unlink, id="gone"),
        pytest.param(_shuffled(lambda one, two, rest: two + one + rest), id="swapped"),
        pytest.param(_shuffled(lambda one, two, rest: one + one + rest), id="twice"),
        pytest.param(_shuffled(lambda _one, two, rest: two + rest), id="left out"),
    ],
)
def test_an_answer_that_has_begun_goes_on_whole(big: Lab, damage: Callable[[Path], None]) -> None:
    """In the middle of a file its object is damaged: not one byte of the answer is another, and none is missing."""
    parts = big.broker_parts()
    (file,) = listed(parts, arrival(big, parts), "big")
    good, place = fetched(parts, file), object_of(big, parts, file)
    found = access.shared_file(parts, ticket_of(file), "test")
    pieces = found.pieces(0, found.size)
    had = next(pieces)
    damage(place)
    assert had + b"".join(pieces) == good
    assert [each["found"] for each in _damages(big)] == ["missing" if damage is Path.unlink else "changed"]


def test_ranges_over_http_go_on_whole(big: Lab) -> None:
    """Of a running broker, one range before and one behind the damage, and all of the file: the same bytes as ever."""
    with broker(big.folder) as endpoint:
        (file,) = caller(big, endpoint).files("default.big")
        good = urllib3.request("GET", file["url"], timeout=60).data
        (place,) = objects(big)
        for number, damage in enumerate((_flip(9_000_000), _cut(5_000_000), Path.unlink, _flip(50)), 1):
            first = urllib3.request("GET", file["url"], headers={"Range": "bytes=0-99999"}, timeout=60)
            place.chmod(0o600)
            damage(place)
            rest = urllib3.request("GET", file["url"], headers={"Range": "bytes=100000-"}, timeout=60)
            assert (first.status, rest.status) == (206, 206)
            assert first.data + rest.data == good
            assert urllib3.request("HEAD", file["url"], timeout=60).headers["content-length"] == str(len(good))
            assert counters(endpoint)["dsvault_spool_damaged_total"] == number
    assert [each["found"] for each in _damages(big)] == ["changed", "changed", "missing", "changed"]


def test_what_cannot_be_whole_is_broken_off(big: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store spoils the new object as well, the answer ends before what does not open."""
    parts = big.broker_parts()
    (file,) = listed(parts, arrival(big, parts), "big")
    good, place = fetched(parts, file), object_of(big, parts, file)
    real = spool.sealed

    def spoiled(*given: Any) -> Any:
        for number, piece in enumerate(real(*given)):
            yield piece[:-1] + bytes([piece[-1] ^ 1]) if number == 30 else piece

    monkeypatch.setattr(spool, "sealed", spoiled)
    _flip(9_000_000)(place)
    found, had = access.shared_file(parts, ticket_of(file), "test"), bytearray()
    with pytest.raises(IntegrityError):
        had.extend(each for piece in found.pieces(0, found.size) for each in piece)
    assert len(had) < len(good)
    assert good.startswith(had)


def test_a_file_of_an_older_version_is_not_made_up(granted: Lab) -> None:
    """Once a newer one is there the same bytes cannot be had: the address is refused, and no other rows come."""
    parts = granted.broker_parts()
    gone, changed, *_ = listed(parts, arrival(granted, parts))
    places = [object_of(granted, parts, file) for file in (gone, changed)]
    granted.vault.publish("evals", rows(6), key="id")
    parts = granted.broker_parts()
    places[0].unlink()
    _flip(60)(places[1])
    for _ in range(2):
        for file in (gone, changed):
            with pytest.raises(NotGranted, match="not one that was handed out"):
                fetched(parts, file)
    assert [place.exists() for place in places] == [False, False]
    (told,) = _damages(granted)
    assert told["object"].endswith(places[1].name)


@pytest.mark.parametrize("begun", [False, True])
def test_other_bytes_do_not_go_with_those_before(big: Lab, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """What builds the file anew writes other bytes, if only as many: the address is refused, and ranges are not mixed."""
    parts = big.broker_parts()
    (file,) = listed(parts, arrival(big, parts), "big")
    place, real = object_of(big, parts, file), PlainFile.end

    def other(made: PlainFile) -> memoryview:
        data = bytearray(real(made))
        data[len(data) // 2] ^= 1
        return memoryview(data)

    monkeypatch.setattr(PlainFile, "end", other)
    found = access.shared_file(parts, ticket_of(file), "test")
    pieces = found.pieces(0, found.size)
    if begun:
        next(pieces)
    place.unlink()
    with pytest.raises(NotGranted, match="not one that was handed out"):
        next(pieces) if begun else access.shared_file(parts, ticket_of(file), "test")


def test_nothing_is_built_for_a_frozen_vendor(granted: Lab) -> None:
    """Nor for an address whose time or credential has ended: it is refused as it would be without the damage."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    place = object_of(granted, parts, file)
    place.unlink()
    granted.vault.freeze("acme")
    with pytest.raises(Frozen):
        fetched(granted.broker_parts(), file)
    assert not place.exists()
    assert _damages(granted) == []


def test_nothing_is_built_for_who_has_gone_away(granted: Lab) -> None:
    """Whoever asked by the address is not there any more: the file is left to the next one."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    place = object_of(granted, parts, file)
    place.unlink()
    with pytest.raises(Abandoned):
        access.shared_file(parts, ticket_of(file), "test", gone=lambda: True)
    assert not place.exists()
    assert fetched(parts, file)[:4] == b"PAR1"


def test_a_transfer_that_was_cut_is_no_damage(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens when it is looked at again is not removed, and nothing is said of it."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    good, place = fetched(parts, file), object_of(granted, parts, file)
    before, real, asked = place.read_bytes(), ObjectStore.get_range, list[str]()

    def once(self: ObjectStore, name: str, start: int, stop: int) -> bytes:
        asked.append(name)
        if name.startswith("spool/") and asked.count(name) in failing:
            raise IntegrityError("shorter than it was")
        return real(self, name, start, stop)

    monkeypatch.setattr(ObjectStore, "get_range", once)
    for failing in ({1}, {2}):  # noqa: B007 - the head, and a segment
        asked.clear()
        assert fetched(parts, file) == good
    assert place.read_bytes() == before
    assert _damages(granted) == []


def test_nothing_is_removed_that_is_not_written_down(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log cannot be written the damaged object stays, and nothing of it is served."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    place = object_of(granted, parts, file)
    _flip(60)(place)

    def broken(*_args: Any) -> Any:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(type(parts.catalog), "submit", broken)
    with pytest.raises(AuditError):
        fetched(parts, file)
    assert place.exists()


def test_a_broker_that_may_remove_nothing_says_so(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged stays under its name then: it is refused, and served neither in whole nor in part."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    (file, *_) = listed(parts, who)
    _flip(60)(object_of(granted, parts, file))

    def refused(*_args: Any) -> Any:
        raise Unavailable("an object could not be deleted in the store (Permission denied)")

    monkeypatch.setattr(ObjectStore, "delete_all", refused)
    for act in (lambda: fetched(parts, file), lambda: listed(parts, who)):
        with pytest.raises(Unavailable, match="could not be deleted"):
            act()


def test_no_key_is_opened_for_it_before_it_is_written_down(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of what was found is there before anything is read to build the file again."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    object_of(granted, parts, file).unlink()
    seen: list[int] = []
    real = spooling.Spool._build

    def built(self: Any, *given: Any) -> None:
        seen.append(len(_damages(granted)))
        real(self, *given)

    monkeypatch.setattr(spooling.Spool, "_build", built)
    assert fetched(parts, file)
    assert seen == [1]
