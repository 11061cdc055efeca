"""What the local keystore promises beyond every backend's obligations: what its files hold and survive."""

import json
import os
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vault import keyfile
from vault.encoding import canonical, is_id, new_id
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms import KeyState, LocalKms, open_kms

from .conformance import SECRET, context, texts, traces
from .killed import CHEAP, NEW, OLD

KIND = "local KMS key"
ROOT = Path(__file__).parents[2]


def keystore(folder: Path, passphrase: str | None = None) -> LocalKms:
    """A keystore over both folders."""
    return LocalKms(folder / "owner", folder / "broker", passphrase, scrypt_n=CHEAP)


def file_of(folder: Path, key: str) -> Path:
    """The key's file."""
    return next(folder.rglob(key.removeprefix("local:") + ".json"))


def contents(folder: Path) -> str:
    """Everything in every file of a folder."""
    return "".join(path.read_text("latin-1") for path in folder.rglob("*") if path.is_file())


def edit(path: Path, **fields: object) -> None:
    """Change fields of a key file behind the keystore's back."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_modes(tmp_path: Path, passphrase: str | None) -> None:
    """Whatever the umask, key files are for their owner alone and so are their folders, after every change."""
    before = os.umask(0)
    try:
        kms = keystore(tmp_path, passphrase)
        keys = [kms.create_key(new_id()), kms.create_key(new_id(), owner=True)]
        kms.disable_key(keys[0])
        kms.destroy_key(keys[1])
    finally:
        os.umask(before)
    for key in keys:
        assert stat.S_IMODE(file_of(tmp_path, key).stat().st_mode) == 0o600
    for folder in ("owner", "broker"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


def test_places(tmp_path: Path) -> None:
    """The owner's key lies in the owner's folder and a vendor's in the broker's."""
    kms = keystore(tmp_path)
    assert file_of(tmp_path / "owner", kms.create_key(new_id(), owner=True))
    key = kms.create_key(new_id())
    assert file_of(tmp_path / "broker", key)
    assert is_id(key.removeprefix("local:"))


def test_without_the_owner_folder(tmp_path: Path) -> None:
    """A process without the owner's folder uses vendors' keys, and neither holds nor makes the owner's."""
    kms = keystore(tmp_path)
    owner, vendor = kms.create_key(new_id(), owner=True), kms.create_key(new_id())
    wrapped = kms.wrap(owner, SECRET, context())
    broker = LocalKms(None, tmp_path / "broker", None)
    assert broker.unwrap(vendor, kms.wrap(vendor, SECRET, context()), context()) == SECRET
    assert broker.state(owner) is KeyState.ABSENT
    with pytest.raises(KeyUnavailable):
        broker.unwrap(owner, wrapped, context())
    with pytest.raises(KeyUnavailable):
        broker.create_key(new_id(), owner=True)


def test_no_key_in_files_when_sealed(tmp_path: Path) -> None:
    """Under a passphrase no file holds the key's bytes; without one its file does."""
    for passphrase, expected in ((None, True), ("correct horse", False)):
        folder = tmp_path / str(passphrase)
        key = keystore(folder, passphrase).create_key(new_id())
        material = keyfile.read(file_of(folder, key), KIND, passphrase)
        assert len(material) == 32
        assert any(trace in contents(folder) for trace in traces(material)) is expected


def test_tombstone(tmp_path: Path) -> None:
    """Destroying leaves a tombstone that holds no key, and zeros where the key was."""
    kms = keystore(tmp_path)
    key = kms.create_key(new_id())
    path = file_of(tmp_path, key)
    material = keyfile.read(path, KIND, None)
    with path.open() as before:
        kms.destroy_key(key)
        left = before.read()
    document = json.loads(path.read_text())
    assert document["state"] == "destroyed"
    assert "material" not in document
    assert set(left) == {"\0"}
    assert not any(trace in contents(tmp_path) for trace in traces(material))


@pytest.mark.parametrize("damage", ["garbage", "open to others", "another key's"])
def test_destroying_what_is_damaged(tmp_path: Path, damage: str) -> None:
    """A key whose file is damaged, and whose passphrase nobody knows, can still be destroyed."""
    kms = keystore(tmp_path, "correct horse")
    key = kms.create_key(new_id())
    path = file_of(tmp_path, key)
    if damage == "garbage":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "open to others":
        path.chmod(0o644)
    else:
        edit(path, id=new_id())
    other = keystore(tmp_path, "forgotten")
    other.destroy_key(key)
    assert kms.state(key) is KeyState.DESTROYED


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_nothing_of_the_key_in_texts(tmp_path: Path, passphrase: str | None) -> None:
    """No error and no repr holds the KMS key or the passphrase."""
    kms = keystore(tmp_path, passphrase)
    key = kms.create_key(new_id())
    path = file_of(tmp_path, key)
    material = keyfile.read(path, KIND, passphrase)
    wrapped = kms.wrap(key, SECRET, context())
    shown = [repr(kms), repr(list(kms._held.values())), repr(keyfile.load(path, KIND))]
    good = path.read_text()
    for damaged in (good[:-20], good.replace(KIND, "other"), good.replace('"enabled"', '"odd"'), good[:-5] + "!"):
        path.write_text(damaged)
        with pytest.raises(KmsError) as caught:
            kms.unwrap(key, wrapped, context())
        shown += texts(caught.value)
    for trace in [*traces(material), *([passphrase] if passphrase else [])]:
        assert not any(trace in text for text in shown)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "enabled"},
        {"state": "enabled", "more": 1},
        {"id": "0" * 32},
        {"dsvault_key_file": "1.1"},
        {"kind": "authority key"},
    ],
)
def test_sealed_state_cannot_be_changed(tmp_path: Path, fields: dict[str, object]) -> None:
    """Under a passphrase who may only write a disabled key's file cannot have it used."""
    kms = keystore(tmp_path, "correct horse")
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    kms.disable_key(key)
    edit(file_of(tmp_path, key), **fields)
    with pytest.raises(KmsError):
        kms.unwrap(key, wrapped, context())
    with pytest.raises(KmsError):
        kms.enable_key(key)


def test_key_of_an_intruder(tmp_path: Path) -> None:
    """Under a passphrase a key file without one is refused: whoever put it there would know the key."""
    kms = keystore(tmp_path, "correct horse")
    key = kms.create_key(new_id())
    path = file_of(tmp_path, key)
    path.unlink()
    keyfile.write_new(path, KIND, key.removeprefix("local:"), bytes(32), None)
    with pytest.raises(KmsError, match="DSVAULT_PASSPHRASE"):
        kms.generate_data_key(key, context())


def test_reference_is_no_path(tmp_path: Path) -> None:
    """A reference with a path in it is to no key, so that destroying it cannot reach another file."""
    kms = keystore(tmp_path)
    reference = kms.create_key(new_id()).replace("local:", "local:../broker/")
    assert kms.state(reference) is KeyState.ABSENT
    with pytest.raises(KeyUnavailable):
        kms.destroy_key(reference)


def test_file_of_another_key(tmp_path: Path) -> None:
    """A key's file put in another key's place is refused."""
    kms = keystore(tmp_path)
    first, second = kms.create_key(new_id()), kms.create_key(new_id())
    file_of(tmp_path, second).write_bytes(file_of(tmp_path, first).read_bytes())
    for use in (lambda: kms.wrap(second, SECRET, context()), lambda: kms.enable_key(second)):
        with pytest.raises(KmsError, match="another key"):
            use()


@pytest.mark.parametrize("material", ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=="])
def test_short_key(tmp_path: Path, material: str) -> None:
    """A key of fewer than 256 bits is refused, though the cipher would take 128."""
    kms = keystore(tmp_path)
    key = kms.create_key(new_id())
    edit(file_of(tmp_path, key), material=material)
    with pytest.raises(KmsError, match="length"):
        kms.wrap(key, SECRET, context())


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_wrong_passphrase(tmp_path: Path, passphrase: str | None) -> None:
    """With no passphrase or a wrong one the keystore says so as a fault of the KMS, never of a vendor's request."""
    key = keystore(tmp_path, "correct horse").create_key(new_id())
    with pytest.raises(KmsError, match="passphrase"):
        keystore(tmp_path, passphrase).wrap(key, SECRET, context())


def test_open_to_others(tmp_path: Path) -> None:
    """A key file that others may read is refused at once, even by a keystore that holds the key."""
    kms = keystore(tmp_path)
    key = kms.create_key(new_id())
    kms.wrap(key, SECRET, context())
    file_of(tmp_path, key).chmod(0o640)
    with pytest.raises(KmsError, match="chmod 600"):
        kms.wrap(key, SECRET, context())


def test_scrypt_is_paid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is held is used without the passphrase being stretched again, by however many calls."""
    kms = keystore(tmp_path, "correct horse")
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    monkeypatch.setattr(keyfile, "Scrypt", lambda *_: pytest.fail("scrypt was asked for"))
    assert all(kms.unwrap(key, wrapped, context()) == SECRET for _ in range(10))


def test_context_that_is_no_text(tmp_path: Path) -> None:
    """A context with half a character in it is refused in a sentence."""
    kms = keystore(tmp_path)
    with pytest.raises(KmsError, match="context"):
        kms.wrap(kms.create_key(new_id()), SECRET, {"k": "\ud800"})


def test_empty_passphrase(tmp_path: Path) -> None:
    """An empty passphrase is refused, at first and when it is changed."""
    with pytest.raises(InvalidInput, match="empty"):
        keystore(tmp_path, "")
    with pytest.raises(InvalidInput, match="empty"):
        keystore(tmp_path).change_passphrase("")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A keystore whose folder cannot be made says so in a sentence."""
    (tmp_path / "broker").write_text("a file")
    with pytest.raises(KmsError, match="cannot be written"):
        keystore(tmp_path).create_key(new_id())


def test_blob_that_stays_readable(tmp_path: Path) -> None:
    """A blob and a key file written by the first release open for ever."""
    identifier = "000102030405060708090a0b0c0d0e0f"
    path = tmp_path / "broker" / f"{identifier}.json"
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text(
        '{"dsvault_key_file": "1.0", "kind": "local KMS key", "id": "000102030405060708090a0b0c0d0e0f",'
        ' "state": "enabled", "protection": "none", "material": "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="}'
    )
    wrapped = bytes.fromhex(GOLDEN_BLOB)
    assert keystore(tmp_path).unwrap(f"local:{identifier}", wrapped, {"b": "2", "a": "é"}) == SECRET


# AES-256-GCM of SECRET under 20 21 ... 3f with nonce 40 41 ... 4b, made with cryptography's AESGCM by hand.
GOLDEN_BLOB = (
    "01404142434445464748494a4ba631dbe6381faf603e5f3e47f53b230167fbeb"
    "f48d39dda51283ea7fe06b4d81c8217c2648369da953a53754cda7322e"
)


def test_aad_of_a_blob(tmp_path: Path) -> None:
    """The AAD is the label, the key's id and the pairs in order, each with its length."""
    assert canonical("dsvault local kms", "k", "a", "b") == (
        b"\0\0\0\x11dsvault local kms\0\0\0\x01k\0\0\0\x01a\0\0\0\x01b"
    )


class TestChangeOfPassphrase:
    """Sealing every key file under another passphrase."""

    @pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (None, NEW), (OLD, None)])
    def test_all_files(self, tmp_path: Path, old: str | None, new: str | None) -> None:
        """Afterwards every key opens under the new passphrase and none under the old; states stay."""
        kms = keystore(tmp_path, old)
        keys = [kms.create_key(new_id(), owner=number == 0) for number in range(4)]
        wrapped = {key: kms.wrap(key, SECRET, context()) for key in keys}
        kms.disable_key(keys[2])
        kms.destroy_key(keys[3])
        kms.change_passphrase(new)
        for client in (kms, keystore(tmp_path, new)):
            states = [client.state(key) for key in keys]
            assert states == ["enabled", "enabled", "disabled", "destroyed"]
            client.enable_key(keys[2])
            assert [client.unwrap(key, wrapped[key], context()) for key in keys[:3]] == [SECRET] * 3
            client.disable_key(keys[2])
        for key in keys[:2]:
            with pytest.raises(KmsError):
                keystore(tmp_path, old).unwrap(key, wrapped[key], context())

    def test_the_unsealed_key_is_wiped(self, tmp_path: Path) -> None:
        """When a passphrase is first given, the file that had none is overwritten."""
        kms = keystore(tmp_path)
        path = file_of(tmp_path, kms.create_key(new_id()))
        with path.open() as before:
            kms.change_passphrase(NEW)
            assert set(before.read()) == {"\0"}

    def test_both_open_meanwhile(self, tmp_path: Path) -> None:
        """Where the change stops at a file under a third passphrase, the same keystore opens old and new alike."""
        kms = keystore(tmp_path, OLD)
        keys = sorted(kms.create_key(new_id()) for _ in range(3))
        wrapped = {key: kms.wrap(key, SECRET, context()) for key in keys}
        middle = file_of(tmp_path, keys[1])
        good = middle.read_bytes()
        middle.unlink()
        keyfile.write_new(middle, KIND, keys[1].removeprefix("local:"), bytes(32), "a third", n=CHEAP)
        with pytest.raises(InvalidInput, match="passphrase is wrong"):
            kms.change_passphrase(NEW)
        assert [kms.unwrap(key, wrapped[key], context()) for key in (keys[0], keys[2])] == [SECRET] * 2
        middle.write_bytes(good)
        kms.change_passphrase(NEW)
        fresh = keystore(tmp_path, NEW)
        assert [fresh.unwrap(key, wrapped[key], context()) for key in keys] == [SECRET] * 3


class TestKilled:
    """Death before every single system call of a change."""

    def run(self, tmp_path: Path, what: str) -> tuple[str, bytes, bytes, list[Path]]:
        """The key, its blob, its material, and the copies in the order of their deaths."""
        base, work = tmp_path / "base", tmp_path / "work"
        work.mkdir()
        kms = keystore(base, OLD)
        key = kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        if what == "enable_key":
            kms.disable_key(key)
        material = file_of(base, key).read_bytes()
        command = [sys.executable, "-m", "tests.kms.killed", str(base), str(work), what, key]
        subprocess.run(command, check=True, cwd=ROOT, timeout=120)
        copies = sorted(work.iterdir(), key=lambda path: int(path.name))
        assert len(copies) >= 10
        return key, wrapped, material, copies

    @pytest.mark.parametrize(
        ("what", "before", "after"),
        [("disable_key", "enabled", "disabled"), ("enable_key", "disabled", "enabled")],
    )
    def test_changing_state(self, tmp_path: Path, what: str, before: str, after: str) -> None:
        """A key whose change of state was cut short has the old state or the new one, and still opens."""
        key, wrapped, _, copies = self.run(tmp_path, what)
        states = [keystore(copy, OLD).state(key) for copy in copies]
        assert states == sorted(states, key=[before, after].index)
        assert {states[0], states[-1]} == {before, after}
        for copy in copies:
            kms = keystore(copy, OLD)
            kms.enable_key(key)
            assert kms.unwrap(key, wrapped, context()) == SECRET

    def test_destroying(self, tmp_path: Path) -> None:
        """A key that was being destroyed is whole or destroyed; destroying it again leaves nothing of it."""
        key, wrapped, material, copies = self.run(tmp_path, "destroy_key")
        sealed = json.loads(material)["material"]
        for copy in copies:
            kms = keystore(copy, OLD)
            if kms.state(key) is KeyState.ENABLED:
                assert kms.unwrap(key, wrapped, context()) == SECRET
                assert sealed in contents(copy)
            else:
                assert kms.state(key) is KeyState.DESTROYED
            kms.destroy_key(key)
            assert sealed not in contents(copy)
            assert sorted(path.name for path in (copy / "broker").iterdir()) == [".lock", f"{key[6:]}.json"]

    def test_creating(self, tmp_path: Path) -> None:
        """What is left of a key that was being made is a whole key or nothing that the next change does not remove."""
        key, wrapped, _, copies = self.run(tmp_path, "create")
        for copy in copies:
            kms = keystore(copy, OLD)
            kms.disable_key(key)
            kms.enable_key(key)
            assert kms.unwrap(key, wrapped, context()) == SECRET
            names = sorted(path.name for path in (copy / "broker").iterdir())
            assert names[0] == ".lock"
            for name in names[1:]:
                kms.wrap("local:" + name.removesuffix(".json"), SECRET, context())

    def test_changing_the_passphrase(self, tmp_path: Path) -> None:
        """A change of passphrase that was cut short is finished by the same call again."""
        key, wrapped, _, copies = self.run(tmp_path, "change_passphrase")
        for copy in copies:
            keystore(copy, OLD).change_passphrase(NEW)
            assert keystore(copy, NEW).unwrap(key, wrapped, context()) == SECRET
            assert sorted(path.name for path in (copy / "broker").iterdir()) == [".lock", f"{key[6:]}.json"]


def test_two_processes(tmp_path: Path) -> None:
    """While two processes disable and enable one key, a third reads its plaintext or KeyUnavailable and no fault."""
    kms = keystore(tmp_path)
    key = kms.create_key(new_id())
    wrapped = kms.wrap(key, SECRET, context())
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from vault.kms import LocalKms
        kms = LocalKms(None, Path(sys.argv[1]), None)
        for _ in range(60):
            kms.disable_key(sys.argv[2])
            kms.enable_key(sys.argv[2])
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path / "broker"), key]
    others = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while any(other.poll() is None for other in others) and time.monotonic() < deadline:
        try:
            assert kms.unwrap(key, wrapped, context()) == SECRET
            seen.add("plaintext")
        except KeyUnavailable:
            seen.add("refusal")
    for other in others:
        assert (other.communicate(timeout=10)[1], other.returncode) == ("", 0)
    assert seen == {"plaintext", "refusal"}
    assert kms.unwrap(key, wrapped, context()) == SECRET
    assert sorted(path.suffix for path in (tmp_path / "broker").iterdir()) == ["", ".json"]


class TestUri:
    """Opening a keystore by its URI."""

    def test_inside_the_vault(self, tmp_path: Path) -> None:
        """`local:` keeps keys in `kms/` of the owner's and the broker's folder."""
        kms = open_kms("local:", owner=tmp_path / "o", broker=tmp_path / "b", passphrase=None)
        assert file_of(tmp_path / "o" / "kms", kms.create_key(new_id(), owner=True))
        assert file_of(tmp_path / "b" / "kms", kms.create_key(new_id()))

    def test_elsewhere(self, tmp_path: Path) -> None:
        """`local:///path` keeps them below the path, which may hold any character, and only those it is given."""
        uri = (tmp_path / "a b é").as_uri().replace("file:", "local:")
        kms = open_kms(uri, owner=tmp_path, broker=tmp_path, passphrase=None)
        owner, vendor = kms.create_key(new_id(), owner=True), kms.create_key(new_id())
        assert file_of(tmp_path / "a b é" / "owner", owner)
        assert file_of(tmp_path / "a b é" / "broker", vendor)
        broker = open_kms(uri, owner=None, broker=tmp_path, passphrase=None)
        assert (broker.state(owner), broker.state(vendor)) == (KeyState.ABSENT, KeyState.ENABLED)

    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "file:///x",
            "awskm://x",
            "local",
            "local:x",
            "local:x/y",
            "local://host/x",
            "local:///x?a=b",
            "local:#x",
            "local:///%00",
            "local:///%ff",
            "local://[",
            "C:\\keys",
        ],
    )
    def test_refused(self, tmp_path: Path, uri: str) -> None:
        """Anything else is refused in a sentence that names the schemes there are, and nothing is made."""
        with pytest.raises(InvalidInput, match=r"--kms: .*local: .* local:///path"):
            open_kms(uri, owner=tmp_path / "o", broker=tmp_path / "b", passphrase=None)
        assert not list(tmp_path.iterdir())
