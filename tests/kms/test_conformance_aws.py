"""AWS KMS keeps every KMS backend's obligations, as far as moto's server can show it.

moto lets disabled keys, and keys that are pending deletion, go on wrapping and opening. That a key's end stops its use
is therefore shown where the service itself refuses, on OpenBao (`test_conformance_transit.py`); here the tests of that
name hold the backend to what it can be held to: it asks AWS for the right thing, AWS's own record of the key says so,
and each of AWS's refusals (`test_aws.py`) becomes the right error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.faults import Proxy, proxy
from vault.errors import KeyUnavailable, KmsError
from vault.kms import KeyState, Kms
from vault.kms.aws import AwsKms

from .conformance import SECRET, Connect, KmsConformance, Trouble, context


class TestAws(KmsConformance):
    """Through a proxy that can misbehave."""

    # moto looks for the key that a blob's first bytes name.
    tells_tampering = False

    @pytest.fixture
    def before(self, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
        """A proxy before moto, and credentials in the environment."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        with proxy(moto) as made:
            yield made

    @pytest.fixture
    def connect(self, before: Proxy) -> Connect:
        """Clients of one account."""
        return lambda: AwsKms("eu-central-1", endpoint=before.address)

    @pytest.fixture
    def trouble(self, before: Proxy) -> Trouble:
        """Trouble between client and service."""

        @contextmanager
        def begin(kind: str) -> Iterator[Callable[[], bool]]:
            before.next(kind)
            yield lambda: bool(before.met)
            before.next()

        return begin

    def assert_unusable(self, kms: Kms, key: str, wrapped: bytes) -> None:
        """AWS's own record says that the key is not enabled; moto would use it all the same."""
        assert kms.state(key) is not KeyState.ENABLED

    def test_enabled_again(self, kms: Kms, key: str, connect: Connect) -> None:
        """A key that is enabled again is so for every client. That it was refused in between is shown on OpenBao."""
        wrapped = kms.wrap(key, SECRET, context())
        kms.disable_key(key)
        assert connect().state(key) is KeyState.DISABLED
        kms.enable_key(key)
        for client in (kms, connect()):
            assert client.state(key) is KeyState.ENABLED
            assert client.unwrap(key, wrapped, context()) == SECRET

    def test_threads_while_it_changes(self, kms: Kms, key: str) -> None:
        """While a key is disabled and enabled it opens or not; a refusal in between is shown on OpenBao."""
        wrapped = kms.wrap(key, SECRET, context())
        for _ in range(3):
            kms.disable_key(key)
            kms.enable_key(key)
            assert kms.unwrap(key, wrapped, context()) == SECRET

    @pytest.mark.parametrize("end", ["disable", "destroy"])
    def test_next_key(self, kms: Kms, key: str, connect: Connect, end: str) -> None:
        """A key's successor is another key; that the old one is refused once it ended is shown on OpenBao."""
        old = kms.wrap(key, SECRET, context())
        successor = kms.rotate_key(key, "0" * 32)
        assert successor != key
        moved = kms.rewrap(key, old, context(), successor)
        (kms.disable_key if end == "disable" else kms.destroy_key)(key)
        for client in (kms, connect()):
            assert client.unwrap(successor, moved, context()) == SECRET
            assert client.state(successor) is KeyState.ENABLED
            assert client.state(key) is (KeyState.DISABLED if end == "disable" else KeyState.DESTROYED)
        if end == "destroy":
            with pytest.raises(KeyUnavailable):
                kms.enable_key(key)

    def test_empty_context(self, kms: Kms, key: str) -> None:
        """An empty context is one; moto cannot tell it from an empty name and value, which OpenBao and the others do."""
        wrapped = kms.wrap(key, SECRET, {})
        assert kms.unwrap(key, wrapped, {}) == SECRET
        with pytest.raises(KmsError):
            kms.unwrap(key, wrapped, {"k": ""})

    def test_rewrap_checks_the_source(self, kms: Kms, key: str, before: Proxy) -> None:
        """Rewrapping holds the context. moto ignores SourceKeyId, which AWS checks: it is sent (`test_aws.py`)."""
        target = kms.create_key("0" * 32)
        wrapped = kms.wrap(key, SECRET, context())
        with pytest.raises(KmsError):
            kms.rewrap(key, wrapped, context("g2"), target)
