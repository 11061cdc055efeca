"""A KMS in local files: one keystore file for each AES-256 key.

The owner's key lies in the owner's folder and vendors' keys in the broker's; a process that was given no owner
folder does not hold the owner's key. A blob is ``version 1 | nonce 12 | ciphertext | tag 16`` under AES-256-GCM with
a fresh random nonce, its AAD the key's id and the sorted context. Without a passphrase whoever can read the
files holds the keys, and whoever can write them can enable one: the files' protection is the system's.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault import keyfile
from vault.encoding import canonical, is_id, new_id
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms.protocol import DataKey, KeyState

__all__ = ["LocalKms"]

_KIND: Final = "local KMS key"
_PREFIX: Final = "local:"
_VERSION: Final = b"\x01"
_NONCE: Final = 12
_MAX_PLAINTEXT: Final = 4096


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    """An unsealed key, and which file it was read from: another file in its place is read anew."""

    stamp: tuple[int, int, int]
    cipher: AESGCM


@final
class LocalKms:
    """Keys in files below one or two folders; see `vault.kms.Kms` for what each method promises."""

    def __init__(
        self, owner: Path | None, broker: Path | None, passphrase: str | None, *, scrypt_n: int = keyfile.SCRYPT_N
    ) -> None:
        self._owner = owner
        self._broker = broker
        self._passphrase = passphrase
        self._n = scrypt_n
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def create_key(self, label: str, *, owner: bool = False) -> str:  # noqa: ARG002
        """Make a key file in the owner's or the broker's folder; the label is not kept."""
        folder = self._owner if owner else self._broker
        if folder is None:
            raise KeyUnavailable("this process was not given the folder that the key belongs into")
        identifier = new_id()
        path = folder / f"{identifier}.json"
        keyfile.write_new(path, _KIND, identifier, os.urandom(32), self._passphrase, n=self._n)
        return _PREFIX + identifier

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh data key from the system's generator."""
        plaintext = os.urandom(32)
        return DataKey(plaintext, self.wrap(key, plaintext, context))

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap under a fresh nonce."""
        if len(plaintext) > _MAX_PLAINTEXT:
            raise KmsError("a KMS key wraps at most 4,096 bytes")
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher(key).encrypt(nonce, plaintext, _aad(key, context))

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open a blob; raises KmsError or KeyUnavailable."""
        cipher = self._cipher(key)
        if wrapped[:1] != _VERSION:
            raise KmsError("a wrapped key has a format that this release does not know")
        try:
            return cipher.decrypt(wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :], _aad(key, context))
        except (InvalidTag, ValueError) as error:
            raise KmsError("a wrapped key does not open under this KMS key and context") from error

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """Wrap anew under another key."""
        return self.wrap(target, self.unwrap(source, wrapped, context), context)

    def disable_key(self, key: str) -> None:
        """Write the state into the key's file."""
        self._move(key, KeyState.DISABLED)

    def enable_key(self, key: str) -> None:
        """Write the state into the key's file."""
        self._move(key, KeyState.ENABLED)

    def destroy_key(self, key: str) -> None:
        """Put a tombstone without material in the file's place."""
        path = self._path(key)
        with keyfile.exclusive(path.parent):
            header = keyfile.read_header(path, _KIND)
            destroyed = keyfile.with_state(header, KeyState.DESTROYED.value)
            keyfile.write_replacing(path, destroyed, None, None)
        with self._lock:
            self._held.pop(key, None)

    def state(self, key: str) -> KeyState:
        """What the key's file says."""
        try:
            return KeyState(keyfile.read_header(self._path(key), _KIND).state)
        except KeyUnavailable:
            return KeyState.ABSENT

    def change_passphrase(self, new: str | None) -> None:
        """Seal every key file anew; a file that a killed run has already sealed is passed over."""
        for folder in (self._owner, self._broker):
            if folder is None or not folder.is_dir():
                continue
            with keyfile.exclusive(folder):
                for path in sorted(folder.glob("*.json")):
                    self._reseal(path, new)
        self._passphrase = new
        with self._lock:
            self._held.clear()

    def _reseal(self, path: Path, new: str | None) -> None:
        header = keyfile.read_header(path, _KIND)
        if header.state == KeyState.DESTROYED:
            return
        try:
            material = keyfile.read(path, _KIND, self._passphrase)
        except InvalidInput:
            keyfile.read(path, _KIND, new)
            return
        keyfile.write_replacing(path, header, material, new, n=self._n)

    def _move(self, key: str, state: KeyState) -> None:
        path = self._path(key)
        with keyfile.exclusive(path.parent):
            header = keyfile.read_header(path, _KIND)
            if header.state == KeyState.DESTROYED:
                raise KeyUnavailable("the KMS key was destroyed")
            material = keyfile.read(path, _KIND, self._passphrase)
            keyfile.write_replacing(
                path, keyfile.with_state(header, state.value), material, self._passphrase, n=self._n
            )

    def _path(self, key: str) -> Path:
        identifier = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or not is_id(identifier):
            raise KeyUnavailable("the KMS key is not one of this keystore's")
        for folder in (self._broker, self._owner):
            if folder is not None and (path := folder / f"{identifier}.json").exists():
                return path
        raise KeyUnavailable("the KMS key is not held here")

    def _cipher(self, key: str) -> AESGCM:
        path = self._path(key)
        try:
            status = path.stat()
        except OSError as error:
            raise KeyUnavailable("the KMS key is not held here") from error
        # A change of state or secret puts another file in this one's place, so a look at it is enough.
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            held = self._held.get(key)
        if held is not None and held.stamp == stamp:
            return held.cipher
        header = keyfile.read_header(path, _KIND)
        if header.state != KeyState.ENABLED or header.id != key.removeprefix(_PREFIX):
            raise KeyUnavailable(f"the KMS key is {header.state}")
        cipher = AESGCM(keyfile.read(path, _KIND, self._passphrase))
        with self._lock:
            self._held[key] = _Held(stamp, cipher)
        return cipher

    def __repr__(self) -> str:
        return f"LocalKms({len(self._held)} keys open)"


def _aad(key: str, context: Mapping[str, str]) -> bytes:
    pairs = [part for item in sorted(context.items()) for part in item]
    return canonical("dsvault local kms", key.removeprefix(_PREFIX), *pairs)
