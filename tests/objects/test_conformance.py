"""What every store has to do before a vault is put on it."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.objects.clouds import CLOUDS
from tests.objects.places import ALWAYS, opened
from vault.errors import Conflict, IntegrityError, NotFound
from vault.objects import ObjectStore, probe, writing


@pytest.fixture(params=[*ALWAYS, *CLOUDS])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A new store of each kind."""
    return opened(request.param, request, tmp_path, monkeypatch)


def test_a_store_passes_the_probe_and_has_nothing_of_it(store: ObjectStore) -> None:
    """What is tried before a vault is made is there to be relied on, and leaves no object."""
    probe(store)
    assert list(store.list("probe")) == []


def test_an_object_is_written_once(store: ObjectStore) -> None:
    """A second put of a name is a Conflict and changes nothing."""
    store.put("objects/a/b", b"one")
    with pytest.raises(Conflict):
        store.put("objects/a/b", b"two")
    assert store.get("objects/a/b") == b"one"
    assert store.size("objects/a/b") == 3


def test_one_of_sixteen_writers_wins(store: ObjectStore) -> None:
    """Sixteen threads that put one name at once: one succeeds, and its bytes are what reads back."""
    won: list[bytes] = []
    others: list[BaseException] = []
    together = threading.Barrier(16)

    def put(number: int) -> None:
        data = bytes([number]) * (1000 + number)
        together.wait()
        try:
            store.put("objects/race", data)
            won.append(data)
        except Conflict:
            return
        except BaseException as error:
            others.append(error)

    for turn in range(3):
        won.clear()
        store.delete("objects/race")
        threads = [threading.Thread(target=put, args=(number + 16 * turn,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert others == []
        assert won == [store.get("objects/race")]


def test_ranges_are_exact(store: ObjectStore) -> None:
    """Every range holds just its bytes; one that the object does not have to its end is no range of it."""
    data = os.urandom(70_000)
    store.put("objects/r", data)
    for start, stop in ((0, 1), (0, 70_000), (69_999, 70_000), (1234, 45_678), (5, 5)):
        assert store.get_range("objects/r", start, stop) == data[start:stop]
    for start, stop in ((69_000, 70_001), (70_000, 70_001), (80_000, 80_010)):
        with pytest.raises(IntegrityError, match="shorter"):
            store.get_range("objects/r", start, stop)


def test_what_is_put_is_listed_at_once(store: ObjectStore) -> None:
    """A listing has all that was put before it, with sizes, by name and below the folder only; then what is left."""
    assert list(store.list("objects")) == []
    names = [f"objects/a/{number:03d}" for number in range(30)]
    for number, name in enumerate(names):
        store.put(name, b"x" * (number + 1))
        assert [info.name for info in store.list("objects/a")] == names[: number + 1]
    store.put("objects/ab/1", b"12")
    store.put("heads/x", b"1")
    listed = list(store.list("objects/a"))
    assert [(info.name, info.size) for info in listed] == [(name, number) for number, name in enumerate(names, 1)]
    assert len(list(store.list("objects"))) == 31
    now = datetime.now(UTC)
    assert all(info.written is None or abs(info.written - now) < timedelta(minutes=5) for info in listed)
    store.delete_all(names[1:])
    assert [info.name for info in store.list("objects/a")] == names[:1]


def test_what_is_not_there_is_not_there(store: ObjectStore) -> None:
    """An absent object has no size, no bytes and no range, and deleting it twice is no error."""
    store.put("objects/a", b"1234")
    store.delete("objects/a")
    store.delete("objects/a")
    store.delete_all(["objects/a", "objects/b"])
    store.delete_all([])
    assert store.size("objects/a") is None
    with pytest.raises(NotFound):
        store.get("objects/a")
    with pytest.raises(NotFound):
        store.get_range("objects/a", 0, 2)
    with pytest.raises(NotFound):
        store.open("objects/a", 4).read(0, 4)
    store.settle("objects")


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # which is what gcsfs does
def test_a_big_object_is_whole_or_not_there(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty MiB, in parts where the store takes them: read back equal, by ranges too, and refused a second time."""
    monkeypatch.setattr(writing, "WHOLE", 6 << 20)
    monkeypatch.setattr(writing, "PART", 5 << 20)
    data = os.urandom(20_000_003)
    pieces = [memoryview(data)[at : at + 3_000_000] for at in range(0, len(data), 3_000_000)]

    def broken(write: object) -> None:
        for piece in pieces[:-1]:
            write(piece)
        raise IntegrityError("the source is not what it was")

    with pytest.raises(IntegrityError, match="the source"):
        store.put_pieces("objects/big", broken)
    assert store.size("objects/big") is None
    store.put_pieces("objects/big", lambda write: [write(piece) for piece in pieces])
    with pytest.raises(Conflict):
        store.put_pieces("objects/big", lambda write: [write(piece) for piece in reversed(pieces)])
    assert store.get("objects/big") == data
    assert store.get_large("objects/big", len(data)) == data
    found = store.open("objects/big", len(data))
    read = b"".join(bytes(found.read(at, min(at + 700_000, len(data)))) for at in range(0, len(data), 700_000))
    assert read == data
    assert [info.name for info in store.list("objects")] == ["objects/big"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "A", "a b", "a\x00", "a/", "."])
def test_names_that_are_not_ours_are_refused(tmp_path: Path, name: str) -> None:
    """A manifest that names a path outside of the prefix reads nothing."""
    from vault.objects import open_store

    store = open_store(str(tmp_path))
    for act in (lambda: store.get(name), lambda: store.put(name, b""), lambda: store.delete(name)):
        with pytest.raises(IntegrityError):
            act()
