"""The concrete parts of an open vault, as the verbs receive them."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, final

from vault.catalog import Catalog, CompartmentRow, CredentialRow, FieldSealer, KeyRow, Transaction
from vault.errors import IntegrityError, NotFound, Unavailable
from vault.keyring import MAX_AGE_SECONDS, Keyring, KeySource, ScopedKeyring, WrappedKey
from vault.kms import Kms
from vault.model import METADATA_GROUP, KeyScope
from vault.objects import ObjectStore
from vault.trust import Credential, Grant, Signed, Signer
from vault.workings.backups import Backups
from vault.workings.heads import HEAD_AGE_SECONDS, Heads
from vault.workings.journal import Journal
from vault.workings.keyfolder import KeyFolder
from vault.workings.recent import Recent
from vault.workings.roots import Roots
from vault.workings.spooled import Spools

if TYPE_CHECKING:
    import pyarrow as pa

    from vault.engines import LocalEngine, Workers
    from vault.federation import Provider
    from vault.manifest import Listing, Manifest
    from vault.spool import SpoolLimits

__all__ = [
    "Lately",
    "Manifests",
    "OwnerParts",
    "Parts",
    "Signers",
    "Times",
    "holder_sealer",
    "key_row",
    "metadata_key",
    "own_metadata_key",
    "trusted_now",
    "wrapped_key",
]

_CLOCK_TOLERANCE = timedelta(seconds=5)
#: For how many seconds the catalog's clock is not asked anew, and by how many this process's may jump meanwhile.
_TIMES_AGE = 1.0
_TABLES_BYTES = 64 << 20
_EVEN = 0.5


@final
class Manifests:
    """Opened manifests and parts of them, by the digest of their object: what is under a digest never changes.

    ``most`` bounds the manifests, ``most_bytes`` the memory of the parts.
    """

    def __init__(self, most: int = 64, most_bytes: int = 128 << 20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Manifest] = OrderedDict()
        self._listings: OrderedDict[str, Listing] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, digest: str) -> "Manifest | None":
        """The manifest of that digest, if it is held."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def keep(self, digest: str, manifest: "Manifest") -> None:
        """Hold a manifest, letting go of the one that was not used for longest."""
        with self._lock:
            self._kept[digest] = manifest
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all: what is opened next comes from the store."""
        with self._lock:
            self._kept.clear()
            self._listings.clear()
            self._bytes = 0

    def listing(self, digest: str) -> "Listing | None":
        """The part of that digest, if it is held."""
        with self._lock:
            if digest in self._listings:
                self._listings.move_to_end(digest)
            return self._listings.get(digest)

    def keep_listing(self, digest: str, listing: "Listing") -> None:
        """Hold a part, letting go of those that were not used for longest."""
        with self._lock:
            if digest not in self._listings:
                self._listings[digest] = listing
                self._bytes += listing.table.nbytes
            while self._bytes > self._most_bytes:
                _, oldest = self._listings.popitem(last=False)
                self._bytes -= oldest.table.nbytes


@final
class Lately:
    """What a broker verified or opened a moment ago. Each is by the digest of the head that says so, which is looked up
    anew for every request; what no head says, the wrapping of keys, ages with the heads. All of it goes when the watch
    sees a change.

    Small chunks are held decoded for as long as data keys are held (``key_age`` seconds), and handed out only to who
    may open the data key at that moment: who can read them here could read the keys beside them.
    """

    def __init__(self, key_age: float) -> None:
        #: A credential's signed statement and its meaning, by its id.
        self.credentials: Recent[tuple[Signed, Credential]] = Recent(4096, MAX_AGE_SECONDS)
        #: Credentials that a token of an identity provider may stand for, by its issuer; by the root document.
        self.federated: Recent[Mapping[str, list[tuple[CredentialRow, Provider]]]] = Recent(16, HEAD_AGE_SECONDS)
        #: A vendor's grants and compartments, by its head and the root document.
        self.grants: Recent[tuple[list[Grant], dict[str, CompartmentRow]]] = Recent(1024, MAX_AGE_SECONDS)
        #: A compartment's newest version, by its head.
        self.versions: Recent[Any] = Recent(1024, HEAD_AGE_SECONDS)
        #: A holder's wrapped metadata key.
        self.metadata_keys: Recent[WrappedKey] = Recent(1024, HEAD_AGE_SECONDS)
        #: What a request for all rows, or the first ones, of some columns reads, by the compartment's head.
        self.plans: Recent[Any] = Recent(1024, HEAD_AGE_SECONDS)
        #: A small chunk's rows, by the chunk and what its columns are to be.
        self.tables: Recent[pa.Table] = Recent(_TABLES_BYTES, key_age, lambda table: max(1, table.nbytes))

    def clear(self) -> None:
        """Let go of everything."""
        for each in self._all:
            each.clear()

    def sweep(self) -> None:
        """Let go of what is too old: an idle process holds it no longer either."""
        for each in self._all:
            each.sweep()

    @property
    def _all(self) -> tuple[Recent[Any], ...]:
        held = (self.credentials, self.federated, self.grants, self.versions, self.metadata_keys, self.plans)
        return (*held, self.tables)


@final
class Times:
    """The catalog's clock and the newest log entry's time, asked for at most once a second.

    In between they go on with this process's clock, for as long as that goes on evenly.
    """

    def __init__(self, catalog: Catalog, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._monotonic = monotonic
        self._asked: tuple[float, datetime, datetime, datetime | None] | None = None

    def at(self, own: datetime) -> tuple[datetime, datetime | None]:
        """What the catalog's clock is when this process's is ``own``, and the newest log entry's time."""
        now, asked = self._monotonic(), self._asked
        if asked is not None:
            since, passed = now - asked[0], own - asked[1]
            if since <= _TIMES_AGE and abs(passed.total_seconds() - since) < _EVEN:
                return asked[2] + passed, asked[3]
        catalog, logged = self._catalog.times()
        self._asked = (now, own, catalog, logged)
        return catalog, logged


@dataclass(frozen=True, slots=True)
class Parts:
    """What a broker has: no key that signs a grant, and the KMS keys of its vendors only."""

    vault: str
    root: Roots
    catalog: Catalog
    store: ObjectStore
    keyring: Keyring
    journal: Journal
    heads: Heads
    manifests: Manifests
    engine: "LocalEngine"
    times: "Times"
    lately: "Lately"
    spool: "SpoolLimits"
    spools: Spools
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Signers:
    """The owner's private keys; each is opened only when an act needs it, and must be one that counts."""

    authority: Callable[[], Signer]
    responder: Callable[[], Signer]
    publisher: Callable[[], Signer]
    keys: KeyFolder


@dataclass(frozen=True, slots=True)
class OwnerParts(Parts):
    """What the owner has besides: the KMS itself, the signers, the owner's holder id, and the catalog's backup.

    ``workers`` are other processes that do parts of a job; without them all is done in this one.
    """

    kms: Kms
    owner: str
    signers: Signers
    backups: Backups
    workers: "Workers | None" = None

    def sealer(self) -> FieldSealer:
        """The sealer of the owner's catalog fields."""
        return holder_sealer(self, self.keyring, self.owner)


def key_row(key: WrappedKey, created: str) -> KeyRow:
    """A wrapped key as the catalog keeps it."""
    scope = key.scope
    return KeyRow(scope.compartment, scope.group, scope.epoch, key.key_id, key.kms_key, key.wrapped, created)


def wrapped_key(vault: str, row: KeyRow) -> WrappedKey:
    """A catalog row as a wrapped key; its scope is rebuilt from the row's own place, not from the blob."""
    return WrappedKey(KeyScope(vault, row.compartment, row.group, row.epoch), row.key_id, row.kms_key, row.wrapped)


def holder_sealer(parts: Parts, keys: KeySource, holder: str) -> FieldSealer:
    """The sealer of a holder's catalog fields, under its metadata key."""
    with parts.catalog.read() as transaction:
        row = metadata_key(transaction, holder)
    return FieldSealer(parts.vault, holder, keys.open(wrapped_key(parts.vault, row)))


def own_metadata_key(parts: Parts, holder: str) -> bytes:
    """A holder's metadata key and no other; raises NotFound, and what opening it does."""

    def read() -> WrappedKey:
        with parts.catalog.read() as transaction:
            return wrapped_key(parts.vault, metadata_key(transaction, holder))

    key = parts.lately.metadata_keys.get(holder, read)
    return ScopedKeyring(parts.keyring, (key.scope,)).open(key)


def metadata_key(transaction: Transaction, holder: str) -> KeyRow:
    """The newest metadata key of a holder; raises NotFound."""
    rows = [row for row in transaction.keys(holder) if row.group == METADATA_GROUP]
    if not rows:
        raise NotFound("a holder has no metadata key in the catalog")
    return rows[-1]


def trusted_now(parts: Parts) -> datetime:
    """The latest of this process's clock, the catalog's, and the newest log entry's time.

    Expiry is judged by it, so that a clock set back brings no expired grant to life. Raises Unavailable when
    the clocks disagree by more than 5 seconds, and when the log is that far ahead of them.
    """
    own = parts.clock()
    catalog, logged = parts.times.at(own)
    if abs(own - catalog) > _CLOCK_TOLERANCE:
        raise Unavailable("this machine's clock and the catalog's disagree by more than 5 seconds")
    latest = max(own, catalog)
    if logged is not None and logged > latest:
        if logged - latest > _CLOCK_TOLERANCE:
            raise Unavailable("the newest log entry is more than 5 seconds ahead of the clock")
        latest = logged
    return latest


def checked_vault(parts: Parts) -> None:
    """Refuse parts that belong to different vaults; raises IntegrityError."""
    if parts.root.vault != parts.vault:
        raise IntegrityError("the root document belongs to another vault")
    parts.catalog.check(parts.vault)
