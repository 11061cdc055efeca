"""Data keys: making them under the KMS, unwrapping them, and holding them for a short while.

Every unwrapped key is checked against its commitment before anybody uses it, in constant time, so that a
wrapped key put in the place of another is refused even by a KMS that was told the right context. Keys are
held within `CacheLimits` (a minute at most), and dropped at once for a compartment when asked; an unwrap that was
under way at that moment is handed over and not held. A `ScopedKeyring` opens the scopes of one permit and
refuses every other before the KMS is called.
"""

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, final

from vault.derivation import key_id
from vault.errors import IntegrityError, InvalidInput, NotGranted
from vault.kms import Kms
from vault.model import KeyScope

__all__ = ["MAX_AGE_SECONDS", "CacheLimits", "KeyCounts", "KeySource", "Keyring", "ScopedKeyring", "WrappedKey"]

#: The longest that an unwrapped key is held, whatever is configured.
MAX_AGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How long (seconds), how many, and for how many uses unwrapped keys are held; 0 holds none.

    Raises InvalidInput for a limit below 0, or an age above `MAX_AGE_SECONDS`.
    """

    age: float = MAX_AGE_SECONDS
    keys: int = 4096
    uses: int = 100_000

    def __post_init__(self) -> None:
        if not 0 <= self.age <= MAX_AGE_SECONDS:
            raise InvalidInput("a data key is held for 0 to 60 seconds")
        if self.keys < 0 or self.uses < 0:
            raise InvalidInput("a number of data keys, or of their uses, is 0 or more")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as the catalog holds it."""

    scope: KeyScope
    key_id: str
    kms_key: str
    wrapped: bytes


class KeySource(Protocol):
    """Something that opens wrapped data keys: a `Keyring`, or one narrowed to a permit."""

    def open(self, key: WrappedKey) -> bytes:
        """The 32-byte data key."""
        ...


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """How often data keys were held already, and how often the KMS was asked for one, or failed to give it."""

    hits: int
    unwraps: int
    failures: int


@dataclass(slots=True)
class _Held:
    """An unwrapped key, since when it is held, and how often it may still be used."""

    plaintext: bytes
    since: float
    uses: int


@final
class Keyring:
    """Makes and opens data keys with one KMS. Safe for use from several threads.

    One unwrap is made for a key however many threads ask for it at once; they share its outcome, a failure too.
    """

    def __init__(
        self, kms: Kms, *, limits: CacheLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kms = kms
        self._limits = limits or CacheLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[WrappedKey, _Held] = OrderedDict()
        self._flights: dict[WrappedKey, Future[bytes]] = {}
        self._hits = self._unwraps = self._failures = 0

    @property
    def age(self) -> float:
        """For how many seconds unwrapped keys are held; 0 where none are."""
        limits = self._limits
        return limits.age if limits.keys and limits.uses else 0.0

    @property
    def counts(self) -> KeyCounts:
        """What was counted since the process began."""
        with self._lock:
            return KeyCounts(self._hits, self._unwraps, self._failures)

    def reach(self) -> None:
        """Raise KmsError unless the KMS answers; no key is asked for."""
        self._kms.reach()

    def create(self, scope: KeyScope, kms_key: str) -> tuple[WrappedKey, bytes]:
        """A fresh data key, wrapped by ``kms_key`` under the scope's context; it is held like one that was opened."""
        since = self._clock()
        made = self._kms.generate_data_key(kms_key, scope.context())
        key = WrappedKey(scope, key_id(made.plaintext), kms_key, made.wrapped)
        with self._lock:
            self._keep(key, _Held(made.plaintext, since, self._limits.uses))
        return key, made.plaintext

    def open(self, key: WrappedKey) -> bytes:
        """Unwrap a data key, or take it from the cache; raises KmsError or IntegrityError."""
        with self._lock:
            held = self._take(key)
            if held is not None:
                self._hits += 1
                return held
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
                self._unwraps += 1
        if mine:
            self._fly(key, flight)
        return flight.result()

    def _take(self, key: WrappedKey) -> bytes | None:
        held = self._held.get(key)
        if held is None:
            return None
        held.uses -= 1
        if held.uses < 0 or self._clock() - held.since >= self._limits.age:
            del self._held[key]
            return None
        return held.plaintext

    def _fly(self, key: WrappedKey, flight: "Future[bytes]") -> None:
        """Unwrap for everyone who waits. Age counts from before the KMS was asked."""
        since = self._clock()
        try:
            plaintext = self._kms.unwrap(key.kms_key, key.wrapped, key.scope.context())
            if not hmac.compare_digest(key_id(plaintext), key.key_id):
                raise IntegrityError("a data key is not the one that its id commits to")
        except BaseException as error:  # noqa: BLE001 - every thread that waits raises it
            self._land(key, flight, None)
            with self._lock:
                self._failures += 1
            flight.set_exception(error)
            return
        self._land(key, flight, _Held(plaintext, since, self._limits.uses - 1))
        flight.set_result(plaintext)

    def _land(self, key: WrappedKey, flight: "Future[bytes]", held: _Held | None) -> None:
        with self._lock:
            if self._flights.get(key) is not flight:
                return  # the key was dropped in the meantime
            del self._flights[key]
            if held is not None:
                self._keep(key, held)

    def _keep(self, key: WrappedKey, held: _Held) -> None:
        if not self._limits.age or not self._limits.keys or not self._limits.uses:
            return
        self._held[key] = held
        while len(self._held) > self._limits.keys:
            self._held.popitem(last=False)

    def drop(self, compartments: Iterable[str]) -> None:
        """Forget every key of these compartments at once, also those that are being unwrapped."""
        unwanted = set(compartments)
        with self._lock:
            for keys in (self._held, self._flights):
                for key in [key for key in keys if key.scope.compartment in unwanted]:
                    del keys[key]

    def sweep(self) -> None:
        """Forget what is held for too long: an idle process holds no key beyond its age either."""
        with self._lock:
            limit = self._clock() - self._limits.age
            for key in [key for key, held in self._held.items() if held.since <= limit]:
                del self._held[key]

    @property
    def compartments(self) -> frozenset[str]:
        """The compartments that a key is held of."""
        with self._lock:
            return frozenset(key.scope.compartment for key in (*self._held, *self._flights))

    def __repr__(self) -> str:
        return f"Keyring({len(self._held)} keys held)"


@final
class ScopedKeyring:
    """A keyring that opens the (compartment, column group, epoch) set of one permit, and nothing else.

    ``allowed`` raises Refused where the permit has ended: what a stream fetches ahead of its reader would otherwise
    bring back keys that a freeze had dropped. It may raise Abandoned, where nobody is there to read.
    """

    def __init__(
        self, keyring: Keyring, scopes: Iterable[KeyScope], allowed: Callable[[], None] = lambda: None
    ) -> None:
        self._keyring = keyring
        self._scopes = frozenset(scopes)
        self._allowed = allowed

    def open(self, key: WrappedKey) -> bytes:
        """Unwrap a key; before any KMS call raises NotGranted for one not of the permit, and what ``allowed`` does."""
        if key.scope not in self._scopes:
            raise NotGranted("the permit does not cover that key")
        self._allowed()
        return self._keyring.open(key)
