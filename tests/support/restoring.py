"""A vault with some of everything, its exported keys, and what a restored one has to equal."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

import vault
from tests.support.reading import read
from tests.support.tables import rows
from vault import access, deployment
from vault.catalog import BACKED_UP, Catalog
from vault.owner import Vault
from vault.restoring import Restored
from vault.wire import Token

__all__ = ["PASSPHRASE", "Origin", "backed_up", "make_origin", "newest", "restored", "said", "without"]

#: What a report says of when and from what it was made.
_OF_THE_MOMENT = {"entries", "through", "made", "log", "checkpoint"}

PASSPHRASE = "correct horse battery staple"


@dataclass
class Origin:
    """A vault's directory, the file with its keys, and what its owner and its vendors can say of it."""

    folder: Path
    keys: Path
    token: Token
    frozen: Token
    tables: dict[int, pa.Table]
    read: pa.Table
    rows: dict[str, list[Any]]
    until: datetime
    report: Any
    entries: int
    checkpoint: bytes
    used: Mapping[str, int] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "store"


def backed_up(catalog: Catalog) -> dict[str, list[Any]]:
    """Every administrative row, as it lies there."""
    with catalog.read() as transaction:
        return {
            name: sorted(tuple(row) for row in transaction.connection.execute(table.select()))
            for name, table in BACKED_UP.items()
        }


def make_origin(folder: Path) -> Origin:
    """Two datasets, one of two versions; acme reads, globex reads to a limit, initech is frozen, hooli was offboarded."""
    lab = vault.init(folder / "lab")
    for name in ("acme", "globex", "initech", "hooli"):
        lab.add_vendor(name)
    keys = folder / "keys.json"
    vault.backup_keys(keys, PASSPHRASE, folder / "lab")
    lab.publish("evals", rows(40), key="id", shard_rows=15)
    lab.publish("evals", rows(20, 40), key="id", shard_rows=15, append=True)
    lab.publish("notes", rows(5))
    lab.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    limited = lab.grant("globex", "evals", ["id"], limits={"rows": 1000})
    lab.revoke(lab.grant("globex", "notes", ["id", "prompt"]).id)
    lab.grant("initech", "evals", ["id"])
    tokens = {name: lab.issue_credential(name, bearer=True).profile.token for name in ("acme", "globex", "initech")}
    parts = deployment.open_broker(folder / "lab")[0]
    seen = read(parts, access.authenticate(parts, tokens["acme"], "test"))
    read(parts, access.authenticate(parts, tokens["globex"], "test"))
    parts.journal.settle()
    lab.freeze("initech")
    lab.rekey(vendor="acme")
    lab.offboard("hooli")
    tables = {
        state.version: lab.scan("evals", version=state.version).read_all() for state in lab.show("evals").versions
    }
    lab.incident_report("acme")
    checkpoint = lab.audit_checkpoint()
    until = lab.parts.clock()
    lab.scan("notes").read_all()
    report = said(lab, until)
    lab.parts.journal.settle()
    end = lab.parts.journal.end()
    assert end is not None
    with lab.parts.catalog.read() as transaction:
        used = transaction.usage(limited.id, "")[0]
    return Origin(
        folder / "lab",
        keys,
        tokens["acme"],
        tokens["initech"],
        tables,
        seen,
        backed_up(lab.parts.catalog),
        until,
        report,
        end[1].size,
        checkpoint,
        used,
    )


def said(lab: Vault, until: datetime) -> Any:
    """What the log shows that acme was served and could have been, up to a moment."""
    found = lab.incident_report("acme", until=until).document()
    return {name: value for name, value in found.items() if name not in _OF_THE_MOMENT}


def without(store: Path, aside: Path, gone: Callable[[str], bool] = lambda _name: False) -> Path:
    """A copy of a store that lacks some objects, by their names."""
    shutil.copytree(store, aside)
    for path in [path for path in aside.rglob("*") if path.is_file()]:
        if gone(path.relative_to(aside).as_posix()):
            path.unlink()
    return aside


def newest(store: Path, folder: str) -> Path:
    """The object with the highest number."""
    return max((store / folder).iterdir(), key=lambda path: path.name)


def restored(origin: Origin, store: Path, folder: Path, **options: Any) -> tuple[Vault, Restored]:
    """Restore into a directory, and open what is there."""
    made = vault.restore(folder, store=str(store), kms="local:", keys=origin.keys, passphrase=PASSPHRASE, **options)
    return vault.open(folder), made
