"""What the client says of a broker that it cannot reach, of addresses that it does not take, and of odd tokens."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vault
from tests.conftest import Lab
from vault.errors import InvalidInput, Unavailable
from vault_cli.main import app

_TOKEN = "eyJhbGciOiJub25lIn0.c2VjcmV0LXRva2Vu.c2ln"


@contextmanager
def _answering(data: bytes) -> Iterator[int]:
    """A server that answers with these bytes whatever it is sent, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(data)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _said(endpoint: str) -> str:
    with pytest.raises(Unavailable) as refused:
        vault.connect_with_token(endpoint, lambda: _TOKEN).datasets()
    return str(refused.value)


def test_a_broker_that_does_not_run_is_said() -> None:
    """Nothing listens at the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "is the broker running?" in _said(f"http://127.0.0.1:{port}")


def test_an_endpoint_without_tls_is_said() -> None:
    """The profile says https, and the other end speaks HTTP."""
    with _answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        assert "speaks no TLS" in _said(f"https://127.0.0.1:{port}")


def test_a_connection_that_is_closed_is_said() -> None:
    """As by a broker that wants https, or a certificate."""
    with _answering(b"") as port:
        said = _said(f"http://127.0.0.1:{port}")
    assert "does the broker want https" in said
    assert "--client-cert" in said


_BAD = [
    "foo",
    "http://broker.example",
    "http://192.0.2.1:8750",
    "ftp://127.0.0.1",
    "https://",
    "http://[",
    "https://a:b",
]
_BAD += ["https://user@lab.example", "https://lab.example/?x=1", "https://lab.example/\n"]


@pytest.mark.parametrize("url", _BAD)
def test_an_address_that_no_client_takes_is_refused_by_its_name(lab: Lab, tmp_path: Path, url: str) -> None:
    """By init and issue too, so that no vendor is handed a profile that is of no use; a profile's file is named."""
    with pytest.raises(InvalidInput, match="^--endpoint: .*no base URL"):
        vault.init(tmp_path / "other", endpoint=url)
    assert not (tmp_path / "other").exists()
    with pytest.raises(InvalidInput, match="^--endpoint: .*no base URL"):
        lab.vault.issue_credential("acme", endpoint=url)
    assert lab.vault.credentials() == []
    with pytest.raises(InvalidInput, match="^--endpoint: .*no base URL"):
        vault.connect_with_token(url, lambda: _TOKEN)
    profile = lab.profile("acme", "https://lab.example:8750")
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"endpoint": url}))
    with pytest.raises(InvalidInput, match=f"^{profile}: endpoint: .*no base URL"):
        vault.connect(profile)


@pytest.mark.parametrize(
    "content", [f"{_TOKEN}\n{_TOKEN}\n", "", f"{_TOKEN} x", f"{_TOKEN}\x00", f"{_TOKEN}\u00e9", "\n"]
)
def test_an_odd_token_file_is_a_sentence_without_the_token(tmp_path: Path, content: str) -> None:
    """More than one line, nothing, or what no header takes: the file is named, and nothing of it shown."""
    path = tmp_path / "token.jwt"
    path.write_text(content)
    words = ["fetch", "evals", "--endpoint", "http://127.0.0.1:1", "--token-file", str(path)]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InvalidInput)
    assert str(error) == f"--token-file: {path}: the file is not one line of printable ASCII, as a token is"


def test_no_traceback_holds_a_header(caplog: pytest.LogCaptureFixture) -> None:
    """A token that HTTP cannot carry is refused by words that are ours, with no error behind them that quotes it."""
    caplog.set_level(logging.DEBUG)
    for odd in (f"{_TOKEN}\n{_TOKEN}", f"{_TOKEN}\u20ac"):
        with pytest.raises(InvalidInput, match="no request can carry") as refused:
            vault.connect_with_token("http://127.0.0.1:1", lambda odd=odd: odd).datasets()
        assert refused.value.__context__ is None
        assert refused.value.__cause__ is None
        assert _TOKEN not in caplog.text
