"""A thief of the authority's key who also writes the catalog: on a protected dataset none of it makes a grant count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.approving import protect
from tests.support.catalog import sql
from tests.support.reading import read
from tests.support.tables import rows
from vault import access
from vault.approvals import read as read_request_file
from vault.encoding import from_json, json_bytes, new_id
from vault.errors import Conflict, IntegrityError, InvalidInput, NotGranted, Refused
from vault.grants import _settle
from vault.trust import Label, Role, Signed, Signer, head_statement, root_statement, vendor_body
from vault.trust.proposals import Change, add_signature, propose
from vault.wire import Token
from vault.workings.filling import fill_compartment, owners_version
from vault.workings.keyfolder import KeyFolder
from vault.workings.names import dataset_named, holder_named
from vault.workings.parts import holder_sealer
from vault.workings.roots import root_name

pytestmark = pytest.mark.both_catalogs

_MALLORY = Signer(b"\x66" * 32)


class Attacked:
    """A lab where acme has an approved grant of 50 rows of ``evals``, and a thief of the authority's key."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.approvers = protect(lab, "evals", approvers=2)
        made = lab.vault.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'")
        self.approvers.approve(lab, made.id)
        self.good = made.id
        self.token: Token = lab.vault.issue_credential("acme", bearer=True).profile.token
        self.thief = KeyFolder(lab.folder, None).signer(Role.AUTHORITY, lab.vault.parts.root.refresh())

    def stored(self) -> Signed:
        """The approved grant's statement."""
        return self.lab.vault.approval(self.good).signed

    def wide(self, identifier: str | None = None) -> dict[str, Any]:
        """The payload of a grant of all rows."""
        changes = {"id": identifier or new_id(), "where": None, "where_text": None, "filter_columns": []}
        return self.stored().document() | changes

    def put(self, signed: Signed) -> str:
        """Put a grant into the catalog, sealed rightly, and a head that lists it, signed by the thief."""
        parts, said = self.lab.vault.parts, signed.document()
        identifier, vendor = said["id"], said["vendor"]
        with parts.catalog.read() as transaction:
            head = transaction.newest_head(vendor)
        assert head is not None
        listing = from_json(head.body, "a listing")
        body = vendor_body({**listing["grants"], identifier: signed.digest}, listing["credentials"])
        step = head_statement(
            self.thief,
            vault=parts.vault,
            kind="vendor",
            subject=vendor,
            sequence=head.sequence + 1,
            body=body,
            frozen=False,
            now=parts.clock(),
        )
        copies = [
            sealer.seal(kind, identifier, signed.encode())
            for sealer, kind in (
                (parts.sealer(), "grant"),
                (holder_sealer(parts, parts.keyring, vendor), "vendor grant"),
            )
        ]
        with sql(self.lab) as connection:
            (times,) = connection.execute("select created, settled from grants limit 1").fetchall()
            connection.execute("delete from grants where id = ?", (identifier,))
            forged = (identifier, vendor, said["dataset"], *copies, *times)
            connection.execute("insert into grants values (?, ?, ?, ?, ?, ?, ?)", forged)
            connection.execute(
                "insert into heads values (?, ?, 'vendor', 1, ?, ?)", (vendor, head.sequence + 1, step.encode(), body)
            )
        parts.heads.forget(vendor)
        return str(identifier)

    def served(self, grant: str | None = None, dataset: str = "evals") -> int:
        """Rows that a freshly started broker serves."""
        parts = self.lab.broker_parts()
        return read(parts, access.authenticate(parts, self.token, "test"), dataset, grant=grant).num_rows

    def refuses(self, grant: str) -> None:
        """The grant gives nothing anywhere, and disturbs none that is good."""
        with pytest.raises(NotGranted):
            self.served(grant)
        assert self.served(self.good) == 50
        states = {state.grant.id: (state.state, state.missing > 0) for state in self.lab.vault.grants("acme")}
        assert states[grant] == ("pending", True)
        (fault,) = self.lab.vault.check().faults
        assert "a signature that it needs" in fault


@pytest.fixture
def attacked(published: Lab) -> Attacked:
    """The lab and its thief."""
    return Attacked(published)


def test_the_authority_alone_grants_nothing(attacked: Attacked) -> None:
    """A grant and a head that lists it, both rightly signed by the authority, and no approval."""
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    attacked.refuses(forged)


def test_the_same_attack_works_where_one_signature_is_enough(attacked: Attacked) -> None:
    """On a dataset that is not protected the thief's grant is served: so it is the approval that was missing."""
    attacked.lab.vault.protect("evals", 1)
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    assert attacked.served(forged) == 100


def test_the_authority_alone_fans_nothing_out(attacked: Attacked) -> None:
    """A forged grant of a column that acme does not have brings the column into no compartment, at no publish."""
    lab, parts = attacked.lab, attacked.lab.vault.parts
    with parts.catalog.read() as transaction:
        (mine,) = [row for row in transaction.compartments() if row.holder != parts.owner]
    with parts.catalog.read() as transaction:
        dataset = dataset_named(transaction, parts.sealer(), "evals")
    column = owners_version(parts, dataset).manifest.column("score")
    assert column is not None
    payload = attacked.wide() | {"columns": [{"id": column.id, "name": column.name, "group": column.group}]}
    attacked.put(attacked.thief.sign(Label.GRANT, payload))
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    with parts.catalog.read() as transaction:
        holder = holder_named(transaction, parts.sealer(), "acme")
    fill_compartment(parts, holder, dataset, None)
    with parts.catalog.read() as transaction:
        head = parts.heads.compartment_in(transaction, mine)
    assert head is not None
    assert column.group not in head.live_groups
    assert all(column.group != scope.group for scope in lab.vault.privileges("acme").scopes)


def test_the_authority_alone_settles_nothing(attacked: Attacked) -> None:
    """With the owner's own program: a pending grant is not settled by who calls what settles it."""
    lab = attacked.lab
    made = lab.vault.grant("acme", "evals", ["id"])
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        vendor = holder_named(transaction, parts.sealer(), "acme")
        dataset = dataset_named(transaction, parts.sealer(), "evals")
    with pytest.raises(Refused, match="waits for 1 more signature"):
        _settle(parts, vendor, dataset, made, lab.vault.approval(made.id).signed)
    with pytest.raises(NotGranted):
        attacked.served(made.id)


def test_the_same_signer_twice_is_one(attacked: Attacked) -> None:
    """The authority's signature, repeated, and its key's id spelled as an approver's, make no second signer."""
    signed = attacked.thief.sign(Label.GRANT, attacked.wide())
    as_approver = (attacked.approvers.ids[0], signed.signatures[0][1])
    for signatures in (signed.signatures * 3, (*signed.signatures, as_approver)):
        attacked.refuses(attacked.put(replace(signed, signatures=signatures)))


def test_an_approver_twice_is_one(attacked: Attacked) -> None:
    """Where three must sign, one approver's signature counts once, however often it is there."""
    attacked.lab.vault.protect("evals", 3, end_grants=True)
    signed = attacked.approvers.sign(attacked.thief.sign(Label.GRANT, attacked.wide()))
    forged = attacked.put(replace(signed, signatures=(*signed.signatures, *signed.signatures)))
    with pytest.raises(NotGranted):
        attacked.served(forged)


def test_a_key_that_the_root_document_does_not_name_approves_nothing(attacked: Attacked) -> None:
    """A key of the thief's own making, and one that is another role's."""
    responder = KeyFolder(attacked.lab.folder, None).signer(Role.RESPONDER, attacked.lab.vault.parts.root.refresh())
    payload = attacked.wide()
    signatures = [signer.sign(Label.GRANT, payload).signatures[0] for signer in (attacked.thief, _MALLORY, responder)]
    attacked.refuses(attacked.put(Signed(Label.GRANT, json_bytes(payload), tuple(signatures))))


def test_a_removed_approver_approves_nothing(attacked: Attacked) -> None:
    """A key that the root document named once, and does no more."""
    change = Change(remove=((Role.APPROVER, attacked.approvers.ids[1]),))
    attacked.lab.vault.apply_root(attacked.lab.vault.propose_root(change))
    signed = attacked.approvers.sign(attacked.thief.sign(Label.GRANT, attacked.wide()), by=1)
    attacked.refuses(attacked.put(signed))


def test_approvals_of_another_grant_are_none_of_this(attacked: Attacked) -> None:
    """The approver's signature is lifted from the good grant and put beside the thief's."""
    lifted = [entry for entry in attacked.stored().signatures if entry[0] in attacked.approvers.ids]
    assert len(lifted) == 1
    signed = attacked.thief.sign(Label.GRANT, attacked.wide())
    attacked.refuses(attacked.put(replace(signed, signatures=(*signed.signatures, *lifted))))


def test_an_approved_grant_is_not_widened(attacked: Attacked) -> None:
    """The approved grant's own row, with the filter taken out and signed again by the authority, stops counting."""
    payload = attacked.wide(attacked.good)
    approvals = [entry for entry in attacked.stored().signatures if entry[0] in attacked.approvers.ids]
    signed = attacked.thief.sign(Label.GRANT, payload)
    attacked.put(replace(signed, signatures=(*signed.signatures, *approvals)))
    with pytest.raises(NotGranted):
        attacked.served(attacked.good)


@pytest.mark.parametrize("own", [True, False])
def test_a_catalog_without_the_approval_gives_nothing(attacked: Attacked, own: bool) -> None:
    """The head's digest says nothing about signatures: a copy that lost the approval counts for nobody who reads it."""
    parts, stored = attacked.lab.vault.parts, attacked.stored()
    bare = replace(stored, signatures=tuple(each for each in stored.signatures if each[0] == attacked.thief.key_id))
    assert bare.digest == stored.digest
    vendor = stored.document()["vendor"]
    sealer = holder_sealer(parts, parts.keyring, vendor) if own else parts.sealer()
    kind, column = ("vendor grant", "vendor_statement") if own else ("grant", "statement")
    with sql(attacked.lab) as connection:
        connection.execute(
            f"update grants set {column} = ? where id = ?",
            (sealer.seal(kind, attacked.good, bare.encode()), attacked.good),
        )
    if own:
        with pytest.raises(NotGranted):
            attacked.served()
    else:
        assert list(attacked.lab.vault.publish("evals", rows(60), key="id").vendors) == []
    assert len(attacked.lab.vault.check().faults) == 1
    # The file that was approved, given again, puts both copies right.
    assert attacked.lab.vault.approve(stored).missing == 0
    assert attacked.lab.vault.check().faults == []


def test_an_older_root_document_does_not_unprotect(attacked: Attacked) -> None:
    """The catalog's newest root document is taken out: a broker that saw it, and one that starts, refuse the rest."""
    running = attacked.lab.broker_parts()
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    with sql(attacked.lab) as connection:
        connection.execute("delete from roots where version = (select max(version) from roots)")
    running.root._read_at = None
    with pytest.raises(IntegrityError, match="rolled back"):
        read(running, access.authenticate(running, attacked.token, "test"), grant=forged)
    with pytest.raises(IntegrityError, match="rolled back"):
        attacked.served(forged)


def test_an_older_root_document_in_the_file_does_not_unprotect(attacked: Attacked) -> None:
    """A broker that starts from the file of before the protection follows the catalog to it."""
    from vault.trust.root import decode_chain, encode_chain

    path = attacked.lab.folder / "broker" / "root.json"
    path.write_bytes(encode_chain(decode_chain(path.read_bytes())[:1]))
    attacked.refuses(attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide())))


def test_the_section_is_not_taken_out_by_the_catalog(attacked: Attacked) -> None:
    """A root document without what it protects does not verify, whoever of the thief's signs it in its place."""
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    root = attacked.lab.vault.parts.root.refresh()
    bare = root_statement(root.vault, root.version, root.roles, [attacked.thief])
    with sql(attacked.lab) as connection:
        connection.execute("update roots set statement = ? where version = ?", (bare.encode(), root.version))
    with pytest.raises(IntegrityError):
        attacked.served(forged)


def test_the_authority_unprotects_nothing(attacked: Attacked) -> None:
    """A next root document that the authority and an approver signed is followed by nobody."""
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    root = attacked.lab.vault.parts.root.refresh()
    (dataset,) = root.protected
    proposal = propose(root, Change(protect={dataset: 1}))
    signed = add_signature(add_signature(proposal, attacked.thief), attacked.approvers.signers[0])
    with pytest.raises(InvalidInput, match="0 of the 1"):
        attacked.lab.vault.apply_root(signed)
    with sql(attacked.lab) as connection:
        connection.execute("insert into roots values (?, ?)", (root.version + 1, signed.encode()))
    attacked.lab.vault.parts.store.put(root_name(root.version + 1), signed.encode())
    with pytest.raises(IntegrityError):
        attacked.served(forged)


def test_a_grant_on_another_dataset_does_not_reach_the_protected_one(attacked: Attacked) -> None:
    """The thief grants a dataset that is not protected, and gives its id to the protected one's rows and name."""
    lab = attacked.lab
    lab.vault.publish("public", rows(10))
    lab.vault.grant("acme", "public", ["id"])
    ids = {name: lab.vault.show(name).id for name in ("evals", "public")}
    payload = attacked.wide() | {"dataset": ids["public"]}
    forged = attacked.put(attacked.thief.sign(Label.GRANT, payload))
    vendor = payload["vendor"]
    with sql(lab) as connection:
        swap = "update compartments set dataset = ? where holder = ? and dataset = ?"
        connection.execute(swap, ("x", vendor, ids["public"]))
        connection.execute(swap, (ids["public"], vendor, ids["evals"]))
        connection.execute(swap, (ids["evals"], vendor, "x"))
    with pytest.raises(IntegrityError, match="another holder's or dataset's"):
        attacked.served(forged)


def test_what_the_thief_listed_is_not_blessed_by_a_change(attacked: Attacked) -> None:
    """Rotating the stolen key, or asking for fewer signers, names the forged grant, and ends it or does nothing."""
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    lab = attacked.lab
    for change in (lambda: lab.vault.rotate_key(Role.AUTHORITY), lambda: lab.vault.protect("evals", 1)):
        with pytest.raises(Conflict, match=forged) as caught:
            change()
        assert attacked.good not in str(caught.value)
    (unrecorded,) = lab.vault.unrecorded()
    assert unrecorded.id == forged
    applied = lab.vault.protect("evals", 1, end_grants=True).applied
    assert applied is not None
    assert applied.ended == (forged,)
    with pytest.raises(NotGranted):
        attacked.served(forged)
    assert attacked.served(attacked.good) == 50


def test_a_deleted_dataset_takes_the_thiefs_grant_along(attacked: Attacked) -> None:
    """Deleting ends what is listed, also what never counted."""
    forged = attacked.put(attacked.thief.sign(Label.GRANT, attacked.wide()))
    assert attacked.lab.vault.delete("evals").grants == 2
    assert {state.grant.id: state.state for state in attacked.lab.vault.grants()}[forged] == "revoked"


@pytest.mark.parametrize(
    "changes",
    [
        {"where_text": "lang = 'en' AND id < 3"},
        {"where_text": None},
        {"where": None},
        {"columns": "twice"},
    ],
)
def test_what_an_approver_is_shown_is_what_counts(attacked: Attacked, tmp_path: Path, changes: dict[str, Any]) -> None:
    """A filter that reads otherwise than it works, and two columns under one name, are refused before they are shown."""
    payload = attacked.stored().document()
    if changes.get("columns") == "twice":
        first = payload["columns"][0]
        changes = {"columns": [*payload["columns"], first | {"id": new_id()}]}
    path = tmp_path / "grant.json"
    path.write_bytes(attacked.stored().encode())
    assert read_request_file(path)[1].id == attacked.good
    path.write_bytes(attacked.thief.sign(Label.GRANT, payload | changes).encode())
    with pytest.raises(InvalidInput):
        read_request_file(path)


def test_names_are_compared_with_the_vaults(attacked: Attacked) -> None:
    """A grant that calls the answers ``id``, or another vendor ``acme``, is refused where a vault is at hand."""
    from vault.approvals import check_names
    from vault.trust import Grant

    stored, parts = attacked.stored(), attacked.lab.vault.parts
    check_names(parts, Grant.parse(stored))
    payload = stored.document()
    secret = attacked.lab.vault.show("evals").column_ids["score"]
    globex = next(vendor.id for vendor in attacked.lab.vault.vendors() if vendor.name == "globex")
    for changes in (
        {"columns": [payload["columns"][0] | {"id": secret}]},
        {"columns": [payload["columns"][0] | {"group": payload["columns"][1]["group"]}]},
        {"vendor": globex},
        {"vendor_name": "globex"},
        {"dataset_name": "public"},
        {"dataset": new_id()},
        {"vault": new_id()},
    ):
        with pytest.raises(InvalidInput, match="another here"):
            check_names(parts, Grant.parse(attacked.thief.sign(Label.GRANT, payload | changes)))
