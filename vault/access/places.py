"""The sealed places in one delivery that a client may go on from."""

import os
from typing import final

from vault.cursors import SALT_BYTES, Cursor, open_cursor, salt_of, seal_cursor
from vault.derivation import cursor_key
from vault.encoding import canonical
from vault.model import FORMAT, Column
from vault.policy import Permit
from vault.workings.parts import Parts, own_metadata_key
from vault.workings.reading import ReadPlan

__all__ = ["Places"]


@final
class Places:
    """Cursors of one permit's read, under a salt of its own; every broker that may read the vendor's names opens them.

    ``kind`` tells the cursors of one way of delivery from those of another.
    """

    def __init__(self, parts: Parts, kind: str, permit: Permit, plan: ReadPlan) -> None:
        self._parts = parts
        self._vendor = permit.vendor
        self._bound = canonical(
            kind,
            FORMAT[0],
            parts.vault,
            permit.vendor,
            permit.grant_digest,
            permit.version,
            plan.content,
            canonical(*(text for column in permit.columns for text in (column.id, _fields(column)))),
            permit.where.text() if permit.where is not None else b"\x00",
            str(permit.limit),
            canonical(*permit.delegations),
            # A read of all is bound as it was before there were parts.
            *(permit.part if permit.part is not None else ()),
        )
        self._salt = os.urandom(SALT_BYTES)
        self._key = self._key_of(self._salt)

    def _key_of(self, salt: bytes) -> bytes:
        return cursor_key(own_metadata_key(self._parts, self._vendor), salt)

    def open(self, sealed: bytes) -> Cursor:
        """A place that was sealed for the same read before; raises InvalidInput for any other."""
        return open_cursor(self._key_of(salt_of(sealed)), self._bound, sealed)

    def seal(self, place: Cursor) -> bytes:
        """A place in this read."""
        return seal_cursor(self._key, self._salt, self._bound, place)


def _fields(column: Column) -> bytes:
    return b"" if column.fields is None else canonical(*(canonical(*path) for path in column.fields))
