"""What keeps submissions, and what ends them: gc, check, deletion, offboarding, restoring, and the owner's keys."""

import json
import os
import zipfile
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import vault
from tests.conftest import Lab
from tests.support.catalog import sql
from tests.support.log import acts
from tests.support.restoring import PASSPHRASE
from tests.support.submitting import Desk, labels
from tests.support.tables import rows
from vault.audit import Kind
from vault.catalog import SubmissionRow, schema
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable
from vault.incident import verify_bundle
from vault.incident.reporting import report_members
from vault.owner import Vault
from vault.submission import key_name
from vault.workings import submissionkeys


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _objects(lab: Vault) -> set[str]:
    return {info.name for info in lab.parts.store.list("submissions")}


def test_gc_leaves_what_waits_and_removes_what_was_settled(desk: Desk) -> None:
    """Accepted or rejected, once the grace time is over; what waits is never touched."""
    lab = desk.lab.vault
    waiting, taken, refused = desk.submit(labels(0)), desk.submit(labels(2)), desk.submit(labels(4))
    lab.accept_submission(taken)
    lab.reject_submission(refused, "no")
    lab.gc(timedelta(hours=1))
    assert len(_objects(lab)) == 3
    assert lab.gc(timedelta(0)).objects >= 2
    assert len(_objects(lab)) == 1
    assert lab.submission(waiting).problem is None
    assert lab.check().faults == []


def test_gc_removes_what_no_row_names_once_no_upload_can_be_under_way(desk: Desk) -> None:
    """An object that a killed broker left is kept for an hour, whatever the grace time is."""
    lab = desk.lab.vault
    lab.parts.store.put("submissions/0123456789abcdef0123456789abcdef", b"left over")
    lab.gc(timedelta(0))
    assert len(_objects(lab)) == 1
    (path,) = (desk.lab.folder / "store" / "submissions").iterdir()
    then = path.stat().st_mtime - 7200
    os.utime(path, (then, then))
    lab.gc(timedelta(0))
    assert _objects(lab) == set()


def test_no_other_row_gives_up_what_waits(desk: Desk) -> None:
    """A broker may add rows: one that names the object of another, and says that it was settled, has it not removed."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    with lab.parts.catalog.write() as transaction:
        (row,) = transaction.submissions()
        other = replace(row, id="0" * 32, received="2099", state="rejected", settled="2026-01-01T00:00:00.000000Z")
        transaction.add_submission(other)
    lab.gc(timedelta(0))
    assert lab.submission(identity).problem is None
    assert lab.check().submissions == 1


def test_a_copy_under_another_vendor_is_in_nobodys_way(desk: Desk) -> None:
    """A broker may add one: said whose it is, the one that was sent is accepted, and the copy is none, and refused."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    with lab.parts.catalog.write() as transaction:
        (row,) = transaction.submissions()
        globex = next(state.id for state in lab.vendors() if state.name == "globex")
        transaction.add_submission(replace(row, vendor=globex))
    for act in (lab.submission, lab.accept_submission):
        with pytest.raises(Conflict, match="say whose with --vendor"):
            act(identity)
    with pytest.raises(IntegrityError):
        lab.accept_submission(identity, vendor="globex")
    assert lab.submission(identity, "acme").problem is None
    assert lab.accept_submission(identity, vendor="acme").version == 2
    assert lab.reject_submission(identity, "a copy", "globex").state == "rejected"


def test_check_knows_what_is_in_quarantine(desk: Desk) -> None:
    """It counts them, and an object that is gone or was changed is a fault."""
    lab = desk.lab.vault
    first, second = desk.submit(labels(0)), desk.submit(labels(2))
    report = lab.check()
    assert (report.submissions, report.faults, report.garbage) == (2, [], [])
    with lab.parts.catalog.read() as transaction:
        places = {row.id: desk.lab.folder / "store" / row.object for row in transaction.submissions()}
    places[first].unlink()
    data = bytearray(places[second].read_bytes())
    data[10] ^= 1
    places[second].chmod(0o600)
    places[second].write_bytes(data)
    faults = lab.check().faults
    assert any(first in fault and "missing" in fault for fault in faults)
    assert any(second in fault and "not the one that was signed" in fault for fault in faults)


def _added(lab: Vault, **changes: Any) -> SubmissionRow:
    """A row like the one that is there but for these changes, as whoever has a broker's database role can add it."""
    with lab.parts.catalog.write() as transaction:
        row = replace(transaction.submissions()[0], **changes)
        transaction.add_submission(row)
    return row


def test_a_copy_of_a_row_is_a_fault(desk: Desk) -> None:
    """Under another vendor or under another id, waiting or settled: the copy is named, and what it is of is none."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    globex = next(state.id for state in lab.vendors() if state.name == "globex")
    copies = [("globex", identity, {"vendor": globex}), ("acme", "0" * 32, {"id": "0" * 32})]
    copies += [("acme", "1" * 32, {"id": "1" * 32, "state": "accepted", "settled": "2026-01-01T00:00:00.000000Z"})]
    for _, _, changes in copies:
        _added(lab, **changes)
    for epochs in (False, True):
        report = lab.check(epochs=epochs)
        why = "its envelope is of another vendor, grant or submission"
        assert sorted(fault.split(":")[0] for fault in report.faults) == sorted(
            f"submission {copied} of {vendor}" for vendor, copied, _ in copies
        )
        assert all(why in fault for fault in report.faults)
        assert report.submissions == 3


def test_two_rows_of_one_object_are_a_fault(desk: Desk) -> None:
    """Each with an envelope of its own: at most one of them is what the object is."""
    lab = desk.lab.vault
    first, second = desk.submit(labels(0)), desk.submit(labels(0))
    with lab.parts.catalog.write() as transaction:
        (one,) = transaction.submissions(submission=first)
        table = schema.submissions
        transaction.connection.execute(update(table).where(table.c.id == second).values(object=one.object))
    faults = lab.check(epochs=True).faults
    assert any(f"{first} and {second}" in fault or f"{second} and {first}" in fault for fault in faults)


def test_a_row_that_no_broker_writes_hides_no_other(desk: Desk) -> None:
    """It is named, by `check` and by whoever opens it, and shown beside those that are whole; and it can be rejected."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    odd = "a" * 32
    _added(lab, id=odd, received="soon\x1b[2J", object=f"submissions/{odd}")
    states = {state.id: state for state in lab.submissions()}
    assert (states[identity].doubt, states[odd].doubt) == (None, "it was received at no time")
    for act in (lab.submission, lab.accept_submission):
        with pytest.raises(IntegrityError, match=f"the submission {odd} does not say when it was received"):
            act(odd)
    assert any(fault.startswith(f"submission {odd} of acme: ") for fault in lab.check().faults)
    assert lab.submission(identity).problem is None
    assert lab.reject_submission(odd, "no broker's").state == "rejected"
    assert lab.accept_submission(identity).version == 2


def test_check_says_of_a_time_that_is_none_whose_it_is(desk: Desk) -> None:
    """Also where the rest of the row is as it was sent."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    with lab.parts.catalog.write() as transaction:
        transaction.connection.execute(update(schema.submissions).values(received="soon"))
    (fault,) = lab.check(epochs=True).faults
    assert fault.startswith(f"submission {identity} of acme: ")
    assert "does not say when it was received" in fault


def test_notes_and_ends_that_the_owner_did_not_write_stop_nothing(desk: Desk) -> None:
    """A row that says it was settled, at no time and with a note that does not open: gc, list and a merge go on."""
    lab = desk.lab.vault
    lab.accept_submission(desk.submit(labels(0)))
    second = desk.submit(labels(2))
    odd = "a" * 32
    lab.parts.store.put(f"submissions/{odd}", b"something")
    _added(lab, id=odd, object=f"submissions/{odd}", state="accepted", settled="never")
    with sql(desk.lab) as catalog:
        catalog.execute("UPDATE submissions SET note = ? WHERE id = ?", (b"nothing", odd))
    doubt = next(state.doubt for state in lab.submissions() if state.id == odd)
    assert doubt == "its note does not open, it was settled at no time"
    lab.gc(timedelta(0))
    assert lab.accept_submission(second, merge=True).rows == 1


def test_all_that_waits_of_a_vendor_is_rejected_at_once(desk: Desk) -> None:
    """Of that vendor alone; what was accepted stays so, and a second time there is nothing to do."""
    lab = desk.lab.vault
    taken = desk.submit(labels(0))
    lab.accept_submission(taken)
    waiting = {desk.submit(labels(2)), desk.submit(labels(4))}
    lab.grant("globex", "evals", ["id", "prompt"])
    others = Desk(desk.lab, "globex").submit(labels(1))
    done = lab.reject_submissions("acme", "sent during the breach")
    assert {(state.id, state.state, state.reason) for state in done} == {
        (identity, "rejected", "sent during the breach") for identity in waiting
    }
    assert {state.id: state.state for state in lab.submissions()} == {
        taken: "accepted", others: "waiting", **dict.fromkeys(waiting, "rejected"),
    }  # fmt: skip
    told = [each.fields["submission"] for each in acts(lab) if each.kind is Kind.SUBMISSION_REJECTED]
    assert told == [state.id for state in done]
    assert lab.reject_submissions("acme", "again") == []
    with pytest.raises(InvalidInput, match="--reason"):
        lab.reject_submissions("acme", " ")


def test_a_dataset_that_is_deleted_takes_what_waits_for_it_along(desk: Desk) -> None:
    """It is rejected in the same change, and can be accepted into no other dataset of that name."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    assert lab.delete("evals").submissions == 1
    (state,) = lab.submissions()
    assert (state.state, state.reason) == ("rejected", "the dataset was deleted")
    lab.publish("evals", rows(100), key="id")
    with pytest.raises(Conflict, match="rejected already"):
        lab.accept_submission(identity)
    assert Kind.SUBMISSION_REJECTED in {entry.kind for entry in acts(lab)}


def test_what_a_vendor_sent_outlives_the_vendor(desk: Desk) -> None:
    """Sealed to the owner and signed while it counted, it needs none of the vendor's keys: not after a rekey, a rewrap
    or an offboarding.
    """
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    lab.rekey("acme")
    lab.rewrap("acme")
    lab.offboard("acme")
    assert lab.accept_submission(identity).rows == 1


def test_it_can_be_accepted_after_its_version_has_expired(desk: Desk) -> None:
    """What was shown is then what the newest version shows; the rows that are not there count as gone."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0, 98))
    lab.publish("evals", rows(50), key="id", shard_rows=30)
    lab.expire("evals", 1)
    done = lab.accept_submission(identity)
    assert (done.rows, done.gone) == (1, 1)


def test_a_renamed_key_column_is_the_same_column(desk: Desk) -> None:
    """Rows go by the column, whatever it is called by now."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    lab.rename_column("evals", "id", "number")
    assert lab.accept_submission(identity).rows == 1


def test_another_row_key_is_told(desk: Desk) -> None:
    """Where the dataset goes by another column since, nothing can be joined."""
    identity = desk.submit(labels(0))
    desk.lab.vault.publish("evals", rows(100), key="prompt")
    with pytest.raises(Conflict, match="another row key by now"):
        desk.lab.vault.accept_submission(identity)


def test_old_submissions_open_after_the_key_was_rotated(desk: Desk) -> None:
    """The key before is kept for what is sealed to it; new profiles have the new one."""
    lab = desk.lab.vault
    old = desk.submit(labels(0))
    before, after = lab.rotate_submission_key()
    assert desk.profile.submission_key is not None
    assert before == key_name(desk.profile.submission_key) != after
    new = Desk(desk.lab)
    assert new.profile.submission_key is not None
    assert key_name(new.profile.submission_key) == after
    fresh = new.submit(labels(2))
    assert lab.accept_submission(old).rows == 1
    assert lab.accept_submission(fresh, {"label": "second"}).rows == 1
    assert [entry.fields["key"] for entry in acts(lab) if entry.kind is Kind.SUBMISSION_KEY_MADE] == [before, after]


def test_a_key_that_is_gone_is_missed_by_its_name(desk: Desk) -> None:
    """In one sentence, and nothing is lost: the submission goes on waiting."""
    identity = desk.submit(labels(0))
    (desk.lab.folder / "owner" / "keys" / "submission.json").unlink()
    with pytest.raises(KeyUnavailable, match="the submission key [0-9a-f]{32} is not here"):
        desk.lab.vault.accept_submission(identity)
    assert [each.state for each in desk.lab.vault.submissions()] == ["waiting"]


def test_the_key_is_made_once_whoever_asks_first(desk: Desk) -> None:
    """Every profile of a vault has the same key until it is rotated; it is a key file like the others."""
    assert desk.profile.submission_key == Desk(desk.lab, "globex").profile.submission_key
    path = desk.lab.folder / "owner" / "keys" / "submission.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["kind"] == "submission key"
    assert submissionkeys.public_key(desk.lab.vault.parts) == desk.profile.submission_key


def test_a_delegated_profile_has_the_key_too(desk: Desk, tmp_path: Path) -> None:
    """It is handed on with the rest, and a bearer profile has none."""
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    desk.lab.vault.issue_credential("acme", endpoint="http://127.0.0.1:1").save(own)
    vault.client.delegate(own, "ann", other, expires=timedelta(hours=1))
    assert json.loads(own.read_text())["submission_key"] == json.loads(other.read_text())["submission_key"]
    bearer = desk.lab.vault.issue_credential("acme", endpoint="http://127.0.0.1:1", bearer=True)
    assert "submission_key" not in bearer.profile.document()


def test_a_restored_vault_has_what_waited(desk: Desk, tmp_path: Path) -> None:
    """One that is in the newest snapshot, and one that came since, which only the log has: both can be accepted."""
    lab = desk.lab.vault
    first = desk.submit(labels(0))
    settled = desk.submit(labels(10))
    lab.backup()
    second = desk.submit(labels(2))
    lab.reject_submission(settled, "kept reason")
    desk.parts.journal.settle()
    vault.backup_keys(tmp_path / "keys.json", PASSPHRASE, desk.lab.folder)
    restored = tmp_path / "restored"
    vault.restore(
        restored,
        store=str(desk.lab.folder / "store"),
        kms="local:",
        keys=tmp_path / "keys.json",
        passphrase=PASSPHRASE,
    )
    opened = vault.open(restored)
    assert {each.id: each.state for each in opened.submissions()} == {
        first: "waiting",
        second: "waiting",
        settled: "rejected",
    }
    assert [each.reason for each in opened.submissions() if each.id == settled] == ["kept reason"]
    assert opened.accept_submission(first).rows == 1
    assert opened.accept_submission(second, merge=True).rows == 1
    assert opened.check().faults == []


def test_the_key_under_another_passphrase_is_sealed_with_the_others(tmp_path: Path) -> None:
    """`kms passphrase` takes it along, the retired ones too."""
    lab = Lab(tmp_path / "lab", vault.init(tmp_path / "lab"))
    lab.vault.add_vendor("acme")
    lab.vault.rotate_submission_key()
    lab.vault.rotate_submission_key()
    from vault import deployment

    deployment.change_passphrase(lab.folder, "a new passphrase")
    found = [*(lab.folder / "owner" / "keys").rglob("submission*.json")]
    assert len(found) == 2
    assert {json.loads(path.read_text())["protection"] for path in found} == {"scrypt"}


def test_a_report_tells_what_was_sent_and_what_became_of_it(desk: Desk) -> None:
    """At the top, in the table and in JSON: when it came, its state, and every version that has columns of it."""
    lab = desk.lab.vault
    taken, refused, waiting = desk.submit(labels(0)), desk.submit(labels(2)), desk.submit(labels(4, 6))
    lab.accept_submission(taken, {"label": "verdict"})
    lab.reject_submission(refused, "no")
    lab.publish("evals", lab.scan("evals").read_all(), shard_rows=30)
    lab.publish("evals", lab.scan("evals", version=1), shard_rows=30)
    made = lab.incident_report("acme")
    told = {each["submission"]: each for each in made.document()["submissions"]}
    assert {name: each["state"] for name, each in told.items()} == {
        taken: "accepted", refused: "rejected", waiting: "waiting",
    }  # fmt: skip
    assert (told[taken]["version"], told[taken]["versions"], told[taken]["columns"]) == (2, [2, 3], ["verdict"])
    assert [told[waiting][name] for name in ("dataset", "rows", "of_version")] == ["evals", 2, 1]
    assert [told[name]["received"] for name in (taken, refused, waiting)] == sorted(
        each["received"] for each in told.values()
    )
    sentence = "It sent back 3 submissions: 1 waits for the lab, 1 was rejected, 1 was accepted."
    places = "Columns of what it sent are in evals version 2, evals version 3."
    for text in (made.html().decode(), made.markdown().decode()):
        assert sentence in text
        assert places in text
        assert "What it sent back" in text
        assert "accepted into version 2" in text
        assert "as verdict, and in 1 version behind it, the last 3" in text
        assert all(each in text for each in told)
    assert made.exposure.odd == ()


def test_what_the_lab_takes_away_is_in_no_newer_version(desk: Desk) -> None:
    """As the how-to for incidents has it: the rows of before, published again, and the older versions let go."""
    lab = desk.lab.vault
    before = lab.scan("evals").read_all()
    lab.accept_submission(desk.submit(labels(0)))
    lab.publish("evals", lab.scan("evals", version=1))
    lab.expire("evals", keep=1)
    assert lab.scan("evals").read_all().equals(before)
    assert [each.version for each in lab.show("evals").versions] == [3]
    assert desk.dataset().grants[0].version == 3
    assert lab.incident_report("acme").document()["submissions"][0]["versions"] == [2]


def test_a_containment_goes_through(desk: Desk, tmp_path: Path) -> None:
    """What a vendor sent stands in no way of a freeze, a rekey and the proof of both; it can still be accepted."""
    identity = desk.submit(labels(0))
    lab = desk.lab.vault
    assert lab.incident_report("acme").exposure is not None
    lab.contain("acme", bundle=tmp_path / "acme.zip")
    assert verify_bundle(tmp_path / "acme.zip", lab.parts.root.fingerprint).vendor == "acme"
    assert lab.check().faults == []
    assert lab.accept_submission(identity).rows == 1


def test_an_older_bundle_is_held_against_its_own_format(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report says nothing of what was sent back, and follows from its entries all the same; a later one's does not."""
    desk.submit(labels(0))
    lab = desk.lab.vault
    monkeypatch.setattr("vault.incident.bundle.report_members", partial(report_members, minor=0))
    lab.contain("acme", bundle=tmp_path / "acme.zip")
    assert verify_bundle(tmp_path / "acme.zip", lab.parts.root.fingerprint).vendor == "acme"
    with zipfile.ZipFile(tmp_path / "acme.zip") as bundle:
        assert json.loads(bundle.read("report.json"))["format"] == [1, 0]
    monkeypatch.setattr("vault.incident.verifying.FORM", (1, -1))
    with pytest.raises(IntegrityError, match="a format that this release does not know"):
        verify_bundle(tmp_path / "acme.zip", lab.parts.root.fingerprint)
