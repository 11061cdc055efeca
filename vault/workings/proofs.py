"""Proofs about the log that are checked without the vault: that an entry is in it, and that it only grew.

A proof is a JSON file with everything that checking needs but the root document's fingerprint: the chain of root
documents, signed checkpoints, and hashes. It tells nothing of what an entry says.
"""

from dataclasses import dataclass
from typing import Any

from vault.audit import (
    leaf_bytes,
    leaf_hash,
    read_checkpoint,
    read_checkpoint_of_any,
    verify_consistency,
    verify_inclusion,
)
from vault.encoding import from_base64, from_json, json_bytes, to_base64
from vault.errors import IntegrityError, InvalidInput
from vault.model import FORMAT
from vault.trust import open_roots
from vault.workings.checkpoints import read_ever
from vault.workings.journal import Journal
from vault.workings.roots import Roots

__all__ = ["LogProof", "Shown", "check_proof", "growth_since", "inclusion_of"]


@dataclass(frozen=True, slots=True)
class LogProof:
    """A proof, as the JSON document that is handed on."""

    document: dict[str, Any]

    def encode(self) -> bytes:
        """The proof as canonical JSON."""
        return json_bytes(self.document)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a proof shows of a vault's log: of one entry, or of the beginning of ``old`` entries."""

    vault: str
    size: int
    time: str
    sequence: int | None = None
    old: int | None = None


def _document(roots: Roots, kind: str, note: bytes, proof: list[bytes], **fields: Any) -> LogProof:
    return LogProof(
        {
            "format": list(FORMAT),
            "type": kind,
            "root": from_json(roots.chain_bytes(), "the root document"),
            "checkpoint": note.decode(),
            "proof": [to_base64(each) for each in proof],
            **fields,
        }
    )


def inclusion_of(journal: Journal, sequence: int) -> LogProof:
    """The proof that an entry is in the log as it is now; raises InvalidInput where there is none."""
    leaf = journal.leaf(sequence)
    end = journal.end()
    assert end is not None
    note, checkpoint = end
    path = journal.tree(checkpoint.size).inclusion(sequence - 1)
    verify_inclusion(leaf.hash, sequence - 1, checkpoint.size, path, checkpoint.root)
    entry = {"sequence": leaf.sequence, "time": leaf.time, "sealed": to_base64(leaf.sealed)}
    return _document(journal.roots, "inclusion", note, path, entry=entry)


def growth_since(journal: Journal, roots: Roots, kept: bytes) -> LogProof:
    """The proof that the log of an earlier checkpoint is the beginning of this one; raises IntegrityError if not."""
    old, _ = read_ever(roots, kept)
    end = journal.end()
    assert end is not None
    note, checkpoint = end
    if old.size > checkpoint.size:
        raise IntegrityError(f"the log ends at entry {checkpoint.size}, before the checkpoint: its end was cut off")
    path = journal.tree(checkpoint.size).consistency(old.size)
    verify_consistency(old.size, checkpoint.size, old.root, checkpoint.root, path)
    return _document(roots, "consistency", note, path, earlier=kept.decode())


def check_proof(data: bytes, fingerprint: str) -> Shown:
    """Check a proof against the fingerprint of a vault's root document; needs no vault. Raises IntegrityError."""
    document = from_json(data, "the proof")
    try:
        if document["format"][0] != FORMAT[0]:
            raise InvalidInput("the proof has a format that this release does not know")
        versions = open_roots(json_bytes(document["root"]), fingerprint)
        root = versions[-1]
        end = read_checkpoint(root, document["checkpoint"].encode())
        path = [from_base64(each, "the proof") for each in document["proof"]]
        if document["type"] == "inclusion":
            entry = document["entry"]
            sequence = int(entry["sequence"])
            if not 1 <= sequence <= end.size:
                raise IntegrityError("the proof is of an entry that the log of its checkpoint does not have")
            leaf = leaf_hash(leaf_bytes(sequence, str(entry["time"]), from_base64(entry["sealed"], "the entry")))
            verify_inclusion(leaf, sequence - 1, end.size, path, end.root)
            return Shown(root.vault, end.size, end.time, sequence=sequence)
        if document["type"] != "consistency":
            raise InvalidInput("the proof is of a kind that this release does not know")
        # Nothing is gained by one that was made up since, under a key that was replaced: the log has to begin with it.
        old, _ = read_checkpoint_of_any(versions[::-1], document["earlier"].encode())
        verify_consistency(old.size, end.size, old.root, end.root, path)
        return Shown(root.vault, end.size, end.time, old=old.size)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise IntegrityError("the proof lacks a field") from error
