"""Many processes that act on one vault at the same time, and a model of what must be there afterwards.

Each process draws its acts from a seed, does them, and writes down what it was told. The model then has every version
by what its publisher was told: a version that is missing, or holds other rows than those, was lost.
"""

import json
import random
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

import vault
from tests.support.forked import context
from tests.support.reading import read
from vault import access, deployment
from vault.errors import Conflict, Frozen
from vault.owner import Vault

__all__ = ["DATASETS", "VENDORS", "Told", "populate", "run", "table"]

DATASETS = ("evals", "labels")
#: The last of them is frozen and thawed all the time.
VENDORS = ("acme", "globex", "initech", "umbrella")
_COLUMNS = ("text", "label")
_WEIGHTS = {"publish": 3, "append": 4, "grant": 4, "revoke": 3, "rekey": 2, "read": 5, "freeze": 1, "thaw": 1}
#: How often a process tries again that lost to another one.
_TRIES = 12
_LONGEST = 240


@dataclass
class Told:
    """What all processes were told: their acts that were done, those that lost each time, and what was no answer."""

    done: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)

    def of(self, *acts: str) -> list[dict[str, Any]]:
        """The acts of these kinds that were done."""
        return [each for each in self.done if each["act"] in acts]


def table(mark: str) -> pa.Table:
    """Rows that no other act publishes."""
    return pa.table({"mark": [mark] * 3, "text": [f"text {n} of {mark}" for n in range(3)], "label": [1, 2, None]})


def populate(lab: Vault) -> dict[str, str]:
    """The vendors, and two datasets with one version each and a grant for each vendor; returns the grants' ids."""
    for vendor in VENDORS:
        lab.add_vendor(vendor)
    for dataset in DATASETS:
        lab.publish(dataset, table(f"first of {dataset}"))
    return {
        f"{vendor} {dataset}": lab.grant(vendor, dataset, ["mark", "text"], expires=timedelta(days=1)).id
        for vendor in VENDORS
        for dataset in DATASETS
    }


def run(folder: Path, grants: dict[str, str], processes: int, acts: int, seed: int) -> Told:
    """Let so many processes do so many acts each; returns when all have ended.

    ``grants`` are those that the reads are under.
    """
    forks = context()
    start = forks.Barrier(processes)
    places = [folder.parent / f"told-{number}.jsonl" for number in range(processes)]
    crowd = [
        forks.Process(target=_work, args=(folder, grants, place, number, acts, seed, start))
        for number, place in enumerate(places)
    ]
    for process in crowd:
        process.start()
    told = Told()
    for number, process in enumerate(crowd):
        process.join(_LONGEST)
        if process.exitcode != 0:
            told.faults.append(f"process {number} ended with {process.exitcode}")
            process.kill()
    for place in filter(Path.exists, places):
        for line in place.read_text(encoding="utf-8").splitlines():
            each = json.loads(line)
            {"done": told.done, "lost": told.lost, "fault": told.faults}[each.pop("how")].append(each)
    return told


def _work(folder: Path, grants: dict[str, str], place: Path, number: int, acts: int, seed: int, start: Any) -> None:
    with place.open("w", encoding="utf-8") as file:
        try:
            one = _One(folder, grants, number, random.Random(f"{seed}/{number}"))
            start.wait(_LONGEST)
            for act in range(acts):
                file.write(json.dumps(one.act(act)) + "\n")
                file.flush()
            one.close()
        except BaseException:
            start.abort()  # or the others would wait for this one
            file.write(json.dumps({"how": "fault", "number": number, "what": traceback.format_exc()}) + "\n")


class _One:
    """One process: it keeps the owner's vault open, and a broker of its own."""

    def __init__(self, folder: Path, grants: dict[str, str], number: int, chance: random.Random) -> None:
        self._vault = vault.open(folder)
        self._broker = deployment.open_broker(folder)[0]
        self._grants = grants
        self._number = number
        self._chance = chance
        self._granted: list[tuple[str, str]] = []
        self._callers: dict[str, access.Caller] = {}

    def close(self) -> None:
        """Write what nobody waited for, as a broker does when it is stopped."""
        access.settle(self._broker)
        self._vault.parts.catalog.settle()

    def act(self, number: int) -> dict[str, Any]:
        """Draw an act and do it, again where another process came first."""
        act = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        about = {"act": act, "mark": f"{self._number}.{number}", "dataset": self._chance.choice(DATASETS)}
        for _ in range(_TRIES):
            try:
                return {"how": "done", **about, **getattr(self, f"_{act}")(about)}
            except Conflict as error:
                lost = str(error)
            except Frozen as error:
                # One clear answer, and nothing was changed.
                return {"how": "lost", **about, "why": f"{type(error).__name__}: {error}"}
        return {"how": "lost", **about, "why": f"again and again: {lost}"}

    def _publish(self, about: dict[str, Any]) -> dict[str, Any]:
        return {"version": self._vault.publish(about["dataset"], table(about["mark"])).version}

    def _append(self, about: dict[str, Any]) -> dict[str, Any]:
        return {"version": self._vault.publish(about["dataset"], table(about["mark"]), append=True).version}

    def _grant(self, about: dict[str, Any]) -> dict[str, Any]:
        vendor, column = self._chance.choice(VENDORS), self._chance.choice(_COLUMNS)
        made = self._vault.grant(vendor, about["dataset"], ["mark", column], purpose=about["mark"])
        self._granted.append((made.id, vendor))
        return {"grant": made.id, "vendor": vendor}

    def _revoke(self, about: dict[str, Any]) -> dict[str, Any]:
        if not self._granted:
            return self._grant(about)
        grant, vendor = self._granted[-1]
        self._vault.revoke(grant)
        self._granted.pop()
        return {"revoked": grant, "vendor": vendor}

    def _rekey(self, about: dict[str, Any]) -> dict[str, Any]:
        vendor = self._chance.choice((*VENDORS, "owner"))
        self._vault.rekey(vendor=vendor, dataset=about["dataset"])
        return {"vendor": vendor}

    def _freeze(self, about: dict[str, Any]) -> dict[str, Any]:
        return {"changed": self._vault.freeze(VENDORS[-1])}

    def _thaw(self, about: dict[str, Any]) -> dict[str, Any]:
        return {"changed": self._vault.thaw(VENDORS[-1])}

    def _read(self, about: dict[str, Any]) -> dict[str, Any]:
        vendor = self._chance.choice(VENDORS)
        if vendor not in self._callers:
            token = self._vault.issue_credential(vendor, bearer=True).profile.token
            self._callers[vendor] = access.authenticate(self._broker, token, "crowd")
        grant = self._grants[f"{vendor} {about['dataset']}"]
        found = read(self._broker, self._callers[vendor], about["dataset"], columns=("mark",), grant=grant)
        return {"vendor": vendor, "marks": found.column("mark").to_pylist()}
