"""Somebody with SQL on the catalog: what they insert, widen, swap or bring back gives nothing."""

from datetime import timedelta

import pytest

from tests.conftest import Lab
from tests.support.catalog import snapshot, sql
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.errors import IntegrityError, NotGranted, Unauthenticated, VaultError
from vault.trust import Label, Signed, Signer
from vault.wire import Token

pytestmark = pytest.mark.both_catalogs


def _token(lab: Lab, vendor: str = "acme") -> Token:
    return lab.vault.issue_credential(vendor, bearer=True).profile.token


def _serve(lab: Lab, token: Token) -> int:
    """Rows that a freshly started broker serves for a credential."""
    parts = lab.broker_parts()
    return read(parts, access.authenticate(parts, token, "test")).num_rows


def test_an_inserted_grant_gives_nothing(granted: Lab) -> None:
    """A copy of a grant under another id or for another vendor is not in any head, and is passed over."""
    token = _token(granted, "globex")
    globex = next(vendor.id for vendor in granted.vault.vendors() if vendor.name == "globex")
    with sql(granted) as connection:
        connection.execute(
            "insert into grants select ?, ?, dataset, statement, vendor_statement, created, settled from grants",
            ("f" * 32, globex),
        )
    with pytest.raises(NotGranted):
        _serve(granted, token)


def test_a_grant_moved_to_another_vendor_gives_nothing(granted: Lab) -> None:
    """A live grant whose row is given to another vendor serves neither."""
    token = _token(granted, "globex")
    globex = next(vendor.id for vendor in granted.vault.vendors() if vendor.name == "globex")
    with sql(granted) as connection:
        connection.execute("update grants set vendor = ?", (globex,))
    with pytest.raises(NotGranted):
        _serve(granted, token)


def test_a_widened_grant_is_refused(granted: Lab) -> None:
    """A grant signed by somebody else's key, sealed rightly under the vendor's own metadata key, is refused."""
    from vault.workings.parts import holder_sealer
    from vault.workings.permissions import open_grant

    parts = granted.vault.parts
    with parts.catalog.read() as transaction:
        (row,) = transaction.grants()
    grant, _ = open_grant(parts.root, row, parts.sealer(), own=False)
    payload = grant.payload()
    payload["where"], payload["where_text"], payload["filter_columns"] = None, None, []
    forged = Signer(b"\x07" * 32).sign(Label.GRANT, payload).encode()
    sealer = holder_sealer(parts, parts.keyring, grant.vendor)
    with sql(granted) as connection:
        blob = sealer.seal("vendor grant", grant.id, forged)
        connection.execute("update grants set vendor_statement = ?", (blob,))
    with pytest.raises(IntegrityError):
        _serve(granted, _token(granted))


def test_an_older_grant_of_the_authority_is_not_brought_back(granted: Lab) -> None:
    """A grant that the authority signed and revoked stays dead when its row is made to look live."""
    token = _token(granted)
    (state,) = granted.vault.grants()
    granted.vault.revoke(state.grant.id)
    with sql(granted) as connection:
        connection.execute("update grants set settled = created")
    with pytest.raises(NotGranted):
        _serve(granted, token)


def test_a_deleted_revocation_brings_nothing_back(granted: Lab) -> None:
    """Deleting the head that revoked a grant leaves the store's higher head, and everything is refused."""
    token = _token(granted)
    (state,) = granted.vault.grants()
    granted.vault.revoke(state.grant.id)
    with sql(granted) as connection:
        connection.execute(
            "delete from heads where (subject, sequence) in"
            " (select subject, max(sequence) from heads where kind = 'vendor' group by subject)"
        )
    with pytest.raises(IntegrityError):
        _serve(granted, token)


def test_the_whole_catalog_of_before_the_revocation_is_refused(granted: Lab) -> None:
    """The catalog of before a revocation, put back whole, serves nothing: the store knows better."""
    token = _token(granted)
    assert _serve(granted, token) == 50
    (state,) = granted.vault.grants()
    put_back = snapshot(granted)
    granted.vault.revoke(state.grant.id)
    put_back()
    with pytest.raises(IntegrityError):
        _serve(granted, token)
    with pytest.raises(IntegrityError):
        granted.vault.audit_verify()


def test_a_running_broker_refuses_a_catalog_put_back(granted: Lab) -> None:
    """A broker that saw the revocation refuses the older catalog even when the store lost its head."""
    token = _token(granted)
    parts = granted.broker_parts()
    (state,) = granted.vault.grants()
    put_back = snapshot(granted)
    granted.vault.revoke(state.grant.id)
    caller = access.authenticate(parts, token, "test")
    for head in list(parts.store.list("heads")):
        parts.store.delete(head.name)
    put_back()
    parts.heads.forget(caller.vendor)
    with pytest.raises(IntegrityError):
        read(parts, caller)


def test_an_inserted_credential_is_refused(granted: Lab) -> None:
    """A credential whose secret's hash an attacker chose is not signed, and a copied one is in no head."""
    import hashlib

    token = _token(granted)
    with sql(granted) as connection:
        (statement,) = connection.execute("select statement from credentials").fetchone()
        payload = Signed.decode(statement, Label.CREDENTIAL).document()
        payload |= {"id": "e" * 32, "secret_sha256": hashlib.sha256(b"\x01" * 32).hexdigest()}
        forged = Signer(b"\x07" * 32).sign(Label.CREDENTIAL, payload).encode()
        connection.execute("insert into credentials select ?, vendor, ?, created from credentials", ("e" * 32, forged))
    with pytest.raises(VaultError):
        _serve(granted, Token("e" * 32, b"\x01" * 32))
    assert _serve(granted, token) == 50


def test_a_revoked_credential_stays_revoked(granted: Lab) -> None:
    """Un-revoking a credential with SQL does nothing: the head does not list it."""
    token = _token(granted)
    granted.vault.revoke_credential(token.credential)
    with pytest.raises(Unauthenticated):
        _serve(granted, token)


def test_a_thaw_with_sql_is_refused(granted: Lab) -> None:
    """Removing the step that froze a vendor does not thaw it."""
    token = _token(granted)
    granted.vault.freeze("acme")
    with sql(granted) as connection:
        connection.execute("delete from heads where kind = 'vendor' and by_authority = 0")
    with pytest.raises(IntegrityError):
        _serve(granted, token)


def test_swapped_names_are_found_out(published: Lab) -> None:
    """Two datasets whose names are swapped in the catalog are not taken for each other by the owner."""
    published.vault.publish("public", rows(3))
    with sql(published) as connection:
        first, second = connection.execute("select id, name, name_index from datasets").fetchall()
        connection.execute("update datasets set name_index = x'00' where id = ?", (first[0],))
        connection.execute("update datasets set name = ?, name_index = ? where id = ?", (first[1], first[2], second[0]))
        connection.execute(
            "update datasets set name = ?, name_index = ? where id = ?", (second[1], second[2], first[0])
        )
    for name in ("evals", "public"):
        with pytest.raises(IntegrityError):
            published.vault.grant("acme", name, ["id"])


def test_a_kms_key_swapped_in_the_catalog_is_found_out(published: Lab) -> None:
    """A vendor's row that points at another vendor's KMS key is refused before anything is wrapped under it."""
    acme, globex = (vendor.id for vendor in published.vault.vendors())
    with sql(published) as connection:
        connection.execute(
            "update holders set kms_key = (select kms_key from holders where id = ?) where id = ?", (globex, acme)
        )
    with pytest.raises(IntegrityError):
        published.vault.grant("acme", "evals", ["id"])


def test_a_data_key_swapped_in_the_catalog_is_refused(granted: Lab) -> None:
    """A wrapped key under another group's place is refused by the head's commitment, and the KMS's context."""
    token = _token(granted)
    with sql(granted) as connection:
        places = connection.execute(
            "select compartment, column_group from keys where column_group not in ('metadata', 'manifest')"
            " order by compartment"
        ).fetchall()
        (wrapped, key_id) = connection.execute(
            "select wrapped, key_id from keys where (compartment, column_group) = (?, ?)", places[0]
        ).fetchone()
        connection.execute(
            "update keys set wrapped = ?, key_id = ? where column_group not in ('metadata', 'manifest')",
            (wrapped, key_id),
        )
    with pytest.raises(VaultError):
        _serve(granted, token)


def test_an_expired_grant_does_not_come_back_with_the_clock(lab: Lab) -> None:
    """A broker whose clock is set back refuses: the log and the catalog know that it is later."""
    from dataclasses import replace

    lab.vault.publish("evals", rows(10))
    lab.vault.grant("acme", "evals", ["id"], expires=timedelta(minutes=1))
    token = _token(lab)
    parts = lab.broker_parts()
    caller = access.authenticate(parts, token, "test")
    assert read(parts, caller).num_rows == 10
    slow = replace(parts, clock=lambda: parts.clock() - timedelta(minutes=5))
    with pytest.raises(VaultError):
        read(slow, caller)


@pytest.mark.parametrize("forged_by", ["a stranger", "the authority"])
def test_signature_and_head_are_each_checked(granted: Lab, forged_by: str) -> None:
    """A head that lists a stranger's grant does not make it good, nor the authority's signature one that is unlisted."""
    from dataclasses import replace

    from vault.workings.permissions import live_for_vendor, open_grant

    parts = granted.vault.parts
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        (row,) = transaction.grants()
        head = parts.heads.vendor_in(transaction, row.vendor)
    grant, _ = open_grant(parts.root, row, sealer, own=False)
    signer = Signer(b"\x07" * 32) if forged_by == "a stranger" else parts.signers.authority()
    forged = signer.sign(Label.GRANT, grant.payload() | {"where": None, "where_text": None, "filter_columns": []})
    with sql(granted) as connection:
        connection.execute("update grants set statement = ?", (sealer.seal("grant", grant.id, forged.encode()),))
    with parts.catalog.read() as transaction:
        rows_ = transaction.grants()
    if forged_by == "a stranger":
        head = replace(head, grants={grant.id: forged.digest})
    with pytest.raises(IntegrityError):
        live_for_vendor(parts.root, rows_, head, sealer, own=False)


def test_a_credential_needs_the_authoritys_signature(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a head that lists it does not make a stranger's credential good."""
    import hashlib
    from dataclasses import replace

    from vault.workings.heads import Heads

    token = _token(granted)
    parts = granted.broker_parts()
    with sql(granted) as connection:
        (vendor, statement) = connection.execute("select vendor, statement from credentials").fetchone()
        payload = Signed.decode(statement, Label.CREDENTIAL).document()
        payload["secret_sha256"] = hashlib.sha256(b"\x01" * 32).hexdigest()
        forged = Signer(b"\x07" * 32).sign(Label.CREDENTIAL, payload)
        connection.execute("update credentials set statement = ?", (forged.encode(),))
    head = replace(parts.heads.vendor(vendor), credentials={token.credential: forged.digest})
    monkeypatch.setattr(Heads, "vendor", lambda *_args, **_options: head)
    with pytest.raises(IntegrityError):
        access.authenticate(parts, Token(token.credential, b"\x01" * 32), "test")


def test_a_data_key_that_an_attacker_made_is_not_written_under(published: Lab) -> None:
    """Another key under the same place, wrapped by the very KMS key, is refused: the head commits to the key."""
    from vault.model import KeyScope

    parts = published.vault.parts
    with parts.catalog.read() as transaction:
        (row,) = transaction.compartments()
        keys = [key for key in transaction.keys(row.id) if key.group != "manifest"]
    with sql(published) as connection:
        for key in keys:
            made, _ = parts.keyring.create(KeyScope(parts.vault, row.id, key.group, key.epoch), key.kms_key)
            connection.execute(
                "update keys set wrapped = ?, key_id = ? where compartment = ? and column_group = ? and epoch = ?",
                (made.wrapped, made.key_id, row.id, key.group, key.epoch),
            )
    with pytest.raises(IntegrityError):
        published.vault.publish("evals", rows(5, start=100), append=True)
