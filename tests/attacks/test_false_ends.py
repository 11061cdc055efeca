"""Ends that who took a broker over appends to the log, dated as he likes: none makes the report say less than is true."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.exposure.test_ground_truth import rows as numbers
from tests.support.reading import read
from tests.support.tables import rows as lab_rows
from vault.audit import Kind, leaves
from vault.encoding import timestamp
from vault.incident import Report
from vault.trust import Role

ALL = set(range(100))


def _ids(lab: Lab) -> dict[str, str]:
    """The ids that entries name: of the vendor, its grant, its credential and the dataset."""
    entries = [entry for _, entry in lab.vault.audit_entries()]
    grant = next(each for each in entries if each.kind is Kind.GRANTED).fields
    credential = next(each for each in entries if each.kind is Kind.CREDENTIAL_ISSUED).fields["credential"]
    return {
        "vendor_id": grant["vendor_id"], "grant": grant["grant"], "credential": credential,
        "dataset_id": grant["dataset_id"],
    }  # fmt: skip


def _append(lab: Lab, kind: Kind, before: timedelta, **fields: Any) -> None:
    """An entry of so long ago by its own time, as who has the log key makes one."""
    journal = lab.broker_parts().journal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_clock", lambda: datetime.now(UTC) - before)
        journal.record(kind, **fields)


def _report(lab: Lab, since: datetime | None = None) -> Report:
    lab.vault.parts.journal.settle()
    if since is not None:
        lab.vault.incident_report("acme")  # its entry is behind that time, so that there is a period
    return lab.vault.incident_report("acme", since=since)


def _could(made: Report, version: int = 1) -> set[int]:
    parts = [part for part in made.exposure.parts if (part.version, part.column) == (version, "id")]
    return set().union(*(numbers(part.could) for part in parts))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault in which acme has a grant and a credential, and has read nothing."""
    folder = tmp_path_factory.mktemp("made") / "lab"
    lab = vault.init(folder)
    lab.add_vendor("acme")
    lab.publish("evals", lab_rows(100), key="id", shard_rows=30)
    lab.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'", expires=timedelta(days=1))
    lab.issue_credential("acme")
    lab.parts.journal.settle()
    return folder


@pytest.fixture
def live(made: Path, tmp_path: Path) -> Lab:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "lab")
    lab = Lab(tmp_path / "lab", vault.open(tmp_path / "lab"))
    assert _could(_report(lab)) == ALL
    return lab


_ENDS: list[Callable[[dict[str, str]], tuple[Kind, dict[str, Any]]]] = [
    lambda ids: (Kind.FROZEN, {"vendor": "acme", "vendor_id": ids["vendor_id"]}),
    lambda ids: (Kind.REVOKED, {"vendor": "acme", "vendor_id": ids["vendor_id"], "grant": ids["grant"]}),
    lambda ids: (Kind.REVOKED, {"vendor": "acme", "vendor_id": ids["vendor_id"], "grants": [ids["grant"]]}),
    lambda ids: (
        Kind.CREDENTIAL_REVOKED,
        {"vendor": "acme", "vendor_id": ids["vendor_id"], "credential": ids["credential"]},
    ),
    lambda ids: (Kind.OFFBOARDING, {"vendor": "acme", "vendor_id": ids["vendor_id"]}),
    lambda ids: (Kind.OFFBOARDED, {"vendor": "acme", "vendor_id": ids["vendor_id"]}),
    lambda _ids: (Kind.ROOT_CHANGED, {"version": 2, "left_out": ["acme"], "ended_grants": []}),
    lambda ids: (Kind.ROOT_CHANGED, {"version": 2, "left_out": [], "ended_grants": [ids["grant"]]}),
    lambda ids: (Kind.DATASET_DELETED, {"dataset": "evals", "dataset_id": ids["dataset_id"], "versions": [1]}),
    lambda ids: (Kind.VERSIONS_EXPIRED, {"dataset": "evals", "dataset_id": ids["dataset_id"], "versions": [1]}),
    lambda ids: (
        Kind.ROWS_ERASED,
        {"dataset": "evals", "dataset_id": ids["dataset_id"], "rows": {"1": 99}, "layouts": {"1": [[0, 0, 1, None]]}},
    ),
    lambda ids: (
        Kind.PUBLISHED,
        {
            "dataset": "evals", "dataset_id": ids["dataset_id"], "version": 2, "rows": 0, "columns": ["id"],
            "column_ids": ["x"], "groups": ["x"], "layout": [], "base": {"version": 1, "shards": 4},
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize("before", [timedelta(days=30), timedelta()])
@pytest.mark.parametrize("end", _ENDS)
def test_an_end_that_nobody_signed_takes_nothing_away(
    live: Lab, end: Callable[[dict[str, str]], tuple[Kind, dict[str, Any]]], before: timedelta
) -> None:
    """Whenever it is said to have been, acme could still read all, and the entry is named."""
    kind, fields = end(_ids(live))
    _append(live, kind, before, **fields)
    number = live.vault.audit_verify()
    made = _report(live, since=datetime.now(UTC))
    assert _could(made) == ALL
    assert any(f"entry {number} of the log would take away" in doubt for doubt in made.exposure.doubts)
    assert not made.exposure.frozen
    assert any("not frozen" in sentence for sentence in made.summary())


@pytest.mark.parametrize("end", _ENDS[6:])
def test_an_end_for_all_is_not_believed_because_it_names_somebody_else(
    live: Lab, end: Callable[[dict[str, str]], tuple[Kind, dict[str, Any]]]
) -> None:
    """What ends for whoever was given it is held against what was signed, whichever vendor the entry says it is of."""
    kind, fields = end(_ids(live))
    _append(live, kind, timedelta(), **fields, vendor_id="f" * 32)
    number = live.vault.audit_verify()
    made = _report(live, since=datetime.now(UTC))
    assert _could(made) == ALL
    assert any(f"entry {number} of the log would take away" in doubt for doubt in made.exposure.doubts)


def test_a_second_publication_that_nobody_signed_makes_nothing_less_exact(live: Lab) -> None:
    """Where the heads bear out the first one alone, what is read from there on is as exact as before, and named as it was."""
    ids = _ids(live)
    fields = {
        "dataset": "other", "dataset_id": ids["dataset_id"], "version": 1, "rows": 1, "columns": ["id"],
        "column_ids": ["x"], "groups": ["x"], "layout": [[0, 0, 1, None]], "base": None,
    }  # fmt: skip
    _append(live, Kind.PUBLISHED, timedelta(hours=1), **fields)
    parts = live.broker_parts()
    read(parts, live.caller(parts, "acme"))
    parts.journal.settle()
    exposed = _report(live).exposure
    assert {part.dataset for part in exposed.parts} == {"evals"}
    assert not any(part.contested for part in exposed.parts)
    assert (exposed.cells, exposed.cells_at_most) == (3 * 50, 0)


def test_a_copy_of_an_end_does_not_end_again(live: Lab) -> None:
    """A freeze that was undone, appended once more with all that it says, is not borne out by the step of the first."""
    live.vault.freeze("acme")
    frozen = next(entry for _, entry in live.vault.audit_entries() if entry.kind is Kind.FROZEN)
    live.vault.thaw("acme")
    _append(live, Kind.FROZEN, datetime.now(UTC) - frozen.time, **frozen.fields)
    made = _report(live, since=datetime.now(UTC))
    (span,) = made.exposure.frozen
    assert span.last is not None
    assert _could(made) == ALL


def test_true_ends_are_believed(live: Lab) -> None:
    """What the lab did itself is borne out by what it signed: nothing is in doubt, and all of it counts."""
    lab = live.vault
    lab.publish("evals", lab_rows(20), key="id", shard_rows=30)
    lab.erase("evals", where="id < 5")
    lab.expire("evals", keep=1)
    lab.freeze("acme")
    lab.thaw("acme")
    ids = _ids(live)
    lab.revoke_credential(ids["credential"])
    lab.revoke(ids["grant"])
    lab.delete("evals")
    lab.offboard("acme")
    made = _report(live)
    assert made.exposure.doubts == ()
    assert made.exposure.compared
    (window,) = made.exposure.windows
    assert window.ended is not None
    assert made.exposure.credentials[0].ended is not None
    assert [span.last is None for span in made.exposure.frozen] == [False, True]
    assert all(span.last is not None for span in window.open)


def test_a_containment_and_new_keys_are_believed(live: Lab) -> None:
    """Ends stay borne out when the heads were signed anew under other keys, and when all ended at once."""
    lab = live.vault
    lab.freeze("acme")
    lab.thaw("acme")
    lab.rotate_key(Role.AUTHORITY)
    lab.contain("acme")
    lab.rotate_key(Role.RESPONDER)
    lab.offboard("acme")
    lab.rotate_key(Role.PUBLISHER)
    lab.rotate_key(Role.AUTHORITY)
    made = _report(live)
    assert made.exposure.doubts == ()
    assert [span.last is None for span in made.exposure.frozen] == [False, True]


def test_a_time_that_was_run_ahead_hides_no_true_end(live: Lab) -> None:
    """Behind an entry whose place is years ahead, a true freeze counts from the time at which it was signed."""
    with pytest.MonkeyPatch.context() as patch:
        ahead = timestamp(datetime.now(UTC) + timedelta(days=3650 * 2))
        patch.setattr(leaves, "timestamp", lambda _moment: ahead)
        live.broker_parts().journal.record(Kind.REFUSED, vendor_id="x", reason="x")
    before = datetime.now(UTC).timestamp() * 1e6
    live.vault.freeze("acme")
    made = _report(live)
    (span,) = made.exposure.frozen
    assert before <= span.first <= datetime.now(UTC).timestamp() * 1e6
    assert span.last is None


def test_heads_that_are_gone_make_the_report_say_more(live: Lab) -> None:
    """Who takes the signed steps out of the catalog has the freeze doubted, and nothing else."""
    live.vault.freeze("acme")
    with live.vault.parts.catalog.write() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM heads")
    made = _report(live)
    assert not made.exposure.frozen
    assert _could(made) == ALL
    assert made.exposure.doubts
