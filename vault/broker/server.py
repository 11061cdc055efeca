"""Running the broker under uvicorn."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from vault.broker.heads import BoundedHeads
from vault.errors import InvalidInput

__all__ = ["ServeOptions", "serve"]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where the broker listens; port 0 takes a free one. TLS needs both files."""

    host: str = "127.0.0.1"
    port: int = 8750
    tls_cert: str | None = None
    tls_key: str | None = None


def serve(app: FastAPI, options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve until a signal comes; ``ready`` is told the base URL once the socket listens.

    Raises InvalidInput when the address cannot be listened on or the TLS files cannot be used.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key go together")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # A client whose proofs are refused for its clock learns of that from the Date header.
        date_header=True,
        # Who the client is, is what the socket says: no header of its own changes the address or the scheme.
        proxy_headers=False,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        http=BoundedHeads,
    )
    try:
        config.load()
    except OSError as error:
        raise InvalidInput("--tls-cert, --tls-key: the files cannot be used") from error
    listener = _listen(options)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if options.tls_cert else "http"
    ready(f"{scheme}://{shown}:{port}")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(options: ServeOptions) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"--host, --port: cannot listen on {options.host}:{options.port}") from error
    return listener
