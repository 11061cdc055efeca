"""Data keys: making them under the KMS, unwrapping them, and holding them for a short while.

Every unwrapped key is checked against its commitment before anybody uses it, in constant time, so that a
wrapped key put in the place of another is refused even by a KMS that was told the right context. Keys are
held for at most `MAX_AGE_SECONDS`, and dropped at once for a compartment when asked. A `ScopedKeyring`
opens the scopes of one permit and refuses every other before the KMS is called.
"""

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, final

from vault.derivation import key_id
from vault.errors import IntegrityError, NotGranted
from vault.kms import Kms
from vault.model import KeyScope

__all__ = ["MAX_AGE_SECONDS", "KeySource", "Keyring", "ScopedKeyring", "WrappedKey"]

MAX_AGE_SECONDS = 60.0
_MAX_KEYS = 4096


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


@final
class Keyring:
    """Makes and opens data keys with one KMS. Safe for use from several threads.

    One unwrap is made for a key however many threads ask for it at once.
    """

    def __init__(
        self, kms: Kms, *, max_age: float = MAX_AGE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kms = kms
        self._max_age = min(max_age, MAX_AGE_SECONDS)
        self._clock = clock
        self._cache: OrderedDict[WrappedKey, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[WrappedKey, threading.Lock] = {}

    def create(self, scope: KeyScope, kms_key: str) -> tuple[WrappedKey, bytes]:
        """A fresh data key, wrapped by ``kms_key`` under the scope's context."""
        made = self._kms.generate_data_key(kms_key, scope.context())
        return WrappedKey(scope, key_id(made.plaintext), kms_key, made.wrapped), made.plaintext

    def open(self, key: WrappedKey) -> bytes:
        """Unwrap a data key, or take it from the cache; raises KmsError or IntegrityError."""
        cached = self._cached(key)
        if cached is not None:
            return cached
        with self._lock:
            gate = self._opening.setdefault(key, threading.Lock())
        try:
            with gate:
                cached = self._cached(key)
                if cached is not None:
                    return cached
                plaintext = self._kms.unwrap(key.kms_key, key.wrapped, key.scope.context())
                if not hmac.compare_digest(key_id(plaintext), key.key_id):
                    raise IntegrityError("a data key is not the one that its id commits to")
                self._keep(key, plaintext)
                return plaintext
        finally:
            with self._lock:
                self._opening.pop(key, None)

    def _cached(self, key: WrappedKey) -> bytes | None:
        with self._lock:
            entry = self._cache.get(key)
            if entry is None:
                return None
            if self._clock() - entry[0] >= self._max_age:
                del self._cache[key]
                return None
            return entry[1]

    def _keep(self, key: WrappedKey, plaintext: bytes) -> None:
        if self._max_age <= 0:
            return
        with self._lock:
            self._cache[key] = (self._clock(), plaintext)
            while len(self._cache) > _MAX_KEYS:
                self._cache.popitem(last=False)

    def drop(self, compartments: Iterable[str]) -> None:
        """Forget every key of these compartments at once."""
        unwanted = set(compartments)
        with self._lock:
            for key in [key for key in self._cache if key.scope.compartment in unwanted]:
                del self._cache[key]

    def __repr__(self) -> str:
        return f"Keyring({len(self._cache)} keys held)"


@final
class ScopedKeyring:
    """A keyring that opens the column groups of one permit and no others."""

    def __init__(self, keyring: Keyring, compartment: str, groups: Iterable[str]) -> None:
        self._keyring = keyring
        self._compartment = compartment
        self._groups = frozenset(groups)

    def open(self, key: WrappedKey) -> bytes:
        """Unwrap a key of the permit; raises NotGranted for any other, before any KMS call."""
        if key.scope.compartment != self._compartment or key.scope.group not in self._groups:
            raise NotGranted("the permit does not cover that key")
        return self._keyring.open(key)
