"""Containing a vendor: in one call, from any point where it was killed, and nobody else notices."""

import hashlib
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.catalog import sql
from tests.support.forked import outcome
from tests.support.killing import contain
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.audit import Kind
from vault.catalog import schema
from vault.errors import Conflict, IntegrityError, KeyUnavailable, KmsError, NotFound, Refused, VaultError
from vault.incident import containing
from vault.kms import KeyState
from vault.owner import Vault
from vault.policy import Request
from vault.workings import containment
from vault.workings.names import Holder
from vault.workings.steps import vendor_named
from vault.workings.versions import live_versions
from vault.workings.writing import Writer


@pytest.fixture
def both(cast: Callable[..., Lab]) -> Lab:
    """acme with grants on two datasets, one of them pending, and credentials; globex with a grant of its own."""
    return cast(_both, "granted")


def _both(opened: Vault) -> None:
    opened.publish("notes", rows(20), key="id", shard_rows=10)
    opened.grant("acme", "notes", ["id", "answer"])
    opened.grant("globex", "evals", ["id", "answer"])
    opened.issue_credential("acme")
    opened.federate("acme", issuer="https://id.example", audience="lab", claims={"hd": "acme.example"})


def _vendor(lab: Lab, name: str = "acme") -> Holder:
    return vendor_named(lab.vault.parts, name)


def _epochs(lab: Lab, name: str = "acme") -> dict[str, dict[str, int]]:
    """By compartment the epochs of all column groups, of those that are retired too."""
    parts, found = lab.vault.parts, {}
    with parts.catalog.read() as transaction:
        for row in transaction.compartments(holder=_vendor(lab, name).id):
            head = parts.heads.compartment_in(transaction, row)
            assert head is not None
            found[row.id] = {group: epoch for group, (epoch, _) in head.epochs.items()}
    return found


def _steps(lab: Lab) -> list[str]:
    kinds = {Kind.CONTAINING, Kind.CONTAINED}
    return [
        str(entry.fields.get("step", entry.kind.value)) for _, entry in lab.vault.audit_entries() if entry.kind in kinds
    ]


_EVERY_STEP = ["begun", "grants", "credentials", "rekeyed", "rewrapped", "covered", "collected", "vendor contained"]


def _is_contained(lab: Lab, before: dict[str, dict[str, int]], old: str) -> None:
    """acme is stopped, moved by one epoch and no more, and nothing of before opens or is there; globex reads on."""
    opened = vault.open(lab.folder)
    (state,) = (state for state in opened.vendors() if state.name == "acme")
    assert (state.frozen, state.grants, state.credentials) == (True, 0, 0)
    assert {each.state for each in opened.grants("acme")} == {"revoked"}
    after = _epochs(lab)
    assert {place: {group: epochs[group] - 1 for group in epochs} for place, epochs in after.items()} == before
    (custody,) = (each for each in opened.kms_keys() if each.holder == "acme")
    assert custody.key != old
    assert custody.earlier == ((old, KeyState.DISABLED),)
    report = opened.check()
    assert (report.faults, report.not_checked, report.garbage, report.busy) == ([], [], [], 0)
    assert _steps(lab) == _EVERY_STEP
    opened.audit_verify()
    parts = lab.broker_parts()
    assert read(parts, lab.caller(parts, "globex")).num_rows == 100


def _key(lab: Lab, name: str = "acme") -> str:
    return next(each.key for each in lab.vault.kms_keys() if each.holder == name)


def test_it_stops_the_vendor_and_makes_its_keys_worthless(both: Lab) -> None:
    """Frozen, without grants and credentials, under new keys and a new KMS key; and the log has every step."""
    before, old = _epochs(both), _key(both)
    parts = both.broker_parts()
    caller = both.caller(parts, "acme")
    read(parts, caller)
    told: list[str] = []
    done = both.vault.contain("acme", told=told.append)
    assert (done.grants, done.credentials, done.changed) == (2, 3, True)
    assert done.chunks > 0
    assert done.kms_keys == (old,)
    assert len(told) == 7
    with pytest.raises(Refused):
        read(both.broker_parts(), caller)
    _is_contained(both, before, old)
    kinds = [entry.kind for _, entry in both.vault.audit_entries()]
    assert kinds.count(Kind.REVOKED) == 2
    assert kinds.count(Kind.CREDENTIAL_REVOKED) == 3
    assert kinds.index(Kind.FROZEN) < kinds.index(Kind.CONTAINING)


def test_a_second_run_does_nothing_twice(both: Lab) -> None:
    """The same call again ends as before, moves no key and logs no step anew."""
    before, old = _epochs(both), _key(both)
    first = both.vault.contain("acme")
    again = vault.open(both.folder).contain("acme")
    assert (first.changed, again.changed) == (True, False)
    assert first.coverage == again.coverage
    _is_contained(both, before, old)


def test_a_second_incident_is_contained_anew(both: Lab) -> None:
    """Once the vendor was thawed and granted something, what was written down of the first time counts for nothing."""
    both.vault.contain("acme")
    both.vault.thaw("acme")
    both.vault.grant("acme", "evals", ["id", "prompt"])
    before, old = _epochs(both), _key(both)
    done = both.vault.contain("acme")
    assert done.changed
    assert done.kms_keys[-1] == old
    after = _epochs(both)
    moved = [after[place][group] - before[place][group] for place in after for group in after[place]]
    assert 1 in moved
    assert _key(both) != old
    assert both.vault.check().ok


_POINTS = [
    "vault.incident.containing freeze after",
    "vault.incident.containing open_case after",
    "vault.incident.containing _end_grants after",
    "vault.incident.containing announce before",
    "vault.incident.containing announce after",
    "vault.incident.containing _end_credentials after",
    "vault.workings.writing Writer.copy after",
    "vault.workings.writing Writer.commit after",
    "vault.incident.containing rekey after",
    "vault.rewrap _move after",
    "vault.rewrap _finish after",
    "vault.incident.containing rewrap after",
    "vault.incident.containing cover after",
    "vault.collect _forget_manifests after",
    "vault.objects ObjectStore.delete_all after",
    "vault.incident.containing collect after",
    "vault.incident.containing left_behind after",
    "vault.workings.containment Case.end before",
    "vault.workings.containment Case.end after",
]


@pytest.mark.parametrize("point", _POINTS)
def test_killed_at_any_step_it_goes_on(both: Lab, point: str) -> None:
    """kill -9 before or after a step, and the same call ends in the same state, with each step logged once."""
    before, old = _epochs(both), _key(both)
    code, _ = outcome(contain, both.folder, *point.split())
    assert code == -signal.SIGKILL
    opened = vault.open(both.folder)
    done = opened.contain("acme")
    assert (done.grants, done.credentials) == (2, 2)
    _is_contained(both, before, old)


def _stuck(*_arguments: object, **_named: object) -> Any:
    raise KmsError("the KMS cannot be reached")


@pytest.mark.parametrize(
    ("where", "done", "left"),
    [
        ("vault.kms.local.LocalKms.rotate_key", "rekey its data; left: move its data keys", "the evidence"),
        ("vault.workings.rotation.Rotation.note_keys", "end its credentials; left: rekey its data", "prove that"),
    ],
)
def test_a_kms_that_is_away_stops_it_with_a_sentence(
    both: Lab, monkeypatch: pytest.MonkeyPatch, where: str, done: str, left: str
) -> None:
    """What is done stays done, what is left is said, the vendor stays frozen, and the next run ends it."""
    before, old = _epochs(both), _key(both)
    with monkeypatch.context() as patch:
        patch.setattr(where, _stuck)
        with pytest.raises(KmsError, match="cannot be reached") as caught:
            both.vault.contain("acme")
    (note,) = caught.value.__notes__
    assert done in note
    assert "'acme' stays frozen" in note
    assert next(state.frozen for state in both.vault.vendors() if state.name == "acme")
    assert both.vault.contain("acme").changed
    _is_contained(both, before, old)


def test_a_disabled_kms_key_stops_it_behind_the_removals(both: Lab) -> None:
    """It is said what helps; access has ended, and once the key is enabled the same call does the rest."""
    before, old = _epochs(both), _key(both)
    both.vault.disable_kms_key("acme")
    with pytest.raises(KeyUnavailable, match="'dsvault kms enable acme' lets its data be opened") as caught:
        both.vault.contain("acme")
    assert "end its credentials; left: rekey its data" in caught.value.__notes__[0]
    both.vault.enable_kms_key("acme")
    both.vault.contain("acme")
    _is_contained(both, before, old)


def test_a_planted_checkpoint_holds_nothing_up(both: Lab) -> None:
    """Who can write to the store cannot keep access from being ended by what is no checkpoint."""
    both.vault.parts.store.put(f"checkpoints/{10**6:020d}", b"planted")
    with pytest.raises(IntegrityError, match="not a signed note") as caught:
        both.vault.contain("acme")
    assert "left: remove what is not" in caught.value.__notes__[0]


def test_a_lost_object_stops_it_and_nothing_is_thawed(both: Lab) -> None:
    """A chunk of the vendor's that is missing from the store is named; its access has ended all the same."""
    opened = both.vault
    place = containing.places_of(opened.parts, _vendor(both), ["evals"])[0]
    _, (version,) = live_versions(opened.parts, place.row)
    ref = next(iter(version.refs()))
    opened.parts.store.delete(ref.object)
    with pytest.raises(VaultError, match="missing") as caught:
        opened.contain("acme")
    assert "end its credentials; left: rekey its data" in caught.value.__notes__[0]
    (state,) = (state for state in opened.vendors() if state.name == "acme")
    assert (state.frozen, state.grants, state.credentials) == (True, 0, 0)


def test_a_responder_does_what_its_key_allows(both: Lab) -> None:
    """Without the publisher's and the authority's keys access ends, and it is said what is left for their owner."""
    before, old = _epochs(both), _key(both)
    keys = both.folder / "owner" / "keys"
    away = {name: (keys / name).read_bytes() for name in ("authority.json", "publisher.json", "auditor.json")}
    for name in away:
        (keys / name).unlink()
    objects = sorted(info.name for info in both.vault.parts.store.list("objects"))
    with pytest.raises(KeyUnavailable, match="publisher key is not here") as caught:
        vault.open(both.folder).contain("acme")
    assert sorted(info.name for info in both.vault.parts.store.list("objects")) == objects, (
        "nothing is begun without it"
    )
    assert "left: rekey its data" in caught.value.__notes__[0]
    (state,) = (state for state in vault.open(both.folder).vendors() if state.name == "acme")
    assert (state.frozen, state.grants, state.credentials) == (True, 0, 0)
    for name, content in away.items():
        (keys / name).write_bytes(content)
        (keys / name).chmod(0o600)
    done = vault.open(both.folder).contain("acme")
    assert (done.grants, done.credentials) == (2, 2)
    _is_contained(both, before, old)


def test_it_freezes_before_it_looks_at_anything_else(both: Lab) -> None:
    """A dataset that there is none of is a mistake, and the vendor is frozen all the same."""
    with pytest.raises(NotFound, match="--dataset: there is no dataset named 'evills'") as caught:
        both.vault.contain("acme", ["evills"])
    assert "done: freeze; left: end its grants" in caught.value.__notes__[0]
    assert next(state.frozen for state in both.vault.vendors() if state.name == "acme")
    with pytest.raises(NotFound) as unknown:
        both.vault.contain("nobody")
    assert not hasattr(unknown.value, "__notes__")


def test_of_the_named_datasets_only(both: Lab) -> None:
    """Another dataset's compartment is not rekeyed; asked for later, it is, and the first one is not touched again."""
    before = _epochs(both)
    places = {place.dataset.name: place.row.id for place in containing.places_of(both.vault.parts, _vendor(both), None)}
    both.vault.contain("acme", ["notes"])
    after = _epochs(both)
    assert after[places["evals"]] == before[places["evals"]]
    assert all(after[places["notes"]][group] == epoch + 1 for group, epoch in before[places["notes"]].items())
    both.vault.contain("acme")
    last = _epochs(both)
    assert last[places["notes"]] == after[places["notes"]]
    assert both.vault.check().ok


def _picture(lab: Lab) -> tuple[dict[str, str], dict[str, list[Any]], int]:
    """Every file but the catalog by what is in it, every row of the catalog but the log's, and the log's length."""
    files = {
        str(path.relative_to(lab.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lab.folder.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog.db")
    }
    with sql(lab) as connection:
        tables = schema.metadata.tables
        rows = {name: sorted(map(repr, connection.execute(f'select * from "{name}"'))) for name in tables}
    length = len(rows.pop("log"))
    rows.pop("log_tail")
    return files, rows, length


def test_the_dry_run_changes_nothing(both: Lab) -> None:
    """Catalog and store are what they were, byte for byte, but for the log's word on which data keys were asked for."""
    *before, length = _picture(both)
    planned = both.vault.plan_containment("acme")
    both.vault.parts.catalog.settle()
    *after, longer = _picture(both)
    assert after == before
    said = both.vault.audit_entries()[length:longer]
    assert {entry.kind for _, entry in said} <= {Kind.KEYS_OPENED}
    assert (planned.frozen, planned.grants, planned.credentials) == (False, 2, 2)
    assert {each.dataset for each in planned.compartments} == {"evals", "notes"}
    assert planned.sampled > 0
    assert planned.seconds is not None
    done = both.vault.contain("acme")
    assert (done.chunks, done.bytes) == (planned.chunks, planned.bytes)
    again = both.vault.plan_containment("acme")
    assert (again.frozen, again.grants, again.credentials, again.chunks, again.data_keys) == (True, 0, 0, 0, 0)
    with pytest.raises(NotFound):
        both.vault.plan_containment("nobody")


def test_streams_of_others_go_on(both: Lab) -> None:
    """A stream of another vendor that began on a manifest which was superseded since is read to its end."""
    parts = both.broker_parts()
    delivery = access.open_delivery(parts, both.caller(parts, "globex"), Request("evals"))
    batches = iter(delivery.batches)
    begun = [next(batches)]
    both.vault.rekey("globex")
    both.vault.contain("acme")
    table = pa.Table.from_batches([*begun, *batches], delivery.schema)
    assert table.num_rows == 100


def test_a_reading_client_notices_nothing(both: Lab) -> None:
    """While one vendor is contained, every read of another's through a broker is whole and right."""
    expected = rows(100).select(["id", "answer"])
    wrong: list[str] = []
    reads: list[int] = []
    over = threading.Event()
    with broker(both.folder) as endpoint:
        client = vault.connect(both.profile("globex", endpoint))

        def reading() -> None:
            while not over.is_set():
                try:
                    found = client.dataset("evals").to_arrow()
                except VaultError as error:
                    wrong.append(str(error))
                    continue
                reads.append(found.num_rows)
                if not found.equals(expected):
                    wrong.append("other rows")

        reader = threading.Thread(target=reading)
        reader.start()
        try:
            _await(lambda: bool(reads or wrong))
            both.vault.contain("acme")
            before = len(reads)
            _await(lambda: len(reads) > before + 1 or bool(wrong))
        finally:
            over.set()
            reader.join(60)
    assert wrong == []
    assert len(reads) > 2


def _await(met: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not met() and time.monotonic() < ends:
        time.sleep(0.02)


def test_a_stopped_rekey_of_before_is_not_left_behind(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed rekey of one column had copied, within gc's grace time, goes with the rest."""
    real = Writer.copy

    def copy(self: Writer, source: Any) -> Any:
        real(self, source)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "copy", copy)
        with pytest.raises(KeyboardInterrupt):
            both.vault.rekey("acme", "evals", ["prompt"])
    both.vault.contain("acme")
    report = vault.open(both.folder).check()
    assert (report.faults, report.garbage, report.busy) == ([], [], 0)


def test_two_at_once_are_told_apart(both: Lab) -> None:
    """While one process contains a vendor another one is told to wait; it has frozen it, if that was to be done."""
    both.vault.freeze("acme")
    containment.open_case(both.vault.parts, _vendor(both), None)
    with pytest.raises(Conflict, match="another process is containing 'acme'"):
        vault.open(both.folder).contain("acme")


def test_what_was_written_down_is_passed_over_once_in_doubt(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the catalog lacks a step of the vendor's head, nobody can tell that it was frozen all the time: begun anew."""
    both.vault.contain("acme")
    with both.vault.parts.catalog.read() as transaction:
        known = containment._of_this_incident(both.vault.parts, transaction, _vendor(both))
        assert len(known) == 1
        real = type(transaction).heads_from
        monkeypatch.setattr(type(transaction), "heads_from", lambda *words: real(*words)[1:])
        assert containment._of_this_incident(both.vault.parts, transaction, _vendor(both)) == []


def test_the_proof_finds_a_compartment_that_was_not_rekeyed(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rekey that says that it is done and is not is no containment."""
    monkeypatch.setattr(containing, "rekey", lambda *_words, **_named: [])
    with pytest.raises(IntegrityError, match="is one of before the incident"):
        both.vault.contain("acme")
    assert "vendor contained" not in _steps(both)


def test_the_proof_finds_what_gc_left(both: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superseded manifests and wrapped keys in the catalog, or objects in the store that nothing names, are no containment."""
    monkeypatch.setattr(containing, "collect", lambda *_words, **_named: None)
    with pytest.raises(IntegrityError, match="superseded manifest .* is left in the catalog"):
        both.vault.contain("acme")
    both.vault.gc(timedelta(0))
    both.vault.parts.store.put("objects/" + "0" * 32 + "/" + "1" * 32, b"left")
    with pytest.raises(IntegrityError, match="1 objects are left in the store"):
        both.vault.contain("acme")
    assert "vendor contained" not in _steps(both)
