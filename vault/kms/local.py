"""A KMS in local files: one keystore file for each AES-256 key.

The owner's key lies in the owner's folder and vendors' keys in the broker's; a process that was given no owner
folder does not hold the owner's key. A blob is ``version 1 | nonce 12 | ciphertext | tag 16`` under AES-256-GCM with
a fresh random nonce, its AAD the key's id and the sorted context (``docs/reference/format.md`` section 8).

What the files protect: under a passphrase a key's state is authenticated with it, so that who may only write the
files can destroy keys but not enable one, save by putting back an older file of it. So disabling asks for the
passphrase; destroying asks for nothing. Without a passphrase whoever can read the files holds the keys, and
whoever can write them can enable one: their protection is the system's.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault import keyfile
from vault.encoding import canonical, is_id, new_id
from vault.errors import IntegrityError, InvalidInput, KeyUnavailable, KmsError
from vault.keyfile import KeyFile, Stamp, stamp_of
from vault.kms.protocol import DataKey, KeyState

__all__ = ["LocalKms"]

_KIND: Final = "local KMS key"
_PREFIX: Final = "local:"
_VERSION: Final = b"\x01"
_NONCE: Final = 12
_MAX_PLAINTEXT: Final = 4096
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    """An unsealed key, and which content of which file it was read from: another one is read anew."""

    path: str
    stamp: Stamp
    cipher: AESGCM


@final
class LocalKms:
    """Keys in files below one or two folders; see `vault.kms.Kms` for what each method promises.

    Raises InvalidInput for an empty passphrase.
    """

    def __init__(
        self, owner: Path | None, broker: Path | None, passphrase: str | None, *, scrypt_n: int = keyfile.SCRYPT_N
    ) -> None:
        _check_passphrase(passphrase)
        self._owner = owner
        self._broker = broker
        # The first one seals; each is tried on what is there, since a change of passphrase takes its time.
        self._passphrases: tuple[str | None, ...] = (passphrase,)
        self._n = scrypt_n
        self._held: dict[str, _Held] = {}
        self._opening = threading.Lock()

    @property
    def destruction(self) -> str:
        """What `destroy_key` leaves."""
        return (
            "the key file's material was overwritten at once; backups and snapshots of the keystore's f"
            "older may still hold it: find and delete them"
        )

    def create_key(self, label: str, *, owner: bool = False) -> str:  # noqa: ARG002
        """Make a key file in the owner's or the broker's folder; the label is not kept."""
        folder = self._owner if owner else self._broker
        if folder is None:
            raise KeyUnavailable("this process was not given the folder that the key belongs into")
        identifier = new_id()
        path = folder / f"{identifier}.json"
        keyfile.write_new(path, _KIND, identifier, os.urandom(_KEY_BYTES), self._passphrases[0], n=self._n)
        return _PREFIX + identifier

    def rotate_key(self, key: str, label: str) -> str:
        """Make another key file beside the key's own."""
        owner = self._owner is not None and self._path(key).parent == self._owner
        return self.create_key(label, owner=owner)

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh data key from the system's generator."""
        plaintext = os.urandom(_KEY_BYTES)
        return DataKey(plaintext, self.wrap(key, plaintext, context))

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap under a fresh nonce."""
        if len(plaintext) > _MAX_PLAINTEXT:
            raise KmsError("a KMS key wraps at most 4,096 bytes")
        # Random nonces are safe for 2**32 blobs under one key (NIST SP 800-38D section 8.3); a key wraps a few
        # for each column and epoch.
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher(key).encrypt(nonce, plaintext, _aad(key, context))

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open a blob."""
        cipher = self._cipher(key)
        if wrapped[:1] != _VERSION:
            raise KmsError("a wrapped key has a format that this release does not know")
        aad = _aad(key, context)
        try:
            return cipher.decrypt(wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :], aad)
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
        """Put a tombstone without material in the file's place.

        Needs no passphrase and does not look at what was there, so that a damaged file can be destroyed too.
        """
        path = self._path(key)
        with keyfile.exclusive(path.parent):
            tombstone = keyfile.Header(_KIND, key.removeprefix(_PREFIX), KeyState.DESTROYED.value)
            keyfile.replace(path, tombstone, None, None)
        self._held.pop(key, None)

    def state(self, key: str) -> KeyState:
        """What the key's file says; it is believed only when the key is used."""
        try:
            return _state(self._load(key))
        except KeyUnavailable:
            return KeyState.ABSENT

    def reach(self) -> None:
        """Look into the folders: one that was not mounted is missing, and one of another user's cannot be read."""
        for folder in (self._owner, self._broker):
            if folder is not None:
                try:
                    os.listdir(folder)
                except OSError as error:
                    raise KmsError("the keystore's folder cannot be read") from error

    def change_passphrase(self, new: str | None) -> int:
        """Seal every key file anew; ``None`` takes the passphrase away. Returns how many files there are.

        A run that was cut short is finished by another one with the same two passphrases: files that are under
        the new one are passed over. While it runs this object opens files under either; a process that was given
        the old one alone has to be started again. Raises InvalidInput for a file that is under a third one, and
        IntegrityError for a damaged one; the files after it are then as they were.
        """
        _check_passphrase(new)
        old = self._passphrases[-1]
        self._passphrases = (new, old)
        count = 0
        for folder in (self._owner, self._broker):
            if folder is None or not folder.is_dir():
                continue
            with keyfile.exclusive(folder):
                for path in sorted(folder.glob("*.json")):
                    keyfile.reseal(path, old, new, n=self._n)
                    count += 1
        self._passphrases = (new,)
        return count

    def _move(self, key: str, state: KeyState) -> None:
        path = self._path(key)
        with keyfile.exclusive(path.parent), _kms_errors():
            file = self._load(key)
            if _state(file) == KeyState.DESTROYED:
                raise KeyUnavailable("the KMS key was destroyed")
            # Opening comes first: it authenticates the state, and a repeated call must not believe a forged one.
            material = self._open(file)
            header = keyfile.Header(_KIND, file.header.id, state.value)
            if header != file.header:
                keyfile.replace(path, header, material, self._passphrases[0], n=self._n)

    def _path(self, key: str) -> Path:
        identifier = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or not is_id(identifier):
            raise KeyUnavailable("the KMS key is not one of this keystore's")
        for folder in (self._broker, self._owner):
            if folder is not None and os.path.exists(path := folder / f"{identifier}.json"):
                return path
        raise KeyUnavailable("the KMS key is not held here")

    def _load(self, key: str) -> KeyFile:
        with _kms_errors():
            return keyfile.load(self._path(key), _KIND, key.removeprefix(_PREFIX))

    def _open(self, file: KeyFile) -> bytes:
        *others, last = self._passphrases
        for passphrase in others:
            try:
                return _checked(file, file.open(passphrase))
            except InvalidInput:
                continue
        return _checked(file, file.open(last))

    def _cipher(self, key: str) -> AESGCM:
        held = self._held.get(key)
        if held is not None and _is_current(held):
            return held.cipher
        # One at a time: scrypt takes 64 MiB for each, and threads that ask for one key open it once.
        with self._opening:
            held = self._held.pop(key, None)
            if held is None or not _is_current(held):
                held = self._fetch(key)
            self._held[key] = held
            return held.cipher

    def _fetch(self, key: str) -> _Held:
        file = self._load(key)
        state = _state(file)
        if state != KeyState.ENABLED:
            raise KeyUnavailable(f"the KMS key is {state.value}")
        with _kms_errors():
            return _Held(str(file.path), file.stamp, AESGCM(self._open(file)))

    def __repr__(self) -> str:
        return f"LocalKms({len(self._held)} keys open)"


def _checked(file: KeyFile, material: bytes) -> bytes:
    # AESGCM would take 16 or 24 bytes too.
    if len(material) != _KEY_BYTES:
        raise IntegrityError(f"{file.path}: the KMS key has not the length of one")
    return material


def _is_current(held: _Held) -> bool:
    try:
        return stamp_of(os.stat(held.path)) == held.stamp
    except OSError:
        return False


def _state(file: KeyFile) -> KeyState:
    try:
        return KeyState(file.header.state)
    except ValueError as error:
        raise KmsError(f"{file.path}: the KMS key is in a state that this release does not know") from error


def _check_passphrase(passphrase: str | None) -> None:
    if passphrase == "":
        raise InvalidInput("an empty passphrase protects nothing; give one, or none at all")


@contextmanager
def _kms_errors() -> Iterator[None]:
    """A key file's faults as the KMS's: to whoever asks for a key they are nothing of their own input."""
    try:
        yield
    except (InvalidInput, IntegrityError) as error:
        raise KmsError(str(error)) from error


def _aad(key: str, context: Mapping[str, str]) -> bytes:
    pairs = [part for item in sorted(context.items()) for part in item]
    try:
        return canonical("dsvault local kms", key.removeprefix(_PREFIX), *pairs)
    except UnicodeEncodeError as error:
        raise KmsError("a context holds what is not a Unicode character") from error
