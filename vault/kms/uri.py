"""Opening a KMS by its URI."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from vault.errors import InvalidInput
from vault.kms.local import LocalKms
from vault.kms.protocol import Kms

__all__ = ["open_kms"]

_SCHEMES = "local: (a keystore inside the vault) and local:///path"


def open_kms(uri: str, *, owner: Path | None, broker: Path | None, passphrase: str | None) -> Kms:
    """The KMS of a URI: ``local:`` (keystore files inside ``owner`` and ``broker``) or ``local:///path``.

    ``owner`` and ``broker`` are the vault's folders that this process may use; with a path of its own the keystore
    has the same two folders below it, and uses those that were given. Raises InvalidInput.
    """
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise InvalidInput(f"--kms: this is not a URI; there are {_SCHEMES}") from error
    if parts.scheme != "local":
        raise InvalidInput(f"--kms: there is no KMS of the scheme {parts.scheme[:40]!r}; there are {_SCHEMES}")
    if parts.netloc or parts.query or parts.fragment or "\0" in path:
        raise InvalidInput(f"--kms: a local keystore takes no host, query or fragment; there are {_SCHEMES}")
    if not path:
        return LocalKms(_below(owner, "kms"), _below(broker, "kms"), passphrase)
    base = Path(path)
    if not base.is_absolute():
        raise InvalidInput(f"--kms: the keystore's path is not absolute; there are {_SCHEMES}")
    return LocalKms(base / "owner" if owner else None, base / "broker" if broker else None, passphrase)


def _below(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None else None
