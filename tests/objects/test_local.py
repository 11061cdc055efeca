"""A store that is a directory: an object is there with its whole content or not at all, whenever a writer is killed."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vault.errors import InvalidInput
from vault.objects import open_store


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
