"""Many processes publish, append, grant, revoke, rekey, freeze and read on one vault at the same time.

Versions are taken by compare-and-swap on their number: who loses tries again or is told so. What is left afterwards is
compared with a model made of nothing but what the processes were told.
"""

from collections import Counter
from pathlib import Path

import pytest

import vault
from tests.support.crowd import DATASETS, VENDORS, Told, populate, run
from tests.support.postgres import postgres
from vault.owner import Vault


def _model(told: Told, dataset: str) -> list[list[str]]:
    """The marks of every version, by what the publishers were told; raises where two were told one number."""
    made = {1: ("publish", f"first of {dataset}")}
    for each in told.of("publish", "append"):
        if each["dataset"] == dataset:
            assert each["version"] not in made, "two publishers were told one version"
            made[each["version"]] = (each["act"], each["mark"])
    assert sorted(made) == list(range(1, len(made) + 1)), "a version is missing from the history"
    history: list[list[str]] = []
    for number in sorted(made):
        act, mark = made[number]
        history.append([*(history[-1] if act == "append" else []), *[mark] * 3])
    return history


def _stands_as_told(lab: Vault, told: Told, grants: dict[str, str]) -> None:
    assert told.faults == []
    histories = {dataset: _model(told, dataset) for dataset in DATASETS}
    for dataset, history in histories.items():
        for number, marks in enumerate(history, 1):
            assert lab.scan(dataset, version=number).read_all().column("mark").to_pylist() == marks
    for each in told.of("read"):
        assert each["marks"] in histories[each["dataset"]], "a read had rows of no version"
    made = {each["grant"] for each in told.done if "grant" in each} | set(grants.values())
    ended = {each["revoked"] for each in told.done if "revoked" in each}
    assert {each.grant.id for each in lab.grants() if each.state == "live"} == made - ended
    _is_in_the_log(lab, told)
    report = lab.check(epochs=True)
    assert report.faults == []
    assert lab.check().faults == []


def _is_in_the_log(lab: Vault, told: Told) -> None:
    entries = [entry for _, entry in lab.audit_entries()]
    assert lab.audit_verify() >= len(entries)
    kinds = Counter(entry.kind.value for entry in entries)
    published = Counter(
        (entry.fields["dataset"], entry.fields["version"])
        for entry in entries
        if entry.kind.value == "version published"
    )
    assert set(published.values()) == {1}
    assert published.keys() >= {(each["dataset"], each["version"]) for each in told.of("publish", "append")}
    assert kinds["version published"] == len(told.of("publish", "append")) + len(DATASETS)
    assert kinds["grant made"] == len([each for each in told.done if "grant" in each]) + len(VENDORS) * len(DATASETS)
    assert kinds["grant revoked"] == len([each for each in told.done if "revoked" in each])
    # A read that a freeze broke off was told to its reader as that.
    ended = Counter(entry.fields["outcome"] for entry in entries if entry.kind.value == "read ended")
    assert ended["complete"] == len(told.of("read"))
    assert kinds["vendor frozen"] == len([each for each in told.of("freeze") if each["changed"]])
    assert kinds["vendor thawed"] == len([each for each in told.of("thaw") if each["changed"]])


@pytest.mark.minutes
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("database", "processes", "acts"), [("sqlite", 16, 6), ("postgresql", 64, 3)])
def test_many_processes_on_one_vault_lose_nothing(tmp_path: Path, database: str, processes: int, acts: int) -> None:
    """Every version, grant and entry that a process was told of is there, and nothing else, and every chunk opens."""
    catalog = postgres().database() if database == "postgresql" else None
    lab = vault.init(tmp_path / "lab", catalog=catalog)
    grants = populate(lab)
    told = run(tmp_path / "lab", grants, processes, acts, seed=processes)
    _stands_as_told(lab, told, grants)
    # Most of them got through: to be told of a conflict each time is no way out.
    assert len(told.of("publish", "append")) > processes * acts / 8
