"""A proof is used up in the change that begins the read, and in no case twice."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.reading import read
from vault import access
from vault.audit import Kind
from vault.catalog import Catalog, Transaction
from vault.encoding import utcnow
from vault.errors import AuditError, KmsError, LimitReached, NotGranted, Unauthenticated, VaultError
from vault.policy import Request
from vault.proof import ProofKey
from vault.workings.journal import Journal
from vault.workings.parts import Parts
from vault.workings.watch import Watch

pytestmark = pytest.mark.both_catalogs

_URI = "http://127.0.0.1:1/v1/datasets/evals/read"


@pytest.fixture
def arrived(granted: Lab) -> tuple[Lab, Parts, access.Arrival]:
    """One request of acme's that has come to a broker, its proof not used yet."""
    parts, profile = granted.broker_parts(), granted.vault.issue_credential("acme").profile
    proof = ProofKey.parse(profile.key, "the profile").prove("POST", _URI, profile.token.text, utcnow())
    sent = access.Sent("POST", (_URI,), proof)
    return granted, parts, access.arrive(parts, profile.token, "test", sent=sent)


def _entries(lab: Lab) -> list[tuple[Kind, object]]:
    return [(entry.kind, entry.fields.get("reason")) for _, entry in lab.vault.audit_entries()]


def test_of_two_reads_with_one_proof_one_is_served(arrived: tuple[Lab, Parts, access.Arrival]) -> None:
    """The second is refused at another broker as well, and begins nothing."""
    lab, parts, arrival = arrived
    assert list(access.open_delivery(parts, arrival, Request("evals")).batches)
    for broker in (parts, lab.broker_parts()):
        with pytest.raises(Unauthenticated):
            access.open_delivery(broker, arrival, Request("evals"))
    parts.journal.settle()
    found = _entries(lab)
    assert sum(kind == Kind.READ_BEGUN for kind, _ in found) == 1
    assert found.count((Kind.REFUSED, "the proof was used before")) == 2


def test_a_refused_request_uses_its_proof_up(arrived: tuple[Lab, Parts, access.Arrival]) -> None:
    """Who sees a request fail cannot send its proof again with another body; nor does a replay tell what is granted."""
    _, parts, arrival = arrived
    with pytest.raises(NotGranted):
        access.open_delivery(parts, arrival, Request("elsewhere"))
    for dataset in ("elsewhere", "evals"):
        with pytest.raises(Unauthenticated):
            access.open_delivery(parts, arrival, Request(dataset))


def test_a_request_that_fails_uses_its_proof_up(
    arrived: tuple[Lab, Parts, access.Arrival], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the failure is the broker's: the proof was seen, and may have been by others."""
    _, parts, arrival = arrived

    def failing(*_: object, **__: object) -> None:
        raise KmsError("the KMS is away")

    for target, name in ((access.streams, "permitted"), (Journal, "record_in")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, failing)
            with pytest.raises(VaultError):
                access.open_delivery(parts, arrival, Request("evals"))
        with pytest.raises(Unauthenticated):
            access.open_delivery(parts, arrival, Request("evals"))


def test_no_proof_is_used_up_and_nothing_charged_without_the_entry(
    arrived: tuple[Lab, Parts, access.Arrival], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is made whole or not at all: no key is opened where the end of the log cannot be signed."""
    lab, parts, arrival = arrived
    monkeypatch.setattr(Journal, "_append", lambda *_: (_ for _ in ()).throw(AuditError("no key for the log")))
    before = parts.keyring.counts.unwraps
    with pytest.raises(AuditError):
        access.open_delivery(parts, arrival, Request("evals"))
    # The metadata key and that of the manifest, and no column's.
    assert parts.keyring.counts.unwraps - before <= 2
    assert not any(kind == Kind.READ_BEGUN for kind, _ in _entries(lab))


@pytest.mark.parametrize("lease", [False, True])
def test_a_used_up_grant_undoes_nothing_of_what_others_commit(
    published: Lab, monkeypatch: pytest.MonkeyPatch, lease: bool
) -> None:
    """No refusal is raised within a shared change, whose others would be made once more, each by itself.

    It uses its proof up once all the same, and is written down.
    """
    delivery = "lease" if lease else "stream"
    grant = published.vault.grant("acme", "evals", ["id"], limits={"rows": 1 if lease else 100}, delivery=delivery)
    parts, profile = published.broker_parts(), published.vault.issue_credential("acme").profile
    key, raised = ProofKey.parse(profile.key, "the profile"), list[BaseException]()
    submit = Catalog.submit

    def watched(catalog: Catalog, action: Callable[[Transaction], Any]) -> Any:
        def acting(transaction: Transaction) -> Any:
            try:
                return action(transaction)
            except BaseException as error:
                raised.append(error)
                raise

        return submit(catalog, acting)

    monkeypatch.setattr(Catalog, "submit", watched)

    def ask(proof: str) -> None:
        arrival = access.arrive(parts, profile.token, "test", sent=access.Sent("POST", (_URI,), proof))
        if lease:
            access.lease_page(parts, arrival, Request("evals", lease=True))
        else:
            list(access.open_delivery(parts, arrival, Request("evals")).batches)

    if not lease:
        ask(key.prove("POST", _URI, profile.token.text, utcnow()))
    proof = key.prove("POST", _URI, profile.token.text, utcnow())
    with pytest.raises(LimitReached):
        ask(proof)
    with pytest.raises(Unauthenticated):
        ask(proof)
    assert raised == []
    reasons = [reason for kind, reason in _entries(published) if kind == Kind.REFUSED]
    assert reasons == ["LimitReached", "the proof was used before"]
    (state,) = [state for state in published.vault.grants() if state.grant.id == grant.id]
    assert state.used.total.get("requests", 0) == (0 if lease else 1)


def test_a_version_that_is_held_is_not_read_once_there_is_another(granted: Lab) -> None:
    """Every read is of the newest version, however short ago the last one was."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    for number in range(3):
        granted.vault.publish("evals", pa.table({"id": [number], "prompt": ["p"], "lang": ["en"], "notes": ["n"]}))
        assert read(parts, caller)["id"].to_pylist() == [number]


def test_a_read_is_not_refused_for_what_only_a_version_that_is_held_lacks(lab: Lab) -> None:
    """A column that a new version has is there for whoever may read it, at once."""
    parts = lab.broker_parts()
    lab.vault.publish("evals", pa.table({"id": [1]}))
    lab.vault.grant("acme", "evals", ["id"], expires=timedelta(days=1))
    caller = lab.caller(parts, "acme")
    assert read(parts, caller).num_rows == 1
    lab.vault.publish("evals", pa.table({"id": ["now a text"]}))
    with pytest.raises(NotGranted):
        read(parts, caller)  # a type that changed is another column
    lab.vault.grant("acme", "evals", ["id"], expires=timedelta(days=1), purpose="the new one")
    assert read(parts, caller, columns=("id",))["id"].to_pylist() == ["now a text"]


def test_the_watch_lets_go_of_a_head_that_it_sees_to_be_old(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A freeze counts from the next look on, and not only when the held head has become too old."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    watch = Watch(parts)
    watch.look()
    monkeypatch.setattr(parts.heads, "_clock", lambda: 1e6)  # no time passes
    parts.heads.forget(caller.vendor)
    assert not parts.heads.vendor(caller.vendor).frozen
    granted.vault.freeze("acme")
    assert not parts.heads.vendor(caller.vendor).frozen
    watch.look()
    assert parts.heads.vendor(caller.vendor).frozen
