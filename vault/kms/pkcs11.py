"""A KMS in a hardware security module, over PKCS#11: AES-256 keys that never leave the module.

Vendors' keys lie in one token and the owner's key in another, whose PIN a broker is not given. A reference is
``pkcs11:ID``, ID being the key's CKA_ID in hex. A blob is ``version 1 | nonce 12 | ciphertext | tag 16`` under
AES-256-GCM with a fresh random nonce, its AAD the key's id and the sorted context, as in a local keystore
(``docs/reference/format.md`` section 8).

A key is disabled by its attributes CKA_ENCRYPT and CKA_DECRYPT, so that the token itself refuses it. A destroyed key
leaves a data object, its tombstone; that is written before the key goes, and a key that has one is destroyed.

A process calls a library's C_Initialize once, logs in to a token once, and here promises no concurrent calls (PKCS#11
v2.40 section 5.4): all clients of a library share one session for each token and one lock. What PKCS#11 raises is
never passed on, and a PIN is in no error and no repr. A PIN that was refused is not tried twice, since tokens lock.
"""

import hmac
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, final

from vault.encoding import canonical, is_id, new_id
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms.protocol import DataKey, KeyState

__all__ = ["Pkcs11Kms"]

_PREFIX: Final = "pkcs11:"
_LABEL: Final = "dsvault-"
_TOMBSTONE: Final = "dsvault-destroyed-"
_VERSION: Final = b"\x01"
_NONCE: Final = 12
_TAG: Final = 16
_KEY_BYTES: Final = 32
_MAX_PLAINTEXT: Final = 4096
_TAMPERED: Final = "a wrapped key does not open under this KMS key and context"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Place:
    """A token of a library, the PIN for it, and the environment variable that the PIN is from."""

    module: str
    token: str
    pin: str = field(repr=False)
    variable: str


@final
class Pkcs11Kms:
    """Keys of one or two tokens; see `vault.kms.Kms` for what each method promises.

    ``module`` is the path of the HSM's PKCS#11 library. Without ``owner_token`` and ``owner_pin`` the owner's key is
    not held here. The HSM is first asked when a key is used. Raises InvalidInput where the package python-pkcs11 or
    the library is missing.
    """

    def __init__(
        self, module: str, token: str, pin: str | None, owner_token: str | None, owner_pin: str | None
    ) -> None:
        try:
            import pkcs11  # noqa: F401
        except ImportError as error:
            raise InvalidInput("--kms: pkcs11:// needs the extra dsvault[pkcs11]") from error
        if not os.path.isfile(module):
            raise InvalidInput(f"--kms: there is no PKCS#11 library at {module}")
        # By its real path, as one library under two names must not be initialised twice.
        module = os.path.realpath(module)
        self._vendors = _Place(module, token, pin or "", "DSVAULT_PKCS11_PIN")
        self._owner: _Place | None = None
        if owner_token and owner_pin:
            self._owner = _Place(module, owner_token, owner_pin, "DSVAULT_PKCS11_OWNER_PIN")
        self._places: dict[str, _Place] = {}

    @property
    def destruction(self) -> str:
        """What `destroy_key` leaves."""
        return (
            "the HSM has destroyed the key at once; backups of the token, and HSMs that it was cloned to, may still "
            "hold it"
        )

    def create_key(self, label: str, *, owner: bool = False) -> str:
        """Make a key inside the HSM that cannot be extracted."""
        place = self._owner if owner else self._vendors
        if place is None:
            raise KeyUnavailable("this process was not given the owner's token and DSVAULT_PKCS11_OWNER_PIN")
        return self._create(place, label)

    def rotate_key(self, key: str, label: str) -> str:
        """Make another key in the key's own token."""
        return self._create(self._place(key), label)

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh data key from the system's generator."""
        plaintext = os.urandom(_KEY_BYTES)
        return DataKey(plaintext, self.wrap(key, plaintext, context))

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap under a fresh nonce."""
        if len(plaintext) > _MAX_PLAINTEXT:
            raise KmsError("a KMS key wraps at most 4,096 bytes")
        aad = _aad(key, context)

        def work(session: _Session, held: Any) -> bytes:
            # Random nonces are safe for 2**32 blobs under one key (NIST SP 800-38D section 8.3); a key wraps a few
            # for each column and epoch. Drawn here, so that a call that is made again has another.
            nonce = os.urandom(_NONCE)
            return _VERSION + nonce + session.encrypt(held, nonce, aad, plaintext)

        return self._use(key, work)

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open a blob."""
        aad = _aad(key, context)
        nonce, sealed = wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :]

        def work(session: _Session, held: Any) -> bytes:
            if wrapped[:1] != _VERSION:
                raise KmsError("a wrapped key has a format that this release does not know")
            if len(sealed) < _TAG:
                raise KmsError(_TAMPERED)
            return session.decrypt(held, nonce, aad, sealed)

        return self._use(key, work)

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """Wrap anew under another key."""
        return self.wrap(target, self.unwrap(source, wrapped, context), context)

    def disable_key(self, key: str) -> None:
        """Take the key's leave to decrypt and encrypt."""
        self._allow(key, False)

    def enable_key(self, key: str) -> None:
        """Give the key's leave to decrypt and encrypt back."""
        self._allow(key, True)

    def destroy_key(self, key: str) -> None:
        """Write the tombstone, then destroy the key object."""
        identifier = _identifier(key)

        def work(session: _Session) -> None:
            if not session.has_tombstone(identifier):
                session.put_tombstone(identifier)
            for held in session.keys(identifier):
                session.destroy(held)

        _perform(self._place(key), work)

    def state(self, key: str) -> KeyState:
        """What the token says of the key."""
        try:
            identifier, place = _identifier(key), self._place(key)
        except KeyUnavailable:
            return KeyState.ABSENT
        return _perform(place, lambda session: _state(session, identifier, session.keys(identifier)))

    def reach(self) -> None:
        """Log in to the tokens, and look for a key that there is not."""
        for place in (self._vendors, self._owner):
            if place is not None:
                _perform(place, lambda session: session.keys("00"))

    def _create(self, place: _Place, label: str) -> str:
        identifier = new_id()
        _perform(place, lambda session: session.generate(identifier, label))
        self._places[identifier] = place
        return _PREFIX + identifier

    def _place(self, key: str) -> _Place:
        """The token that has the key, or its tombstone; neither ever moves, so the answer is kept."""
        identifier = _identifier(key)
        if identifier in self._places:
            return self._places[identifier]
        for place in filter(None, (self._vendors, self._owner)):
            if _perform(place, lambda session: _knows(session, identifier)):
                self._places[identifier] = place
                return place
        hint = (
            "" if self._owner else "; the owner's key needs DSVAULT_PKCS11_OWNER_PIN and the owner's token in the URI"
        )
        raise KeyUnavailable(f"the KMS key is not held here{hint}")

    def _use(self, key: str, use: "Callable[[_Session, Any], bytes]") -> bytes:
        identifier = _identifier(key)

        def work(session: _Session) -> bytes:
            found = session.keys(identifier)
            _require_enabled(_state(session, identifier, found))
            try:
                return use(session, found[0])
            except KmsError:
                # Another process may just have ended the key, which each token tells in its own way.
                _require_enabled(_state(session, identifier, session.keys(identifier)))
                raise

        return _perform(self._place(key), work)

    def _allow(self, key: str, allowed: bool) -> None:
        identifier = _identifier(key)

        def work(session: _Session) -> None:
            found = session.keys(identifier)
            state = _state(session, identifier, found)
            if state in {KeyState.DESTROYED, KeyState.ABSENT}:
                _require_enabled(state)
            for held in found:
                session.allow(held, allowed)

        _perform(self._place(key), work)

    def __repr__(self) -> str:
        return f"Pkcs11Kms({self._vendors.token!r}, owner={self._owner is not None})"


def _identifier(key: str) -> str:
    identifier = key.removeprefix(_PREFIX)
    if not key.startswith(_PREFIX) or not is_id(identifier):
        raise KeyUnavailable("the KMS key is not one of this KMS's")
    return identifier


def _aad(key: str, context: Mapping[str, str]) -> bytes:
    pairs = [part for item in sorted(context.items()) for part in item]
    try:
        return canonical("dsvault pkcs11 kms", _identifier(key), *pairs)
    except UnicodeEncodeError as error:
        raise KmsError("a context holds what is not a Unicode character") from error


def _knows(session: "_Session", identifier: str) -> bool:
    return bool(session.keys(identifier)) or session.has_tombstone(identifier)


def _state(session: "_Session", identifier: str, found: list[Any]) -> KeyState:
    # A key with a tombstone is one whose destruction was cut short.
    if session.has_tombstone(identifier):
        return KeyState.DESTROYED
    if not found:
        return KeyState.ABSENT
    return KeyState.ENABLED if all(map(_is_allowed, found)) else KeyState.DISABLED


def _is_allowed(held: Any) -> bool:
    """Whether the token lets a key encrypt and decrypt: python-pkcs11 gives an object the methods that it may use."""
    return hasattr(held, "encrypt") and hasattr(held, "decrypt")


def _require_enabled(state: KeyState) -> None:
    if state is KeyState.ABSENT:
        raise KeyUnavailable("the KMS key is not held here")
    if state is not KeyState.ENABLED:
        raise KeyUnavailable(f"the KMS key {'was' if state is KeyState.DESTROYED else 'is'} {state.value}")


class _Session:
    """What is asked of a token that this process is logged in to; raises python-pkcs11's errors, and KmsError."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def keys(self, identifier: str) -> list[Any]:
        """The key objects of an id; there is one, unless somebody copied it."""
        from pkcs11 import Attribute, KeyType, ObjectClass

        wanted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.ID: bytes.fromhex(identifier),
        }
        # Other programs' keys are none of ours, even where a reference names one by its id.
        return [held for held in self._session.get_objects(wanted) if _label(held).startswith(_LABEL)]

    def has_tombstone(self, identifier: str) -> bool:
        """Whether the key of this id was destroyed."""
        from pkcs11 import Attribute, ObjectClass

        wanted = {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: _TOMBSTONE + identifier}
        return bool(list(self._session.get_objects(wanted)))

    def generate(self, identifier: str, label: str) -> None:
        """Make a key."""
        from pkcs11 import Attribute, KeyType, MechanismFlag

        self._session.generate_key(
            KeyType.AES,
            8 * _KEY_BYTES,
            id=bytes.fromhex(identifier),
            label=_LABEL + label,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
                # Or the key could never be disabled.
                Attribute.MODIFIABLE: True,
            },
        )

    def put_tombstone(self, identifier: str) -> None:
        """Write down, for ever, that the key of this id was destroyed."""
        from pkcs11 import Attribute, ObjectClass

        self._session.create_object(
            {
                Attribute.CLASS: ObjectClass.DATA,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: True,
                Attribute.MODIFIABLE: False,
                Attribute.APPLICATION: "dsvault",
                Attribute.LABEL: _TOMBSTONE + identifier,
                Attribute.VALUE: KeyState.DESTROYED.value.encode("ascii"),
            }
        )

    def destroy(self, held: Any) -> None:
        """Destroy a key object."""
        held.destroy()

    def allow(self, held: Any, allowed: bool) -> None:
        """Let a key be used or not; between the two changes it counts as disabled."""
        from pkcs11 import Attribute

        held[Attribute.DECRYPT] = allowed
        held[Attribute.ENCRYPT] = allowed

    def encrypt(self, held: Any, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and tag."""
        from pkcs11 import Mechanism, PKCS11Error

        try:
            return bytes(held.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, aad)))
        except PKCS11Error as error:
            if _is_lost(error):
                raise
            raise KmsError(f"the HSM did not wrap a key ({_said(error)})") from None

    def decrypt(self, held: Any, nonce: bytes, aad: bytes, sealed: bytes) -> bytes:
        """The plaintext; the token checks the tag."""
        from pkcs11 import Mechanism, PKCS11Error

        try:
            return bytes(held.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, aad)))
        except PKCS11Error as error:
            if _is_lost(error):
                raise
            # Libraries have no one code for a tag that does not fit; SoftHSM says GeneralError.
            raise KmsError(f"{_TAMPERED}, or the HSM failed ({_said(error)})") from None


def _gcm(nonce: bytes, aad: bytes) -> Any:
    from pkcs11 import GCMParams

    return GCMParams(nonce, aad, 8 * _TAG)


def _label(held: Any) -> str:
    from pkcs11 import Attribute

    try:
        return str(held[Attribute.LABEL])
    except UnicodeDecodeError:
        return ""


class _Library:
    """A PKCS#11 library as this process uses it: a lock, and a session for each token."""

    def __init__(self, path: str) -> None:
        self.lock = threading.RLock()
        self._path = path
        self._sessions: dict[str, tuple[str, _Session]] = {}
        self._refused: set[tuple[str, str]] = set()

    def session(self, place: _Place) -> _Session:
        """The session with a token; opens it and logs in where that was not done yet."""
        if place.token not in self._sessions:
            self._sessions[place.token] = (place.pin, self._open(place))
        pin, session = self._sessions[place.token]
        # A login is the whole process's; a client with a wrong PIN is not to profit from another one's.
        if not hmac.compare_digest(_bytes(pin), _bytes(place.pin)):
            raise KmsError(f"this process is logged in to the token {place.token!r} with another {place.variable}")
        return session

    def drop(self, place: _Place) -> None:
        """Forget a session that was lost."""
        # It is not closed: python-pkcs11 would log the whole process out.
        self._sessions.pop(place.token, None)

    def _open(self, place: _Place) -> _Session:
        import pkcs11

        if not place.pin:
            raise KmsError(f"the token {place.token!r} needs its PIN: set {place.variable}")
        refusal = f"the token {place.token!r} refused the PIN of {place.variable}; a process does not try it again"
        if (place.token, place.pin) in self._refused:
            raise KmsError(refusal)
        try:
            return _Session(_log_in(_find_token(self._path, place.token), place.pin))
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
            self._refused.add((place.token, place.pin))
            raise KmsError(refusal) from None
        except pkcs11.PinLocked:
            raise KmsError(
                f"the token {place.token!r} has locked its PIN ({place.variable}): its security officer must reset it"
            ) from None
        except pkcs11.NoSuchToken:
            raise KmsError(
                f"the HSM shows no token {place.token!r}: it is not there, not plugged in, or newer than this process"
            ) from None
        except pkcs11.MultipleTokensReturned:
            raise KmsError(f"the HSM has more than one token {place.token!r}") from None


def _bytes(pin: str) -> bytes:
    # What the environment holds need not be UTF-8, and an encoding's error would hold the PIN.
    return pin.encode("utf-8", "surrogatepass")


def _log_in(token: Any, pin: str) -> Any:
    import pkcs11

    if not pin.isprintable():
        # python-pkcs11 encodes it strictly.
        raise pkcs11.PinInvalid
    try:
        return token.open(rw=True, user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open(rw=True)


def _find_token(path: str, label: str) -> Any:
    import pkcs11

    try:
        return pkcs11.lib(path).get_token(token_label=label)
    except pkcs11.PKCS11Error as error:
        if "already initialized" not in str(error):
            raise
    # Other software in this process has initialised the library. An object that was not initialised once more, and so
    # will not finalise it either, gives access to it all the same.
    from pkcs11 import _pkcs11

    uninitialised: Any = _pkcs11.lib
    return uninitialised.__new__(uninitialised, path).get_token(token_label=label)


_LIBRARIES: Final[dict[str, _Library]] = {}
_INHERITED: Final[set[str]] = set()


def _after_fork() -> None:
    """A child has to initialise each library anew (PKCS#11 v2.40 section 5.4), and holds none of its locks."""
    _INHERITED.update(_LIBRARIES)
    _LIBRARIES.clear()


os.register_at_fork(after_in_child=_after_fork)


def _library(path: str) -> _Library:
    import pkcs11

    # One atomic step, so that two threads get the same one.
    library = _LIBRARIES.setdefault(path, _Library(path))
    with library.lock:
        if path in _INHERITED:
            _INHERITED.discard(path)
            pkcs11.lib(path).reinitialize()
    return library


def _is_lost(error: Exception) -> bool:
    """Whether it says that session, login, device or object are gone, so that one may ask once more."""
    import pkcs11

    return isinstance(
        error,
        pkcs11.SessionHandleInvalid
        | pkcs11.SessionClosed
        | pkcs11.DeviceRemoved
        | pkcs11.DeviceError
        | pkcs11.TokenNotPresent
        | pkcs11.TokenNotRecognised
        | pkcs11.UserNotLoggedIn
        | pkcs11.ObjectHandleInvalid
        | pkcs11.KeyHandleInvalid
        | pkcs11.OperationActive,
    )


def _said(error: Exception) -> str:
    """The error's code; where there is a text it is python-pkcs11's own, of a number, a label or a path."""
    return str(error) or type(error).__name__


def _perform(place: _Place, work: Callable[[_Session], Result]) -> Result:
    """Do something with a token; where its session was lost, once more with another one."""
    import pkcs11

    try:
        library = _library(place.module)
        with library.lock:
            try:
                return work(library.session(place))
            except pkcs11.PKCS11Error as error:
                if not _is_lost(error):
                    raise
                library.drop(place)
            return work(library.session(place))
    except pkcs11.PKCS11Error as error:
        raise KmsError(f"the HSM's token {place.token!r} could not be used ({_said(error)})") from None
