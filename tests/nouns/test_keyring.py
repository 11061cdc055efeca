"""Data keys: committed to, held for a short while, unwrapped once."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vault.encoding import new_id
from vault.errors import IntegrityError, InvalidInput, KmsError
from vault.keyring import CacheLimits, Keyring, WrappedKey
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
    keyring = Keyring(kms, clock=lambda: now[0])  # type: ignore[arg-type]
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
    never = Keyring(kms, limits=CacheLimits(age=0))  # type: ignore[arg-type]
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


def test_threads_share_a_failure_too(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """A KMS that fails is asked once by the threads that wait for one key, and again by whoever comes later."""
    kms, wrapped, _ = made
    keyring = Keyring(kms)  # type: ignore[arg-type]
    kms.gate.clear()
    kms.lie = b"\x01" * 32
    failed: list[BaseException] = []

    def work() -> None:
        try:
            keyring.open(wrapped)
        except IntegrityError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    kms.gate.set()
    for thread in threads:
        thread.join()
    assert len(failed) == 8
    assert kms.calls == 1
    kms.lie = None
    keyring.open(wrapped)
    assert kms.calls == 2


def test_what_is_dropped_while_it_is_unwrapped_is_not_held(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """A drop that comes while the KMS is being asked counts: nobody who asks later gets that answer."""
    kms, wrapped, plaintext = made
    keyring = Keyring(kms)  # type: ignore[arg-type]
    kms.gate.clear()
    thread = threading.Thread(target=lambda: keyring.open(wrapped))
    thread.start()
    while kms.calls == 0:
        time.sleep(0.01)
    assert keyring.compartments == {wrapped.scope.compartment}
    keyring.drop([wrapped.scope.compartment])
    assert keyring.compartments == frozenset()
    kms.gate.set()
    thread.join()
    assert keyring.compartments == frozenset()
    assert keyring.open(wrapped) == plaintext
    assert kms.calls == 2


def test_keys_are_bounded_in_number_and_uses(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """The oldest key gives way, and a key that was used as often as is allowed is asked for again."""
    kms, first, _ = made
    key = first.kms_key
    keyring = Keyring(kms, limits=CacheLimits(keys=2, uses=3))  # type: ignore[arg-type]
    others = [keyring.create(replace(first.scope, epoch=epoch), key)[0] for epoch in (2, 3)]
    for wrapped in (first, *others):
        keyring.open(wrapped)
    assert kms.calls == 3
    keyring.open(first)
    assert kms.calls == 4
    for _ in range(2):
        keyring.open(first)
    assert kms.calls == 4
    keyring.open(first)
    assert kms.calls == 5
    for limits in (CacheLimits(keys=0), CacheLimits(uses=0), CacheLimits(age=0)):
        never = Keyring(kms, limits=limits)  # type: ignore[arg-type]
        before = kms.calls
        never.open(first)
        never.open(first)
        assert kms.calls == before + 2
        assert never.compartments == frozenset()


def test_an_idle_process_holds_no_key_beyond_its_age(made: tuple[Slow, WrappedKey, bytes]) -> None:
    """Sweeping forgets what nobody asked for again."""
    kms, wrapped, _ = made
    now = [0.0]
    keyring = Keyring(kms, limits=CacheLimits(age=10), clock=lambda: now[0])  # type: ignore[arg-type]
    keyring.open(wrapped)
    now[0] = 9.9
    keyring.sweep()
    assert keyring.compartments
    now[0] = 10
    keyring.sweep()
    assert not keyring.compartments


@pytest.mark.parametrize("wrong", [{"age": 61}, {"age": -1}, {"keys": -1}, {"uses": -1}])
def test_no_limit_is_wider_than_a_minute(wrong: dict[str, int]) -> None:
    """A minute is the most that can be configured, and below 0 there is nothing."""
    with pytest.raises(InvalidInput):
        CacheLimits(**wrong)
