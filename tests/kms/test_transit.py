"""What is particular to OpenBao's transit engine: tokens, versions and policies."""

import json
import time
from pathlib import Path

import pytest

from tests.support.faults import proxy
from tests.support.servers import OpenBao
from vault.encoding import new_id
from vault.errors import KeyUnavailable, KmsError
from vault.kms import KeyState, open_kms
from vault.kms.transit import TransitKms, associated_data, associated_data_prefix
from vault.model import KeyScope

from .conformance import SECRET, context


@pytest.fixture
def mount(bao: OpenBao) -> str:
    """A mount of the test's own."""
    return bao.mount()


@pytest.fixture
def kms(bao: OpenBao, mount: str, monkeypatch: pytest.MonkeyPatch) -> TransitKms:
    """The KMS of its URI, with the token in the environment."""
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    opened = open_kms(bao.uri(mount), owner=Path("o"), broker=Path("b"), passphrase=None)
    assert isinstance(opened, TransitKms)
    return opened


def test_a_successor_is_a_version_of_the_same_key(kms: TransitKms, bao: OpenBao, mount: str) -> None:
    """Rotating makes the next version, and disabling the old one raises the engine's least version."""
    key = kms.create_key(new_id())
    successor = kms.rotate_key(key, new_id())
    name = key.split(":")[1]
    assert successor == f"transit:{name}:2"
    old = kms.wrap(key, SECRET, context())
    moved = kms.rewrap(key, old, context(), successor)
    kms.disable_key(key)
    _, answer = bao.call("GET", f"{mount}/keys/{name}")
    assert answer["data"]["min_decryption_version"] == 2
    assert kms.unwrap(successor, moved, context()) == SECRET
    with pytest.raises(KeyUnavailable):
        kms.unwrap(key, old, context())


def test_a_blob_of_one_version_is_refused_under_the_reference_of_another(kms: TransitKms) -> None:
    """The reference says the version; a blob cannot be passed off as one of a version that is still enabled."""
    key = kms.create_key(new_id())
    successor = kms.rotate_key(key, new_id())
    with pytest.raises(KmsError):
        kms.unwrap(successor, kms.wrap(key, SECRET, context()), context())


def test_keys_cannot_be_exported_and_wrapping_makes_none(kms: TransitKms, bao: OpenBao, mount: str) -> None:
    """The engine keeps the material, and an unknown name makes no key, not even for the root token."""
    key = kms.create_key(new_id())
    name = key.split(":")[1]
    status, _ = bao.call("GET", f"{mount}/export/encryption-key/{name}")
    assert status == 400
    other = name[:-1] + ("1" if name.endswith("0") else "0")
    with pytest.raises(KeyUnavailable):
        kms.wrap(f"{key.split(':')[0]}:{other}:1", SECRET, context())
    assert bao.call("GET", f"{mount}/keys/{other}")[0] == 404


def test_the_token_is_renewed_for_as_long_as_it_is_needed(bao: OpenBao, mount: str) -> None:
    """A token that lives 2 seconds serves a client for longer, and not for one that was closed."""
    owner = TransitKms(bao.address, mount, bao.token)
    key = owner.create_key(new_id())
    wrapped = owner.wrap(key, SECRET, context())
    policy = f'path "{mount}/decrypt/*" {{ capabilities = ["update"] }}'
    token = bao.token_for(policy, ttl="2s")
    kms = TransitKms(bao.address, mount, token)
    assert kms.unwrap(key, wrapped, context()) == SECRET
    time.sleep(4)
    assert kms.unwrap(key, wrapped, context()) == SECRET
    kms.close()
    time.sleep(3)
    with pytest.raises(KeyUnavailable, match="permission denied"):
        kms.unwrap(key, wrapped, context())
    owner.close()


@pytest.mark.parametrize("fault", ["error", "throttle", "lost"])
def test_the_client_bears_what_passes(bao: OpenBao, mount: str, fault: str) -> None:
    """Two faults in a row are borne by the client itself, with a pause between its tries."""
    with proxy(bao.address) as before:
        kms = TransitKms(before.address, mount, bao.token)
        key = kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        before.next(fault, fault)
        assert kms.unwrap(key, wrapped, context()) == SECRET
        assert before.met == [fault, fault]
        kms.close()


@pytest.mark.parametrize("answer", ["portal", "redirect", "nothing", "list", "list-refused", "text", "null"])
def test_an_answer_of_something_else_passes_for_nothing(bao: OpenBao, mount: str, answer: str) -> None:
    """A portal's page, a redirect or an empty answer gives no key, and no change is reported that was not made."""
    with proxy(bao.address) as before:
        kms = TransitKms(before.address, mount, bao.token)
        key = kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        for act in (
            lambda: kms.unwrap(key, wrapped, context()),
            lambda: kms.wrap(key, SECRET, context()),
            lambda: kms.create_key(new_id()),
            lambda: kms.rotate_key(key, new_id()),
            lambda: kms.disable_key(key),
            lambda: kms.destroy_key(key),
            lambda: kms.state(key),
        ):
            before.next(*[answer] * 9)
            with pytest.raises(KmsError):
                act()
        before.next()
        assert kms.unwrap(key, wrapped, context()) == SECRET
        kms.close()


@pytest.mark.parametrize("answer", ["nothing", "text"])
@pytest.mark.parametrize("act", ["rotate_key", "disable_key", "destroy_key"])
def test_a_change_that_was_not_made_is_not_reported(bao: OpenBao, mount: str, act: str, answer: str) -> None:
    """Where only the change's own answer is somebody else's, what the engine says afterwards gives it away."""
    with proxy(bao.address) as before:
        kms = TransitKms(before.address, mount, bao.token)
        key = kms.create_key(new_id())
        arguments = (key, new_id()) if act == "rotate_key" else (key,)
        kms.rotate_key(key, new_id())  # so that ending the version needs no other one first
        if act == "destroy_key":
            kms.disable_key(key)
        before.next("", answer)  # the key is looked at first
        with pytest.raises(KmsError):
            getattr(kms, act)(*arguments)
        assert before.met == [answer]
        assert kms.state(key) is (KeyState.DISABLED if act == "destroy_key" else KeyState.ENABLED)
        getattr(kms, act)(*arguments)
        kms.close()


def test_enabling_a_version_enables_no_other(kms: TransitKms) -> None:
    """The engine would enable the later versions too; that has to be asked for by their own references."""
    key = kms.create_key(new_id())
    later = kms.rotate_key(key, new_id())
    kms.disable_key(key)
    kms.disable_key(later)
    with pytest.raises(KmsError, match=f"{later} comes first"):
        kms.enable_key(key)
    assert kms.state(later) is KeyState.DISABLED
    kms.enable_key(later)
    assert kms.state(key) is KeyState.DISABLED
    kms.enable_key(key)
    assert kms.state(key) is KeyState.ENABLED


def test_a_token_whose_lookup_failed_is_renewed_all_the_same(
    bao: OpenBao, mount: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble at the first look at the token does not end its renewal for good."""
    monkeypatch.setattr("vault.kms.transit._RETRY_SECONDS", 0.1)
    owner = TransitKms(bao.address, mount, bao.token)
    key = owner.create_key(new_id())
    wrapped = owner.wrap(key, SECRET, context())
    with proxy(bao.address) as before:
        token = bao.token_for(f'path "{mount}/decrypt/*" {{ capabilities = ["update"] }}', ttl="3s")
        kms = TransitKms(before.address, mount, token)
        before.next("", "portal")
        assert kms.unwrap(key, wrapped, context()) == SECRET
        assert before.met == ["portal"]
        time.sleep(5)
        assert kms.unwrap(key, wrapped, context()) == SECRET
        kms.close()
    owner.close()


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    """An address where nothing listens is a KmsError that holds neither the token nor what was sent."""
    kms = TransitKms("http://127.0.0.1:9", "transit", "the-token", timeout=0.2)
    with pytest.raises(KmsError, match="could not be reached") as caught:
        kms.unwrap(f"transit:dsvault-{new_id()}-{new_id()[:8]}:1", b"\x01blob", {})
    assert caught.value.__cause__ is None
    assert "the-token" not in str(caught.value)
    assert kms.state("elsewhere:1") is KeyState.ABSENT


def test_a_policys_prefix_holds_every_epoch_and_nothing_else() -> None:
    """What a policy pins begins the associated data of each epoch of a group, and of no other group."""
    import base64

    scopes = [
        KeyScope(vault, compartment, group, epoch)
        for vault in ("a" * 32, "b" * 32)
        for compartment in ("c" * 32, "d" * 32)
        for group in ("manifest", "metadata", "e" * 32, "e" * 31 + "f")
        for epoch in (1, 2, 10, 999, 10**6)
    ]
    for one in scopes:
        prefix = associated_data_prefix(one.context())
        for other in scopes:
            fits = base64.b64encode(associated_data(other.context())).decode().startswith(prefix)
            assert fits == ((one.vault, one.compartment, one.group) == (other.vault, other.compartment, other.group))


def test_the_audit_file_names_every_unwrap(kms: TransitKms, bao: OpenBao, mount: str) -> None:
    """The server's own record lists each unwrap with its context."""
    import base64

    key = kms.create_key(new_id())
    kms.unwrap(key, kms.wrap(key, SECRET, context()), context())
    name = key.split(":")[1]
    entries = [json.loads(line) for line in bao.audit.read_text().splitlines()]
    found = [
        entry["request"]["data"]["associated_data"]
        for entry in entries
        if entry["type"] == "request" and entry["request"]["path"] == f"{mount}/decrypt/{name}"
    ]
    assert found == [base64.b64encode(associated_data(context())).decode()]


def test_a_namespace_comes_from_the_environment(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    """With BAO_NAMESPACE the mount is looked for in that namespace, and nowhere else."""
    name = f"lab-{new_id()[:8]}"
    assert bao.call("POST", f"sys/namespaces/{name}", {})[0] == 200
    assert bao.call("POST", f"{name}/sys/mounts/keys", {"type": "transit"})[0] in {200, 204}
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    monkeypatch.setenv("BAO_NAMESPACE", name)
    inside = open_kms(bao.uri("keys"), owner=None, broker=None, passphrase=None)
    key = inside.create_key(new_id())
    assert inside.unwrap(key, inside.wrap(key, SECRET, context()), context()) == SECRET
    monkeypatch.delenv("BAO_NAMESPACE")
    outside = open_kms(bao.uri("keys"), owner=None, broker=None, passphrase=None)
    assert outside.state(key) is KeyState.ABSENT
