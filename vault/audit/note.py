"""Signed notes, after the C2SP signed-note specification, with Ed25519 signatures (type 0x01).

A note is text that ends with a line feed, a blank line, and a line for each signature: an em dash, the key's name, and
the base64 of a 4-byte key hash and the signature. The text itself is what is signed, so that any tool which knows the
form can check it.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError

__all__ = ["Note", "NoteSignature", "note_key_hash"]

_ED25519: Final = b"\x01"
_SIGNATURE: Final = re.compile(r"\N{EM DASH} ([^\s+]+) ([A-Za-z0-9+/=]+)")
#: Far more than a checkpoint has.
_MOST_BYTES: Final = 8_192
_MOST_SIGNATURES: Final = 16


def note_key_hash(name: str, public: bytes) -> bytes:
    """The 4 bytes by which a signature line names a raw Ed25519 public key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: the key's name, its hash of 4 bytes, and what follows."""

    name: str
    key_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note's text and its signature lines; says nothing about their validity."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """The note as it is kept and shown."""
        lines = [f"\N{EM DASH} {each.name} {to_base64(each.key_hash + each.signature)}\n" for each in self.signatures]
        return (self.text + "\n" + "".join(lines)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Note":
        """Inverse of `encode`; raises IntegrityError for anything that is not a note."""
        refusal = IntegrityError("a checkpoint of the log is not a signed note")
        if type(data) is not bytes or len(data) > _MOST_BYTES:
            raise refusal
        try:
            text, blank, lines = data.decode("utf-8").rpartition("\n\n")
        except UnicodeDecodeError as error:
            raise refusal from error
        found = [_SIGNATURE.fullmatch(line) for line in lines.split("\n")[:-1]]
        if not (text and blank and lines.endswith("\n") and all(found) and len(found) <= _MOST_SIGNATURES):
            raise refusal
        if any(ord(letter) < 0x20 and letter != "\n" for letter in text):
            raise refusal
        signatures = []
        for match in found:
            assert match is not None
            signed = from_base64(match[2], "a signature of a checkpoint")
            signatures.append(NoteSignature(match[1], signed[:4], signed[4:]))
        note = cls(text + "\n", tuple(signatures))
        if note.encode() != data:
            raise refusal  # the last letter of a base64 text has bits that stand for nothing
        return note
