"""The broker's HTTP interface, version 1: shapes that the broker and the client share.

A read answers an Arrow IPC stream. Its last message is an empty record batch whose custom metadata says how
the stream ended; a stream without it is cut off, whatever the transport said. Errors before the first byte
are problem documents (RFC 9457). Specified in ``docs/reference/wire.md``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from vault.encoding import from_base64, from_timestamp, is_id, timestamp, to_base64
from vault.errors import (
    AuditError,
    Conflict,
    Frozen,
    IntegrityError,
    InvalidInput,
    KmsError,
    LimitReached,
    NotGranted,
    Refused,
    Restarting,
    Unauthenticated,
    Unavailable,
    VaultError,
)
from vault.wire.sharing import SHARING_PATH

__all__ = [
    "ARROW_TYPE",
    "COMPRESSIONS",
    "CURSOR_KEY",
    "DELEGATION_HEADER",
    "PROBLEM_TYPE",
    "ROWS_HEADER",
    "SUBMISSION_TYPE",
    "WIRE_VERSION",
    "End",
    "OfferedGrant",
    "Profile",
    "Token",
    "error_from_problem",
    "foreign_token",
    "kind_of",
    "moment",
    "problem",
    "problem_document",
]

WIRE_VERSION: Final = (1, 1)
ARROW_TYPE: Final = "application/vnd.apache.arrow.stream"
#: The body of a submission: ``u32be length | envelope | object``.
SUBMISSION_TYPE: Final = "application/vnd.dsvault.submission"
PROBLEM_TYPE: Final = "application/problem+json"
_END_KEY: Final = b"dsvault:end"
#: The custom metadata of a batch: a sealed place behind it, in base64, that a read can go on from.
CURSOR_KEY: Final = b"dsvault:cursor"
#: The links of delegated access, from the credential's key on, with commas between them.
DELEGATION_HEADER: Final = "dsvault-delegation"
#: How many rows the whole of a read has, where that is no secret.
ROWS_HEADER: Final = "dsvault-rows"
#: How the bodies of a stream's batches may be compressed.
COMPRESSIONS: Final = ("none", "lz4", "zstd")
_TOKEN_PREFIX: Final = "dsv1"  # noqa: S105

# Kind, HTTP status and class, most specific first. What is unknown and what is forbidden share one line.
_KINDS: Final[tuple[tuple[str, int, type[VaultError]], ...]] = (
    ("unauthenticated", 401, Unauthenticated),
    ("frozen", 403, Frozen),
    ("not-granted", 404, NotGranted),
    ("limit-reached", 429, LimitReached),
    ("refused", 403, Refused),
    ("ambiguous", 409, Conflict),
    ("invalid", 400, InvalidInput),
    ("not-recorded", 503, AuditError),
    ("key-refused", 503, KmsError),
    ("integrity", 500, IntegrityError),
    ("restarting", 503, Restarting),
    ("unavailable", 503, Unavailable),
)


def problem(error: VaultError) -> tuple[int, dict[str, object]]:
    """The HTTP status and problem document of an error.

    Only a refusal's or bad input's own sentence goes out: it speaks of what the caller sent or may know. Of
    everything else the caller learns the kind.
    """
    for kind, status, family in _KINDS:
        if isinstance(error, family):
            return status, problem_document(kind, _detail(error))
    return 500, problem_document("error", "the request could not be served")


def problem_document(kind: str, detail: str) -> dict[str, object]:
    """The problem document of a kind, with one sentence."""
    return {"type": f"urn:dsvault:{kind}", "title": _title(kind), "detail": detail}


def kind_of(document: Mapping[str, Any]) -> str:
    """The kind of a problem document, one of few."""
    return str(document.get("type", "")).removeprefix("urn:dsvault:")


def _title(kind: str) -> str:
    return kind.replace("-", " ").capitalize()


def _detail(error: VaultError) -> str:
    if isinstance(error, Refused | Conflict | InvalidInput | Restarting):
        return str(error)
    if isinstance(error, IntegrityError):
        return "the data failed an integrity check and was not served"
    return "the broker cannot serve this at present; nothing was served"


def error_from_problem(document: Mapping[str, Any]) -> VaultError:
    """The error that a problem document stands for."""
    kind = kind_of(document)
    detail = str(document.get("detail") or "the broker refused the request")[:1000]
    for name, _, family in _KINDS:
        if name == kind:
            return family(detail)
    return Unavailable(detail)


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What a vendor presents: ``Authorization: DPoP dsv1.<credential id>.<base64 secret>``, or ``Bearer``.

    ``bound`` says that the credential is bound to a key, which proves each request in a ``DPoP`` header of its own.
    """

    credential: str
    secret: bytes
    bound: bool = False

    @property
    def text(self) -> str:
        """The token itself."""
        return f"{_TOKEN_PREFIX}.{self.credential}.{to_base64(self.secret)}"

    def header(self) -> str:
        """The header's value."""
        return f"{'DPoP' if self.bound else 'Bearer'} {self.text}"

    @classmethod
    def from_header(cls, value: str) -> "Token":
        """Read the header's value; raises Unauthenticated for any other form."""
        scheme, _, rest = value.partition(" ")
        bound = scheme.lower() == "dpop"
        pieces = rest.strip().split(".")
        known = bound or scheme.lower() == "bearer"
        if known and len(pieces) == 3 and pieces[0] == _TOKEN_PREFIX and is_id(pieces[1]):
            try:
                secret = from_base64(pieces[2], "a token")
            except IntegrityError:
                secret = b""
            # One text for one token: a proof is for the text.
            if len(secret) == 32 and to_base64(secret) == pieces[2]:
                return cls(pieces[1], secret, bound)
        raise Unauthenticated("the credential is not valid")

    def __repr__(self) -> str:
        return f"Token({self.credential})"


def foreign_token(header: str) -> str | None:
    """A bearer token that is not one of ours but an identity provider's, a JWT, out of an Authorization header."""
    scheme, _, rest = header.partition(" ")
    token = rest.strip()
    if scheme.lower() == "bearer" and token.count(".") == 2 and not token.startswith(f"{_TOKEN_PREFIX}."):
        return token
    return None


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """A vendor's profile file: where the broker is and what to present there.

    A credential that is bound to a key has the key's ``thumbprint``, and the private key itself as a JWK where the
    owner made it. ``submission_key`` is the owner's public key that what is sent back is sealed to (X25519, 32 bytes):
    it comes from the owner and not from a broker. A bearer credential's file is a Delta Sharing profile besides, with
    that protocol's endpoint.
    """

    endpoint: str
    vault: str
    vendor: str
    token: Token
    expires: str
    root_fingerprint: str
    thumbprint: str | None = None
    key: Mapping[str, Any] | None = None
    delegations: tuple[str, ...] = ()
    submission_key: bytes | None = None

    def document(self) -> dict[str, Any]:
        """The file's JSON; it holds the secret."""
        common = {
            "dsvault_profile": "1.0",
            "endpoint": self.endpoint,
            "vault": self.vault,
            "vendor": self.vendor,
            "credential": self.token.credential,
            "secret": to_base64(self.token.secret),
            "expires": self.expires,
            "root_fingerprint": self.root_fingerprint,
        }
        if self.thumbprint is not None:
            own = {"key": dict(self.key)} if self.key is not None else {}
            chain = {"delegations": list(self.delegations)} if self.delegations else {}
            sealed = {"submission_key": to_base64(self.submission_key)} if self.submission_key is not None else {}
            return common | {"thumbprint": self.thumbprint} | own | chain | sealed
        return common | {
            "shareCredentialsVersion": 1,
            "endpoint": self.endpoint.rstrip("/") + SHARING_PATH,
            "bearerToken": self.token.text,
            "expirationTime": self.expires,
        }

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Profile":
        """Read a profile file; raises InvalidInput naming it."""
        try:
            document = json.loads(data)
            if _is_foreign(document):
                raise InvalidInput(f"{where}: this is another server's Delta Sharing profile, and none of dsvault's")
            if not str(document["dsvault_profile"]).startswith("1."):
                raise InvalidInput(f"{where}: the profile has a format that this release does not know")
            thumbprint = document.get("thumbprint")
            key = document.get("key")
            if not isinstance(thumbprint, str | None) or not isinstance(key, dict | None):
                raise ValueError("a key is not one")  # noqa: TRY004 -- said of the file, below
            token = Token(
                str(document["credential"]), from_base64(document["secret"], "secret"), bound=thumbprint is not None
            )
            fields = ("endpoint", "vault", "vendor", "expires", "root_fingerprint")
            endpoint, vault, vendor, expires, fingerprint = (str(document[field]) for field in fields)
            from_timestamp(expires)
            if thumbprint is None:
                endpoint = endpoint.removesuffix(SHARING_PATH)
            chain = document.get("delegations", [])
            if not isinstance(chain, list) or not all(isinstance(link, str) and "," not in link for link in chain):
                raise ValueError("a delegation is not one")
            sealed = document.get("submission_key")
            submission_key = from_base64(sealed, "a key") if sealed is not None else None
            if submission_key is not None and len(submission_key) != 32:
                raise ValueError("a key is not one")
            return cls(
                endpoint, vault, vendor, token, expires, fingerprint, thumbprint, key, tuple(chain), submission_key
            )
        except (ValueError, KeyError, TypeError, AttributeError, IntegrityError, RecursionError) as error:
            raise InvalidInput(f"{where}: this is not a dsvault profile") from error

    def __repr__(self) -> str:
        return f"Profile(vendor={self.vendor}, endpoint={self.endpoint})"


def _is_foreign(document: Any) -> bool:
    """Whether it is a profile of Delta Sharing's, and not ours besides."""
    known = isinstance(document, dict) and "dsvault_profile" not in document
    return known and "shareCredentialsVersion" in document


@dataclass(frozen=True, slots=True)
class OfferedGrant:
    """One grant as a vendor sees it.

    ``shards`` is how many there are, where that hides nothing and the broker says; ``key`` is the column that
    identifies rows, where it is granted as it is.
    """

    dataset: str
    grant: str
    version: int
    schema: pa.Schema
    expires: str | None
    purpose: str | None
    masks: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    delivery: str = "stream"
    shards: int | None = None
    key: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON; the schema is Arrow IPC in base64, beside a readable list of its fields."""
        return {
            "dataset": self.dataset,
            "grant": self.grant,
            "version": self.version,
            "columns": [{"name": field.name, "type": str(field.type)} for field in self.schema],
            "schema": to_base64(self.schema.serialize().to_pybytes()),
            "expires": self.expires,
            "purpose": self.purpose,
            "masks": dict(self.masks),
            "limits": dict(self.limits),
            "delivery": self.delivery,
            "shards": self.shards,
            "row_key": self.key,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "OfferedGrant":
        """Inverse of `document`; raises Unavailable for anything else."""
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(from_base64(document["schema"], "a schema")))
            return cls(
                str(document["dataset"]),
                str(document["grant"]),
                int(document["version"]),
                schema,
                document["expires"],
                document["purpose"],
                dict(document.get("masks") or {}),
                dict(document.get("limits") or {}),
                str(document.get("delivery")),
                int(document["shards"]) if document.get("shards") is not None else None,
                str(document["row_key"]) if document.get("row_key") is not None else None,
            )
        except (KeyError, TypeError, ValueError, IntegrityError, pa.ArrowException) as error:
            raise Unavailable("the broker's answer is not one that this client understands") from error


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended: ``rows`` delivered, and the problem document where it was broken off."""

    rows: int
    problem: Mapping[str, Any] | None = None

    def metadata(self) -> dict[bytes, bytes]:
        """The custom metadata of the last, empty batch."""
        return {_END_KEY: json.dumps({"rows": self.rows, "problem": self.problem}).encode()}

    @classmethod
    def from_metadata(cls, metadata: Any) -> "End | None":
        """Read it from a batch's custom metadata; None where the batch is not the last one."""
        if not metadata or _END_KEY not in metadata:
            return None
        document = json.loads(metadata[_END_KEY])
        return cls(int(document["rows"]), document["problem"])


def moment(value: Any) -> str | None:
    """A time or None as the wire has it."""
    return timestamp(value) if value is not None else None
