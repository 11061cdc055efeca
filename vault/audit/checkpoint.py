"""Checkpoints: where the log ends, as a signed note in the form of the C2SP tlog-checkpoint specification.

The text has the log's origin, the number of entries, the base64 of the tree's root hash, and lines of extension: the
time of the last entry, and which administrative change of the catalog was the last before it. Who holds a checkpoint
holds the log to every entry before it, and a backup of the catalog to every change.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vault.audit.merkle import EMPTY, HASH_BYTES
from vault.audit.note import Note, NoteSignature, note_key_hash
from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError
from vault.trust import Role, Root, Signer, note_signature_holds

__all__ = ["Checkpoint", "origin", "read_checkpoint", "read_checkpoint_of_any", "sign_checkpoint"]

_TEXT: Final = re.compile(
    r"(\S+)\n(0|[1-9][0-9]{0,17})\n([A-Za-z0-9+/=]+)\n(?:time (\S{27})\n)?"
    r"(?:changes ([1-9][0-9]{0,17}) ([A-Za-z0-9+/=]+)\n)?"
)


def origin(vault: str) -> str:
    """The name of a vault's log, and of its keys in signature lines."""
    return f"dsvault/{vault}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log's size in entries, the root hash over them, and the last one's time; an empty log has none of these.

    ``change`` is the number of the last administrative change before it, 0 for none, and ``change_digest`` what stands
    for it and all before it.
    """

    size: int = 0
    root: bytes = EMPTY
    time: str = ""
    change: int = 0
    change_digest: bytes = b""

    def text(self, vault: str) -> str:
        """What is signed."""
        time = f"time {self.time}\n" if self.time else ""
        changes = f"changes {self.change} {to_base64(self.change_digest)}\n" if self.change else ""
        return f"{origin(vault)}\n{self.size}\n{to_base64(self.root)}\n{time}{changes}"


def sign_checkpoint(vault: str, checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The note that says that the log ends there; raises KmsError where the key is elsewhere and refuses."""
    text, name = checkpoint.text(vault), origin(vault)
    line = NoteSignature(name, note_key_hash(name, signer.public), signer.sign_note(text))
    return Note(text, (line,)).encode()


def read_checkpoint(root: Root, data: bytes) -> Checkpoint:
    """Verify a note with the log keys of a root document; raises IntegrityError.

    Signature lines of other keys, such as a witness adds, are passed over.
    """
    note = Note.decode(data)
    found = _TEXT.fullmatch(note.text)
    if found is None:
        raise IntegrityError("a checkpoint of the log lacks a line")
    name = origin(root.vault)
    if found[1] != name:
        raise IntegrityError("a checkpoint is one of another vault's log")
    keys = root.roles[Role.LOG].keys.values()
    signed = {
        public
        for public in keys
        for line in note.signatures
        if (line.name, line.key_hash) == (name, note_key_hash(name, public))
        and note_signature_holds(public, note.text, line.signature)
    }
    if len(signed) < root.roles[Role.LOG].threshold:
        raise IntegrityError("a checkpoint is not signed by the log key")
    digest = from_base64(found[3], "a checkpoint's root hash")
    if len(digest) != HASH_BYTES:
        raise IntegrityError("a checkpoint of the log lacks its root hash")
    change = from_base64(found[6], "a digest in a checkpoint") if found[5] else b""
    return Checkpoint(int(found[2]), digest, found[4] or "", int(found[5] or 0), change)


def read_checkpoint_of_any(roots: Sequence[Root], data: bytes) -> tuple[Checkpoint, int]:
    """What a note says that a log key of any of some root documents signed, and of which of them, by its place.

    Raises as `read_checkpoint` does by the first of them, where none did.
    """
    for place, root in enumerate(roots):
        try:
            return read_checkpoint(root, data), place
        except IntegrityError:
            continue
    return read_checkpoint(roots[0], data), 0
