"""The broker: authenticates over HTTP, calls the access path, and encodes its answers."""

from vault.broker.app import LOOPBACK, create_app
from vault.broker.dumps import forbid_core_dumps
from vault.broker.links import Link
from vault.broker.server import ServeOptions, listen, serve, url_of
from vault.broker.workers import serve_with_workers

__all__ = [
    "LOOPBACK",
    "Link",
    "ServeOptions",
    "create_app",
    "forbid_core_dumps",
    "listen",
    "serve",
    "serve_with_workers",
    "url_of",
]
