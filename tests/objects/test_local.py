"""The object store: written once, whole, and by our own names only."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vault.objects import ObjectStore, open_store


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A fresh store over a directory and over fsspec's memory."""
    return open_store(str(tmp_path) if request.param == "file" else f"memory://{tmp_path.name}-objects")


def test_an_object_is_written_once(store: ObjectStore) -> None:
    """A second put of a name is a Conflict and changes nothing."""
    store.put("objects/a/b", b"one")
    with pytest.raises(Conflict):
        store.put("objects/a/b", b"two")
    assert store.get("objects/a/b") == b"one"
    assert store.size("objects/a/b") == 3


def test_one_of_sixteen_writers_wins(store: ObjectStore) -> None:
    """Sixteen threads that put one name at once: one succeeds, and its bytes are what is there."""
    won: list[bytes] = []

    def put(number: int) -> None:
        data = bytes([number]) * 1000
        try:
            store.put("objects/race", data)
            won.append(data)
        except Conflict:
            return

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [store.get("objects/race")]


def test_listing_and_deleting(store: ObjectStore) -> None:
    """A listing has what was put, with sizes; deleting twice is no error; absent things are absent."""
    assert list(store.list("objects")) == []
    for name in ("objects/a/1", "objects/a/2", "objects/b/3", "heads/x"):
        store.put(name, b"1234")
    assert [(info.name, info.size) for info in store.list("objects")] == [
        ("objects/a/1", 4),
        ("objects/a/2", 4),
        ("objects/b/3", 4),
    ]
    store.delete("objects/a/1")
    store.delete("objects/a/1")
    assert store.size("objects/a/1") is None
    with pytest.raises(NotFound):
        store.get("objects/a/1")
    assert len(list(store.list("objects"))) == 2
    store.settle("objects/a")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "A", "a b", "a\x00", "a/", "."])
def test_names_that_are_not_ours_are_refused(store: ObjectStore, name: str) -> None:
    """A manifest that names a path outside of the prefix reads nothing."""
    for act in (lambda: store.get(name), lambda: store.put(name, b""), lambda: store.delete(name)):
        with pytest.raises(IntegrityError):
            act()


def test_an_unknown_scheme_is_a_users_mistake() -> None:
    """A store that cannot be opened is refused in a sentence."""
    with pytest.raises(InvalidInput, match="--store"):
        open_store("nosuchscheme://x")


def test_a_name_is_there_only_when_the_whole_object_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until every byte is durable nobody finds anything under the name, so that a kill leaves the whole or nothing."""
    store = open_store(str(tmp_path))
    real = os.fsync
    seen: list[int | None] = []

    def fsync(descriptor: int) -> None:
        seen.append(store.size("heads/a/1"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put("heads/a/1", b"x" * 100_000)
    assert seen == [None]
    assert store.size("heads/a/1") == 100_000
    assert [info.name for info in store.list("heads")] == ["heads/a/1"]


def test_what_a_killed_put_left_is_no_object_and_goes_in_time(tmp_path: Path) -> None:
    """An unfinished object is not listed, and is removed once it is old."""
    store = open_store(str(tmp_path))
    store.put("objects/a/b", b"one")
    left = tmp_path / ".unfinished" / "left"
    left.write_bytes(b"half")
    assert [info.name for info in store.list("objects")] == ["objects/a/b"]
    now = datetime.now(UTC)
    store.discard_unfinished(now - timedelta(hours=1))
    assert left.exists()
    store.discard_unfinished(now + timedelta(hours=1))
    assert not left.exists()
    assert store.get("objects/a/b") == b"one"
    open_store(f"memory://{tmp_path.name}").discard_unfinished(now)
