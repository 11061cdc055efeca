"""A vendor's desk without a network: the real client, and the broker's own access path in the same process."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from tests.conftest import Lab
from vault import access
from vault.broker.app import _offered
from vault.chunks import encode
from vault.client import Client, Dataset
from vault.encoding import new_id
from vault.proof import ProofKey
from vault.submission import Bound, Envelope, Particulars, Quarantine, Secret, key_name, open_envelope, pack
from vault.wire import Profile
from vault.workings.parts import Parts

__all__ = ["Desk", "joined", "labels", "made", "split"]

_LENGTH = struct.Struct(">I")
_PLACE = "http://127.0.0.1:1"


def labels(*numbers: int, **columns: list[Any]) -> pa.Table:
    """A label for each of these rows of ``evals``, or other columns."""
    found = columns or {"label": [f"label of {number}" for number in numbers]}
    return pa.table({"id": pa.array(numbers, pa.int64()), **found})


def split(body: bytes) -> tuple[str, bytes]:
    """The envelope and the object of a body."""
    end = 4 + _LENGTH.unpack_from(body)[0]
    return body[4:end].decode(), body[end:]


def joined(envelope: str, data: bytes) -> bytes:
    """The inverse."""
    return _LENGTH.pack(len(envelope)) + envelope.encode() + data


def made(
    desk: "Desk", table: pa.Table, *, public: bytes | None = None, data: bytes | None = None, **bound: Any
) -> tuple[Envelope, bytes]:
    """An envelope and an object as the vendor's client makes them, or not quite; nothing of the table is checked."""
    (offer,) = desk.dataset().grants
    place = Bound(
        desk.profile.vault, desk.profile.vendor, desk.profile.token.credential, offer.grant, offer.version, new_id()
    )
    place = replace(place, **bound)
    secret = Secret.fresh(place)
    particulars = Particulars("id", table.schema.serialize().to_pybytes(), desk.profile.delegations)
    rows_of = data if data is not None else encode(table, secret.rows_key, place).to_pybytes()
    packed = pack(secret.seal(particulars), rows_of)
    sealed_to = public if public is not None else desk.profile.submission_key
    assert sealed_to is not None
    envelope = Envelope(
        place.submission,
        place.vault,
        place.credential,
        place.grant,
        place.version,
        table.num_rows,
        len(packed),
        hashlib.sha256(packed).hexdigest(),
        key_name(sealed_to),
        secret.wrapped(sealed_to),
    )
    return envelope, packed


@dataclass
class Desk:
    """A vendor with a credential, at a broker of this process; ``bodies`` are what was sent."""

    lab: Lab
    vendor: str = "acme"
    quarantine: Quarantine = field(default_factory=Quarantine)
    profile: Profile = field(init=False)
    parts: Parts = field(init=False)
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = self.lab.broker_parts()
        self.profile = self.lab.vault.issue_credential(self.vendor, endpoint=_PLACE).profile

    @property
    def key(self) -> ProofKey:
        """The key that proves its requests."""
        return ProofKey.parse(self.profile.key, "the profile")

    def caller(self) -> access.Caller:
        """Who it is, by a fresh proof."""
        uri = f"{_PLACE}/x"
        proof = self.key.prove("POST", uri, self.profile.token.text, self.parts.clock())
        sent = access.Sent("POST", (uri,), proof, self.profile.delegations)
        return access.authenticate(self.parts, self.profile.token, "test", sent=sent)

    def put(self, body: bytes, dataset: str = "evals", pieces: Iterator[bytes] | None = None) -> access.Received:
        """Send a body as it is."""
        envelope, data = split(body)
        given = pieces if pieces is not None else iter([data])
        return access.receive(self.parts, self.caller(), dataset, envelope, len(data), given, self.quarantine)

    def dataset(self, name: str = "evals") -> Dataset:
        """The dataset at a client whose requests come here."""
        client = Client(self.profile)

        def answer(_method: str, path: str, body: bytes | None = None, _type: str = "") -> dict[str, Any]:
            if body is None:
                offered = [_offered(each).document() for each in access.offerings(self.parts, self.caller())]
                return {"grants": offered, "submissions": {"most_bytes": self.quarantine.most_bytes}}
            self.bodies.append(body)
            found = self.put(body, path.split("/")[3])
            return {"submission": found.submission, "received": found.received}

        client.connection.answer = answer  # type: ignore[method-assign]
        return client.dataset(name)

    def submit(self, table: pa.Table, **options: Any) -> str:
        """Send a table; returns the submission's id."""
        return self.dataset().submit(table, **options).id

    def smuggle(self, table: pa.Table) -> str:
        """Send a table as a client that checks nothing of it would; returns the submission's id."""
        envelope, data = made(self, table)
        self.put(self.signed(envelope, data))
        return envelope.submission

    def envelope(self) -> Envelope:
        """What was signed of the last one that was sent."""
        return open_envelope(split(self.bodies[-1])[0])[1]

    def signed(self, envelope: Envelope, data: bytes) -> bytes:
        """A body with another envelope, signed by this vendor."""
        return joined(envelope.signed(self.key), data)
