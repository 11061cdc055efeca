"""Data keys: committed to, held for a short while, unwrapped once."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vault.encoding import new_id
from vault.errors import IntegrityError, KmsError
from vault.keyring import Keyring, WrappedKey
from vault.kms import DataKey, LocalKms
from vault.model import KeyScope


class Slow:
    """A KMS in front of another: counts unwraps, and may be slow or lie."""

    def __init__(self, kms: LocalKms) -> None:
        self.kms = kms
        self.calls = 0
        self.lie: bytes | None = None
        self.gate = threading.Event()
        self.gate.set()

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        return self.kms.generate_data_key(key, context)

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        self.calls += 1
        self.gate.wait(5)
        return self.lie or self.kms.unwrap(key, wrapped, context)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Slow, WrappedKey, bytes]:
    """A KMS and one wrapped key with its plaintext."""
    kms = Slow(LocalKms(None, tmp_path, None))
    key = kms.kms.create_key(new_id())
    wrapped, plaintext = Keyring(kms).create(KeyScope(new_id(), new_id(), new_id(), 1), key)  # type: ignore[arg-type]
    return kms, wrapped, plaintext


def test_a_key_is_checked_against_its_commitment(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """A KMS that answers with another key, or an id that is another key's, is refused every time."""
    kms, wrapped, plaintext = made
    assert Keyring(kms).open(wrapped) == plaintext  # type: ignore[arg-type]
    kms.lie = b"\x01" * 32
    keyring = Keyring(kms)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(IntegrityError):
            keyring.open(wrapped)
    kms.lie = None
    with pytest.raises(IntegrityError):
        keyring.open(replace(wrapped, key_id="0" * 32))


def test_a_key_opens_in_its_own_scope_only(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """The same blob under another scope is refused by the KMS."""
    kms, wrapped, _ = made
    with pytest.raises(KmsError):
        Keyring(kms).open(replace(wrapped, scope=replace(wrapped.scope, epoch=2)))  # type: ignore[arg-type]


def test_a_key_is_held_for_a_minute_at_most(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """Within its age a key is not asked for again; past it, at zero, or dropped, it is."""
    kms, wrapped, _ = made
    now = [0.0]
    keyring = Keyring(kms, max_age=999, clock=lambda: now[0])  # type: ignore[arg-type]
    for moment, calls in ((0.0, 1), (59.9, 1), (60.0, 2), (60.1, 2)):
        now[0] = moment
        keyring.open(wrapped)
        assert kms.calls == calls
    keyring.drop([new_id()])
    keyring.open(wrapped)
    assert kms.calls == 2
    keyring.drop([wrapped.scope.compartment])
    keyring.open(wrapped)
    assert kms.calls == 3
    never = Keyring(kms, max_age=0)  # type: ignore[arg-type]
    never.open(wrapped)
    never.open(wrapped)
    assert kms.calls == 5


def test_many_threads_make_one_call(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """Sixteen threads that want one cold key make one unwrap."""
    kms, wrapped, plaintext = made
    keyring = Keyring(kms)  # type: ignore[arg-type]
    kms.gate.clear()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(keyring.open(wrapped))) for _ in range(16)]
    for thread in threads:
        thread.start()
    kms.gate.set()
    for thread in threads:
        thread.join()
    assert found == [plaintext] * 16
    assert kms.calls == 1
    assert plaintext.hex() not in repr(keyring) + repr(wrapped)
