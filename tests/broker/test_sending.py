"""The protocol alone, with kernel buffers so small that a few kilobytes which nobody reads are not sent."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from vault.broker.connections import Connections, Protocol
from vault.broker.metrics import Metrics

_GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


def _answering(size: int) -> Callable[..., Awaitable[None]]:
    """An application that answers everything with so many bytes, at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


class _Server:
    """One that takes a single connection at once."""

    def __init__(self, size: int, send_seconds: float, app: Callable[..., Awaitable[None]] | None = None) -> None:
        metrics = Metrics(dict)
        self._config = uvicorn.Config(app or _answering(size), lifespan="off", log_config=None, access_log=False)
        self._config.load()
        self._state = ServerState()
        self._connections = Connections(1, 10, send_seconds, metrics)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))

    async def __aenter__(self) -> "_Server":
        make = functools.partial(
            Protocol,
            connections=self._connections,
            config=self._config,
            server_state=self._state,
            app_state={},
        )
        self._server = await asyncio.get_running_loop().create_server(make, sock=self._listener)
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            assert isinstance(connection, Protocol)
            connection.drop()
        await asyncio.sleep(0.1)

    async def connect(self) -> socket.socket:
        """A connection that can hold little, and on which something was asked for by a whole request."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, self._listener.getsockname())
        return client

    @property
    def open(self) -> int:
        """The connections that there are."""
        return len(self._state.connections)


async def _status(server: _Server) -> bytes:
    """What a new connection is answered."""
    loop = asyncio.get_running_loop()
    with await server.connect() as client:
        await loop.sock_sendall(client, _GET + b"\r\n")
        return (await loop.sock_recv(client, 12))[-3:]


def test_a_connection_that_is_closed_does_not_linger_for_what_nobody_reads() -> None:
    """Little is left, the transport does not pause for it, and it is ended at the deadline."""

    async def closed() -> None:
        async with _Server(size=40_000, send_seconds=1.0) as server, contextlib.AsyncExitStack() as stack:
            client = stack.enter_context(await server.connect())
            await asyncio.get_running_loop().sock_sendall(client, _GET + b"Connection: close\r\n\r\n")
            await asyncio.sleep(0.3)
            assert server.open == 1
            await asyncio.sleep(3)
            assert server.open == 0

    uvloop.run(closed())


def test_a_closed_connection_that_nobody_reads_makes_room() -> None:
    """It is answered, and still one of those that there may be."""

    async def closed() -> None:
        async with _Server(size=40_000, send_seconds=3600.0) as server, contextlib.AsyncExitStack() as stack:
            client = stack.enter_context(await server.connect())
            await asyncio.get_running_loop().sock_sendall(client, _GET + b"Connection: close\r\n\r\n")
            await asyncio.sleep(2.5)
            assert await _status(server) == b"200"

    uvloop.run(closed())


def test_an_answer_that_was_made_and_is_being_taken_is_not_broken_off() -> None:
    """The request is answered for the server, but not for the client: no other connection takes its place."""

    async def taken() -> None:
        loop = asyncio.get_running_loop()
        async with _Server(size=400_000, send_seconds=1.0) as server, contextlib.AsyncExitStack() as stack:
            client = stack.enter_context(await server.connect())
            await loop.sock_sendall(client, _GET + b"\r\n")
            for _ in range(3):
                for _ in range(10):
                    assert await loop.sock_recv(client, 2048)
                    await asyncio.sleep(0.05)
                assert await _status(server) == b"503"
            # Once all but what the transport may hold was taken, it is one that waits.
            while await asyncio.wait_for(loop.sock_recv(client, 65536), 5):
                if await _status(server) == b"200":
                    return
            raise AssertionError("it was broken off")

    uvloop.run(taken())


def test_whoever_works_for_a_client_that_went_away_can_tell() -> None:
    """Before anything was sent, too: a connection that has ended says so to who asks it from elsewhere."""

    async def gone() -> None:
        told: list[bool] = []
        ended = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            is_gone = scope["state"]["gone"]
            told.append(is_gone())
            while not is_gone():
                await asyncio.sleep(0.01)
            ended.set()

        async with _Server(size=0, send_seconds=60.0, app=app) as server:
            client = await server.connect()
            await asyncio.get_running_loop().sock_sendall(client, _GET + b"\r\n")
            await asyncio.sleep(0.3)
            assert told == [False]
            assert not ended.is_set()
            client.close()
            await asyncio.wait_for(ended.wait(), 5)

    uvloop.run(gone())
