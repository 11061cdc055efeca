"""The broker: authenticates over HTTP, calls the access path, and encodes its answers."""

from vault.broker.app import create_app
from vault.broker.server import serve

__all__ = ["create_app", "serve"]
