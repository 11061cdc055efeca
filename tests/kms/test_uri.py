"""KMS URIs: what is taken, and one sentence for whatever is not."""

from pathlib import Path

import pytest

from vault.errors import InvalidInput
from vault.kms import Kms, LocalKms, open_kms


def _open(uri: str) -> Kms:
    return open_kms(uri, owner=Path("o"), broker=Path("b"), passphrase=None)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nope:", "no KMS of the scheme"),
        ("local://host/path", "takes no host"),
        ("local:relative", "not absolute"),
        ("local:?x=1", "no option 'x'"),
        ("transit://127.0.0.1:8200", "mount"),
        ("transit:///mount", "host"),
        ("transit://h:8200/transit?tls=off", "tls"),
        ("transit://127.0.0.1:port/transit", "port"),
        ("transit://user:secret@127.0.0.1/transit", "password"),
        ("transit://127.0.0.1:8200/transit?token=x", "no option 'token'"),
        ("awskms:///key?region=r", "no path"),
        ("awskms://?regoin=r", "no option 'regoin'"),
        ("pkcs11:///m.so?token=a", "two tokens"),
        ("pkcs11:///m.so?token=a&owner-token=a", "two tokens"),
        ("pkcs11:///m.so?token=a&pin=1234", "no option 'pin'"),
        ("local:#x", "fragment"),
        ("local:?=", "option"),
        ("transit://[::1/x", "not a URI"),
    ],
)
def test_a_wrong_uri_is_one_sentence(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI that cannot be used says what is wrong with it, and never repeats a secret."""
    monkeypatch.setenv("BAO_TOKEN", "t")
    with pytest.raises(InvalidInput, match=said) as caught:
        _open(uri)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("--kms:")


def test_a_token_is_needed_for_transit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token in the environment transit says which variable to set."""
    monkeypatch.delenv("BAO_TOKEN", raising=False)
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    with pytest.raises(InvalidInput, match="BAO_TOKEN"):
        _open("transit://127.0.0.1:8200/transit")


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("transit://127.0.0.1:8200/transit", "http://127.0.0.1:8200"),
        ("transit://[::1]:8200/transit", "http://[::1]:8200"),
        ("transit://localhost:8200/transit?tls=on", "https://localhost:8200"),
        ("transit://bao.example:8200/transit", "https://bao.example:8200"),
        ("transit://bao.example/a/b", "https://bao.example"),
    ],
)
def test_plain_http_stays_on_this_machine(uri: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token goes to another machine over TLS only."""
    monkeypatch.setenv("VAULT_TOKEN", "a-token")
    kms = _open(uri)
    assert kms._client.url == address  # type: ignore[attr-defined]
    assert "a-token" not in repr(kms)


def test_a_local_keystore_needs_nothing() -> None:
    """``local:`` and an absolute path open a keystore."""
    assert isinstance(_open("local:"), LocalKms)
    assert isinstance(_open("local:///tmp/x"), LocalKms)
