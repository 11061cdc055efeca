"""The head of a request is bounded, however it comes."""

import socket
from urllib.parse import urlsplit

import pytest

from tests.conftest import Lab
from tests.support.brokers import broker
from vault.broker.bounds import HEAD_BYTES


def _answer(endpoint: str, pieces: list[bytes]) -> bytes:
    """All that comes back until the broker closes the connection."""
    place = urlsplit(endpoint)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        found = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                if piece.endswith(b"\r\n\r\n") and len(pieces) > 1:
                    found += connection.recv(65_536)  # the first request is answered before the next one begins
            while more := connection.recv(65_536):
                found += more
        except ConnectionError:
            pass
        return found


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * HEAD_BYTES + b"\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", *[b"a" * 8192] * 200],
        [b"GET /healthz HTTP/1.1\r\n", *[b"X-Many: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"] * 5000],
        [b"GET /", *[b"a" * 8192] * 200],
        [
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ",
            *[b"a" * 8192] * 200,
        ],
    ],
    ids=["whole", "one header", "many headers", "target", "second request"],
)
def test_a_head_that_is_too_long_is_not_gathered(lab: Lab, pieces: list[bytes]) -> None:
    """The broker closes the connection after 32 KiB, whole or in pieces, and serves the next one."""
    with broker(lab.folder) as endpoint:
        found = _answer(endpoint, pieces)
        assert found.count(b"HTTP/1.1 200") == (pieces[0].endswith(b"\r\n\r\n") and len(pieces) > 1)
        fits = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"a" * 16_000 + b"\r\n\r\n"
        assert _answer(endpoint, [fits]).startswith(b"HTTP/1.1 200")
