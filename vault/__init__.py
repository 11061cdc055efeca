"""dsvault: an encrypted dataset vault.

`init` and `open` are for the lab, `connect` for a vendor. Names are imported when they are first used, so that
a vendor's client does not load a database driver and a command line answers at once.
"""

from typing import TYPE_CHECKING, Any

from vault._version import __version__

if TYPE_CHECKING:
    from vault.client import Client, connect, connect_with_token, delegate
    from vault.owner import Vault, backup_keys, init, open, restore, upgrade

__all__ = [
    "Client",
    "Vault",
    "__version__",
    "backup_keys",
    "connect",
    "connect_with_token",
    "delegate",
    "init",
    "open",
    "restore",
    "upgrade",
]

_HOMES = {
    "Client": "vault.client",
    "Vault": "vault.owner",
    "backup_keys": "vault.owner",
    "connect": "vault.client",
    "connect_with_token": "vault.client",
    "delegate": "vault.client",
    "init": "vault.owner",
    "open": "vault.owner",
    "restore": "vault.owner",
    "upgrade": "vault.owner",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vault' has no attribute {name!r}")
