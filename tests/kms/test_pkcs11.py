"""What is PKCS#11's own: tokens, PINs, processes, and keys that do not leave them, on SoftHSM."""

import builtins
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute

from tests.support.softhsm import SoftHsm, softhsm
from vault.encoding import new_id
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms import KeyState
from vault.kms.pkcs11 import _LIBRARIES, Pkcs11Kms, _perform, _Session

from .conformance import SECRET, context, texts

#: What a lost session leaves behind: python-pkcs11 ends a search on it a second time, where nobody can catch it.
NOISY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PROLOGUE = """
import os, sys
from vault.errors import KeyUnavailable, KmsError
from vault.kms.pkcs11 import Pkcs11Kms
module, token, owner_token, key, wrapped = sys.argv[1:]
wrapped = bytes.fromhex(wrapped)
pin = os.environ["DSVAULT_PKCS11_PIN"]
def opens(kms):
    try:
        return kms.unwrap(key, wrapped, {}).hex()
    except KmsError as error:
        return type(error).__name__
"""


@pytest.fixture
def hsm() -> SoftHsm:
    """The tokens of this process."""
    return softhsm()


@pytest.fixture
def kms(hsm: SoftHsm) -> Pkcs11Kms:
    """A client as the owner has it."""
    return Pkcs11Kms(hsm.module, hsm.token, hsm.pin, hsm.owner_token, hsm.owner_pin)


@pytest.fixture
def broker(hsm: SoftHsm) -> Pkcs11Kms:
    """A client as a broker has it."""
    return Pkcs11Kms(hsm.module, hsm.token, hsm.pin, None, None)


@pytest.fixture
def fresh(hsm: SoftHsm) -> Iterator[None]:
    """This process is logged in nowhere when the test begins, and again when it has ended."""
    for step in range(2):
        pkcs11.lib(os.path.realpath(hsm.module)).reinitialize()
        _LIBRARIES.clear()
        if step == 0:
            yield


def held(kms: Pkcs11Kms, key: str) -> Any:
    """A key's object in the token."""
    identifier = key.removeprefix("pkcs11:")
    return _perform(kms._place(key), lambda session: session.keys(identifier)[0])


@contextmanager
def program(hsm: SoftHsm, body: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """Another Python process on the same tokens; it and its children are ended with the test."""
    command = [sys.executable, "-c", PROLOGUE + body, hsm.module, hsm.token, hsm.owner_token, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, **hsm.environment}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def said(hsm: SoftHsm, body: str, *arguments: str) -> list[str]:
    """What another process prints; it has to end well."""
    with program(hsm, body, *arguments) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.split()


def test_owner_key_is_not_a_brokers(kms: Pkcs11Kms, broker: Pkcs11Kms) -> None:
    """Without the owner's PIN there is no owner's key to make, use, change or see."""
    key = kms.create_key(new_id(), owner=True)
    wrapped = kms.wrap(key, SECRET, context())
    uses: list[Callable[[], object]] = [
        lambda: broker.create_key(new_id(), owner=True),
        lambda: broker.unwrap(key, wrapped, context()),
        lambda: broker.wrap(key, SECRET, context()),
        lambda: broker.rotate_key(key, new_id()),
        lambda: broker.disable_key(key),
        lambda: broker.destroy_key(key),
    ]
    for use in uses:
        with pytest.raises(KeyUnavailable):
            use()
    assert broker.state(key) is KeyState.ABSENT
    assert kms.unwrap(key, wrapped, context()) == SECRET


def test_owner_token_without_its_pin(hsm: SoftHsm) -> None:
    """A client that was told of the owner's token but has no PIN for it is a broker's."""
    kms = Pkcs11Kms(hsm.module, hsm.token, hsm.pin, hsm.owner_token, None)
    with pytest.raises(KeyUnavailable, match="DSVAULT_PKCS11_OWNER_PIN"):
        kms.create_key(new_id(), owner=True)
    owners = Pkcs11Kms(hsm.module, hsm.token, hsm.pin, hsm.owner_token, hsm.owner_pin).create_key(new_id(), owner=True)
    with pytest.raises(KeyUnavailable, match="DSVAULT_PKCS11_OWNER_PIN"):
        kms.wrap(owners, SECRET, context())


def test_keys_lie_in_their_tokens(kms: Pkcs11Kms, broker: Pkcs11Kms) -> None:
    """A vendor's key and its successor are the broker's, the owner's and its successor are not."""
    key, owners = kms.create_key(new_id()), kms.create_key(new_id(), owner=True)
    for vendors in (key, kms.rotate_key(key, new_id())):
        assert broker.state(vendors) is KeyState.ENABLED
    for other in (owners, kms.rotate_key(owners, new_id())):
        assert broker.state(other) is KeyState.ABSENT
        assert kms.state(other) is KeyState.ENABLED


def test_key_does_not_leave(kms: Pkcs11Kms) -> None:
    """A key's value cannot be read or wrapped, nor made readable, and its label says whose it is."""
    label = new_id()
    key = held(kms, kms.create_key(label))
    with pytest.raises(pkcs11.AttributeSensitive):
        key[Attribute.VALUE]
    for attribute, value in ((Attribute.SENSITIVE, False), (Attribute.EXTRACTABLE, True)):
        with pytest.raises(pkcs11.AttributeReadOnly):
            key[attribute] = value
    assert key[Attribute.PRIVATE]
    assert key[Attribute.NEVER_EXTRACTABLE]
    assert key[Attribute.LOCAL]
    assert key[Attribute.LABEL] == f"dsvault-{label}"
    assert not any(key[right] for right in (Attribute.WRAP, Attribute.SIGN, Attribute.DERIVE))


def test_form_of_a_blob(kms: Pkcs11Kms) -> None:
    """A blob is the version, a nonce of 12 bytes, the ciphertext and a tag of 16."""
    wrapped = kms.wrap(kms.create_key(new_id()), SECRET, context())
    assert (wrapped[0], len(wrapped)) == (1, 1 + 12 + len(SECRET) + 16)


def test_token_itself_refuses(kms: Pkcs11Kms) -> None:
    """It is the token that refuses a disabled key, not this program."""
    key = kms.create_key(new_id())
    found = held(kms, key)
    parameters = pkcs11.GCMParams(bytes(12), b"", 128)
    assert found.encrypt(SECRET, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters)
    kms.disable_key(key)
    with pytest.raises(pkcs11.PKCS11Error):
        found.encrypt(SECRET, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters)


def test_other_programs_keys(kms: Pkcs11Kms) -> None:
    """A key of another program is not touched, even where a reference names it by its id."""
    key = kms.create_key(new_id())
    held(kms, key)[Attribute.LABEL] = "payroll"
    assert kms.state(key) is KeyState.ABSENT
    with pytest.raises(KeyUnavailable):
        kms.wrap(key, SECRET, context())


def test_wrong_pin(hsm: SoftHsm, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong PIN is told with the token and the variable, never itself, and is tried once by a process."""
    tried: list[str] = []

    def count(token: Any, pin: str) -> Any:
        tried.append(pin)
        return token.open(rw=True, user_pin=pin)

    monkeypatch.setattr("vault.kms.pkcs11._log_in", count)
    wrong = "wrong-" + new_id()
    for _ in range(2):
        for kms, variable in (
            (Pkcs11Kms(hsm.module, hsm.token, wrong, None, None), "DSVAULT_PKCS11_PIN"),
            (Pkcs11Kms(hsm.module, hsm.token, hsm.pin, hsm.owner_token, wrong), "DSVAULT_PKCS11_OWNER_PIN"),
        ):
            with pytest.raises(KmsError, match=f"refused the PIN of {variable}") as caught:
                kms.create_key(new_id(), owner="OWNER" in variable)
            assert not isinstance(caught.value, KeyUnavailable)
            assert not any(wrong in text for text in (*texts(caught.value), repr(kms), repr(vars(kms))))
    assert tried == [wrong, wrong]


def test_another_pin_than_the_logged_in_ones(hsm: SoftHsm, kms: Pkcs11Kms) -> None:
    """A client with a wrong PIN gets nothing from the login of another one in the same process."""
    key = kms.create_key(new_id())
    other = Pkcs11Kms(hsm.module, hsm.token, "wrong", None, None)
    with pytest.raises(KmsError, match="another DSVAULT_PKCS11_PIN"):
        other.wrap(key, SECRET, context())


@pytest.mark.parametrize("pin", [None, "", "\udcff\udcfe", "a\0b"])
def test_no_pin(hsm: SoftHsm, fresh: None, pin: str | None) -> None:
    """A PIN that is missing, or is no text, is told as such."""
    kms = Pkcs11Kms(hsm.module, hsm.token, pin, None, None)
    with pytest.raises(KmsError, match="DSVAULT_PKCS11_PIN") as caught:
        kms.create_key(new_id())
    assert not pin or not any(pin in text for text in texts(caught.value))


def test_no_token(hsm: SoftHsm) -> None:
    """A token that is not there is named."""
    kms = Pkcs11Kms(hsm.module, "lab-nowhere", "1234", None, None)
    with pytest.raises(KmsError, match="no token 'lab-nowhere'"):
        kms.create_key(new_id())


def test_no_module(hsm: SoftHsm, tmp_path: Path) -> None:
    """A library that is not there, or is none, is told."""
    with pytest.raises(InvalidInput, match="no PKCS#11 library"):
        Pkcs11Kms(str(tmp_path / "none.so"), hsm.token, hsm.pin, None, None)
    (tmp_path / "text.so").write_text("no library")
    kms = Pkcs11Kms(str(tmp_path / "text.so"), hsm.token, hsm.pin, None, None)
    with pytest.raises(KmsError, match="could not be used"):
        kms.create_key(new_id())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where python-pkcs11 is missing the extra is named."""
    real = builtins.__import__

    def no_pkcs11(name: str, *rest: Any) -> Any:
        if name == "pkcs11":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_pkcs11)
    with pytest.raises(InvalidInput, match=r"needs the extra dsvault\[pkcs11\]"):
        Pkcs11Kms("/m.so", "t", "1", None, None)


def test_another_process_sees_it_at_once(hsm: SoftHsm, kms: Pkcs11Kms) -> None:
    """A process that is logged in and has used a key sees at its next call that the key was disabled or destroyed."""
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, {})
    body = """
kms = Pkcs11Kms(module, token, pin, None, None)
print(opens(kms), flush=True)
for line in sys.stdin:
    print(opens(kms), kms.state(key), flush=True)
"""
    with program(hsm, body, key, wrapped.hex()) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> list[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().split()

        assert process.stdout.readline().strip() == SECRET.hex()
        for change, seen in (
            (kms.disable_key, ["KeyUnavailable", "disabled"]),
            (kms.enable_key, [SECRET.hex(), "enabled"]),
            (kms.destroy_key, ["KeyUnavailable", "destroyed"]),
        ):
            change(key)
            assert ask() == seen
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("step", ["has_tombstone", "put_tombstone", "destroy"])
def test_killed_while_destroying(hsm: SoftHsm, kms: Pkcs11Kms, step: str) -> None:
    """A destruction that was cut short is either not begun, or looks done to everyone; doing it again finishes it."""
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    body = f"""
from vault.kms.pkcs11 import _Session
kms = Pkcs11Kms(module, token, pin, None, None)
kms.state(key)
_Session.{step} = lambda *_: os._exit(9)
kms.destroy_key(key)
"""
    with program(hsm, body, key, "00") as process:
        process.communicate(timeout=60)
    assert process.returncode == 9
    assert held(kms, key)
    if step == "destroy":
        assert kms.state(key) is KeyState.DESTROYED
        for use in (lambda: kms.unwrap(key, wrapped, context()), lambda: kms.enable_key(key)):
            with pytest.raises(KeyUnavailable):
                use()
    else:
        assert kms.unwrap(key, wrapped, context()) == SECRET
    for _ in range(2):
        kms.destroy_key(key)
        assert kms.state(key) is KeyState.DESTROYED
        assert not _perform(kms._place(key), lambda session: session.keys(key.removeprefix("pkcs11:")))


@pytest.mark.parametrize("first", [Attribute.DECRYPT, Attribute.ENCRYPT])
def test_half_disabled(kms: Pkcs11Kms, first: Attribute) -> None:
    """A key that was disabled or enabled by half counts as disabled, and either call finishes it."""
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    held(kms, key)[first] = False
    assert kms.state(key) is KeyState.DISABLED
    for use in (lambda: kms.unwrap(key, wrapped, context()), lambda: kms.wrap(key, SECRET, context())):
        with pytest.raises(KeyUnavailable):
            use()
    kms.enable_key(key)
    assert kms.unwrap(key, wrapped, context()) == SECRET


def test_ended_in_the_midst(kms: Pkcs11Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that another process ends between this one's look and its use is unavailable, not tampered with."""
    keys = {kms.disable_key: kms.create_key(new_id()), kms.destroy_key: kms.create_key(new_id())}
    for end, key in keys.items():
        wrapped = kms.wrap(key, SECRET, context())
        real = _Session.decrypt

        def late(session: _Session, *args: Any, real: Any = real, end: Any = end, key: str = key) -> bytes:
            end(key)
            return bytes(real(session, *args))

        with monkeypatch.context() as patch:
            patch.setattr(_Session, "decrypt", late)
            with pytest.raises(KeyUnavailable):
                kms.unwrap(key, wrapped, context())


@NOISY
def test_lost_session(hsm: SoftHsm, kms: Pkcs11Kms) -> None:
    """Where the library was started anew beneath a client it opens another session and goes on."""
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    pkcs11.lib(os.path.realpath(hsm.module)).reinitialize()
    assert kms.unwrap(key, wrapped, context()) == SECRET


def test_lost_twice(kms: Pkcs11Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that stays away is told in a sentence with the token's name."""
    key = kms.create_key(new_id())

    def gone(*_: Any) -> Any:
        raise pkcs11.DeviceRemoved

    with monkeypatch.context() as patch:
        patch.setattr(_Session, "keys", gone)
        with pytest.raises(KmsError, match=r"token 'lab-vendors' could not be used \(DeviceRemoved\)"):
            kms.wrap(key, SECRET, context())
    assert kms.wrap(key, SECRET, context())


def test_forked(hsm: SoftHsm, kms: Pkcs11Kms) -> None:
    """A child that was forked while a lock was held starts the library anew, and its parent goes on."""
    key, later = kms.create_key(new_id()), f"later-{new_id()[:8]}"
    wrapped = kms.wrap(key, SECRET, {})
    body = f"""
import threading, pkcs11
from vault.kms.pkcs11 import _library
kms = Pkcs11Kms(module, token, pin, None, None)
path = os.path.realpath(module)
def look():
    # SoftHSM lists the tokens when it is started.
    print(opens(kms), any(each.label == {later!r} for each in pkcs11.lib(path).get_tokens()), flush=True)
codes = []
def fork():
    child = os.fork()
    if child == 0:
        look()
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
look()
sys.stdin.readline()
with _library(path).lock:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
look()
print(codes)
"""
    with program(hsm, body, key, wrapped.hex()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == [SECRET.hex(), "False"]
        hsm.make_token(later, "1234")
        out, _ = process.communicate("\n", timeout=20)
    assert out.splitlines() == [f"{SECRET.hex()} True", f"{SECRET.hex()} False", "[0]"]


def test_library_in_use_by_others(hsm: SoftHsm, kms: Pkcs11Kms, tmp_path: Path) -> None:
    """A library that other software of the process has initialised, and logged in to, can be used all the same."""
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, {})
    (tmp_path / "other.so").symlink_to(hsm.module)
    body = f"""
import pkcs11
theirs = pkcs11.lib({str(tmp_path / "other.so")!r})
session = theirs.get_token(token_label=token).open(rw=True, user_pin=pin)
print(opens(Pkcs11Kms(module, token, pin, None, None)))
print(len(list(session.get_objects())) > 0)
"""
    assert said(hsm, body, key, wrapped.hex()) == [SECRET.hex(), "True"]
