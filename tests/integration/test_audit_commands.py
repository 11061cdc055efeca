"""``dsvault audit verify``, ``checkpoint``, ``prove`` and ``check-proof``: what the how-to says, and every mistake."""

import json
from pathlib import Path

import pytest

from tests.support.program import document, dsvault
from vault.audit import read_checkpoint
from vault.owner import open as open_vault


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A directory with a vault in it that has a witness."""
    assert dsvault("init", "lab", "--witness", str(tmp_path / "witness"), cwd=tmp_path).returncode == 0
    assert dsvault("vendor", "add", "acme", "--vault", "lab", cwd=tmp_path).returncode == 0
    return tmp_path


def test_a_kept_checkpoint_and_proofs_from_the_how_to(lab: Path) -> None:
    """A checkpoint is kept and agreed with later; both proofs are checked where there is no vault."""
    fingerprint = document("root", "show", "--vault", "lab", cwd=lab)["fingerprint"]
    written = document("audit", "checkpoint", "-o", "monday.txt", "--vault", "lab", cwd=lab)
    assert written["checkpoint"].encode() == (lab / "monday.txt").read_bytes()
    root = open_vault(lab / "lab").parts.root.current
    assert read_checkpoint(root, (lab / "monday.txt").read_bytes()).size > 0
    assert dsvault("vendor", "freeze", "acme", "--vault", "lab", cwd=lab).returncode == 0
    verified = document("audit", "verify", "--checkpoint", "monday.txt", "--vault", "lab", cwd=lab)
    assert verified["ok"] is True
    document("audit", "prove", 2, "-o", "entry.json", "--vault", "lab", cwd=lab)
    document("audit", "prove", "--since", "monday.txt", "-o", "grown.json", "--vault", "lab", cwd=lab)
    away = lab / "away"
    away.mkdir()
    entry = document("audit", "check-proof", "../entry.json", "--root", fingerprint, cwd=away)
    assert (entry["ok"], entry["sequence"], entry["size"]) == (True, 2, verified["entries"])
    grown = document("audit", "check-proof", "../grown.json", "--root", fingerprint, cwd=away)
    assert grown["ok"]
    assert grown["old"] < grown["size"]
    said = dsvault("audit", "check-proof", "../entry.json", "--root", fingerprint, cwd=away).stdout
    assert said.startswith("entry 2 is in the log of ")


def test_verifying_takes_another_place_of_the_witness(lab: Path) -> None:
    """A copy of the witness agrees; an empty place does not pass for one."""
    assert document("audit", "verify", "--witness", lab / "witness", "--vault", "lab", cwd=lab)["ok"] is True
    refused = dsvault("audit", "verify", "--witness", lab / "nothing", "--vault", "lab", cwd=lab)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "holds no checkpoint" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("audit", "verify", "--checkpoint", "nothing.txt"), "--checkpoint: nothing.txt cannot be read"),
        (("audit", "verify", "--checkpoint", "other.txt"), "not a signed note"),
        (("audit", "prove"), "name an entry by its number, or give --since FILE"),
        (("audit", "prove", 1, "--since", "other.txt"), "name an entry by its number, or give --since FILE"),
        (("audit", "prove", 9999), "no entry 9999"),
        (("audit", "prove", "--since", "other.txt"), "not a signed note"),
        (("audit", "checkpoint", "-o", "other.txt"), "other.txt: the file exists already"),
        (("init", "second", "--witness-required"), "--witness-required: there is no --witness"),
        (("init", "second", "--witness", "nope://x"), "--witness: the URL cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(lab: Path, words: tuple[object, ...], said: str) -> None:
    """A mistake is told in one sentence that names the option or file, and nothing is written."""
    (lab / "other.txt").write_text("nothing\n")
    place = () if words[0] == "init" else ("--vault", "lab")
    refused = dsvault(*words, *place, cwd=lab)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert said in refused.stderr
    assert (lab / "other.txt").read_text() == "nothing\n"


def test_a_spoiled_proof_is_one_sentence(lab: Path) -> None:
    """An altered proof, a file that is none, and another vault's fingerprint are refused without a traceback."""
    fingerprint = document("root", "show", "--vault", "lab", cwd=lab)["fingerprint"]
    document("audit", "prove", 1, "-o", "entry.json", "--vault", "lab", cwd=lab)
    proof = json.loads((lab / "entry.json").read_bytes())
    (lab / "altered.json").write_text(json.dumps(proof | {"entry": proof["entry"] | {"sequence": 2}}))
    (lab / "none.json").write_text("3")
    for name, pin in (("altered.json", fingerprint), ("none.json", fingerprint), ("entry.json", "0" * 64)):
        refused = dsvault("audit", "check-proof", name, "--root", pin, cwd=lab)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
