"""Addresses at the broker that are leave enough: `vendor's id | salt | what is sealed`, as URL-safe base64."""

import base64
from typing import Final, NamedTuple

from vault.cursors import SALT_BYTES
from vault.derivation import ticket_key
from vault.encoding import ID_BYTES
from vault.errors import KmsError, NotFound, NotGranted
from vault.workings.parts import Parts, own_metadata_key

__all__ = ["REFUSAL", "Presented", "presented"]

#: What is said of any ticket that is not good here and now.
REFUSAL: Final = "the address is not one that was handed out, or its time is over"


class Presented(NamedTuple):
    """A ticket that is not opened yet: whose it says that it is, the key that it opens under if so, and the rest."""

    vendor: str
    key: bytes
    sealed: bytes


def presented(parts: Parts, ticket: str, vendors: frozenset[str] | None) -> Presented:
    """A ticket as it came, of one of these vendors' (None: any); raises NotGranted, with one sentence."""
    refusal = NotGranted(REFUSAL)
    try:
        data = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise refusal from None
    vendor, sealed = data[:ID_BYTES].hex(), data[ID_BYTES:]
    if len(sealed) < SALT_BYTES or (vendors is not None and vendor not in vendors):
        raise refusal
    try:
        key = ticket_key(own_metadata_key(parts, vendor), sealed[:SALT_BYTES])
    except (NotFound, KmsError):
        # Of a holder whose keys are not here, nobody is told that there is one.
        raise refusal from None
    return Presented(vendor, key, sealed)
