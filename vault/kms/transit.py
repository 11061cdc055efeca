"""A KMS in the transit engine of OpenBao (or HashiCorp Vault): AES-256-GCM keys that never leave the server.

A holder has one transit key, and its successors are that key's versions, so the policies that name the key outlive a
rotation. A reference is ``transit:NAME:VERSION``. A version is disabled by raising the engine's
``min_decryption_version`` and ``min_encryption_version`` above it, and destroyed by trimming the key above it; the
newest version is rotated first, so that there is one to go on from. Ending a version ends the versions before it too,
and a version can only be enabled together with those after it: `enable_key` refuses where that would enable others.

An answer counts only if it is what the request asks for: a portal's page or a redirect in the engine's place must not
pass for a key, nor for a key's end. What was changed is read again before it is reported as done.

The context goes along as ``associated_data``. The engine's own rewrap takes none (it answers "message authentication
failed"), so `rewrap` opens and wraps anew in this process; see decision 0009. A blob is ``version 1 | what the engine's
text form carries``, without the text's prefix and base64, both of which would bear small changes unnoticed.
"""

import base64
import binascii
import json
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, final
from urllib.parse import quote

from vault.encoding import canonical, new_id
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms.protocol import DataKey, KeyState

__all__ = ["TransitKms", "associated_data", "associated_data_prefix", "read_associated_data"]

_LOG = logging.getLogger("dsvault.kms")
_REFERENCE: Final = re.compile(r"transit:(dsvault-[0-9a-f]{32}-[0-9a-f]{8}):([1-9][0-9]{0,8})")
_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_MAX_PLAINTEXT: Final = 4096
_EPOCH: Final = "dsvault:epoch"
_ODD: Final = "the KMS answered in a form that this release does not know"
#: How long a token that could not be looked up or renewed is left before the next try, in seconds.
_RETRY_SECONDS: Final = 5.0
_TRIES: Final = 4
_UNUSABLE: Final = (
    "too old",
    "less than the minimum",
    "version is too new",
    "higher than the latest",
    "key not found",
    "soft-deleted",
    "permission denied",
)


def associated_data(context: Mapping[str, str]) -> bytes:
    """A context's bytes: its sorted pairs, the epoch's last, so that a policy can hold a prefix without it."""
    return _leading(context) + (canonical(_EPOCH, context[_EPOCH]) if _EPOCH in context else b"")


def associated_data_prefix(context: Mapping[str, str]) -> str:
    """What the base64 of `associated_data` begins with for every epoch of a context, and for no other context.

    Whole groups of three bytes only; what is cut off are bytes of the epoch's name, never of what comes before it.
    """
    whole = _leading(context) + canonical(_EPOCH)
    return base64.b64encode(whole[: len(whole) // 3 * 3]).decode("ascii")


def read_associated_data(data: bytes) -> dict[str, str] | None:
    """The inverse of `associated_data`; None for bytes that it makes of no context."""
    parts, rest = [], data
    while rest:
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size:
            return None
        parts.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    try:
        texts = [part.decode() for part in parts[2:]]
        context = dict(zip(texts[::2], texts[1::2], strict=True))
    except ValueError:
        return None
    return context if associated_data(context) == data else None


def _leading(context: Mapping[str, str]) -> bytes:
    pairs = [part for item in sorted(context.items()) if item[0] != _EPOCH for part in item]
    try:
        return canonical("dsvault transit", len(context), *pairs)
    except UnicodeEncodeError as error:
        raise KmsError("a context holds what is not a Unicode character") from error


@final
class TransitKms:
    """Keys of one transit mount; see `vault.kms.Kms` for what each method promises.

    ``address`` is the server's URL. The token is renewed at half of its time to live for as long as this object
    lives. Raises InvalidInput where the package hvac is missing.
    """

    def __init__(
        self,
        address: str,
        mount: str,
        token: str,
        *,
        namespace: str | None = None,
        ca_file: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._mount = mount
        self._client = _connect(address, token, namespace, ca_file, timeout)
        self._renewal = _Renewal(weakref.WeakMethod(self._call))
        self._checked_upsert = False

    @property
    def destruction(self) -> str:
        """What `destroy_key` leaves."""
        return (
            "the engine has forgotten the key's material at once; snapshots and backups of its storage "
            "may still hold it"
        )

    def create_key(self, label: str, *, owner: bool = False) -> str:  # noqa: ARG002
        """Make a transit key that cannot be exported, named after the label."""
        self._refuse_upserts()
        name = f"dsvault-{label}-{new_id()[:8]}"
        # Several threads or a lost answer may send it twice: making a key that is there changes nothing.
        self._call("post", f"keys/{name}", {"type": "aes256-gcm96", "exportable": False})
        self._usable_info(name)
        return f"transit:{name}:1"

    def rotate_key(self, key: str, label: str) -> str:  # noqa: ARG002
        """Make the key's next version."""
        name, _ = self._place(key)
        before = self._usable_info(name)["latest_version"]
        self._call("post", f"keys/{name}/rotate", {})
        made = self._usable_info(name)["latest_version"]
        _done(made > before)
        return f"transit:{name}:{made}"

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh data key from the system's generator: HashiCorp Vault's own takes no associated data."""
        plaintext = os.urandom(_KEY_BYTES)
        return DataKey(plaintext, self.wrap(key, plaintext, context))

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap under the version that the reference names."""
        if len(plaintext) > _MAX_PLAINTEXT:
            raise KmsError("a KMS key wraps at most 4,096 bytes")
        name, version = self._place(key)
        body = {
            "plaintext": _text(plaintext),
            "associated_data": _text(associated_data(context)),
            "key_version": version,
        }
        found = _string(self._call("post", f"encrypt/{name}", body), "ciphertext")
        prefix = f"vault:v{version}:"
        if not found.startswith(prefix):
            raise KmsError("the KMS wrapped a key in a form that this release does not know")
        return _VERSION + _bytes(found.removeprefix(prefix))

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open a blob."""
        name, version = self._place(key)
        if wrapped[:1] != _VERSION or len(wrapped) == 1:
            raise KmsError("a wrapped key has a format that this release does not know")
        body = {
            "ciphertext": f"vault:v{version}:{_text(wrapped[1:])}",
            "associated_data": _text(associated_data(context)),
        }
        return _bytes(_string(self._call("post", f"decrypt/{name}", body), "plaintext"))

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """Wrap anew under another key or version."""
        return self.wrap(target, self.unwrap(source, wrapped, context), context)

    def disable_key(self, key: str) -> None:
        """Raise the least version that opens and wraps above this one."""
        name, version = self._place(key)
        info = self._held_info(name, version)
        if version < info["min_decryption_version"]:
            return
        self._leave(name, version, info)
        self._set_least(name, version + 1)

    def enable_key(self, key: str) -> None:
        """Lower the least version that opens and wraps to this one; raises KmsError where more would be enabled."""
        name, version = self._place(key)
        least = self._held_info(name, version)["min_decryption_version"]
        if version + 1 < least:
            raise KmsError(
                f"the engine enables no version without those after it: transit:{name}:{least - 1} comes first"
            )
        if version < least:
            self._set_least(name, version)

    def destroy_key(self, key: str) -> None:
        """Trim the key above this version: the engine forgets its material and that of the versions before it."""
        name, version = self._place(key)
        info = self._usable_info(name)
        if version > info["latest_version"]:
            raise KeyUnavailable("the KMS key is not one of this KMS's")
        if version < info["min_available_version"]:
            return
        self._leave(name, version, info)
        if version >= info["min_decryption_version"]:
            self._set_least(name, version + 1)
        self._call("post", f"keys/{name}/trim", {"min_available_version": version + 1})
        _done(version < self._usable_info(name)["min_available_version"])

    def state(self, key: str) -> KeyState:
        """What the engine says of the key's version."""
        try:
            name, version = self._place(key)
            info = self._usable_info(name)
        except KeyUnavailable:
            return KeyState.ABSENT
        if version > info["latest_version"]:
            return KeyState.ABSENT
        if version < info["min_available_version"]:
            return KeyState.DESTROYED
        return KeyState.DISABLED if version < info["min_decryption_version"] else KeyState.ENABLED

    def reach(self) -> None:
        """Let the token look itself up, which OpenBao's ``default`` policy allows: sealed or expired is refused."""
        self._call("get", "auth/token/lookup-self", auth=True)

    def create_signing_key(self, label: str) -> str:
        """Make an Ed25519 key."""
        name = f"dsvault-{label}-{new_id()[:8]}"
        self._call("post", f"keys/{name}", {"type": "ed25519", "exportable": False})
        return f"transit:{name}:1"

    def public_key(self, key: str) -> bytes:
        """The public half as the engine shows it."""
        name, version = self._place(key)
        versions = self._call("get", f"keys/{name}").get("keys")
        entry = versions.get(str(version)) if isinstance(versions, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("public_key"), str):
            raise KeyUnavailable("the KMS key is not a signing key, or not there")
        return _bytes(entry["public_key"])

    def sign(self, key: str, message: bytes) -> bytes:
        """Sign with the version that the reference names."""
        name, version = self._place(key)
        found = self._call("post", f"sign/{name}", {"input": _text(message), "key_version": version})
        return _bytes(_string(found, "signature").removeprefix(f"vault:v{version}:"))

    def audit_hash(self, device: str, text: str) -> str:
        """What stands in the file of an audit device in the place of a text; needs a policy for sys/audit-hash."""
        return _string(self._call("post", f"sys/audit-hash/{quote(device)}", {"input": text}, auth=True), "hash")

    def close(self) -> None:
        """End the renewal of the token."""
        self._renewal.stop()

    def _place(self, key: str) -> tuple[str, int]:
        match = _REFERENCE.fullmatch(key)
        if match is None:
            raise KeyUnavailable("the KMS key is not one of this KMS's")
        return match[1], int(match[2])

    def _usable_info(self, name: str) -> dict[str, int]:
        found = self._call("get", f"keys/{name}")
        fields = ("latest_version", "min_available_version", "min_decryption_version")
        if not all(isinstance(found.get(field), int) for field in fields):
            raise KmsError(_ODD)
        return {field: found[field] for field in fields}

    def _held_info(self, name: str, version: int) -> dict[str, int]:
        info = self._usable_info(name)
        if version > info["latest_version"]:
            raise KeyUnavailable("the KMS key is not one of this KMS's")
        if version < info["min_available_version"]:
            raise KeyUnavailable("the KMS key was destroyed")
        return info

    def _leave(self, name: str, version: int, info: dict[str, int]) -> None:
        """See to it that there is a version after this one: the engine never ends its newest."""
        if version == info["latest_version"]:
            self._call("post", f"keys/{name}/rotate", {})

    def _set_least(self, name: str, version: int) -> None:
        body = {"min_decryption_version": version, "min_encryption_version": version}
        self._call("post", f"keys/{name}/config", body)
        _done(self._usable_info(name)["min_decryption_version"] == version)

    def _refuse_upserts(self) -> None:
        """Turn off that the engine makes an unknown key of any name when something is wrapped under it."""
        if self._checked_upsert:
            return
        if not self._call("get", "config/keys").get("disable_upsert"):
            self._call("post", "config/keys", {"disable_upsert": True})
        self._checked_upsert = True

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, auth: bool = False
    ) -> dict[str, Any]:
        """One request; retried by the session where that is safe. Returns the answer's data, empty where it has none.

        What fails is raised anew without its cause: a request's object holds the token and what was wrapped.
        """
        import hvac
        import requests

        place = path if auth else f"{self._mount}/{path}"
        try:
            answer = self._client.adapter.request(method, f"/v1/{place}", json=body)
            found = _data(answer.status_code, answer.content)
        except hvac.exceptions.VaultError as error:
            raise _refusal(error) from None
        except (requests.RequestException, ValueError, AttributeError) as error:
            raise KmsError(f"the KMS could not be reached or did not answer ({type(error).__name__})") from None
        if not auth:
            self._renewal.begin()
        return found

    def __repr__(self) -> str:
        return f"TransitKms({self._mount})"


def _data(status: int, body: bytes) -> dict[str, Any]:
    """What an answer holds; raises KmsError for whatever the engine does not answer."""
    if status == 204 and not body:
        return {}
    try:
        document = json.loads(body) if status == 200 else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KmsError(_ODD)
    found = document.get("data") or document.get("auth") or {}
    if not isinstance(found, dict):
        raise KmsError(_ODD)
    return found


def _string(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise KmsError(_ODD)
    return value


def _done(changed: bool) -> None:
    """Raises KmsError where the engine does not say that what was asked for is so."""
    if not changed:
        raise KmsError("the KMS answered without doing what it was asked")


def _refusal(error: Any) -> KmsError:
    """The engine's answer as a sentence of ours: its own may quote what was sent."""
    said = " ".join(str(each) for each in (error.errors or ())) if isinstance(error.errors, list | tuple) else ""
    status = type(error).__name__
    if status == "Forbidden":
        return KeyUnavailable("the KMS does not let this process's token do that (permission denied)")
    if status == "InvalidPath" or any(sign in said for sign in _UNUSABLE):
        return KeyUnavailable("the KMS key is disabled, destroyed or not there")
    if "message authentication failed" in said or "invalid ciphertext" in said:
        return KmsError("a wrapped key does not open under this KMS key and context")
    return KmsError(f"the KMS refused or failed ({status})")


def _connect(address: str, token: str, namespace: str | None, ca_file: str | None, timeout: float) -> Any:
    try:
        import hvac
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry
    except ImportError as error:
        raise InvalidInput("--kms: transit:// needs the package hvac: install dsvault[transit]") from error
    # Every request may be repeated (see the protocol), so an answer that was lost is asked for again. 412 is what a
    # standby says that has not caught up yet.
    retry = Retry(
        total=_TRIES,
        connect=_TRIES,
        read=_TRIES,
        status_forcelist=(412, 429, 500, 502, 503, 504),
        allowed_methods=None,
        backoff_factor=0.1,
        backoff_jitter=0.2,
        backoff_max=5.0,
        raise_on_status=False,
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry, pool_maxsize=32))
    session.mount("https://", HTTPAdapter(max_retries=retry, pool_maxsize=32))
    # Neither proxies nor credentials from a .netrc: the token goes to the address that was configured.
    session.trust_env = False
    return hvac.Client(
        url=address,
        token=token,
        namespace=namespace,
        verify=ca_file or True,
        timeout=timeout,
        session=session,
        allow_redirects=False,
        adapter=hvac.adapters.RawAdapter,
    )


class _Renewal:
    """Renews the token at half of its time to live, from the first use on, while what makes the calls lives."""

    def __init__(self, call: "weakref.WeakMethod[Callable[..., Any]]") -> None:
        self._call = call
        self._begun = self._stopped = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        with self._lock:
            call = None if self._begun else self._call()
            self._begun = True
        if call is not None:
            self._look(call)

    def _look(self, call: Callable[..., Any]) -> None:
        """Learn how long the token lives; asked again later unless the server says that it may not ask."""
        try:
            found = call("get", "auth/token/lookup-self", auth=True)
        except KeyUnavailable:
            _LOG.warning("the KMS token cannot look itself up, so it is not renewed")
            return
        except KmsError as error:
            _LOG.warning("the KMS token could not be looked up: %s", error)
            self._schedule(_RETRY_SECONDS, self._look)
            return
        if found.get("renewable") and (life := _seconds(found.get("ttl"))):
            self._schedule(life / 2, self._renew)

    def _schedule(self, seconds: float, act: Callable[[Callable[..., Any]], None]) -> None:
        def run() -> None:
            call = self._call()
            if call is not None:
                act(call)

        with self._lock:
            if self._stopped:
                return
            self._timer = threading.Timer(max(seconds, 0.5), run)
            self._timer.daemon = True
            self._timer.start()

    def _renew(self, call: Callable[..., Any]) -> None:
        try:
            life = _seconds(call("post", "auth/token/renew-self", {}, auth=True).get("lease_duration"))
        except KmsError as error:
            _LOG.warning("the KMS token could not be renewed: %s", error)
            life = 2 * _RETRY_SECONDS
        if life:
            self._schedule(life / 2, self._renew)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise KmsError(_ODD) from error
