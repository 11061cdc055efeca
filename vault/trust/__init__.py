"""Signed statements: the root document, signers, grants, credentials, manifest statements and heads.

Everything here is a pure decision over bytes that somebody else fetched; nothing does I/O.
Specified in ``docs/reference/format.md`` sections 3 and 6.
"""

from vault.trust.heads import (
    CompartmentHead,
    Frontier,
    VendorHead,
    compartment_body,
    emptied_body,
    head_statement,
    trusted_compartment_head,
    trusted_vendor_head,
    vendor_body,
)
from vault.trust.root import Role, RoleKeys, Root, open_root, open_roots, root_statement
from vault.trust.signed import Label, RemoteSigner, Signed, Signer, note_signature_holds, public_key_id
from vault.trust.statements import BackupPiece, BackupStatement, Credential, Grant, GrantedColumn, ManifestStatement

__all__ = [
    "BackupPiece",
    "BackupStatement",
    "CompartmentHead",
    "Credential",
    "Frontier",
    "Grant",
    "GrantedColumn",
    "Label",
    "ManifestStatement",
    "RemoteSigner",
    "Role",
    "RoleKeys",
    "Root",
    "Signed",
    "Signer",
    "VendorHead",
    "compartment_body",
    "emptied_body",
    "head_statement",
    "note_signature_holds",
    "open_root",
    "open_roots",
    "public_key_id",
    "root_statement",
    "trusted_compartment_head",
    "trusted_vendor_head",
    "vendor_body",
]
