"""Signing anew what counts, after a key was replaced: the same statements, under signatures that still hold.

A statement's digest covers what it says and not its signatures, so heads and manifests that pin digests stay as they
are. Everything is verified under the root document of before, and nothing that fails there is signed: what is live and
fails stops the change, what is not live is left as it is. A vendor's new head is the authority's, and a
compartment's the publisher's, on top of what there was and under a number that is free in the store.

Approvers' signatures on a grant stay with it where their keys still count. A listed grant that lacks signatures on its
dataset, under the root document of before or the next one, is taken out of its vendor's head: so none stops counting
without a word while streams under it go on, and none that never had them comes to count because fewer are asked for.

A vendor can be left out, since a stolen key must be replaceable while one vendor's rows are spoiled or its KMS key is
disabled: nothing of it is signed anew, and its new heads say that it is frozen and has nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vault.catalog import CompartmentRow, CredentialRow, FieldSealer, GrantRow, HeadRow, SealedValue, Transaction
from vault.errors import Conflict, IntegrityError, KeyUnavailable, KmsError, VaultError
from vault.trust import (
    Frontier,
    Grant,
    Label,
    Role,
    Root,
    Signed,
    VendorHead,
    emptied_body,
    head_statement,
    trusted_compartment_head,
    trusted_vendor_head,
    vendor_body,
)
from vault.trust.approvals import joined
from vault.workings.names import Holder, datasets, holders
from vault.workings.parts import OwnerParts, holder_sealer
from vault.workings.trouble import stopped

__all__ = ["Resigned", "Resigner"]


@dataclass(slots=True)
class Resigned:
    """How many statements of each kind got a new signature, the new heads, and the ids of grants that were ended."""

    grants: int = 0
    credentials: int = 0
    manifests: int = 0
    heads: list[HeadRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


class Resigner:
    """One change of the root document, from ``old`` to ``new``, leaving out the vendors of the ids in ``without``.

    ``end_grants`` lets grants that lack signatures be ended; without it one that has not expired stops the change.
    `run` is called first without writing: it then verifies everything and keeps the new signatures and free numbers,
    so that the run that writes holds the catalog for as short as can be.
    """

    def __init__(
        self,
        parts: OwnerParts,
        old: Root,
        new: Root,
        without: frozenset[str] = frozenset(),
        *,
        end_grants: bool = False,
    ) -> None:
        self._parts = parts
        self._old = old
        self._new = new
        self._without = without
        self._end_grants = end_grants
        self._lacking: dict[str, Grant] = {}
        self._kept: dict[str, Signed] = {}
        self._numbers: dict[str, int] = {}
        self._write = False
        self._done = Resigned()

    def run(self, transaction: Transaction, *, write: bool) -> Resigned:
        """Go through everything in a transaction; raises IntegrityError, KeyUnavailable, KmsError and Conflict."""
        self._write, self._done, self._lacking = write, Resigned(), {}
        owner = self._parts.sealer()
        people = {holder.id: holder for holder in holders(transaction, owner)}
        names = {dataset.id: dataset.name for dataset in datasets(transaction, owner, deleted_too=True)}
        for vendor in (holder for holder in people.values() if holder.id != self._parts.owner):
            if vendor.id in self._without:
                self._leave_out(transaction, vendor)
                continue
            with self._about(vendor, f"vendor '{vendor.name}'"):
                self._vendor(transaction, vendor.id, owner)
        for place in transaction.compartments():
            holder = people[place.holder]
            with self._about(holder, f"the dataset '{names[place.dataset]}' of '{holder.name}'"):
                if holder.id in self._without:
                    self._empty(transaction, place)
                else:
                    self._compartment(transaction, place)
        self._refuse_ending()
        return self._done

    def _refuse_ending(self) -> None:
        """Raise Conflict where the change would end grants that nobody said may be ended."""
        now = self._parts.clock()
        unasked = [grant for grant in self._lacking.values() if not grant.expired_at(now)]
        if unasked and not self._end_grants:
            named = ", ".join(
                f"{grant.id} of '{grant.vendor_name}' on '{grant.dataset_name}'" for grant in unasked[:10]
            )
            named += f" and {len(unasked) - 10} more" if len(unasked) > 10 else ""
            raise Conflict(
                f"these live grants lack signatures that the dataset needs: {named}; have them approved first "
                "('dsvault approval request'), revoke them, or let '--end-grants' end them"
            )

    @contextmanager
    def _about(self, holder: Holder, what: str) -> Iterator[None]:
        """Say what it is that cannot be signed anew, and how to go on without it."""
        try:
            yield
        except (IntegrityError, KmsError) as error:
            reason = stopped(self._parts, holder) if isinstance(error, KeyUnavailable) else None
            if reason is None and not isinstance(error, IntegrityError):
                raise
            vendor = holder.id != self._parts.owner
            how = f"; '--leave-out {holder.name}' goes on and leaves that vendor frozen with nothing" if vendor else ""
            raise type(error)(f"{reason or f'{what}: {error}'}{how}") from error

    def _leave_out(self, transaction: Transaction, vendor: Holder) -> None:
        """A head that lists nothing: whatever of the vendor's rows cannot be trusted is not needed for it."""
        head = self._parts.heads.vendor_in(transaction, vendor.id)
        owner = self._parts.sealer()
        for grant in transaction.grants(vendor=vendor.id):
            self._grant(transaction, grant, None, owner)
        for credential in transaction.credentials(vendor.id):
            self._credential(transaction, credential, None)
        self._next_head(transaction, "vendor", vendor.id, head.sequence, vendor_body({}, {}), True, Role.AUTHORITY)
        self._done.left_out.append(vendor.name)

    def _empty(self, transaction: Transaction, place: CompartmentRow) -> None:
        """A compartment without a version or a live key; the next grant fills it anew under fresh keys."""
        head = self._parts.heads.compartment_in(transaction, place)
        if head is None:
            return
        body = emptied_body(head)
        self._next_head(transaction, "compartment", place.id, head.sequence, body, frozen=False, role=Role.PUBLISHER)
        if self._write:
            transaction.delete_versions(place.id)

    def _again(self, signed: Signed, role: Role) -> Signed | None:
        """The statement under a key that counts; None where its present signature does. Raises IntegrityError."""
        self._old.verify(signed, role)
        if _holds(self._new, signed, role):
            return None
        if signed.digest not in self._kept:
            signer = self._parts.signers.keys.signer(role, self._new)
            self._kept[signed.digest] = signer.sign(signed.label, signed.document())
        fresh = joined(self._new, self._kept[signed.digest], signed)
        if fresh.digest != signed.digest:
            raise IntegrityError(f"a {signed.label.value} statement is not in the form that dsvault writes")
        return fresh

    # A vendor's grants, credentials and head

    def _vendor(self, transaction: Transaction, vendor: str, owner: FieldSealer) -> None:
        head = self._parts.heads.vendor_in(transaction, vendor)
        grants = transaction.grants(vendor=vendor)
        credentials = transaction.credentials(vendor)
        missing = (head.grants.keys() - {row.id for row in grants}) | (
            head.credentials.keys() - {row.id for row in credentials}
        )
        if missing:
            raise IntegrityError("the catalog lacks a grant or credential that its vendor's head lists")
        for grant in grants:
            self._grant(transaction, grant, head.grants.get(grant.id), owner)
        for credential in credentials:
            self._credential(transaction, credential, head.credentials.get(credential.id))
        left = {grant: digest for grant, digest in head.grants.items() if grant not in self._lacking}
        if len(left) < len(head.grants):
            self._done.ended += sorted(head.grants.keys() - left.keys())
            self._vendor_head(transaction, head, vendor_body(left, head.credentials, head.ended))
            return
        steps = [(Signed.decode(row.statement, Label.HEAD), row.body) for row in transaction.head_steps(vendor)]
        try:
            trusted_vendor_head(self._new, vendor, steps, Frontier())
        except IntegrityError:
            self._vendor_head(transaction, head, steps[-1][1])

    def _grant(self, transaction: Transaction, row: GrantRow, listed: str | None, owner: FieldSealer) -> None:
        def own() -> FieldSealer:
            return holder_sealer(self._parts, self._parts.keyring, row.vendor)

        kept = self._copy(lambda: row.statement.open(owner, row.id), Label.GRANT, row.id, listed)
        theirs = self._copy(lambda: row.vendor_statement.open(own(), row.id), Label.GRANT, row.id, listed)
        if kept is None and theirs is None:
            return
        self._done.grants += 1
        if self._write:
            transaction.set_grant_statements(
                row.id,
                SealedValue(owner, row.id, kept.encode()) if kept else None,
                SealedValue(own(), row.id, theirs.encode()) if theirs else None,
            )

    def _credential(self, transaction: Transaction, row: CredentialRow, listed: str | None) -> None:
        fresh = self._copy(lambda: row.statement, Label.CREDENTIAL, row.id, listed)
        if fresh is None:
            return
        self._done.credentials += 1
        if self._write:
            transaction.set_credential_statement(row.id, fresh.encode())

    def _copy(self, read: Callable[[], bytes], label: Label, row: str, listed: str | None) -> Signed | None:
        """A stored statement of the authority, signed anew where it must be; only a listed one must be good."""
        try:
            return self._fresh(Signed.decode(read(), label), row, listed)
        except IntegrityError as error:
            if listed is not None:
                raise IntegrityError(f"{label.value} {row}: {error}") from error
            return None
        except VaultError:
            if listed is not None:
                raise
            return None

    def _fresh(self, signed: Signed, row: str, listed: str | None) -> Signed | None:
        if listed is not None and signed.digest != listed:
            raise IntegrityError(f"a {signed.label.value} in the catalog is not the one that its vendor's head lists")
        fresh = self._again(signed, Role.AUTHORITY)
        if listed is not None and signed.label is Label.GRANT:
            grant = Grant.parse(signed)
            if self._old.missing(signed, grant.dataset) or self._new.missing(fresh or signed, grant.dataset):
                self._lacking[row] = grant
        return fresh

    def _vendor_head(self, transaction: Transaction, head: VendorHead, body: bytes) -> None:
        self._next_head(transaction, "vendor", head.vendor, head.sequence, body, head.frozen, Role.AUTHORITY)

    # A compartment's manifests and head

    def _compartment(self, transaction: Transaction, place: CompartmentRow) -> None:
        head = self._parts.heads.compartment_in(transaction, place)
        row = transaction.newest_head(place.id)
        if head is None or row is None:
            return
        live = set()
        for version in transaction.versions(place.id):
            try:
                signed = Signed.decode(version.statement, Label.MANIFEST)
            except IntegrityError as error:
                if version.retired is not None:
                    continue
                raise IntegrityError(f"version {version.version}: {error}") from error
            is_live = version.retired is None and head.versions.get(version.version) == signed.digest
            if is_live:
                live.add(version.version)
            elif not _holds(self._old, signed, Role.PUBLISHER):
                continue
            fresh = self._again(signed, Role.PUBLISHER)
            if fresh is None:
                continue
            self._done.manifests += 1
            if self._write:
                transaction.set_version_statement(version, fresh.encode())
        if live != head.versions.keys():
            raise IntegrityError("the catalog's manifest of a version is not the one that its head names")
        signed = Signed.decode(row.statement, Label.HEAD)
        try:
            trusted_compartment_head(self._new, place.id, signed, row.body, Frontier())
        except IntegrityError:
            self._next_head(
                transaction, "compartment", place.id, head.sequence, row.body, frozen=False, role=Role.PUBLISHER
            )

    def _next_head(
        self, transaction: Transaction, kind: str, subject: str, last: int, body: bytes, frozen: bool, role: Role
    ) -> None:
        signer = self._parts.signers.keys.signer(role, self._new)
        if not self._write or self._numbers.get(subject, 0) <= last:
            self._numbers[subject] = self._parts.heads.free_number(subject, last)
        if not self._write:
            return
        sequence = self._numbers[subject]
        signed = head_statement(
            signer,
            vault=self._parts.vault,
            kind=kind,
            subject=subject,
            sequence=sequence,
            body=body,
            frozen=frozen,
            now=self._parts.clock(),
        )
        row = HeadRow(subject, sequence, kind, role is Role.AUTHORITY, signed.encode(), body)
        self._done.heads.append(row)
        transaction.add_head(row)


def _holds(root: Root, signed: Signed, role: Role) -> bool:
    try:
        root.verify(signed, role)
    except IntegrityError:
        return False
    return True
