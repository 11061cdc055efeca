"""Changing the root document of a vault in use: every role rotated, killed at every step, and thieves with old keys."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import vault
from tests.conftest import Lab
from tests.support.catalog import snapshot, sql
from tests.support.log import acts, written_beside
from tests.support.reading import read
from tests.support.tables import rows
from vault import access, keyfile
from vault.audit import Checkpoint, read_checkpoint, sign_checkpoint
from vault.errors import AuditError, Conflict, IntegrityError, InvalidInput, KeyUnavailable, VaultError
from vault.objects import ObjectStore
from vault.owner import Vault
from vault.roots import rotate
from vault.trust import Label, Role, Signed, Signer, head_statement, vendor_body
from vault.trust.proposals import Change, add_signature
from vault.wire import Token
from vault.workings.journal import Journal
from vault.workings.keyfolder import KeyFolder, make_key
from vault.workings.parts import Parts
from vault.workings.roots import Roots, root_name

pytestmark = pytest.mark.both_catalogs

_ROTATED = [role for role in Role if role is not Role.APPROVER]
_ROLES = [role for role in _ROTATED if role is not Role.ADMINISTRATOR]
_SIGNING = [role for role in _ROLES if role is not Role.AUDITOR]


def _key(lab: Lab, role: Role) -> Signer:
    """A copy of a role's present private key, as a thief has it."""
    files = KeyFolder(lab.folder, None)
    return files.signer(role, lab.vault.parts.root.refresh())


def _path(lab: Lab, role: Role) -> Path:
    (path,) = KeyFolder(lab.folder, None).files(role).values()
    return path


def _token(lab: Lab) -> Token:
    return lab.vault.issue_credential("acme", bearer=True).profile.token


def _served(parts: Parts, token: Token) -> int:
    return read(parts, access.authenticate(parts, token, "test")).num_rows


def _sees_now(parts: Parts) -> None:
    """A second later, for a broker: what it read is too old to decide on."""
    parts.root._read_at = None
    parts.heads._vendors.clear()


def _all_is_well(lab: Lab, opened: Vault, token: tuple[str, bytes]) -> None:
    """Everything that a vault does, it does, and a check finds no fault."""
    assert opened.check().faults == []
    assert opened.check().garbage == []
    assert _served(lab.broker_parts(), token) == 50
    assert opened.scan("evals").read_all().num_rows == 100
    assert [state.state for state in opened.grants()] == ["live"]
    assert opened.unrecorded() == []
    opened.parts.journal.settle()
    assert opened.audit_verify() == len(opened.audit_entries())


def _works_on(lab: Lab, opened: Vault) -> None:
    """Every kind of act, with whatever keys there are now."""
    opened.publish("evals", rows(100), key="id", shard_rows=30)
    opened.add_vendor("initech")
    opened.grant("initech", "evals", ["id"], expires=timedelta(days=1))
    opened.issue_credential("initech")
    assert opened.freeze("initech")
    assert opened.thaw("initech")
    opened.rekey("acme")
    opened.gc(timedelta(0))
    assert opened.check().faults == []


@pytest.mark.parametrize("role", _ROTATED)
def test_every_roles_key_is_rotated_under_a_running_broker(granted: Lab, role: Role) -> None:
    """A broker that runs follows within a second, a new one starts, the old key is gone, and all work goes on."""
    token = _token(granted)
    running = granted.broker_parts()
    assert _served(running, token) == 50
    old, before = _path(granted, role), granted.vault.parts.root.version
    secret = old.read_bytes()
    rotated = granted.vault.rotate_key(role)
    assert rotated.applied is not None
    assert rotated.applied.version == before + 1
    _sees_now(running)
    assert _served(running, token) == 50
    assert running.root.version == before + 1
    _all_is_well(granted, granted.vault, token)
    assert not old.exists()
    assert _path(granted, role).name == f"{role.value}-{_path(granted, role).stem.split('-')[1]}.json"
    kept = list((granted.folder / "owner" / "keys" / "retired").glob("*.json"))
    assert [path.read_bytes() for path in kept] == ([secret] if role is Role.AUDITOR else [])
    opened = vault.open(granted.folder)
    (entry,) = [entry for _, entry in opened.audit_entries() if entry.kind.value == "root document changed"]
    assert entry.fields["added"] == [f"{role.value}:{rotated.key}"]
    _works_on(granted, opened)
    assert _served(granted.broker_parts(), token) == 50


def test_a_broker_follows_within_a_second_of_its_own(granted: Lab) -> None:
    """No restart and no help: at most a second after the rotation the broker judges by the new root document."""
    import time

    token = _token(granted)
    running = granted.broker_parts()
    caller = access.authenticate(running, token, "test")
    granted.vault.rotate_key(Role.AUTHORITY)
    granted.vault.rotate_key(Role.LOG)
    assert read(running, caller).num_rows == 50
    time.sleep(1.1)
    assert running.root.current.version == 3
    assert read(running, caller).num_rows == 50


def test_a_stream_goes_on_through_a_rotation(granted: Lab) -> None:
    """A delivery that began before every key was rotated ends whole, and its end is in the log."""
    from vault.policy import Request

    parts = granted.broker_parts()
    delivery = access.open_delivery(parts, granted.caller(parts, "acme"), Request("evals"))
    batches = iter(delivery.batches)
    count = next(batches).num_rows
    for role in _ROLES:
        granted.vault.rotate_key(role)
    _sees_now(parts)
    assert count + sum(batch.num_rows for batch in batches) == 50
    assert acts(granted.vault)[-1].fields["outcome"] == "complete"


def test_all_keys_may_be_rotated_again_and_again(granted: Lab) -> None:
    """Twice around: the chain is followed from the fingerprint, by the file, the catalog and the store alike."""
    token = _token(granted)
    stale = (granted.folder / "broker" / "root.json").read_bytes()
    for role in [*_ROTATED, *_ROTATED]:
        granted.vault.rotate_key(role)
    _all_is_well(granted, granted.vault, token)
    assert len(granted.vault.audit_entries()) > 12
    (granted.folder / "broker" / "root.json").write_bytes(stale)
    assert _served(granted.broker_parts(), token) == 50
    assert granted.broker_parts().root.version == 13
    assert {info.name for info in granted.vault.parts.store.list("roots")} == {root_name(n) for n in range(1, 14)}


def test_a_frozen_vendor_stays_frozen_when_the_responder_changes(granted: Lab) -> None:
    """The newest step was the old responder's: the authority signs it anew, and takes nothing of it back."""
    token = _token(granted)
    granted.vault.freeze("acme")
    granted.vault.rotate_key(Role.RESPONDER)
    states = {state.name: state.frozen for state in granted.vault.vendors()}
    assert states == {"acme": True, "globex": False}
    with pytest.raises(VaultError):
        _served(granted.broker_parts(), token)
    granted.vault.thaw("acme")
    assert _served(granted.broker_parts(), token) == 50


def test_what_was_revoked_stays_revoked(granted: Lab) -> None:
    """A revoked grant and credential are shown as such after a rotation, and give nothing."""
    token = _token(granted)
    (state,) = granted.vault.grants()
    granted.vault.revoke(state.grant.id)
    granted.vault.revoke_credential(token.credential)
    granted.vault.rotate_key(Role.AUTHORITY)
    assert [state.state for state in granted.vault.grants()] == ["revoked"]
    assert [state.state for state in granted.vault.credentials()] == ["revoked"]
    with pytest.raises(VaultError):
        _served(granted.broker_parts(), token)


# Administrators


def _administrator(lab: Lab, name: str) -> tuple[Path, bytes]:
    path = lab.folder.parent / f"{name}.json"
    return path, make_key(Role.ADMINISTRATOR, path, None)


def _signer(path: Path, role: Role = Role.ADMINISTRATOR) -> Signer:
    return Signer(keyfile.read(path, f"{role.value} key", None))


def test_two_of_three_administrators(granted: Lab) -> None:
    """Administrators are added, two must sign, a rotation waits for the second, and one may be removed again."""
    (bob, bobs), (_, carols) = _administrator(granted, "bob"), _administrator(granted, "carol")
    add = ((Role.ADMINISTRATOR, bobs), (Role.ADMINISTRATOR, carols))
    proposal = granted.vault.propose_root(Change(add=add, signers={Role.ADMINISTRATOR: 2}))
    assert granted.vault.apply_root(proposal).version == 2
    old = _path(granted, Role.AUTHORITY)
    rotated = granted.vault.rotate_key(Role.AUTHORITY)
    assert (rotated.applied, len(rotated.signed_by), rotated.needed) == (None, 1, 2)
    assert old.exists()
    with pytest.raises(InvalidInput, match="1 of the 2"):
        granted.vault.apply_root(rotated.proposal)
    assert granted.vault.rotate_key(Role.AUTHORITY).key == rotated.key
    applied = granted.vault.apply_root(add_signature(rotated.proposal, _signer(bob)))
    assert (applied.version, applied.grants) == (3, 1)
    assert not old.exists()
    assert granted.vault.apply_root(rotated.proposal).changed is False
    change = Change(remove=((Role.ADMINISTRATOR, _signer(bob).key_id),))
    removal = add_signature(granted.vault.propose_root(change), _signer(bob))
    assert granted.vault.apply_root(removal).version == 4
    states = granted.vault.root_keys()
    assert [state.here for state in states if state.role is Role.ADMINISTRATOR] == [True, False]
    _works_on(granted, vault.open(granted.folder))


def test_a_second_responder(granted: Lab) -> None:
    """Two people hold a responder's key each; either freezes, and one is removed without the other."""
    path = granted.folder / "owner" / "keys" / "responder-night.json"
    public = make_key(Role.RESPONDER, path, None)
    granted.vault.apply_root(granted.vault.propose_root(Change(add=((Role.RESPONDER, public),))))
    day = granted.folder / "owner" / "keys" / "responder.json"
    aside = day.rename(granted.folder / "aside.json")
    opened = vault.open(granted.folder)
    assert opened.freeze("acme")
    assert opened.thaw("acme")
    aside.rename(day)
    with pytest.raises(InvalidInput, match="say which"):
        opened.rotate_key(Role.RESPONDER)
    change = Change(remove=((Role.RESPONDER, _signer(day, Role.RESPONDER).key_id),))
    opened.apply_root(opened.propose_root(change))
    assert not day.exists()
    assert opened.freeze("acme")


def test_a_key_made_elsewhere_must_be_here_when_it_has_to_sign(granted: Lab) -> None:
    """A public key whose private half is not in the vault cannot sign what is live: nothing is changed."""
    public = make_key(Role.AUTHORITY, granted.folder.parent / "new.json", None)
    old = _key(granted, Role.AUTHORITY).key_id
    proposal = granted.vault.propose_root(Change(add=((Role.AUTHORITY, public),), remove=((Role.AUTHORITY, old),)))
    with pytest.raises(KeyUnavailable, match="authority key is not here"):
        granted.vault.apply_root(proposal)
    assert granted.vault.parts.root.refresh().version == 1
    shutil.copy(granted.folder.parent / "new.json", granted.folder / "owner" / "keys" / "authority-new.json")
    assert granted.vault.apply_root(proposal).version == 2


# The responder's key alone


def test_freezing_and_revoking_need_the_responders_key_only(granted: Lab) -> None:
    """With every other private key of the owner gone, a vendor is stopped; thawing says which key it lacks."""
    token, (state,) = _token(granted), granted.vault.grants()
    for path in (granted.folder / "owner" / "keys").glob("*.json"):
        if path.stem != "responder":
            path.unlink()
    opened = vault.open(granted.folder)
    opened.revoke_credential(token.credential)
    opened.revoke(state.grant.id)
    assert opened.freeze("acme")
    with pytest.raises(KeyUnavailable, match="key is not here, and this needs its signature") as caught:
        opened.thaw("acme")
    assert "\n" not in str(caught.value)
    assert (opened.vendors()[0].frozen, opened.vendors()[0].grants, opened.vendors()[0].credentials) == (True, 0, 0)


def test_the_directory_of_who_is_on_call(tmp_path: Path) -> None:
    """The responder's key and what stands beside it in the how-to are enough to freeze, and not to thaw."""
    home, night = tmp_path / "lab", tmp_path / "night"
    opened = vault.init(home, store=str(tmp_path / "objects"), catalog=f"sqlite:///{tmp_path}/catalog.db")
    opened.add_vendor("acme")
    files = ("owner/config.toml", "owner/keys/responder.json", "broker/config.toml", "broker/root.json")
    for name in (*files, "broker/log.json"):
        (night / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / name, night / name)
    shutil.copytree(home / "owner" / "kms", night / "owner" / "kms")
    on_call = vault.open(night)
    assert on_call.freeze("acme")
    with pytest.raises(KeyUnavailable, match="authority key is not here"):
        on_call.thaw("acme")
    assert opened.vendors()[0].frozen


# Killed


class _Killed(BaseException):
    """Stands for kill -9: nothing in the program handles it."""


def _kills(role: Role) -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    """Where a run can be killed, by name."""

    def once(owner: type, name: str, when: Callable[..., bool] = lambda *_: True, *, after: bool = False) -> object:
        def arrange(patch: pytest.MonkeyPatch) -> None:
            original = getattr(owner, name)

            def killed(*words: object, **options: object) -> object:
                if written_beside() or not when(*words):
                    return original(*words, **options)
                if after:
                    original(*words, **options)
                raise _Killed

            patch.setattr(owner, name, killed)

        return arrange

    def starts(prefix: str) -> Callable[..., bool]:
        return lambda _store, name, _data: str(name).startswith(prefix)

    return {  # type: ignore[return-value]
        "before the transaction": once(Roots, "seen_by", lambda roots, _: roots._chain and _in_rotation()),
        "in the transaction": once(Journal, "record_change"),
        "at the end of the transaction": once(Journal, "record_change", after=True),
        "before the store has the root": once(ObjectStore, "put", starts("roots/")),
        "after the store has the root": once(ObjectStore, "put", starts("roots/"), after=True),
        "before the first head": once(ObjectStore, "put", starts("heads/")),
        "after the first head": once(ObjectStore, "put", starts("heads/"), after=True),
        "before the checkpoint": once(ObjectStore, "put", starts("checkpoints/")),
        "while old checkpoints go": once(ObjectStore, "delete", lambda _store, name: name.startswith("checkpoints/")),
        "before the file": once(Roots, "save"),
        "after the file": once(Roots, "save", after=True),
        "before the old key goes": once(KeyFolder, "retire"),
        "after the old key has gone": once(KeyFolder, "retire", after=True),
    }


def _in_rotation() -> bool:
    """Whether the new key is durable already: the moment between it and the transaction."""
    import sys

    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "apply":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@pytest.mark.parametrize("role", [Role.AUTHORITY, Role.RESPONDER, Role.PUBLISHER, Role.LOG, Role.AUDITOR])
def test_a_killed_rotation_is_finished_or_begun_anew(granted: Lab, role: Role) -> None:
    """Killed at any step, a rotation leaves a vault that brokers serve from, and its owner's next opening ends it."""
    token = _token(granted)
    reached = 0
    for arrange in _kills(role).values():
        before = granted.vault.parts.root.refresh().version
        if role is Role.RESPONDER:  # whose step must be the newest, or none needs a new signature
            granted.vault.thaw("globex")
            granted.vault.freeze("globex")
        with pytest.MonkeyPatch.context() as patch:
            arrange(patch)
            try:
                rotate(granted.vault.parts, role)
            except _Killed:
                reached += 1
        assert _served(granted.broker_parts(), token) == 50
        opened = vault.open(granted.folder)
        committed = opened.parts.root.version - before
        assert committed in {0, 1}
        assert len(KeyFolder(granted.folder, None).files(role)) == (1 if committed else 2)
        if not committed:
            assert rotate(opened.parts, role).applied is not None
        assert len(KeyFolder(granted.folder, None).files(role)) == 1
        granted.vault = opened
    assert reached == {Role.LOG: 11, Role.AUDITOR: 10}.get(role, 12)
    _all_is_well(granted, opened, token)
    _works_on(granted, opened)


# Thieves


def _forge_grant(lab: Lab, thief: Signer) -> None:
    """A wider grant in the place of acme's, sealed rightly, and a head that lists it, both signed by the thief."""
    from vault.workings.parts import holder_sealer

    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        (row,) = transaction.grants()
        head = transaction.newest_head(row.vendor)
    assert head is not None
    signed = Signed.decode(row.statement.open(parts.sealer(), row.id), Label.GRANT)
    payload = signed.document() | {"where": None, "where_text": None, "filter_columns": []}
    forged = thief.sign(Label.GRANT, payload)
    from vault.encoding import from_json

    listing = from_json(head.body, "a listing")
    body = vendor_body({row.id: forged.digest}, listing["credentials"])
    step = head_statement(
        thief,
        vault=parts.vault,
        kind="vendor",
        subject=row.vendor,
        sequence=head.sequence + 1,
        body=body,
        frozen=False,
        now=parts.clock(),
    )
    sealer = holder_sealer(parts, parts.keyring, row.vendor)
    with sql(lab) as connection:
        blob = sealer.seal("vendor grant", row.id, forged.encode())
        connection.execute("update grants set vendor_statement = ?", (blob,))
        connection.execute(
            "insert into heads values (?, ?, 'vendor', 1, ?, ?)", (row.vendor, head.sequence + 1, step.encode(), body)
        )


def _served_wide(lab: Lab, parts: Parts, token: tuple[str, bytes]) -> int:
    _sees_now(parts)
    return _served(parts, token)


def test_a_stolen_authority_forges_nothing_after_the_rotation(granted: Lab) -> None:
    """The forgery that served all rows under the old root document is refused under the new one, everywhere."""
    token, thief = _token(granted), _key(granted, Role.AUTHORITY)
    running = granted.broker_parts()
    with sql(granted) as connection:
        (genuine,) = connection.execute("select vendor_statement from grants").fetchone()
    _forge_grant(granted, thief)
    # The attack works while the stolen key counts: what refuses it below is the rotation and nothing else.
    assert _served(granted.broker_parts(), token) == 100
    with sql(granted) as connection:
        connection.execute("update grants set vendor_statement = ?", (genuine,))
        connection.execute("delete from heads where kind = 'vendor' and sequence = (select max(sequence) from heads)")
    granted.vault.rotate_key(Role.AUTHORITY)
    _forge_grant(granted, thief)
    for parts in (running, granted.broker_parts()):
        with pytest.raises(IntegrityError):
            _served_wide(granted, parts, token)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_way_back_from_a_forgery_that_counted(granted: Lab, hidden: bool) -> None:
    """What a thief listed while the key counted is named by comparing with the log, revoked, and the key replaced."""
    token, thief = _token(granted), _key(granted, Role.AUTHORITY)
    _forge_grant(granted, thief)
    if hidden:  # the thief spoils the owner's copy, so that the grant cannot be listed or opened
        with sql(granted) as connection:
            connection.execute("update grants set statement = x'00'")
    opened = vault.open(granted.folder)
    (forged,) = opened.unrecorded()
    assert (forged.vendor, forged.kind) == ("acme", "grant")
    opened.revoke(forged.id)
    assert opened.unrecorded() == []
    opened.rotate_key(Role.AUTHORITY)
    with pytest.raises(VaultError):
        _served(granted.broker_parts(), token)
    opened.grant("acme", "evals", ["id"], where="lang = 'en'")
    assert _served(granted.broker_parts(), token) == 50


def test_a_forged_credential_is_named_and_revoked(granted: Lab) -> None:
    """A credential that only a head lists, with no row at all, is ended by its id."""
    thief, parts = _key(granted, Role.AUTHORITY), granted.vault.parts
    vendor = granted.vault.vendors()[0].id
    with parts.catalog.read() as transaction:
        head = transaction.newest_head(vendor)
    assert head is not None
    body = vendor_body({}, {"f" * 32: "0" * 64})
    step = head_statement(
        thief,
        vault=parts.vault,
        kind="vendor",
        subject=vendor,
        sequence=head.sequence + 1,
        body=body,
        frozen=False,
        now=parts.clock(),
    )
    with sql(granted) as connection:
        connection.execute(
            "insert into heads values (?, ?, 'vendor', 1, ?, ?)", (vendor, head.sequence + 1, step.encode(), body)
        )
    assert [(each.kind, each.id) for each in granted.vault.unrecorded()] == [("credential", "f" * 32)]
    granted.vault.revoke_credential("f" * 32)
    assert granted.vault.unrecorded() == []


def _forge_head(lab: Lab, thief: Signer, kind: str, *, ahead: int = 1) -> None:
    """The newest head of a subject again, signed by the thief under a higher number."""
    with sql(lab) as connection:
        subject, sequence, body = connection.execute(
            "select subject, sequence, body from heads where kind = ? order by sequence desc", (kind,)
        ).fetchone()
        signed = head_statement(
            thief,
            vault=lab.vault.parts.vault,
            kind=kind,
            subject=subject,
            sequence=sequence + ahead,
            body=body,
            frozen=False,
            now=lab.vault.parts.clock(),
        )
        connection.execute(
            "insert into heads values (?, ?, ?, 0, ?, ?)", (subject, sequence + ahead, kind, signed.encode(), body)
        )


@pytest.mark.parametrize(("role", "kind"), [(Role.RESPONDER, "vendor"), (Role.PUBLISHER, "compartment")])
def test_a_stolen_key_makes_no_head_after_the_rotation(granted: Lab, role: Role, kind: str) -> None:
    """A higher head that is signed by a replaced key is refused; under a key that counts it would be taken."""
    token, thief = _token(granted), _key(granted, role)
    granted.vault.rotate_key(role)
    present = _key(granted, role)
    put_back = snapshot(granted)
    _forge_head(granted, thief, kind)
    assert granted.vault.check().faults
    put_back()
    _forge_head(granted, present, kind)
    opened = vault.open(granted.folder)
    assert opened.check().faults == []
    assert _served(granted.broker_parts(), token) == 50


def test_a_stolen_publisher_makes_no_manifest_after_the_rotation(granted: Lab) -> None:
    """The manifest statement that the head lists, under the replaced publisher's signature again, is refused."""
    token, thief = _token(granted), _key(granted, Role.PUBLISHER)
    with sql(granted) as connection:
        before = connection.execute("select compartment, version, generation, statement from versions").fetchall()
    granted.vault.rotate_key(Role.PUBLISHER)
    with sql(granted) as connection:
        for compartment, version, generation, statement in before:
            assert Signed.decode(statement, Label.MANIFEST).signatures[0][0] == thief.key_id
            connection.execute(
                "update versions set statement = ? where (compartment, version, generation) = (?, ?, ?)",
                (statement, compartment, version, generation),
            )
    with pytest.raises(IntegrityError):
        _served(granted.broker_parts(), token)


def test_a_stolen_log_key_writes_no_end_after_the_rotation(granted: Lab) -> None:
    """An end of the log that the replaced key signed is refused by every act and every broker."""
    token, thief = _token(granted), _key(granted, Role.LOG)
    granted.vault.rotate_key(Role.LOG)
    with sql(granted) as connection:
        (note,) = connection.execute("select note from log_tail").fetchone()
        end = read_checkpoint(granted.vault.parts.root.current, note)
        connection.execute("update log_tail set note = ?", (sign_checkpoint(granted.vault.parts.vault, end, thief),))
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()
    with pytest.raises((AuditError, IntegrityError)):
        _served(granted.broker_parts(), token)


def test_a_broker_that_kept_a_replaced_log_key_serves_nothing(granted: Lab) -> None:
    """A broker without the new log key could only write an end that nobody believes, so it refuses instead."""
    token = _token(granted)
    running = granted.broker_parts()
    caller = access.authenticate(running, token, "test")
    granted.vault.rotate_key(Role.LOG)
    _path(granted, Role.LOG).rename(granted.folder / "taken.json")
    with pytest.raises(AuditError, match="log key is not here"):
        read(running, caller)
    (granted.folder / "taken.json").rename(granted.folder / "broker" / "log-2.json")
    assert read(running, caller).num_rows == 50
    assert granted.vault.audit_verify() > 0


def test_what_a_thief_put_into_the_store_does_not_stand_in_the_way(granted: Lab) -> None:
    """Heads and checkpoints of the stolen keys under higher numbers are passed over once the keys are replaced."""
    token, parts = _token(granted), granted.vault.parts
    authority, log = _key(granted, Role.AUTHORITY), _key(granted, Role.LOG)
    vendor = granted.vault.vendors()[0].id
    with parts.catalog.read() as transaction:
        head = transaction.newest_head(vendor)
    assert head is not None
    for ahead in (1, 2, 50):
        step = head_statement(
            authority,
            vault=parts.vault,
            kind="vendor",
            subject=vendor,
            sequence=head.sequence + ahead,
            body=head.body,
            frozen=False,
            now=parts.clock(),
        )
        parts.store.put(f"heads/{vendor}/{head.sequence + ahead:020d}", step.encode())
    with pytest.raises(IntegrityError):
        _served(granted.broker_parts(), token)
    # The owner opened the vault before; one who opens it now would be told of a rollback, rightly.
    granted.vault.rotate_key(Role.AUTHORITY)
    granted.vault.rotate_key(Role.LOG)
    parts.store.put(f"checkpoints/{999:020d}", sign_checkpoint(parts.vault, Checkpoint(999, bytes(32)), log))
    assert _served(granted.broker_parts(), token) == 50
    opened = vault.open(granted.folder)
    assert opened.audit_verify() > 0
    opened.gc(timedelta(0))
    assert opened.check().faults == []


# Rollbacks and forks of the chain


def test_a_chain_that_is_rolled_back_is_refused(granted: Lab) -> None:
    """Without its newest row the catalog is refused by a broker that saw it, by one with the file, and by the store."""
    token = _token(granted)
    stale = (granted.folder / "broker" / "root.json").read_bytes()
    granted.vault.rotate_key(Role.AUTHORITY)
    running = granted.broker_parts()
    with sql(granted) as connection:
        connection.execute("delete from roots where version = 2")
    _sees_now(running)
    with pytest.raises(IntegrityError, match="rolled back"):
        _served(running, token)
    with pytest.raises(IntegrityError, match="rolled back"):
        granted.broker_parts()
    (granted.folder / "broker" / "root.json").write_bytes(stale)
    with pytest.raises(IntegrityError, match="rolled back"):
        granted.broker_parts()


def test_a_head_of_before_the_rotation_is_not_taken_from_memory(granted: Lab) -> None:
    """A broker that remembers the old head does not go on with it when the new one is deleted from the catalog."""
    from dataclasses import replace

    token, parts = _token(granted), granted.broker_parts()
    caller = access.authenticate(parts, token, "test")
    granted.vault.rotate_key(Role.AUTHORITY)
    with sql(granted) as connection:
        connection.execute(
            "delete from heads where (subject, sequence) in"
            " (select subject, max(sequence) from heads where kind = 'vendor' group by subject)"
        )
    parts.root._read_at = None
    parts.heads._vendors = {key: replace(seen, read_at=-10.0) for key, seen in parts.heads._vendors.items()}
    with pytest.raises(IntegrityError):
        read(parts, caller)


def test_a_fork_of_the_chain_is_refused(granted: Lab) -> None:
    """A thief of a lone administrator's key can sign another version 2; whoever saw the first refuses it."""
    token, thief = _token(granted), _key(granted, Role.ADMINISTRATOR)
    mine = Signer(b"\x55" * 32)
    change = Change(add=((Role.AUTHORITY, mine.public),))
    fork = add_signature(granted.vault.propose_root(change), thief)
    granted.vault.rotate_key(Role.ADMINISTRATOR)
    running = granted.broker_parts()
    with sql(granted) as connection:
        connection.execute("update roots set statement = ? where version = 2", (fork.encode(),))
    _sees_now(running)
    with pytest.raises(IntegrityError, match="forked"):
        _served(running, token)
    with pytest.raises(IntegrityError, match="forked"):
        granted.broker_parts()


def test_a_fork_in_the_catalog_is_told_by_the_store(granted: Lab) -> None:
    """A broker that starts from an old file has the store to tell it that the catalog's version 2 is another."""
    thief = _key(granted, Role.ADMINISTRATOR)
    stale = (granted.folder / "broker" / "root.json").read_bytes()
    fork = add_signature(
        granted.vault.propose_root(Change(add=((Role.AUTHORITY, Signer(b"\x55" * 32).public),))), thief
    )
    granted.vault.rotate_key(Role.ADMINISTRATOR)
    with sql(granted) as connection:
        connection.execute("update roots set statement = ? where version = 2", (fork.encode(),))
    (granted.folder / "broker" / "root.json").write_bytes(stale)
    with pytest.raises(IntegrityError, match="forked"):
        granted.broker_parts()


def test_a_root_document_of_strangers_is_refused(granted: Lab) -> None:
    """A next version that no administrator signed, put into the catalog or the store, is no root document."""
    stranger = Signer(b"\x55" * 32)
    change = Change(add=((Role.AUTHORITY, stranger.public),))
    proposal = granted.vault.propose_root(change)
    forged = add_signature(Signed(Label.ROOT, proposal.payload, ()), stranger)
    with sql(granted) as connection:
        connection.execute("insert into roots values (2, ?)", (forged.encode(),))
    with pytest.raises(IntegrityError):
        granted.broker_parts()
    with sql(granted) as connection:
        connection.execute("delete from roots where version = 2")
    granted.broker_parts()
    granted.vault.parts.store.put(root_name(2), forged.encode())
    with pytest.raises(IntegrityError):
        granted.broker_parts()


def test_thousands_of_planted_heads_hide_none_that_counts(granted: Lab) -> None:
    """However many heads of a replaced key lie above the vendor's own, that one is found, or the folder is named."""
    parts, authority = granted.vault.parts, _key(granted, Role.AUTHORITY)
    vendor = granted.vault.vendors()[0].id
    with parts.catalog.read() as transaction:
        head = transaction.newest_head(vendor)
    assert head is not None
    granted.vault.rotate_key(Role.AUTHORITY)

    def plant(number: int) -> None:
        step = head_statement(
            authority, vault=parts.vault, kind="vendor", subject=vendor, sequence=number, body=head.body, frozen=False,
            now=parts.clock(),
        )  # fmt: skip
        parts.store.put(f"heads/{vendor}/{number:020d}", step.encode())

    for number in range(70):
        plant(10**15 + number)
    opened = vault.open(granted.folder)
    assert opened.freeze("acme")
    assert opened.thaw("acme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vault.workings.heads._PASSED_OVER", 64)
        with pytest.raises(IntegrityError, match=f"look at heads/{vendor}"):
            vault.open(granted.folder).freeze("acme")


@pytest.mark.parametrize("what", ["credential", "manifest", "disabled"])
def test_what_stands_in_the_way_is_named_and_can_be_left_out(granted: Lab, what: str) -> None:
    """A spoiled row or a disabled KMS key of one vendor is told with its name, and does not keep a stolen key in use."""
    opened, role = granted.vault, Role.AUTHORITY
    opened.grant("globex", "evals", ["answer"])
    token = opened.issue_credential("globex", bearer=True).profile.token
    spoiled = opened.issue_credential("acme", bearer=True).profile.token.credential
    acme = opened.vendors()[0].id
    if what == "credential":
        said = f"vendor 'acme': credential {spoiled}: "
        with sql(granted) as connection:
            connection.execute("update credentials set statement = x'00' where id = ?", (spoiled,))
        with pytest.raises(IntegrityError, match=f"'dsvault credential revoke {spoiled}' ends it"):
            opened.credentials()
    elif what == "manifest":
        role, said = Role.PUBLISHER, "the dataset 'evals' of 'acme': version 1: "
        with sql(granted) as connection:
            places = "select id from compartments where holder = ?"
            connection.execute(f"update versions set statement = x'00' where compartment in ({places})", (acme,))
    else:
        said = "a KMS key of 'acme' is disabled; 'dsvault kms enable acme'"
        opened.disable_kms_key("acme")
    with pytest.raises((IntegrityError, KeyUnavailable), match=f"{said}.*'--leave-out acme' goes on"):
        opened.rotate_key(role)
    assert opened.parts.root.refresh().version == 1
    done = opened.rotate_key(role, leave_out=["acme"]).applied
    assert done is not None
    assert done.left_out == ("acme",)
    assert _served(granted.broker_parts(), token) == 100
    assert [(state.name, state.frozen, state.grants, state.credentials) for state in opened.vendors()] == [
        ("acme", True, 0, 0),
        ("globex", False, 1, 1),
    ]
    opened.credentials()
    opened.grants()
    if what == "disabled":
        opened.enable_kms_key("acme")
    assert opened.check().faults == []
    assert opened.thaw("acme")
    opened.grant("acme", "evals", ["id"])
    again = opened.issue_credential("acme", bearer=True).profile.token
    assert _served(granted.broker_parts(), again) > 0
    opened.gc(timedelta(0))
    assert opened.check().ok


def test_nothing_is_signed_anew_that_did_not_hold_before(granted: Lab) -> None:
    """A live grant that a stranger signed stops the rotation, and nothing is changed."""
    _forge_only_grant(granted, Signer(b"\x07" * 32))
    with pytest.raises(IntegrityError):
        granted.vault.rotate_key(Role.AUTHORITY)
    assert granted.vault.parts.root.refresh().version == 1


def _forge_only_grant(lab: Lab, signer: Signer) -> None:
    """The live grant's own words, under another's signature: what the head lists is not changed by it."""
    parts = lab.vault.parts
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        (row,) = transaction.grants()
    document = Signed.decode(row.statement.open(sealer, row.id), Label.GRANT).document()
    with sql(lab) as connection:
        blob = sealer.seal("grant", row.id, signer.sign(Label.GRANT, document).encode())
        connection.execute("update grants set statement = ?", (blob,))


@pytest.mark.parametrize("role", [Role.PUBLISHER, Role.AUTHORITY, Role.RESPONDER])
def test_an_act_that_began_before_a_rotation_says_so(granted: Lab, role: Role) -> None:
    """What was signed by a key that was replaced meanwhile is refused as a conflict, and works when tried again."""
    opened, old = granted.vault, _key(granted, role)
    acts: dict[Role, list[Callable[[], object]]] = {
        Role.PUBLISHER: [lambda: opened.publish("evals", rows(50), key="id"), lambda: opened.rekey("acme")],
        Role.AUTHORITY: [
            lambda: opened.grant("globex", "evals", ["id"]),
            lambda: opened.issue_credential("globex"),
            lambda: opened.add_vendor("initech"),
        ],
        Role.RESPONDER: [lambda: opened.freeze("acme")],
    }
    opened.rotate_key(role)
    original = KeyFolder.signer
    for act in acts[role]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                KeyFolder,
                "signer",
                lambda self, wanted, root: old if wanted is role else original(self, wanted, root),
            )
            with pytest.raises(Conflict, match="try again"):
                act()
        act()
    assert [state.state for state in opened.grants()] == ["live"] * (2 if role is Role.AUTHORITY else 1)
    assert opened.check().faults == []


@pytest.mark.parametrize("place", ["manifest", "commit"])
def test_neither_a_manifest_nor_a_head_of_a_replaced_publisher_is_written(granted: Lab, place: str) -> None:
    """A key replaced between staging and commit, or at the commit, stops a publish before it would spoil the dataset."""
    from vault.workings.writing import Writer

    old = _key(granted, Role.PUBLISHER)
    granted.vault.rotate_key(Role.PUBLISHER)
    original = getattr(Writer, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, place, lambda self, first, _publisher: original(self, first, old))
        with pytest.raises(Conflict, match="replaced in the meantime"):
            granted.vault.publish("evals", rows(50), key="id")
    assert granted.vault.check().faults == []


def test_of_two_changes_at_once_one_wins(granted: Lab) -> None:
    """A change that was committed while another was being prepared sends the other back to its beginning."""
    from vault.workings.resigning import Resigner

    first = granted.vault.propose_root(Change(add=((Role.ADMINISTRATOR, _administrator(granted, "bob")[1]),)))
    second = granted.vault.propose_root(Change(add=((Role.ADMINISTRATOR, _administrator(granted, "carol")[1]),)))
    other, original = vault.open(granted.folder), Resigner.run

    def meanwhile(self: Resigner, *words: object, write: bool) -> object:
        done = original(self, *words, write=write)  # type: ignore[arg-type]
        patch.undo()
        other.apply_root(second)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resigner, "run", meanwhile)
        with pytest.raises(Conflict, match="another change of the root document came first"):
            granted.vault.apply_root(first)
    assert granted.vault.parts.root.refresh().digest == second.digest
    assert granted.vault.check().faults == []
