"""What every KMS backend promises, and the conformance suite in ``tests/kms/conformance.py`` holds it to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

__all__ = ["DataKey", "HashingKms", "KeyState", "Kms", "SigningKms"]


class KeyState(StrEnum):
    """How a KMS key stands, as far as this process can see."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DESTROYED = "destroyed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh 256-bit key and its wrapped form; the repr shows neither."""

    plaintext: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)


class Kms(Protocol):
    """Wraps data keys under keys that never leave it.

    Obligations of every backend:

    * A context is authenticated: a blob opens only with the very context that it was wrapped with, whatever the
      order of its pairs. It holds ids only, since some services log it in plaintext.
    * `unwrap` under another key, with another context, or of a changed blob raises KmsError. A key that is
      disabled, destroyed or not held raises KeyUnavailable (a KmsError too) from every method that uses it.
      Whatever fails raises one of these two, never a wrong plaintext and never another error: a vendor may see
      the sentence of others.
    * `disable_key` and `enable_key` may be repeated and take effect at the next call of any process, at once or
      within the delay that the backend documents. `destroy_key` may be repeated, works in any state, and is
      permanent: nothing that the backend still holds brings the key back.
    * `wrap`, `unwrap`, `rewrap`, `state` and `reach` change nothing, so they may be called again when their answer was
      lost. Every `create_key`, `rotate_key` and `generate_data_key` makes a new key; one whose answer was lost
      serves nobody and harms nobody.
    * ``destruction`` says in plain words what is gone once a key was destroyed, and what may still hold it.
    * No key and no plaintext is in an error, a log or a repr.
    * Every method may be called from several threads at once.
    """

    @property
    def destruction(self) -> str:
        """One sentence for the person who has a key destroyed."""
        ...

    def create_key(self, label: str, *, owner: bool = False) -> str:
        """Make a KMS key for a holder and return the reference that the catalog keeps.

        ``label`` is the holder's opaque id, for the service's own list of keys; ``owner`` says that the key is
        the lab's own, which a broker must not be able to use.
        """
        ...

    def rotate_key(self, key: str, label: str) -> str:
        """Make the key that is to follow ``key`` for the same holder, and return its reference.

        It is a key of its own or, where the service has them, the next version of the same one. ``key`` goes on
        as it was until it is disabled or destroyed by its own reference; the new one is not touched by that.
        """
        ...

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh 256-bit data key, wrapped under ``key`` with ``context``."""
        ...

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap a key of at most 4,096 bytes; twice the same plaintext gives two blobs."""
        ...

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open what `wrap`, `rewrap` or `generate_data_key` made."""
        ...

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """The same plaintext wrapped under another key, with the same context; the source may be the target."""
        ...

    def disable_key(self, key: str) -> None:
        """Let the key open and wrap nothing until it is enabled again; raises KeyUnavailable once destroyed."""
        ...

    def enable_key(self, key: str) -> None:
        """Undo `disable_key`; raises KeyUnavailable for a destroyed key."""
        ...

    def destroy_key(self, key: str) -> None:
        """Make everything that was wrapped under the key unreadable for ever."""
        ...

    def state(self, key: str) -> KeyState:
        """How the key stands; ABSENT for a reference that this process cannot use, of whatever form."""
        ...

    def reach(self) -> None:
        """Raise KmsError unless the service answers and knows this process; opens nothing and changes nothing."""
        ...


class SigningKms(Protocol):
    """A service that holds Ed25519 keys (RFC 8032) and signs with them; they never leave it.

    The errors are those of `Kms`. What it gives back is checked by whoever asked.
    """

    def create_signing_key(self, label: str) -> str:
        """Make a signing key and return its reference; ``label`` is an opaque id."""
        ...

    def public_key(self, key: str) -> bytes:
        """The 32 bytes of a signing key's public half."""
        ...

    def sign(self, key: str, message: bytes) -> bytes:
        """The 64-byte signature over a message of at most 4,096 bytes (pure Ed25519)."""
        ...


@runtime_checkable
class HashingKms(Protocol):
    """A service whose own log has hashes in the place of what was sent, and which hashes a text alike."""

    def audit_hash(self, device: str, text: str) -> str:
        """What stands in the log of an audit device in the place of a text; raises KmsError."""
        ...
