"""Submissions: what a vendor sends back for rows that it was granted, sealed to the owner on the vendor's side.

A fresh secret of 256 bits is sealed to the owner's submission key with HPKE (RFC 9180: DHKEM X25519, HKDF-SHA256,
AES-256-GCM, single-shot); ``info`` binds it to vault, vendor, credential, grant, version and the submission's own id.
Two keys follow from it: one for the rows, which are an encrypted Parquet file like a chunk, and one for the
*particulars*, which say what no store is to show. Both lie in one object, ``u32be length | particulars | Parquet``. The
*envelope* is a JWS by the key that proves the vendor's requests: it names ids alone, the digest of the object, and the
sealed secret. So neither a store nor a broker can read what is sent, put another's in its place, or move it to another
grant.

Nothing here decides whether a submission may be taken. Specified in ``docs/reference/format.md`` section 13.
"""

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from vault.derivation import KEY_BYTES, submission_key
from vault.encoding import canonical, from_base64, from_json, is_id, json_bytes, to_base64
from vault.errors import IntegrityError, InvalidInput
from vault.model import FORMAT
from vault.proof import ProofKey, open_claims

__all__ = [
    "MOST_ENVELOPE",
    "Bound",
    "Envelope",
    "Particulars",
    "Quarantine",
    "Secret",
    "key_name",
    "open_envelope",
    "pack",
    "unpack",
]

#: What an envelope is at the most, in characters.
MOST_ENVELOPE: Final = 4096
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
#: The domain label of the signature: no proof, request or delegation of the same key is one.
_TYPE: Final = "dsvault-submission+jwt"
_NONCE: Final = 12
#: Of a sealed secret: the encapsulated key, the secret, and its tag.
_WRAPPED: Final = 32 + KEY_BYTES + 16
_MOST_ROWS: Final = 2**53
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Quarantine:
    """How much of what vendors send is kept until the owner has looked at it.

    ``most_bytes`` is of one submission; ``waiting`` and ``waiting_bytes`` are of one vendor's together, so that none
    can fill the store.
    """

    most_bytes: int = 32 << 20
    waiting: int = 100
    waiting_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("most_bytes", "waiting", "waiting_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < _MOST_ROWS:
                raise InvalidInput(f"{name} is a whole number from 1 on")


@dataclass(frozen=True, slots=True)
class Bound:
    """What a submission is bound to: the ``info`` of its sealed secret, and the identity of its Parquet file.

    ``vendor`` is the vendor's name, as its profile and its grants have it.
    """

    vault: str
    vendor: str
    credential: str
    grant: str
    version: int
    submission: str

    @property
    def chunk(self) -> str:
        """The submission's id, as that of its file."""
        return self.submission

    def _parts(self) -> tuple[str | int, ...]:
        return (FORMAT[0], self.vault, self.vendor, self.credential, self.grant, self.version, self.submission)

    def encode(self) -> bytes:
        """The ``aad_prefix`` of the file's modules."""
        return canonical("dsvault submission", *self._parts())

    def info(self) -> bytes:
        """What the secret is sealed with."""
        return canonical("dsvault submission secret", *self._parts())


@final
class Secret:
    """What one submission's keys follow from; its repr shows nothing of it."""

    def __init__(self, value: bytes, bound: Bound) -> None:
        if len(value) != KEY_BYTES:
            raise IntegrityError("the secret of a submission is not 256 bits long")
        self._value = value
        self._bound = bound

    @classmethod
    def fresh(cls, bound: Bound) -> "Secret":
        """A new one, from the system's randomness."""
        return cls(os.urandom(KEY_BYTES), bound)

    @classmethod
    def opened(cls, wrapped: bytes, private: bytes, bound: Bound) -> "Secret":
        """Open one with the owner's raw private key; raises IntegrityError where it is sealed to another, or for
        another place.
        """
        try:
            value = _SUITE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private), info=bound.info())
        except (InvalidTag, ValueError) as error:
            raise IntegrityError("the submission does not open: it was changed, or is of another place") from error
        return cls(value, bound)

    def wrapped(self, public: bytes) -> bytes:
        """The secret, sealed to the owner's raw public key."""
        return _SUITE.encrypt(self._value, X25519PublicKey.from_public_bytes(public), info=self._bound.info())

    @property
    def rows_key(self) -> bytes:
        """The key of the Parquet file."""
        return submission_key(self._value, "rows", self._bound.encode())

    def seal(self, particulars: "Particulars") -> bytes:
        """``nonce 12 | ciphertext | tag 16`` of the particulars."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher().encrypt(nonce, particulars.encode(), self._bound.encode())

    def open(self, sealed: bytes) -> "Particulars":
        """Inverse of `seal`; raises IntegrityError."""
        try:
            data = self._cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound.encode())
        except (InvalidTag, ValueError) as error:
            raise IntegrityError("the particulars of the submission were changed") from error
        return Particulars.decode(data)

    def _cipher(self) -> AESGCM:
        return AESGCM(submission_key(self._value, "particulars", self._bound.encode()))

    def __repr__(self) -> str:
        return f"Secret({self._bound.submission})"


@dataclass(frozen=True, slots=True)
class Particulars:
    """What a vendor says beside the rows: the key column's name, the Arrow schema, the links of delegated access."""

    key: str
    schema: bytes
    links: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON."""
        return json_bytes({"key": self.key, "schema": to_base64(self.schema), "links": list(self.links)})

    @classmethod
    def decode(cls, data: bytes) -> "Particulars":
        """Inverse of `encode`; raises IntegrityError."""
        document = from_json(data, "the particulars of a submission")
        try:
            links = document["links"]
            if not isinstance(links, list) or not all(isinstance(each, str) for each in links):
                raise TypeError("links are texts")
            return cls(str(document["key"]), from_base64(document["schema"], "a schema"), tuple(links))
        except (KeyError, TypeError) as error:
            raise IntegrityError("the particulars of a submission lack a field") from error


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a vendor signs of a submission. ``size`` and ``sha256`` are the object's, ``sealed_to`` names the key."""

    submission: str
    vault: str
    credential: str
    grant: str
    version: int
    rows: int
    size: int
    sha256: str
    sealed_to: str
    wrapped: bytes

    def bound(self, vendor: str) -> Bound:
        """What the submission of a vendor of that name is bound to."""
        return Bound(self.vault, vendor, self.credential, self.grant, self.version, self.submission)

    def signed(self, key: ProofKey) -> str:
        """The envelope, signed by the key that proves the vendor's requests."""
        return key.sign(_TYPE, self._claims())

    def _claims(self) -> dict[str, Any]:
        return {
            "format": list(FORMAT),
            "submission": self.submission,
            "vault": self.vault,
            "credential": self.credential,
            "grant": self.grant,
            "version": self.version,
            "rows": self.rows,
            "size": self.size,
            "sha256": self.sha256,
            "sealed_to": self.sealed_to,
            "wrapped": to_base64(self.wrapped),
        }


def open_envelope(text: str) -> tuple[str, Envelope]:
    """The signer's thumbprint (RFC 7638) and what is signed; raises InvalidInput for what is no envelope.

    Whose the key is remains to be found out.
    """
    try:
        signer, claims = open_claims(text, _TYPE)
        return signer, _read(claims)
    except (ValueError, TypeError, LookupError, IntegrityError) as error:
        raise InvalidInput("the envelope of the submission is not one, or was changed") from error


def _read(claims: Mapping[str, Any]) -> Envelope:
    major = claims["format"][0]
    if type(major) is not int or major != FORMAT[0]:
        raise ValueError("a format that this release does not know")
    if not _is_digest(claims["sha256"]):
        raise ValueError("a digest is none")
    names = ("submission", "vault", "credential", "grant", "sealed_to")
    if not all(is_id(claims[name]) for name in names):
        raise ValueError("an id is none")
    version, rows, size = (_number(claims[name]) for name in ("version", "rows", "size"))
    wrapped = from_base64(claims["wrapped"], "a secret")
    if len(wrapped) != _WRAPPED:
        raise ValueError("a sealed secret is none")
    submission, vault, credential, grant, sealed_to = (str(claims[name]) for name in names)
    digest = str(claims["sha256"])
    return Envelope(submission, vault, credential, grant, version, rows, size, digest, sealed_to, wrapped)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value < _MOST_ROWS:
        raise ValueError("a number is none")
    return value


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


def key_name(public: bytes) -> str:
    """What an envelope calls the owner's key that it is sealed to."""
    return hashlib.sha256(canonical("dsvault submission key", public)).digest()[:16].hex()


def pack(particulars: bytes, rows: bytes | memoryview) -> bytes:
    """The object of a submission."""
    return b"".join((_LENGTH.pack(len(particulars)), particulars, rows))


def unpack(data: bytes | bytearray) -> tuple[bytes, memoryview]:
    """The sealed particulars and the encrypted Parquet file of an object; raises IntegrityError."""
    view = memoryview(data)
    end = _LENGTH.size + (_LENGTH.unpack_from(view)[0] if len(view) >= _LENGTH.size else len(view))
    if end > len(view):
        raise IntegrityError("the object of a submission is cut off")
    return bytes(view[_LENGTH.size : end]), view[end:]
