"""Parcels: what the processes of one job tell each other, sealed, since it crosses a cluster that is not ours.

What a task is to do and what became of it hold names, places, sizes and statistics, which are values of rows. So both
ways they are AES-256-GCM under a key that each process derives for itself from the owner's metadata key, which it asks
the KMS for under its own identity (``docs/reference/keys.md``). A parcel is bound to its vault, job, number and
direction: none that was altered, made up, or taken from another task opens, and nothing is done or believed of it.

    version 1 | nonce 12 | ciphertext | tag 16
"""

import json
import os
import traceback
from pathlib import Path
from typing import Any, Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault import errors
from vault.derivation import parcel_key
from vault.encoding import canonical, from_json
from vault.errors import IntegrityError, VaultError
from vault.workings.parts import OwnerParts, own_metadata_key

__all__ = ["Parcels", "failure", "outcome", "unsealed"]

_VERSION: Final = b"\x01"
UNSEALED: Final = b"\x00"
_NONCE: Final = 12
_PACKAGE: Final = Path(__file__).parent.parent.parent


@final
class Parcels:
    """Seals and opens the parcels of one job that are about one order, a step of it."""

    def __init__(self, parts: OwnerParts, job: str, step: int) -> None:
        self._cipher = AESGCM(parcel_key(own_metadata_key(parts, parts.owner), job))
        self._place = (parts.vault, job, step)

    def seal(self, way: str, number: int, document: Any) -> bytes:
        """Seal a document; ``way`` is ``task`` or ``result``."""
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, json.dumps(document).encode(), self._aad(way, number))

    def open(self, way: str, number: int, parcel: bytes) -> Any:
        """Inverse of `seal`; raises IntegrityError for anything else."""
        if parcel[:1] != _VERSION:
            raise IntegrityError("what came from the cluster has a format that this release does not know")
        try:
            plain = self._cipher.decrypt(parcel[1 : 1 + _NONCE], parcel[1 + _NONCE :], self._aad(way, number))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError("what came from the cluster was changed on its way, or is not of this job") from error
        return from_json(plain, "what came from the cluster")

    def open_result(self, number: int, reply: bytes) -> Any:
        """What a task gave back: a sealed result, or the plain word of a worker that could not open what was sent."""
        if reply[:1] != UNSEALED:
            return self.open("result", number, reply)
        told = from_json(reply[1:], "what came from the cluster")
        # Anybody on the way could have written it: it says that it failed, and can say nothing else.
        return {"error": str(told.get("error")), "text": str(told.get("text"))[:500]}

    def _aad(self, way: str, number: int) -> bytes:
        return canonical("dsvault parcel", *self._place, way, number)

    def __repr__(self) -> str:
        return f"Parcels(job={self._place[1]})"


def failure(error: Exception) -> dict[str, str]:
    """An error as it may cross: a sentence of ours, or where in our code something else was raised, and never its text.

    A library's own message may quote the value that it stumbled over.
    """
    if isinstance(error, VaultError) and getattr(errors, type(error).__name__, None) is type(error):
        return {"error": type(error).__name__, "text": str(error)}
    frames = [
        (path.relative_to(_PACKAGE), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(_PACKAGE / "vault")
    ]
    where = f", {frames[-1][0]} line {frames[-1][1]}" if frames else ""
    return {"error": "VaultError", "text": f"a worker failed at its part of the work ({type(error).__name__}{where})"}


def unsealed(error: Exception) -> bytes:
    """A failure as a worker says it that has no key to seal it with."""
    return UNSEALED + json.dumps(failure(error)).encode()


def outcome(document: Any) -> Any:
    """What a result says; raises the error that it tells of."""
    if "error" in document:
        kind = getattr(errors, document["error"], VaultError)
        simple = isinstance(kind, type) and issubclass(kind, VaultError) and kind is not errors.PartlyDone
        raise (kind if simple else VaultError)(document["text"])
    return document["done"]
