"""Vaults that are made once for a worker, and copied for each test: a vault in a folder is that folder.

A copy has the keys and ids of its mould, and nothing else in common with it; it is opened anew, as a process that
starts would open it, and so holds no opened key yet. Where a test counts what is asked of the KMS, its vault is made
anew. Making one takes a quarter of a second of the processor, copying it a fiftieth.
"""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

import vault
from tests.support.postgres import postgres
from tests.support.tables import rows
from vault.owner import Vault

__all__ = ["Anew", "More", "Moulds"]

#: What a module's own tests have beyond one of the vaults here. It is given the vault, and depends on nothing else.
More = Callable[[Vault], object]


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
    """Makes each vault from the beginning; ``elsewhere`` gives the places of each one's parts on servers."""

    elsewhere: "ClassVar[Callable[[], dict[str, str]] | None]" = None

    def vault(self, name: str, folder: Path, catalog: str | None = None, more: More | None = None) -> Vault:
        """A vault of that name, and more, in a new folder; ``catalog`` is an unmade database of `postgres`."""
        places: dict[str, str | None] = {"catalog": catalog and postgres().make(catalog)}
        if Anew.elsewhere is not None:
            places = {**Anew.elsewhere()}
        opened = vault.init(folder, **places)
        for step in list(_STEPS)[: list(_STEPS).index(name) + 1]:
            _STEPS[step](opened)
        if more is not None:
            more(opened)
        # What the log says of keys that were opened comes a moment later; tests that look at the log have it there.
        opened.parts.catalog.settle()
        return opened


class Moulds(Anew):
    """Makes each vault once, when it is first asked for, and copies it then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, More | None, bool], tuple[Path, str | None]] = {}

    def vault(self, name: str, folder: Path, catalog: str | None = None, more: More | None = None) -> Vault:
        """The same as a copy. On servers it is made anew."""
        if Anew.elsewhere is not None:
            return super().vault(name, folder, catalog, more)
        mould, others = self._mould(name, more, elsewhere=catalog is not None)
        shutil.copytree(mould, folder)
        if catalog is not None and others is not None:
            postgres().make(catalog, others)
            for path in (folder / "owner" / "config.toml", folder / "broker" / "config.toml"):
                path.write_text(path.read_text().replace(others, catalog))
        return vault.open(folder)

    def _mould(self, name: str, more: More | None, *, elsewhere: bool) -> tuple[Path, str | None]:
        """A mould's folder, and the database that it has where that is ``elsewhere``."""
        if (name, more, elsewhere) not in self._made:
            catalog = postgres().unmade() if elsewhere else None
            mould = self._folder / str(len(self._made))
            shutil.rmtree(mould, ignore_errors=True)
            super().vault(name, mould, catalog, more).parts.catalog.close()
            self._made[name, more, elsewhere] = mould, catalog
        return self._made[name, more, elsewhere]
