"""Statements signed with Ed25519 (RFC 8032), each under a domain label.

What is signed is ``canonical("dsvault signed", label, SHA-256(payload))``. The label says what kind of statement
it is, so a signature made for one kind can never pass for another; the payload is kept and checked as
the bytes that were signed, so that no reader has to re-encode anything in order to verify. The log's checkpoints are
signed notes instead, whose form other tools know: their text is what is signed.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vault.encoding import canonical, from_base64, from_json, json_bytes, to_base64
from vault.errors import IntegrityError, KmsError

__all__ = [
    "Label",
    "RemoteSigner",
    "Signed",
    "Signer",
    "kind_of_statement",
    "note_signature_holds",
    "public_key_id",
    "signature_holds",
]


class Label(StrEnum):
    """The domain labels; one for each kind of statement."""

    ROOT = "root"
    GRANT = "grant"
    CREDENTIAL = "credential"
    MANIFEST = "manifest"
    HEAD = "head"
    EVIDENCE = "evidence"
    BACKUP = "backup"


def kind_of_statement(label: Label) -> str:
    """What a statement is called in a sentence."""
    return f"{'an' if label.value[0] in 'aeiou' else 'a'} {label.value} statement"


def public_key_id(public: bytes) -> str:
    """The id of a public key: the first 128 bits of SHA-256 over its raw bytes, as hex."""
    return hashlib.sha256(canonical("dsvault public key", public)).hexdigest()[:32]


def signature_holds(public: bytes, label: Label, payload: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over the labelled payload verifies under a raw Ed25519 public key."""
    return _holds(public, _message(label, payload), signature)


def note_signature_holds(public: bytes, text: str, signature: bytes) -> bool:
    """Whether ``signature`` over a note's text verifies under a raw Ed25519 public key."""
    return _holds(public, _note(text), signature)


@functools.lru_cache(maxsize=8192)
def _holds(public: bytes, message: bytes, signature: bytes) -> bool:
    # A pure function of public values: what held once holds for ever, and the same heads and grants are read all day.
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(label: Label, payload: bytes) -> bytes:
    # The payload's digest and not the payload: KMSs sign short messages only (AWS KMS: 4,096 bytes).
    return canonical("dsvault signed", label.value, hashlib.sha256(payload).digest())


def _note(text: str) -> bytes:
    # A note is text that begins with its origin, and a labelled message begins with the length of its first part, whose
    # first byte is 0: no signature of the one kind is ever one of the other.
    if not text.startswith("dsvault/") or not text.endswith("\n"):
        raise IntegrityError("a note does not begin with the name of a log")
    return text.encode()


@dataclass(frozen=True, slots=True)
class Signed:
    """A payload and its signatures as (key id, signature) pairs; says nothing about their validity."""

    label: Label
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the label and payload, as hex: what a head or a manifest list pins."""
        return hashlib.sha256(_message(self.label, self.payload)).hexdigest()

    def document(self) -> dict[str, Any]:
        """The payload as JSON; only for a payload whose signature has been checked."""
        value = from_json(self.payload, kind_of_statement(self.label))
        if not isinstance(value, dict):
            raise IntegrityError(f"{kind_of_statement(self.label)} is not a JSON object")
        return value

    def encode(self) -> bytes:
        """The statement as canonical JSON bytes."""
        return json_bytes(
            {
                "label": self.label.value,
                "payload": to_base64(self.payload),
                "signatures": [{"key": key, "signature": to_base64(sig)} for key, sig in self.signatures],
            }
        )

    @classmethod
    def decode(cls, data: bytes, label: Label) -> "Signed":
        """Inverse of `encode`; raises IntegrityError when it is malformed or of another kind."""
        what = kind_of_statement(label)
        try:
            document = from_json(data, what)
            if document["label"] != label.value:
                raise IntegrityError(f"{what} was expected and a '{document['label']}' statement found")
            signatures = tuple(
                (str(entry["key"]), from_base64(entry["signature"], what)) for entry in document["signatures"]
            )
            return cls(label, from_base64(document["payload"], what), signatures)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{what} lacks a field") from error


class Signer:
    """Something that signs statements under one public key: ``public`` is raw Ed25519, ``key_id`` its id.

    This one holds the private key in memory. Its repr shows the key id only.
    """

    def __init__(self, secret: bytes) -> None:
        key = Ed25519PrivateKey.from_private_bytes(secret)
        self._begin(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), key.sign)

    def _begin(self, public: bytes, sign_message: Callable[[bytes], bytes]) -> None:
        self.public = public
        self.key_id = public_key_id(public)
        self._sign_message = sign_message

    def sign(self, label: Label, payload: dict[str, Any]) -> Signed:
        """Sign a JSON payload under a domain label."""
        encoded = json_bytes(payload)
        return Signed(label, encoded, ((self.key_id, self._sign_message(_message(label, encoded))),))

    def sign_note(self, text: str) -> bytes:
        """Sign a note's text as it is (RFC 8032, pure)."""
        return self._sign_message(_note(text))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key_id})"


_NOT_OURS = "the signature that the KMS gave back does not verify under the key's public half"


class RemoteSigner(Signer):
    """A key that lives elsewhere, such as in a KMS: ``sign_message`` has a message signed there (RFC 8032, pure).

    Nothing that it gives back is believed: a signature that does not verify under the public key is a KmsError,
    so that a wrong key or a damaged answer never reaches the catalog.
    """

    def __init__(self, public: bytes, sign_message: Callable[[bytes], bytes]) -> None:
        self._begin(public, sign_message)

    def sign(self, label: Label, payload: dict[str, Any]) -> Signed:
        """Sign a JSON payload under a domain label; raises KmsError and what ``sign_message`` raises."""
        signed = super().sign(label, payload)
        if not signature_holds(self.public, label, signed.payload, signed.signatures[0][1]):
            raise KmsError(_NOT_OURS)
        return signed

    def sign_note(self, text: str) -> bytes:
        """Sign a note's text as it is; raises as `sign` does."""
        signature = super().sign_note(text)
        if not note_signature_holds(self.public, text, signature):
            raise KmsError(_NOT_OURS)
        return signature
