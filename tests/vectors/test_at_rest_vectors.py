"""JSON, log entries, the log's chain and key files are what ``at_rest.json`` says, which nothing of dsvault computed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.primitives import hpke
from tests.vectors import make_at_rest
from tests.vectors.make_at_rest import AUDITOR, KIND, PASSPHRASE
from tests.vectors.make_keys import CHUNK, HOLDER, VAULT, canonical
from vault import keyfile
from vault.audit import ChainRow, Tail, open_entry, seal_entry, verify_chain
from vault.encoding import json_bytes
from vault.errors import IntegrityError, InvalidInput
from vault.trust import Root

FILE = Path(make_at_rest.__file__).with_name("at_rest.json")
VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())
ROOT = cast("Root", SimpleNamespace(vault=VAULT))


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


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: json.loads(vector["entry"])["kind"])
def test_entries(vector: dict[str, Any]) -> None:
    """A sealed entry opens and has its form; with another vault or secret, or any of some bits changed, it does not."""
    sealed = bytes.fromhex(vector["sealed"])
    entry = open_entry(sealed, VAULT, AUDITOR)
    assert entry.encode().decode() == vector["entry"]
    other = bytes([AUDITOR[0] ^ 8]) + AUDITOR[1:]
    wrong = [(sealed, HOLDER, AUDITOR), (sealed, VAULT, other), (sealed[:-1], VAULT, AUDITOR), (b"", VAULT, AUDITOR)]
    wrong += [(_flipped(sealed, place), VAULT, AUDITOR) for place in (0, 31, 32, len(sealed) - 16, len(sealed) - 1)]
    for data, vault, secret in wrong:
        with pytest.raises(IntegrityError):
            open_entry(data, vault, secret)


@pytest.mark.parametrize("wrong", VECTORS["refused_entries"])
def test_entries_under_another_info_are_refused(wrong: str) -> None:
    """What was sealed to the auditor under a near miss of the info does not open."""
    with pytest.raises(IntegrityError):
        open_entry(bytes.fromhex(VECTORS["refused_entries"][wrong]), VAULT, AUDITOR)


def test_entries_are_sealed_as_they_are_opened() -> None:
    """What dsvault seals opens with the implementation that made the vectors, under the info of the vectors."""
    entry = open_entry(bytes.fromhex(VECTORS["entries"][1]["sealed"]), VAULT, AUDITOR)
    public = X25519PrivateKey.from_private_bytes(AUDITOR).public_key().public_bytes_raw()
    info = canonical("dsvault log entry", VAULT)
    opened = hpke.open_(seal_entry(entry, VAULT, public), AUDITOR, info)
    assert opened.decode() == VECTORS["entries"][1]["entry"]


def _rows() -> list[ChainRow]:
    return [
        ChainRow(
            row["sequence"],
            row["time"],
            bytes.fromhex(row["previous"]),
            bytes.fromhex(entry["sealed"]),
            bytes.fromhex(row["hash"]),
        )
        for row, entry in zip(VECTORS["chain"], VECTORS["entries"], strict=True)
    ]


def _verified(rows: list[ChainRow]) -> int:
    last = _rows()[-1]
    return verify_chain(ROOT, rows, Tail(last.sequence, last.hash, last.time), [])


def test_the_chain() -> None:
    """The chain that is written down holds."""
    assert _verified(_rows()) == len(VECTORS["chain"]) == 3


@pytest.mark.parametrize("number", range(3))
def test_a_changed_chain_is_refused(number: int) -> None:
    """A bit, a time or a place changed, entries swapped or taken out: the chain does not hold."""
    rows = _rows()
    row = rows[number]
    changed = [
        replace(row, sealed=_flipped(row.sealed, 40)),
        replace(row, hash=_flipped(row.hash, 31)),
        replace(row, previous=_flipped(row.previous, 0)),
        replace(row, time=row.time.replace("Z", "")),
        replace(row, sequence=row.sequence + 1),
        replace(row, previous=row.hash, hash=row.previous),
        replace(row, sealed=rows[number - 1].sealed),
    ]
    spoiled = [[*rows[:number], each, *rows[number + 1 :]] for each in changed]
    spoiled += [[*rows[:number], *rows[number + 1 :]], [*rows[number:], *rows[:number]] if number else rows[::-1]]
    for each in spoiled:
        with pytest.raises(IntegrityError):
            _verified(each)


@pytest.mark.parametrize("numbers", [(0, 1), (2, 3), (1, 3), (1, 1), (2, 1)])
def test_a_chain_that_is_numbered_otherwise_is_refused(numbers: tuple[int, ...]) -> None:
    """Entries are numbered from 1 without a gap, even where every hash fits the number that is written."""
    rows, previous = [], bytes(32)
    for number, row in zip(numbers, _rows(), strict=False):
        found = hashlib.sha256(canonical("dsvault log link", VAULT, number, row.time, previous, row.sealed)).digest()
        rows.append(ChainRow(number, row.time, previous, row.sealed, found))
        previous = found
    with pytest.raises(IntegrityError):
        verify_chain(ROOT, rows, Tail(len(rows), previous, rows[-1].time), [])


def test_the_chain_of_another_vault_is_refused() -> None:
    """A chain holds in its own vault only."""
    last = _rows()[-1]
    with pytest.raises(IntegrityError):
        verify_chain(
            cast("Root", SimpleNamespace(vault=HOLDER)), _rows(), Tail(last.sequence, last.hash, last.time), []
        )


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
