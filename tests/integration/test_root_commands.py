"""``dsvault root``: what the how-to says works as written, and every mistake is one sentence."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import document, dsvault


def _done(*words: object, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = dsvault(*words, cwd=cwd, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _administrators(cwd: Path, count: int) -> list[str]:
    keys = []
    for number in range(count):
        made = document("root", "new-key", "administrator", "-o", f"admin{number}.json", cwd=cwd)
        keys.append(made["key"])
    return keys


def test_two_signers_from_proposal_to_rotation(tmp_path: Path) -> None:
    """Add administrators, require two, rotate with both, and see every step in the root document and the log."""
    _done("init", "lab", cwd=tmp_path)
    bob, _ = _administrators(tmp_path, 2)
    vault = ("--vault", "lab")
    add = ("--add", "administrator=admin0.json.pub", "--add", "administrator=admin1.json.pub")
    proposed = document("root", "propose", "-o", "two.json", *add, "--signers", 2, *vault, cwd=tmp_path)
    assert (proposed["version"], len(proposed["signed_by"]), proposed["signers_needed"]) == (2, 1, 1)
    assert document("root", "apply", "two.json", *vault, cwd=tmp_path)["version"] == 2
    rotated = document("root", "rotate", "publisher", "-o", "new.json", *vault, cwd=tmp_path)
    assert (len(rotated["signed_by"]), rotated["signers_needed"]) == (1, 2)
    refused = dsvault("root", "apply", "new.json", *vault, cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "1 of the 2" in refused.stderr
    # A machine without the vault: only the proposal and the key are there.
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / "new.json").rename(away / "new.json")
    (tmp_path / "admin0.json").rename(away / "admin0.json")
    assert document("root", "show", "--proposal", "new.json", cwd=away)["version"] == 3
    assert bob in document("root", "sign", "new.json", "--key", "admin0.json", cwd=away)["signatures_claimed"]
    applied = document("root", "apply", "away/new.json", *vault, cwd=tmp_path)
    assert (applied["version"], applied["changed"]) == (3, True)
    assert document("root", "apply", "away/new.json", *vault, cwd=tmp_path)["changed"] is False
    shown = document("root", "show", *vault, cwd=tmp_path)
    assert shown["version"] == 3
    assert [key["here"] for key in shown["keys"] if key["role"] == "administrator"] == [True, False, False]
    kinds = [entry["kind"] for entry in document("audit", "show", *vault, cwd=tmp_path)["entries"]]
    assert kinds.count("root document changed") == 2
    assert document("audit", "compare", *vault, cwd=tmp_path) == {"ok": True, "unrecorded": []}


def test_a_proposal_is_compared_with_the_vault_where_it_is_at_hand(tmp_path: Path) -> None:
    """Signatures are only told as holding when they were verified, and nothing in a file acts on the terminal."""
    _done("init", "lab", cwd=tmp_path)
    _administrators(tmp_path, 1)
    vault = ("--vault", "lab")
    proposed = document(
        "root", "propose", "-o", "p.json", "--add", "administrator=admin0.json.pub", *vault, cwd=tmp_path
    )
    proposal: dict[str, Any] = json.loads((tmp_path / "p.json").read_text())
    junk = {"key": "\x1b[2J" + "f" * 32, "signature": "AAAA"}
    (tmp_path / "p.json").write_text(json.dumps(proposal | {"signatures": [*proposal["signatures"], junk]}))
    alone = _done("root", "show", "--proposal", "p.json", cwd=tmp_path)
    assert "not verified without --vault" in alone
    assert "\x1b" not in alone
    shown = document("root", "show", "--proposal", "p.json", *vault, cwd=tmp_path)
    assert shown["signed_by"] == proposed["signed_by"]
    assert len(shown["added"]) == 1
    assert shown["removed"] == []
    told = _done("root", "show", "--proposal", "p.json", *vault, cwd=tmp_path)
    assert f"signatures that hold, of 1 needed: {proposed['signed_by'][0]}" in told


def test_keys_under_a_passphrase(tmp_path: Path) -> None:
    """With a passphrase every new private key is sealed, and opens under it only."""
    secret = {"DSVAULT_PASSPHRASE": "correct horse"}
    _done("init", "lab", cwd=tmp_path, environment=secret)
    told = _done("root", "rotate", "responder", "--vault", "lab", cwd=tmp_path, environment=secret)
    assert told.startswith("the new responder key is ")
    (path,) = (tmp_path / "lab" / "owner" / "keys").glob("responder*.json")
    assert json.loads(path.read_text())["protection"] == "scrypt"
    _done("root", "new-key", "auditor", "-o", "auditor.json", cwd=tmp_path, environment=secret)
    assert json.loads((tmp_path / "auditor.json").read_text())["protection"] == "scrypt"
    assert (tmp_path / "auditor.json").stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault, an administrator's and an authority's key, and proposals, for mistakes that change nothing."""
    folder = tmp_path_factory.mktemp("mistakes")
    _done("init", "lab", cwd=folder)
    _done("init", "other", cwd=folder)
    _administrators(folder, 1)
    _done("root", "new-key", "authority", "-o", "authority.json", cwd=folder)
    add = ("--add", "administrator=admin0.json.pub")
    _done("root", "propose", "-o", "others.json", *add, "--vault", "other", cwd=folder)
    proposal: dict[str, Any] = json.loads((folder / "others.json").read_text())
    (folder / "unsigned.json").write_text(json.dumps(proposal | {"signatures": []}))
    (folder / "nonsense.json").write_text("[]")
    claims = json.loads(base64.b64decode(proposal["payload"])) | {"version": 1.5}
    odd = base64.b64encode(json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()).decode()
    (folder / "odd.json").write_text(json.dumps(proposal | {"payload": odd}))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("root", "rotate", "king", "--vault", "lab"),
        ("root", "new-key", "king", "-o", "king.json"),
        ("root", "new-key", "log", "-o", "admin0.json"),
        ("root", "new-key", "log", "-o", "nowhere/log.json"),
        ("root", "propose", "-o", "p.json", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--add", "administrator", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--add", "king=admin0.json.pub", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--add", "administrator=nope.pub", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--add", "administrator=admin0.json", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--add", "administrator=authority.json.pub", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--remove", "administrator=ffffff", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--signers", "2", "--vault", "lab"),
        ("root", "propose", "-o", "p.json", "--signers", "0", "--vault", "lab"),
        ("root", "propose", "-o", "others.json", "--add", "administrator=admin0.json.pub", "--vault", "lab"),
        ("root", "propose", "-o", "no/p.json", "--add", "administrator=admin0.json.pub", "--vault", "lab"),
        ("root", "sign", "nope.json", "--key", "admin0.json"),
        ("root", "sign", "nonsense.json", "--key", "admin0.json"),
        ("root", "sign", "others.json", "--key", "authority.json"),
        ("root", "sign", "others.json", "--key", "nope.json"),
        ("root", "show", "--proposal", "nonsense.json"),
        ("root", "show", "--proposal", "odd.json"),
        ("root", "sign", "odd.json", "--key", "admin0.json"),
        ("root", "show", "--proposal", "others.json", "--vault", "lab"),
        ("root", "sign", "others.json", "--key", "admin0.json", "--vault", "lab"),
        ("root", "rotate", "authority", "--leave-out", "nobody", "--vault", "lab"),
        ("root", "apply", "others.json", "--vault", "lab"),
        ("root", "apply", "unsigned.json", "--vault", "other"),
        ("root", "apply", "nonsense.json", "--vault", "lab"),
    ],
)
def test_every_mistake_is_one_sentence(mistaken: Path, words: tuple[str, ...]) -> None:
    """Exit code 1, nothing on stdout, one sentence on stderr, and no file left behind."""
    before = sorted(path.name for path in mistaken.iterdir())
    done = dsvault(*words, cwd=mistaken)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("dsvault: ")
    assert "unexpected" not in done.stderr
    assert sorted(path.name for path in mistaken.iterdir()) == before


def test_usage_mistakes_exit_with_two(tmp_path: Path) -> None:
    """What the program cannot parse is exit code 2."""
    for words in (("root", "sign", "p.json"), ("root", "new-key", "log"), ("root", "propose", "--signers", "two")):
        assert dsvault(*words, cwd=tmp_path).returncode == 2
