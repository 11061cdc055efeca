"""JSON, log entries, the log's tree and key files are what ``at_rest.json`` says, which nothing of dsvault computed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.primitives import hpke
from tests.vectors import make_at_rest
from tests.vectors.make_at_rest import AUDITOR, KIND, PASSPHRASE
from tests.vectors.make_keys import CHUNK, HOLDER, VAULT, canonical, hkdf
from vault import keyfile
from vault.audit import (
    Checkpoint,
    Edge,
    Entry,
    Leaf,
    Opener,
    Sealer,
    Tail,
    append,
    open_with_key,
    read_checkpoint,
    sign_checkpoint,
    verify_log,
)
from vault.encoding import from_timestamp, json_bytes
from vault.errors import IntegrityError, InvalidInput
from vault.trust import Role, RoleKeys, Root, Signer

FILE = Path(make_at_rest.__file__).with_name("at_rest.json")
VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())


def _root(vault: str = VAULT, public: bytes = bytes.fromhex(VECTORS["log_public"])) -> Root:
    """A root document as far as the log needs one."""
    return cast("Root", SimpleNamespace(vault=vault, roles={Role.LOG: RoleKeys({"key": public}, 1)}))


ROOT = _root()


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_the_generator_gives_the_file() -> None:
    """The committed file is what its generator writes, byte for byte."""
    assert make_at_rest.document() == FILE.read_bytes()


@pytest.mark.parametrize("vector", VECTORS["json"], ids=lambda vector: str(VECTORS["json"].index(vector)))
def test_json(vector: dict[str, Any]) -> None:
    """A value has the one form that is written down."""
    assert json_bytes(vector["value"]).hex() == vector["hex"]


@pytest.mark.parametrize("value", [0.0, float("nan"), {"a": [1, {"b": 0.5}]}, [(1.0,)]])
def test_json_without_one_form_is_refused(value: object) -> None:
    """A float is refused, however deep it lies."""
    with pytest.raises(TypeError):
        json_bytes(value)


def _open(sealed: bytes, vault: str = VAULT, secret: bytes = AUDITOR) -> Entry:
    return Opener(vault, [secret]).open(sealed)


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: json.loads(vector["entry"])["kind"])
def test_entries(vector: dict[str, Any]) -> None:
    """A sealed entry opens and has its form; with another vault or secret, or any of some bits changed, it does not."""
    sealed = bytes.fromhex(vector["sealed"])
    assert _open(sealed).encode().decode() == vector["entry"]
    other = bytes([AUDITOR[0] ^ 8]) + AUDITOR[1:]
    wrong = [(sealed, HOLDER, AUDITOR), (sealed, VAULT, other), (sealed[:-1], VAULT, AUDITOR), (b"", VAULT, AUDITOR)]
    places = (0, 1, 33, 80, 81, 82, 113, 114, 125, 126, len(sealed) - 16, len(sealed) - 1)
    wrong += [(_flipped(sealed, place), VAULT, AUDITOR) for place in places]
    for data, vault, secret in wrong:
        with pytest.raises(IntegrityError):
            _open(data, vault, secret)


@pytest.mark.parametrize("number", range(3))
def test_an_entrys_own_key_opens_that_entry_alone(number: int) -> None:
    """The key that an auditor may give away is the one that is written down, and opens no other entry."""
    vector = VECTORS["entries"][number]
    key = bytes.fromhex(vector["key"])
    assert Opener(VAULT, [AUDITOR]).entry_key(bytes.fromhex(vector["sealed"])) == key
    for other in VECTORS["entries"]:
        sealed = bytes.fromhex(other["sealed"])
        if other is vector:
            assert open_with_key(sealed, VAULT, key).encode().decode() == vector["entry"]
        else:
            with pytest.raises(IntegrityError):
                open_with_key(sealed, VAULT, key)


@pytest.mark.parametrize("wrong", VECTORS["refused_entries"])
def test_entries_that_are_made_otherwise_are_refused(wrong: str) -> None:
    """What was sealed to the auditor under a near miss of what is specified does not open."""
    with pytest.raises(IntegrityError):
        _open(bytes.fromhex(VECTORS["refused_entries"][wrong]))


def test_entries_are_sealed_as_they_are_opened() -> None:
    """What dsvault seals opens with the implementation that made the vectors, each entry under a key of its own."""
    entry = _open(bytes.fromhex(VECTORS["entries"][1]["sealed"]))
    sealer = Sealer(VAULT, X25519PrivateKey.from_private_bytes(AUDITOR).public_key().public_bytes_raw())
    for number in range(3):
        sealed = sealer.seal(entry)
        secret = hpke.open_(sealed[1:81], AUDITOR, canonical("dsvault log session", VAULT))
        key = hkdf(secret, canonical("dsvault log entry keys", VAULT), 255 * 32)[32 * number : 32 * (number + 1)]
        header = sealed[:114]
        assert header[81] == number
        assert header[82:] == hashlib.sha256(canonical("dsvault log entry key", key)).digest()
        bound = canonical("dsvault log entry", VAULT, header)
        assert AESGCM(key).decrypt(sealed[114:126], sealed[126:], bound).decode() == VECTORS["entries"][1]["entry"]


def _leaves() -> list[Leaf]:
    return [
        Leaf(
            row["sequence"],
            row["time"],
            bytes.fromhex(entry["sealed"]),
            bytes.fromhex(row["hash"]),
        )
        for row, entry in zip(VECTORS["log"], VECTORS["entries"], strict=True)
    ]


def _tail(leaves: list[Leaf]) -> Tail:
    edge = Edge().extend(leaf.hash for leaf in leaves)
    return Tail(Checkpoint(edge.size, edge.root, leaves[-1].time if leaves else ""), edge)


def _verified(leaves: list[Leaf]) -> int:
    return verify_log(leaves, _tail(_leaves()), [])


def test_the_log() -> None:
    """The log that is written down holds, and appending its entries makes it."""
    assert _verified(_leaves()) == len(VECTORS["log"]) == 3
    tail = Tail()
    for leaf in _leaves():
        (made,), tail = append(tail, [(from_timestamp(leaf.time), leaf.sealed)])
        assert made == leaf


@pytest.mark.parametrize("number", range(3))
def test_checkpoints(number: int) -> None:
    """A checkpoint reads as what is written down; with another key, vault or any changed letter it is refused."""
    row = VECTORS["log"][number]
    note = row["checkpoint"].encode()
    checkpoint = Checkpoint(row["sequence"], bytes.fromhex(row["root"]), row["time"])
    assert read_checkpoint(ROOT, note) == checkpoint
    assert sign_checkpoint(VAULT, checkpoint, Signer(make_at_rest.LOG)) == note
    for place in range(len(note)):
        with pytest.raises(IntegrityError):
            read_checkpoint(ROOT, _flipped(note, place))
    for root in (_root(vault=HOLDER), _root(public=bytes(32))):
        with pytest.raises(IntegrityError):
            read_checkpoint(root, note)


def test_a_checkpoint_of_another_log_under_a_line_of_this_one_is_refused() -> None:
    """The text says whose log it is about, whatever name stands beside the signature."""
    text = Checkpoint(1, bytes(32), make_at_rest.TIMES[0]).text(HOLDER)
    mixed = make_at_rest.note(text, name=f"dsvault/{VAULT}").encode()
    with pytest.raises(IntegrityError, match="another vault"):
        read_checkpoint(ROOT, mixed)


@pytest.mark.parametrize("text", ["", "dsvault/x", "other/x\n", canonical("dsvault signed").decode() + "\n"])
def test_the_log_key_signs_nothing_but_notes(text: str) -> None:
    """A text that does not begin as a note does, and so might be another statement, is not signed."""
    with pytest.raises(IntegrityError):
        Signer(make_at_rest.LOG).sign_note(text)


def test_a_clock_that_runs_back_does_not_take_the_log_with_it() -> None:
    """An entry of an earlier moment than the one before it gets that one's time."""
    first, second = (from_timestamp(time) for time in (make_at_rest.TIMES[2], make_at_rest.TIMES[0]))
    leaves, tail = append(Tail(), [(first, b"a"), (second, b"b")])
    (third,), _ = append(tail, [(second, b"c")])
    assert {leaf.time for leaf in (*leaves, third)} == {make_at_rest.TIMES[2]}


@pytest.mark.parametrize("number", range(3))
def test_a_changed_log_is_refused(number: int) -> None:
    """A bit, a time or a place changed, entries swapped or taken out: the log does not hold."""
    leaves = _leaves()
    leaf = leaves[number]
    changed = [
        replace(leaf, sealed=_flipped(leaf.sealed, 40)),
        replace(leaf, hash=_flipped(leaf.hash, 31)),
        replace(leaf, time=leaf.time.replace("Z", "")),
        replace(leaf, sequence=leaf.sequence + 1),
        replace(leaf, sealed=leaves[number - 1].sealed),
    ]
    spoiled = [[*leaves[:number], each, *leaves[number + 1 :]] for each in changed]
    spoiled += [
        [*leaves[:number], *leaves[number + 1 :]],
        [*leaves[number:], *leaves[:number]] if number else leaves[::-1],
    ]
    for each in spoiled:
        with pytest.raises(IntegrityError):
            _verified(each)


@pytest.mark.parametrize("numbers", [(0, 1), (2, 3), (1, 3), (1, 1), (2, 1)])
def test_a_log_that_is_numbered_otherwise_is_refused(numbers: tuple[int, ...]) -> None:
    """Entries are numbered from 1 without a gap, even where every hash fits the number that is written."""
    leaves = []
    for number, leaf in zip(numbers, _leaves(), strict=False):
        found = hashlib.sha256(b"\0" + canonical("dsvault log leaf", number, leaf.time, leaf.sealed)).digest()
        leaves.append(Leaf(number, leaf.time, leaf.sealed, found))
    with pytest.raises(IntegrityError):
        verify_log(leaves, _tail(leaves), [])


@pytest.mark.parametrize("change", [{"time": b"1"}, {"time": "\ud800"}, {"sealed": "text"}, {"sealed": 7}, {"time": 5}])
def test_what_a_catalog_has_of_another_type_is_named(change: dict[str, Any]) -> None:
    """SQLite lets whoever writes there put anything into a column: the entry was changed, and verifying says so."""
    leaves = list(_leaves())
    leaves[1] = replace(leaves[1], **change)
    with pytest.raises(IntegrityError, match="log entry 2 was changed"):
        verify_log(leaves, _tail(list(_leaves())), [])


def test_the_time_of_a_log_does_not_run_back() -> None:
    """An entry of an earlier time than the one before it is refused, even where every hash fits."""
    leaves = []
    for number, (leaf, time) in enumerate(zip(_leaves(), reversed(make_at_rest.TIMES), strict=True), 1):
        found = hashlib.sha256(b"\0" + canonical("dsvault log leaf", number, time, leaf.sealed)).digest()
        leaves.append(Leaf(number, time, leaf.sealed, found))
    with pytest.raises(IntegrityError, match="from before"):
        verify_log(leaves, _tail(leaves), [])


def _written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("vector", VECTORS["key_files"], ids=lambda vector: vector["document"]["protection"])
def test_key_files(vector: dict[str, Any], tmp_path: Path) -> None:
    """A key file that another program wrote opens; as the file of another kind or key it does not."""
    path = _written(tmp_path / "key.json", vector["document"])
    secret = keyfile.read(path, KIND, vector["passphrase"], identifier=CHUNK)
    assert secret.hex() == VECTORS["key_file_secret"]
    for kind, identifier in (("signing key", CHUNK), (KIND, HOLDER)):
        with pytest.raises(IntegrityError):
            keyfile.read(path, kind, vector["passphrase"], identifier=identifier)


@pytest.mark.parametrize("wrong", ["kind", "id", "state", "more", "n", "salt", "nonce", "material", "protection"])
def test_a_changed_key_file_is_refused(wrong: str, tmp_path: Path) -> None:
    """Nothing of a sealed key file can be changed: its header is authenticated with the secret."""
    document = json.loads(json.dumps(VECTORS["key_files"][1]["document"]))
    others = {"kind": "signing key", "id": HOLDER, "state": "disabled", "protection": "none", "more": 1}
    if wrong in others:
        document[wrong] = others[wrong]
    elif wrong == "n":
        document["scrypt"]["n"] *= 2
    else:
        place = document["scrypt"] if wrong == "salt" else document
        place[wrong] = ("B" if place[wrong][0] == "A" else "A") + place[wrong][1:]
    with pytest.raises(InvalidInput):
        keyfile.load(_written(tmp_path / "key.json", document)).open(PASSPHRASE)


@pytest.mark.parametrize("passphrase", [None, "", PASSPHRASE + " ", PASSPHRASE.upper()])
def test_another_passphrase_is_refused(passphrase: str | None, tmp_path: Path) -> None:
    """A sealed key file opens with its own passphrase only."""
    path = _written(tmp_path / "key.json", VECTORS["key_files"][1]["document"])
    with pytest.raises(InvalidInput):
        keyfile.load(path).open(passphrase)
