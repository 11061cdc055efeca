"""The object store: written once, whole, and by our own names only."""

import threading
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
