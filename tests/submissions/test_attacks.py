"""Whoever holds the store, a broker or another vendor's credential: each tries once, and nothing is taken over."""

import base64
import hashlib
import json
import subprocess
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import update

from tests.conftest import Lab
from tests.support.submitting import Desk, joined, labels, made, split
from tests.support.tables import rows
from vault.catalog import schema
from vault.chunks import decode, encode
from vault.encoding import new_id, timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable, NotGranted
from vault.submission import Bound, Envelope, Particulars, Secret, key_name, pack, unpack
from vault.workings import submissionkeys


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _rewritten(lab: Lab, identity: str, **values: Any) -> None:
    """A row of the catalog as whoever can write there would have it."""
    table = schema.submissions
    with lab.vault.parts.catalog.write() as transaction:
        transaction.connection.execute(update(table).where(table.c.id == identity).values(values))


def _refused(lab: Lab, identity: str, why: str, kind: type[Exception] = IntegrityError) -> None:
    """The owner neither looks at it nor takes it over, and the dataset is as it was."""
    before = lab.vault.show("evals").versions[-1].version
    for act in (lab.vault.submission, lab.vault.accept_submission):
        with pytest.raises(kind, match=why):
            act(identity)
    assert lab.vault.show("evals").versions[-1].version == before
    assert {each.state for each in lab.vault.submissions()} == {"waiting"}


def test_neither_the_store_nor_the_catalog_shows_anything(desk: Desk) -> None:
    """Values, column names, the names of dataset and vendor: nothing of it is in what a broker keeps, or in the body."""
    secret = "a label that nobody is to read"
    identity = desk.submit(labels(0, secretlabelcolumn=[secret]))
    with desk.lab.vault.parts.catalog.read() as transaction:
        (row,) = transaction.submissions(submission=identity)
    data = desk.lab.vault.parts.store.get(row.object)
    for place in (data, row.envelope, desk.bodies[-1]):
        for word in (secret, "secretlabelcolumn", "evals", "acme", "prompt", "id,"):
            assert word.encode() not in place


def test_a_vendors_own_key_does_not_open_what_it_sent(desk: Desk) -> None:
    """The secret is sealed to the owner: not even its sender's credential opens it again."""
    desk.submit(labels(0))
    envelope = desk.envelope()
    other = X25519PrivateKey.generate().private_bytes_raw()
    with pytest.raises(IntegrityError, match="does not open"):
        Secret.opened(envelope.wrapped, other, envelope.bound("acme"))


def test_a_broker_cannot_have_it_sealed_to_a_key_of_its_own(desk: Desk) -> None:
    """Whatever a broker answers, the key is the profile's, which came from the owner."""
    dataset = desk.dataset()
    honest = dataset.client.connection.answer
    stolen = X25519PrivateKey.generate().public_key().public_bytes_raw()

    def answer(*request: Any) -> dict[str, Any]:
        found = honest(*request)
        return {**found, "submission_key": stolen.hex(), "sealed_to": key_name(stolen)}

    dataset.client.connection.answer = answer  # type: ignore[method-assign]
    dataset.submit(labels(0))
    mine = submissionkeys.public_key(desk.lab.vault.parts)
    assert desk.envelope().sealed_to == key_name(mine)
    assert desk.profile.submission_key == mine


def test_one_that_is_sealed_to_another_key_is_not_taken_over(desk: Desk) -> None:
    """A submission for a key that is not the owner's cannot be opened, whoever signed it."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    envelope, data = made(desk, labels(0), public=public)
    desk.put(desk.signed(envelope, data))
    _refused(desk.lab, envelope.submission, "is not here", KeyUnavailable)


def test_objects_that_were_swapped_are_refused(desk: Desk) -> None:
    """Each envelope is of one object."""
    first, second = desk.submit(labels(0)), desk.submit(labels(2))
    with desk.lab.vault.parts.catalog.read() as transaction:
        places = {row.id: row.object for row in transaction.submissions()}
    _rewritten(desk.lab, first, object=places[second])
    _refused(desk.lab, first, "not the one that its envelope was signed for")


def test_an_object_that_was_changed_is_refused(desk: Desk) -> None:
    """One byte is enough, also where the row is changed with it."""
    identity = desk.submit(labels(0))
    with desk.lab.vault.parts.catalog.read() as transaction:
        (row,) = transaction.submissions(submission=identity)
    store = desk.lab.vault.parts.store
    data = bytearray(store.get(row.object))
    data[-20] ^= 1
    name = f"submissions/{new_id()}"
    store.put(name, bytes(data))
    _rewritten(desk.lab, identity, object=name)
    _refused(desk.lab, identity, "not the one that its envelope was signed for")


def test_an_envelope_that_was_edited_is_refused_everywhere(desk: Desk) -> None:
    """By the broker, and by the owner whatever the broker did."""
    identity = desk.submit(labels(0))
    envelope, data = split(desk.bodies[-1])
    head, payload, signature = envelope.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["rows"] = 2
    edited = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    forged = f"{head}.{edited}.{signature}"
    with pytest.raises(InvalidInput, match="was changed"):
        desk.put(joined(forged, data))
    _rewritten(desk.lab, identity, envelope=forged.encode())
    _refused(desk.lab, identity, "was changed")


def test_another_credentials_signature_is_refused_everywhere(desk: Desk) -> None:
    """Also one of the same vendor's: what counts is the key of the credential that the envelope names."""
    other = Desk(desk.lab)
    desk.submit(labels(0))
    body = joined(desk.envelope().signed(other.key), split(desk.bodies[-1])[1])
    for sender in (desk, other):
        with pytest.raises(InvalidInput, match="not signed by the key that proves the request"):
            sender.put(body)
    identity = desk.lab.vault.submissions()[0].id
    _rewritten(desk.lab, identity, envelope=split(body)[0].encode())
    _refused(desk.lab, identity, "not signed by the credential's key")


def test_another_vendor_cannot_send_what_was_intercepted_as_its_own(desk: Desk) -> None:
    """Globex, in league with a broker, signs acme's sealed secret and object for its own grant: it does not open."""
    desk.submit(labels(0))
    taken, data = desk.envelope(), split(desk.bodies[-1])[1]
    granted = desk.lab.vault.grant("globex", "evals", ["id", "prompt"], expires=timedelta(days=1))
    globex = Desk(desk.lab, "globex")
    mine = replace(taken, submission=new_id(), credential=globex.profile.token.credential, grant=granted.id)
    globex.put(globex.signed(mine, data))
    with pytest.raises(IntegrityError, match="does not open"):
        desk.lab.vault.accept_submission(mine.submission)


@pytest.mark.parametrize("what", ["grant", "version", "submission"])
def test_a_sealed_secret_is_of_one_place(desk: Desk, what: str) -> None:
    """Signed anew by its own vendor for another grant, version or id, with the same secret, it does not open."""
    lab = desk.lab.vault
    if what == "version":
        lab.publish("evals", rows(100), key="id", shard_rows=30)
        desk.submit(labels(0))
        lab.publish("evals", rows(100), key="id", shard_rows=30)
        other: dict[str, Any] = {"version": 3}
    elif what == "grant":
        desk.submit(labels(0))
        other = {"grant": lab.grant("acme", "evals", ["id", "score"], expires=timedelta(days=1)).id}
    else:
        desk.submit(labels(0))
        other = {}
    moved = replace(desk.envelope(), submission=new_id(), **other)
    desk.put(desk.signed(moved, split(desk.bodies[-1])[1]))
    with pytest.raises(IntegrityError, match="does not open"):
        lab.accept_submission(moved.submission)


@pytest.mark.parametrize("what", ["grant", "vendor", "dataset", "grant dataset"])
def test_a_row_that_was_moved_in_the_catalog_is_refused(desk: Desk, what: str) -> None:
    """What the catalog says of a submission's place is held against what was signed."""
    lab = desk.lab.vault
    lab.publish("others", rows(10), key="id")
    other = lab.grant("acme", "others", ["id"], expires=timedelta(days=1))
    identity = desk.submit(labels(0))
    globex = next(each.id for each in lab.vendors() if each.name == "globex")
    places = {"grant": other.id, "vendor": globex, "dataset": other.dataset}
    _rewritten(desk.lab, identity, **{name: places[name] for name in what.split()})
    _refused(desk.lab, identity, "of another place|another vendor's")


def test_rows_that_the_row_filter_hides_cannot_be_labelled(desk: Desk) -> None:
    """The owner is told which row; the vendor is told nothing: its submission was received like any other."""
    identity = desk.submit(labels(0, 1))
    assert (
        desk.lab.vault.submission(identity).problem == "row 2 of the submission names a row that the grant did not show"
    )
    with pytest.raises(InvalidInput, match="^row 2 of the submission names a row that the grant did not show$"):
        desk.lab.vault.accept_submission(identity)


def test_rows_that_are_not_there_cannot_be_labelled(desk: Desk) -> None:
    """A made-up key is refused like one that is hidden."""
    identity = desk.submit(labels(0, 12345))
    with pytest.raises(InvalidInput, match="^row 2 of the submission names a row that the grant did not show$"):
        desk.lab.vault.accept_submission(identity)


def test_hidden_rows_stay_refused_where_rows_were_erased(desk: Desk) -> None:
    """After an erasure a row that is nowhere counts as gone, and one that is hidden is refused as before."""
    identity = desk.submit(labels(0, 1, 2))
    desk.lab.vault.erase("evals", keys=[2])
    with pytest.raises(InvalidInput, match="^row 2 of the submission"):
        desk.lab.vault.accept_submission(identity)


def test_another_vendors_rows_cannot_be_labelled(lab: Lab) -> None:
    """Of shards that are assigned to somebody else nothing was shown."""
    table = rows(40).append_column("whose", pa.array(["acme", "globex"] * 20))
    lab.vault.publish("evals", table, key="id", assign_by="whose", shard_rows=10)
    for vendor in ("acme", "globex"):
        lab.vault.grant(vendor, "evals", ["id", "prompt"])
    acme, globex = Desk(lab), Desk(lab, "globex")
    with pytest.raises(InvalidInput, match="^row 1 of the submission"):
        lab.vault.accept_submission(acme.submit(labels(1)))
    assert lab.vault.accept_submission(globex.submit(labels(1))).rows == 1


def test_a_pinned_grant_is_for_the_rows_of_its_version(lab: Lab) -> None:
    """What was published since was not shown under it."""
    lab.vault.publish("evals", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id", "prompt"], version=1)
    lab.vault.publish("evals", rows(20), key="id")
    desk = Desk(lab)
    with pytest.raises(InvalidInput, match="^row 2 of the submission"):
        lab.vault.accept_submission(desk.submit(labels(3, 15)))
    assert lab.vault.accept_submission(desk.submit(labels(3))).version == 3


def test_a_key_that_is_null_or_stands_twice_is_refused_by_the_owner_too(desk: Desk) -> None:
    """A client that checks nothing gets no further."""
    for table, why in (
        (
            pa.table({"id": pa.array([0, None], pa.int64()), "label": ["a", "b"]}),
            "row 2: the column 'id' is null",
        ),
        (labels(0, 2, 0), "row 3: the column 'id' has a value that stands in an earlier row"),
    ):
        envelope, data = made(desk, table)
        desk.put(desk.signed(envelope, data))
        with pytest.raises(InvalidInput, match=f"^{why}$"):
            desk.lab.vault.accept_submission(envelope.submission)


def test_a_plain_parquet_file_is_refused(desk: Desk) -> None:
    """What is not encrypted under the submission's own key is no submission, though its envelope is signed."""
    table, sink = labels(0), pa.BufferOutputStream()
    pq.write_table(table, sink)
    envelope, data = made(desk, table, data=sink.getvalue().to_pybytes())
    desk.put(desk.signed(envelope, data))
    _refused(desk.lab, envelope.submission, "do not open")


def test_rows_of_another_submission_of_the_same_vendor_are_refused(desk: Desk) -> None:
    """A file is bound to its own submission: one cannot be put together from parts of two."""
    envelope, _ = made(desk, labels(0))
    _, foreign = unpack(made(desk, labels(2))[1])
    mixed, packed = made(desk, labels(0), data=bytes(foreign))
    assert envelope.submission != mixed.submission
    desk.put(desk.signed(mixed, packed))
    _refused(desk.lab, mixed.submission, "do not open")


@pytest.mark.parametrize("each", [2_300_000, 4_000_000])
def test_few_bytes_that_stand_for_very_many_are_not_decoded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    """A table beyond the bound is refused in a sentence, by a process that is not the owner's."""
    monkeypatch.setattr("vault.vouching.MOST_BYTES", 4 << 20)
    identity = desk.submit(labels(0, 2, label=["x" * each] * 2))
    assert len(desk.bodies[-1]) < 64 << 10
    with pytest.raises(InvalidInput, match="cannot be decoded within 4 MiB|too large"):
        desk.lab.vault.accept_submission(identity)
    desk.lab.vault.reject_submission(identity, "too large")


def test_no_module_of_the_owners_directory_is_run(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who looks at a submission may do so in a directory with a vendor's files: none of them is taken for a module."""
    (tmp_path / "resource.py").write_text("open('ran', 'w').close()")
    identity = desk.submit(labels(0))
    monkeypatch.chdir(tmp_path)
    assert desk.lab.vault.submission(identity).table.num_rows == 1
    assert not (tmp_path / "ran").exists()


def test_a_decoder_sees_nothing_of_the_owners_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases, tokens and cloud keys stand in environments, and a decoder that was taken over would send them."""
    secret, seen = "a secret of the environment", b""

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *given: Any, **options: Any) -> None:
            nonlocal seen
            super().__init__(*given, **options)
            end = time.monotonic() + 30
            while not seen and time.monotonic() < end:  # for a moment a process that begins has none
                seen = Path(f"/proc/{self.pid}/environ").read_bytes()

    identity = desk.submit(labels(0))
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "VAULT_TOKEN",
        "DSVAULT_NEW_PASSPHRASE",
        "PGPASSWORD",
        "HOME",
        "PYTHONSTARTUP",
    ):
        monkeypatch.setenv(name, secret)
    monkeypatch.setattr("vault.workings.apart.subprocess.Popen", Watched)
    assert desk.lab.vault.submission(identity).table.num_rows == 1
    assert b"PYTHONPATH=" in seen
    assert secret.encode() not in seen


def test_another_number_of_rows_than_was_signed_is_refused(desk: Desk) -> None:
    """Limits and lists go by the envelope."""
    envelope, data = made(desk, labels(0, 2))
    wrong = replace(envelope, rows=1)
    desk.put(desk.signed(wrong, data))
    _refused(desk.lab, wrong.submission, "another number of rows")


def test_a_column_of_the_owners_is_no_name_for_rows(desk: Desk) -> None:
    """Rows are named by the row key, and by no other column of the dataset."""
    table = pa.table({"prompt": ["prompt number 0"], "label": ["x"]})
    (offer,) = desk.dataset().grants
    place = Bound(desk.profile.vault, "acme", desk.profile.token.credential, offer.grant, 1, new_id())
    secret = Secret.fresh(place)
    packed = pack(
        secret.seal(Particulars("prompt", table.schema.serialize().to_pybytes())),
        encode(table, secret.rows_key, place).to_pybytes(),
    )
    assert desk.profile.submission_key is not None
    envelope = Envelope(
        place.submission, place.vault, place.credential, place.grant, 1, 1, len(packed),
        hashlib.sha256(packed).hexdigest(), key_name(desk.profile.submission_key),
        secret.wrapped(desk.profile.submission_key),
    )  # fmt: skip
    desk.put(desk.signed(envelope, packed))
    with pytest.raises(InvalidInput, match="by a column that is not the row key"):
        desk.lab.vault.accept_submission(envelope.submission)


@pytest.mark.parametrize("end", ["revoke", "freeze", "credential"])
def test_a_broker_cannot_bring_one_in_after_the_end(desk: Desk, end: str) -> None:
    """One that came when the vendor's head did not list grant and credential, or was frozen, does not count."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0))
    if end == "revoke":
        lab.revoke(desk.envelope().grant)
    elif end == "freeze":
        lab.freeze("acme")
    else:
        lab.revoke_credential(desk.profile.token.credential)
    assert lab.submission(identity).problem is None  # it came before
    _rewritten(desk.lab, identity, received=timestamp(lab.parts.clock() + timedelta(seconds=60)))
    _refused(desk.lab, identity, "did not count when it was received")


def test_one_from_before_the_credential_is_refused(desk: Desk) -> None:
    """Nor does one count that is dated back."""
    identity = desk.submit(labels(0))
    _rewritten(desk.lab, identity, received=timestamp(desk.lab.vault.parts.clock() - timedelta(hours=1)))
    _refused(desk.lab, identity, "did not count when it was received")


def test_one_from_after_its_credential_expired_is_refused(desk: Desk) -> None:
    """Expiry is by what the authority signed."""
    identity = desk.submit(labels(0))
    _rewritten(desk.lab, identity, received=timestamp(desk.lab.vault.parts.clock() + timedelta(days=31)))
    _refused(desk.lab, identity, "did not count when it was received")


def test_odd_names_and_values_are_text_and_nothing_else(desk: Desk) -> None:
    """What a spreadsheet would run, and what a terminal would obey, comes as it was sent."""
    sent = pa.table({"id": [0], "=cmd|' /C calc'!A0": ["=1+1"], "a.b": ["\x1b[2J"], "müll 🙂": ["'; drop table"]})
    identity = desk.submit(sent)
    done = desk.lab.vault.accept_submission(identity)
    assert done.columns == tuple(sent.column_names[1:])
    found = desk.lab.vault.scan("evals", where="id = 0").read_all().select(sent.column_names)
    assert found.to_pylist() == sent.to_pylist()


def test_a_name_that_is_not_in_normal_form_is_refused_by_the_owner_too(desk: Desk) -> None:
    """Two names that look alike are no two columns."""
    envelope, data = made(desk, pa.table({"id": [0], "mu\u0308ll": ["x"]}))
    desk.put(desk.signed(envelope, data))
    with pytest.raises(InvalidInput, match="NFC"):
        desk.lab.vault.accept_submission(envelope.submission)


def test_an_id_that_is_taken_is_another_submissions(desk: Desk) -> None:
    """The same submission sent again counts once; another one under its id is refused."""
    identity = desk.submit(labels(0))
    again = desk.put(desk.bodies[-1])
    assert again.submission == identity
    envelope, data = made(desk, labels(2))
    with pytest.raises(Conflict, match="another submission has that id"):
        desk.put(desk.signed(replace(envelope, submission=identity), data))
    assert [each.id for each in desk.lab.vault.submissions()] == [identity]


@pytest.mark.parametrize("masks", [{}, {"id": "hash"}])
def test_a_key_column_that_was_not_granted_names_no_rows(published: Lab, masks: dict[str, str]) -> None:
    """Whatever a broker lets in: who guesses keys, or has hashes of them, was shown none."""
    granted = published.vault.grant("acme", "evals", ["id", "prompt"] if masks else ["prompt"], masks=masks)
    desk = Desk(published)
    envelope, data = made(desk, labels(0))
    if masks:
        with pytest.raises(NotGranted, match="identifies rows"):
            desk.put(desk.signed(envelope, data))
        return
    desk.put(desk.signed(envelope, data))
    assert envelope.grant == granted.id
    with pytest.raises(InvalidInput, match="is not granted as it is"):
        published.vault.accept_submission(envelope.submission)


def test_no_room_is_made_for_what_a_broker_says_is_there(desk: Desk) -> None:
    """A size that vendor and broker made up is held against the store before a byte is read, and has a bound."""
    identity = desk.submit(labels(0))
    for size, why in ((2**40, "larger than 1024 MiB"), (2**29, "not as long as it was")):
        envelope = replace(desk.envelope(), size=size)
        _rewritten(desk.lab, identity, size=size, envelope=envelope.signed(desk.key).encode())
        with pytest.raises((IntegrityError, InvalidInput), match=why):
            desk.lab.vault.accept_submission(identity)


def test_a_version_that_a_pinned_grant_is_not_of_is_refused(lab: Lab) -> None:
    """Signed by the vendor for a version that it was never shown, and let in by a broker in league with it."""
    lab.vault.publish("evals", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id", "prompt"], version=1)
    lab.vault.publish("evals", rows(20), key="id")
    desk = Desk(lab)
    identity = desk.submit(labels(0))
    envelope, data = made(desk, labels(15), version=2, submission=identity)
    name = f"submissions/{new_id()}"
    lab.vault.parts.store.put(name, data)
    signed = envelope.signed(desk.key).encode()
    _rewritten(lab, identity, object=name, size=len(data), envelope=signed)
    with pytest.raises(InvalidInput, match="of another version than its grant"):
        lab.vault.accept_submission(identity)


def test_two_columns_cannot_become_one(desk: Desk) -> None:
    """Neither a new one nor one that is filled."""
    lab = desk.lab.vault
    lab.accept_submission(desk.submit(labels(0, label=["x"])))
    identity = desk.submit(labels(2, a=["y"], b=["z"]))
    for name in ("label", "other"):
        with pytest.raises(InvalidInput, match=f"--rename: the column name '{name}' stands twice"):
            lab.accept_submission(identity, {"a": name, "b": name}, merge=True)


def test_a_file_is_of_one_place_even_under_one_secret(desk: Desk) -> None:
    """A client that used a secret twice would not have made two submissions of one file."""
    first = Bound(desk.profile.vault, "acme", "1" * 32, "2" * 32, 1, "3" * 32)
    value = bytes(range(32))
    sealed = Secret(value, first)
    data = memoryview(encode(labels(0), sealed.rows_key, first)).cast("B")
    particulars = sealed.seal(Particulars("id", b""))
    for name, other in (("grant", "4" * 32), ("version", 2), ("credential", "5" * 32), ("vendor", "globex")):
        place = replace(first, **{name: other})
        moved = Secret(value, place)
        with pytest.raises(IntegrityError):
            decode(data, moved.rows_key, place)
        with pytest.raises(IntegrityError):
            decode(data, sealed.rows_key, place)
        with pytest.raises(IntegrityError):
            moved.open(particulars)
    assert decode(data, sealed.rows_key, first).equals(labels(0))
