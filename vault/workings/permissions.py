"""Which grants are live: signed by the authority and listed, under that digest, in the vendor's head.

A row in the catalog is only where a grant's bytes are kept. One that was inserted, widened or brought
back there is not in the head, and is passed over here. So is one on a protected dataset that lacks signatures, whatever
head lists it: heads and digests are the authority's word alone, and a digest says nothing about signatures.
"""

import hmac
from collections.abc import Iterable

from vault.catalog import FieldSealer, GrantRow, HeadRow
from vault.errors import IntegrityError
from vault.trust import Grant, Label, Role, Root, Signed, Signer, VendorHead, head_statement, vendor_body
from vault.workings.parts import Parts
from vault.workings.roots import Roots

__all__ = ["listed_for_vendor", "live_for_vendor", "next_vendor_head", "open_grant"]


def open_grant(root: Root | Roots, row: GrantRow, sealer: FieldSealer, *, own: bool) -> tuple[Grant, Signed]:
    """A grant and its statement, through the owner's metadata key or (``own``) the vendor's.

    It may lack approvals: `Root.missing` says how many. Raises IntegrityError when it was changed, is not signed by the
    authority, or is about another place.
    """
    blob = row.vendor_statement if own else row.statement
    signed = Signed.decode(blob.open(sealer, row.id), Label.GRANT)
    root.verify(signed, Role.AUTHORITY)
    grant = Grant.parse(signed)
    if (grant.vault, grant.id, grant.vendor, grant.dataset) != (root.vault, row.id, row.vendor, row.dataset):
        raise IntegrityError("a grant in the catalog is about something else than its place says")
    return grant, signed


def live_for_vendor(
    root: Root | Roots, rows: Iterable[GrantRow], head: VendorHead, sealer: FieldSealer, *, own: bool
) -> list[Grant]:
    """The grants of one vendor that its head lists and that lack no signature; expiry is for the caller to judge."""
    listed = listed_for_vendor(root, rows, head, sealer, own=own)
    return [grant for grant, signed in listed if not root.missing(signed, grant.dataset)]


def listed_for_vendor(
    root: Root | Roots, rows: Iterable[GrantRow], head: VendorHead, sealer: FieldSealer, *, own: bool
) -> list[tuple[Grant, Signed]]:
    """The grants of one vendor that its head lists, also those that lack approvals and so give nothing."""
    found = []
    for row in rows:
        listed = head.grants.get(row.id)
        if listed is None or row.vendor != head.vendor:
            continue
        grant, signed = open_grant(root, row, sealer, own=own)
        if not hmac.compare_digest(signed.digest, listed):
            raise IntegrityError("a grant in the catalog is not the one that its vendor's head lists")
        found.append((grant, signed))
    return found


def next_vendor_head(
    parts: Parts,
    signer: Signer,
    head: VendorHead | None,
    vendor: str,
    *,
    by_authority: bool,
    grants: dict[str, str] | None = None,
    credentials: dict[str, str] | None = None,
    frozen: bool | None = None,
    ended: frozenset[str] | None = None,
) -> HeadRow:
    """Sign the next step of a vendor; what is not given stays as it was. Raises Conflict for a replaced key."""
    parts.root.refuse_replaced(signer, Role.AUTHORITY if by_authority else Role.RESPONDER)
    body = vendor_body(
        grants if grants is not None else dict(head.grants if head else {}),
        credentials if credentials is not None else dict(head.credentials if head else {}),
        ended if ended is not None else (head.ended if head else frozenset()),
    )
    sequence = (head.sequence if head else 0) + 1
    signed = head_statement(
        signer,
        vault=parts.vault,
        kind="vendor",
        subject=vendor,
        sequence=sequence,
        body=body,
        frozen=frozen if frozen is not None else bool(head and head.frozen),
        now=parts.clock(),
    )
    return HeadRow(vendor, sequence, "vendor", by_authority, signed.encode(), body)
