"""Checking an evidence bundle against the vault: what a bundle cannot show by itself.

That no entry which concerns the vendor was left out of it, that its log is this vault's, and that the log has an entry
of its making. Needs the auditor's key.
"""

import hmac
import os

from vault.audit import Kind
from vault.errors import IntegrityError
from vault.incident.picking import Concerned
from vault.incident.verifying import Evidence, read_bundle
from vault.workings.parts import OwnerParts

__all__ = ["verify_against"]


def verify_against(parts: OwnerParts, path: "str | os.PathLike[str]") -> Evidence:
    """Check a bundle with its vault at hand; raises IntegrityError, InvalidInput and KeyUnavailable."""
    evidence, entries = read_bundle(path, parts.root.fingerprint)
    held = {number for number, _ in entries}
    if parts.journal.verify() < evidence.size:
        raise IntegrityError("the vault's log is shorter than the bundle's: its end was cut off")
    if not hmac.compare_digest(parts.journal.tree(evidence.size).root.hex(), evidence.root_hash):
        raise IntegrityError("the vault's log is another than the bundle's: it was changed, or forked")
    with parts.catalog.read() as transaction:
        places = [row.id for row in transaction.compartments(holder=evidence.vendor_id)]
    concerned, told = Concerned(evidence.vendor_id, places), False
    for number, entry in parts.journal.entries(parts.signers.keys.auditor_secrets()):
        if number <= evidence.size:
            concerned.look(number, entry)
        elif entry.kind is Kind.DISCLOSED and entry.fields.get("evidence") == evidence.digest:
            told = True
    missing = set(concerned.sequences) - held
    if missing:
        named = f"'{evidence.vendor}', the first of them {min(missing)}"
        raise IntegrityError(f"the bundle lacks {len(missing)} of the log's entries that concern {named}")
    if not told:
        raise IntegrityError("the vault's log has no entry of the making of this bundle")
    return evidence
