"""Approving a grant: what is signed, and whose signatures are taken over.

A grant on a protected dataset goes to its approvers as the authority's statement itself, so that what an approver reads
is what will count. Nothing here needs a vault. Specified in ``docs/reference/format.md`` section 3.
"""

from typing import Any

from vault.encoding import is_id, json_bytes
from vault.errors import IntegrityError, InvalidInput
from vault.trust.root import Role, Root
from vault.trust.signed import Label, Signed, Signer, signature_holds
from vault.trust.statements import Grant

__all__ = ["add_approval", "joined", "read_request"]


def read_request(signed: Signed) -> Grant:
    """What a grant says; raises InvalidInput unless it says just that, in the form that dsvault writes.

    Whoever approves is shown every field that is signed then, and nothing is signed beside them.
    """
    try:
        grant, said = Grant.parse(signed), signed.document()
        # Byte for byte what dsvault writes, and nothing but what it has read; grants of earlier releases lack `fields`.
        same = json_bytes(said) == signed.payload and _plain(said) == _plain(grant.payload())
    except (IntegrityError, TypeError, ValueError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise InvalidInput("this is not a grant in the form that dsvault writes") from error
    if not same:
        raise InvalidInput("the grant says something that this release does not know; nothing of it is approved")
    if not all(is_id(each) for each in (grant.id, grant.vault, grant.vendor, grant.dataset)):
        raise InvalidInput("the grant does not say by ids what it is about")
    return grant


def _plain(said: dict[str, Any]) -> bytes:
    """A grant's payload without what says of a column that it is granted whole, which may be left unsaid."""
    columns = {
        name: [{key: value for key, value in entry.items() if (key, value) != ("fields", None)} for entry in said[name]]
        for name in ("columns", "filter_columns")
    }
    return json_bytes(said | columns)


def add_approval(signed: Signed, signer: Signer) -> Signed:
    """The grant with one signature more; one that is there already is replaced by itself. Raises as `read_request`."""
    read_request(signed)
    approval = signer.sign(Label.GRANT, signed.document())
    others = tuple(entry for entry in signed.signatures if entry[0] != signer.key_id)
    return Signed(Label.GRANT, signed.payload, (*others, *approval.signatures))


def joined(root: Root, signed: Signed, offered: Signed) -> Signed:
    """A grant with the approvals of ``offered`` that hold; every other signature there is left where it is.

    The payloads must be the same: an approval is of one payload, and holds for no other.
    """
    keys, there = root.roles[Role.APPROVER].keys, root.signers(signed, Role.APPROVER)
    taken = {
        key: signature
        for key, signature in offered.signatures
        if key in keys and key not in there and signature_holds(keys[key], signed.label, signed.payload, signature)
    }
    return Signed(signed.label, signed.payload, (*signed.signatures, *taken.items()))
