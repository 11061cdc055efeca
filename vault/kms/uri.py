"""Opening a KMS by its URI."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from vault.errors import InvalidInput
from vault.kms.local import LocalKms
from vault.kms.protocol import Kms

__all__ = ["open_kms"]


def open_kms(uri: str, *, owner: Path | None, broker: Path | None, passphrase: str | None) -> Kms:
    """The KMS of a URI: ``local:`` (keystore files inside ``owner`` and ``broker``) or ``local:///path``.

    ``owner`` and ``broker`` are the vault's folders that this process may use. Raises InvalidInput.
    """
    parts = urlsplit(uri)
    if parts.scheme != "local" or parts.netloc or parts.query or parts.fragment:
        raise InvalidInput("--kms: use local: or local:///path")
    if not parts.path:
        return LocalKms(_below(owner), _below(broker), passphrase)
    base = Path(unquote(parts.path))
    if not base.is_absolute():
        raise InvalidInput("--kms: local:// takes an absolute path")
    return LocalKms(base / "owner" if owner else None, base / "broker" if broker else None, passphrase)


def _below(folder: Path | None) -> Path | None:
    return folder / "kms" if folder is not None else None
