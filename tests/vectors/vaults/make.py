"""Makes an archive of a small vault by the release that this is run with, and of what it answers, for later ones to open.

Run it in a checkout of that release, once for each schema, before the next schema is added; what it made is never made
anew: ``python -m tests.vectors.vaults.make schema-5``. Only what a release promises to keep is called. Every private key
in the archive was made for it alone and is published with it: none of them protects anything.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

import vault
from vault.trust import Role, Signer
from vault.trust.approvals import add_approval
from vault.trust.proposals import Change

_LIFE = timedelta(days=36_000)
_README = """A vault that a release of dsvault made for its own tests, and what it answered then (answers.json).

EVERY PRIVATE KEY IN HERE IS A TEST KEY: it was made for this archive, is published with it, and protects nothing.
"""
#: The approver's private key, which no vault holds.
APPROVER = bytes([0xA7]) * 32


def table(count: int, start: int = 0) -> pa.Table:
    """Rows with a nested column."""
    numbers = range(start, start + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": [f"prompt number {number}" for number in numbers],
            "lang": ["en" if number % 2 == 0 else "de" for number in numbers],
            "score": pa.array([None if number % 5 == 0 else number / 8 for number in numbers], pa.float64()),
            "meta": [{"source": f"s{number % 3}", "notes": f"private {number}"} for number in numbers],
        }
    )


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("serving on ").strip()
        finally:
            process.terminate()


def _filled(folder: Path) -> tuple["vault.Vault", list[dict[str, Any]]]:
    """The vault, and what its live grants are of."""
    lab = vault.init(folder)
    for vendor in ("acme", "globex"):
        lab.add_vendor(vendor)
    lab.publish("evals", table(40), key="id", shard_rows=20)
    lab.publish("tasks", table(12), shard_rows=20)
    lab.apply_root(lab.propose_root(Change(add=((Role.APPROVER, Signer(APPROVER).public),))))
    lab.protect("tasks", 2)
    wanted = [
        ("acme", "evals", ["id", "prompt", "meta.source"], {"where": "lang = 'en'", "masks": {"prompt": "hash"}}),
        ("acme", "evals", ["id", "score"], {"version": 1}),
        ("acme", "evals", ["id", "lang"], {"delivery": "lease"}),
        ("acme", "tasks", ["id", "prompt"], {"limits": {"rows": 100_000}}),
        ("globex", "evals", ["id", "lang"], {"purpose": "labels"}),
    ]
    live = []
    for vendor, dataset, columns, terms in wanted:
        grant = lab.grant(vendor, dataset, columns, expires=_LIFE, **terms)
        if dataset == "tasks":
            lab.approve(add_approval(lab.approval(grant.id).signed, Signer(APPROVER)))
        live.append({"id": grant.id, "vendor": vendor, "dataset": dataset, "delivery": terms.get("delivery", "stream")})
    lab.revoke(lab.grant("globex", "evals", ["prompt"]).id)
    lab.publish("evals", table(20, start=40), append=True, shard_rows=20)
    lab.rekey(vendor="acme", dataset="tasks")
    return lab, live


def _answers(lab: "vault.Vault", live: list[dict[str, Any]], profiles: Path) -> dict[str, Any]:
    """What vendors and the owner read."""
    with _broker(lab.folder) as url:
        for name, bearer in (("acme", False), ("acme-bearer", True), ("globex", False)):
            vendor = name.partition("-")[0]
            lab.issue_credential(vendor, expires=_LIFE, endpoint=url, bearer=bearer).save(profiles / f"{name}.json")
        for grant in live:
            dataset = vault.connect(profiles / f"{grant['vendor']}.json").dataset(grant["dataset"])
            grant["rows"] = dataset.scan(grant=grant["id"], delivery=grant["delivery"]).read_all().to_pylist()
    lab.freeze("globex")
    owner = {name: lab.scan(name).read_all().to_pylist() for name in ("evals", "tasks")}
    owner["evals of version 1"] = lab.scan("evals", version=1).read_all().to_pylist()
    lab.audit_checkpoint()
    entries = [[number, entry.kind.value] for number, entry in lab.audit_entries()]
    return {
        "grants": live,
        "owner": owner,
        "entries": entries,
        "frozen": ["globex"],
        "root": lab.parts.root.fingerprint,
    }


def make(target: Path) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as place:
        folder, profiles = Path(place) / "vault", Path(place) / "profiles"
        profiles.mkdir()
        lab, live = _filled(folder)
        answers = _answers(lab, live, profiles)
        lab.parts.catalog.close()
        with tarfile.open(target, "x:xz") as archive:
            for name, data in (("README", _README), ("answers.json", json.dumps(answers, indent=1) + "\n")):
                info = tarfile.TarInfo(name)
                info.size = len(data.encode())
                archive.addfile(info, io.BytesIO(data.encode()))
            for each in (folder, profiles):
                archive.add(each, each.name, filter=_plain)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


if __name__ == "__main__":
    make(Path(__file__).parent / f"{sys.argv[1]}.tar.xz")
