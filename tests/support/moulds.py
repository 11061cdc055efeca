"""Vaults that are made once for a worker, and copied for each test: a vault in a folder is that folder.

A copy has the keys and ids of its mould, and nothing else in common with it; it is opened anew, as a process that
starts would open it, and so holds no opened key yet. Where a test counts what is asked of the KMS, its vault is made
anew. Making one takes a quarter of a second of the processor, copying it a fiftieth.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Final

import vault
from tests.support.tables import rows
from vault.owner import Vault

__all__ = ["Anew", "Moulds"]


def _vendors(opened: Vault) -> None:
    opened.add_vendor("acme")
    opened.add_vendor("globex")


def _published(opened: Vault) -> None:
    opened.publish("evals", rows(100), key="id", shard_rows=30)


def _granted(opened: Vault) -> None:
    opened.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'", expires=timedelta(days=1))


#: What each has beyond the one before it.
_STEPS: Final = {"vendors": _vendors, "published": _published, "granted": _granted}


class Anew:
    """Makes each vault from the beginning."""

    def vault(self, name: str, folder: Path, catalog: str | None = None) -> Vault:
        """A vault of that name in a new folder, opened as its owner; ``catalog`` is one in a database elsewhere."""
        opened = vault.init(folder, catalog=catalog)
        for step in list(_STEPS)[: list(_STEPS).index(name) + 1]:
            _STEPS[step](opened)
        # What the log says of keys that were opened comes a moment later; tests that look at the log have it there.
        opened.parts.journal.settle()
        return opened


class Moulds(Anew):
    """Makes each vault once, when it is first asked for, and copies it then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def vault(self, name: str, folder: Path, catalog: str | None = None) -> Vault:
        """The same as a copy, unless its catalog is elsewhere."""
        if catalog is not None:
            return super().vault(name, folder, catalog)
        mould = self._folder / name
        if not mould.exists():
            unfinished = self._folder / f"{name}-unfinished"
            super().vault(name, unfinished).parts.catalog.close()
            unfinished.rename(mould)
        shutil.copytree(mould, folder)
        return vault.open(folder)
