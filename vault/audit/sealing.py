"""Sealing entries to the auditor, so that whoever appends cannot read back what it wrote.

A process makes a *session*: 32 random bytes, sealed to the auditor with HPKE (RFC 9180: DHKEM X25519, HKDF-SHA256,
AES-256-GCM) and expanded with HKDF-SHA256 into 255 entry keys, the most that one expansion gives. Each key seals one
entry with AES-256-GCM and is wiped; the secret is dropped at once. What is taken of a process later opens nothing that
it has written. An auditor opens a session once for all of its entries, and may give away the key of a single entry,
which opens that one alone: a commitment to the key stands in the entry, so that no other key opens it to other words.

A sealed entry is ``01 | session, sealed, 80 bytes | number, 1 byte | commitment, 32 bytes | nonce, 12 bytes |
ciphertext``; all before the nonce is authenticated with it. Specified in ``docs/reference/format.md`` section 9.
"""

import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.audit.entry import Entry
from vault.encoding import canonical
from vault.errors import IntegrityError

__all__ = ["SESSION_ENTRIES", "Opener", "Sealer", "open_with_key"]

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
#: How many entries a session has: HKDF-SHA256 gives 255 times 32 bytes (RFC 5869 section 2.3).
SESSION_ENTRIES: Final = 255
_KEY: Final = 32
_VERSION: Final = b"\x01"
_SESSION_END: Final = 1 + 32 + 32 + 16
_HEADER: Final = _SESSION_END + 1 + 32
_NONCE: Final = 12
#: What stands before a key in what is hashed of it: a log is long, and all keys are as long as each other.
_COMMITTED: Final = canonical("dsvault log entry key", bytes(_KEY))[:-_KEY]
_BODY: Final = _HEADER + _NONCE
_SHORTEST: Final = _BODY + 16
#: Sessions that an auditor holds open at a time, of 8 KiB.
_MOST_SESSIONS: Final = 1024
_REFUSAL: Final = "a log entry does not open under the auditor's key"


def _info(vault: str) -> bytes:
    return canonical("dsvault log session", vault)


def _keys(secret: bytes, vault: str) -> bytes:
    info = canonical("dsvault log entry keys", vault)
    return HKDF(SHA256(), SESSION_ENTRIES * _KEY, salt=None, info=info).derive(secret)


def _commitment(key: bytes) -> bytes:
    return hashlib.sha256(_COMMITTED + key).digest()


@lru_cache(maxsize=16)
def _before_header(vault: str) -> bytes:
    """What stands before the header in what is authenticated of every entry of a vault."""
    return canonical("dsvault log entry", vault, bytes(_HEADER))[:-_HEADER]


@final
class Sealer:
    """Seals entries of one vault to one auditor. Safe for use from several threads, and after a fork."""

    def __init__(self, vault: str, auditor_public: bytes) -> None:
        self._vault = vault
        self._public = X25519PublicKey.from_public_bytes(auditor_public)
        self._lock = threading.Lock()
        self._begun = 0
        self._process = 0
        self._session, self._left = b"", bytearray()

    def _key(self) -> tuple[bytes, bytes]:
        """The header of the next entry, and its key, which is wiped here."""
        with self._lock:
            # A child process has its parent's keys: each of them seals under one of its own.
            if self._begun == SESSION_ENTRIES or self._process != os.getpid() or not self._session:
                secret = os.urandom(_KEY)
                self._session = _SUITE.encrypt(secret, self._public, info=_info(self._vault))
                self._left = bytearray(_keys(secret, self._vault))
                self._begun, self._process = 0, os.getpid()
            number, self._begun = self._begun, self._begun + 1
            place = slice(number * _KEY, (number + 1) * _KEY)
            key = bytes(self._left[place])
            self._left[place] = bytes(_KEY)
            return _VERSION + self._session + bytes([number]) + _commitment(key), key

    def seal(self, entry: Entry) -> bytes:
        """Seal an entry under a key that was never used."""
        header, key = self._key()
        nonce = os.urandom(_NONCE)
        return header + nonce + AESGCM(key).encrypt(nonce, entry.encode(), _before_header(self._vault) + header)


@final
class Opener:
    """Opens a vault's entries with the raw private keys of its auditors: each entry is sealed to that of its time."""

    def __init__(self, vault: str, secrets: Sequence[bytes]) -> None:
        self._vault = vault
        self._before_header = _before_header(vault)
        self._secrets = [X25519PrivateKey.from_private_bytes(secret) for secret in secrets]
        self._sessions: OrderedDict[bytes, bytes] = OrderedDict()

    def open(self, sealed: bytes) -> Entry:
        """The entry; raises IntegrityError."""
        return Entry.decode(self.plain(sealed))

    def plain(self, sealed: bytes) -> bytes:
        """The entry as canonical JSON; raises IntegrityError."""
        return _open(sealed, self._before_header, self.entry_key(sealed))

    def entry_key(self, sealed: bytes) -> bytes:
        """The key of this entry alone, of 32 bytes; raises IntegrityError."""
        if len(sealed) < _SHORTEST or sealed[:1] != _VERSION or sealed[_SESSION_END] >= SESSION_ENTRIES:
            raise IntegrityError("a log entry is not sealed in a way that this release knows")
        number = sealed[_SESSION_END]
        session = sealed[1:_SESSION_END]
        keys = self._sessions.get(session) or self._begin(session)
        return keys[number * _KEY : (number + 1) * _KEY]

    def _begin(self, session: bytes) -> bytes:
        found = self._sessions[session] = _keys(self._secret(session), self._vault)
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return found

    def _secret(self, session: bytes) -> bytes:
        # The newest auditor first: most of what is read is new.
        for secret in reversed(self._secrets):
            try:
                return _SUITE.decrypt(session, secret, info=_info(self._vault))
            except (InvalidTag, ValueError):
                continue
        raise IntegrityError(_REFUSAL)


def open_with_key(sealed: bytes, vault: str, key: bytes) -> Entry:
    """Open one entry with its own key, as an auditor gave it away; raises IntegrityError."""
    return Entry.decode(_open(sealed, _before_header(vault), key))


def _open(sealed: bytes, before_header: bytes, key: bytes) -> bytes:
    header = sealed[:_HEADER]
    if len(sealed) < _SHORTEST or len(key) != _KEY:
        raise IntegrityError(_REFUSAL)
    # Under an auditor's own keys too. AES-GCM commits to no key: whoever seals could make an entry that opens to other
    # words under a second key, commit to that one, and give it away. So nothing is read that could not be disclosed.
    if not hmac.compare_digest(_commitment(key), header[-32:]):
        raise IntegrityError(_REFUSAL)
    try:
        return AESGCM(key).decrypt(sealed[_HEADER:_BODY], sealed[_BODY:], before_header + header)
    except (InvalidTag, ValueError) as error:
        raise IntegrityError(_REFUSAL) from error
