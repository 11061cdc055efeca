"""The broker's side: who may send, how much, and that nothing is received that is not written down."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.log import acts
from tests.support.submitting import Desk, joined, labels, split
from tests.support.tables import rows
from vault import access
from vault.audit import Kind
from vault.configuration import Configuration
from vault.encoding import new_id
from vault.errors import (
    Conflict,
    Frozen,
    InvalidInput,
    LimitReached,
    NotGranted,
    Unauthenticated,
    Unavailable,
    VaultError,
)
from vault.submission import Quarantine, open_envelope

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _nothing(desk: Desk) -> None:
    """No row, no object, and no entry that says so."""
    assert desk.lab.vault.submissions() == []
    assert list(desk.lab.vault.parts.store.list("submissions")) == []
    assert Kind.SUBMITTED not in {entry.kind for entry in acts(desk.lab.vault)}


def _body(desk: Desk) -> bytes:
    """A good one that was not sent."""
    kept = Desk(desk.lab)
    kept.profile = desk.profile
    kept.put = lambda *_: access.Received(new_id(), "")  # type: ignore[method-assign]
    with suppress(Unavailable):  # the id in the answer is not its own
        kept.submit(labels(0, 2))
    return kept.bodies[-1]


def test_what_is_received_is_in_the_log(desk: Desk) -> None:
    """Who, from where, under which grant, how much, and the digest of what came."""
    identity = desk.submit(labels(0, 2))
    (said,) = [entry.fields for entry in acts(desk.lab.vault) if entry.kind is Kind.SUBMITTED]
    assert (said["submission"], said["vendor"], said["dataset"], said["version"]) == (identity, "acme", "evals", 1)
    assert (said["rows"], said["credential"]) == (2, desk.profile.token.credential)
    assert said["sha256"] == hashlib.sha256(split(desk.bodies[-1])[1]).hexdigest()
    desk.lab.vault.accept_submission(identity)
    desk.lab.vault.reject_submission(desk.submit(labels(4)), "twice")
    kinds = {entry.kind: entry.fields for entry in acts(desk.lab.vault)}
    assert (kinds[Kind.SUBMISSION_ACCEPTED]["version"], kinds[Kind.SUBMISSION_ACCEPTED]["columns"]) == (2, ["label"])
    assert kinds[Kind.SUBMISSION_REJECTED]["reason"] == "twice"


def test_without_an_entry_nothing_is_received(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row and the entry are one change: a log that cannot be written keeps both out."""
    body = _body(desk)
    caller = desk.caller()

    def fail(*_: Any, **__: Any) -> int:
        raise Unavailable("the log is not there")

    monkeypatch.setattr(desk.parts.journal, "record_in", fail)
    envelope, data = split(body)
    with pytest.raises(VaultError):
        access.receive(desk.parts, caller, "evals", envelope, len(data), iter([data]), desk.quarantine)
    assert desk.lab.vault.submissions() == []
    monkeypatch.undo()
    assert desk.put(body)


@pytest.mark.parametrize("end", ["freeze", "revoke", "credential"])
def test_who_may_not_read_may_not_send(desk: Desk, end: str) -> None:
    """A freeze, a revocation and an ended credential stop it before anything is stored."""
    body, lab = _body(desk), desk.lab.vault
    if end == "freeze":
        lab.freeze("acme")
        kind: type[Exception] = Frozen
    elif end == "revoke":
        lab.revoke(desk.dataset().grants[0].grant)
        kind = NotGranted
    else:
        lab.revoke_credential(desk.profile.token.credential)
        kind = Unauthenticated
    desk.parts = desk.lab.broker_parts()
    with pytest.raises(kind):
        desk.put(body)
    _nothing(desk)
    assert Kind.REFUSED in {entry.kind for entry in acts(lab)}


def test_a_freeze_ends_one_that_is_being_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pieces the vendor's head is looked at again; what came is not kept."""
    monkeypatch.setattr("vault.access.submissions._LOOK_SECONDS", 0.0)
    body = _body(desk)
    data = split(body)[1]

    def slowly() -> Iterator[bytes]:
        yield data[:100]
        desk.lab.vault.freeze("acme")
        time.sleep(1.1)  # a head may be a second old
        yield data[100:]

    with pytest.raises(Frozen):
        desk.put(body, pieces=slowly())
    _nothing(desk)


def test_an_expired_grant_takes_nothing(published: Lab) -> None:
    """Like a read under it."""
    published.vault.grant("acme", "evals", ["id", "prompt"], expires=timedelta(seconds=2))
    desk = Desk(published)
    body = _body(desk)
    time.sleep(2.1)
    with pytest.raises(NotGranted):
        desk.put(body)
    _nothing(desk)


def test_limits_count_it_as_a_request(published: Lab) -> None:
    """A grant of two requests takes two submissions, and no third one, nor a read."""
    published.vault.grant("acme", "evals", ["id", "prompt"], limits={"requests": 2})
    desk = Desk(published)
    for number in (0, 2):
        desk.submit(labels(number))
    with pytest.raises(LimitReached):
        desk.submit(labels(4))
    (state,) = published.vault.grants()
    assert state.used.total["requests"] == 2
    assert len(published.vault.submissions()) == 2


@pytest.mark.parametrize("bounds", [Quarantine(waiting=2), Quarantine(waiting_bytes=3000)])
def test_a_vendor_cannot_fill_the_store(desk: Desk, bounds: Quarantine) -> None:
    """So many submissions, or so many bytes, wait of one vendor; settling one makes room, and others are not held up."""
    desk.quarantine = bounds
    first = desk.submit(labels(0))
    desk.submit(labels(2))
    with pytest.raises(LimitReached, match="as much as may wait"):
        desk.submit(labels(4))
    desk.lab.vault.grant("globex", "evals", ["id", "prompt"])
    other = Desk(desk.lab, "globex", bounds)
    other.submit(labels(4))
    desk.lab.vault.reject_submission(first, "room")
    desk.submit(labels(4))


def test_a_body_that_is_not_what_was_signed_is_not_kept(desk: Desk) -> None:
    """Shorter, longer or other bytes: no object is left."""
    body = _body(desk)
    envelope, data = split(body)
    for other in (data[:-1] + bytes([data[-1] ^ 1]), data[::-1]):
        with pytest.raises(InvalidInput, match="not the one that the envelope was signed for"):
            desk.put(joined(envelope, other))
    with pytest.raises(InvalidInput, match="of another body"):
        desk.put(joined(envelope, data[:-1]))
    for cut in (data[:-1], data + b"x"):
        with pytest.raises(InvalidInput, match="not the one that the envelope was signed for"):
            access.receive(desk.parts, desk.caller(), "evals", envelope, len(data), iter([cut]), desk.quarantine)
    _nothing(desk)


def test_one_that_was_broken_off_leaves_nothing(desk: Desk) -> None:
    """Whatever ends an upload in its midst."""
    body = _body(desk)

    def broken() -> Iterator[bytes]:
        yield split(body)[1][:100]
        raise Unavailable("the client went away")

    with pytest.raises(Unavailable):
        desk.put(body, pieces=broken())
    _nothing(desk)
    assert desk.put(body)


def test_a_bearer_credential_sends_nothing(desk: Desk) -> None:
    """There is no key that could have signed for it, whatever it brings."""
    envelope, data = split(_body(desk))
    caller = desk.lab.caller(desk.parts, "acme")
    with pytest.raises(InvalidInput, match="bound to none"):
        access.receive(desk.parts, caller, "evals", envelope, len(data), iter([data]), desk.quarantine)
    _nothing(desk)


def test_a_version_that_moved_on_is_told(desk: Desk) -> None:
    """A submission is of the version that its vendor is offered at that moment."""
    body = _body(desk)
    desk.lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    desk.parts = desk.lab.broker_parts()
    with pytest.raises(Conflict, match="another version by now"):
        desk.put(body)
    _nothing(desk)
    desk.submit(labels(0))


def test_a_masked_key_column_names_no_rows(published: Lab) -> None:
    """A client that goes on all the same is refused by the broker."""
    lab = published.vault
    good = lab.grant("acme", "evals", ["id", "prompt"])
    desk = Desk(published)
    body = _body(desk)
    lab.revoke(good.id)
    made = lab.grant("acme", "evals", ["id", "prompt"], masks={"id": "hash"})
    desk.parts = published.broker_parts()
    with pytest.raises(InvalidInput, match="identifies rows"):
        desk.submit(labels(0))
    other = desk.signed(replace(_envelope(body), grant=made.id), split(body)[1])
    with pytest.raises(NotGranted, match="identifies rows"):
        desk.put(other)
    _nothing(desk)


def _envelope(body: bytes) -> Any:
    """What was signed of a body."""
    return open_envelope(split(body)[0])[1]


def test_another_datasets_address_is_not_the_grants(desk: Desk) -> None:
    """Unknown and forbidden look the same."""
    body = _body(desk)
    desk.lab.vault.publish("others", rows(10), key="id")
    said = set()
    for name in ("others", "nothing"):
        with pytest.raises(NotGranted) as caught:
            desk.put(body, name)
        said.add(str(caught.value))
    assert len(said) == 1


def test_the_bounds_are_settings(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file of a broker, or the environment; what is none is refused in a sentence that names it."""
    path = desk.lab.folder / "broker" / "config.toml"
    path.write_text(path.read_text() + "\n[submissions]\nwaiting = 7\n")
    assert Configuration.read(path).submissions == Quarantine(waiting=7)
    assert Configuration.parse(Configuration.read(path).text(), path).submissions == Quarantine(waiting=7)
    monkeypatch.setenv("DSVAULT_SUBMISSIONS_MOST_BYTES", "1000")
    assert Configuration.read(path).submissions == Quarantine(1000, 7)
    monkeypatch.setenv("DSVAULT_SUBMISSIONS_MOST_BYTES", "0")
    with pytest.raises(InvalidInput, match="DSVAULT_SUBMISSIONS_MOST_BYTES: most_bytes is a whole number from 1 on"):
        Configuration.read(path)
    monkeypatch.delenv("DSVAULT_SUBMISSIONS_MOST_BYTES")
    path.write_text(path.read_text().replace("waiting = 7", "wating = 7"))
    with pytest.raises(InvalidInput, match="takes most_bytes, waiting, waiting_bytes"):
        Configuration.read(path)
