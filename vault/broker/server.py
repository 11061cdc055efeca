"""Running the broker under uvicorn."""

import asyncio
import functools
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from vault.broker.closing import Closing
from vault.broker.connections import Connections, Protocol
from vault.broker.tls import server_context
from vault.errors import InvalidInput, Unavailable

__all__ = ["ServeOptions", "listen", "serve", "url_of"]

#: What streams that were told to end have left: the time of a batch, and of the line to the client.
_LAST: Final = timedelta(seconds=5)
_BACKLOG: Final = 1024
#: The catalog, the store, logs: what a process opens beside connections.
_OTHER_FILES: Final = 256


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where the broker listens, port 0 taking a free one, and what it grants a connection. TLS needs both files.

    ``request`` is how long a request may take to come, head and body; ``connections`` are the most at once; ``grace``
    is for how long running streams may go on once the broker is told to stop; ``send`` is for how long a client may
    take nothing of what it is sent.
    """

    host: str = "127.0.0.1"
    port: int = 8750
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    request: timedelta = timedelta(seconds=10)
    connections: int = 1000
    grace: timedelta = timedelta(seconds=10)
    send: timedelta = timedelta(seconds=60)

    def context(self) -> ssl.SSLContext | None:
        """The TLS that it asks for, if any; raises InvalidInput."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidInput("--tls-cert and --tls-key go together")
        if self.tls_cert is None or self.tls_key is None:
            if self.tls_client_ca is not None:
                raise InvalidInput("--tls-client-ca goes with --tls-cert and --tls-key")
            return None
        return server_context(self.tls_cert, self.tls_key, self.tls_client_ca)


class _Server(uvicorn.Server):
    """uvicorn's server, which ends streams in order, and bounds the time of TLS handshakes."""

    def __init__(self, config: uvicorn.Config, options: ServeOptions, closing: Closing, ready: Callable[[], None]):
        super().__init__(config)
        self._options = options
        self._closing = closing
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and listen on the sockets."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise Unavailable("the broker cannot start: its catalog cannot be watched")
        loop, context = asyncio.get_running_loop(), self.config.ssl
        self.servers = []
        for each in sockets or []:
            # A burst of connections is taken one by one: several workers on one socket then share it.
            server = await loop.create_server(
                self._protocol,
                sock=each,
                ssl=context,
                backlog=1,
                ssl_handshake_timeout=self._options.request.total_seconds() if context else None,
                # What was written before the end is still being taken then.
                ssl_shutdown_timeout=self._options.send.total_seconds() if context else None,
            )
            each.listen(_BACKLOG)
            self.servers.append(server)
        self.started = True
        self._ready()

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        built: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return built

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, let streams go on for a while, and then end them where a client can go on."""
        loop = asyncio.get_running_loop()
        ending = loop.call_later(self._options.grace.total_seconds(), self._closing.now)
        await super().shutdown(sockets)
        ending.cancel()


def serve(
    app: FastAPI, options: ServeOptions, ready: Callable[[], None] = lambda: None, *, listener: socket.socket
) -> None:
    """Serve on a listening socket until a signal comes; ``ready`` is called once the broker answers.

    Raises InvalidInput when the TLS files cannot be used, or for more connections than this process may have.
    """
    context = options.context()
    _allow_files(options.connections)
    connections = Connections(
        options.connections, options.request.total_seconds(), options.send.total_seconds(), app.state.metrics
    )
    config = uvicorn.Config(
        app,
        http=functools.partial(Protocol, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        # What uvicorn logs goes where the broker's own lines go, and in their form.
        log_config=None,
        access_log=False,
        server_header=False,
        # A client whose proofs are refused for its clock learns of that from the Date header.
        date_header=True,
        # Who the client is, is what the socket says: no header of its own changes the address or the scheme.
        proxy_headers=False,
        ssl_context_factory=(lambda _config, _default: context) if context is not None else None,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int((options.grace + _LAST).total_seconds()),
    )
    config.load()
    # It warns of malformed requests and of upgrades; the broker has a line of its own for each, with an id.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    _Server(config, options, app.state.closing, ready).run(sockets=[listener])


def _allow_files(connections: int) -> None:
    """Let this process have as many open files as it takes connections, and what else it opens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InvalidInput(f"--connections: a process may have {hard} open files here; give {hard - _OTHER_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def url_of(listener: socket.socket, options: ServeOptions) -> str:
    """The base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if options.tls_cert else 'http'}://{shown}:{port}"


def listen(options: ServeOptions) -> socket.socket:
    """A socket that listens where it is to; raises InvalidInput where that cannot be."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"--host, --port: cannot listen on {options.host}:{options.port}") from error
    return listener
