"""The audit log: entries sealed to the auditor, a Merkle tree over them, and signed checkpoints of it."""

from vault.audit.checkpoint import Checkpoint, origin, read_checkpoint, read_checkpoint_of_any, sign_checkpoint
from vault.audit.entry import DELIVERIES, Entry, Kind
from vault.audit.leaves import Leaf, Pinned, Tail, append, check_leaves, leaf_bytes, verify_hashes, verify_log
from vault.audit.merkle import Edge, Tree, leaf_hash, verify_consistency, verify_inclusion
from vault.audit.sealing import Opener, Sealer, open_with_key
from vault.audit.segments import BEGINNING, Segment, segment_begins

__all__ = [
    "BEGINNING",
    "DELIVERIES",
    "Checkpoint",
    "Edge",
    "Entry",
    "Kind",
    "Leaf",
    "Opener",
    "Pinned",
    "Sealer",
    "Segment",
    "Tail",
    "Tree",
    "append",
    "check_leaves",
    "leaf_bytes",
    "leaf_hash",
    "open_with_key",
    "origin",
    "read_checkpoint",
    "read_checkpoint_of_any",
    "segment_begins",
    "sign_checkpoint",
    "verify_consistency",
    "verify_hashes",
    "verify_inclusion",
    "verify_log",
]
