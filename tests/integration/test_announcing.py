"""Heads that a killed act did not bring to the store any more."""

from pathlib import Path

import pytest

import vault
from vault.encoding import new_id


@pytest.mark.parametrize("store", ["file", "memory"])
def test_heads_that_the_store_lacks_are_there_after_the_next_opening(tmp_path: Path, store: str) -> None:
    """Every vendor's newest head comes to the store at the next opening, in a directory and where requests are made."""
    place = str(tmp_path / "objects") if store == "file" else f"memory://{new_id()}/vault"
    opened = vault.init(tmp_path / "lab", store=place)
    for number in range(5):
        opened.add_vendor(f"v{number}")
    opened.freeze("v3")
    objects = opened.parts.store
    names = sorted(info.name for info in objects.list("heads"))
    kept = {name: objects.get(name) for name in names}
    newest = {name.split("/")[1]: name for name in names}
    for name in list(newest.values())[1:]:
        objects.delete(name)
    vault.open(tmp_path / "lab")
    assert {info.name for info in objects.list("heads")} >= set(newest.values())
    assert all(bytes(objects.get(name)) == bytes(kept[name]) for name in newest.values())
