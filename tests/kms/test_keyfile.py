"""Secrets at rest in files."""

import base64
import hashlib
import json
import os
import stat
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault import keyfile
from vault.errors import Conflict, IntegrityError, InvalidInput, KeyUnavailable, KmsError, VaultError

from .conformance import texts, traces

CHEAP = 2**14
KIND, ID = "authority key", "a1" * 16
SECRET = bytes(range(32))
PASSPHRASE = "correct horse"

# Made by this release with the passphrase above; it must open for ever.
GOLDEN = """{
 "dsvault_key_file": "1.0",
 "kind": "authority key",
 "id": "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
 "state": "enabled",
 "protection": "scrypt",
 "scrypt": {
  "n": 16384,
  "r": 8,
  "p": 1,
  "salt": "kewTCR/6zh8kEUQpF37W/w=="
 },
 "nonce": "oNnJc+NqHXEP0Mer",
 "material": "1oefgGRl0kfz3cKj7GcxhoMky0Ap4Fmf1ytQAH6+OFLSMDryUNNOjLzQR46um6sy"
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key file will be."""
    return tmp_path / "keys" / "authority.json"


def write(path: Path, passphrase: str | None = PASSPHRASE) -> None:
    """Write the secret to a new file."""
    keyfile.write_new(path, KIND, ID, SECRET, passphrase, n=CHEAP)


def place(path: Path, text: str | bytes) -> None:
    """Put a text where a key file is expected, with a key file's mode."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(0o600)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def edit(path: Path, **fields: Any) -> None:
    """Change some of a file's fields; None takes one out."""
    document = json.loads(path.read_text()) | fields
    place(path, json.dumps({name: value for name, value in document.items() if value is not None}))


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE, "é \U0001f512", os.fsdecode(b"\xff\xfe latin")])
@pytest.mark.parametrize("secret", [b"", b"x", SECRET, bytes(5000)])
def test_round_trip(path: Path, passphrase: str | None, secret: bytes) -> None:
    """A secret is read back as it was written, with any passphrase or none."""
    keyfile.write_new(path, KIND, ID, secret, passphrase, n=CHEAP)
    assert keyfile.read(path, KIND, passphrase, identifier=ID) == secret
    assert keyfile.load(path, KIND).header == keyfile.Header(KIND, ID, "enabled")


def test_default_cost(path: Path) -> None:
    """Unless told otherwise scrypt costs n = 65536, r = 8, p = 1."""
    keyfile.write_new(path, KIND, ID, SECRET, PASSPHRASE)
    scrypt = json.loads(path.read_text())["scrypt"]
    assert (scrypt["n"], scrypt["r"], scrypt["p"]) == (65536, 8, 1)


def test_format(path: Path) -> None:
    """A sealed file opens by what the format says alone: scrypt, the header as AAD, AES-256-GCM."""
    write(path)
    document = json.loads(path.read_text())
    salt, nonce, sealed = (
        base64.b64decode(text) for text in (document["scrypt"]["salt"], document["nonce"], document["material"])
    )
    header = {name: value for name, value in document.items() if name not in {"nonce", "material"}}
    encoded = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    aad = b"".join(struct.pack(">I", len(part)) + part for part in (b"dsvault key file", encoded))
    key = hashlib.scrypt(PASSPHRASE.encode(), salt=salt, n=CHEAP, r=8, p=1, maxmem=2**26, dklen=32)
    assert AESGCM(key).decrypt(nonce, sealed, aad) == SECRET
    assert (document["dsvault_key_file"], document["protection"], len(salt), len(nonce)) == ("1.0", "scrypt", 16, 12)


def test_golden(path: Path) -> None:
    """A file that this release has written opens for ever."""
    place(path, GOLDEN)
    assert keyfile.read(path, KIND, PASSPHRASE, identifier=ID) == SECRET


def test_later_minor(path: Path) -> None:
    """A file of a later minor version, with a field that this release does not know, is read."""
    write(path, None)
    edit(path, dsvault_key_file="1.9", more="something")
    assert keyfile.read(path, KIND, None) == SECRET


def test_modes(path: Path) -> None:
    """Whatever the umask, the file is for its owner alone, and so is the folder that was made for it."""
    before = os.umask(0)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666])
def test_open_to_others(path: Path, mode: int) -> None:
    """A file that group or others may read or change is refused with what to do about it."""
    write(path)
    path.chmod(mode)
    with pytest.raises(InvalidInput, match=r"authority\.json: .*chmod 600"):
        keyfile.read(path, KIND, PASSPHRASE)
    path.chmod(0o400)
    assert keyfile.read(path, KIND, PASSPHRASE) == SECRET


@pytest.mark.parametrize(
    ("owner", "user", "mode", "taken"),
    [
        (0, 1000, 0o440, True),
        (0, 1000, 0o640, True),
        (0, 1000, 0o460, False),
        (0, 1000, 0o444, False),
        (1000, 1000, 0o440, False),
        (0, 0, 0o440, False),
    ],
)
def test_a_mounted_secret_of_roots_may_be_read_by_a_group(
    monkeypatch: pytest.MonkeyPatch, owner: int, user: int, mode: int, taken: bool
) -> None:
    """Only where it is root's and the process is not: else nobody but its group could give it to a container."""
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    monkeypatch.setattr("os.geteuid", lambda: user)
    if taken:
        keyfile._check_mode(Path("k"), status)
    else:
        with pytest.raises(InvalidInput, match="others may read"):
            keyfile._check_mode(Path("k"), status)


def test_never_overwrites(path: Path) -> None:
    """Writing a new file where there is one is refused, and the file stays as it was."""
    write(path)
    before = path.read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        keyfile.write_new(path, KIND, ID, bytes(32), None)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]


def test_one_writer_wins(path: Path) -> None:
    """Of eight threads that write one new file at once exactly one does."""
    start = threading.Barrier(8)

    def work(number: int) -> int | None:
        start.wait()
        try:
            keyfile.write_new(path, KIND, ID, bytes([number]), None)
        except Conflict:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(work, range(8)) if number is not None]
    assert [bytes(winners)] == [keyfile.read(path, KIND, None)]


@pytest.mark.parametrize(
    ("given", "sentence"), [("wrong", "passphrase is wrong"), (None, "set DSVAULT_PASSPHRASE"), ("", "empty")]
)
def test_wrong_passphrase(path: Path, given: str | None, sentence: str) -> None:
    """A sealed file without its passphrase is the user's mistake, told in one sentence."""
    write(path)
    with pytest.raises(InvalidInput, match=sentence):
        keyfile.read(path, KIND, given)


def test_unsealed_with_a_passphrase(path: Path) -> None:
    """A file without a passphrase is refused where one is given: it may be an intruder's."""
    write(path, None)
    with pytest.raises(InvalidInput, match="DSVAULT_PASSPHRASE"):
        keyfile.read(path, KIND, PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", "\ud800"])
def test_no_such_passphrase(path: Path, passphrase: str) -> None:
    """A passphrase that protects nothing, or that is no text, writes nothing."""
    with pytest.raises(InvalidInput, match="passphrase"):
        write(path, passphrase)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "disabled"},
        {"id": "b2" * 16},
        {"dsvault_key_file": "1.1"},
        {"more": "x"},
        {"scrypt": {"n": 2 * CHEAP, "r": 8, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="}},
        {"nonce": "AAAAAAAAAAAAAAAA"},
        {"material": base64.b64encode(bytes(48)).decode()},
    ],
)
def test_header_is_authenticated(path: Path, fields: dict[str, Any]) -> None:
    """No field of a sealed file can be changed or added."""
    write(path)
    edit(path, **fields)
    with pytest.raises(InvalidInput, match="was changed"):
        keyfile.read(path, KIND, PASSPHRASE)


def test_kind_is_authenticated(path: Path) -> None:
    """A sealed file cannot be made to pass as one of another kind."""
    write(path)
    edit(path, kind="log key")
    with pytest.raises(InvalidInput, match="was changed"):
        keyfile.read(path, "log key", PASSPHRASE)


def test_every_byte(path: Path) -> None:
    """A sealed file with any one bit of any byte changed reads as the same secret or as our own error."""
    write(path)
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        place(path, good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        # White space may change without harm; any other error than ours goes through and fails the test.
        with suppress(VaultError):
            assert keyfile.read(path, KIND, PASSPHRASE) == SECRET


@pytest.mark.parametrize(
    "scrypt",
    [
        {"n": 2**13},
        {"n": 2**21},
        {"n": 2**40},
        {"n": 2**14 + 1},
        {"n": 0},
        {"n": -(2**14)},
        {"n": True},
        {"n": "16384"},
        {"n": 16384.0},
        {"r": 1 << 20},
        {"p": 1 << 20},
        {"r": None},
        {"salt": "!"},
    ],
)
def test_scrypt_bounds(path: Path, scrypt: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cannot make its reader spend more than 1 GiB: other parameters are refused before scrypt runs."""
    write(path)
    parameters = json.loads(path.read_text())["scrypt"]
    edit(path, scrypt=parameters | scrypt)
    monkeypatch.setattr(keyfile, "Scrypt", lambda *_: pytest.fail("scrypt was asked for"))
    with pytest.raises(IntegrityError):
        keyfile.read(path, KIND, PASSPHRASE)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        '{"dsvault_key_file": "1.0", "kind": "authority key", "protection": "none", "material": "AAAA"}' + " " * 70_000,
        '{"dsvault_key_file": "2.0", "kind": "authority key"}',
        '{"dsvault_key_file": "10.0", "kind": "authority key"}',
        '{"dsvault_key_file": 1.0, "kind": "authority key"}',
        '{"dsvault_key_file": "1.0", "kind": "log key"}',
        '{"dsvault_key_file": "1.0", "kind": "authority key", "material": "AAAA"}',
        '{"dsvault_key_file": "1.0", "kind": "authority key", "protection": "rot13", "material": "AAAA"}',
        '{"dsvault_key_file": "1.0", "kind": "authority key", "protection": "scrypt", "material": "AAAA"}',
        '{"dsvault_key_file": "1.0", "kind": "authority key", "protection": "none", "material": "A"}',
        '{"dsvault_key_file": "1.0", "kind": "authority key", "protection": "none", "material": 5}',
    ],
)
def test_malformed(path: Path, text: str | bytes) -> None:
    """Whatever else stands in the file is refused in one sentence that names it."""
    place(path, text)
    with pytest.raises(IntegrityError, match=r"^[^\n]*authority\.json: [^\n]*$"):
        keyfile.read(path, KIND, None)


@pytest.mark.parametrize("field", ["protection", "nonce", "material", "scrypt", "id", "state"])
def test_missing_field(path: Path, field: str) -> None:
    """A sealed file that lacks any field is refused."""
    write(path)
    edit(path, **{field: None})
    with pytest.raises(VaultError):
        keyfile.read(path, KIND, PASSPHRASE)


def test_not_a_file(path: Path) -> None:
    """A missing file, a folder and a pipe are refused, and none of them holds the process up."""
    with pytest.raises(KeyUnavailable, match="not held here"):
        keyfile.read(path, KIND, None)
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(VaultError):
        keyfile.read(path, KIND, None)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(IntegrityError):
        keyfile.read(path, KIND, None)


def test_other_identifier(path: Path) -> None:
    """A reader that knows which secret it wants is given no other."""
    write(path, None)
    with pytest.raises(IntegrityError, match="another key"):
        keyfile.read(path, KIND, None, identifier="b2" * 16)


def test_disk_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written is told in one sentence, and nothing of it is left."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(KmsError, match="cannot be written"):
            write(path, None)
    assert os.listdir(path.parent) == [".lock"]


def test_replacing(path: Path) -> None:
    """What is replaced is wiped, and nothing but the new file is left."""
    write(path, None)
    header = keyfile.Header(KIND, ID, "disabled")
    with path.open() as before, keyfile.exclusive(path.parent):
        keyfile.replace(path, header, b"another", None)
        assert set(before.read()) == {"\0"}
    assert keyfile.load(path, KIND).header == header
    assert keyfile.read(path, KIND, None) == b"another"
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]


def test_replacing_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file cannot be replaced the old one stays whole."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    write(path, None)
    monkeypatch.setattr(os, "replace", refuse)
    with keyfile.exclusive(path.parent), pytest.raises(KmsError, match="cannot be written"):
        keyfile.replace(path, keyfile.Header(KIND, ID), b"another", None)
    assert keyfile.read(path, KIND, None) == SECRET
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]


def test_leavings(path: Path) -> None:
    """What a killed writer left is wiped and removed by the next; a second name of the live file is only removed."""
    write(path, None)
    left, second = (path.parent / (".keyfile-" + digit * 32) for digit in "01")
    place(left, path.read_bytes())
    os.link(path, second)
    with left.open() as still_open:
        with keyfile.exclusive(path.parent):
            pass
        assert set(still_open.read()) == {"\0"}
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]
    assert keyfile.read(path, KIND, None) == SECRET


def test_planted_link(path: Path, tmp_path: Path) -> None:
    """A link in the place of a leftover is removed and what it points to is not touched."""
    write(path, None)
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("kept")
    (path.parent / (".keyfile-" + "0" * 32)).symlink_to(elsewhere)
    with keyfile.exclusive(path.parent):
        pass
    assert elsewhere.read_text() == "kept"
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]


@pytest.mark.parametrize(("old", "new"), [(None, "b"), ("a", "b"), ("a", None)])
def test_reseal(path: Path, old: str | None, new: str | None) -> None:
    """A file opens under the new passphrase only, keeps its state, and resealing it again changes nothing."""
    write(path, old)
    with keyfile.exclusive(path.parent):
        keyfile.replace(path, keyfile.Header(KIND, ID, "disabled"), SECRET, old, n=CHEAP)
        for _ in range(2):
            keyfile.reseal(path, old, new, n=CHEAP)
            file = keyfile.load(path, KIND)
            assert (file.open(new), file.header.state) == (SECRET, "disabled")
            with pytest.raises(InvalidInput):
                file.open(old)


def test_reseal_without_the_passphrase(path: Path) -> None:
    """A file that opens under neither passphrase is left as it is."""
    write(path, "a third")
    before = path.read_bytes()
    with keyfile.exclusive(path.parent), pytest.raises(InvalidInput):
        keyfile.reseal(path, "a", "b", n=CHEAP)
    assert path.read_bytes() == before


def test_reading_while_it_is_replaced(path: Path) -> None:
    """A reader gets one secret or the next, however often the file is replaced and the old one wiped."""
    write(path, None)
    stop = threading.Event()

    def work() -> int:
        count = 0
        while not stop.is_set():
            assert set(keyfile.read(path, KIND, None)) <= set(range(32))
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work) for _ in range(2)]
        try:
            for number in range(300):
                with keyfile.exclusive(path.parent):
                    keyfile.replace(path, keyfile.Header(KIND, ID), bytes([number % 32]) * 32, None)
        finally:
            stop.set()
        assert all(worker.result() > 0 for worker in workers)


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_nothing_in_texts(path: Path, passphrase: str | None) -> None:
    """No repr and no error holds the secret or the passphrase."""
    write(path, passphrase)
    file = keyfile.load(path, KIND)
    shown = [repr(file), str(file), repr(file.header)]
    for given in ("wrong", None):
        try:
            file.open(given)
        except VaultError as error:
            shown += texts(error)
    edit(path, protection="other")
    with pytest.raises(IntegrityError) as caught:
        keyfile.read(path, KIND, passphrase)
    shown += texts(caught.value)
    assert not any(trace in text for text in shown for trace in [*traces(SECRET), PASSPHRASE])
