"""Opening a KMS by its URI."""

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from vault.errors import InvalidInput
from vault.kms.local import LocalKms
from vault.kms.protocol import Kms, SigningKms

__all__ = ["keystore_folders", "open_kms", "open_signing_kms"]

_FORMS: Final = (
    "local: (a keystore inside the vault), local:///path, awskms://[host:port/]?region=R, transit://host:port/mount "
    "and pkcs11:///module.so?token=T&owner-token=O"
)


@dataclass(frozen=True, slots=True)
class _Uri:
    """A URI taken apart, and the vault's folders that this process may use."""

    parts: SplitResult
    path: str
    options: dict[str, str]
    owner: Path | None
    broker: Path | None
    passphrase: str | None

    def only(self, *names: str) -> None:
        """Refuse options that the scheme does not have."""
        for name in self.options.keys() - set(names):
            raise InvalidInput(f"--kms: {self.parts.scheme}:// takes no option {name[:40]!r}; there are {_FORMS}")

    def endpoint(self) -> str | None:
        """The server's URL: https, and http only to this machine itself."""
        try:
            host, port = self.parts.hostname, self.parts.port
        except ValueError as error:
            raise InvalidInput("--kms: the port is not a number") from error
        if self.parts.username is not None or self.parts.password is not None:
            raise InvalidInput(
                "--kms: the URI holds a user name or password; it is kept in the configuration, in clear"
            )
        if host is None:
            return None
        tls = self.options.get("tls", "off" if _is_loopback(host) else "on")
        if tls not in {"on", "off"} or (tls == "off" and not _is_loopback(host)):
            raise InvalidInput("--kms: ?tls= is on, or for this machine itself also off")
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if tls == 'on' else 'http'}://{shown}{f':{port}' if port is not None else ''}"


def open_kms(uri: str, *, owner: Path | None, broker: Path | None, passphrase: str | None) -> Kms:
    """The KMS of a URI: ``local:``, ``awskms://``, ``transit://`` or ``pkcs11://``.

    ``owner`` and ``broker`` are the vault's folders that this process may use. Tokens, PINs and credentials come
    from the environment, never from the URI. Nothing is asked of the KMS yet. Raises InvalidInput.
    """
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise InvalidInput(f"--kms: this is not a URI; there are {_FORMS}") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidInput(f"--kms: there is no KMS of the scheme {parts.scheme[:40]!r}; there are {_FORMS}")
    if parts.fragment or "\0" in path:
        raise InvalidInput(f"--kms: the URI takes no fragment; there are {_FORMS}")
    return _SCHEMES[parts.scheme](_Uri(parts, path, options, owner, broker, passphrase))


def keystore_folders(uri: str, *, owner: Path, broker: Path) -> tuple[Path, Path] | None:
    """Where a local keystore keeps the owner's keys and the vendors'; None for a KMS that is elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme != "local":
        return None
    base = Path(unquote(parts.path))
    return (base / "owner", base / "broker") if parts.path else (owner / "kms", broker / "kms")


def open_signing_kms(uri: str) -> SigningKms:
    """The KMS of a URI that holds signing keys: ``transit://`` or ``awskms://``. Raises InvalidInput."""
    if urlsplit(uri).scheme not in {"transit", "awskms"}:
        raise InvalidInput("--kms: signing keys live in transit:// or awskms://, or in a file")
    opened: Any = open_kms(uri, owner=None, broker=None, passphrase=None)
    signing: SigningKms = opened
    return signing


def _local(uri: _Uri) -> Kms:
    """With a path of its own the keystore has the same two folders below it, and uses those that were given."""
    uri.only()
    if uri.parts.netloc:
        raise InvalidInput(f"--kms: a local keystore takes no host; there are {_FORMS}")
    if not uri.path:
        return LocalKms(_below(uri.owner, "kms"), _below(uri.broker, "kms"), uri.passphrase)
    base = Path(uri.path)
    if not base.is_absolute():
        raise InvalidInput(f"--kms: the keystore's path is not absolute; there are {_FORMS}")
    return LocalKms(base / "owner" if uri.owner else None, base / "broker" if uri.broker else None, uri.passphrase)


def _below(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None else None


def _awskms(uri: _Uri) -> Kms:
    from vault.kms.aws import AwsKms

    uri.only("region", "tls")
    if uri.path not in {"", "/"}:
        raise InvalidInput(f"--kms: awskms:// takes no path; there are {_FORMS}")
    return AwsKms(uri.options.get("region"), endpoint=uri.endpoint())


def _transit(uri: _Uri) -> Kms:
    from vault.kms.transit import TransitKms

    uri.only("tls")
    endpoint, mount = uri.endpoint(), uri.path.strip("/")
    if endpoint is None or not mount:
        raise InvalidInput("--kms: transit:// needs a host, a port and the engine's mount: transit://host:port/mount")
    token = _setting("TOKEN")
    if token is None:
        raise InvalidInput("--kms: transit:// needs a token; set BAO_TOKEN (or VAULT_TOKEN)")
    return TransitKms(endpoint, mount, token, namespace=_setting("NAMESPACE"), ca_file=_setting("CACERT"))


def _setting(name: str) -> str | None:
    """A setting of OpenBao's own tools, or of HashiCorp Vault's."""
    return os.environ.get(f"BAO_{name}") or os.environ.get(f"VAULT_{name}") or None


def _pkcs11(uri: _Uri) -> Kms:
    uri.only("token", "owner-token")
    token, owner_token = uri.options.get("token"), uri.options.get("owner-token")
    if uri.parts.netloc or not uri.path or not token or not owner_token or token == owner_token:
        raise InvalidInput(
            "--kms: pkcs11:// needs the module's path and two tokens: pkcs11:///m.so?token=T&owner-token=O"
        )
    from vault.kms.pkcs11 import Pkcs11Kms

    pin, owner_pin = os.environ.get("DSVAULT_PKCS11_PIN"), os.environ.get("DSVAULT_PKCS11_OWNER_PIN")
    if uri.owner is None:
        return Pkcs11Kms(uri.path, token, pin, None, None)
    return Pkcs11Kms(uri.path, token, pin, owner_token, owner_pin)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_SCHEMES: Final[dict[str, Callable[[_Uri], Kms]]] = {
    "local": _local,
    "awskms": _awskms,
    "transit": _transit,
    "pkcs11": _pkcs11,
}
