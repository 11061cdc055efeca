"""The broker: authenticates over HTTP, calls the access path, and encodes its answers."""

from vault.broker.app import LOOPBACK, create_app
from vault.broker.server import ServeOptions, serve

__all__ = ["LOOPBACK", "ServeOptions", "create_app", "serve"]
